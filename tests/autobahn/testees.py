"""The two programs under test: an echo server, and a client that echoes what a server sends it."""

from __future__ import annotations

import trio_ws


async def echo(ws: trio_ws.WebSocketStream) -> None:
    """Send every message back as it came, until the connection closes."""
    async for message in ws:
        await ws.send(message)


async def echo_to(url: str, compression: trio_ws.PermessageDeflate) -> None:
    """Connect to ``url`` and echo until the server closes, in whatever way it does."""
    try:
        async with trio_ws.open_websocket(url, compression=compression) as ws:
            await echo(ws)
    except trio_ws.ConnectionClosed:
        # How it ended is what Autobahn judges, from the other side.
        return
