"""websockets, on Trio."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import trio
from command import HOST, MAX_MESSAGE_SIZE, MEM_LEVEL, WINDOW_BITS, announce, parse_command
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.trio.connection import broadcast as send_to_all
from websockets.trio.server import ServerConnection, serve

clients: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in ws:
            await ws.send(message)


async def broadcast(ws: ServerConnection) -> None:
    clients.add(ws)
    try:
        with suppress(ConnectionClosed):
            async for message in ws:
                await send_to_all(clients, message)
    finally:
        clients.remove(ws)


async def main() -> None:
    command = parse_command()
    extensions = None
    if command.level is not None:
        extensions = [
            ServerPerMessageDeflateFactory(
                server_max_window_bits=WINDOW_BITS,
                client_max_window_bits=WINDOW_BITS,
                compress_settings={"level": command.level, "memLevel": MEM_LEVEL},
            )
        ]
    start = partial(
        serve,
        echo if command.mode == "echo" else broadcast,
        0,
        host=HOST,
        ssl=command.ssl_context,
        extensions=extensions,
        compression=None,
        max_size=MAX_MESSAGE_SIZE,
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(start)
        announce(server.listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    # It logs that connections open and close.
    logging.disable()
    trio.run(main)
