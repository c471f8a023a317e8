"""What the Python peers have in common, whatever their event loop is."""

from __future__ import annotations

import os
import ssl
import sys
import threading
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Protocol

from interop.wire import Command, Event, Opening, from_wire, line, to_wire

LINE_LIMIT = 64 * 1024 * 1024


class Connection(Protocol):
    """An open WebSocket of the other library."""

    async def send(self, message: str | bytes) -> None:
        """Send one message in one frame."""

    async def send_fragments(self, parts: list[str | bytes]) -> None:
        """Send one message, each part in a frame."""

    async def ping(self, payload: bytes) -> None:
        """Send a ping; its pong is reported by :meth:`Session.pong`."""

    async def close(self, code: int | None, reason: str) -> None:
        """Start the closing handshake; None: with an empty Close."""


class Peer(Protocol):
    """Another library."""

    version: str

    async def listen(self, opening: Opening, session: Session) -> None:
        """Serve, until cancelled."""

    async def connect(self, url: str, opening: Opening, session: Session) -> None:
        """Connect, and report until the connection is closed."""


class Session:
    """The conversation with one test: what the peer has to report, and what it is told to do."""

    def __init__(self, peer: Peer, write: Callable[[bytes], object]) -> None:
        self._peer = peer
        self._write = write
        self._connection: Connection | None = None
        self._closed = False

    async def start(self, command: Command) -> None:
        """Perform the first command; it goes on for as long as there is something to report."""
        try:
            if command["do"] == "listen":
                await self._peer.listen(command["opening"], self)
            else:
                await self._peer.connect(command["url"], command["opening"], self)
        except Exception:
            self.error()

    async def perform(self, command: Command) -> None:
        """Perform any other command."""
        try:
            await self._perform(command)
        except Exception:
            self.error()

    async def _perform(self, command: Command) -> None:
        connection = self._connection
        assert connection is not None, f"{command['do']} before the WebSocket is open"
        match command["do"]:
            case "send":
                await connection.send(from_wire(command["messages"][0]))
            case "fragments":
                await connection.send_fragments([from_wire(m) for m in command["messages"]])
            case "ping":
                await connection.ping(b64decode(command["payload"]))
            case "close" if not self._closed:
                await connection.close(command["code"], command["reason"])
            case "sync":
                self._report({"event": "synced"})

    def _report(self, event: Event) -> None:
        self._write(line(event))

    def listening(self, port: int) -> None:
        """The server waits for our client."""
        self._report({"event": "listening", "port": port})

    def opened(
        self, connection: Connection, subprotocol: str | None, headers: Mapping[str, str]
    ) -> None:
        """The opening handshake is over."""
        self._connection = connection
        lowered = {name.lower(): value for name, value in headers.items()}
        self._report({"event": "open", "subprotocol": subprotocol, "headers": lowered})

    def refused(self, status: int, body: bytes | bytearray | None) -> None:
        """Our server did not want the WebSocket."""
        text = None if body is None else body.decode()
        self._report({"event": "refused", "status": status, "body": text})

    def message(self, message: str | bytes) -> None:
        """A whole message has arrived."""
        self._report({"event": "message", "message": to_wire(message)})

    def pong(self, payload: bytes) -> None:
        """The pong for a ping has arrived."""
        self._report({"event": "pong", "payload": b64encode(payload).decode("ascii")})

    def closed(self, code: int | None, reason: str | None) -> None:
        """The connection is closed, with the Close that our side sent, as far as is known."""
        self._closed = True
        self._report({"event": "closed", "code": code, "reason": reason or ""})

    def error(self) -> None:
        """Something raised: that is for the test to fail with."""
        self._report({"event": "error", "trace": traceback.format_exc()})


def server_context(opening: Opening) -> ssl.SSLContext | None:
    """TLS for a server, if wanted."""
    if opening["certificate"] is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(opening["certificate"])
    return context


def client_context(opening: Opening) -> ssl.SSLContext | None:
    """TLS for a client, if wanted."""
    if opening["authority"] is None:
        return None
    return ssl.create_default_context(cafile=opening["authority"])


def end_with_stdin() -> None:
    """Let the process end when the tests' process closes its standard input, or dies."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
