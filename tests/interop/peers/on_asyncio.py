"""The conversation of a peer that uses asyncio."""

from __future__ import annotations

import asyncio
import json
import sys

from interop.wire import HOST, line

from .puppet import LINE_LIMIT, Peer, Session, end_with_stdin


async def _converse(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    session = Session(peer, writer.write)
    started = asyncio.create_task(session.start(json.loads(await reader.readline())))
    try:
        async for command in reader:
            await session.perform(json.loads(command))
    finally:
        started.cancel()
        await asyncio.wait([started])
        writer.close()


async def _main(peer: Peer) -> None:
    end_with_stdin()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _converse(peer, reader, writer)

    server = await asyncio.start_server(converse, HOST, 0, limit=LINE_LIMIT)
    port: int = server.sockets[0].getsockname()[1]
    sys.stdout.buffer.write(line({"port": port, "version": peer.version}))
    sys.stdout.flush()
    await server.serve_forever()


def run(peer: Peer) -> None:
    """Serve tests until the process ends."""
    asyncio.run(_main(peer))
