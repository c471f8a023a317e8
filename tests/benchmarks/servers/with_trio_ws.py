"""trio_ws."""

from __future__ import annotations

from functools import partial

import trio
from command import HOST, MAX_MESSAGE_SIZE, MEM_LEVEL, WINDOW_BITS, announce, parse_command

import trio_ws

clients: set[trio_ws.WebSocketStream] = set()


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def broadcast(ws: trio_ws.WebSocketStream) -> None:
    clients.add(ws)
    try:
        async for message in ws:
            trio_ws.broadcast(clients, message)
    finally:
        clients.remove(ws)


async def echo_parts(ws: trio_ws.WebSocketStream) -> None:
    ws.configure(max_message_size=None)
    while True:
        data, fin = await ws.receive_some()
        await ws.send_some(data, fin=fin)


async def main() -> None:
    command = parse_command("parts")
    compression = None
    if command.level is not None:
        compression = trio_ws.PermessageDeflate(
            server_max_window_bits=WINDOW_BITS,
            client_max_window_bits=WINDOW_BITS,
            level=command.level,
            mem_level=MEM_LEVEL,
        )
    handlers = {"echo": echo, "broadcast": broadcast, "parts": echo_parts}
    serve = partial(
        trio_ws.serve_websocket,
        handlers[command.mode],
        0,
        host=HOST,
        ssl_context=command.ssl_context,
        compression=compression,
        max_message_size=MAX_MESSAGE_SIZE,
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        announce(server.port)


if __name__ == "__main__":
    trio.run(main)
