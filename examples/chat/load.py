"""Many clients at once, and how the server bears them: ``python -m examples.chat.load``.

Each client is in a room and listens. When all have joined they talk, in turns, at a steady rate in
total. What is measured is the time from saying something to hearing it, for every member of the
room. If the server runs on this machine, the processor time and the memory that it took are
measured too: they say more than the times, where others run on the same processors.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import secrets
import statistics
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import trio

import trio_ws

_said = re.compile(r'"text":"(\d+)"')

_CONNECTING = 50
"""Clients that connect at the same time."""

_CALM = 1.0
"""Seconds until nobody is told any more who has joined, and after the last message."""

_ASKED = 40
"""Times that the server is asked for its process, to find all that share its port."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of the server have used: seconds of a processor, bytes of memory."""

    processor: float
    memory: int


@dataclass
class Heard:
    """What all clients have heard: the seconds from saying to hearing; and what was refused."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0


async def main(options: argparse.Namespace) -> None:
    """Do it, and print the result."""
    pids = await trio.to_thread.run_sync(find_pids, options.url)
    idle = usage_of(pids)
    heard = Heard()
    async with trio.open_nursery() as nursery:
        clients = await connect(nursery, options, heard)
        print(f"{len(clients)} clients are in {options.rooms} rooms")
        await trio.sleep(_CALM)
        gc.freeze()  # what there is now stays: no need to look through it again and again
        before = usage_of(pids)
        own = time.process_time()
        began = trio.current_time()
        said = await talk(clients, options.rate, options.seconds)
        took = trio.current_time() - began
        own = time.process_time() - own
        await trio.sleep(_CALM)
        after = usage_of(pids)
        nursery.cancel_scope.cancel()
    report(heard, said, took)
    print(f"clients: {100 * own / took:.0f} % of a processor")
    if idle is not None and before is not None and after is not None:
        processor = after.processor - before.processor
        print(
            f"server: {len(pids)} processes, {100 * processor / took:.0f} % of a processor, "
            f"{1e6 * processor / len(heard.latencies):.1f} us per delivery, "
            f"{after.memory / 2**20:.0f} MiB of memory, "
            f"{(after.memory - idle.memory) / options.clients / 1024:.1f} KiB per client"
        )


async def connect(
    nursery: trio.Nursery, options: argparse.Namespace, heard: Heard
) -> list[trio_ws.WebSocketStream]:
    """Connect all clients; each listens in *nursery* from then on."""
    clients: list[trio_ws.WebSocketStream] = []
    limit = trio.CapacityLimiter(_CONNECTING)
    url = options.url.rstrip("/").replace("http", "ws", 1) + "/chat"

    async def join(number: int) -> None:
        async with limit:
            ws = await trio_ws.connect_websocket(nursery, url)
            session = secrets.token_hex(8)
            room = f"load-{number % options.rooms}"
            await say(ws, type="join", room=room, nick=f"Client {number}", session=session)
            answer = json.loads(await ws.receive())
            while answer["type"] != "welcome":
                if answer["type"] == "error":
                    raise SystemExit(f"client {number} was refused: {answer['text']}")
                answer = json.loads(await ws.receive())
            nursery.start_soon(listen, ws, heard)
            clients.append(ws)

    async with trio.open_nursery() as joining:
        for number in range(options.clients):
            joining.start_soon(join, number)
    return clients


async def listen(ws: trio_ws.WebSocketStream, heard: Heard) -> None:
    async for wire in ws:
        assert isinstance(wire, str)
        if wire.startswith('{"type":"message"'):
            found = _said.search(wire)
            assert found is not None
            heard.latencies.append((time.perf_counter_ns() - int(found[1])) / 1e9)
        elif wire.startswith('{"type":"error"'):
            heard.refused += 1


async def talk(clients: list[trio_ws.WebSocketStream], rate: float, seconds: float) -> int:
    """Let one after another say something; how often that was."""
    count = round(rate * seconds)
    run = secrets.token_hex(8)
    began = trio.current_time()
    for number in range(count):
        await trio.sleep_until(began + number / rate)
        ws = clients[number % len(clients)]
        text = str(time.perf_counter_ns())
        await say(ws, type="say", key=f"{run}-{number}", text=text)
    return count


async def say(ws: trio_ws.WebSocketStream, **fields: object) -> None:
    await ws.send(json.dumps(fields))


def report(heard: Heard, said: int, took: float) -> None:
    latencies = sorted(heard.latencies)
    p50, p95, p99 = (
        1000 * statistics.quantiles(latencies, n=100)[percent - 1] for percent in (50, 95, 99)
    )
    print(
        f"{said} messages in {took:.1f} s, {heard.refused} refused, "
        f"{len(latencies)} deliveries, {len(latencies) / took:.0f} a second\n"
        f"milliseconds to hear it: {p50:.1f} for half, {p95:.1f} for 95 %, {p99:.1f} for 99 %, "
        f"{1000 * latencies[-1]:.1f} for all"
    )


def find_pids(url: str) -> set[int]:
    """The processes of the server: whichever answer."""
    pids: set[int] = set()
    for _ in range(_ASKED):
        with urllib.request.urlopen(url.rstrip("/") + "/healthz") as answer:
            pids.add(json.load(answer)["pid"])
    return pids


def usage_of(pids: set[int]) -> Usage | None:
    """What processes of this machine have used; None if they are of another, or it is no Linux."""
    processor, memory = 0.0, 0
    try:
        for pid in pids:
            process = Path("/proc") / str(pid)
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            processor += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    return Usage(processor, memory)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat.load", description="Many clients of a chat server at once."
    )
    add = parser.add_argument
    add("url", nargs="?", default="http://127.0.0.1:8000/", help="the page (%(default)s)")
    add("--clients", type=int, default=100, help="how many (%(default)s)")
    add("--rooms", type=int, default=2, help="that they are in (%(default)s)")
    add("--rate", type=float, default=10.0, help="messages a second, of all (%(default)s)")
    add("--seconds", type=float, default=10.0, help="for which they talk (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    trio.run(main, parse_arguments())
