"""Broadcasting: one message to many streams, and nobody waits for anybody."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CONTINUATION,
    RSV1,
    TEXT,
    Frame,
    RawPeer,
    close_frame,
    open_with_peer,
    receive_until_closed,
)
from transports import fill, open_streams

from trio_ws import PermessageDeflate, WebSocketStream, broadcast
from trio_ws._deflate import ZLIB
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


# Compressed

NO_TAKEOVER = PermessageDeflate(
    server_no_context_takeover=True, client_no_context_takeover=True, min_size=0
)
OFFER = "permessage-deflate; client_max_window_bits"
LARGE = b"".join(b"message %d of %d\n" % (number, number * number) for number in range(5000))


@pytest.fixture
def deflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every piece that is compressed from now on, by zlib or what stands in for it."""
    sizes: list[int] = []
    make = ZLIB.compressobj

    class Compressor:
        def __init__(self, level: int, method: int, window_bits: int, mem_level: int) -> None:
            self.stream = make(level, method, window_bits, mem_level)

        def compress(self, data: bytes) -> bytes:
            sizes.append(len(data))
            return self.stream.compress(data)

        def flush(self, mode: int) -> bytes:
            return self.stream.flush(mode)

    monkeypatch.setattr(ZLIB, "compressobj", Compressor)
    return sizes


async def open_compressing(
    nursery: trio.Nursery,
    compression: PermessageDeflate | None,
    role: Role = Role.SERVER,
    kind: str = "memory",
    max_frame_size: int | None = None,
) -> tuple[WebSocketStream, RawPeer]:
    """A stream to a peer that agrees to whatever *compression* wants."""
    extensions = OFFER
    if role is Role.CLIENT:
        extensions = "permessage-deflate"
        if compression is not None and compression.server_no_context_takeover:
            extensions += "; server_no_context_takeover"
    return await open_with_peer(
        nursery,
        role,
        await open_streams(kind, nursery),
        extensions=extensions if compression is not None or role is Role.SERVER else None,
        compression=compression,
        max_frame_size=max_frame_size,
    )


async def receive_payload(peer: RawPeer, *, compressed: bool = True) -> bytes:
    """The payload of the next message as it was on the wire."""
    rsv = RSV1 if compressed else 0
    payload, fin, expected = b"", False, [TEXT | rsv, BINARY | rsv]
    while not fin:
        frame = await peer.receive()
        assert frame is not None
        assert frame.opcode in expected
        payload, fin, expected = payload + frame.payload, frame.fin, [int(CONTINUATION)]
    return payload


def inflate(payload: bytes) -> bytes:
    return zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", wbits=-15)


