"""The poller: one task that reads the sockets of many streams; the rest is for their readers."""

from __future__ import annotations

import contextvars
import os
import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import TEXT, Frame, RawPeer, make_streams, open_with_peer

from trio_ws import ConnectionClosedError, WebSocketStream
from trio_ws._frames import Opcode
from trio_ws._poller import _BATCH, _CROWD, Poller, current_poller
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

    def step(self, now: float) -> bool:
        self.received.append(self.ours.recv(100))
        return self.received[-1] != b"end"

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
    def fail(_: float) -> bool:
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
        def step(_: float) -> bool:
            steps.append(mine)
            scopes[id(other)].cancel()
            return False

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
    def step(now: float) -> bool:
        watched.step(now)
        watching.cancel()
        if error is not None:
            raise error
        return False

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
    def close(now: float) -> bool:
        watched.ours.close()
        return True

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

    def begin_to_lead(now: float) -> bool:
        has_begun.set()
        return False

    def note_reader(now: float) -> bool:
        readers.append(trio.lowlevel.current_task())
        return last.step(now)

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


# Streams


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
    assert ws._read_available(trio.current_time())
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
