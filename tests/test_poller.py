"""The poller: one task that reads the sockets of many streams; the rest is for their readers."""

from __future__ import annotations

import contextvars
import gc
import itertools
import os
import socket
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    TEXT,
    Frame,
    RawPeer,
    Streams,
    close_frame,
    make_streams,
    open_with_peer,
    reset,
)

from trio_ws import ConnectionClosedError, WebSocketStream
from trio_ws._frames import Opcode
from trio_ws._poller import _BATCH, _CROWD, Next, Poller, Watch, current_poller
from trio_ws._protocol import Role
from trio_ws.testing import websocket_pair

ROLES = pytest.mark.parametrize("role", Role)


def pollers() -> list[str]:
    """The poller's tasks of this run."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [task for nursery in root.child_nurseries for task in nursery.child_tasks]
    return [task.name for task in tasks if task.name == "trio_ws poller"]


class Watched:
    """One end of a socket pair that is watched, and what came of it."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.ours, self.theirs = socket.socketpair()
        self.received: list[bytes] = []

    def step(self, watch: Watch, now: float) -> Next:
        self.received.append(self.ours.recv(100))
        return Next.READER if self.received[-1] == b"end" else Next.READ

    async def watch(self) -> None:
        await self.poller.watch(self.ours, self.step)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Ticks(trio.abc.Instrument):
    """Counts before each tick of the scheduler what has been received."""

    def __init__(self, all_watched: list[Watched]) -> None:
        self._all_watched = all_watched
        self.counts: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        self.counts.append(sum(len(watched.received) for watched in self._all_watched))


@pytest.fixture
async def watched() -> Watched:  # noqa: ASYNC124 (a run has to be there)
    return Watched(current_poller())


# Watching


async def test_what_is_watched_is_read_until_its_step_says_so(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    for data in (b"1", b"2", b"end"):
        assert not watching.is_over
        watched.theirs.send(data)
        await trio.testing.wait_all_tasks_blocked()
    await watching.result()
    watched.theirs.send(b"unread")
    await trio.testing.wait_all_tasks_blocked()
    assert watched.received == [b"1", b"2", b"end"]
    watched.close()


async def test_it_can_be_watched_again_and_what_came_meanwhile_is_there(
    watched: Watched, nursery: trio.Nursery
) -> None:
    for _ in range(3):
        watched.theirs.send(b"end")
        await watched.watch()
    assert watched.received == [b"end"] * 3
    watched.close()


async def test_what_is_cancelled_is_not_watched(watched: Watched, nursery: trio.Nursery) -> None:
    watching = await begin(nursery, watched.watch)
    watching.cancel()
    watched.theirs.send(b"unread")
    await trio.testing.wait_all_tasks_blocked()
    assert watching.was_cancelled
    assert watched.received == []
    assert watched.ours.recv(100) == b"unread"
    watched.close()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
async def test_what_a_step_raises_belongs_to_who_watches(
    error: BaseException, watched: Watched, nursery: trio.Nursery
) -> None:
    def fail(watch: Watch, now: float) -> Next:
        raise error

    watched.theirs.send(b"1")
    with pytest.raises(type(error)) as info:
        await current_poller().watch(watched.ours, fail)
    assert info.value is error
    other = Watched(watched.poller)
    other.theirs.send(b"end")
    await other.watch()
    watched.close()
    other.close()


async def test_a_step_may_cancel_who_watches_another_socket(nursery: trio.Nursery) -> None:
    one, two = Watched(current_poller()), Watched(current_poller())
    scopes = {id(one): trio.CancelScope(), id(two): trio.CancelScope()}
    steps: list[Watched] = []

    async def watch(mine: Watched, other: Watched) -> None:
        def step(watch: Watch, now: float) -> Next:
            steps.append(mine)
            scopes[id(other)].cancel()
            return Next.READER

        with scopes[id(mine)]:
            await mine.poller.watch(mine.ours, step)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch, one, two)
        watching.start_soon(watch, two, one)
        await trio.testing.wait_all_tasks_blocked()
        one.theirs.send(b"1")
        two.theirs.send(b"2")
    assert len(steps) == 1
    one.close()
    two.close()