@pytest.mark.parametrize("content", [b"", b"hello", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_a_message_is_deflated_once_for_all_who_agreed_to_the_same(
    kind: str, content: bytes, deflated: list[int], nursery: trio.Nursery
) -> None:
    pairs = [await open_compressing(nursery, NO_TAKEOVER, kind=kind) for _ in range(4)]
    clients = [await open_compressing(nursery, NO_TAKEOVER, Role.CLIENT, kind) for _ in range(2)]
    pairs += clients
    assert broadcast([ws for ws, _ in pairs], content) == []
    payloads = [await receive_payload(peer) for _, peer in pairs]
    assert len(set(payloads)) == 1
    assert inflate(payloads[0]) == content
    assert sum(deflated) == len(content)


async def test_each_set_of_parameters_is_deflated_once(
    deflated: list[int], nursery: trio.Nursery
) -> None:
    small = replace(NO_TAKEOVER, server_max_window_bits=9)
    harder = replace(NO_TAKEOVER, level=9)
    pairs = [
        await open_compressing(nursery, compression)
        for compression in [NO_TAKEOVER, small, harder] * 2
    ]
    assert broadcast([ws for ws, _ in pairs], LARGE) == []
    payloads = [await receive_payload(peer) for _, peer in pairs]
    assert payloads[:3] == payloads[3:]
    assert len(set(payloads)) == 3
    assert [inflate(payload) for payload in payloads] == [LARGE] * 6
    assert sum(deflated) == 3 * len(LARGE)


@pytest.mark.parametrize("role", Role)
async def test_a_stream_with_takeover_deflates_by_itself_and_goes_on_from_what_it_sent(
    role: Role, deflated: list[int], nursery: trio.Nursery
) -> None:
    compression = PermessageDeflate(min_size=0)
    pairs = [await open_compressing(nursery, compression, role) for _ in range(3)]
    streams = [ws for ws, _ in pairs]
    await streams[0].send(LARGE[:3000])
    assert broadcast(streams, LARGE[:3000]) == []
    inflaters = [zlib.decompressobj(-15) for _ in pairs]

    async def receive(at: int) -> tuple[int, bytes]:
        payload = await receive_payload(pairs[at][1])
        return len(payload), inflaters[at].decompress(payload + b"\x00\x00\xff\xff")

    assert (await receive(0))[1] == LARGE[:3000]
    answers = [await receive(at) for at in range(3)]
    assert [content for _, content in answers] == [LARGE[:3000]] * 3
    assert answers[0][0] < 100 < answers[1][0] == answers[2][0]
    assert sum(deflated) == 4 * 3000


async def test_streams_of_every_kind_are_sent_the_same(
    deflated: list[int], nursery: trio.Nursery
) -> None:
    async def open_four(compression: PermessageDeflate | None) -> list[RawPeer]:
        peers = []
        for role in Role:
            for size in (None, 1000):
                ws, peer = await open_compressing(nursery, compression, role, max_frame_size=size)
                streams.append(ws)
                peers.append(peer)
        return peers

    streams: list[WebSocketStream] = []
    plain, without = await open_four(None), await open_four(NO_TAKEOVER)
    takeover = [
        (peer, zlib.decompressobj(-15)) for peer in await open_four(PermessageDeflate(min_size=9))
    ]
    for content in (LARGE, b"hello " * 20, b"tiny"):
        deflated.clear()
        assert broadcast(streams, content) == []
        for peer in plain:
            assert await receive_payload(peer, compressed=False) == content
        for peer in without:
            assert inflate(await receive_payload(peer)) == content
        for peer, inflater in takeover:
            payload = await receive_payload(peer, compressed=len(content) >= 9)
            if len(content) >= 9:
                payload = inflater.decompress(payload + b"\x00\x00\xff\xff")
            assert payload == content
        assert sum(deflated) == (5 if len(content) >= 9 else 1) * len(content)


async def test_the_caller_may_say_for_all_whether_it_is_compressed(nursery: trio.Nursery) -> None:
    pairs = [
        await open_compressing(nursery, compression)
        for compression in (NO_TAKEOVER, PermessageDeflate(), None)
    ]
    streams = [ws for ws, _ in pairs]
    for compress, expected in [(True, [True, True]), (False, [False] * 2), (None, [True, False])]:
        assert broadcast(streams, "hello", compress=compress) == []
        for (_, peer), compressed in zip(pairs, [*expected, False], strict=True):
            await receive_payload(peer, compressed=compressed)


async def test_the_context_of_a_stream_that_is_skipped_does_not_move(
    nursery: trio.Nursery,
) -> None:
    compression = PermessageDeflate(min_size=0)
    pairs = [await open_compressing(nursery, compression) for _ in range(2)]
    streams = [ws for ws, _ in pairs]
    inflater = zlib.decompressobj(-15)
    first, second, third = (Random(seed).randbytes(500) for seed in range(3))

    async def receive() -> bytes:
        return inflater.decompress(await receive_payload(pairs[0][1]) + b"\x00\x00\xff\xff")

    await streams[0].send(first)
    assert await receive() == first
    await streams[0].send_some(second[:100], fin=False)
    assert broadcast(streams, third) == [streams[0]]
    await streams[0].send_some(second[100:], fin=True)
    assert await receive() == second
    before = streams[0].statistics().bytes_sent
    assert broadcast(streams, third) == []
    assert await receive() == third
    assert streams[0].statistics().bytes_sent - before > 500, "it was never sent before"
    assert broadcast(streams, first + third) == []
    assert await receive() == first + third


async def test_a_slow_reader_gets_what_was_deflated_for_the_others(
    deflated: list[int], nursery: trio.Nursery
) -> None:
    slow, slow_peer = await open_compressing(nursery, NO_TAKEOVER, kind="socket")
    quick, quick_peer = await open_compressing(nursery, NO_TAKEOVER, kind="socket")
    content = Random(0).randbytes(2_000_000)
    assert broadcast([slow, quick], content) == []
    assert inflate(await receive_payload(quick_peer)) == content
    assert slow.statistics().outbox_size > 1_000_000
    assert broadcast([slow, quick], "next") == [slow]
    assert inflate(await receive_payload(quick_peer)) == b"next"
    assert inflate(await receive_payload(slow_peer)) == content
    assert sum(deflated) == len(content) + 4


async def test_a_stream_that_ends_in_the_middle_leaves_the_message_to_the_others(
    nursery: trio.Nursery,
) -> None:
    pairs = [await open_compressing(nursery, NO_TAKEOVER, kind="socket") for _ in range(3)]
    content = Random(1).randbytes(2_000_000)
    assert broadcast([ws for ws, _ in pairs], content) == []
    await pairs[0][1].stream.aclose()
    await pairs[1][1].send(Frame(3, b"no such opcode"))
    assert inflate(await receive_payload(pairs[2][1])) == content
