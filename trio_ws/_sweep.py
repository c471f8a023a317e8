"""Running a scenario again and again, with trouble that comes ever later.

Theory of operation
-------------------

Each run of a scenario is a Trio run of its own, on a clock that jumps. Between any two steps of
tasks an instrument sees a *point*; in run *k* the scope is cancelled at point *k*, or the transport
fails at operation *k*. When some runs in a row have ended before their point came, it is over: one
alone may just have been shorter than those before, for which task runs first is chance.

A point is where something can have changed since the last one: right after a step of the task, when
it is parked or already waits for its next turn, and right before its next step, if other tasks or
the world have had a turn meanwhile. There the task may just have been woken with a result in hand.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeVar

import trio
import trio.testing
from trio.lowlevel import Task

from ._faulty import FaultyStream

Probe = TypeVar("Probe", "CancelProbe", "FaultProbe")

_SECONDS: Final = 10_000.0
_MAX_STEPS: Final = 100_000
_CALM_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep has done: the result of both kinds.

    :ivar runs: how often the scenario ran to its end, the undisturbed runs included.
    :ivar effective: in how many of them the trouble had an effect: the call ended by cancellation,
        or the transport failed.
    :ivar steps: steps that all tasks of all runs took.
    """

    runs: int
    effective: int
    steps: int


class CancelProbe:
    """What :func:`cancel_every_step` gives to each run of its scenario.

    :ivar point: at which point this run cancels; 0 is before the first step.
    :ivar scope: a context manager to put around the call under test, once. It is a cancel scope
        that gets cancelled at the point.
    :ivar cancelled: whether the call ended by cancellation. False until then.
    """

    def __init__(self, point: int, every_task: bool) -> None:
        self.point = point
        self.cancelled: bool = False
        self.scope: _ProbedScope = _ProbedScope(self)
        self._every_task = every_task
        self._task: Task | None = None
        self._points_seen = 0
        self._changed = False
        self._where = "before its point"

    def __repr__(self) -> str:
        return f"<CancelProbe point={self.point}, {self._where}>"

    def _enter(self, scope: trio.CancelScope) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._see_point("on entry")

    def _exit(self, scope: trio.CancelScope) -> None:
        self._task = None
        self.cancelled = scope.cancelled_caught

    def _see_point(self, where: str) -> None:
        if self._points_seen == self.point:
            self._where = where
            self._scope.cancel()
        self._points_seen += 1
        self._changed = False

    def _counts(self, task: Task) -> bool:
        return self._task is not None and (self._every_task or task is self._task)

    def before_step(self, task: Task) -> None:
        if self._changed and self._counts(task):
            self._see_point(f"before a step of {task.name}, which was woken")

    def after_step(self, task: Task) -> None:
        if self._counts(task):
            self._see_point(f"after a step of {task.name}")
        else:
            self._changed = True

    def world_turns(self) -> None:
        """I/O and deadlines have had their turn."""
        self._changed = True

    @property
    def is_calm(self) -> bool:
        """Whether the call was over before its point came."""
        return self._points_seen <= self.point


class _ProbedScope:
    """A cancel scope, of the task that enters it."""

    def __init__(self, probe: CancelProbe) -> None:
        self.was_entered: bool = False
        self._probe = probe
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        if self.was_entered:
            raise RuntimeError("probe.scope can be entered once in each run")
        self.was_entered = True
        self._scope.__enter__()
        self._probe._enter(self._scope)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        suppressed = self._scope.__exit__(exc_type, exc, traceback)
        self._probe._exit(self._scope)
        return suppressed


