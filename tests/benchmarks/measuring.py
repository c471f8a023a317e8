"""Runs a server on one core and the load client on another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blocks import OFFER, write_block
from building import build_client
from memory import peak_above, reset_peak, resident
from peers import Peer
from rows import KIB, MIB, OURS, PLAIN, Kind, Row

_PATIENCE: Final = 120.0
"""Seconds after which whatever is measured must have ended."""

_FIRST_CONNECTIONS: Final = 100
"""Connections that are there before memory is read for the first time: what only they need."""

CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Failed(Exception):
    """Something could not be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What came of one measurement.

    :ivar value: in the unit of its row.
    :ivar server_user: CPU time of the server in its own code, in microseconds for each message.
    :ivar server_system: so in the kernel.
    :ivar client_busy: of the client's core, the part that was used. Near 1 the client was what
        limited the rate.
    :ivar unanswered: whether the server sometimes ended TCP without answering a Close.
    """

    value: float
    server_user: float = 0.0
    server_system: float = 0.0
    client_busy: float = 0.0
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how much is measured.

    :ivar seconds: for which a rate is measured, and before that *warm_up*.
    :ivar scale: of connections that are held, and of the message that is sent in parts.
    """

    seconds: float
    warm_up: float
    scale: float


class Server:
    """A server that runs: a context manager."""

    def __init__(self, peer: Peer, row: Row, certificate: Path) -> None:
        self._peer = peer
        self._process = subprocess.Popen(
            peer.command(row, certificate),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        _pin(self._process.pid, CORES[:1])
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().partition(" ")
        if word != "port":
            self._process.kill()
            raise Failed(f"the server of {peer.title} does not start")
        self.port = int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid


class Laboratory:
    """Measures; a context manager that keeps servers for as long as the next row needs the same."""

    def __init__(self, certificate: Path, workspace: Path, effort: Effort) -> None:
        self._certificate = certificate
        self._workspace = workspace
        self.effort = effort
        self._running = ExitStack()
        self._servers: dict[str, Server] = {}
        self._for: tuple[str, bool, int | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    def measure(self, peer: Peer, row: Row) -> Figure:
        """One figure.

        :raises Failed: there is none.
        """
        if row.kind is Kind.MEMORY:
            return self._measure_memory(peer, row)
        if row.kind is Kind.PARTS:
            return self._measure_parts(peer, row)
        return self._measure_rate(peer, row)

    def server(self, peer: Peer, row: Row) -> Server:
        """One that does what the row wants, started unless it runs."""
        if self._for != row.server:
            self._running.close()
            self._servers.clear()
            self._for = row.server
        if peer.name not in self._servers:
            server = self._running.enter_context(Server(peer, row, self._certificate))
            self._servers[peer.name] = server
        return self._servers[peer.name]

    @staticmethod
    def pin_to_client(pid: int) -> None:
        """Let a process run where the client does."""
        _pin(pid, CORES[-1:])

    def _measure_rate(self, peer: Peer, row: Row) -> Figure:
        server = self.server(peer, row)
        with self._client(peer, row, server, row.connections) as client:
            output, _ = client.communicate(timeout=_PATIENCE)
        if client.returncode:
            raise Failed(f"{peer.title}: {row.title}: the load client failed")
        measured = json.loads(output)
        count, seconds = measured["count"], measured["seconds"]
        if not count:
            raise Failed(f"{peer.title}: {row.title}: not one message came back")
        return Figure(
            count / seconds,
            measured["server_user"] / count * 1e6,
            measured["server_system"] / count * 1e6,
            measured["client_cpu"] / seconds,
            measured["unanswered"] > 0,
        )

    def _measure_memory(self, peer: Peer, row: Row) -> Figure:
        count = max(1, int(row.connections * self.effort.scale))
        with (
            Server(peer, row, self._certificate) as server,
            self._holding(peer, row, server, _FIRST_CONNECTIONS),
        ):
            before = resident(server.pid)
            with self._holding(peer, row, server, count):
                held = resident(server.pid) - before
        return Figure(held / count / KIB)

    def _measure_parts(self, peer: Peer, row: Row) -> Figure:
        size = int(row.size * self.effort.scale)
        with Server(peer, row, self._certificate) as server:
            # A first, small message, so that what is counted is not the code that it takes.
            self._run_parts_client(server, MIB)
            idle = resident(server.pid)
            reset_peak(server.pid)
            client_peak = self._run_parts_client(server, size)
            return Figure(max(client_peak, peak_above(server.pid, idle)) / MIB)

    def _run_parts_client(self, server: Server, size: int) -> int:
        """Bytes by which the client's memory rose."""
        program = Path(__file__).with_name("parts_client.py")
        command = [sys.executable, str(program), str(server.port), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            _pin(client.pid, CORES[-1:])
            output, _ = client.communicate(timeout=_PATIENCE)
        if client.returncode:
            raise Failed(f"{OURS}: the client that sends in parts failed")
        above_idle: int = json.loads(output)["above_idle"]
        return above_idle

    @contextmanager
    def _holding(self, peer: Peer, row: Row, server: Server, count: int) -> Iterator[None]:
        """Have connections that do nothing."""
        with self._client(peer, row, server, count) as client:
            assert client.stdout is not None
            if not client.stdout.readline():
                raise Failed(f"{peer.title}: {row.title}: the load client failed")
            yield
            client.communicate(input="\n")

    @contextmanager
    def _client(
        self, peer: Peer, row: Row, server: Server, connections: int
    ) -> Iterator[subprocess.Popen[str]]:
        block = self._workspace / f"{row.name}.frames"
        if not block.exists():
            write_block(row, block)
        program, _ = build_client()
        command = [program, row.client, server.port, block]
        command += ["--server", server.pid]
        command += ["--connections", connections, "--in-flight", row.in_flight]
        command += ["--seconds", self.effort.seconds, "--warm-up", self.effort.warm_up]
        if row.tls:
            command.append("--tls")
        if peer.name == PLAIN:
            command.append("--raw")
        if row.level is not None:
            command += ["--offer", OFFER]
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            _pin(client.pid, CORES[-1:])
            try:
                yield client
            except BaseException:
                client.kill()
                raise


def _pin(pid: int, cores: list[int]) -> None:
    """Let a process run on these cores only, where that is possible and there are two."""
    if len(CORES) > 1:
        os.sched_setaffinity(pid, cores)
