"""The command line: a chat server on one port, until Ctrl-C or SIGTERM; a second one hurries it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import trio

import trio_ws

from .backplanes import make_backplane
from .listening import open_listeners, url_of
from .logs import configure, log
from .messages import MAX_FRAME
from .options import Options, parse_options
from .server import ChatServer
from .workers import READY, Supervisor

LAST_SECOND: Final = 1.0
"""The end of the grace: trio_ws gives a second to clients that it has stopped waiting for."""


async def serve(options: Options) -> None:
    """Serve until told to stop, then say 1001 to everybody."""
    ssl_context = load_certificate(options)
    chat = ChatServer(make_backplane(options), options.limits())
    listeners = await open_listeners(options.host, options.port, shared=options.worker)
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
            if options.worker:
                os.write(sys.stdout.fileno(), READY)
                nursery.start_soon(stop_when_orphaned)
            else:
                url = url_of(listeners[0].socket, secure=ssl_context is not None)
                log(logging.INFO, "listening", url=url)
            await wait_for_signal(signals, quiet=options.worker)
            nursery.start_soon(hurry, signals, chat, server)
            await stop(chat, server, options.grace)
            nursery.cancel_scope.cancel()
    if not options.worker:
        log(logging.INFO, "closed")


async def wait_for_signal(signals: AsyncIterator[int], *, quiet: bool) -> None:
    number = await anext(signals)
    if not quiet:
        log(logging.INFO, "closing", signal=signal.Signals(number).name)


async def stop(chat: ChatServer, server: trio_ws.WebSocketServer, grace: float) -> None:
    """Say 1001 to everybody; all have left in *grace* seconds, the last of them included."""
    patience = max(0.0, grace - LAST_SECOND)
    # Half of the last second is for telling the other servers who has not left by then.
    chat.rooms.leave_by(trio.current_time() + patience + LAST_SECOND / 2)
    await server.shutdown(grace=patience)


async def hurry(
    signals: AsyncIterator[int], chat: ChatServer, server: trio_ws.WebSocketServer
) -> None:
    """Who asks once more has waited long enough."""
    async for _ in signals:
        await stop(chat, server, 0)


async def stop_when_orphaned() -> None:
    """As if SIGTERM had come, when who started this worker has ended."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as pipe:
        async for _ in pipe:
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def load_certificate(options: Options) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:
        sys.exit(f"can not use the certificate {options.certificate} and its key: {error}")
    return context


def main() -> None:
    options = parse_options()
    configure(options.log)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client takes a descriptor
    try:
        if options.workers > 1 and not options.worker:
            load_certificate(options)
            sys.exit(trio.run(Supervisor(options, sys.argv[1:]).run))
        else:
            trio.run(serve, options)
    except OSError as error:
        sys.exit(f"can not listen on {options.host} port {options.port}: {error}")


if __name__ == "__main__":
    main()
