"""Several server processes on one port, and who looks after them.

Each worker is this program again. Its standard input is a pipe from here: when that ends, because
this process has, it stops. It says in a line on its standard output that it listens.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

import trio

from .listening import reserve_port, url_of
from .logs import log
from .options import Options

READY: Final = b"listening\n"
"""What a worker says when it listens."""

_LAST_WORDS: Final = 2.0
"""Seconds beyond the grace for a worker to end; then it is killed."""

_PAUSE: Final = 1.0
"""Seconds before a worker that has ended is replaced."""


class Supervisor:
    """Runs workers, and replaces those that end.

    :param arguments: the command line, which the workers are given too.
    """

    def __init__(self, options: Options, arguments: Sequence[str]) -> None:
        self._options = options
        self._arguments = arguments
        self._workers: set[trio.Process] = set()
        self._patience = trio.CancelScope()
        self._stopping = False
        self._code = 0

    async def run(self) -> int:
        """Until a signal comes, or a worker does not even start; then until all have ended.

        :returns: the exit code: 0, or that of the worker that did not start.
        :raises OSError: the port can not be listened on.
        """
        with (
            trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
            await reserve_port(self._options.host, self._options.port) as sock,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_signals, signals)
                with self._patience:
                    async with trio.open_nursery() as workers:
                        await self._start_all(workers, sock)
                nursery.cancel_scope.cancel()
        if not self._code:
            log(logging.INFO, "closed")
        return self._code

    async def _start_all(self, nursery: trio.Nursery, sock: trio.socket.SocketType) -> None:
        for _ in range(self._options.workers):
            listening = trio.Event()
            nursery.start_soon(self._keep_running, sock.getsockname()[1], listening)
            await listening.wait()
            if self._stopping:
                return
        url = url_of(sock, secure=self._options.certificate is not None)
        log(logging.INFO, "listening", workers=self._options.workers, url=url)

    async def _stop_on_signals(self, signals: AsyncIterator[int]) -> None:
        """The workers are told of each, for a second one hurries them."""
        async for number in signals:
            log(logging.INFO, "closing", signal=signal.Signals(number).name)
            self._stop()

    def _stop(self) -> None:
        grace = 0.0 if self._stopping else self._options.grace
        self._patience.deadline = trio.current_time() + grace + _LAST_WORDS
        self._stopping = True
        for worker in self._workers:
            worker.terminate()

    async def _keep_running(self, port: int, listening: trio.Event) -> None:
        while not self._stopping:
            code = await self._run_one(port, listening)
            if not listening.is_set():
                if not self._stopping:
                    self._code = code if code > 0 else 1
                    self._stop()
                listening.set()
            if not self._stopping:
                log(logging.ERROR, "worker ended", code=code)
                await trio.sleep(_PAUSE)

    async def _run_one(self, port: int, listening: trio.Event) -> int:
        """Run a worker to its end; its exit code."""
        command = [sys.executable, "-m", "examples.chat", *self._arguments]
        process = await trio.lowlevel.open_process(
            [*command, "--port", str(port), "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on in its own way
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._workers.add(process)
        if self._stopping:
            process.terminate()
        try:
            async with process.stdin, process.stdout:
                if await process.stdout.receive_some() == READY:
                    listening.set()
                return await process.wait()
        finally:
            self._workers.discard(process)
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
