"""Broadcasting: one message to many streams, and nobody waits for anybody."""

from __future__ import annotations

import tracemalloc
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CONTINUATION,
    TEXT,
    Frame,
    RawPeer,
    close_frame,
    open_with_peer,
    receive_until_closed,
)
from transports import fill, open_streams

from trio_ws import WebSocketStream, broadcast
from trio_ws._protocol import Role
from trio_ws.testing import FaultyStream, websocket_pair


async def open_several(
    nursery: trio.Nursery, count: int, kind: str = "memory"
) -> tuple[list[WebSocketStream], list[RawPeer]]:
    """Streams of a server, and their peers."""
    pairs = [
        await open_with_peer(nursery, Role.SERVER, await open_streams(kind, nursery))
        for _ in range(count)
    ]
    return [ws for ws, _ in pairs], [peer for _, peer in pairs]


@pytest.mark.parametrize("kind", ["memory", "lockstep", "socket", "tcp", "pipes"])
async def test_every_stream_is_sent_the_message(kind: str, nursery: trio.Nursery) -> None:
    streams, peers = await open_several(nursery, 5, kind)
    assert broadcast(streams, "to all") == []
    assert broadcast(streams, b"of them") == []
    for peer in peers:
        assert await peer.receive() == Frame(TEXT, b"to all")
        assert await peer.receive() == Frame(BINARY, b"of them")
    assert [ws.statistics().messages_sent for ws in streams] == [2] * 5


async def test_clients_and_servers_can_be_mixed_and_each_client_masks_with_a_key_of_its_own(
    nursery: trio.Nursery,
) -> None:
    server, server_peer = await open_with_peer(nursery, Role.SERVER)
    pairs = [await open_with_peer(nursery, Role.CLIENT) for _ in range(3)]
    assert broadcast([server, *(ws for ws, _ in pairs)], "hello") == []
    assert await server_peer.receive() == Frame(TEXT, b"hello")
    keys = []
    for _, peer in pairs:
        data = await peer.stream.receive_some()
        keys.append(bytes(data[2:6]))
        peer.buffer += data
        assert await peer.receive() == Frame(TEXT, b"hello")
    assert len(set(keys)) == 3


async def test_any_iterable_of_streams_will_do(nursery: trio.Nursery) -> None:
    streams, peers = await open_several(nursery, 2)

    def generate() -> Iterator[WebSocketStream]:
        yield from streams

    assert broadcast(generate(), "1") == []
    assert broadcast(set(streams), "2") == []
    assert broadcast([], "3") == []
    for peer in peers:
        assert await peer.receive() == Frame(TEXT, b"1")
        assert await peer.receive() == Frame(TEXT, b"2")


async def test_it_is_synchronous_and_needs_no_running_reader(nursery: trio.Nursery) -> None:
    streams, _ = await open_several(nursery, 2)
    with trio.testing.assert_no_checkpoints():
        broadcast(streams, "x")


async def test_it_keeps_its_place_among_other_commits(nursery: trio.Nursery) -> None:
    (ws,), (peer,) = await open_several(nursery, 1)
    ws.send_nowait("1")
    broadcast([ws], "2")
    ws.send_nowait("3")
    assert [await peer.receive() for _ in range(3)] == [Frame(TEXT, b"%d" % n) for n in (1, 2, 3)]


# Who is skipped


async def is_closing(ws: WebSocketStream, peer: RawPeer) -> None:
    await ws.send_close()


async def is_closed_by_its_peer(ws: WebSocketStream, peer: RawPeer) -> None:
    await peer.send(close_frame(1000))
    await receive_until_closed(ws)


async def has_lost_its_peer(ws: WebSocketStream, peer: RawPeer) -> None:
    await peer.stream.aclose()
    await receive_until_closed(ws)


async def is_released(ws: WebSocketStream, peer: RawPeer) -> None:
    await peer.send(close_frame(1000))
    await peer.stream.aclose()
    await ws.aclose()


async def is_in_the_middle_of_a_message(ws: WebSocketStream, peer: RawPeer) -> None:
    await ws.send_some("begun", fin=False)


async def has_a_full_outbox(ws: WebSocketStream, peer: RawPeer) -> None:
    await fill(ws)


