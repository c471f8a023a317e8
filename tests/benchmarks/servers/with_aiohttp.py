"""aiohttp, with uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import WSMsgType, web
from command import HOST, MAX_MESSAGE_SIZE, announce, parse_command

clients: set[web.WebSocketResponse] = set()

COMMAND = parse_command()


async def open_websocket(request: web.Request) -> web.WebSocketResponse:
    # The window is what the client asks for; the level is always 1.
    ws = web.WebSocketResponse(compress=COMMAND.level is not None, max_msg_size=MAX_MESSAGE_SIZE)
    await ws.prepare(request)
    return ws


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = await open_websocket(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)
    return ws


async def broadcast(request: web.Request) -> web.WebSocketResponse:
    ws = await open_websocket(request)
    clients.add(ws)
    try:
        async for message in ws:
            for client in tuple(clients):
                await client.send_str(message.data)
    finally:
        clients.remove(ws)
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", echo if COMMAND.mode == "echo" else broadcast)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=COMMAND.ssl_context).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
