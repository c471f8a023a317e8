"""Send some messages and print the answers: python examples/client.py [URL]"""

from __future__ import annotations

import sys

import trio

import trio_ws


async def main(url: str) -> None:
    async with trio_ws.open_websocket(url) as ws:
        for message in ("hello", "Grüße", b"\x00\x01\x02"):
            await ws.send(message)
            print(f"sent {message!r}, received {await ws.receive()!r}")


try:
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8000/")
except KeyboardInterrupt:
    print("stopped")
except (OSError, ValueError, trio_ws.HandshakeError) as error:
    sys.exit(f"no connection: {error}")
except trio_ws.ConnectionClosed as error:
    sys.exit(f"{error}")