def cancel_every_step(
    scenario: Callable[[CancelProbe], Awaitable[object]],
    *,
    every_task: bool = False,
    seconds: float = _SECONDS,
    max_steps: int = _MAX_STEPS,
    autojump_threshold: float = 0.0,
) -> SweepResult:
    """Run a scenario again and again, and cancel its scope at an ever later point.

    A point is any place between two steps of tasks: before the first await, while the task is
    parked, after it was woken and before it runs. In each run, which is a Trio run of its own, the
    scope is cancelled at one of them, until three runs in a row have ended before their point came.
    So what has to hold wherever a call is cancelled is shown for every place.

    :param scenario: an async function that is given a :class:`CancelProbe`. It puts
        ``with probe.scope:`` around the call under test, in any of its tasks, and asserts what has
        to hold afterwards; ``probe.cancelled`` says whether the call was cancelled.
    :param every_task: count the points of every task of the run, as long as the scope lasts, and
        not only those of the task that entered it: the scope is cancelled between any two steps of
        its peers and helpers, too. Default False.
    :param seconds: how long a run may take, on its clock, which jumps ahead when nothing moves.
        Default 10000.
    :param max_steps: how many steps the tasks of a run may take. Default 100000.
    :param autojump_threshold: see :class:`trio.testing.MockClock`: seconds in which nothing moves
        before the clock jumps. Default 0, which is right for what lives in this process alone.
    :returns: how much has been run.
    :raises trio.TooSlowError: a run took longer than *seconds* or *max_steps*.
    :raises RuntimeError: a run ended and its scope was never entered, or it was entered twice.

    What the scenario raises comes out. Each exception has a note that says which point it was.
    A shield that waits for ever is the one thing that can not be ended, and hangs.

    Which of two runnable tasks runs first is chance in Trio, and differs between runs. So does the
    number of points, which is why one run that ends before its point does not end the sweep.

    .. example: tests

    .. code-block:: python

        async def send_and_be_cancelled(probe):
            async with trio.open_nursery() as nursery:
                client, server = await trio_ws.testing.websocket_pair(nursery)
                with probe.scope:
                    await client.send("one")
                await client.send("two")
                messages = [await server.receive()]
                if messages == ["one"]:
                    messages.append(await server.receive())
                assert messages == (["two"] if probe.cancelled else ["one", "two"])
                nursery.cancel_scope.cancel()

        def test_a_cancelled_send_was_not_sent():
            trio_ws.testing.cancel_every_step(send_and_be_cancelled)
    """
    limits = _Limits(seconds, max_steps, autojump_threshold)
    sweep = _Sweep()
    while True:
        probe = CancelProbe(sweep.runs, every_task)
        instrument = _Instrument(limits, probe)
        with sweep.run(probe, instrument):
            _run(scenario, probe, instrument)
            if not probe.scope.was_entered:
                raise RuntimeError("this run has not entered probe.scope")
        if sweep.is_over_after(had_effect=probe.cancelled, was_calm=probe.is_calm):
            return sweep.result()


class Fault(enum.Enum):
    """How :func:`fail_every_operation` lets a transport fail."""

    BROKEN = "BrokenResourceError"
    """Each operation raises ``trio.BrokenResourceError``, as Trio's streams do."""
    OS_ERROR = "OSError"
    """Each operation raises ``ConnectionResetError``."""
    EOF = "EOF"
    """Nothing more is received, and what is sent is lost."""
    CLOSE = "a close by another task"
    """Another task closes the transport while the operation is under way."""
    STALL = "a stall"
    """Nothing is received or sent any more."""


class FaultProbe:
    """What :func:`fail_every_operation` gives to each run of its scenario.

    :ivar fault: in what way the transport fails.
    :ivar operation: at which operation this run lets it fail; 0 is the first one.
    :ivar failed: whether it has failed.
    """

    def __init__(self, fault: Fault, operation: int) -> None:
        self.fault = fault
        self.operation = operation
        self.failed: bool = False
        self._stream: FaultyStream | None = None

    def __repr__(self) -> str:
        return f"<FaultProbe {self.fault.value} at operation {self.operation}>"

    def arm(self, stream: FaultyStream) -> None:
        """From now on the operations of *stream* count.

        :param stream: the transport that is to fail.
        :raises RuntimeError: this run has armed one already.
        """
        if self._stream is not None:
            raise RuntimeError("a run can arm one stream")
        self._stream = stream
        stream.call_after(self.operation, self._fail)
        if self.fault is Fault.BROKEN:
            stream.fail_after(self.operation, trio.BrokenResourceError("told to fail"))
        elif self.fault is Fault.OS_ERROR:
            stream.fail_after(self.operation, ConnectionResetError("told to fail"))
        elif self.fault is Fault.EOF:
            stream.fail_after(self.operation, None)

    def _fail(self) -> None:
        assert self._stream is not None
        self.failed = True
        if self.fault is Fault.STALL:
            self._stream.stall()
        elif self.fault is Fault.CLOSE:
            trio.lowlevel.spawn_system_task(_close, self._stream)


async def _close(stream: FaultyStream) -> None:
    with suppress(Exception):
        await stream.aclose()


