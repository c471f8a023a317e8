"""A server that sends back what it gets: python examples/echo_server.py [PORT]"""

from __future__ import annotations

import sys

import trio

import trio_ws


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port: give 1 to 65535")
    listeners = await trio.open_tcp_listeners(port)
    print(f"echoing on ws://localhost:{port}/, Ctrl-C to stop", flush=True)
    await trio_ws.serve_websocket(echo, listeners=listeners)


try:
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
except KeyboardInterrupt:
    print("stopped")
except (OSError, ValueError) as error:
    sys.exit(f"no server: {error}")
