"""A server and a client that meet at a Unix socket: python examples/unix_socket.py"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

import trio_ws


async def shout(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message.upper())


async def listen(path: Path) -> trio.SocketListener:
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(path))
    socket.listen()
    return trio.SocketListener(socket)


async def main(path: Path) -> None:
    async def connect(host: str, port: int) -> trio.SocketStream:
        return await trio.open_unix_socket(path)

    serve = partial(trio_ws.serve_websocket, shout, listeners=[await listen(path)])
    async with trio.open_nursery() as nursery:
        server: trio_ws.WebSocketServer = await nursery.start(serve)
        async with trio_ws.open_websocket("ws://localhost/", connect=connect) as ws:
            await ws.send("hello over a Unix socket")
            print(await ws.receive())
        await server.shutdown()


with TemporaryDirectory() as directory:
    trio.run(main, Path(directory, "socket"))
