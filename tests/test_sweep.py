"""``trio_ws.testing``: what runs a scenario again and again, with trouble that comes ever later."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing

from trio_ws.testing import (
    CancelProbe,
    Fault,
    FaultProbe,
    FaultyStream,
    cancel_every_step,
    fail_every_operation,
)

# Cancelling


def test_a_call_is_cancelled_on_entry_after_each_step_and_before_the_next() -> None:
    progress: list[int] = []

    async def scenario(probe: CancelProbe) -> None:
        steps = 0
        async with trio.open_nursery() as nursery:
            event = trio.Event()
            nursery.start_soon(wait_and_set, event)
            with probe.scope:
                await trio.lowlevel.cancel_shielded_checkpoint()
                steps = 1
                await event.wait()
                steps = 2
            nursery.cancel_scope.cancel()
        assert probe.cancelled is (steps < 2)
        progress.append(steps)

    result = cancel_every_step(scenario)
    # On entry, before and after each step; woken by the event it is not cancelled any more, and
    # then the points of three runs do not come.
    assert progress[0] == progress[1] == 1
    assert progress[-4:] == [2, 2, 2, 2]
    assert result.runs == len(progress)
    assert result.effective == progress.count(1)


def test_a_run_that_happens_to_be_short_does_not_end_a_sweep() -> None:
    async def scenario(probe: CancelProbe) -> None:
        is_short = probe.point in (2, 3, 5)
        with probe.scope:
            for _ in range(1 if is_short else 5):
                await trio.lowlevel.checkpoint()

    by_point = cancel_every_step(scenario)
    assert by_point.runs > 8
    assert by_point.effective > 4


def test_a_run_with_few_operations_does_not_end_a_sweep() -> None:
    async def scenario(probe: FaultProbe) -> None:
        ours, _ = trio.testing.memory_stream_pair()
        stream = FaultyStream(ours)
        probe.arm(stream)
        is_short = probe.operation in (2, 3, 5)
        with suppress(trio.BrokenResourceError):
            for _ in range(1 if is_short else 8):
                await stream.send_all(b"x")
        assert probe.failed is not (is_short or probe.operation >= 8)

    result = fail_every_operation(scenario, Fault.BROKEN)
    assert result.runs == 11
    assert result.effective == 5


async def wait_and_set(event: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    event.set()


def test_a_call_that_has_been_handed_its_result_is_cancelled_before_it_takes_it() -> None:
    outcomes: set[tuple[bool, bool]] = set()

    async def scenario(probe: CancelProbe) -> None:
        woken = False
        result = []

        async def hand_over(task: trio.lowlevel.Task) -> None:
            nonlocal woken
            await trio.testing.wait_all_tasks_blocked()
            if not probe.cancelled:
                woken = True
                trio.lowlevel.reschedule(task)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over, trio.lowlevel.current_task())
            with probe.scope:
                await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
                result.append("taken")
            outcomes.add((woken, bool(result)))
        assert probe.cancelled is not bool(result)

    cancel_every_step(scenario)
    assert outcomes == {(False, False), (True, True)}


def test_with_every_task_the_steps_of_helpers_are_points_too() -> None:
    async def scenario(probe: CancelProbe) -> None:
        async with trio.open_nursery() as nursery:
            event = trio.Event()
            nursery.start_soon(take_steps, event)
            with probe.scope:
                await event.wait()

    async def take_steps(event: trio.Event) -> None:
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        event.set()

    assert cancel_every_step(scenario).runs < 10
    assert cancel_every_step(scenario, every_task=True).runs > 50


def test_an_exception_says_at_which_point_it_came() -> None:
    async def scenario(probe: CancelProbe) -> None:
        with probe.scope:
            await trio.sleep(1)
        assert not (probe.cancelled and probe.point == 2)

    with pytest.raises(AssertionError) as caught:
        cancel_every_step(scenario)
    assert "point=2" in caught.value.__notes__[0]


def test_a_run_that_hangs_is_ended_on_its_clock_and_named() -> None:
    async def scenario(probe: CancelProbe) -> None:
        with probe.scope:
            await trio.sleep(1)
        if probe.point == 1:
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError, match="60 s") as caught:
        cancel_every_step(scenario, seconds=60)
    assert "point=1" in caught.value.__notes__[0]


def test_a_run_that_goes_round_in_circles_is_ended_and_named() -> None:
    async def scenario(probe: CancelProbe) -> None:
        with probe.scope:
            await trio.sleep(1)
        while True:  # noqa: ASYNC110 (that is the circle)
            await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TooSlowError, match="1000 steps") as caught:
        cancel_every_step(scenario, max_steps=1000)
    assert "point=0" in caught.value.__notes__[0]


def test_a_scenario_that_does_not_enter_the_scope_once_is_a_mistake() -> None:
    async def never(probe: CancelProbe) -> None:
        await trio.lowlevel.checkpoint()

    async def twice(probe: CancelProbe) -> None:
        for _ in range(2):
            with probe.scope:
                await trio.lowlevel.checkpoint()

    for scenario in (never, twice):
        with pytest.raises(RuntimeError, match=r"probe\.scope"):
            cancel_every_step(scenario)


# Failing


@pytest.mark.parametrize("fault", Fault)
def test_the_transport_fails_at_each_of_its_operations_and_at_last_not_at_all(fault: Fault) -> None:
    outcomes: list[list[str]] = []

    async def scenario(probe: FaultProbe) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"hello")
        stream = FaultyStream(ours)
        seen: list[str] = []
        probe.arm(stream)
        with trio.move_on_after(5):  # noqa: ASYNC912 (a stream's send_all is one)
            try:
                await stream.send_all(b"x")
                seen.append((await stream.receive_some()).decode())
                seen.append("end" if not probe.failed else "failed")
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                seen.append(type(error).__name__)
        outcomes.append(seen)

    result = fail_every_operation(scenario, fault)
    assert result.runs == 5
    assert result.effective == 2
    assert [outcomes.pop() for _ in range(3)] == [["hello", "end"]] * 3
    failed = {
        Fault.BROKEN: [["BrokenResourceError"], ["BrokenResourceError"]],
        Fault.OS_ERROR: [["ConnectionResetError"], ["ConnectionResetError"]],
        Fault.EOF: [["", "failed"], ["", "failed"]],
        Fault.CLOSE: [["ClosedResourceError"], ["ClosedResourceError"]],
        Fault.STALL: [[], []],
    }
    assert outcomes == failed[fault]


def test_a_fault_that_is_not_survived_is_named() -> None:
    async def scenario(probe: FaultProbe) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"hello")
        stream = FaultyStream(ours)
        probe.arm(stream)
        await stream.receive_some()

    with pytest.raises(trio.BrokenResourceError) as caught:
        fail_every_operation(scenario, Fault.BROKEN)
    assert "operation 0" in caught.value.__notes__[0]
    with pytest.raises(trio.TooSlowError, match="60 s") as stalled:
        fail_every_operation(scenario, Fault.STALL, seconds=60)
    assert "a stall at operation 0" in stalled.value.__notes__[0]


def test_a_run_that_does_not_arm_one_stream_is_a_mistake() -> None:
    async def never(probe: FaultProbe) -> None:
        await trio.lowlevel.checkpoint()

    async def twice(probe: FaultProbe) -> None:
        await trio.lowlevel.checkpoint()
        for stream in trio.testing.memory_stream_pair():
            probe.arm(FaultyStream(stream))

    for scenario in (never, twice):
        with pytest.raises(RuntimeError, match="arm"):
            fail_every_operation(scenario, Fault.BROKEN)
