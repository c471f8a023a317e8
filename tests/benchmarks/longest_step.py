"""How long one message of 100 MiB holds the event loop: the longest step of any task.

``python tests/benchmarks/longest_step.py`` sends it to a stream in the same process, over a Unix
socket pair: as JSON, which is compressed to a tenth, with compression off and on; received whole
and in parts. A step is what a task does between two awaits that yield; its CPU time counts, and of
several rounds the quickest, so that other processes do not.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import time
from collections import defaultdict
from collections.abc import Iterator

import trio
import trio.lowlevel

import trio_ws
import trio_ws.testing

MIB = 1024 * 1024


class Steps(trio.abc.Instrument):
    """The longest step of the tasks of each side, in seconds."""

    def __init__(self) -> None:
        self.longest: dict[str, float] = defaultdict(float)
        self.total: dict[str, float] = defaultdict(float)
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        spent = time.thread_time() - self._began
        side = "receive" if task.name.endswith(("receiving", "reader")) else "send"
        self.longest[side] = max(self.longest[side], spent)
        self.total[side] += spent


def records() -> Iterator[bytes]:
    chance = random.Random(0)
    for number in range(1 << 62):
        record = {"id": number, "price": chance.randrange(10**6) / 100, "side": "buy", "venue": "X"}
        yield json.dumps(record).encode() + b"\n"


def message(size: int) -> bytes:
    data = bytearray()
    for record in records():
        data += record
        if len(data) >= size:
            break
    return bytes(data[:size])


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    left, right = socket.socketpair()
    return (
        trio.SocketStream(trio.socket.from_stdlib_socket(left)),
        trio.SocketStream(trio.socket.from_stdlib_socket(right)),
    )


async def receive_whole(ws: trio_ws.WebSocketStream) -> None:
    await ws.receive()


async def receive_in_parts(ws: trio_ws.WebSocketStream) -> None:
    fin = False
    while not fin:
        _, fin = await ws.receive_some()


async def measure(data: bytes, compression: trio_ws.PermessageDeflate | None, whole: bool) -> Steps:
    async with trio.open_nursery() as nursery:
        client, server = await trio_ws.testing.websocket_pair(
            nursery, socket_pair(), compression=compression, max_message_size=None
        )
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        async with trio.open_nursery() as both:
            receive = receive_whole if whole else receive_in_parts
            both.start_soon(receive, server, name="receiving")
            await client.send(data)
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=100, help="size of the message (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest (default: 3)")
    parser.add_argument("--level", type=int, default=6, help="of compression (default: 6)")
    arguments = parser.parse_args()
    data = message(arguments.mib * MIB)
    print(f"one message of {arguments.mib} MiB; CPU time in ms")
    print(f"{'compression':<12}{'received':<10}{'side':<9}{'longest step':>12}{'all steps':>11}")
    for compression in (None, trio_ws.PermessageDeflate(level=arguments.level)):
        for whole in (True, False):
            rounds = [trio.run(measure, data, compression, whole) for _ in range(arguments.rounds)]
            for side in ("send", "receive"):
                longest = min(steps.longest[side] for steps in rounds)
                total = min(steps.total[side] for steps in rounds)
                print(
                    f"{'on' if compression else 'off':<12}{'whole' if whole else 'in parts':<10}"
                    f"{side:<9}{longest * 1000:12.2f}{total * 1000:11.0f}"
                )


if __name__ == "__main__":
    main()
