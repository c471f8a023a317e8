"""Many clients at once, and how the server bears them: ``python -m examples.chat.load``.

Each client is in a room and listens. When all have joined they talk, in turns, at a steady rate in
total. What is measured is the time from saying something to hearing it, for every member of the
room. If the server runs on this machine, the processor time and the memory that it took are
measured too: they say more than the times, where others run on the same processors.

Ctrl-C ends it, and what was measured until then is printed.
"""

from __future__ import annotations

import gc
import http.client
import json
import math
import os
import re
import resource
import secrets
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

import trio_ws

from .load_options import LoadOptions, parse_options

_said = re.compile(r'"text":"(\d+)"')

_CONNECTING: Final = 50
"""Clients that connect at the same time."""

_CALM: Final = 1.0
"""Seconds in which nobody hears anything, before they talk and after it."""

_LONGEST_CALM: Final = 30
"""Times that this is waited for at most: others may talk in the same rooms."""

_ASKED: Final = 40
"""Times that the server is asked for its process, to find all that share its port."""

_PATIENCE: Final = 10.0
"""Seconds for each answer to that."""

_OTHER_FILES: Final = 32
"""Files that are open beside the connections."""

_REMEDIES: Final = {
    "room_full": " (use more --rooms, or start the server with more --members)",
    "server_full": " (start the server with more --clients and --rooms)",
}
"""What to do about refusals, by their code."""


class LoadError(Exception):
    """Nothing can be measured, or nothing more; the text says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used so far.

    :ivar own: seconds of a processor, by this process.
    :ivar processor: those by the processes of the server; NaN if they are of another machine, or
        have ended, or this is no Linux.
    :ivar memory: of theirs, in bytes.
    """

    own: float
    processor: float
    memory: int

    @classmethod
    def of(cls, pids: set[int]) -> Usage:
        processor, memory = 0.0, 0
        try:
            for pid in pids:
                stat = (Path("/proc") / str(pid) / "stat").read_text()
                fields = stat.rpartition(")")[2].split()
                processor += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            processor = math.nan
        return cls(time.process_time(), processor, memory)


