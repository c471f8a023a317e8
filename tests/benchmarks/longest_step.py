"""How long one message of 100 MiB holds the event loop: the longest step of any task.

``python tests/benchmarks/longest_step.py`` sends it to a stream in the same process, over a Unix
socket pair: JSON, which is compressed to a tenth, with compression off and on; received whole and
in parts. As text it is sent once as ``bytes``, once as ``str``, and once with a euro sign at its
end, the only character that is not ASCII. A step is what a task does between two awaits that yield;
its CPU time counts, and of several rounds the quickest, so that other processes do not. Each kind
of message has a process of its own, as what the allocator does depends on what it did before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

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


class Case(NamedTuple):
    """One way to send and to receive a message."""

    compressed: bool
    content: str
    whole: bool


CASES = [
    Case(False, "bytes", True),
    Case(False, "bytes", False),
    Case(True, "bytes", True),
    Case(True, "bytes", False),
    Case(False, "text, as bytes", True),
    Case(False, "text, as str", True),
    Case(False, "text, then a euro", True),
]


class Settings(NamedTuple):
    """What the command line says."""

    mib: int
    rounds: int
    level: int
    window: int | None
    letters: bool

    def data(self) -> bytes:
        if self.letters:
            return bytes(random.Random(0).choices(b"ab", k=self.mib * MIB))
        return message(self.mib * MIB)

    def compression(self) -> trio_ws.PermessageDeflate:
        return trio_ws.PermessageDeflate(
            level=self.level,
            client_max_window_bits=self.window,
            mem_level=8 if self.window == 15 else 5,
        )


async def measure(case: Case, data: bytes, settings: Settings) -> Steps:
    """The steps of one message. In the end the receiver has nothing of it any more."""
    message = data.decode() if case.content == "text, as str" else data
    async with trio.open_nursery() as nursery:
        client, server = await trio_ws.testing.websocket_pair(
            nursery,
            socket_pair(),
            compression=settings.compression() if case.compressed else None,
            max_message_size=None,
        )
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        async with trio.open_nursery() as both:
            receive = receive_whole if case.whole else receive_in_parts
            both.start_soon(receive, server, name="receiving")
            await client.send(message, text=case.content != "bytes")
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    return steps


def row(case: Case, settings: Settings) -> str:
    """What was measured of one case, as a line of the table."""
    data = settings.data()
    if case.content == "text, then a euro":
        data = data[:-3] + "€".encode()
    measured = [trio.run(measure, case, data, settings) for _ in range(settings.rounds)]
    line = f"{'on' if case.compressed else 'off':<13}{case.content:<19}"
    line += f"{'whole' if case.whole else 'in parts':<10}"
    for side in ("send", "receive"):
        longest = min(steps.longest[side] for steps in measured)
        total = min(steps.total[side] for steps in measured)
        line += f"{longest * 1000:8.2f}{total * 1000:7.0f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=100, help="size of the message (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest (default: 3)")
    parser.add_argument("--level", type=int, default=6, help="of compression (default: 6)")
    parser.add_argument("--window", type=int, help="of compression, in bits (default: 12)")
    parser.add_argument(
        "--letters", action="store_true", help="two letters at random: the worst for high levels"
    )
    settings = Settings(**vars(parser.parse_args()))
    print(f"one message of {settings.mib} MiB; CPU time in ms: of the longest step, of all steps")
    print(f"{'compression':<13}{'message':<19}{'received':<10}{'sends':>8}{'':>7}{'receives':>10}")
    processes = multiprocessing.get_context("spawn")
    for case in CASES:
        with processes.Pool(1) as pool:
            print(pool.apply(row, (case, settings)), flush=True)


if __name__ == "__main__":
    main()
