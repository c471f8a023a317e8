"""Pings, pongs, the control callback, and everything that is done about silence."""

from __future__ import annotations

import copy
import random

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawPeer,
    Streams,
    close_frame,
    open_with_peer,
    receive_until_closed,
)
from transports import DETERMINISTIC_KINDS, fill, open_streams

from trio_ws import ConnectionClosedError, ConnectionClosedOK, Opcode, Timeouts
from trio_ws._outbox import AHEAD_OF_FRAGMENTS
from trio_ws._pings import fresh_payload
from trio_ws._protocol import Role
from trio_ws.testing import NO_TIMEOUTS, FaultyStream, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
IDLE_10 = Timeouts(handshake=None, idle=10, keep_alive_pings=False)
PINGS_10 = Timeouts(handshake=None, idle=10, keep_alive_pings=True)


def pings(*payloads: bytes) -> list[Frame]:
    return [Frame(PING, payload) for payload in payloads]


def pongs(*payloads: bytes) -> list[Frame]:
    return [Frame(PONG, payload) for payload in payloads]


async def receive_pings(peer: RawPeer, count: int) -> list[bytes]:
    """The payloads of the next *count* frames, which must be pings."""
    frames = [await peer.receive() for _ in range(count)]
    assert all(frame is not None and frame.opcode == PING for frame in frames)
    return [frame.payload for frame in frames if frame is not None]


async def receive_controls(peer: RawPeer, last: Frame) -> list[Frame]:
    """The control frames until *last*, which is one of them; the data between them is dropped."""
    controls: list[Frame] = []
    while last not in controls:
        frame = await peer.receive()
        assert frame is not None
        if frame.opcode not in (BINARY, CONTINUATION):
            controls.append(frame)
    return controls


# Ping


