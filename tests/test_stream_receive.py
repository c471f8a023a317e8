"""Receiving: whole messages and parts, several receivers, cancellation, room in the inbox."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from background import Call, begin
from raw_peer import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    Streams,
    close_frame,
    make_streams,
    open_with_peer,
    receive_until_closed,
)
from transports import DETERMINISTIC_KINDS, open_streams

from trio_ws import (
    ConnectionClosedError,
    ConnectionClosedOK,
    MessageTooBig,
    Opcode,
    ProtocolError,
    WebSocketStream,
)
from trio_ws._frames import FRAME_COST
from trio_ws._protocol import Role
from trio_ws.testing import CancelProbe, cancel_every_step, set_budget, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
KIB = 1024


def texts(*messages: str) -> list[Frame]:
    return [Frame(TEXT, message.encode()) for message in messages]


async def receive_parts(ws: WebSocketStream, max_bytes: int | None = None) -> list[str | bytes]:
    """The parts of one message."""
    parts = []
    fin = False
    while not fin:
        part, fin = await ws.receive_some(max_bytes)
        parts.append(part)
    return parts


# Whole messages


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_messages_of_every_size_arrive_whole_and_in_order_over_every_transport(
    sender: str, nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    this, other = (client, server) if sender == "client" else (server, client)
    sizes = [0, 1, 125, 126, 4096, 4097, 65_535, 65_536, 100_003]
    messages = [content for size in sizes for content in (bytes(size), "x" * size)]
    messages.append("ä€😀" * 1000)

    async def send_all() -> None:
        for message in messages:
            await this.send(message)

    nursery.start_soon(send_all)
    assert [await other.receive() for _ in messages] == messages
    assert this.statistics().messages_sent == len(messages)
    assert other.statistics().messages_received == len(messages)


@ROLES
async def test_text_is_str_and_binary_is_bytes(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await peer.send(Frame(TEXT, "ä".encode()), Frame(BINARY, "ä".encode()))
    assert await ws.receive() == "ä"
    message = await ws.receive()
    assert message == "ä".encode()
    assert type(message) is bytes


async def test_without_decoding_text_is_bytes_too(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(TEXT, "ä".encode()), Frame(BINARY, b"\xff"))
    assert await ws.receive(decode=False) == "ä".encode()
    assert await ws.receive(decode=False) == b"\xff"
    call: Call[bytes] = Call()
    nursery.start_soon(call.run, lambda: ws.receive(decode=False))
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(*texts("handed over"))
    assert await call.result() == b"handed over"


async def test_decode_true_is_a_value_error(nursery: trio.Nursery) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    with pytest.raises(ValueError, match="decode=True"):
        await ws.receive(decode=True)  # type: ignore[call-overload]  # what the test is about


async def test_a_message_in_fragments_is_one_message(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(
        Frame(TEXT, b"\xe2", fin=False),
        Frame(CONTINUATION, b"", fin=False),
        Frame(PING, b""),
        Frame(CONTINUATION, b"\x82", fin=False),
        Frame(CONTINUATION, b"\xac"),
    )
    assert await ws.receive() == "€"


async def test_iteration_gives_every_message_and_ends_with_a_close_in_order(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("1", "2"), close_frame(1001))
    assert [message async for message in ws] == ["1", "2"]


async def test_iteration_gives_every_message_and_raises_if_the_connection_broke(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("1", "2"))
    await peer.stream.aclose()
    messages = aiter(ws)
    assert await anext(messages) == "1"
    assert await anext(messages) == "2"
    with pytest.raises(ConnectionClosedError) as caught:
        await anext(messages)
    assert caught.value.code == 1006


# Several receivers


async def test_each_message_goes_to_one_receiver_first_come_first_served(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    calls = [await begin(nursery, ws.receive) for _ in range(4)]
    assert ws.statistics().tasks_waiting_receive == 4
    await peer.send(*texts("1", "2", "3"))
    assert [await call.result() for call in calls[:3]] == ["1", "2", "3"]
    assert ws.statistics().tasks_waiting_receive == 1
    await peer.send(*texts("4", "5"))
    assert await calls[3].result() == "4"
    assert await ws.receive() == "5"


async def test_nobody_barges_in_on_a_receiver_that_waits(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    first = await begin(nursery, ws.receive)
    # A whole message is wanted, so a part is nobody's yet.
    await peer.send(Frame(TEXT, b"be", fin=False))
    second = await begin(nursery, ws.receive_some)
    with pytest.raises(trio.WouldBlock):
        ws.receive_nowait()
    assert not second.is_over
    await peer.send(Frame(CONTINUATION, b"gun"), *texts("next"))
    assert await first.result() == "begun"
    assert await second.result() == ("next", True)


@pytest.mark.parametrize("receive", [WebSocketStream.receive, WebSocketStream.__anext__])
async def test_who_lets_others_run_and_finds_the_message_taken_waits_for_the_next(
    receive: Callable[[WebSocketStream], Awaitable[str | bytes]], nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("1"))
    await trio.testing.wait_all_tasks_blocked()
    set_budget(1)
    calls: list[Call[str | bytes]] = [Call(), Call()]
    for call in calls:
        nursery.start_soon(call.run, receive, ws)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(call.is_over for call in calls) == [False, True]
    await peer.send(*texts("2"))
    assert {await call.result() for call in calls} == {"1", "2"}


async def test_a_cancelled_receiver_leaves_its_place_to_the_next(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    calls = [await begin(nursery, ws.receive) for _ in range(3)]
    calls[0].cancel()
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(*texts("1", "2"))
    assert [await call.result() for call in calls[1:]] == ["1", "2"]
    assert calls[0].was_cancelled


@pytest.mark.parametrize("attempt", range(10))
async def test_a_receiver_that_was_handed_its_message_is_not_cancelled_any_more(
    attempt: int, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    received = []
    scopes: list[trio.CancelScope] = []

    async def receive_and_cancel_the_others() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            received.append(await ws.receive())
            for other in scopes:
                other.cancel()

    for _ in range(3):
        nursery.start_soon(receive_and_cancel_the_others)
    await trio.testing.wait_all_tasks_blocked()
    # All three are handed a message in one step; the first to run cancels the others.
    await peer.send(*texts("1", "2", "3"))
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(received) == ["1", "2", "3"]


async def receive_a_large_message(probe: CancelProbe) -> None:
    message = bytes(range(256)) * 2000
    async with trio.open_nursery() as nursery:
        client, server = await websocket_pair(nursery, max_inbox_size=1000)
        await client.send(message)
        await client.send("next")
        received: list[str | bytes] = []
        with probe.scope:
            received.append(await server.receive())
        if probe.cancelled:
            received.append(await server.receive())
        assert received == [message]
        assert await server.receive() == "next"
        nursery.cancel_scope.cancel()


def test_a_message_larger_than_the_inbox_is_not_torn_wherever_its_receive_is_cancelled() -> None:
    assert cancel_every_step(receive_a_large_message, every_task=True).effective > 10


# Without waiting


async def test_receive_nowait_takes_what_is_there_or_would_block(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    with pytest.raises(trio.WouldBlock):
        ws.receive_nowait()
    await peer.send(*texts("1", "2"), Frame(TEXT, b"not yet whole", fin=False))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.receive_nowait() == "1"
    assert ws.receive_nowait() == "2"
    with pytest.raises(trio.WouldBlock):
        ws.receive_nowait()


async def test_receive_nowait_leaves_the_message_to_those_who_wait(nursery: trio.Nursery) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    await begin(nursery, ws.receive)
    with pytest.raises(trio.WouldBlock):
        ws.receive_nowait()


async def test_receive_nowait_takes_what_is_there_after_the_end_and_then_raises_as_receive_does(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("last"), close_frame(1000))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.receive_nowait() == "last"
    with pytest.raises(ConnectionClosedOK):
        ws.receive_nowait()
    await peer.stream.aclose()
    await ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        ws.receive_nowait()


# In parts


async def test_a_part_comes_as_soon_as_it_is_there(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    call = await begin(nursery, ws.receive_some)
    frame = peer.encode(Frame(BINARY, b"0123456789"))
    await peer.stream.send_all(frame[:-6])
    assert await call.result() == (b"0123", False)
    await peer.stream.send_all(frame[-6:])
    assert await ws.receive_some() == (b"456789", True)


@pytest.mark.parametrize(("opcode", "parts"), [(TEXT, ["a", "b"]), (BINARY, [b"a", b"b"])])
async def test_each_part_has_the_type_of_the_message(
    opcode: Opcode, parts: list[str | bytes], nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(opcode, b"a", fin=False))
    assert await ws.receive_some() == (parts[0], False)
    await peer.send(Frame(CONTINUATION, b"b"))
    assert await ws.receive_some() == (parts[1], True)


async def test_a_split_code_point_waits_for_its_rest(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(TEXT, b"a\xf0\x9f", fin=False))
    assert await ws.receive_some() == ("a", False)
    call = await begin(nursery, ws.receive_some, 1)
    assert not call.is_over
    await peer.send(Frame(CONTINUATION, b"\x98", fin=False))
    await trio.testing.wait_all_tasks_blocked()
    assert not call.is_over
    await peer.send(Frame(CONTINUATION, b"\x80b"))
    assert await call.result() == ("😀", False)
    assert await ws.receive_some() == ("b", True)


async def test_an_empty_part_comes_only_with_the_end(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    call = await begin(nursery, ws.receive_some)
    await peer.send(Frame(TEXT, b"", fin=False), Frame(CONTINUATION, b"", fin=False))
    await trio.testing.wait_all_tasks_blocked()
    assert not call.is_over
    await peer.send(Frame(CONTINUATION, b"all", fin=False))
    assert await call.result() == ("all", False)
    call = await begin(nursery, ws.receive_some)
    assert not call.is_over
    await peer.send(Frame(CONTINUATION, b""))
    assert await call.result() == ("", True)


async def test_max_bytes_bounds_a_part_whether_the_message_is_whole_or_not(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(BINARY, b"12345", fin=False))
    assert await ws.receive_some(2) == (b"12", False)
    assert await ws.receive_some(2) == (b"34", False)
    await peer.send(Frame(CONTINUATION, b"678"))
    await trio.testing.wait_all_tasks_blocked()
    assert await ws.receive_some(2) == (b"56", False)
    assert await ws.receive_some(2) == (b"78", True)


async def test_max_bytes_of_text_never_split_a_code_point_but_give_at_least_one(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(TEXT, "aä€😀z".encode(), fin=False))
    assert await ws.receive_some(2) == ("a", False)
    assert await ws.receive_some(1) == ("ä", False)
    assert await ws.receive_some(7) == ("€😀", False)
    await peer.send(Frame(CONTINUATION, "€€".encode()))
    await trio.testing.wait_all_tasks_blocked()
    assert await receive_parts(ws, 4) == ["z€", "€"]


@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_max_bytes_below_1_is_a_value_error(max_bytes: int, nursery: trio.Nursery) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    with pytest.raises(ValueError, match="max_bytes"):
        await ws.receive_some(max_bytes)


async def test_receive_after_a_part_gives_the_remainder(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("whole at once"), Frame(TEXT, b"bit by ", fin=False))
    assert await ws.receive_some(6) == ("whole ", False)
    assert await ws.receive() == "at once"
    assert await ws.receive_some(4) == ("bit ", False)
    call = await begin(nursery, ws.receive)
    assert not call.is_over
    await peer.send(Frame(CONTINUATION, b"bit"))
    assert await call.result() == "by bit"


async def test_receive_after_the_last_byte_was_taken_gives_an_empty_remainder(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(TEXT, b"all", fin=False))
    assert await ws.receive_some() == ("all", False)
    await peer.send(Frame(CONTINUATION, b""))
    assert await ws.receive() == ""


async def test_receivers_of_parts_take_turns(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    calls = [await begin(nursery, ws.receive_some, 2) for _ in range(3)]
    await peer.send(Frame(BINARY, b"12345"))
    assert [await call.result() for call in calls] == [
        (b"12", False),
        (b"34", False),
        (b"5", True),
    ]


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_a_message_of_any_size_is_received_in_parts_in_bounded_memory(
    kind: str, nursery: trio.Nursery
) -> None:
    streams = await open_streams(kind, nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_message_size=None)
    size, piece = 24 * KIB * KIB, bytes(64 * KIB)
    await peer.stream.send_all(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4))

    async def feed() -> None:
        for _ in range(size // len(piece)):
            await peer.stream.send_all(piece)
            # Memory streams have no bound of their own.
            await trio.testing.wait_all_tasks_blocked()

    nursery.start_soon(feed)
    received = 0
    fin = False
    tracemalloc.start()
    try:
        while not fin:
            part, fin = await ws.receive_some()
            received += len(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == size
    assert peak < 2 * KIB * KIB


async def test_parts_count_for_max_message_size_after_they_were_taken(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_message_size=10)
    await peer.send(Frame(BINARY, bytes(6), fin=False))
    assert await ws.receive_some() == (bytes(6), False)
    await peer.send(Frame(CONTINUATION, bytes(5)))
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive_some()
    assert caught.value.code == 1009
    assert isinstance(caught.value.__cause__, MessageTooBig)


async def test_a_limit_that_is_raised_on_an_open_stream_counts_at_once(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_message_size=10)
    ws.configure(max_message_size=11)
    await peer.send(Frame(BINARY, bytes(11)))
    assert await ws.receive() == bytes(11)
    await peer.send(Frame(BINARY, bytes(12)))
    _, closed = await receive_until_closed(ws)
    assert closed.code == 1009


async def test_invalid_text_fails_at_once_and_the_parts_before_it_are_delivered(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    frame = peer.encode(Frame(TEXT, b"good\xff and more"))
    await peer.stream.send_all(frame[:10])
    await trio.testing.wait_all_tasks_blocked()
    await peer.stream.send_all(frame[10:11])
    await trio.testing.wait_all_tasks_blocked()
    assert not ws.is_open
    assert await ws.receive_some() == ("good", False)
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive_some()
    assert caught.value.code == 1007
    assert isinstance(caught.value.__cause__, ProtocolError)
    assert "UTF-8" in caught.value.__cause__.rule


async def test_what_came_of_a_message_before_the_connection_broke_can_be_had_in_parts_alone(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(*texts("whole"), Frame(TEXT, b"cut off", fin=False))
    await peer.stream.aclose()
    assert await ws.receive() == "whole"
    with pytest.raises(ConnectionClosedError):
        await ws.receive()
    assert await ws.receive_some() == ("cut off", False)
    with pytest.raises(ConnectionClosedError):
        await ws.receive_some()


async def test_a_part_taken_from_the_inbox_is_not_given_twice_if_the_next_call_is_cancelled(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(Frame(BINARY, b"1234", fin=False))
    assert await ws.receive_some(1) == (b"1", False)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.receive_some(1)
    assert scope.cancelled_caught
    assert await ws.receive_some() == (b"234", False)


# Room


@pytest.mark.parametrize("streams", ["memory", "split", "socket", "tls_memory"], indirect=True)
async def test_a_full_inbox_stops_reading_and_the_peer_feels_it(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams, max_inbox_size=10_000)
    sent = 0

    async def send_for_ever() -> None:
        nonlocal sent
        while True:
            await client.send(bytes(1000))
            sent += 1
            await trio.testing.wait_all_tasks_blocked()

    nursery.start_soon(send_for_ever)
    for _ in range(200):
        await trio.testing.wait_all_tasks_blocked()
    statistics = server.statistics()
    assert 10_000 <= statistics.inbox_size < 10_000 + 2000
    assert statistics.messages_received <= 11
    assert await server.receive() == bytes(1000)
    for _ in range(9):
        await server.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert server.statistics().messages_received > 11


async def test_a_peer_over_a_socket_is_stopped_by_a_full_inbox(nursery: trio.Nursery) -> None:
    streams = await open_streams("socket", nursery)
    client, server = await websocket_pair(nursery, streams, max_inbox_size=10_000)
    sent = await begin(nursery, send_many, client, 2000)
    assert not sent.is_over
    committed = client.statistics().messages_sent
    assert committed < 2000
    for _ in range(2000):
        assert await server.receive() == bytes(1000)
    await sent.result()
    assert client.statistics().messages_sent == 2000


async def send_many(ws: WebSocketStream, count: int) -> None:
    for _ in range(count):
        await ws.send(bytes(1000))


async def test_a_paused_reader_goes_on_when_half_the_inbox_is_free(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=10 * (FRAME_COST + 100))
    await peer.send(*[Frame(BINARY, bytes(100))] * 30)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(4):
        ws.receive_nowait()
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 10
    ws.receive_nowait()
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 15


async def test_a_larger_inbox_on_an_open_stream_lets_the_reader_go_on(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=1)
    await peer.send(*texts("1", "2", "3"))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 1
    ws.configure(max_inbox_size=3 * FRAME_COST)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 3


async def test_many_small_messages_do_not_overfill_the_inbox_because_somebody_waits(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=500)
    call = await begin(nursery, ws.receive)
    await peer.send(*[Frame(BINARY, bytes(10))] * 100)
    assert await call.result() == bytes(10)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().inbox_size < 500 + FRAME_COST + 10
    for _ in range(99):
        assert await ws.receive() == bytes(10)


async def test_empty_messages_fill_the_inbox_too(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=10 * FRAME_COST)
    await peer.send(*[Frame(TEXT, b"")] * 1000)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().messages_received == 10


@pytest.mark.parametrize("method", ["receive", "receive_some"])
async def test_a_message_above_the_inbox_bound_is_read_only_while_somebody_waits_for_it(
    method: str, nursery: trio.Nursery
) -> None:
    streams = await open_streams("socket", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_inbox_size=10 * KIB)
    message = bytes(2 * KIB * KIB)
    sending = await begin(nursery, peer.send, Frame(BINARY, message))
    before = ws.statistics().bytes_received
    assert before < 600 * KIB
    assert ws.statistics().inbox_size < 600 * KIB
    if method == "receive":
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert ws.statistics().bytes_received == before
        assert await ws.receive() == message
    else:
        received, fin = 0, False
        while not fin:
            part, fin = await ws.receive_some(4 * KIB)
            received += len(part)
        assert received == len(message)
    await sending.result()


async def test_reading_stops_again_when_the_receive_is_cancelled(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=10)
    frame = peer.encode(Frame(BINARY, bytes(100)))
    await peer.stream.send_all(frame[:50])
    call = await begin(nursery, ws.receive)
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    before = ws.statistics()
    await peer.stream.send_all(frame[50:70])
    await trio.testing.wait_all_tasks_blocked()
    # What it had begun to wait for may still come, and nothing after that.
    await peer.stream.send_all(frame[70:])
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().bytes_received <= before.bytes_received + 20
    assert await ws.receive() == bytes(100)


@pytest.mark.parametrize("kind", ["socket", "watched"])
@pytest.mark.parametrize("over", [16 * 1024, 60_000])
async def test_a_message_far_above_the_inbox_survives_a_receive_that_is_cancelled(
    kind: str, over: int, nursery: trio.Nursery
) -> None:
    streams = await make_streams(kind)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_inbox_size=10)
    frame = peer.encode(Frame(BINARY, bytes(100_000)))
    header = len(frame) - 100_000
    call = await begin(nursery, ws.receive)
    await peer.stream.send_all(frame[: header + 10 + over])
    await trio.testing.wait_all_tasks_blocked()
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().inbox_size == 10 + over
    await peer.stream.send_all(frame[header + 10 + over :])
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().inbox_size == 10 + over
    assert await ws.receive() == bytes(100_000)
    await peer.stream.aclose()


async def test_statistics_of_receiving(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    assert ws.statistics().bytes_received == 0
    frames = [Frame(TEXT, b"12345"), Frame(BINARY, b"123", fin=False)]
    await peer.send(*frames)
    await trio.testing.wait_all_tasks_blocked()
    statistics = ws.statistics()
    assert statistics.bytes_received == sum(len(peer.encode(frame)) for frame in frames)
    assert statistics.messages_received == 1
    assert statistics.inbox_size == FRAME_COST + 5 + 3
    assert statistics.tasks_waiting_receive == 0


class Thief(trio.abc.Instrument):
    """Takes what comes before whom Trio wakes for it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.loot = b""

    def after_io_wait(self, timeout: float) -> None:
        with suppress(BlockingIOError):
            self.loot += os.read(self._descriptor, 100)


async def test_a_wake_up_for_nothing_changes_nothing(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await open_streams("socket", nursery))
    assert isinstance(ws.transport_stream, trio.SocketStream)
    thief = Thief(ws.transport_stream.socket.fileno())
    trio.lowlevel.add_instrument(thief)
    await peer.send(Frame(TEXT, b"stolen"))
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(thief)
    assert len(thief.loot) == len(peer.encode(Frame(TEXT, b"stolen")))
    await peer.send(Frame(TEXT, b"hello"))
    assert await ws.receive() == "hello"
    assert ws.statistics().messages_received == 1


# Before the end


@pytest.mark.parametrize("streams", DETERMINISTIC_KINDS, indirect=True)
async def test_everything_that_came_before_the_close_is_delivered_before_it(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    for number in range(5):
        await client.send(str(number))
    await client.send_close(1000, "bye")
    nursery.start_soon(client.wait_closed)
    messages, closed = await receive_until_closed(server)
    assert messages == list("01234")
    assert type(closed) is ConnectionClosedOK
    assert (closed.code, closed.reason) == (1000, "bye")
