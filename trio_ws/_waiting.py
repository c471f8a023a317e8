"""Parked tasks: how one task gives another something in the very step that wakes it."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task


class Waiter:
    """The current task, waiting in a queue for another one to do its work.

    Whoever does the work takes the waiter out of the queue, leaves the result in it and wakes it,
    all in one step. Nothing is awaited after that, so the result can not be lost.
    """

    __slots__ = ("_error", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self._error: Exception | None = None

    async def park(self, forget: Callable[[Task, None], object]) -> None:
        """Wait to be woken; raise what :meth:`refuse` was given.

        Cancellation calls *forget* with the task, to take it out of its queue, and nothing has
        happened. A task that has been woken is not cancelled any more.
        """

        def abort(_: RaiseCancelT) -> Abort:
            forget(self.task, None)
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        """The work is done."""
        trio.lowlevel.reschedule(self.task)

    def refuse(self, error: Exception) -> None:
        """The work can not be done any more: let :meth:`park` raise *error*."""
        self._error = error
        trio.lowlevel.reschedule(self.task)


class Sleeper:
    """A background task that parks itself while there is nothing to do."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Task | None = None

    def __bool__(self) -> bool:
        """Whether the task sleeps."""
        return self._task is not None

    async def sleep(self) -> None:
        """Park the current task until :meth:`wake`."""

        def abort(_: RaiseCancelT) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Let it go on; only if it sleeps."""
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task)