async def test_ping_is_answered_over_every_transport(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    assert await client.ping() >= 0
    assert await server.ping(b"") >= 0
    assert client.latency is not None
    assert server.latency is not None


@ROLES
async def test_ping_returns_the_seconds_of_the_round_trip(
    role: Role, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    call = await begin(nursery, ws.ping, b"payload")
    frame = await peer.receive()
    assert frame == Frame(PING, b"payload")
    await trio.sleep(3)
    await peer.send(*pongs(b"payload"))
    assert await call.result() == 3
    assert ws.latency == 3


async def test_there_is_no_latency_before_the_first_pong(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    assert ws.latency is None
    call = await begin(nursery, ws.ping, b"1")
    assert ws.latency is None
    await peer.send(*pongs(b"1"))
    assert await call.result() == ws.latency


async def test_pings_without_a_payload_differ_from_each_other(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    calls = [await begin(nursery, ws.ping) for _ in range(20)]
    payloads = await receive_pings(peer, 20)
    assert len(set(payloads)) == 20
    assert all(payloads)
    await peer.send(*pongs(payloads[-1]))
    for call in calls:
        await call.result()


async def test_a_ping_is_completed_by_a_later_pings_pong_and_timed_from_its_own_start(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    first = await begin(nursery, ws.ping, b"1")
    await trio.sleep(1)
    second = await begin(nursery, ws.ping, b"2")
    await trio.sleep(2)
    await peer.send(*pongs(b"2"))
    assert await first.result() == 3
    assert await second.result() == 2
    assert ws.latency == 2


async def test_a_pong_completes_no_ping_sent_after_the_one_it_answers(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    first = await begin(nursery, ws.ping, b"1")
    second = await begin(nursery, ws.ping, b"2")
    await peer.send(*pongs(b"1"))
    await first.result()
    await trio.testing.wait_all_tasks_blocked()
    assert not second.is_over
    await peer.send(*pongs(b"2"))
    await second.result()


async def test_pings_with_the_same_payload_are_completed_one_by_one(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    first = await begin(nursery, ws.ping, b"same")
    second = await begin(nursery, ws.ping, b"same")
    await peer.send(*pongs(b"same"))
    await first.result()
    await trio.testing.wait_all_tasks_blocked()
    assert not second.is_over
    await peer.send(*pongs(b"same"))
    await second.result()


async def test_a_pong_that_nobody_asked_for_is_ignored(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*pongs(b"", b"unsolicited"))
    call = await begin(nursery, ws.ping, b"asked for")
    await peer.send(*pongs(b"", b"unsolicited"))
    await trio.testing.wait_all_tasks_blocked()
    assert not call.is_over
    assert ws.is_open
    await peer.send(*pongs(b"asked for"))
    await call.result()


async def test_a_pong_that_comes_twice_counts_once(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    first = await begin(nursery, ws.ping, b"1")
    second = await begin(nursery, ws.ping, b"2")
    await peer.send(*pongs(b"1", b"1"))
    await trio.testing.wait_all_tasks_blocked()
    assert first.is_over
    assert not second.is_over


async def test_the_pong_of_a_cancelled_ping_is_ignored(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    cancelled = await begin(nursery, ws.ping, b"1")
    cancelled.cancel()
    call = await begin(nursery, ws.ping, b"2")
    assert cancelled.was_cancelled
    await trio.sleep(1)
    await peer.send(*pongs(b"1"))
    await trio.testing.wait_all_tasks_blocked()
    assert not call.is_over
    assert ws.latency is None
    await peer.send(*pongs(b"2"))
    assert await call.result() == 1


async def test_a_ping_can_not_be_cancelled_once_its_pong_is_here(nursery: trio.Nursery) -> None:
    def on_control(opcode: Opcode, payload: bytes) -> None:
        # The ping comes in the same chunk as the pong before it, so in the same step.
        if opcode is Opcode.PING:
            call.cancel()

    ws, peer = await open_with_peer(nursery, Role.SERVER, control_callback=on_control)
    call = await begin(nursery, ws.ping, b"1")
    await peer.send(*pongs(b"1"), *pings(b"2"))
    assert await call.result() == ws.latency


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_a_payload_of_125_bytes_fits_and_a_longer_one_is_refused(
    method: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    call = ws.ping if method == "ping" else ws.pong
    with pytest.raises(ValueError, match="126 bytes: at most 125"):
        await call(bytes(126))
    assert ws.statistics().outbox_size == 0
    await begin(nursery, call, bytes(125))
    frame = await peer.receive()
    assert frame is not None
    assert frame.payload == bytes(125)


@pytest.mark.parametrize("method", ["ping", "pong"])
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (5, "bytes-like, not int"),
        ("text", r"not str: encode\(\) it"),
        ([1, 2], "bytes-like"),
    ],
)
async def test_a_payload_that_is_no_bytes_is_a_type_error(
    method: str, payload: object, message: str, nursery: trio.Nursery
) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    call = ws.ping if method == "ping" else ws.pong
    with pytest.raises(TypeError, match=message):
        await call(payload)  # type: ignore[arg-type]  # what the test is about
    assert ws.statistics().bytes_sent == 0


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_after_a_clean_close_a_ping_or_pong_raises_the_error(
    method: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(close_frame(1000, "bye"))
    await receive_until_closed(ws)
    with pytest.raises(ConnectionClosedError) as caught:
        await (ws.ping() if method == "ping" else ws.pong())
    assert (caught.value.code, caught.value.reason) == (1000, "bye")


async def test_a_ping_that_waits_for_its_pong_learns_that_the_connection_has_closed(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    call = await begin(nursery, ws.ping)
    await peer.send(close_frame(1001))
    with pytest.raises(ConnectionClosedError) as caught:
        await call.result()
    assert caught.value.code == 1001
    assert caught.value.stream is ws


async def test_a_ping_that_has_left_is_completed_although_this_side_is_closing(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    call = await begin(nursery, ws.ping, b"1")
    await ws.send_close()
    await peer.send(*pongs(b"1"))
    assert await call.result() >= 0


async def test_pings_to_a_peer_that_does_not_read_wait_for_room_in_turn(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await open_streams("socket", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs))
    await fill(ws)
    size = ws.statistics().outbox_size
    calls = [await begin(nursery, ws.ping, b"%d" % number) for number in range(400)]
    statistics = ws.statistics()
    assert statistics.outbox_size < size + 64 * 1024
    assert 0 < statistics.tasks_waiting_send < 400

    calls[-1].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert calls[-1].was_cancelled
    assert ws.statistics().tasks_waiting_send == statistics.tasks_waiting_send - 1

    numbers: list[int] = []
    while len(numbers) < 399:
        frame = await peer.receive()
        assert frame is not None
        if frame.opcode == PING:
            numbers.append(int(frame.payload))
    assert numbers == list(range(399))
    await peer.send(*pongs(b"398"))
    for call in calls[:-1]:
        await call.result()
    assert ws.statistics().tasks_waiting_send == 0


async def test_a_ping_passes_data_at_the_next_frame_boundary(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs), max_frame_size=50_000)
    await ws.send(bytes(1_000_000))
    call = await begin(nursery, ws.ping, b"1")
    opcodes = []
    frame = None
    while frame is None or not (frame.opcode == CONTINUATION and frame.fin):
        frame = await peer.receive()
        assert frame is not None
        opcodes.append(frame.opcode)
    encoded = (opcodes.index(PING) - 1) * 50_000
    assert encoded < AHEAD_OF_FRAGMENTS, "what has been encoded, no more"
    assert len(opcodes) == 21
    await peer.send(*pongs(b"1"))
    await call.result()


# Pong


@ROLES
async def test_pong_sends_a_pong_that_nobody_asked_for(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.pong()
    await ws.pong(b"alive")
    assert await peer.receive() == Frame(PONG, b"")
    assert await peer.receive() == Frame(PONG, b"alive")


async def test_the_payload_of_a_pong_is_copied(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs))
    payload = bytearray(b"before")
    await ws.pong(payload)
    payload[:] = b"after!"
    assert await peer.receive() == Frame(PONG, b"before")


async def test_a_cancelled_pong_that_waited_for_room_is_never_sent(nursery: trio.Nursery) -> None:
    ours, theirs = await open_streams("socket", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs))
    await fill(ws)
    calls = [await begin(nursery, ws.pong, b"%d" % number) for number in range(300)]
    waiting = [number for number, call in enumerate(calls) if not call.is_over]
    assert waiting
    assert waiting == list(range(waiting[0], 300))
    for number in waiting[::2]:
        calls[number].cancel()
    await trio.testing.wait_all_tasks_blocked()

    expected = [number for number in range(300) if number not in waiting[::2]]
    received: list[int] = []
    while len(received) < len(expected):
        frame = await peer.receive()
        assert frame is not None
        if frame.opcode == PONG:
            received.append(int(frame.payload))
    assert received == expected
    for number in expected:
        await calls[number].result()


# Pings that are answered


@ROLES
@pytest.mark.parametrize("kind", ["memory", "lockstep", "socket"])
async def test_every_ping_in_a_chunk_is_answered_in_order_though_nobody_receives(
    role: Role, kind: str, nursery: trio.Nursery
) -> None:
    streams = await open_streams(kind, nursery)
    _, peer = await open_with_peer(nursery, role, streams)
    payloads = [b"%d" % number for number in range(10)]
    await peer.send(*pings(*payloads))
    assert [await peer.receive() for _ in payloads] == pongs(*payloads)


async def test_a_ping_is_answered_while_a_fragmented_message_is_open_in_both_directions(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("out ", fin=False)
    await peer.send(Frame(TEXT, b"in ", fin=False), *pings(b"1"), Frame(CONTINUATION, b"side"))
    assert await peer.receive() == Frame(TEXT, b"out ", fin=False)
    assert await peer.receive() == Frame(PONG, b"1")
    await ws.send_some("side", fin=True)
    assert await peer.receive() == Frame(CONTINUATION, b"side")
    assert await ws.receive() == "in side"


@pytest.mark.parametrize("kind", ["socket", "lockstep"])
async def test_a_flood_of_pings_from_a_peer_that_does_not_read_takes_bounded_memory(
    kind: str, nursery: trio.Nursery
) -> None:
    streams = await open_streams(kind, nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)
    await fill(ws)
    before = ws.statistics().outbox_size
    flood = [b"%d" % number for number in range(20_000)]
    for start in range(0, len(flood), 1000):
        await peer.send(*pings(*flood[start : start + 1000]))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().outbox_size < before + 64 * 1024
    assert ws.is_open

    call = await begin(nursery, ws.ping, b"end")
    controls = await receive_controls(peer, Frame(PING, b"end"))
    answers = [int(frame.payload) for frame in controls[:-1]]
    assert len(answers) < 1000
    assert 19_999 in answers
    await peer.send(*pongs(b"end"))
    await call.result()


async def test_pings_that_the_full_kernel_keeps_waiting_collapse_into_one_pong_the_latest(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await open_streams("socket", nursery))
    await fill(ws)
    await peer.send(*pings(b"1", b"2"))
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(*pings(b"3"))
    await trio.testing.wait_all_tasks_blocked()
    await ws.send_close()
    nursery.start_soon(ws.wait_closed)
    assert await receive_controls(peer, close_frame(1000)) == [*pongs(b"3"), close_frame(1000)]


async def test_pings_after_our_close_are_not_answered(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_close()
    await peer.send(*pings(b"1"), close_frame(1000))
    assert await peer.receive_all() == [close_frame(1000)]


# The control callback


@ROLES
async def test_the_callback_sees_every_ping_pong_and_close_in_order(
    role: Role, nursery: trio.Nursery
) -> None:
    seen: list[tuple[Opcode, bytes]] = []
    ws, peer = await open_with_peer(
        nursery, role, control_callback=lambda *control: seen.append(control)
    )
    await peer.send(
        *pings(b"1"), Frame(BINARY, b"not this"), *pongs(b"2"), close_frame(1000, "bye")
    )
    await receive_until_closed(ws)
    bye = close_frame(1000, "bye").payload
    assert seen == [(Opcode.PING, b"1"), (Opcode.PONG, b"2"), (Opcode.CLOSE, bye)]
    assert all(type(opcode) is Opcode for opcode, _ in seen)
    assert all(type(payload) is bytes for _, payload in seen)
    await peer.stream.aclose()


async def test_the_callback_sees_a_pong_before_the_ping_is_completed_and_may_use_the_stream(
    nursery: trio.Nursery,
) -> None:
    def on_control(opcode: Opcode, payload: bytes) -> None:
        assert not call.is_over
        ws.send_nowait(payload)
        ws.configure(control_callback=None)

    ws, peer = await open_with_peer(nursery, Role.SERVER, control_callback=on_control)
    call = await begin(nursery, ws.ping, b"1")
    await peer.send(*pongs(b"1"), *pings(b"2"))
    await call.result()
    assert [await peer.receive() for _ in range(3)] == [
        Frame(PING, b"1"),
        Frame(PONG, b"2"),
        Frame(BINARY, b"1"),
    ]


@pytest.mark.parametrize(
    "frame",
    [Frame(PING, b"1"), Frame(PONG, b"1"), close_frame(1000)],
    ids=["ping", "pong", "close"],
)
async def test_a_callback_that_raises_fails_the_connection_with_1011(
    frame: Frame, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    error = LookupError("of the callback")

    def on_control(opcode: Opcode, payload: bytes) -> None:
        raise error

    ws, peer = await open_with_peer(nursery, Role.SERVER, control_callback=on_control)
    await peer.send(Frame(TEXT, b"before"), frame, Frame(TEXT, b"after"))
    messages, closed = await receive_until_closed(ws)
    assert messages == ["before"]
    assert type(closed) is ConnectionClosedError
    assert closed.code == 1011
    assert closed.__cause__ is error
    assert "control_callback" in caplog.text
    answer = await peer.receive()
    assert answer is not None
    assert answer.payload[:2] == (1011).to_bytes(2, "big")


async def test_a_callback_that_raises_over_the_answer_to_our_close_changes_nothing_any_more(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def on_control(opcode: Opcode, payload: bytes) -> None:
        raise LookupError

    ws, peer = await open_with_peer(nursery, Role.CLIENT, control_callback=on_control)
    call = await begin(nursery, ws.receive)
    await ws.send_close(1000)
    await peer.send(close_frame(1000))
    with pytest.raises(ConnectionClosedOK):
        await call.result()
    assert "control_callback" in caplog.text
    await peer.stream.aclose()
    await ws.wait_closed()


# Silence


@ROLES
async def test_a_silent_peer_is_given_up_after_just_the_idle_time(
    role: Role, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, role, timeouts=IDLE_10)
    opened = trio.current_time()
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive()
    assert trio.current_time() - opened == 10
    assert caught.value.code == 1006
    assert isinstance(caught.value.__cause__, trio.TooSlowError)
    assert await peer.receive_all() == []


async def test_without_an_idle_time_silence_may_last(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    timeouts = Timeouts(idle=None, keep_alive_pings=True)
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=timeouts)
    await trio.sleep(365 * 86400)
    await peer.send(Frame(TEXT, b"still there?"))
    assert await ws.receive() == "still there?"
    assert ws.statistics().bytes_sent == 0


async def test_every_byte_is_activity(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=IDLE_10)
    call = await begin(nursery, ws.receive)
    for byte in peer.encode(Frame(BINARY, bytes(200))):
        await trio.sleep(9)
        await peer.stream.send_all(bytes([byte]))
    assert await call.result() == bytes(200)


async def test_the_idle_time_counts_from_the_last_byte(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=IDLE_10)
    start = trio.current_time()
    await trio.sleep(7)
    await peer.send(*pongs(b""))
    await ws.wait_closed()
    assert trio.current_time() - start == 17


async def test_what_is_sent_is_no_activity_of_the_peer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER, timeouts=IDLE_10)
    start = trio.current_time()

    async def talk() -> None:
        while ws.is_open:
            await ws.send("hello")
            await trio.sleep(4)

    nursery.start_soon(talk)
    await ws.wait_closed()
    assert trio.current_time() - start == 10


async def test_keep_alive_pings_after_half_the_idle_time_and_their_pongs_keep_it_alive(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=PINGS_10)
    start = trio.current_time()
    payloads = set()
    for number in range(49):
        frame = await peer.receive()
        assert frame is not None
        assert frame.opcode == PING
        assert trio.current_time() - start == 5 + number * 7
        payloads.add(frame.payload)
        await trio.sleep(2)
        await peer.send(*pongs(frame.payload))
        await trio.testing.wait_all_tasks_blocked()
        assert ws.latency == 2
    assert len(payloads) == 49


async def test_a_keep_alive_ping_without_an_answer_is_the_end_after_the_idle_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=PINGS_10)
    start = trio.current_time()
    frames = await peer.receive_all()
    assert [frame.opcode for frame in frames] == [PING]
    assert trio.current_time() - start == 10
    _, closed = await receive_until_closed(ws)
    assert isinstance(closed.__cause__, trio.TooSlowError)


async def test_a_pong_that_comes_in_the_same_instant_as_the_ping_keeps_it_alive(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = await websocket_pair(nursery, timeouts=Timeouts())
    await trio.sleep(86400)
    assert client.is_open
    assert server.is_open
    assert client.latency == server.latency == 0


async def test_there_is_no_keep_alive_ping_while_the_peer_is_heard(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=PINGS_10)
    for _ in range(100):
        await trio.sleep(4)
        await peer.send(*pongs(b""))
    assert ws.statistics().bytes_sent == 0


async def test_the_pong_of_a_keep_alive_ping_completes_the_pings_before_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=PINGS_10)
    call = await begin(nursery, ws.ping, b"mine")
    _, keep_alive = await receive_pings(peer, 2)
    await peer.send(*pongs(keep_alive))
    assert await call.result() == 5
    assert ws.latency == 0


async def test_silence_does_not_count_while_a_slow_application_keeps_the_reader_waiting(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=PINGS_10, max_inbox_size=1000)
    await peer.send(*[Frame(BINARY, bytes(900))] * 3)
    await trio.sleep(1002)
    assert ws.is_open
    # The peer must not take this side for gone, though nobody reads its pings.
    assert [await peer.receive() for _ in range(200)] == [Frame(PONG, b"")] * 200
    for _ in range(3):
        assert await ws.receive() == bytes(900)
    resumed = trio.current_time()
    frame = await peer.receive()
    assert frame is not None
    assert frame.opcode == PING
    assert trio.current_time() - resumed == 5
    await ws.wait_closed()
    assert trio.current_time() - resumed == 10


@pytest.mark.parametrize("attempt", range(20))
async def test_the_reader_that_goes_on_after_a_long_pause_is_not_taken_for_silent(
    attempt: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    # Who runs first in the next tick, the reader or the one that keeps the deadlines, is chance.
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=IDLE_10, max_inbox_size=100)
    await peer.send(*[Frame(BINARY, bytes(100))] * 2)
    await trio.sleep(100)
    ws.receive_nowait()
    ws.configure(max_message_size=None)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.is_open


@ROLES
@pytest.mark.parametrize("paused", [False, True])
async def test_a_peer_that_takes_nothing_for_the_idle_time_is_given_up_paused_or_not(
    role: Role, paused: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await open_streams("socket", nursery)
    ws, peer = await open_with_peer(
        nursery, role, (ours, theirs), timeouts=IDLE_10, max_inbox_size=1
    )
    await trio.sleep(7)
    await peer.send(*pongs(b""))
    await fill(ws)
    blocked_at = trio.current_time()
    if paused:
        await peer.send(*[Frame(BINARY, bytes(9))] * 2)

    async def keep_talking() -> None:
        while True:
            await trio.sleep(4)
            await peer.send(*pongs(b""))

    async with trio.open_nursery() as inner:
        if not paused:
            inner.start_soon(keep_talking)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.send(b"one more")
        assert trio.current_time() - blocked_at == 10
        assert isinstance(caught.value.__cause__, trio.TooSlowError)
        assert "taken nothing" in str(caught.value.__cause__)
        inner.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["socket", "faulty"])
async def test_a_peer_that_takes_a_little_at_a_time_is_not_given_up(
    kind: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    if kind == "socket":
        ours, theirs = await open_streams("socket", nursery)
    else:
        ours, theirs = trio.testing.memory_stream_pair()
        ours = FaultyStream(ours)
        ours.delay = 8
    timeouts = Timeouts(handshake=None, idle=10, keep_alive_pings=False)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs), timeouts=timeouts)
    payload = bytes(2_000_000)
    await ws.send(payload)
    received = bytearray()
    start = trio.current_time()
    while len(received) < len(payload):
        await trio.sleep(8)
        await peer.send(*pongs(b""))
        received += await peer.stream.receive_some(1_000_000)
    assert trio.current_time() - start > 40
    assert ws.is_open


async def test_the_idle_time_can_be_changed_on_an_open_stream(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=NO_TIMEOUTS)
    start = trio.current_time()
    await trio.sleep(100)
    await peer.send(*pongs(b""))
    await trio.testing.wait_all_tasks_blocked()
    ws.configure(timeouts=Timeouts(idle=50, keep_alive_pings=False))
    await trio.sleep(30)
    ws.configure(timeouts=Timeouts(idle=200, keep_alive_pings=False))
    await trio.sleep(100)
    assert ws.is_open
    ws.configure(timeouts=Timeouts(idle=160, keep_alive_pings=True))
    frame = await peer.receive()
    assert frame is not None
    assert frame.opcode == PING
    await ws.wait_closed()
    assert trio.current_time() - start == 260


@pytest.mark.parametrize("answered", [True, False])
async def test_a_peer_is_asked_before_the_silence_of_a_process_that_stood_still_counts(
    answered: bool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, timeouts=Timeouts(idle=60))
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(1000)
    frame = await peer.receive()
    assert frame is not None
    assert frame.opcode == PING
    mock_clock.jump(9)
    if answered:
        await peer.send(*pongs(frame.payload))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.is_open
    mock_clock.jump(2)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.is_open is answered


async def test_an_idle_time_that_has_passed_already_is_over_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    await trio.sleep(100)
    start = trio.current_time()
    ws.configure(timeouts=IDLE_10)
    await ws.wait_closed()
    assert trio.current_time() == start


@pytest.mark.parametrize("streams", DETERMINISTIC_KINDS, indirect=True)
async def test_two_silent_ends_keep_each_other_alive_over_every_transport(
    nursery: trio.Nursery, streams: Streams, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = await websocket_pair(nursery, streams, timeouts=Timeouts(idle=60))
    await trio.sleep(3600)
    await client.send("still there?")
    assert await server.receive() == "still there?"


async def test_a_part_of_a_message_that_the_end_has_cut_off_meets_the_end(
    nursery: trio.Nursery,
) -> None:
    client, server = await websocket_pair(nursery)
    start, end = "\u00fc".encode()[:1], "\u00fc".encode()[1:]
    await client.send_some(start, fin=False, text=True)
    await server.aclose()
    with pytest.raises(ConnectionClosedError):
        await client.send_some(end, fin=True, text=True)


async def test_an_exception_of_a_closed_connection_can_be_copied(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await server.aclose(4000, "why")
    with pytest.raises(ConnectionClosedError) as caught:
        await client.receive()
    caught.value.add_note("a note")
    copied = copy.copy(caught.value)
    assert type(copied) is ConnectionClosedError
    assert copied.stream is client
    assert vars(copied) == vars(caught.value)
    assert str(copied) == str(caught.value)


def test_pings_leave_the_random_numbers_of_the_program_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    assert fresh_payload() != fresh_payload()
    assert random.random() == expected
