"""Fairness: how long others wait while one task keeps the event loop busy.

    python tests/benchmarks/fairness.py              # twenty seconds
    python tests/benchmarks/fairness.py --seconds 5  # of each measurement; default 2

A hundred connections ask a question now and then, and the answer comes at once. Meanwhile a task
does as much as it can, in one of three ways. What is measured is the time from a question to its
answer, with the budget that all streams of a Trio run share, and without: with one that is never
spent.

All runs in one thread, over Unix sockets, so that nothing but Trio decides whose turn it is. Time
is the CPU time of that thread, so that it does not matter what else the machine does.
"""

from __future__ import annotations

import argparse
import random
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from trio_ws import WebSocketStream
from trio_ws._ticker import DEFAULT_BUDGET
from trio_ws.testing import set_budget, websocket_pair

ASKERS: Final = 100
READY_MESSAGES: Final = 20
PAUSE: Final = 0.05
"""Seconds between the questions of a connection, on average."""

NO_BUDGET: Final = 1 << 60

Pair = tuple[WebSocketStream, WebSocketStream]
Disturber = Callable[[list[Pair]], Awaitable[None]]


class Latencies(NamedTuple):
    """From question to answer, of one measurement, in milliseconds."""

    answers: int
    median: float
    p99: float
    longest: float


async def nobody(pairs: list[Pair]) -> None:
    """For comparison."""
    await trio.sleep_forever()


async def flood(pairs: list[Pair]) -> None:
    """One connection floods, and the task at its other end receives."""
    client, server = pairs[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_for_ever, server)
        await send_for_ever(client)


async def only_send(pairs: list[Pair]) -> None:
    """A loop that only sends; at its other end everything is discarded."""
    client, server = pairs[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.wait_closed)
        await send_for_ever(client)


async def send_for_ever(ws: WebSocketStream) -> None:
    while True:
        await ws.send(b"x" * 50)


async def receive_for_ever(ws: WebSocketStream) -> None:
    async for _ in ws:
        pass


async def receive_from_many(pairs: list[Pair]) -> None:
    """One task over many streams, each of which has twenty messages ready."""
    while True:  # noqa: ASYNC913 (there are streams)
        for client, _ in pairs:
            for _ in range(READY_MESSAGES):
                client.send_nowait(b"x" * 50)
            await trio.lowlevel.checkpoint()
        for _, server in pairs:
            for _ in range(READY_MESSAGES):
                await server.receive()


DISTURBERS: Final[dict[str, Disturber]] = {
    "nothing": nobody,
    "one connection that floods": flood,
    "a loop that only sends": only_send,
    "one task over {:,} ready streams": receive_from_many,
}


async def ask_now_and_then(pair: Pair, latencies: list[float]) -> None:
    """Ask, wait for the answer, note what else was done meanwhile; and again, after a while."""
    client, _ = pair
    while True:
        await trio.sleep(random.uniform(0, 2 * PAUSE))
        asked_at = time.thread_time()
        await client.send("how long does this take?")
        await client.receive()
        latencies.append((time.thread_time() - asked_at) * 1000)


async def answer(pair: Pair) -> None:
    _, server = pair
    async for message in server:
        await server.send(message)


async def measure(
    disturber: Disturber, pairs: list[Pair], askers: list[Pair], seconds: float
) -> Latencies:
    latencies: list[float] = []
    async with trio.open_nursery() as nursery:
        for pair in askers:
            nursery.start_soon(ask_now_and_then, pair, latencies)
        await trio.sleep(2 * PAUSE)
        latencies.clear()
        with trio.move_on_after(seconds):
            await disturber(pairs)
        nursery.cancel_scope.cancel()
    latencies.sort()
    count = len(latencies)
    return Latencies(count, latencies[count // 2], latencies[count * 99 // 100], latencies[-1])


async def open_pairs(nursery: trio.Nursery, count: int) -> list[Pair]:
    pairs = []
    for _ in range(count):
        left, right = map(trio.socket.from_stdlib_socket, socket.socketpair())
        streams = trio.SocketStream(left), trio.SocketStream(right)
        pairs.append(await websocket_pair(nursery, streams))
    return pairs


def raise_limit_of_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def measure_all(seconds: float, streams: int) -> None:
    print(f"{ASKERS} connections ask now and then; until the answer, in milliseconds")
    print(f"{'what else goes on':36}{'budget':>10}{'p50':>9}{'p99':>9}{'max':>9}{'answers':>9}")
    for name, disturber in DISTURBERS.items():
        for budget in (DEFAULT_BUDGET, NO_BUDGET):
            async with trio.open_nursery() as nursery:
                set_budget(DEFAULT_BUDGET)
                askers = await open_pairs(nursery, ASKERS)
                many = disturber is receive_from_many
                pairs = await open_pairs(nursery, streams if many else 2)
                for pair in askers:
                    nursery.start_soon(answer, pair)
                set_budget(budget)
                result = await measure(disturber, pairs, askers, seconds)
                nursery.cancel_scope.cancel()
            print_row(name.format(streams), budget, result)


def print_row(name: str, budget: int, result: Latencies) -> None:
    limit = "none" if budget == NO_BUDGET else f"{budget // 1024} KiB"
    figures = f"{result.median:9.2f}{result.p99:9.2f}{result.longest:9.2f}{result.answers:9}"
    print(f"{name:36}{limit:>10}{figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; default 2")
    parser.add_argument(
        "--streams", type=int, default=1000, help="that one task receives from; default 1000"
    )
    arguments = parser.parse_args()
    raise_limit_of_descriptors(2 * (arguments.streams + ASKERS) + 100)
    random.seed(0)
    trio.run(measure_all, arguments.seconds, arguments.streams)


if __name__ == "__main__":
    main()
