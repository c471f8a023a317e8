"""A task that waits for another one to do its work, as Trio sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
import trio
import trio.testing

from trio_ws._waiting import Waiter


class Queue:
    """A task that waits, and whether it was taken out again."""

    def __init__(self) -> None:
        self.waiter: Waiter | None = None
        self.forgotten: list[trio.lowlevel.Task] = []

    def forget(self, task: trio.lowlevel.Task, _: None) -> None:
        self.forgotten.append(task)

    async def wait(self) -> None:
        self.waiter = Waiter()
        await self.waiter.wait(self.forget)


async def test_who_is_woken_goes_on(nursery: trio.Nursery) -> None:
    queue = Queue()
    async with trio.open_nursery() as waiting:
        waiting.start_soon(queue.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert queue.waiter is not None
        queue.waiter.wake()
    assert queue.forgotten == []


async def test_who_is_refused_gets_the_error_itself_once(nursery: trio.Nursery) -> None:
    queue, error = Queue(), ValueError("no")

    async def wait() -> None:
        with pytest.raises(ValueError, match="no") as info:
            await queue.wait()
        assert info.value is error

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert queue.waiter is not None
        queue.waiter.refuse(error)
    queue.waiter.unwrap()


async def test_who_is_cancelled_is_taken_out_of_the_queue() -> None:
    queue = Queue()
    with trio.move_on_after(0) as scope:
        await queue.wait()
    assert scope.cancelled_caught
    assert queue.forgotten == [trio.lowlevel.current_task()]


async def test_a_waiter_resumes_a_generator_as_any_outcome_does() -> None:
    def generator() -> Generator[str, None, None]:
        yield "before"
        yield "after"

    async def async_generator() -> AsyncGenerator[str, None]:  # noqa: ASYNC124, ASYNC900 (as it is)
        yield "before"
        yield "after"

    one, other = generator(), async_generator()
    assert next(one) == await anext(other) == "before"
    assert Waiter().send(one) == await Waiter().asend(other) == "after"
    await other.aclose()
