"""Programs of this repository as processes of their own, as a user starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

ROOT: Final = Path(__file__).parents[1]

_PATIENCE: Final = 60.0
"""Seconds after which a program that says nothing hangs, and the test fails."""


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    output: str


class Program:
    """A program that runs."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._output = bytearray()

    async def read_line(self) -> str:
        """The next line of its output, standard error included; empty at the end."""
        while b"\n" not in self._output and await self._read_more():
            pass
        line, newline, rest = self._output.partition(b"\n")
        self._output = rest
        return (line + newline).decode()

    async def _read_more(self) -> bool:
        assert self._process.stdout is not None
        with trio.fail_after(_PATIENCE):
            chunk = await self._process.stdout.receive_some()
        self._output += chunk
        return bool(chunk)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> Ended:
        """How it ends, and the output that :meth:`read_line` has not returned."""
        while await self._read_more():
            pass
        with trio.fail_after(_PATIENCE):
            return Ended(await self._process.wait(), self._output.decode())


@asynccontextmanager
async def running(*arguments: str | Path, cwd: Path = ROOT) -> AsyncGenerator[Program]:
    """Run ``python *arguments`` until the end of the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def run(*arguments: str | Path, cwd: Path = ROOT) -> Ended:
    """Run ``python *arguments`` to its end."""
    async with running(*arguments, cwd=cwd) as program:
        return await program.wait()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
