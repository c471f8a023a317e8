"""A real Redis on a port of its own, for the tests."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from child import Child
from programs import free_port


class RedisServer(Child):
    """A Redis that forgets everything when it is stopped.

    Starting and stopping wait for it: it takes some milliseconds.
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("there is no Redis: Debian has it in redis-server")
        self._program = program
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[str] | None = None
        self.url = f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        options = ("--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory))
        self._process = subprocess.Popen(
            [self._program, "--port", str(self._port), *options], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ready to accept connections" in line:
                return
        raise AssertionError("Redis did not start")

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        self._process = None

    def run(self, *command: str) -> str:
        """The answer to a command."""
        client = ["redis-cli", "-p", str(self._port), *command]
        return subprocess.run(client, capture_output=True, check=True, text=True).stdout.strip()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self.stop()