@pytest.mark.parametrize("is_led", [False, True])
@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_a_step_may_cancel_who_watches_its_own_socket(
    error: Exception | None, is_led: bool, watched: Watched, nursery: trio.Nursery
) -> None:
    def step(watch: Watch, now: float) -> Next:
        watched.step(watch, now)
        watching.cancel()
        if error is not None:
            raise error
        return Next.READER

    watching = await begin(nursery, watched.poller.watch, watched.ours, step)
    if is_led:
        leading = await begin(nursery, Leading(watched).lead)
    watched.theirs.send(b"1")
    await trio.testing.wait_all_tasks_blocked()
    assert watching.was_cancelled
    if is_led:
        await leading.result()
    await begin(nursery, watched.watch)
    watched.theirs.send(b"end")
    await trio.testing.wait_all_tasks_blocked()
    assert watched.received == [b"1", b"end"]
    watched.close()


async def read_many(count: int, nursery: trio.Nursery) -> set[int]:
    """Watch as many sockets, each of which has something to read; how many had been read at the
    end of each tick.
    """
    all_watched = [Watched(current_poller()) for _ in range(count)]
    for watched in all_watched:
        nursery.start_soon(watched.watch)
    await trio.testing.wait_all_tasks_blocked()
    ticks = Ticks(all_watched)
    trio.lowlevel.add_instrument(ticks)
    for watched in all_watched:
        watched.theirs.send(b"end")
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(ticks)
    for watched in all_watched:
        watched.close()
    return set(ticks.counts)


async def test_of_very_many_each_is_read(nursery: trio.Nursery) -> None:
    """Not all in one step: other tasks have their turn."""
    count = 2 * _BATCH + 1
    assert {0, _BATCH, 2 * _BATCH, count} <= await read_many(count, nursery)


