"""A client that sends one message in parts, and takes it back in parts, with trio_ws.

It prints how far its memory rose above what it was before.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Final

import trio
from memory import peak_above, reset_peak, resident

import trio_ws

_PART: Final = 64 * 1024


async def send(ws: trio_ws.WebSocketStream, size: int) -> None:
    part = bytes(range(256)) * (_PART // 256)
    for left in range(size, 0, -_PART):
        await ws.send_some(part[:left], fin=left <= _PART)


async def receive(ws: trio_ws.WebSocketStream) -> int:
    size = 0
    fin = False
    while not fin:
        data, fin = await ws.receive_some()
        size += len(data)
    return size


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("size", type=int, help="bytes of the message")
    arguments = parser.parse_args()
    url = f"ws://127.0.0.1:{arguments.port}/"
    async with trio_ws.open_websocket(url, max_message_size=None) as ws:
        idle = resident("self")
        reset_peak("self")
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ws, arguments.size)
            size = await receive(ws)
        seconds = time.perf_counter() - began
        if size != arguments.size:
            raise SystemExit(f"{size} bytes of {arguments.size} came back")
        print(json.dumps({"above_idle": peak_above("self", idle), "seconds": seconds}))


if __name__ == "__main__":
    trio.run(main)