class Load:
    """The clients, and what they hear."""

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._run = secrets.token_hex(4)
        self._clients: list[trio_ws.WebSocketStream] = []
        self._latencies: list[float] = []
        self._heard = self._said = self._refused = self._lost = 0
        self._took = 0.0
        self._pids: set[int] = set()
        self._idle = self._before = self._after = Usage.of(set())

    async def run(self) -> None:
        """Do it.

        :raises LoadError: there is no such server, it does not let everybody in, or it has gone.
        """
        self._pids = await trio.to_thread.run_sync(
            find_pids, self._options.url, abandon_on_cancel=True
        )
        self._idle = Usage.of(self._pids)
        async with trio.open_nursery() as nursery:
            await self._connect(nursery)
            print(f"{len(self._clients)} clients are in {self._options.rooms} rooms", flush=True)
            await self._wait_for_calm()
            gc.freeze()  # what there is now stays: no need to look through it again and again
            self._before = Usage.of(self._pids)
            try:
                await self._talk()
                await self._wait_for_calm()
            finally:
                self._after = Usage.of(self._pids)
                nursery.cancel_scope.cancel()

    async def _connect(self, nursery: trio.Nursery) -> None:
        """Connect all clients; each listens in *nursery* from then on."""
        limit = trio.CapacityLimiter(_CONNECTING)

        async def connect_one(number: int) -> None:
            async with limit:
                ws = await self._join(nursery, number)
            self._clients.append(ws)
            nursery.start_soon(self._listen, ws)

        async with trio.open_nursery() as connecting:
            for number in range(1, self._options.clients + 1):
                connecting.start_soon(connect_one, number)

    async def _join(self, nursery: trio.Nursery, number: int) -> trio_ws.WebSocketStream:
        url = self._options.url.replace("http", "ws", 1) + "/chat"
        room, nick = f"load-{number % self._options.rooms}", f"{self._run} {number}"
        try:
            ws = await trio_ws.connect_websocket(nursery, url)
            await say(ws, type="join", room=room, nick=nick, session=secrets.token_hex(8))
            while (answer := json.loads(await ws.receive()))["type"] != "welcome":
                if answer["type"] == "error":
                    remedy = _REMEDIES.get(answer["code"], "")
                    raise LoadError(f"client {number} was refused: {answer['text']}{remedy}")
        except trio_ws.HandshakeTimeout:
            hint = "it may have no files left for connections: then its log says so, see ulimit -n"
            raise LoadError(f"client {number}: the server does not answer ({hint})") from None
        except (OSError, trio_ws.HandshakeError, trio_ws.ConnectionClosed) as error:
            raise LoadError(f"client {number}: {error.__cause__ or error}") from None
        return ws

    async def _listen(self, ws: trio_ws.WebSocketStream) -> None:
        with suppress(trio_ws.ConnectionClosedError):
            async for wire in ws:
                assert isinstance(wire, str)
                self._heard += 1
                if wire.startswith('{"type":"message"') and (found := _said.search(wire)):
                    self._latencies.append((time.perf_counter_ns() - int(found[1])) / 1e9)
                elif wire.startswith('{"type":"error"'):
                    self._refused += 1
        self._lost += 1
        self._clients.remove(ws)

    async def _wait_for_calm(self) -> None:
        for _ in range(_LONGEST_CALM):
            heard = self._heard
            await trio.sleep(_CALM)
            if self._heard == heard:
                break

    async def _talk(self) -> None:
        """Let one after another say something."""
        began = trio.current_time()
        try:
            for number in range(self._options.messages):
                await trio.sleep_until(began + number / self._options.rate)
                if not self._clients:
                    raise LoadError("all clients have lost the connection")
                ws = self._clients[number % len(self._clients)]
                text = str(time.perf_counter_ns())
                with suppress(trio_ws.ConnectionClosed):  # who listens counts it
                    await say(ws, type="say", key=f"{self._run}-{number}", text=text)
                    self._said += 1
            await trio.sleep_until(began + self._options.messages / self._options.rate)
        finally:
            self._took = trio.current_time() - began

    def report(self) -> None:
        """Print what was measured, if anything was."""
        if not self._took:
            if self._clients:
                print(f"{len(self._clients)} of {self._options.clients} clients had come in")
            return
        print(
            f"{self._said} messages in {self._took:.1f} s, {self._refused} refused, "
            f"{len(self._latencies)} deliveries, {len(self._latencies) / self._took:.0f} a second"
        )
        if self._lost:
            print(f"{self._lost} clients have lost the connection")
        if self._latencies:
            self._report_latencies()
        print(f"clients: {self._share(self._after.own - self._before.own)} of a processor")
        if not math.isnan(self._after.processor):
            self._report_server()

    def _report_latencies(self) -> None:
        latencies = sorted(self._latencies)
        half, most, nearly_all = (
            1000 * latencies[len(latencies) * percent // 100] for percent in (50, 95, 99)
        )
        print(
            f"milliseconds to hear it: {half:.1f} for half, {most:.1f} for 95 %, "
            f"{nearly_all:.1f} for 99 %, {1000 * latencies[-1]:.1f} for all"
        )

    def _report_server(self) -> None:
        processor = self._after.processor - self._before.processor
        grown = self._after.memory - self._idle.memory
        print(
            f"server: {len(self._pids)} processes, {self._share(processor)} of a processor, "
            f"{1e6 * processor / max(1, len(self._latencies)):.1f} us per delivery, "
            f"{self._after.memory / 2**20:.0f} MiB of memory, "
            f"{grown / self._options.clients / 1024:.1f} KiB per client"
        )

    def _share(self, processor: float) -> str:
        return f"{100 * processor / self._took:.0f} %"


async def say(ws: trio_ws.WebSocketStream, **fields: object) -> None:
    await ws.send(json.dumps(fields))


def find_pids(url: str) -> set[int]:
    """The processes of the server: whichever answer.

    :raises LoadError: none does.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as the clients connect
    pids: set[int] = set()
    try:
        for _ in range(_ASKED):
            with direct.open(url + "/healthz", timeout=_PATIENCE) as answer:
                pids.add(json.load(answer)["pid"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise LoadError(f"there is no chat server at {url}: {reason}") from None
    return pids


def allow_files(clients: int) -> None:
    """Let this process open as many files as the system lets it.

    :raises LoadError: they are too few.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = clients + _OTHER_FILES
    if most != resource.RLIM_INFINITY and most < needed:
        raise LoadError(
            f"{clients} clients need {needed} open files, and {most} are allowed here: "
            f"'ulimit -n {needed}' as root allows more to what is started after it"
        )


async def main(options: LoadOptions) -> str | int:
    """Do it, print the result, and say how the program should exit."""
    load = Load(options)
    code: str | int = 0

    async def interrupt() -> None:
        nonlocal code
        await anext(signals)
        code = 130  # what a shell gives who ends by Ctrl-C
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            try:
                allow_files(options.clients)
                await load.run()
            except* LoadError as errors:
                code = str(first_of(errors))
            nursery.cancel_scope.cancel()
    load.report()
    return code


def first_of(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


if __name__ == "__main__":
    sys.exit(trio.run(main, parse_options()))
