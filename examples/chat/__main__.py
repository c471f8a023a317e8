"""The command line: a chat server on one port, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import signal
import ssl
import sys
from functools import partial

import trio

import trio_ws

from .listening import open_listeners
from .logs import configure, log
from .memory_backplane import MemoryBackplane
from .messages import MAX_FRAME
from .options import Options, parse_options
from .server import ChatServer


async def main(options: Options) -> None:
    """Serve until a signal comes, then say 1001 to everybody."""
    ssl_context = load_certificate(options)
    try:
        listeners = await open_listeners(options.host, options.port)
    except OSError as error:
        sys.exit(f"can not listen on {options.host} port {options.port}: {error}")
    chat = ChatServer(MemoryBackplane(), options.limits())
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(chat.rooms.run)
            server: trio_ws.WebSocketServer = await nursery.start(
                partial(
                    trio_ws.serve_websocket,
                    chat.handle,
                    listeners=listeners,
                    ssl_context=ssl_context,
                    origins=options.origin,
                    process_request=chat.process_request,
                    max_message_size=MAX_FRAME,
                )
            )
            log(logging.INFO, "listening", url=url_of(listeners[0], ssl_context))
            number = await anext(signals)
            log(logging.INFO, "closing", signal=signal.Signals(number).name)
            await server.shutdown(grace=options.grace)
            nursery.cancel_scope.cancel()
    log(logging.INFO, "closed")


def load_certificate(options: Options) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:
        sys.exit(f"can not use the certificate {options.certificate} and its key: {error}")
    return context


def url_of(listener: trio.SocketListener, ssl_context: ssl.SSLContext | None) -> str:
    host, port, *_ = listener.socket.getsockname()
    scheme = "http" if ssl_context is None else "https"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


if __name__ == "__main__":
    chosen = parse_options()
    configure(chosen.log)
    trio.run(main, chosen)
