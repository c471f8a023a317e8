// Node's `ws`, its client and its server: see wire.py for what it is told and what it reports.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const net = require("node:net");
const { WebSocket, WebSocketServer } = require("ws");

const HOST = "127.0.0.1";

function fromWire(message) {
  return message.text ?? Buffer.from(message.binary, "base64");
}

function toWire(data, isBinary) {
  return isBinary ? { binary: data.toString("base64") } : { text: data.toString() };
}

class Session {
  constructor(socket) {
    this.socket = socket;
    this.ending = [() => socket.destroy()];
    socket.on("error", () => {});
    socket.on("close", () => this.ending.forEach((end) => end()));
    let pending = "";
    socket.setEncoding("utf8").on("data", (chunk) => {
      const lines = (pending + chunk).split("\n");
      pending = lines.pop();
      lines.forEach((line) => this.perform(JSON.parse(line)));
    });
  }

  report(event) {
    if (this.socket.writable) this.socket.write(JSON.stringify(event) + "\n");
  }

  perform(command) {
    try {
      this[command.do](command);
    } catch (error) {
      this.report({ event: "error", trace: error.stack });
    }
  }

  adopt(ws, headers) {
    this.ws = ws;
    this.ending.push(() => ws.terminate());
    const subprotocol = ws.protocol || null;
    ws.on("message", (data, isBinary) =>
      this.report({ event: "message", message: toWire(data, isBinary) }),
    );
    ws.on("pong", (data) => this.report({ event: "pong", payload: data.toString("base64") }));
    ws.on("close", (code, reason) =>
      this.report({ event: "closed", code, reason: reason.toString() }),
    );
    // A message that is too big is an error here; our side sees the Close that says so.
    ws.on("error", () => {});
    this.report({ event: "open", subprotocol, headers });
  }

  listen({ opening }) {
    const { certificate, refusal, subprotocols, headers, max_size, compression } = opening;
    const pem = certificate && fs.readFileSync(certificate);
    const server = pem ? https.createServer({ key: pem, cert: pem }) : http.createServer();
    const webSockets = new WebSocketServer({
      server,
      ...(max_size && { maxPayload: max_size }),
      ...(compression && { perMessageDeflate: { threshold: 0 } }),
      handleProtocols: (offered) => subprotocols.find((name) => offered.has(name)) ?? false,
      verifyClient: (info, done) =>
        refusal ? done(false, refusal.status, refusal.body) : done(true),
    });
    webSockets.on("headers", (lines) => {
      for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
    });
    webSockets.on("connection", (ws, request) => this.adopt(ws, request.headers));
    this.ending.push(() => server.close());
    server.listen(0, HOST, () => this.report({ event: "listening", port: server.address().port }));
  }

  connect({ url, opening }) {
    const { authority, subprotocols, headers, max_size, compression } = opening;
    const ws = new WebSocket(url, subprotocols, {
      headers,
      ...(authority && { ca: fs.readFileSync(authority) }),
      ...(max_size && { maxPayload: max_size }),
      ...(compression && { perMessageDeflate: { threshold: 0 } }),
    });
    let answer;
    ws.on("upgrade", (response) => (answer = response));
    ws.on("open", () => this.adopt(ws, answer.headers));
    ws.on("error", (error) => answer || this.report({ event: "error", trace: error.stack }));
    ws.on("unexpected-response", (request, response) => {
      let body = "";
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () =>
        this.report({ event: "refused", status: response.statusCode, body }),
      );
    });
  }

  send({ messages }) {
    this.ws.send(fromWire(messages[0]));
  }

  fragments({ messages }) {
    const binary = messages[0].text === undefined;
    messages.forEach((message, index) =>
      this.ws.send(fromWire(message), { binary, fin: index === messages.length - 1 }),
    );
  }

  ping({ payload }) {
    this.ws.ping(Buffer.from(payload, "base64"));
  }

  close({ code, reason }) {
    this.ws.close(code ?? undefined, reason);
  }

  sync() {
    this.report({ event: "synced" });
  }
}

// The process ends when the tests' process closes its standard input, or dies.
process.stdin.resume().on("end", () => process.exit());

const control = net.createServer((socket) => new Session(socket));
control.listen(0, HOST, () => {
  const { version } = require("ws/package.json");
  const hello = { port: control.address().port, version: `ws ${version}, Node ${process.version}` };
  process.stdout.write(JSON.stringify(hello) + "\n");
});