@pytest.mark.parametrize(
    "condition",
    [
        is_closing,
        is_closed_by_its_peer,
        has_lost_its_peer,
        is_released,
        is_in_the_middle_of_a_message,
        has_a_full_outbox,
    ],
)
async def test_a_stream_is_skipped_if_it(
    condition: Callable[[WebSocketStream, RawPeer], Awaitable[None]], nursery: trio.Nursery
) -> None:
    streams, peers = await open_several(nursery, 3, "lockstep")
    await condition(streams[1], peers[1])
    before = streams[1].statistics()
    assert broadcast(streams, "to the others") == [streams[1]]
    assert streams[1].statistics() == before
    for peer in (peers[0], peers[2]):
        assert await peer.receive() == Frame(TEXT, b"to the others")


async def test_a_stream_is_skipped_while_others_wait_to_send_on_it(nursery: trio.Nursery) -> None:
    (ws,), (peer,) = await open_several(nursery, 1, "lockstep")
    await fill(ws)
    waiting = await begin(nursery, ws.send, "first in turn")
    assert broadcast([ws], "barging in") == [ws]
    while await peer.receive() != Frame(TEXT, b"first in turn"):
        pass
    await waiting.result()
    assert broadcast([ws], "in turn") == []
    assert await peer.receive() == Frame(TEXT, b"in turn")


async def test_a_stream_whose_writing_has_failed_is_skipped(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    faulty = FaultyStream(ours)
    ws, _ = await open_with_peer(nursery, Role.SERVER, (faulty, theirs))
    faulty.fail_after(0, trio.BrokenResourceError())
    assert broadcast([ws], "lost") == []
    await trio.testing.wait_all_tasks_blocked()
    assert broadcast([ws], "not even tried") == [ws]


async def test_those_who_are_skipped_are_named_in_order(nursery: trio.Nursery) -> None:
    streams, _ = await open_several(nursery, 5)
    for number in (1, 3, 4):
        await streams[number].send_close()
    assert broadcast(streams, "x") == [streams[1], streams[3], streams[4]]
    assert broadcast(reversed(streams), "x") == [streams[4], streams[3], streams[1]]


async def test_one_slow_reader_delays_nobody(nursery: trio.Nursery) -> None:
    streams, peers = await open_several(nursery, 3, "socket")
    received = [await begin(nursery, receive_texts, peer, 200) for peer in peers[1:]]
    skipped = 0
    for number in range(200):
        skipped += len(broadcast(streams, f"{number} ".ljust(10_000, "x")))
        await trio.testing.wait_all_tasks_blocked()
    assert 0 < skipped < 200
    for call in received:
        assert await call.result() == list(range(200))
    assert streams[0].is_open


async def receive_texts(peer: RawPeer, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        frame = await peer.receive()
        assert frame is not None
        numbers.append(int(frame.payload.split()[0]))
    return numbers


# Once


async def test_a_message_to_many_is_held_once_in_memory(nursery: trio.Nursery) -> None:
    streams, peers = await open_several(nursery, 50, "lockstep")
    message = bytes(1_000_000)
    tracemalloc.start()
    try:
        assert broadcast(streams, message) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
    assert await peers[0].receive() == await peers[49].receive() == Frame(BINARY, message)


async def test_a_buffer_that_changes_afterwards_changes_nothing(nursery: trio.Nursery) -> None:
    streams, peers = await open_several(nursery, 2, "lockstep")
    buffer = bytearray(b"before")
    broadcast(streams, buffer)
    buffer[:] = b"after!"
    for peer in peers:
        assert await peer.receive() == Frame(BINARY, b"before")


@pytest.mark.parametrize("role", list(Role))
async def test_each_stream_keeps_its_own_max_frame_size(role: Role, nursery: trio.Nursery) -> None:
    cutting, cut_peer = await open_with_peer(nursery, role, max_frame_size=3)
    fitting, fit_peer = await open_with_peer(nursery, role, max_frame_size=4)
    assert broadcast([cutting, fitting], "1234") == []
    assert await cut_peer.receive() == Frame(TEXT, b"123", fin=False)
    assert await cut_peer.receive() == Frame(CONTINUATION, b"4")
    assert await fit_peer.receive() == Frame(TEXT, b"1234")


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
async def test_a_message_of_any_size_is_received_as_it_was_sent(
    size: int, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    assert broadcast([client, server], "x" * size) == []
    assert await client.receive() == await server.receive() == "x" * size
