"""A server that sends back what it gets: python examples/echo_server.py [PORT]"""

from __future__ import annotations

import sys

import trio

import trio_ws


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_ws.serve_websocket, echo, port)
        print(f"echoing on ws://localhost:{port}/, Ctrl-C to stop", flush=True)


try:
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
except* KeyboardInterrupt:
    print("stopped")
