"""The ticker: one task per run, flushes in the next tick, deadlines at their time, one budget."""

from __future__ import annotations

import gc
import math
import random
import socket
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from trio_ws._ticker import DEFAULT_BUDGET, FRAME_PRICE, Ticker, Timer, current_ticker


class TickCounter(trio.abc.Instrument):
    """Counts the ticks of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@pytest.fixture
async def ticks() -> TickCounter:
    counter = TickCounter()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.add_instrument(counter)
    return counter


class Stream:
    """Notes the ticks in which it is flushed and the times at which its deadline passes."""

    def __init__(
        self,
        ticks: TickCounter | None = None,
        *,
        on_flush: Callable[[], None] | None = None,
        on_deadline: Callable[[], None] | None = None,
        work: int = 0,
    ) -> None:
        self._work = work
        self._ticks = ticks or TickCounter()
        self._on_flush = on_flush
        self._on_deadline = on_deadline
        self.flushes: list[int] = []
        self.deadlines: list[float] = []

    def flush_now(self) -> int:
        assert trio.lowlevel.currently_ki_protected()
        self.flushes.append(self._ticks.count)
        if self._on_flush is not None:
            self._on_flush()
        return self._work

    def deadline_passed(self) -> None:
        assert trio.lowlevel.currently_ki_protected()
        self.deadlines.append(trio.current_time())
        if self._on_deadline is not None:
            self._on_deadline()


def timer_for(stream: Stream) -> Timer:
    return Timer(current_ticker(), stream.deadline_passed)


def ticker_tasks() -> list[str]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    names = [task.name for nursery in root.child_nurseries for task in nursery.child_tasks]
    return [name for name in names if "ticker" in name]


async def quiet() -> None:
    """Until nothing more happens without the clock."""
    await trio.testing.wait_all_tasks_blocked()


# One per run


async def test_a_run_has_one_ticker_and_one_task_for_it() -> None:
    ticker = current_ticker()
    await quiet()
    assert current_ticker() is ticker
    async with trio.open_nursery() as nursery:
        for _ in range(3):

            async def find() -> None:
                await trio.lowlevel.checkpoint()
                assert current_ticker() is ticker

            nursery.start_soon(find)
    assert ticker_tasks() == ["trio_ws ticker"]


def test_every_run_has_a_ticker_of_its_own_and_ends_whatever_is_pending() -> None:
    tickers: list[Ticker] = []

    async def main() -> None:
        tickers.append(current_ticker())
        stream = Stream()
        timer_for(stream).set(trio.current_time() + 1e6)
        current_ticker().flush_soon(stream)
        await quiet()
        assert len(stream.flushes) == 1
        current_ticker().flush_soon(stream)

    for _ in range(3):
        trio.run(main)
    assert len(set(map(id, tickers))) == 3


def test_a_run_ends_before_its_ticker_has_begun() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        current_ticker().flush_soon(Stream())

    trio.run(main)


def test_runs_in_several_threads_do_not_touch_each_other() -> None:
    count = 4
    barrier = threading.Barrier(count, timeout=30)
    flushed_in: list[tuple[int, int]] = []
    tickers: list[Ticker] = []

    def run() -> None:
        mine = threading.get_ident()

        async def main() -> None:
            tickers.append(current_ticker())
            barrier.wait()
            for _ in range(100):
                stream = Stream(
                    on_flush=lambda: flushed_in.append((mine, threading.get_ident())),
                    on_deadline=lambda: flushed_in.append((mine, threading.get_ident())),
                )
                current_ticker().flush_soon(stream)
                timer_for(stream).set(trio.current_time())
                await quiet()
            barrier.wait()

        trio.run(main)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, tickers))) == count
    assert len(flushed_in) == count * 200
    assert all(owner == thread for owner, thread in flushed_in)


# Flushing


async def test_a_flush_comes_in_the_next_tick(ticks: TickCounter) -> None:
    for settle in (False, True, True):
        ticker = current_ticker()
        if settle:
            await quiet()
        stream = Stream(ticks)
        ticker.flush_soon(stream)
        now = ticks.count
        assert stream.flushes == []
        await quiet()
        assert stream.flushes == [now + 1]


async def test_streams_are_flushed_once_in_the_order_of_their_asking(ticks: TickCounter) -> None:
    ticker = current_ticker()
    await quiet()
    order: list[int] = []
    streams = [Stream(ticks, on_flush=partial(order.append, number)) for number in range(5)]
    for stream in streams * 3:
        ticker.flush_soon(stream)
    await quiet()
    assert order == [0, 1, 2, 3, 4]
    ticker.flush_soon(streams[1])
    await quiet()
    assert order == [0, 1, 2, 3, 4, 1]


async def test_a_stream_that_asks_while_it_is_flushed_has_its_turn_in_the_tick_after(
    ticks: TickCounter,
) -> None:
    ticker = current_ticker()
    await quiet()

    def again() -> None:
        if len(greedy.flushes) < 5:
            ticker.flush_soon(greedy)
            ticker.flush_soon(other)

    greedy = Stream(ticks, on_flush=again)
    other = Stream(ticks)
    ticker.flush_soon(greedy)
    begin = ticks.count + 1
    await quiet()
    assert greedy.flushes == [begin, begin + 1, begin + 2, begin + 3, begin + 4]
    assert other.flushes == [begin + 1, begin + 2, begin + 3, begin + 4]


async def test_streams_that_have_much_to_write_share_ticks(ticks: TickCounter) -> None:
    ticker = current_ticker()
    await quiet()
    order: list[int] = []

    def work(number: int) -> None:
        order.append(number)
        if order == [0]:
            ticker.flush_soon(streams[0])

    streams = [
        Stream(ticks, on_flush=partial(work, number), work=300 * 1024) for number in range(10)
    ]
    for stream in streams:
        ticker.flush_soon(stream)
    begin = ticks.count + 1
    await quiet()
    assert order == [*range(10), 0]
    assert [stream.flushes[0] - begin for stream in streams] == [0] * 4 + [1] * 4 + [2] * 2
    assert streams[0].flushes == [begin, begin + 2]


async def test_many_streams_that_have_little_to_write_share_ticks(ticks: TickCounter) -> None:
    ticker = current_ticker()
    await quiet()
    streams = [Stream(ticks, work=1) for _ in range(1000)]
    for stream in streams:
        ticker.flush_soon(stream)
    begin = ticks.count + 1
    await quiet()
    flushes = [stream.flushes for stream in streams]
    assert flushes == sorted([tick] for (tick,) in flushes)
    assert [flushes.count([begin + tick]) for tick in range(4)] == [256, 256, 256, 232]


async def test_who_asks_in_every_tick_is_flushed_in_the_same_or_the_next(
    ticks: TickCounter,
) -> None:
    ticker = current_ticker()
    await quiet()
    stream = Stream(ticks)
    asked = []
    for _ in range(20):
        ticker.flush_soon(stream)
        asked.append(ticks.count)
        await trio.lowlevel.checkpoint()
    await quiet()
    assert all({tick, tick + 1} & set(stream.flushes) for tick in asked)


# Deadlines


async def test_deadlines_pass_in_order_each_at_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    passed: list[tuple[int, float]] = []
    start = trio.current_time()

    def note(seconds: int) -> None:
        passed.append((seconds, trio.current_time()))

    for seconds in (5, 1, 4, 2, 3, 0):
        timer_for(Stream(on_deadline=partial(note, seconds))).set(start + seconds)
    await trio.sleep(10)
    assert passed == [(seconds, start + seconds) for seconds in range(6)]
    assert current_ticker().pending_deadlines == 0


async def test_the_earliest_time_that_was_asked_for_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = Stream()
    timer = timer_for(stream)
    start = trio.current_time()
    for seconds in (5, 7, 3, 3, 4, math.inf):
        timer.set(start + seconds)
    await trio.sleep(10)
    assert stream.deadlines == [start + 3]
    timer.set(math.inf)
    assert current_ticker().pending_deadlines == 0
    timer.set(start + 11)
    await trio.sleep(10)
    assert stream.deadlines == [start + 3, start + 11]


async def test_a_time_in_the_past_is_due_at_once(autojump_clock: trio.testing.MockClock) -> None:
    stream = Stream()
    timer = timer_for(stream)
    for at in (trio.current_time(), trio.current_time() - 5, -math.inf):
        timer.set(at)
        assert stream.deadlines == []
        await quiet()
        assert stream.deadlines == [trio.current_time()]
        stream.deadlines.clear()


async def test_a_closed_timer_never_fires_and_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = Stream()
    timer = timer_for(stream)
    start = trio.current_time()
    timer.set(start + 2)
    timer.set(start + 1)
    timer.close()
    timer.close()
    assert current_ticker().pending_deadlines == 0
    timer.set(start + 1)
    await trio.sleep(10)
    assert stream.deadlines == []
    assert current_ticker().pending_deadlines == 0


async def test_a_closed_timer_does_not_keep_its_owner_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await quiet()
    others = [timer_for(Stream()) for _ in range(5)]
    stream = Stream()
    owner = weakref.ref(stream)
    timer = timer_for(stream)
    for each in (timer, *others):
        each.set(trio.current_time() + 1)
    timer.close()
    assert current_ticker().pending_deadlines == 6
    del stream
    gc.collect()
    assert owner() is None


async def test_a_timer_that_another_one_closes_at_the_same_time_does_not_fire(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    first, second = Stream(on_deadline=lambda: closed.close()), Stream()
    closed = timer_for(second)
    timer_for(first).set(start + 1)
    closed.set(start + 1)
    await trio.sleep(10)
    assert first.deadlines == [start + 1]
    assert second.deadlines == []


async def test_a_timer_may_be_set_when_it_fires(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    stream = Stream(on_deadline=lambda: timer.set(trio.current_time() + 1))
    timer = timer_for(stream)
    timer.set(start + 1)
    await trio.sleep(5.5)
    timer.close()
    assert stream.deadlines == [start + second for second in range(1, 6)]
    await trio.sleep(10)
    assert len(stream.deadlines) == 5


async def test_a_timer_set_for_the_past_when_it_fires_holds_nobody_up(ticks: TickCounter) -> None:
    at: list[int] = []

    def once_more() -> None:
        at.append(ticks.count)
        if len(at) < 10:
            timer.set(trio.current_time() - 1)
        if len(at) == 5:
            current_ticker().flush_soon(flushed)

    flushed = Stream(ticks)
    timer = timer_for(Stream(on_deadline=once_more))
    timer.set(trio.current_time())
    await quiet()
    assert len(set(at)) == len(at) == 10
    assert at[4] < flushed.flushes[0] < at[9]


async def test_a_timer_may_be_closed_when_it_fires(autojump_clock: trio.testing.MockClock) -> None:
    stream = Stream(on_deadline=lambda: timer.close())
    timer = timer_for(stream)
    timer.set(trio.current_time() + 1)
    await trio.sleep(10)
    assert len(stream.deadlines) == 1
    assert current_ticker().pending_deadlines == 0


async def test_an_earlier_deadline_wakes_a_ticker_that_waits_for_a_later_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    late, early = Stream(), Stream()
    start = trio.current_time()
    timer_for(late).set(start + 5)
    await quiet()
    timer_for(early).set(start + 1)
    await trio.sleep(2)
    assert early.deadlines == [start + 1]
    assert late.deadlines == []


async def test_a_time_that_is_asked_for_again_is_kept_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = Stream()
    timer, other = timer_for(stream), timer_for(Stream())
    far = trio.current_time() + 1000
    for rounds in range(1, 20):
        timer.set(far)
        timer.set(trio.current_time() + 1)
        await trio.sleep(1.5)
        assert len(stream.deadlines) == rounds
        timer.set(far)
        for _ in range(3):
            other.set(far)
            other.close()
            other = timer_for(Stream())
        assert current_ticker().pending_deadlines <= 2
    timer.close()
    assert current_ticker().pending_deadlines == 0


async def test_bytes_that_came_before_a_deadline_are_seen_before_it_passes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = socket.socketpair()
    with left, right:
        for _ in range(20):
            order: list[str] = []

            async def read(order: list[str]) -> None:
                await trio.lowlevel.wait_readable(left)
                order.append("bytes")
                left.recv(1)

            timer_for(Stream(on_deadline=partial(order.append, "deadline"))).set(
                trio.current_time() + 60
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, order)
                await quiet()
                right.send(b"x")
                autojump_clock.jump(100)
            await quiet()
            assert order == ["bytes", "deadline"]


async def test_what_counts_no_more_is_swept_out_once_it_is_more_than_half(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await quiet()
    timers = [timer_for(Stream()) for _ in range(10)]
    for timer in timers:
        timer.set(trio.current_time() + 1)
    await trio.sleep(2)
    for timer in timers:
        timer.set(trio.current_time() + 1)
    for timer in timers[:5]:
        timer.close()
    assert current_ticker().pending_deadlines == 10
    timers[5].close()
    assert current_ticker().pending_deadlines == 4


async def test_ten_thousand_timers(autojump_clock: trio.testing.MockClock) -> None:
    rng = random.Random(7)
    start = trio.current_time()
    passed: list[float] = []
    timers: list[Timer] = []
    expected: list[float] = []
    for _ in range(10_000):
        timer = timer_for(Stream(on_deadline=lambda: passed.append(trio.current_time())))
        times = [start + rng.randrange(1, 1000) for _ in range(3)]
        for at in times:
            timer.set(at)
        timers.append(timer)
        expected.append(min(times))
    rng.shuffle(timers)
    closed = timers[:5000]
    expected = [timer.at for timer in timers[5000:]]
    for timer in closed:
        timer.close()
    assert current_ticker().pending_deadlines <= 2 * 5000
    await trio.sleep(2000)
    assert passed == sorted(expected)
    assert current_ticker().pending_deadlines == 0


# The budget


class Turns:
    """Takes turns, and sees whether they were schedule points."""

    def __init__(self, ticker: Ticker, ticks: TickCounter) -> None:
        self._ticker = ticker
        self._ticks = ticks

    async def goes_on(self, size: int) -> bool:
        """Whether nobody else had a turn meanwhile."""
        before = self._ticks.count
        await self._ticker.turn(size)
        return self._ticks.count == before

    async def go_on(self, count: int) -> list[bool]:
        return [await self.goes_on(0) for _ in range(count)]


async def test_the_budget_is_spent_by_bytes_and_messages_and_starts_anew(
    ticks: TickCounter,
) -> None:
    turns = Turns(current_ticker(), ticks)
    await quiet()
    for _ in range(3):
        for _ in range(DEFAULT_BUDGET // (FRAME_PRICE + 2048) - 1):
            assert await turns.goes_on(2048)
        assert not await turns.goes_on(2048)
    assert not await turns.goes_on(DEFAULT_BUDGET)
    assert await turns.goes_on(DEFAULT_BUDGET - FRAME_PRICE - 1)
    assert not await turns.goes_on(0)


async def test_what_is_charged_is_missing_for_the_next(ticks: TickCounter) -> None:
    ticker = current_ticker()
    turns = Turns(ticker, ticks)
    await quiet()
    ticker.set_budget(10 * FRAME_PRICE)
    ticker.charge(7 * FRAME_PRICE)
    assert await turns.go_on(3) == [True, True, False]
    ticker.charge(100 * FRAME_PRICE)
    assert await turns.go_on(11) == [False] + [True] * 9 + [False]


async def test_a_budget_of_one_is_spent_by_every_message(ticks: TickCounter) -> None:
    ticker = current_ticker()
    turns = Turns(ticker, ticks)
    await quiet()
    assert await turns.goes_on(0)
    ticker.set_budget(1)
    assert await turns.go_on(10) == [False] * 10
    ticker.set_budget(3 * FRAME_PRICE)
    assert await turns.go_on(6) == [True, True, False] * 2