def fail_every_operation(
    scenario: Callable[[FaultProbe], Awaitable[object]],
    fault: Fault,
    *,
    seconds: float = _SECONDS,
    max_steps: int = _MAX_STEPS,
    autojump_threshold: float = 0.0,
) -> SweepResult:
    """Run a scenario again and again, with a transport that fails at an ever later operation.

    It ends when in three runs in a row the transport has not come to that operation: how many there
    are differs between runs, for which of two runnable tasks runs first is chance in Trio.

    :param scenario: an async function that is given a :class:`FaultProbe`. It wraps a transport in
        a :class:`FaultyStream`, calls ``probe.arm`` with it when its operations are to count, and
        asserts what has to hold; ``probe.failed`` says whether the transport has failed by now.
    :param fault: in what way it fails. After a :attr:`Fault.STALL` nothing ends but by a deadline.
    :param seconds: as for :func:`cancel_every_step`; so *max_steps*, *autojump_threshold*.
    :returns: how much has been run.
    :raises trio.TooSlowError: a run took longer than *seconds* or *max_steps*.
    :raises RuntimeError: a run ended and has armed no stream.

    What the scenario raises comes out. Each exception has a note that says which operation it was.

    .. example: tests

    .. code-block:: python

        async def send_over_a_bad_transport(probe):
            left, right = trio.testing.memory_stream_pair()
            faulty = trio_ws.testing.FaultyStream(left)
            async with trio.open_nursery() as nursery:
                client, server = await trio_ws.testing.websocket_pair(
                    nursery, (faulty, right), timeouts=trio_ws.Timeouts()
                )
                probe.arm(faulty)
                try:
                    await client.send("hello")
                    await client.flush()
                except trio_ws.ConnectionClosedError:
                    assert probe.failed
                nursery.cancel_scope.cancel()

        def test_a_send_fails_only_if_the_transport_does():
            for fault in (trio_ws.testing.Fault.BROKEN, trio_ws.testing.Fault.EOF):
                trio_ws.testing.fail_every_operation(send_over_a_bad_transport, fault)
    """
    limits = _Limits(seconds, max_steps, autojump_threshold)
    sweep = _Sweep()
    while True:
        probe = FaultProbe(fault, sweep.runs)
        instrument = _Instrument(limits, None)
        with sweep.run(probe, instrument):
            _run(scenario, probe, instrument)
            if probe._stream is None:
                raise RuntimeError("this run has armed no stream")
        if sweep.is_over_after(had_effect=probe.failed, was_calm=not probe.failed):
            return sweep.result()


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float
    max_steps: int
    autojump_threshold: float


class _Sweep:
    """The counts so far, and whose fault an exception is."""

    def __init__(self) -> None:
        self.runs = 0
        self.effective = 0
        self.steps = 0
        self._calm_runs = 0

    @contextmanager
    def run(self, probe: CancelProbe | FaultProbe, instrument: _Instrument) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            error.add_note(f"in the run of {probe!r}")
            raise
        self.runs += 1
        self.steps += instrument.steps

    def is_over_after(self, *, had_effect: bool, was_calm: bool) -> bool:
        """Count what a run has shown; whether it was the last of enough calm ones in a row."""
        self.effective += had_effect
        self._calm_runs = self._calm_runs + 1 if was_calm else 0
        return self._calm_runs == _CALM_RUNS

    def result(self) -> SweepResult:
        return SweepResult(self.runs, self.effective, self.steps)


class _Instrument(trio.abc.Instrument):
    """Counts steps, tells the probe of each, and ends a run that has taken too many.

    :ivar steps: how many there were.
    """

    def __init__(self, limits: _Limits, probe: CancelProbe | None) -> None:
        self.limits = limits
        self.steps = 0
        self.limit_scope = trio.CancelScope()
        self._probe = probe

    @property
    def has_too_many_steps(self) -> bool:
        return self.steps > self.limits.max_steps

    def before_task_step(self, task: Task) -> None:
        if self._probe is not None:
            self._probe.before_step(task)

    def after_task_step(self, task: Task) -> None:
        self.steps += 1
        if self.has_too_many_steps:
            self.limit_scope.cancel()
        if self._probe is not None:
            self._probe.after_step(task)

    def after_io_wait(self, timeout: float) -> None:
        if self._probe is not None:
            self._probe.world_turns()


def _run(
    scenario: Callable[[Probe], Awaitable[object]], probe: Probe, instrument: _Instrument
) -> None:
    limits = instrument.limits

    async def main() -> None:
        instrument.limit_scope.deadline = trio.current_time() + limits.seconds
        with instrument.limit_scope:
            await scenario(probe)
        if instrument.limit_scope.cancelled_caught:
            limit = (
                f"{limits.max_steps} steps"
                if instrument.has_too_many_steps
                else f"{limits.seconds} s of its clock"
            )
            raise trio.TooSlowError(f"the scenario took more than {limit}")

    clock = trio.testing.MockClock(autojump_threshold=limits.autojump_threshold)
    trio.run(main, clock=clock, instruments=[instrument])
