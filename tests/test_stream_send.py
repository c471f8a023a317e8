"""Sending: commits and their order, turns, cancellation, types, parts, and flush."""

from __future__ import annotations

import array
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CLOSE,
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
from transports import fill, open_streams

from trio_ws import ConnectionClosedError, WebSocketStream, broadcast
from trio_ws._protocol import Role
from trio_ws.testing import CancelProbe, cancel_every_step, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
BLOCKING_KINDS = pytest.mark.parametrize("kind", ["lockstep", "socket", "watched", "tcp"])
"""Transports that take no more than so much of what the peer does not read."""


async def open_full(
    kind: str, nursery: trio.Nursery, role: Role = Role.SERVER
) -> tuple[WebSocketStream, RawPeer]:
    """A stream whose outbox is full, of binary messages, and its peer, which has not read them."""
    ws, peer = await open_with_peer(nursery, role, await open_streams(kind, nursery))
    await fill(ws)
    return ws, peer


async def receive_texts(peer: RawPeer, last: str) -> list[str]:
    """The text messages until *last*, each in one frame; other messages are dropped."""
    texts: list[str] = []
    while last not in texts:
        frame = await peer.receive()
        assert frame is not None
        if frame.opcode == TEXT:
            assert frame.fin
            texts.append(frame.payload.decode())
    return texts


# The order of commits


