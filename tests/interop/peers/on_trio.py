"""The conversation of a peer that uses Trio."""

from __future__ import annotations

import json
import math
import sys

import trio

from interop.lines import LineReader
from interop.wire import HOST, line

from .puppet import Peer, Session, end_with_stdin


async def _write(stream: trio.abc.SendStream, lines: trio.MemoryReceiveChannel[bytes]) -> None:
    async for text in lines:
        await stream.send_all(text)


async def _converse(peer: Peer, stream: trio.SocketStream) -> None:
    send_line, lines = trio.open_memory_channel[bytes](math.inf)
    session = Session(peer, send_line.send_nowait)
    reader = LineReader(stream)
    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_write, stream, lines)
            first = await reader.next_line()
            assert first is not None
            nursery.start_soon(session.start, json.loads(first))
            while (command := await reader.next_line()) is not None:
                await session.perform(json.loads(command))
            nursery.cancel_scope.cancel()
    except* trio.BrokenResourceError:
        # The test is over and does not listen any more.
        pass


async def _main(peer: Peer) -> None:
    end_with_stdin()

    async def converse(stream: trio.SocketStream) -> None:
        await _converse(peer, stream)

    listeners = await trio.open_tcp_listeners(0, host=HOST)
    port: int = listeners[0].socket.getsockname()[1]
    sys.stdout.buffer.write(line({"port": port, "version": peer.version}))
    sys.stdout.flush()
    await trio.serve_listeners(converse, listeners)


def run(peer: Peer) -> None:
    """Serve tests until the process ends."""
    trio.run(_main, peer)
