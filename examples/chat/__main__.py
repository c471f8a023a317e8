"""The command line: one port for the page and for the WebSocket, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import trio

import trio_ws

from .room import Room

MAX_LINE = 4096
"""Bytes in a line; who sends a longer one is disconnected with 1009."""

GRACE = 5.0
"""Seconds for everybody to answer the Close when the server stops."""

PAGE = trio_ws.Response(
    200,
    {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-cache"},
    Path(__file__).with_name("page.html").read_bytes(),
)

logger = logging.getLogger("chat")


async def process_request(  # noqa: ASYNC124 (a hook is async, also one that never waits)
    request: trio_ws.Request,
) -> trio_ws.Response | None:
    """The page, or None where the WebSocket is."""
    path, _, _ = request.target.partition("?")
    if path == "/chat":
        return None
    if path != "/":
        return trio_ws.Response(404, body="There is nothing here.\n")
    if request.method not in ("GET", "HEAD"):
        return trio_ws.Response(405, {"Allow": "GET, HEAD"}, "This page can only be read.\n")
    return PAGE


async def serve(listeners: list[trio.SocketListener]) -> None:
    """Serve until a signal comes, then say 1001 to everybody."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server: trio_ws.WebSocketServer = await nursery.start(
                partial(
                    trio_ws.serve_websocket,
                    Room().serve,
                    listeners=listeners,
                    process_request=process_request,
                    max_message_size=MAX_LINE,
                )
            )
            logger.info("chat on %s", url_of(listeners[0]))
            number = await anext(signals)
            logger.info("%s: closing", signal.Signals(number).name)
            await server.shutdown(grace=GRACE)


def url_of(listener: trio.SocketListener) -> str:
    host, port, *_ = listener.socket.getsockname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def main(host: str, port: int) -> None:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        sys.exit(f"can not listen on {host} port {port}: {error}")
    await serve(listeners)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat", description="A chat server on trio_ws, with its page."
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument(
        "--port",
        type=port_number,
        default=8000,
        help="on which port (%(default)s); 0: any that is free",
    )
    return parser.parse_args()


def port_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    arguments = parse_arguments()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    trio.run(main, arguments.host, arguments.port)