async def test_a_step_that_takes_long_lets_others_have_their_turn(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ws._poller._STEP", 0)
    assert await read_many(5, nursery) == {0, 1, 2, 3, 4, 5}


async def test_a_number_that_was_closed_and_is_used_again_is_not_mistaken(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    other = Watched(watched.poller)
    number = watched.ours.fileno()
    watched.ours.close()
    os.dup2(other.ours.fileno(), number)
    same_number = socket.socket(fileno=number)
    assert watched.poller.find(same_number) is None
    again = await begin(nursery, other.poller.watch, same_number, other.step)
    with pytest.raises(trio.ClosedResourceError):
        await watching.result()
    other.theirs.send(b"end")
    await again.result()
    assert watched.received == []
    same_number.close()
    watched.close()
    other.close()


# What follows a step


class Scripted(Watched):
    """What is to follow each of its steps is known before; they read nothing.

    :ivar watch_of_step: that of the last step.
    """

    watch_of_step: Watch

    def __init__(self, poller: Poller, *script: Next) -> None:
        super().__init__(poller)
        self._script = list(script)
        self.theirs.send(b"unread")

    def step(self, watch: Watch, now: float) -> Next:
        self.watch_of_step = watch
        self.received.append(b"")
        return self._script.pop(0)

    def resume(self) -> None:
        self.poller.resume(self.watch_of_step)


async def test_a_step_may_have_another_one_when_others_have_had_their_turn(
    nursery: trio.Nursery,
) -> None:
    one = Scripted(current_poller(), Next.AGAIN, Next.AGAIN, Next.READER)
    two = Scripted(current_poller(), Next.AGAIN, Next.AGAIN, Next.AGAIN, Next.READER)
    ticks = Ticks([one])
    trio.lowlevel.add_instrument(ticks)
    async with trio.open_nursery() as watching:
        watching.start_soon(one.watch)
        watching.start_soon(two.watch)
    trio.lowlevel.remove_instrument(ticks)
    assert sorted(set(ticks.counts)) == [0, 1, 2, 3]
    assert len(two.received) == 4
    one.close()
    two.close()


async def test_those_that_want_another_step_let_others_have_their_turn_in_between(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ws._poller._STEP", 0)
    monkeypatch.setattr("trio_ws._ticker._CALLS_STEP", 0)
    several = [Scripted(current_poller(), Next.AGAIN, Next.READER) for _ in range(3)]
    ticks = Ticks([*several])
    trio.lowlevel.add_instrument(ticks)
    async with trio.open_nursery() as watching:
        for watched in several:
            watching.start_soon(watched.watch)
    trio.lowlevel.remove_instrument(ticks)
    assert all(later - earlier <= 2 for earlier, later in itertools.pairwise(ticks.counts))
    for watched in several:
        watched.close()


async def test_a_pause_lasts_until_it_is_resumed(nursery: trio.Nursery) -> None:
    """And whoever watches rests, though there is something to read."""
    watched = Scripted(current_poller(), Next.AGAIN, Next.PAUSE, Next.READER)
    watching = await begin(nursery, watched.watch)
    await trio.testing.wait_all_tasks_blocked()
    assert watched.poller.find(watched.ours) is None
    assert len(watched.received) == 2
    watched.resume()
    await watching.result()
    assert len(watched.received) == 3
    watched.resume()
    await trio.testing.wait_all_tasks_blocked()
    assert len(watched.received) == 3
    watched.close()


async def test_a_step_in_the_next_tick_is_not_for_who_watches_the_socket_by_then(
    nursery: trio.Nursery,
) -> None:
    watched = Scripted(current_poller(), Next.PAUSE, Next.READER)
    watching = await begin(nursery, watched.watch)
    watched.ours.recv(100)

    async def send_later() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert len(watched.received) == 1
        watched.theirs.send(b"unread")

    nursery.start_soon(send_later)
    watched.resume()
    watching.cancel()
    await watched.watch()
    assert len(watched.received) == 2
    watched.close()


async def test_a_leader_does_not_wait_out_a_pause(watched: Watched, nursery: trio.Nursery) -> None:
    watches: list[Watch] = []

    def step(watch: Watch, now: float) -> Next:
        watches.append(watch)
        return Next.PAUSE if watched.step(watch, now) is Next.READ else Next.READER

    watching = await begin(nursery, watched.poller.watch, watched.ours, step)
    leading = await begin(nursery, Leading(watched).lead)
    watched.theirs.send(b"1")
    await leading.result()
    watched.theirs.send(b"end")
    await trio.testing.wait_all_tasks_blocked()
    assert watched.received == [b"1"]
    watched.poller.resume(watches[0])
    await watching.result()
    assert watched.received == [b"1", b"end"]
    watched.close()


async def test_a_pause_leaves_a_socket_alone_that_has_failed(nursery: trio.Nursery) -> None:
    """Epoll tells of that though nobody asks."""
    watched = Scripted(current_poller(), Next.PAUSE, Next.READER)
    watching = await begin(nursery, watched.watch)
    watched.theirs.close()
    await trio.testing.wait_all_tasks_blocked()
    assert len(watched.received) == 1
    watched.resume()
    await watching.result()
    watched.close()


async def test_after_a_pause_the_socket_is_watched_as_before(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watches: list[Watch] = []

    def step(watch: Watch, now: float) -> Next:
        watches.append(watch)
        return Next.PAUSE if len(watches) == 1 else watched.step(watch, now)

    watched.theirs.send(b"1")
    watching = await begin(nursery, watched.poller.watch, watched.ours, step)
    assert watched.received == []
    watched.poller.resume(watches[0])
    for data in (b"2", b"end"):
        await trio.testing.wait_all_tasks_blocked()
        watched.theirs.send(data)
    await watching.result()
    assert watched.received == [b"1", b"2", b"end"]
    watched.close()


async def test_a_socket_that_was_closed_in_a_pause_is_found_out_by_the_next_step(
    nursery: trio.Nursery,
) -> None:
    watched = Scripted(current_poller(), Next.PAUSE, Next.READ)
    watching = await begin(nursery, watched.watch)
    watched.ours.close()
    watched.resume()
    with pytest.raises(trio.ClosedResourceError):
        await watching.result()
    watched.close()


@pytest.mark.parametrize("following", Next)
async def test_what_is_cancelled_after_a_pause_is_not_watched(
    following: Next, nursery: trio.Nursery
) -> None:
    watched = Scripted(current_poller(), Next.PAUSE)
    watching = await begin(nursery, watched.watch)
    watched.resume()
    watching.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert watching.was_cancelled
    assert len(watched.received) == 1

    def step(watch: Watch, now: float) -> Next:
        if Scripted.step(watched, watch, now) is Next.READ:
            again.cancel()
            return following
        return Next.PAUSE

    watched._script += [Next.PAUSE, Next.READ, Next.READER]
    again = await begin(nursery, watched.poller.watch, watched.ours, step)
    watched.resume()
    await trio.testing.wait_all_tasks_blocked()
    assert again.was_cancelled
    assert len(watched.received) == 3
    await watched.watch()
    watched.close()


# Leading


class Leading:
    """Leads *watched*, which is being watched.

    :ivar leads: as a leader has it.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.leads = watched.poller.find(watched.ours)

    async def lead(self) -> None:
        assert self.leads is not None
        self.task = trio.lowlevel.current_task()
        await self._watched.poller.lead(self.leads, self)


class AfterStep(trio.abc.Instrument):
    """Does something once, at the end of the next step of *task*."""

    def __init__(self, task: trio.lowlevel.Task, function: Callable[[], object]) -> None:
        self._task = task
        self._function = function

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            trio.lowlevel.remove_instrument(self)
            self._function()


class AfterIO(trio.abc.Instrument):
    """Does something once, after the next wait for I/O, before any task has its turn."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def after_io_wait(self, timeout: float) -> None:
        trio.lowlevel.remove_instrument(self)
        self._function()


async def test_a_leader_reads_instead_of_the_poller_until_it_leads_no_more(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    leader = Leading(watched)
    leading = await begin(nursery, leader.lead)
    for data in (b"1", b"2"):
        watched.theirs.send(data)
        await trio.testing.wait_all_tasks_blocked()
        assert not leading.is_over
    leader.leads = None
    watched.theirs.send(b"3")
    await leading.result()
    watched.theirs.send(b"end")
    await watching.result()
    assert watched.received == [b"1", b"2", b"3", b"end"]
    watched.close()


async def test_a_leader_that_is_called_off_stops(watched: Watched, nursery: trio.Nursery) -> None:
    watching = await begin(nursery, watched.watch)
    leader = Leading(watched)
    watch = leader.leads
    assert watch is not None
    watched.ours.setblocking(False)
    watched.theirs.send(b"1")
    leading = await begin(nursery, leader.lead)
    leader.leads = None
    watch.call_off()
    watched.theirs.send(b"end")
    await leading.result()
    await watching.result()
    watch.call_off()
    assert watched.received == [b"1", b"end"]
    watched.close()


async def test_a_leader_that_is_cancelled_has_taken_nothing(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    watched.theirs.send(b"end")
    leading.cancel()
    await watching.result()
    assert leading.was_cancelled
    assert watched.received == [b"end"]
    watched.close()


async def test_a_leader_stops_when_the_reader_is_needed(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    watched.theirs.send(b"end")
    await watching.result()
    await leading.result()
    watched.close()


@pytest.mark.parametrize("is_readable", [False, True])
async def test_a_leader_stops_when_the_reader_is_cancelled(
    is_readable: bool, watched: Watched, nursery: trio.Nursery
) -> None:
    """And takes nothing, though it was about to."""
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    if is_readable:
        watched.theirs.send(b"unread")
        trio.lowlevel.add_instrument(AfterIO(watching.cancel))
    else:
        watching.cancel()
    await leading.result()
    assert watching.was_cancelled
    assert watched.received == []
    watched.close()


async def test_who_writes_may_be_when_a_leader_is_called_off(
    watched: Watched, nursery: trio.Nursery
) -> None:
    """At the end of its own step, as :func:`cancel_every_step` does."""
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    watched.ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:  # noqa: ASYNC913 (it waits for nothing)
            watched.ours.send(bytes(100_000))

    async def write() -> None:
        trio.lowlevel.add_instrument(AfterStep(trio.lowlevel.current_task(), watching.cancel))
        await trio.lowlevel.wait_writable(watched.ours)

    await write()
    await leading.result()
    assert watching.was_cancelled
    watched.close()


async def test_a_leader_may_be_called_off_at_the_end_of_its_own_step(
    watched: Watched, nursery: trio.Nursery
) -> None:
    """As :func:`cancel_every_step` does."""
    watching = await begin(nursery, watched.watch)
    leader = Leading(watched)
    leading = await begin(nursery, leader.lead)
    watched.theirs.send(b"1")
    trio.lowlevel.add_instrument(AfterStep(leader.task, watching.cancel))
    await leading.result()
    assert watching.was_cancelled
    assert watched.received == [b"1"]
    assert watched.poller.find(watched.ours) is None
    await begin(nursery, watched.watch)
    watched.theirs.send(b"end")
    await trio.testing.wait_all_tasks_blocked()
    assert watched.received == [b"1", b"end"]
    watched.close()


async def test_what_a_step_raises_in_a_leader_belongs_to_who_watches(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    trio.lowlevel.notify_closing(watched.ours)
    watched.ours.close()
    await leading.result()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await watching.result()
    watched.close()


async def test_a_leader_may_be_cancelled_when_somebody_else_closes_the_socket(
    watched: Watched, nursery: trio.Nursery
) -> None:
    watching = await begin(nursery, watched.watch)
    leading = await begin(nursery, Leading(watched).lead)
    leading.cancel()
    watched.ours.close()
    await trio.testing.wait_all_tasks_blocked()
    assert leading.was_cancelled
    watching.cancel()
    watched.close()


async def test_a_leader_does_not_wait_for_a_socket_that_its_step_has_closed(
    watched: Watched, nursery: trio.Nursery
) -> None:
    def close(watch: Watch, now: float) -> Next:
        watched.ours.close()
        return Next.READ

    watching = await begin(nursery, watched.poller.watch, watched.ours, close)
    leading = await begin(nursery, Leading(watched).lead)
    watched.theirs.send(b"1")
    await leading.result()
    watching.cancel()
    watched.close()


async def test_what_is_led_since_the_poller_has_heard_of_it_is_left_to_the_leader(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ws._poller._STEP", 0)
    first, *others, last = (Watched(current_poller()) for _ in range(5))
    readers: list[trio.lowlevel.Task] = []
    has_begun = trio.Event()

    def begin_to_lead(watch: Watch, now: float) -> Next:
        has_begun.set()
        return Next.READER

    def note_reader(watch: Watch, now: float) -> Next:
        readers.append(trio.lowlevel.current_task())
        return last.step(watch, now)

    async def lead() -> trio.lowlevel.Task:
        leader = Leading(last)
        await has_begun.wait()
        await leader.lead()
        return trio.lowlevel.current_task()

    await begin(nursery, first.poller.watch, first.ours, begin_to_lead)
    for watched in others:
        await begin(nursery, watched.watch)
    watching = await begin(nursery, last.poller.watch, last.ours, note_reader)
    leading = await begin(nursery, lead)
    for watched in (first, *others, last):
        watched.theirs.send(b"end")
    await watching.result()
    assert readers == [await leading.result()]
    for watched in (first, *others, last):
        watched.close()


# One per run


async def test_a_run_has_one_poller_and_its_task_when_it_is_needed(nursery: trio.Nursery) -> None:
    assert current_poller() is current_poller()
    assert pollers() == []
    several = [Watched(current_poller()) for _ in range(3)]
    for watched in several:
        nursery.start_soon(watched.watch)
    await trio.testing.wait_all_tasks_blocked()
    assert pollers() == ["trio_ws poller"]
    nursery.cancel_scope.cancel()
    for watched in several:
        watched.close()


def test_a_run_may_end_while_a_system_task_watches() -> None:
    ends: list[Watched] = []

    async def main() -> None:
        ends.append(Watched(current_poller()))
        trio.lowlevel.spawn_system_task(ends[-1].watch)
        await trio.testing.wait_all_tasks_blocked()

    for _ in range(5):
        trio.run(main)
    for watched in ends:
        assert watched.received == []
        watched.close()


@pytest.mark.parametrize("kind", ["watched", "socket"])
def test_at_the_end_of_a_run_who_is_shielded_goes_on_without_the_poller(kind: str) -> None:
    received: list[str | bytes] = []

    async def receive() -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams(kind))
                receiving = await begin(nursery, ws.receive)
                both_wait.set()
                await trio.testing.wait_all_tasks_blocked()
                assert not current_poller().can_watch
                await peer.send(Frame(TEXT, b"hello"))
                received.append(await receiving.result())
                await peer.stream.aclose()

    async def main() -> None:
        trio.lowlevel.spawn_system_task(receive)
        await both_wait.wait()

    both_wait = trio.Event()
    trio.run(main)
    assert received == ["hello"]


def test_at_the_end_of_a_run_a_pause_goes_on_without_the_poller() -> None:
    received: list[str | bytes] = []

    async def receive() -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                ws, peer, _ = await open_full(nursery, await make_streams("socket"))
                is_full.set()
                await trio.testing.wait_all_tasks_blocked()
                assert not current_poller().can_watch
                received.extend(await receive_slowly(ws, 3))
                await peer.stream.aclose()

    async def main() -> None:
        trio.lowlevel.spawn_system_task(receive)
        await is_full.wait()

    is_full = trio.Event()
    trio.run(main)
    assert received == ["one", "two", "three"]


# Streams


class StepsOfReaders(trio.abc.Instrument):
    """Counts those of the streams' own tasks."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "trio_ws reader"


@pytest.mark.parametrize("kind", ["watched", "socket"])
async def test_the_reader_of_a_busy_stream_sleeps(kind: str, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(
        nursery, Role.SERVER, await make_streams(kind), max_inbox_size=64 * 1024
    )
    await trio.testing.wait_all_tasks_blocked()
    messages = [bytes([number]) * 10_000 for number in range(100)]
    instrument = StepsOfReaders()
    trio.lowlevel.add_instrument(instrument)
    async with trio.open_nursery() as sending:
        sending.start_soon(peer.send, *[Frame(BINARY, message) for message in messages])
        assert [await ws.receive() for _ in messages] == messages
    trio.lowlevel.remove_instrument(instrument)
    assert instrument.count == 0
    await peer.stream.aclose()


async def open_full(
    nursery: trio.Nursery, streams: Streams
) -> tuple[WebSocketStream, RawPeer, list[str | bytes]]:
    """A stream without room for the second of three messages, which it has read and not decoded."""
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_inbox_size=1)
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(TEXT, b"three"))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 1
    return ws, peer, ["one", "two", "three"]


async def receive_slowly(ws: WebSocketStream, count: int) -> list[str | bytes]:
    received = []
    for _ in range(count):
        received.append(await ws.receive())
        await trio.testing.wait_all_tasks_blocked()
    return received


@pytest.mark.parametrize("kind", ["watched", "socket"])
async def test_a_larger_inbox_ends_a_pause(kind: str, nursery: trio.Nursery) -> None:
    ws, peer, messages = await open_full(nursery, await make_streams(kind))
    ws.configure(max_inbox_size=10_000)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 3
    assert await receive_slowly(ws, 3) == messages
    await peer.stream.aclose()


@pytest.mark.parametrize("method", ["aclose", "wait_closed"])
@pytest.mark.parametrize("kind", ["watched", "socket"])
async def test_who_wants_the_messages_no_more_ends_a_pause(
    kind: str, method: str, nursery: trio.Nursery
) -> None:
    ws, peer, _ = await open_full(nursery, await make_streams(kind))
    await peer.send(close_frame(1000))
    closing = await begin(nursery, getattr(ws, method))
    await peer.stream.aclose()
    await closing.result()
    assert ws.close_reason == (1000, "")


async def test_a_pause_outlasts_a_reset(nursery: trio.Nursery) -> None:
    ws, peer, messages = await open_full(nursery, await make_streams("tcp"))
    await reset(peer.stream)
    assert await receive_slowly(ws, 3) == messages
    with pytest.raises(ConnectionClosedError):
        await ws.receive()


async def test_a_pause_ends_with_the_nursery(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as inner:
        ws, peer, _ = await open_full(inner, await make_streams("socket"))
        inner.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ws.receive()
    stream = weakref.ref(ws)
    del ws
    assert stream() is None
    await peer.stream.aclose()


async def test_what_was_read_before_somebody_else_closed_the_socket_is_received_still(
    nursery: trio.Nursery,
) -> None:
    """Though its number is in use again."""
    ws, peer, messages = await open_full(nursery, await make_streams("watched"))
    assert isinstance(ws.transport_stream, trio.SocketStream)
    number = ws.transport_stream.socket.fileno()
    await ws.transport_stream.aclose()
    streams = await make_streams("socket")
    assert isinstance(streams[0], trio.SocketStream)
    assert streams[0].socket.fileno() == number
    other, other_peer = await open_with_peer(nursery, Role.SERVER, streams)
    await trio.testing.wait_all_tasks_blocked()
    assert await receive_slowly(ws, 3) == messages
    with pytest.raises(ConnectionClosedError) as info:
        await ws.receive()
    assert isinstance(info.value.__cause__, trio.ClosedResourceError)
    await other_peer.send(Frame(TEXT, b"hello"))
    assert await other.receive() == "hello"
    await peer.stream.aclose()
    await other_peer.stream.aclose()


@pytest.mark.parametrize("is_reused", [False, True])
async def test_a_stream_whose_socket_somebody_else_closed_is_no_garbage(
    is_reused: bool, nursery: trio.Nursery
) -> None:
    """Be it found out by the next receive, or because the number is in use again."""
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams("socket"))
    await trio.testing.wait_all_tasks_blocked()
    await ws.transport_stream.aclose()
    others: list[trio.abc.Stream] = []
    if is_reused:
        streams = await make_streams("socket")
        _, other_peer = await open_with_peer(nursery, Role.SERVER, streams)
        others = [*streams, other_peer.stream]
        await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ConnectionClosedError):
        await ws.receive()
    await ws.wait_closed()
    stream = weakref.ref(ws)
    gc.disable()
    try:
        del ws
        assert stream() is None
    finally:
        gc.enable()
    await peer.stream.aclose()
    for other in others:
        await other.aclose()


async def test_a_full_inbox_that_nobody_will_empty_is_the_end_once_a_write_has_failed(
    nursery: trio.Nursery,
) -> None:
    """Who receives may be waiting to send."""
    ours, theirs = await make_streams("socket")
    ws, peer, _ = await open_full(nursery, (ours, theirs))
    assert isinstance(theirs, trio.SocketStream)
    theirs.socket.shutdown(socket.SHUT_RD)
    await ws.send("this write fails")
    sending = await begin(nursery, peer.send, *[Frame(BINARY, bytes(100_000))] * 10)
    with pytest.raises(trio.BrokenResourceError):
        await sending.result()
    assert ws.close_reason is not None
    assert ws.close_reason.code == 1006
    await peer.stream.aclose()


async def test_streams_are_watched_while_there_are_many(nursery: trio.Nursery) -> None:
    poller = current_poller()
    streams: list[WebSocketStream] = []
    while len(streams) < _CROWD:
        assert not poller.is_crowded
        streams += await websocket_pair(nursery)
    assert poller.is_crowded
    assert pollers() == []
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams("socket"))
    await trio.testing.wait_all_tasks_blocked()
    assert pollers() == ["trio_ws poller"]
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    assert [await ws.receive(), await ws.receive()] == ["one", "two"]
    await peer.stream.aclose()
    await ws.wait_closed()
    for stream in streams:
        await stream.aclose()
    assert not poller.is_crowded


async def test_a_stream_that_could_not_be_started_does_not_count(nursery: trio.Nursery) -> None:
    poller = current_poller()
    async with trio.open_nursery() as over:
        pass
    for _ in range(10):
        with pytest.raises(RuntimeError):
            await websocket_pair(over)
    assert not poller.is_crowded


@pytest.mark.parametrize("kind", ["watched", "socket"])
async def test_a_callback_may_cancel_the_nursery_of_its_stream(
    kind: str, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as inner:
        ws, peer = await open_with_peer(
            inner,
            Role.SERVER,
            await make_streams(kind),
            control_callback=lambda _, payload: inner.cancel_scope.cancel(),
        )
        receiving = await begin(nursery, ws.receive)
        await peer.send(Frame(Opcode.PING, b""), Frame(Opcode.CLOSE, b""))
    with pytest.raises(trio.ClosedResourceError):
        await receiving.result()
    await peer.stream.aclose()


@ROLES
async def test_a_callback_sees_the_context_of_who_gave_it(
    role: Role, nursery: trio.Nursery
) -> None:
    variable = contextvars.ContextVar[str]("variable")
    seen: list[str] = []

    def note(opcode: Opcode, payload: bytes) -> None:
        seen.append(variable.get())

    async def ping(peer: RawPeer) -> None:
        await peer.send(Frame(Opcode.PING, b""))
        await trio.testing.wait_all_tasks_blocked()

    variable.set("at first")
    ws, peer = await open_with_peer(
        nursery, role, await make_streams("watched"), control_callback=note
    )
    variable.set("later")
    await ping(peer)
    ws.configure(max_message_size=100)
    await ping(peer)
    ws.configure(control_callback=note)
    await ping(peer)
    assert seen == ["at first", "at first", "later"]
    await peer.stream.aclose()


async def test_a_step_that_finds_nothing_to_read_changes_nothing(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams("watched"))
    await trio.testing.wait_all_tasks_blocked()
    watch = ws._transport.watched_by(current_poller())
    assert watch is not None
    assert ws._reader._read_available(watch, trio.current_time()) is Next.READ
    await peer.send(Frame(TEXT, b"hello"))
    assert await ws.receive() == "hello"
    await peer.stream.aclose()


@ROLES
async def test_a_socket_that_somebody_else_closes_is_found_out_by_the_next_write(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams("watched"))
    receiver = await begin(nursery, ws.receive)
    await ws.transport_stream.aclose()
    await ws.send("into the void")
    with pytest.raises(ConnectionClosedError) as info:
        await receiver.result()
    assert info.value.code == 1006
    assert isinstance(info.value.__cause__, trio.ClosedResourceError)
    await ws.aclose()
    await peer.stream.aclose()


@pytest.mark.parametrize("kind", ["watched", "socket"])
async def test_a_fault_in_the_poller_s_step_is_an_internal_error(
    kind: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams(kind))
    fault = RuntimeError("a fault")

    def fail(data: object, limit: int) -> None:
        raise fault

    receiving = await begin(nursery, ws.receive)
    monkeypatch.setattr(type(ws._protocol), "decode", lambda self, data, limit: fail(data, limit))
    await peer.send(Frame(TEXT, b"hello"))
    with pytest.raises(ConnectionClosedError) as info:
        await receiving.result()
    assert (info.value.code, info.value.__cause__) == (1011, fault)
    await peer.stream.aclose()


async def test_two_tasks_receive_in_turn_though_the_first_one_leads(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams("socket"))
    calls = [await begin(nursery, ws.receive) for _ in range(3)]
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    assert [await call.result() for call in calls[:2]] == ["one", "two"]
    await peer.send(Frame(TEXT, b"three"))
    assert await calls[2].result() == "three"
    await peer.stream.aclose()


async def test_a_receiver_that_leads_waits_on_when_the_reader_is_needed(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(
        nursery, Role.SERVER, await make_streams("socket"), max_inbox_size=1
    )
    receiving = await begin(nursery, ws.receive)
    await peer.send(*[Frame(Opcode.PING, b"")] * 100, Frame(TEXT, b"hello"))
    assert await receiving.result() == "hello"
    await peer.stream.aclose()


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_socket_that_somebody_else_closes_is_found_out_by_the_next_receive(
    is_full: bool, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(
        nursery, Role.SERVER, await make_streams("socket"), max_inbox_size=1
    )
    if is_full:
        await peer.send(Frame(TEXT, b"hello"))
    await trio.testing.wait_all_tasks_blocked()
    await ws.transport_stream.aclose()
    if is_full:
        assert await ws.receive() == "hello"
        await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ConnectionClosedError) as info:
        await ws.receive()
    assert info.value.code == 1006
    assert isinstance(info.value.__cause__, trio.ClosedResourceError)
    await peer.stream.aclose()
