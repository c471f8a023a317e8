"""How bytes flow: bounds, gathered writes, the writer task, the budget, and fairness."""

from __future__ import annotations

import os
import socket
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import BINARY, PONG, TEXT, Frame, RawPeer, Streams, open_with_peer
from steps import watching
from transports import fill, open_streams

from trio_ws import WebSocketStream, broadcast
from trio_ws._protocol import Role
from trio_ws.testing import CancelProbe, cancel_every_step, set_budget, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
KIB = 1024
MIB = 1024 * KIB


async def open_socket(
    nursery: trio.Nursery, role: Role = Role.SERVER
) -> tuple[WebSocketStream, RawPeer]:
    return await open_with_peer(nursery, role, await open_streams("socket", nursery))


def arrived(peer: RawPeer) -> list[Frame]:
    """The frames that the kernel has for the peer in this very step."""
    assert isinstance(peer.stream, trio.SocketStream)
    sock = peer.stream.socket
    while sock.is_readable():
        peer.buffer += os.read(sock.fileno(), MIB)
    frames = []
    while (frame := peer.decode()) is not None:
        frames.append(frame)
    return frames


@contextmanager
def counting_writes() -> Iterator[Counter[str]]:
    """Count the calls of ``os.write`` and ``os.writev`` that the interpreter makes."""
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "c_call" and (arg is os.write or arg is os.writev):
            calls["write"] += 1

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


