"""trio-websocket."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import trio
from command import HOST, MAX_MESSAGE_SIZE, announce, parse_command
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

clients: set[WebSocketConnection] = set()


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    with suppress(ConnectionClosed):
        while True:
            await ws.send_message(await ws.get_message())


async def broadcast(request: WebSocketRequest) -> None:
    ws = await request.accept()
    clients.add(ws)
    try:
        with suppress(ConnectionClosed):
            while True:
                message = await ws.get_message()
                for client in tuple(clients):
                    with suppress(ConnectionClosed):
                        await client.send_message(message)
    finally:
        clients.remove(ws)


async def main() -> None:
    command = parse_command()
    # The default queue of one message makes it wait for the application after each.
    serve = partial(
        serve_websocket,
        echo if command.mode == "echo" else broadcast,
        HOST,
        0,
        command.ssl_context,
        message_queue_size=64,
        max_message_size=MAX_MESSAGE_SIZE,
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        announce(server.port)


if __name__ == "__main__":
    # A client that just goes away, as that of the benchmark does at the end, is an error to it.
    logging.disable()
    trio.run(main)
