"""A process that a test has started, and can freeze."""

from __future__ import annotations

import signal
import subprocess


class Child:
    """What has a process, which may have ended."""

    _process: subprocess.Popen[str] | None

    def freeze(self) -> None:
        """Let it answer nothing any more, as if the network were dead: no connection is closed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