class Turns:
    """Counts how often another task gets its turn."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


# Gathering: on a socket


async def test_a_message_is_with_the_kernel_when_send_returns(nursery: trio.Nursery) -> None:
    ws, peer = await open_socket(nursery)
    await ws.send("1")
    assert arrived(peer) == [Frame(TEXT, b"1")]
    assert ws.statistics().outbox_size == 0


async def test_of_several_commits_in_a_tick_the_first_leaves_at_once_and_the_others_together(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_socket(nursery)
    with counting_writes() as calls:
        for number in range(20):
            ws.send_nowait(str(number))
        assert arrived(peer) == [Frame(TEXT, b"0")]
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert arrived(peer) == [Frame(TEXT, b"%d" % number) for number in range(1, 20)]
    assert calls["write"] == 2


async def test_what_is_gathered_leaves_no_later_than_the_next_tick(nursery: trio.Nursery) -> None:
    ws, peer = await open_socket(nursery)
    async with trio.open_nursery() as inner:
        for number in range(100):
            ws.send_nowait(f"{number} at once")
            ws.send_nowait(f"{number} gathered")
            assert len(arrived(peer)) == 1
            # Those that are runnable now are run in any order, those after that later.
            inner.start_soon(trio.lowlevel.checkpoint)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert arrived(peer) == [Frame(TEXT, b"%d gathered" % number)]


async def test_while_received_messages_wait_every_answer_is_gathered(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_socket(nursery)
    await peer.send(*[Frame(TEXT, b"%d" % number) for number in range(10)])
    await trio.testing.wait_all_tasks_blocked()
    with counting_writes() as calls:
        for _ in range(9):
            ws.send_nowait(ws.receive_nowait())
            assert arrived(peer) == []
        await trio.testing.wait_all_tasks_blocked()
        assert len(arrived(peer)) == 9
    assert calls["write"] == 1


async def test_the_answer_to_the_last_message_that_was_received_leaves_at_once(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_socket(nursery)
    for number in range(5):
        await peer.send(Frame(TEXT, b"%d" % number))
        await ws.send(await ws.receive())
        assert arrived(peer) == [Frame(TEXT, b"%d" % number)]


async def test_flush_writes_what_is_gathered_at_once(nursery: trio.Nursery) -> None:
    ws, peer = await open_socket(nursery)
    for number in range(3):
        ws.send_nowait(str(number))
    await ws.flush()
    assert len(arrived(peer)) == 3


async def test_a_broadcast_leaves_with_what_else_is_committed_in_one_write_for_each_stream(
    nursery: trio.Nursery,
) -> None:
    pairs = [await open_socket(nursery) for _ in range(10)]
    streams = [ws for ws, _ in pairs]
    with counting_writes() as calls:
        broadcast(streams, "1")
        broadcast(streams, "2")
        for ws in streams:
            ws.send_nowait("3")
        await trio.testing.wait_all_tasks_blocked()
    assert calls["write"] == len(streams)
    for _, peer in pairs:
        assert arrived(peer) == [Frame(TEXT, b"1"), Frame(TEXT, b"2"), Frame(TEXT, b"3")]


async def test_more_messages_than_a_writev_takes_buffers_arrive_all_the_same(
    nursery: trio.Nursery,
) -> None:
    client, server = await websocket_pair(
        nursery, await open_streams("socket", nursery), max_outbox_size=10 * MIB
    )
    for number in range(5000):
        client.send_nowait(str(number))
    assert [await server.receive() for _ in range(5000)] == [str(number) for number in range(5000)]


@pytest.mark.parametrize("streams", ["memory", "lockstep", "tls_memory"], indirect=True)
async def test_on_other_transports_the_commits_of_a_tick_leave_in_one_send_all(
    streams: Streams, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery, streams)
    for number in range(100):
        client.send_nowait(str(number))
    assert client.statistics().bytes_sent == 0
    with watching(lambda: client.statistics().bytes_sent) as steps:
        assert [await server.receive() for _ in range(100)] == list(map(str, range(100)))
        await trio.testing.wait_all_tasks_blocked()
    assert steps.count == 1


# The writer task


async def test_on_a_socket_a_writer_task_runs_only_while_the_kernel_is_full(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as inner:
        ws, peer = await open_with_peer(inner, Role.SERVER, await open_streams("socket", nursery))
        assert len(inner.child_tasks) == 1
        for _ in range(2):
            await ws.send("fits")
            assert len(inner.child_tasks) == 1
            await fill(ws)
            assert len(inner.child_tasks) == 2
            while ws.statistics().outbox_size:
                arrived(peer)
                await trio.testing.wait_all_tasks_blocked()
            assert len(inner.child_tasks) == 1
        inner.cancel_scope.cancel()


async def test_on_other_transports_one_writer_task_stays_and_is_used_again(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as inner:
        ws, peer = await open_with_peer(inner, Role.SERVER)
        assert len(inner.child_tasks) == 1
        for number in range(3):
            await ws.send(str(number))
            assert await peer.receive() == Frame(TEXT, b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            assert len(inner.child_tasks) == 2
        inner.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["socket", "lockstep"])
async def test_what_is_committed_while_the_peer_does_not_read_is_bounded(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await open_streams(kind, nursery))
    sending = await begin(nursery, send_until_cancelled, ws)
    assert ws.statistics().outbox_size < 256 * KIB + 1000
    assert ws.statistics().tasks_waiting_send == 1
    sending.cancel()
    await peer.receive()
    sent = ws.statistics().messages_sent
    for _ in range(sent - 1):
        await peer.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().outbox_size == 0


async def send_until_cancelled(ws: WebSocketStream) -> None:
    while True:
        await ws.send("tiny")


# A large message


@ROLES
@pytest.mark.parametrize("kind", ["socket", "memory"])
async def test_a_message_of_100_mib_never_holds_the_loop(
    role: Role, kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await open_streams(kind, nursery))
    size = 100 * MIB
    turns = Turns()
    nursery.start_soon(turns.take)
    reading = await_all(peer, size)
    with watching(lambda: ws.statistics().bytes_sent) as steps:
        async with trio.open_nursery() as inner:
            inner.start_soon(reading)
            await ws.send(bytes(size))
            await ws.flush()
    assert steps.largest <= 512 * KIB
    assert turns.count >= size // (512 * KIB)


def await_all(peer: RawPeer, size: int) -> Callable[[], Awaitable[None]]:
    """Read until *size* bytes and a header have come, and keep none."""

    async def read() -> None:
        received = 0
        while received < size + 10:
            received += len(await peer.stream.receive_some(256 * KIB))

    return read


async def test_a_kernel_that_takes_more_than_is_written_in_a_step_gets_the_rest_in_the_next_tick(
    nursery: trio.Nursery,
) -> None:
    streams = await open_streams("socket", nursery)
    assert isinstance(streams[0], trio.SocketStream)
    streams[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    ws, peer = await open_with_peer(nursery, Role.CLIENT, streams)
    await ws.send(bytes(300 * KIB))
    assert 256 * KIB <= ws.statistics().bytes_sent < 300 * KIB
    assert len(nursery.child_tasks) == 3
    await trio.testing.wait_all_tasks_blocked()
    assert arrived(peer) == [Frame(BINARY, bytes(300 * KIB))]


@ROLES
async def test_a_large_message_is_not_held_twice(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_socket(nursery, role)
    message = bytes(20 * MIB)
    tracemalloc.start()
    try:
        async with trio.open_nursery() as inner:
            inner.start_soon(await_all(peer, len(message)))
            await ws.send(message)
            await ws.flush()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


async def test_a_chunk_of_many_small_messages_is_decoded_in_several_steps(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_socket(nursery)
    nursery.start_soon(ws.wait_closed)
    count = 10_000
    turns = Turns()
    seen = 0
    all_seen = trio.Event()

    def on_control(opcode: int, payload: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            all_seen.set()

    ws.configure(control_callback=on_control)
    data = b"".join(peer.encode(Frame(PONG, b"")) for _ in range(count))
    with watching(lambda: seen) as steps:
        nursery.start_soon(turns.take)
        await peer.stream.send_all(data)
        await all_seen.wait()
    assert steps.largest <= 64 * KIB // 64
    assert turns.count >= count // 1024


# The budget


CALLS: dict[str, Callable[[WebSocketStream], Awaitable[object]]] = {
    "send": lambda ws: ws.send("x"),
    "send_some": lambda ws: ws.send_some("x", fin=True),
    "flush": lambda ws: ws.flush(),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "receive": lambda ws: ws.receive(),
    "receive_some": lambda ws: ws.receive_some(),
    "iteration": lambda ws: anext(aiter(ws)),
    "send_close": lambda ws: ws.send_close(),
    "wait_closed": lambda ws: ws.wait_closed(),
    "aclose": lambda ws: ws.aclose(),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


async def open_ready(nursery: trio.Nursery) -> tuple[WebSocketStream, WebSocketStream]:
    """A pair of which the client need not wait to send or to receive."""
    client, server = await websocket_pair(nursery)
    await server.send("x")
    await trio.testing.wait_all_tasks_blocked()
    return client, server


@EVERY_CALL
async def test_with_a_budget_of_1_every_call_is_a_checkpoint(
    call: Callable[[WebSocketStream], Awaitable[object]], nursery: trio.Nursery
) -> None:
    client, server = await open_ready(nursery)
    if call is CALLS["wait_closed"]:
        await server.aclose()
        await client.wait_closed()
    set_budget(1)
    with trio.testing.assert_checkpoints():
        await call(client)


@EVERY_CALL
async def test_every_call_can_be_cancelled_though_it_need_not_wait(
    call: Callable[[WebSocketStream], Awaitable[object]], nursery: trio.Nursery
) -> None:
    client, _ = await open_ready(nursery)
    before = client.statistics()
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(client)
    assert scope.cancelled_caught
    if call is CALLS["aclose"]:
        with pytest.raises(trio.ClosedResourceError):
            client.receive_nowait()
    elif call is not CALLS["wait_closed"]:
        assert client.is_open
        assert client.statistics() == before
        assert client.receive_nowait() == "x"


@EVERY_CALL
async def test_every_call_on_a_closed_stream_can_be_cancelled_too(
    call: Callable[[WebSocketStream], Awaitable[object]], nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    await server.aclose()
    await client.wait_closed()
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(client)
    assert scope.cancelled_caught


async def test_an_application_can_note_on_a_stream_what_it_wants(nursery: trio.Nursery) -> None:
    client, _ = await websocket_pair(nursery)
    vars(client)["user"] = "Ada"
    assert getattr(client, "user", None) == "Ada"
    streams = weakref.WeakSet([client])
    assert client in streams


async def send_with_no_budget(probe: CancelProbe) -> None:
    async with trio.open_nursery() as nursery:
        client, server = await websocket_pair(nursery)
        set_budget(1)
        with probe.scope:
            await client.send("perhaps")
        await client.send("end")
        expected = ["end"] if probe.cancelled else ["perhaps", "end"]
        assert [await server.receive() for _ in expected] == expected
        nursery.cancel_scope.cancel()


def test_a_call_that_yields_because_the_budget_is_spent_has_not_committed_yet() -> None:
    assert cancel_every_step(send_with_no_budget).effective > 1


async def open_many(nursery: trio.Nursery, count: int) -> list[WebSocketStream]:
    """Streams that have 10 KB to receive each, in 20 messages, and that nobody has to wait for."""
    streams = []
    for _ in range(count):
        client, server = await websocket_pair(nursery)
        for _ in range(20):
            server.send_nowait(bytes(500))
        streams.append(client)
    await trio.testing.wait_all_tasks_blocked()
    return streams


async def count_turns(
    function: Callable[[list[WebSocketStream]], Awaitable[None]], streams: list[WebSocketStream]
) -> int:
    """How often another task gets its turn meanwhile."""
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        await function(streams)
        nursery.cancel_scope.cancel()
    return turns.count


async def receive_all(streams: list[WebSocketStream]) -> None:
    for ws in streams:
        for _ in range(20):
            await ws.receive()


async def send_to_all(streams: list[WebSocketStream]) -> None:
    for ws in streams:
        for _ in range(20):
            await ws.send(bytes(500))


@pytest.mark.parametrize("function", [receive_all, send_to_all])
async def test_a_task_that_goes_over_many_ready_streams_lets_others_run_now_and_then(
    function: Callable[[list[WebSocketStream]], Awaitable[None]], nursery: trio.Nursery
) -> None:
    streams = await open_many(nursery, 50)
    assert_spent(1000 * (2048 + 500), await count_turns(function, streams))


def assert_spent(size: int, turns: int) -> None:
    """Others have had their turns for *size*, out of a budget of 256 KiB between two of them."""
    assert size / (256 * KIB) / 2 < turns < size / (256 * KIB) * 2


@pytest.mark.parametrize("size", [0, 60_000])
async def test_the_bytes_of_a_message_count_for_the_budget_whether_sent_or_received(
    size: int, nursery: trio.Nursery
) -> None:
    pairs = [await websocket_pair(nursery) for _ in range(100)]
    clients = [client for client, _ in pairs]

    async def send_one_to_each(streams: list[WebSocketStream]) -> None:
        for ws in streams:
            await ws.send(bytes(size))

    async def receive_one_from_each(streams: list[WebSocketStream]) -> None:
        for ws in streams:
            await ws.receive()

    price = 100 * (2048 + size // 4)
    assert_spent(price, await count_turns(send_one_to_each, clients))
    await trio.testing.wait_all_tasks_blocked()
    servers = [server for _, server in pairs]
    assert_spent(price, await count_turns(receive_one_from_each, servers))


async def test_a_task_that_sends_for_ever_lets_the_others_run(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery, await open_streams("socket", nursery))
    nursery.start_soon(server.wait_closed)
    nursery.start_soon(send_until_cancelled, client)
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    assert server.statistics().bytes_received > 0