async def test_many_senders_at_a_time_send_whole_messages_each_in_its_order(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    senders, count = 10, 20

    async def send_numbered(sender: int) -> None:
        for number in range(count):
            await client.send(f"{sender} {number} " + "x" * (397 * number))

    for sender in range(senders):
        nursery.start_soon(send_numbered, sender)
    numbers: dict[str, list[int]] = {str(sender): [] for sender in range(senders)}
    for _ in range(senders * count):
        message = await server.receive()
        assert isinstance(message, str)
        name, number, rest = message.split(" ")
        assert len(rest) == 397 * int(number)
        numbers[name].append(int(number))
    assert list(numbers.values()) == [list(range(count))] * senders


@ROLES
async def test_messages_leave_in_the_order_of_the_calls_whichever_they_are(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send("1")
    ws.send_nowait(b"2")
    await ws.send_some("3a", fin=False)
    await ws.send_some("3b", fin=True)
    assert broadcast([ws], "4") == []
    await ws.send("5")
    assert [await peer.receive() for _ in range(6)] == [
        Frame(TEXT, b"1"),
        Frame(BINARY, b"2"),
        Frame(TEXT, b"3a", fin=False),
        Frame(CONTINUATION, b"3b"),
        Frame(TEXT, b"4"),
        Frame(TEXT, b"5"),
    ]


async def test_send_returns_once_it_is_committed_though_the_peer_does_not_read(
    nursery: trio.Nursery,
) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)
    await ws.send("1")
    await ws.send("2")
    statistics = ws.statistics()
    assert statistics.messages_sent == 2
    assert statistics.bytes_sent == 0
    assert statistics.outbox_size > 2
    assert await receive_texts(peer, "2") == ["1", "2"]
    await trio.testing.wait_all_tasks_blocked()
    statistics = ws.statistics()
    assert statistics.outbox_size == 0
    assert statistics.bytes_sent == sum(len(peer.encode(Frame(TEXT, b"1"))) - 4 for _ in "12")


# Turns


@BLOCKING_KINDS
async def test_senders_that_wait_for_room_are_served_first_come_first_served(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_full(kind, nursery)
    calls = [await begin(nursery, ws.send, str(number)) for number in range(20)]
    assert not any(call.is_over for call in calls)
    assert ws.statistics().tasks_waiting_send == 20
    assert await receive_texts(peer, "19") == [str(number) for number in range(20)]
    for call in calls:
        await call.result()


async def test_one_message_of_any_size_fits_while_there_is_room_and_the_next_waits(
    nursery: trio.Nursery,
) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, _ = await open_with_peer(nursery, Role.SERVER, streams, max_outbox_size=1000)
    await ws.send(bytes(10_000_000))
    call = await begin(nursery, ws.send, "next")
    assert not call.is_over


async def test_whoever_makes_room_commits_for_those_who_wait_in_the_same_step(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_full("lockstep", nursery)
    calls = [await begin(nursery, ws.send, str(number)) for number in range(3)]
    before = ws.statistics().messages_sent

    ws.configure(max_outbox_size=1_000_000)
    statistics = ws.statistics()
    assert statistics.messages_sent == before + 3
    assert statistics.tasks_waiting_send == 0
    assert not any(call.is_over for call in calls)
    # Too late to be cancelled, although none of them has run.
    for call in calls:
        call.cancel()
    for call in calls:
        await call.result()
    assert await receive_texts(peer, "2") == ["0", "1", "2"]


async def test_nobody_barges_in_while_others_wait(nursery: trio.Nursery) -> None:
    ws, peer = await open_full("lockstep", nursery)
    calls = [await begin(nursery, ws.send, str(number)) for number in range(50)]
    barged_in = False

    async def barge_in() -> None:
        nonlocal barged_in
        while not barged_in:
            try:
                ws.send_nowait("barged in")
                barged_in = True
            except trio.WouldBlock:
                assert broadcast([ws], "barged in") == [ws]
                await trio.lowlevel.checkpoint()

    nursery.start_soon(barge_in)
    texts = await receive_texts(peer, "barged in")
    assert texts[:50] == [str(number) for number in range(50)]
    for call in calls:
        await call.result()


# Cancellation


@BLOCKING_KINDS
async def test_a_send_that_is_cancelled_while_it_waits_leaves_no_trace(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_full(kind, nursery)
    before = ws.statistics()
    calls = [await begin(nursery, ws.send, str(number)) for number in range(9)]
    for call in calls[::2]:
        call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert all(call.was_cancelled for call in calls[::2])
    assert ws.statistics().tasks_waiting_send == 4
    assert ws.statistics().outbox_size == before.outbox_size
    assert await receive_texts(peer, "7") == ["1", "3", "5", "7"]
    await ws.send("end")
    assert await receive_texts(peer, "end") == ["end"]
    assert ws.is_open


async def send_behind_a_large_message(kind: str, probe: CancelProbe) -> None:
    async with trio.open_nursery() as nursery:
        client, server = await websocket_pair(
            nursery, await open_streams(kind, nursery), max_outbox_size=1
        )
        reading = await begin(nursery, receive_until_end, server)
        # More than one tick's work, so that the next message has to wait.
        client.send_nowait(bytes(1_200_000))
        with probe.scope:
            await client.send("perhaps")
        await client.send("end")
        expected = ["end"] if probe.cancelled else ["perhaps", "end"]
        assert await reading.result() == [bytes(1_200_000), *expected]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["memory", "socket"])
def test_a_send_that_is_cancelled_anywhere_sends_the_whole_message_or_nothing(kind: str) -> None:
    scenario = partial(send_behind_a_large_message, kind)
    assert cancel_every_step(scenario, every_task=True).effective > 10


async def receive_until_end(ws: WebSocketStream) -> list[str | bytes]:
    messages: list[str | bytes] = []
    while messages[-1:] != ["end"]:
        messages.append(await ws.receive())
    return messages


@BLOCKING_KINDS
async def test_the_close_of_the_peer_ends_the_sends_that_wait(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_full(kind, nursery)
    calls = [await begin(nursery, ws.send, str(number)) for number in range(3)]
    sent = ws.statistics().messages_sent
    await peer.send(close_frame(1000, "bye"))
    for call in calls:
        with pytest.raises(ConnectionClosedError) as caught:
            await call.result()
        assert (caught.value.code, caught.value.reason) == (1000, "bye")
    assert ws.statistics().messages_sent == sent
    frames = await peer.receive_all()
    assert [frame.opcode for frame in frames] == [BINARY] * sent + [CLOSE]


# What can be sent


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("", Frame(TEXT, b"")),
        ("ä€😀", Frame(TEXT, "ä€😀".encode())),
        (b"", Frame(BINARY, b"")),
        (b"\xff", Frame(BINARY, b"\xff")),
        (bytearray(b"ab"), Frame(BINARY, b"ab")),
        (memoryview(b"abcd")[1:3], Frame(BINARY, b"bc")),
        (memoryview(b"abcdef")[::2], Frame(BINARY, b"ace")),
        (memoryview(b"abcdef")[::-1], Frame(BINARY, b"fedcba")),
        (memoryview(array.array("i", [1, 2])), Frame(BINARY, bytes(array.array("i", [1, 2])))),
        (memoryview(b"abcdef").cast("B", [2, 3]), Frame(BINARY, b"abcdef")),
        (array.array("d", [1.5]), Frame(BINARY, bytes(array.array("d", [1.5])))),
    ],
)
@pytest.mark.parametrize("way", ["send", "send_nowait", "send_some", "broadcast"])
async def test_str_goes_out_as_text_and_bytes_like_data_as_binary(
    way: str, message: str | bytes | bytearray | memoryview, frame: Frame, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    if way == "send":
        await ws.send(message)
    elif way == "send_nowait":
        ws.send_nowait(message)
    elif way == "send_some":
        await ws.send_some(message, fin=True)
    else:
        assert broadcast([ws], message) == []
    assert await peer.receive() == frame


@pytest.mark.parametrize(
    ("message", "text", "frame"),
    [
        ("ä", False, Frame(BINARY, "ä".encode())),
        ("ä", True, Frame(TEXT, "ä".encode())),
        ("ä".encode(), True, Frame(TEXT, "ä".encode())),
        (bytearray(b"a"), True, Frame(TEXT, b"a")),
        (memoryview(b"abc")[::2], True, Frame(TEXT, b"ac")),
        (b"\xff", False, Frame(BINARY, b"\xff")),
    ],
)
@pytest.mark.parametrize("way", ["send", "send_nowait", "send_some", "broadcast"])
async def test_text_forces_the_kind_of_message(
    way: str,
    message: str | bytes | bytearray | memoryview,
    text: bool,
    frame: Frame,
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    if way == "send":
        await ws.send(message, text=text)
    elif way == "send_nowait":
        ws.send_nowait(message, text=text)
    elif way == "send_some":
        await ws.send_some(message, fin=True, text=text)
    else:
        assert broadcast([ws], message, text=text) == []
    assert await peer.receive() == frame


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("\ud800", None),
        ("a\udfffb", True),
        ("\ud800", False),
        (b"\xff", True),
        (b"cut \xe2\x82", True),
        (bytearray(b"\xed\xa0\x80"), True),
        (memoryview(b"\xc0\x80"), True),
    ],
)
@pytest.mark.parametrize("way", ["send", "send_nowait", "send_some", "broadcast"])
async def test_text_that_is_not_unicode_is_a_value_error_and_nothing_has_changed(
    way: str,
    message: str | bytes | bytearray | memoryview,
    text: bool | None,
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    before = ws.statistics()
    with pytest.raises(ValueError, match=r"utf-8|surrogate"):
        if way == "send":
            await ws.send(message, text=text)
        elif way == "send_nowait":
            ws.send_nowait(message, text=text)
        elif way == "send_some":
            await ws.send_some(message, fin=True, text=text)
        else:
            broadcast([ws], message, text=text)
    assert ws.statistics() == before
    await ws.send("as before")
    assert await peer.receive() == Frame(TEXT, b"as before")


@pytest.mark.parametrize("message", [None, 5, ["text"], {"json": 1}, object()])
@pytest.mark.parametrize("way", ["send", "send_nowait", "send_some", "broadcast"])
async def test_what_is_neither_str_nor_bytes_like_is_a_type_error(
    way: str, message: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    with pytest.raises(TypeError, match="str or bytes-like"):
        if way == "send":
            await ws.send(message)
        elif way == "send_nowait":
            ws.send_nowait(message)
        elif way == "send_some":
            await ws.send_some(message, fin=True)
        else:
            broadcast([ws], message)
    await ws.send("as before")
    assert await peer.receive() == Frame(TEXT, b"as before")


@BLOCKING_KINDS
async def test_a_buffer_that_changes_after_it_was_sent_changes_nothing(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_full(kind, nursery)
    content = bytearray(b"before")
    waiting = await begin(nursery, lambda: ws.send(content, text=True))
    viewed = await begin(nursery, lambda: ws.send(memoryview(content)[::-1], text=True))
    content[:] = b"after!"
    assert await receive_texts(peer, "erofeb") == ["before", "erofeb"]
    await waiting.result()
    await viewed.result()


async def test_bytes_are_not_copied(nursery: trio.Nursery) -> None:
    ws, _ = await open_full("lockstep", nursery)
    message = bytes(20_000_000)
    tracemalloc.start()
    try:
        await begin(nursery, ws.send, message)
        ws.configure(max_outbox_size=100_000_000)
        ws.send_nowait(message)
        await trio.testing.wait_all_tasks_blocked()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ws.statistics().outbox_size > 40_000_000
    assert peak < 1_000_000


# Without waiting


async def test_send_nowait_would_block_while_the_outbox_is_full(nursery: trio.Nursery) -> None:
    ws, peer = await open_full("lockstep", nursery)
    before = ws.statistics()
    with pytest.raises(trio.WouldBlock):
        ws.send_nowait("x")
    assert ws.statistics() == before
    call = await begin(nursery, peer.receive_all)
    ws.send_nowait("x")
    call.cancel()


async def test_send_nowait_would_block_while_a_message_is_open_even_for_its_own_task(
    nursery: trio.Nursery,
) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("part", fin=False)
    with pytest.raises(trio.WouldBlock):
        ws.send_nowait("x")
    await ws.send_some("end", fin=True)
    ws.send_nowait("x")


# Automatic fragmentation


@ROLES
@pytest.mark.parametrize(
    ("size", "sizes"),
    [(0, [0]), (1, [1]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (25, [10, 10, 5])],
)
async def test_a_message_above_max_frame_size_goes_on_in_further_frames(
    role: Role, size: int, sizes: list[int], nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, max_frame_size=10)
    message = "0123456789abcdefghijklmno"[:size]
    await ws.send(message)
    frames = [await peer.receive() for _ in sizes]
    assert [len(frame.payload) for frame in frames if frame] == sizes
    assert [frame.opcode for frame in frames if frame] == [TEXT] + [CONTINUATION] * (len(sizes) - 1)
    assert [frame.fin for frame in frames if frame] == [False] * (len(sizes) - 1) + [True]
    assert b"".join(frame.payload for frame in frames if frame) == message.encode()


async def test_max_frame_size_can_be_changed_on_an_open_stream(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    ws.configure(max_frame_size=2)
    await ws.send("abc")
    assert await peer.receive() == Frame(TEXT, b"ab", fin=False)
    assert await peer.receive() == Frame(CONTINUATION, b"c")
    ws.configure(max_frame_size=None)
    await ws.send("abc")
    assert await peer.receive() == Frame(TEXT, b"abc")


# In parts


@ROLES
async def test_each_part_is_a_frame_and_the_last_one_ends_the_message(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send_some(b"1", fin=False)
    await ws.send_some(b"", fin=False)
    await ws.send_some(bytearray(b"2"), fin=False)
    assert ws.statistics().messages_sent == 0
    await ws.send_some(b"", fin=True)
    assert ws.statistics().messages_sent == 1
    assert [await peer.receive() for _ in range(4)] == [
        Frame(BINARY, b"1", fin=False),
        Frame(CONTINUATION, b"", fin=False),
        Frame(CONTINUATION, b"2", fin=False),
        Frame(CONTINUATION, b""),
    ]


async def test_a_part_that_begins_and_ends_a_message_is_a_message(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("all", fin=True)
    await ws.send("next")
    assert await peer.receive() == Frame(TEXT, b"all")
    assert await peer.receive() == Frame(TEXT, b"next")


async def test_a_code_point_may_be_split_between_parts(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.send_some(b"\xf0\x9f", fin=False, text=True)
    await client.send_some(b"\x98", fin=False)
    await client.send_some(b"\x80", fin=False)
    await client.send_some("!", fin=True)
    assert await server.receive() == "😀!"


async def test_text_counts_on_the_first_part_alone(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some(b"a", fin=False, text=True)
    await ws.send_some(b"b", fin=False, text=False)
    await ws.send_some("c", fin=True, text=False)
    assert [await peer.receive() for _ in range(3)] == [
        Frame(TEXT, b"a", fin=False),
        Frame(CONTINUATION, b"b", fin=False),
        Frame(CONTINUATION, b"c"),
    ]


@pytest.mark.parametrize(
    ("begun", "part", "fin"),
    [
        (b"a", b"\xff", False),
        (b"\xe2", b"\xe2", False),
        (b"\xe2\x82", b"", True),
        (b"\xe2\x82", "x", False),
        (b"a", b"\xe2\x82", True),
        (b"a", "\ud800", False),
    ],
)
async def test_a_part_that_does_not_continue_the_text_is_a_value_error_and_can_be_put_right(
    begun: bytes, part: bytes | str, fin: bool, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    await client.send_some(begun, fin=False, text=True)
    before = client.statistics()
    with pytest.raises(ValueError, match="utf-8"):
        await client.send_some(part, fin=fin)
    assert client.statistics() == before
    rest = "€".encode()[len(begun) :] if begun[0] == 0xE2 else b"bc"
    await client.send_some(rest, fin=True)
    assert await server.receive() == (begun + rest).decode()


async def test_str_can_not_continue_a_binary_message(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.send_some(b"a", fin=False)
    with pytest.raises(TypeError, match="binary"):
        await client.send_some("b", fin=True)
    await client.send_some(b"b", fin=True)
    assert await server.receive() == b"ab"


async def test_the_task_that_has_begun_a_message_can_not_send_another(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("a", fin=False)
    with pytest.raises(RuntimeError, match="fin=True"):
        await ws.send("b")
    await ws.send_some("c", fin=True)
    await ws.send("d")
    assert [await peer.receive() for _ in range(3)] == [
        Frame(TEXT, b"a", fin=False),
        Frame(CONTINUATION, b"c"),
        Frame(TEXT, b"d"),
    ]


async def test_while_a_message_is_open_others_wait_in_turn_and_broadcast_skips(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("a", fin=False)
    calls = [
        await begin(nursery, ws.send, "1"),
        await begin(nursery, lambda: ws.send_some("2", fin=True)),
        await begin(nursery, ws.send, "3"),
    ]
    assert not any(call.is_over for call in calls)
    assert broadcast([ws], "skipped") == [ws]
    await ws.send_some("b", fin=False)
    await trio.testing.wait_all_tasks_blocked()
    assert not any(call.is_over for call in calls)
    await ws.send_some("c", fin=True)
    for call in calls:
        await call.result()
    assert [await peer.receive() for _ in range(6)] == [
        Frame(TEXT, b"a", fin=False),
        Frame(CONTINUATION, b"b", fin=False),
        Frame(CONTINUATION, b"c"),
        Frame(TEXT, b"1"),
        Frame(TEXT, b"2"),
        Frame(TEXT, b"3"),
    ]


async def test_a_message_that_was_begun_by_a_task_that_waited_belongs_to_that_task(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("mine", fin=False)
    ended = trio.Event()

    async def send_two_parts() -> None:
        await ws.send_some(b"its ", fin=False, text=True)
        await ended.wait()
        await ws.send_some(b"own", fin=True)

    call = await begin(nursery, send_two_parts)
    await ws.send_some("!", fin=True)
    after = await begin(nursery, ws.send, "after")
    assert not after.is_over
    ended.set()
    await call.result()
    await after.result()
    assert [await peer.receive() for _ in range(5)] == [
        Frame(TEXT, b"mine", fin=False),
        Frame(CONTINUATION, b"!"),
        Frame(TEXT, b"its ", fin=False),
        Frame(CONTINUATION, b"own"),
        Frame(TEXT, b"after"),
    ]


@BLOCKING_KINDS
async def test_the_open_messages_next_part_passes_others_that_wait_for_room(
    kind: str, nursery: trio.Nursery
) -> None:
    streams = await open_streams(kind, nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_outbox_size=1000)
    parts: list[Frame] = []
    count = 0
    full = trio.Event()

    async def send_parts_until_full() -> None:
        nonlocal count
        while not full.is_set():
            count += 1
            await ws.send_some(bytes(50_000), fin=False)
        await ws.send_some(b"last", fin=True)

    sending = await begin(nursery, send_parts_until_full)
    full.set()
    other = await begin(nursery, ws.send, "other")
    assert ws.statistics().tasks_waiting_send == 2
    while not parts or parts[-1] != Frame(TEXT, b"other"):
        frame = await peer.receive()
        assert frame is not None
        parts.append(frame)
    assert parts[-2] == Frame(CONTINUATION, b"last")
    assert len(parts) == count + 2
    await sending.result()
    await other.result()


async def test_a_cancelled_part_was_not_sent_and_can_be_sent_again(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.send_some(b"a\xe2\x82", fin=False, text=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_some(b"\xac", fin=True)
    assert scope.cancelled_caught
    await client.send_some(b"\xac", fin=True)
    assert await server.receive() == "a€"


async def test_a_part_that_is_cancelled_while_it_waits_for_room_leaves_no_trace(
    nursery: trio.Nursery,
) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_outbox_size=10)
    await ws.send_some(bytes(100_000), fin=False)
    for part, fin in [(b"neither this", True), (b"nor this", False)]:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await ws.send_some(part, fin=fin)
        assert scope.cancelled_caught
    reading = await begin(nursery, receive_frames, peer, 2)
    await ws.send_some(b"but this", fin=True)
    assert await reading.result() == [
        Frame(BINARY, bytes(100_000), fin=False),
        Frame(CONTINUATION, b"but this"),
    ]


async def receive_frames(peer: RawPeer, count: int) -> list[Frame | None]:
    return [await peer.receive() for _ in range(count)]


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_first_part_that_is_cancelled_while_it_waits_begins_nothing(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_full("lockstep", nursery)
    call = await begin(nursery, lambda: ws.send_some("never", fin=False))
    call.cancel()
    waiting = await begin(nursery, ws.send, "next")
    assert call.was_cancelled
    assert await receive_texts(peer, "next") == ["next"]
    await waiting.result()


async def test_control_frames_and_the_close_pass_an_open_message(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await ws.send_some("begun", fin=False)
    waiting = await begin(nursery, ws.send, "never")
    await ws.pong(b"1")
    ping = await begin(nursery, ws.ping, b"2")
    await peer.send(Frame(PONG, b"2"))
    await ping.result()
    await ws.send_close(1001)
    with pytest.raises(ConnectionClosedError):
        await waiting.result()
    with pytest.raises(ConnectionClosedError):
        await ws.send_some("never", fin=True)
    assert [await peer.receive() for _ in range(4)] == [
        Frame(TEXT, b"begun", fin=False),
        Frame(PONG, b"1"),
        Frame(PING, b"2"),
        close_frame(1001),
    ]


async def test_parts_above_max_frame_size_are_cut_too(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_frame_size=2)
    await ws.send_some("abc", fin=False)
    await ws.send_some("de", fin=True)
    assert [await peer.receive() for _ in range(3)] == [
        Frame(TEXT, b"ab", fin=False),
        Frame(CONTINUATION, b"c", fin=False),
        Frame(CONTINUATION, b"de"),
    ]


# Flush


async def test_flush_waits_until_what_was_committed_is_with_the_transport(
    nursery: trio.Nursery,
) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)
    await ws.flush()
    await ws.send(bytes(100_000))
    call = await begin(nursery, ws.flush)
    assert not call.is_over
    assert await peer.receive() == Frame(BINARY, bytes(100_000))
    await call.result()
    assert ws.statistics().outbox_size == 0


async def test_flush_waits_for_pings_pongs_and_the_close_too(nursery: trio.Nursery) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)
    sends: list[Callable[[], Awaitable[object]]] = [ws.pong, ws.ping, ws.send_close]
    for send in sends:
        await begin(nursery, send)
        call = await begin(nursery, ws.flush)
        assert not call.is_over
        await peer.receive()
        await call.result()


async def test_flush_waits_for_nothing_that_is_committed_after_it(nursery: trio.Nursery) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)

    async def send_for_ever() -> None:
        while True:
            await ws.send("again")

    await ws.send("first")
    call = await begin(nursery, ws.flush)
    nursery.start_soon(send_for_ever)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().tasks_waiting_send == 1
    while not call.is_over:
        assert await peer.receive() is not None
        await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().outbox_size > 60_000


async def test_several_flushes_end_each_in_its_place(nursery: trio.Nursery) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams, max_outbox_size=1_000_000)
    calls = []
    for _ in range(3):
        await ws.send(bytes(200_000))
        calls.append(await begin(nursery, ws.flush))
    for number in range(3):
        await peer.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert calls[number].is_over
        assert number == 2 or not calls[2].is_over


async def test_a_cancelled_flush_changes_nothing(nursery: trio.Nursery) -> None:
    streams = await open_streams("lockstep", nursery)
    ws, peer = await open_with_peer(nursery, Role.SERVER, streams)
    await ws.send("still goes out")
    calls = [await begin(nursery, ws.flush) for _ in range(2)]
    calls[0].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert calls[0].was_cancelled
    assert not calls[1].is_over
    assert await receive_texts(peer, "still goes out")
    await calls[1].result()
    assert ws.is_open


@BLOCKING_KINDS
async def test_a_flush_that_waits_learns_that_the_connection_has_broken(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_full(kind, nursery)
    call = await begin(nursery, ws.flush)
    await peer.stream.aclose()
    with pytest.raises(ConnectionClosedError) as caught:
        await call.result()
    assert caught.value.code == 1006
    with pytest.raises(ConnectionClosedError):
        await ws.flush()


async def test_flush_ends_with_closed_resource_error_when_this_side_closes(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_full("lockstep", nursery)
    call = await begin(nursery, ws.flush)
    closing = await begin(nursery, ws.aclose)
    with pytest.raises(trio.ClosedResourceError):
        await call.result()
    with pytest.raises(trio.ClosedResourceError):
        await ws.flush()
    closing.cancel()
    await peer.stream.aclose()


# After the end


SENDS: dict[str, Callable[[WebSocketStream], Awaitable[object]]] = {
    "send": lambda ws: ws.send("x"),
    "send_some": lambda ws: ws.send_some("x", fin=True),
    "flush": lambda ws: ws.flush(),
}


@pytest.mark.parametrize("call", SENDS.values(), ids=SENDS.keys())
async def test_sending_on_a_connection_that_is_closed_raises_the_error_however_it_was_closed(
    call: Callable[[WebSocketStream], Awaitable[object]], nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER)
    await peer.send(close_frame(1000, "bye"))
    await receive_until_closed(ws)
    await peer.stream.aclose()
    await ws.wait_closed()
    with pytest.raises(ConnectionClosedError) as caught:
        await call(ws)
    assert (caught.value.code, caught.value.reason) == (1000, "bye")
    assert caught.value.stream is ws


@pytest.mark.parametrize("call", SENDS.values(), ids=SENDS.keys())
async def test_sending_after_ones_own_aclose_raises_closed_resource_error(
    call: Callable[[WebSocketStream], Awaitable[object]], nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(nursery)
    nursery.start_soon(server.wait_closed)
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await call(client)
    with pytest.raises(trio.ClosedResourceError):
        client.send_nowait("x")


async def test_after_the_close_was_sent_nothing_can_be_sent_but_flushed(
    nursery: trio.Nursery,
) -> None:
    ws, _ = await open_with_peer(nursery, Role.SERVER)
    await ws.send_close(1001, "bye")
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.send("x")
    assert (caught.value.code, caught.value.reason) == (1001, "bye")
    with pytest.raises(ConnectionClosedError):
        ws.send_nowait("x")
    await ws.flush()
