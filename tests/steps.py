"""What happens in one step of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class Steps(trio.abc.Instrument):
    """The most that a number grows in one step of a task."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.number = number
        self.largest = 0
        self.count = 0
        self._before = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self.number()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        growth = self.number() - self._before
        self.largest = max(self.largest, growth)
        self.count += growth > 0


@contextmanager
def watching(number: Callable[[], int]) -> Iterator[Steps]:
    steps = Steps(number)
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)
