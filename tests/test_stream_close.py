"""Closing one stream: who says what, who waits for whom and for how long, and what is left."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    EMPTY_CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    close_frame,
    make_streams,
    open_with_peer,
    receive_until_closed,
    tcp_pair,
)

from trio_ws import (
    CloseReason,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Timeouts,
    WebSocketStream,
)
from trio_ws._protocol import Role
from trio_ws.testing import NO_TIMEOUTS, FaultyStream, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
KINDS = pytest.mark.parametrize("kind", ["memory", "socket", "watched", "alone"])
CLOSERS = pytest.mark.parametrize("closer", ["client", "server"])

SEVEN_SECONDS = Timeouts(handshake=7, idle=None, keep_alive_pings=False)
BIG = b"x" * 100_000


# What is said


@CLOSERS
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, ""),
        (1001, "moving"),
        (1011, "oops"),
        (1014, ""),
        (3000, "ü" * 61),
        (4999, "x" * 123),
    ],
)
async def test_code_and_reason_arrive_as_sent(
    closer: str, code: int, reason: str, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    this, other = (client, server) if closer == "client" else (server, client)
    await this.aclose(code, reason)
    _, closed = await receive_until_closed(other)
    assert (closed.code, closed.reason) == (code, reason)
    assert closed.received == CloseReason(code, reason)
    assert closed.sent == CloseReason(code, "")
    assert isinstance(closed, ConnectionClosedOK) is (code in (1000, 1001))
    assert other.close_reason == CloseReason(code, reason)
    assert this.close_reason == CloseReason(code, "")


@ROLES
async def test_an_empty_close_is_1005_and_is_answered_with_1000(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await peer.send(EMPTY_CLOSE)
    _, closed = await receive_until_closed(ws)
    assert type(closed) is ConnectionClosedOK
    assert closed.received == CloseReason(1005, "")
    assert await peer.receive() == close_frame(1000)
    await peer.stream.aclose()


@ROLES
async def test_code_none_sends_an_empty_close(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send_close(None)
    assert ws.close_reason == CloseReason(1005, "")
    assert await peer.answer_close() == [EMPTY_CLOSE]
    _, closed = await receive_until_closed(ws)
    assert closed.sent == closed.received == CloseReason(1005, "")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, "") for code in (999, 1004, 1005, 1006, 1015, 2999, 5000)),
        (1000, "x" * 124),
        (1000, "ü" * 62),
        (1000, "\ud800"),
        (None, "why"),
    ],
)
async def test_what_may_not_be_sent_is_a_value_error_and_nothing_has_changed(
    code: int | None, reason: str, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    for close in (client.send_close, client.aclose):
        with pytest.raises(ValueError, match=r"code|reason"):
            await close(code, reason)
        assert client.is_open
    await client.send("still here")
    assert await server.receive() == "still here"
    await client.aclose()


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        ("bye", "", "code of a Close is an int, not 'bye': a text is its reason="),
        (1000.0, "", "code of a Close is an int"),
        (1000, b"bye", "reason of a Close is str, not bytes"),
        (None, None, "reason of a Close is str, not NoneType"),
    ],
)
async def test_what_is_no_code_and_no_reason_is_a_type_error_and_nothing_has_changed(
    code: Any, reason: Any, message: str, nursery: trio.Nursery
) -> None:
    client, _ = await websocket_pair(nursery)
    for close in (client.send_close, client.aclose):
        with pytest.raises(TypeError, match=message):
            await close(code, reason)
        assert client.is_open
    await client.aclose()


# Either side, both sides, and what is under way


@KINDS
async def test_both_sides_close_at_once(kind: str, nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery, await make_streams(kind))
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 3001, "client")
        closing.start_soon(server.aclose, 3002, "server")
    assert client.close_reason == CloseReason(3002, "server")
    assert server.close_reason == CloseReason(3001, "client")


@KINDS
@CLOSERS
async def test_messages_in_flight_in_both_directions_arrive_before_the_close(
    kind: str, closer: str, nursery: trio.Nursery
) -> None:
    pair = await websocket_pair(nursery, await make_streams(kind))
    this, other = pair if closer == "client" else pair[::-1]
    committed = {this: 0, other: 0}
    arrived = {}
    under_way = trio.Event()

    async def keep_sending(ws: WebSocketStream) -> None:
        with pytest.raises(ConnectionClosedError):
            while True:
                await ws.send(BIG)
                committed[ws] += 1
                if min(committed.values()) == 2:
                    under_way.set()

    async def receive(ws: WebSocketStream) -> None:
        messages, closed = await receive_until_closed(ws)
        assert type(closed) is ConnectionClosedOK
        assert closed.received is not None
        arrived[ws] = len(messages)

    async with trio.open_nursery() as traffic:
        for ws in pair:
            traffic.start_soon(keep_sending, ws)
        await under_way.wait()
        await this.send_close()
        for ws in pair:
            traffic.start_soon(receive, ws)
    assert arrived == {this: committed[other], other: committed[this]}


@KINDS
@ROLES
async def test_a_close_follows_everything_that_was_committed(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(
        nursery, role, await make_streams(kind), max_outbox_size=100 * len(BIG)
    )
    for _ in range(30):
        ws.send_nowait(BIG)
    closed = await begin(nursery, ws.aclose)
    assert not closed.is_over
    assert await peer.answer_close() == [Frame(BINARY, BIG)] * 30 + [close_frame(1000)]
    await closed.result()
    assert ws.close_reason == CloseReason(1000, "")


@KINDS
@ROLES
async def test_the_answer_to_a_close_follows_everything_that_was_committed(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(
        nursery, role, await make_streams(kind), max_outbox_size=100 * len(BIG)
    )
    for _ in range(30):
        ws.send_nowait(BIG)
    await peer.send(close_frame(4000, "enough"))
    frames = [await peer.receive() for _ in range(31)]
    assert frames == [Frame(BINARY, BIG)] * 30 + [close_frame(4000)]
    await peer.stream.aclose()
    await ws.wait_closed()


@KINDS
@ROLES
@pytest.mark.parametrize("last", [close_frame(1000), Frame(0x3, b"")], ids=["Close", "violation"])
async def test_what_has_to_be_said_leaves_though_the_peer_has_ended_its_direction(
    kind: str, role: Role, last: Frame, nursery: trio.Nursery
) -> None:
    """EOF behind its Close only says that it has nothing to add: it can still read."""
    ws, peer = await open_with_peer(
        nursery, role, await make_streams(kind), max_outbox_size=100 * len(BIG)
    )
    for _ in range(30):
        ws.send_nowait(BIG)
    await peer.send(last)
    await peer.half_close()
    frames = await peer.receive_all()
    assert frames.pop().opcode is CLOSE
    if last.opcode is CLOSE:
        assert frames == [Frame(BINARY, BIG)] * 30
    await peer.stream.aclose()
    await ws.wait_closed()


@KINDS
@ROLES
@pytest.mark.parametrize(
    "last", [close_frame(1000), EMPTY_CLOSE, Frame(0x3, b"")], ids=["1000", "1005", "violation"]
)
async def test_the_answer_to_a_message_goes_out_before_the_answer_to_the_end_behind_it(
    kind: str, role: Role, last: Frame, nursery: trio.Nursery
) -> None:
    """They came in one piece, and the connection may not close faster than its user answers."""
    for _ in range(10):  # The order of tasks within a tick is random.
        ws, peer = await open_with_peer(nursery, role, await make_streams(kind))

        async def echo(ws: WebSocketStream = ws) -> None:
            with pytest.raises(ConnectionClosed):
                while True:
                    await ws.send(await ws.receive())

        await begin(nursery, echo)
        await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(PING, b"three"), last)
        frames = [await peer.receive() for _ in range(4)]
        assert None not in frames
        assert {Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(PONG, b"three")} == set(frames[:3])
        assert frames[3] is not None
        assert frames[3].opcode is CLOSE
        await peer.stream.aclose()


# send_close


@CLOSERS
async def test_after_send_close_one_receives_until_the_peer_has_closed(
    closer: str, nursery: trio.Nursery
) -> None:
    pair = await websocket_pair(nursery)
    this, other = pair if closer == "client" else pair[::-1]
    await other.send("before")
    await this.send_close(1000, "done")
    assert not this.is_open
    assert [message async for message in this] == ["before"]
    assert [message async for message in other] == []
    assert this.close_reason == CloseReason(1000, "")
    assert other.close_reason == CloseReason(1000, "done")


@ROLES
async def test_what_the_peer_sends_after_send_close_still_arrives(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send_close()
    await peer.send(Frame(TEXT, b"un", fin=False), Frame(PING, b"?"))
    await peer.send(Frame(CONTINUATION, b"der way"))
    assert await ws.receive() == "under way"
    await peer.send(Frame(TEXT, b"last"), close_frame(1000, "bye"))
    await peer.half_close()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["last"]
    assert closed.received == CloseReason(1000, "bye")
    assert await peer.receive_all() == [close_frame(1000)]


@ROLES
async def test_the_first_close_wins_and_later_ones_join_it(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send_close(4001, "first")
    await ws.send_close(4002, "second")
    closed = await begin(nursery, ws.aclose, 4003, "third")
    await peer.send(close_frame(4001))
    await peer.half_close()
    assert await peer.receive_all() == [close_frame(4001, "first")]
    await closed.result()


async def test_send_close_after_the_end_does_nothing(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await server.aclose(4000)
    await client.wait_closed()
    await client.send_close(4001)
    assert client.close_reason == CloseReason(4000, "")


@CLOSERS
async def test_a_stream_closes_its_transport_though_nobody_calls_aclose(closer: str) -> None:
    async with trio.open_nursery() as nursery:
        pair = await websocket_pair(nursery)
        await pair[closer == "server"].send_close()
    for ws in pair:
        with pytest.raises(trio.ClosedResourceError):
            await ws.transport_stream.receive_some()


# Receiving a Close


@pytest.mark.parametrize("behind", [close_frame(1001), Frame(TEXT, b"late"), Frame(0x3, b"")])
@ROLES
async def test_nothing_counts_that_comes_behind_a_close(
    role: Role, behind: Frame, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await peer.send(Frame(TEXT, b"hello"), close_frame(4000, "bye"), behind)
    await peer.send(behind)
    await peer.half_close()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["hello"]
    assert closed.received == CloseReason(4000, "bye")
    assert closed.__cause__ is None
    assert await peer.receive_all() == [close_frame(4000)]


async def test_a_close_is_answered_while_nobody_receives(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(TEXT, b"hello"), close_frame(1000))
    assert await peer.receive() == close_frame(1000)
    assert not ws.is_open
    assert ws.statistics().inbox_size > 0
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_a_close_behind_a_full_inbox_is_seen_when_there_is_room(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind), max_inbox_size=1000)
    messages = [Frame(BINARY, bytes([number]) * 100) for number in range(100)]
    await peer.send(*messages, close_frame(1000, "all said"))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.is_open
    received, closed = await receive_until_closed(ws)
    assert received == [frame.payload for frame in messages]
    assert closed.received == CloseReason(1000, "all said")
    await peer.stream.aclose()


# aclose


@KINDS
@ROLES
async def test_aclose_drops_a_full_inbox_and_what_still_arrives(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind), max_inbox_size=1000)
    sent = await begin(nursery, peer.send, *[Frame(BINARY, BIG)] * 100)
    assert sent.is_over is (kind == "memory")
    closed = await begin(nursery, ws.aclose)
    await sent.result()
    assert await peer.answer_close() == [close_frame(1000)]
    await closed.result()
    assert ws.close_reason == CloseReason(1000, "")
    assert ws.statistics().inbox_size == 0


async def test_aclose_is_idempotent(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.aclose(4000, "once")
    await client.aclose(4001, "twice")
    await server.aclose()
    assert server.close_reason == CloseReason(4000, "once")


async def test_all_tasks_in_aclose_return(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    async with trio.open_nursery() as closing:
        for ws in (client, server):
            for code in (4000, 4001, 4002):
                closing.start_soon(ws.aclose, code)
    assert client.close_reason
    assert client.close_reason.code in (4000, 4001, 4002)


async def test_aclose_when_the_peer_has_closed_already_only_waits(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await peer.send(Frame(TEXT, b"never received"), close_frame(4000, "bye"))
    assert await peer.receive() == close_frame(4000)
    closed = await begin(nursery, ws.aclose, 4001, "not heard")
    assert not closed.is_over
    await peer.stream.aclose()
    await closed.result()
    assert ws.close_reason == CloseReason(4000, "bye")


# A peer that does not play along


@pytest.mark.parametrize(
    "goes_on",
    [
        (),
        (Frame(TEXT, b"news"), Frame(TEXT, b"news")),
        (Frame(PONG, b""), Frame(PING, b"?")),
        (Frame(TEXT, b"a", fin=False), Frame(CONTINUATION, b"b", fin=False)),
    ],
    ids=["silence", "messages", "pings", "one endless message"],
)
@KINDS
@ROLES
async def test_a_peer_that_does_not_answer_the_close_has_until_the_deadline(
    kind: str, role: Role, goes_on: tuple[Frame, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """Data that it goes on sending does not extend it."""
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, role, await make_streams(kind), timeouts=SEVEN_SECONDS
        )

        async def go_on(first: Frame, then: Frame) -> None:
            await peer.send(first)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await trio.sleep(0.5)
                    await peer.send(then)

        if goes_on:
            nursery.start_soon(lambda: go_on(*goes_on))
        await ws.aclose(1000, "bye")
        assert trio.current_time() == pytest.approx(7)
        assert ws.close_reason == CloseReason(1006, "")
        assert await peer.receive() == close_frame(1000, "bye")
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_a_receiver_after_send_close_learns_of_the_deadline(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, role, await make_streams(kind), timeouts=SEVEN_SECONDS
        )
        await ws.send_close(4000, "bye")
        _, closed = await receive_until_closed(ws)
    await peer.stream.aclose()
    assert trio.current_time() == pytest.approx(7)
    assert type(closed) is ConnectionClosedError
    assert closed.code == 1006
    assert closed.sent == CloseReason(4000, "bye")
    assert closed.received is None
    assert isinstance(closed.__cause__, trio.TooSlowError)


@KINDS
async def test_the_deadline_holds_while_the_reader_is_paused_by_a_full_inbox(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery,
            Role.SERVER,
            await make_streams(kind),
            timeouts=SEVEN_SECONDS,
            max_inbox_size=100,
        )
        await peer.send(*[Frame(TEXT, b"unread")] * 100, close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        await ws.send_close()
    assert trio.current_time() == pytest.approx(7)
    await peer.stream.aclose()
    messages, closed = await receive_until_closed(ws)
    assert messages
    assert set(messages) == {"unread"}
    assert closed.code == 1006


@KINDS
@ROLES
async def test_a_violation_while_closing_does_not_extend_the_deadline(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, role, await make_streams(kind), timeouts=SEVEN_SECONDS
        )
        await ws.send_close()
        await trio.sleep(5)
        await peer.send(Frame(0x3, b""))
        await ws.wait_closed()
    assert trio.current_time() == pytest.approx(7)
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_receivers_do_not_wait_for_the_peer_to_end_tcp(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(nursery, role, await make_streams(kind))
        receiving = await begin(nursery, receive_until_closed, ws)
        await ws.send_close()
        await peer.send(close_frame(1000, "bye"))
        _, closed = await receiving.result()
        assert trio.current_time() == 0
        await peer.stream.aclose()
    assert closed.received == CloseReason(1000, "bye")


@KINDS
@ROLES
async def test_a_peer_that_reads_nothing_has_until_the_deadline(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """The Close can not even leave."""
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams(kind)
        stream = FaultyStream(ours) if kind == "memory" else ours
        ws, peer = await open_with_peer(nursery, role, (stream, theirs), timeouts=SEVEN_SECONDS)
        if isinstance(stream, FaultyStream):
            stream.stall(receive=False)
        ws.send_nowait(bytes(10_000_000))
        await ws.aclose()
    assert trio.current_time() == pytest.approx(7)
    assert ws.close_reason == CloseReason(1006, "")
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_after_both_closes_a_peer_that_does_not_end_has_one_second(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """And it is no error: the closing handshake is complete, and nothing that counts can come."""
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, role, await make_streams(kind), timeouts=SEVEN_SECONDS
        )
        await peer.send(close_frame(1000, "bye"))

        async def go_on() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await trio.sleep(0.5)
                    await peer.send(Frame(TEXT, b"more"))

        nursery.start_soon(go_on)
        messages, closed = await receive_until_closed(ws)
        assert trio.current_time() == 0
        await ws.aclose()
        assert trio.current_time() == pytest.approx(1)
    assert messages == []
    assert closed.received == ws.close_reason == CloseReason(1000, "bye")
    assert closed.__cause__ is None
    await peer.stream.aclose()


async def test_without_a_deadline_and_an_idle_time_a_close_may_take_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(nursery, Role.CLIENT, timeouts=NO_TIMEOUTS)
        await ws.send_close()
        await trio.sleep(10_000)
        assert await peer.answer_close() == [close_frame(1000)]
    assert ws.close_reason == CloseReason(1000, "")


async def test_without_a_deadline_the_idle_time_ends_a_close_and_no_ping_follows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, Role.CLIENT, timeouts=Timeouts(handshake=None, idle=10)
        )
        await ws.send_close()
        await trio.sleep(8)
        await peer.send(Frame(TEXT, b"a sign of life"))
        assert await peer.receive_all() == [close_frame(1000)]
    assert trio.current_time() == pytest.approx(18)
    assert ws.close_reason == CloseReason(1006, "")
    await peer.stream.aclose()


MISCHIEF: dict[str, list[Frame]] = {
    "nothing": [],
    "a violation": [Frame(0x3, b"")],
    "a text that is none": [Frame(TEXT, b"\xff")],
    "half a message": [Frame(TEXT, b"half", fin=False)],
    "two Closes": [close_frame(1000), close_frame(1002)],
    "a Close that is none": [Frame(CLOSE, b"\x03")],
    "an error code": [close_frame(1011, "your fault")],
}


@pytest.mark.parametrize("mischief", MISCHIEF)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@KINDS
@ROLES
async def test_aclose_does_not_raise_whatever_the_peer_does(
    kind: str, role: Role, mischief: str, before: bool, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind))
    if before:
        await peer.send(*MISCHIEF[mischief])
        await peer.stream.aclose()
        await ws.aclose()
    else:
        closed = await begin(nursery, ws.aclose)
        await peer.send(*MISCHIEF[mischief])
        await peer.stream.aclose()
        await closed.result()
    assert ws.close_reason is not None


# wait_closed


@KINDS
@ROLES
async def test_wait_closed_sees_the_close_behind_more_than_the_inbox_holds(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind), max_inbox_size=1000)
    nursery.start_soon(lambda: peer.send(*[Frame(BINARY, BIG)] * 50, close_frame(1000, "bye")))
    await trio.testing.wait_all_tasks_blocked()
    closed = await begin(nursery, ws.wait_closed)
    assert await peer.receive() == close_frame(1000)
    await peer.stream.aclose()
    await closed.result()
    assert ws.close_reason == CloseReason(1000, "bye")
    assert ws.statistics().inbox_size == 0


async def test_wait_closed_returns_however_the_connection_ends(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await peer.stream.aclose()
    await ws.wait_closed()
    await ws.wait_closed()
    assert ws.close_reason == CloseReason(1006, "")


async def test_messages_arrive_again_after_the_last_wait_closed_is_cancelled(
    nursery: trio.Nursery,
) -> None:
    client, server = await websocket_pair(nursery)
    waiting = [await begin(nursery, client.wait_closed) for _ in range(2)]
    for call in waiting:
        await server.send("discarded")
        await trio.testing.wait_all_tasks_blocked()
        call.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert call.was_cancelled
    await server.send("kept")
    assert await client.receive() == "kept"
    await client.aclose()


async def test_a_message_of_which_wait_closed_discarded_a_part_does_not_arrive_torn(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    waiting = await begin(nursery, ws.wait_closed)
    await peer.send(Frame(TEXT, b"first half, ", fin=False))
    await trio.testing.wait_all_tasks_blocked()
    waiting.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.was_cancelled
    await peer.send(Frame(CONTINUATION, b"second half"), Frame(TEXT, b"whole"))
    assert await ws.receive() == "whole"
    await peer.stream.aclose()


# Who ends TCP, and how


@KINDS
async def test_a_server_half_closes_and_discards_until_the_client_ends(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams(kind))
    await peer.send(close_frame(1000))
    assert await peer.receive_all() == [close_frame(1000)]
    closed = await begin(nursery, ws.aclose)
    for _ in range(50):
        await peer.send(Frame(BINARY, BIG))
    assert not closed.is_over
    await peer.stream.aclose()
    await closed.result()


@KINDS
async def test_a_client_waits_for_the_server_to_end_tcp(kind: str, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT, await make_streams(kind))
    await peer.send(close_frame(1000))
    assert await peer.receive() == close_frame(1000)
    closed = await begin(nursery, ws.aclose)
    await peer.send(*[Frame(BINARY, BIG)] * 50)
    assert not closed.is_over
    await peer.half_close()
    assert await peer.receive() is None
    await closed.result()
    await peer.stream.aclose()


@pytest.mark.parametrize("role", list(Role))
async def test_a_reset_after_both_closes_changes_nothing(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, role, await tcp_pair())
    await peer.send(close_frame(1000, "bye"))
    assert await peer.receive() == close_frame(1000)
    await trio.aclose_forcefully(peer.stream)
    await ws.wait_closed()
    assert ws.close_reason == CloseReason(1000, "bye")


@pytest.mark.parametrize("trigger", ["aclose", "violation", "too big"])
async def test_a_client_that_has_sent_much_that_was_not_read_still_sees_the_close(
    trigger: str,
) -> None:
    """A socket that is closed with unread input sends a reset, which destroys what is under way."""
    flood = {
        "aclose": [],
        "violation": [Frame(0x3, b"")],
        "too big": [Frame(BINARY, BIG + b"!")],
    }[trigger] + [Frame(BINARY, BIG)] * 20
    code = {"aclose": 1001, "violation": 1002, "too big": 1009}[trigger]
    for _ in range(30):
        async with trio.open_nursery() as nursery:
            ws, peer = await open_with_peer(
                nursery, Role.SERVER, await tcp_pair(), max_message_size=len(BIG)
            )
            if trigger == "aclose":
                nursery.start_soon(ws.aclose, code)
            await peer.send(*flood)
            close = await peer.receive()
            await peer.send(close_frame(code))
            await peer.stream.aclose()
        assert close is not None
        assert (close.opcode, close.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
