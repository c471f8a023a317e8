"""websockets, on asyncio with uvloop."""

from __future__ import annotations

import logging
from contextlib import suppress

import uvloop
from command import HOST, MAX_MESSAGE_SIZE, MEM_LEVEL, WINDOW_BITS, announce, parse_command
from websockets.asyncio.server import ServerConnection, serve
from websockets.asyncio.server import broadcast as send_to_all
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

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
                send_to_all(clients, message)
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
    server = await serve(
        echo if command.mode == "echo" else broadcast,
        HOST,
        0,
        ssl=command.ssl_context,
        extensions=extensions,
        compression=None,
        max_size=MAX_MESSAGE_SIZE,
    )
    announce(next(iter(server.sockets)).getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    # It logs that connections open and close.
    logging.disable()
    uvloop.run(main())
