"""Calls in tasks of their own: a test can see them wait, cancel them and ask for the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, TypeVarTuple

import trio
import trio.testing

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Call(Generic[T]):
    """One call that runs in the background; see :func:`begin`.

    :ivar is_over: whether it has returned, raised or been cancelled.
    :ivar was_cancelled: whether it ended because of :meth:`cancel`.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.was_cancelled = False
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._error: Exception | None = None
        self._results: list[T] = []

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> None:
        try:
            with self._scope:
                self._results.append(await function(*args))
        except Exception as error:
            self._error = error
        self.was_cancelled = self._scope.cancelled_caught
        self.is_over = True
        self._over.set()

    def cancel(self) -> None:
        """Ask for cancellation; the call ends in the next tick at the earliest."""
        self._scope.cancel()

    async def result(self) -> T:
        """Wait for the end; what it returned, or raise what it raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        (result,) = self._results
        return result


async def begin(
    nursery: trio.Nursery, function: Callable[[*Ts], Awaitable[T]], *args: *Ts
) -> Call[T]:
    """Call *function* in the background, and let everything run until it is stuck."""
    call: Call[T] = Call()
    nursery.start_soon(call.run, function, *args)
    await trio.testing.wait_all_tasks_blocked()
    return call
