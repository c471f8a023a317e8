"""How a connection ends other than by its own user's will, and what each side learns of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Unpack

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
    RawPeer,
    close_frame,
    make_streams,
    open_with_peer,
    receive_until_closed,
    reset,
    tcp_pair,
)

from trio_ws import (
    CloseReason,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    MessageTooBig,
    Opcode,
    ProtocolError,
    Timeouts,
    WebSocketStream,
)
from trio_ws._options import StreamKeywords
from trio_ws._protocol import Role
from trio_ws.testing import FaultyStream

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
KINDS = pytest.mark.parametrize("kind", ["memory", "socket", "watched", "alone"])

Call = Callable[[WebSocketStream], Awaitable[object]]

SEVEN_SECONDS = Timeouts(handshake=7, idle=None, keep_alive_pings=False)


class Ending(NamedTuple):
    """A Close of the peer's, or None for EOF, and what is to be known afterwards."""

    close: Frame | None
    code: int
    reason: str
    sent: CloseReason | None
    in_order: bool


ENDINGS = {
    "1000": Ending(close_frame(1000, "bye"), 1000, "bye", CloseReason(1000, ""), True),
    "1001": Ending(close_frame(1001), 1001, "", CloseReason(1001, ""), True),
    "1005": Ending(EMPTY_CLOSE, 1005, "", CloseReason(1000, ""), True),
    "1002": Ending(close_frame(1002, "your"), 1002, "your", CloseReason(1002, ""), False),
    "4999": Ending(close_frame(4999, "ö"), 4999, "ö", CloseReason(4999, ""), False),
    "EOF": Ending(None, 1006, "", None, False),
}

SENDING_CALLS: dict[str, Call] = {
    "send": lambda ws: ws.send("x"),
    "send_some": lambda ws: ws.send_some("x", fin=False),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "flush": lambda ws: ws.flush(),
}
RECEIVING_CALLS: dict[str, Call] = {
    "receive": lambda ws: ws.receive(),
    "receive_some": lambda ws: ws.receive_some(),
}


async def end(peer: RawPeer, ending: Ending, *before: Frame) -> None:
    if ending.close is None:
        await peer.send(*before)
    else:
        await peer.send(*before, ending.close)
        assert ending.sent is not None
        assert await peer.receive() == close_frame(*ending.sent)
    await peer.stream.aclose()


def check(closed: ConnectionClosed, ending: Ending, ws: WebSocketStream) -> None:
    assert (closed.code, closed.reason) == (ending.code, ending.reason)
    assert closed.received == (
        None if ending.close is None else CloseReason(ending.code, ending.reason)
    )
    assert closed.sent == ending.sent
    assert closed.stream is ws
    assert closed.__cause__ is None


# After the peer has closed


@KINDS
@ROLES
@pytest.mark.parametrize("name", ENDINGS)
async def test_receivers_get_what_arrived_and_then_the_error_and_senders_the_error(
    kind: str, role: Role, name: str, nursery: trio.Nursery
) -> None:
    ending = ENDINGS[name]
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind))
    await end(peer, ending, Frame(TEXT, b"one"), Frame(BINARY, b"two"))
    await trio.testing.wait_all_tasks_blocked()
    for call in SENDING_CALLS.values():
        with pytest.raises(ConnectionClosedError) as info:
            await call(ws)
        check(info.value, ending, ws)
    with pytest.raises(ConnectionClosedError):
        ws.send_nowait("x")
    assert await ws.receive() == "one"
    assert await ws.receive_some() == (b"two", True)
    receiving_error: type[ConnectionClosed] = (
        ConnectionClosedOK if ending.in_order else ConnectionClosedError
    )
    for call in RECEIVING_CALLS.values():
        with pytest.raises(receiving_error) as receiving_info:
            await call(ws)
        check(receiving_info.value, ending, ws)
    with pytest.raises(receiving_error):
        ws.receive_nowait()
    assert not ws.is_open
    assert ws.close_reason == CloseReason(ending.code, ending.reason)


@KINDS
@pytest.mark.parametrize("name", ENDINGS)
async def test_pending_calls_learn_how_the_connection_ended(
    kind: str, name: str, nursery: trio.Nursery
) -> None:
    ending = ENDINGS[name]
    errors: dict[str, ConnectionClosed] = {}

    async def call_and_note(name: str, call: Call, ws: WebSocketStream) -> None:
        with pytest.raises(ConnectionClosed) as info:
            await call(ws)
        errors[name] = info.value

    ws, peer, resume = await open_stalled(nursery, Role.CLIENT, kind)
    ws.send_nowait(bytes(10_000_000))
    pending = {**SENDING_CALLS, **RECEIVING_CALLS}
    del pending["pong"]
    for call_name, call in pending.items():
        nursery.start_soon(call_and_note, call_name, call, ws)
    await trio.testing.wait_all_tasks_blocked()
    assert errors == {}
    if ending.close is None:
        await peer.half_close()
    else:
        await peer.send(ending.close)
    await trio.testing.wait_all_tasks_blocked()
    await trio.aclose_forcefully(peer.stream)
    resume()
    await ws.wait_closed()
    await trio.testing.wait_all_tasks_blocked()
    assert errors.keys() == pending.keys()
    for closed in errors.values():
        check(closed, ending, ws)


@ROLES
@pytest.mark.parametrize("name", ENDINGS)
async def test_iteration_ends_silently_only_if_the_connection_was_closed_in_order(
    role: Role, name: str, nursery: trio.Nursery
) -> None:
    ending = ENDINGS[name]
    ws, peer = await open_with_peer(nursery, role)
    messages: list[str | bytes] = []

    async def iterate() -> None:
        try:
            async for message in ws:
                messages.append(message)  # noqa: PERF401 (the error comes behind the messages)
        except ConnectionClosedError as closed:
            assert not ending.in_order
            check(closed, ending, ws)
        else:
            assert ending.in_order

    iterated = await begin(nursery, iterate)
    await end(peer, ending, Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    await iterated.result()
    assert messages == ["one", "two"]
    await iterate()


async def test_every_error_is_an_exception_of_its_own(nursery: trio.Nursery) -> None:
    """A shared one would collect the tracebacks of all who ever saw it."""
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    pending: list[ConnectionClosed] = []

    async def receive() -> None:
        with pytest.raises(ConnectionClosed) as info:
            await ws.receive()
        pending.append(info.value)

    for _ in range(3):
        await begin(nursery, receive)
    await peer.send(close_frame(1000))
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(3):
        await receive()
    assert len({id(error) for error in pending}) == 6
    await peer.stream.aclose()


async def test_the_parts_of_a_message_that_came_before_the_end_can_still_be_taken(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await peer.send(Frame(TEXT, b"begun, ", fin=False), Frame(CONTINUATION, b"not end", fin=False))
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert await ws.receive_some() == ("begun, not end", False)
    with pytest.raises(ConnectionClosedError):
        await ws.receive_some()
    with pytest.raises(ConnectionClosedError):
        await ws.receive()


# Violations


class Rule(NamedTuple):
    """Frames that break it, the code, and a part of its text."""

    frames: list[Frame]
    code: int
    text: str


RULES = {
    "opcode": Rule([Frame(0x3, b"")], 1002, "opcode 0x3 is reserved"),
    "RSV": Rule([Frame(TEXT | 0x40, b"")], 1002, "reserved bits"),
    "continuation": Rule([Frame(CONTINUATION, b"")], 1002, "no message to continue"),
    "fragment": Rule([Frame(TEXT, b"a", fin=False), Frame(TEXT, b"b")], 1002, "must end before"),
    "ping": Rule([Frame(PING, bytes(126))], 1002, "at most 125 bytes"),
    "UTF-8": Rule([Frame(TEXT, b"\xff", fin=False)], 1007, "UTF-8"),
    "Close code": Rule([close_frame(1005)], 1002, "1005 must not be on the wire"),
    "Close reason": Rule([Frame(CLOSE, b"\x03\xe8\xff")], 1007, "UTF-8"),
    "size": Rule([Frame(BINARY, bytes(1001))], 1009, "at most 1000 are accepted"),
}


@KINDS
@ROLES
@pytest.mark.parametrize("name", RULES)
async def test_a_violation_ends_the_connection_with_its_code_and_the_rule_as_reason(
    kind: str, role: Role, name: str, nursery: trio.Nursery
) -> None:
    rule = RULES[name]
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind), max_message_size=1000)
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(PING, b"!"), *rule.frames)
    await peer.send(Frame(TEXT, b"too late"))
    pong, close = await peer.receive_all()
    assert pong == Frame(PONG, b"!")
    assert close.opcode is CLOSE
    assert close.payload[:2] == rule.code.to_bytes(2, "big")
    assert rule.text in close.payload[2:].decode()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["one", "two"]
    assert type(closed) is ConnectionClosedError
    assert closed.code == rule.code
    assert closed.reason == close.payload[2:].decode()
    assert closed.sent == CloseReason(rule.code, closed.reason)
    assert closed.received is None
    if isinstance(closed.__cause__, MessageTooBig):
        assert (closed.__cause__.size, closed.__cause__.limit) == (1001, 1000)
    else:
        assert isinstance(closed.__cause__, ProtocolError)
        assert rule.text in closed.__cause__.rule
    with pytest.raises(ConnectionClosedError) as info:
        await ws.send("x")
    assert info.value.code == rule.code
    assert info.value.__cause__ is closed.__cause__
    await peer.stream.aclose()


@ROLES
async def test_frames_with_the_wrong_masking_are_a_violation(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await peer.stream.send_all(RawPeer(peer.stream, role).encode(Frame(TEXT, b"hi")))
    (close,) = await peer.receive_all()
    assert close.payload[:2] == (1002).to_bytes(2, "big")
    assert b"mask" in close.payload
    await peer.stream.aclose()
    await ws.wait_closed()


@pytest.mark.parametrize("own_close", [close_frame(4000, "mine"), EMPTY_CLOSE])
@KINDS
@ROLES
async def test_a_violation_after_ones_own_close_sends_no_second_one(
    kind: str, role: Role, own_close: Frame, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind))
    sent = CloseReason(4000, "mine") if own_close.payload else CloseReason(1005, "")
    await ws.send_close(*((4000, "mine") if own_close.payload else (None, "")))
    await peer.send(Frame(TEXT, b"before"), Frame(0x3, b""))
    assert await peer.receive_all() == [own_close]
    messages, closed = await receive_until_closed(ws)
    assert messages == ["before"]
    assert closed.code == 1002
    assert closed.sent == sent
    assert isinstance(closed.__cause__, ProtocolError)
    await peer.stream.aclose()


# What is unsent when the connection fails


async def open_stalled(
    nursery: trio.Nursery, role: Role, kind: str, **options: Unpack[StreamKeywords]
) -> tuple[WebSocketStream, RawPeer, Callable[[], None]]:
    """A stream that can not write for long, its peer, and what makes the transport go on."""
    ours, theirs = await make_streams(kind)
    if kind != "memory":
        ws, peer = await open_with_peer(nursery, role, (ours, theirs), **options)
        return ws, peer, lambda: None  # Reading is enough.
    stream = FaultyStream(ours)
    ws, peer = await open_with_peer(nursery, role, (stream, theirs), **options)
    stream.max_bytes = 50_000
    stream.stall(receive=False)
    return ws, peer, stream.resume


def message(number: int) -> bytes:
    return number.to_bytes(2, "big") * (number * 10)


def check_whole_messages(frames: list[Frame]) -> int:
    """Check that they are the first of the thousand, whole but for the last; how many there are."""
    payloads = [b""]
    for frame in frames:
        assert frame.opcode in (BINARY, CONTINUATION)
        if frame.opcode is BINARY:
            payloads.append(b"")
        payloads[-1] += frame.payload
    for number, payload in enumerate(payloads[1:-1]):
        assert payload == message(number)
    assert message(len(payloads) - 2).startswith(payloads[-1])
    return len(payloads) - 1


@pytest.mark.parametrize("max_frame_size", [None, 1000])
@pytest.mark.parametrize("own_close", [False, True], ids=["open", "closing"])
@KINDS
@ROLES
async def test_what_is_unsent_when_the_connection_fails_is_dropped_between_frames(
    kind: str, role: Role, own_close: bool, max_frame_size: int | None, nursery: trio.Nursery
) -> None:
    ws, peer, resume = await open_stalled(
        nursery, role, kind, max_frame_size=max_frame_size, max_outbox_size=1 << 30
    )
    for number in range(1000):
        ws.send_nowait(message(number))
    if own_close:
        await ws.send_close(4000, "mine")
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(Frame(0x3, b""))
    await trio.testing.wait_all_tasks_blocked()
    assert not ws.is_open
    resume()
    frames = await peer.receive_all()
    close = frames.pop()
    assert 0 < check_whole_messages(frames) < 1000
    if own_close:
        assert close == close_frame(4000, "mine")
    else:
        assert close.payload[:2] == (1002).to_bytes(2, "big")
    await peer.stream.aclose()
    await ws.wait_closed()


@KINDS
@ROLES
async def test_a_large_frame_of_which_a_part_has_left_is_ended_before_the_close(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer, resume = await open_stalled(nursery, role, kind)
    ws.send_nowait(bytes(3_000_000))
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(Frame(0x3, b""))
    await trio.testing.wait_all_tasks_blocked()
    resume()
    whole, close = await peer.receive_all()
    assert whole == Frame(BINARY, bytes(3_000_000))
    assert close.payload[:2] == (1002).to_bytes(2, "big")
    await peer.stream.aclose()
    await ws.wait_closed()


@KINDS
@ROLES
async def test_a_flush_does_not_wait_for_what_a_failure_has_dropped(
    kind: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer, _ = await open_stalled(nursery, role, kind, timeouts=SEVEN_SECONDS)
        ws.send_nowait(bytes(10_000_000))
        flushing = await begin(nursery, ws.flush)
        await peer.send(Frame(0x3, b""))
        with pytest.raises(ConnectionClosedError) as info:
            await flushing.result()
        assert trio.current_time() == 0
        assert info.value.code == 1002
    await peer.stream.aclose()


@KINDS
async def test_a_peer_of_a_failed_connection_that_goes_on_has_five_seconds(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, Role.SERVER, await make_streams(kind), timeouts=Timeouts()
        )
        await peer.send(Frame(0x3, b""))
        (close,) = await peer.receive_all()
        assert close.opcode is CLOSE
        for _ in range(4):
            await trio.sleep(1)
            await peer.send(Frame(BINARY, b"more"))
    assert trio.current_time() == pytest.approx(5)
    assert ws.close_reason is not None
    assert ws.close_reason.code == 1002
    await peer.stream.aclose()


@KINDS
async def test_a_peer_of_a_failed_connection_that_reads_nothing_has_until_the_deadline(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ws, peer, _ = await open_stalled(nursery, Role.SERVER, kind, timeouts=SEVEN_SECONDS)
        ws.send_nowait(bytes(10_000_000))
        await peer.send(Frame(0x3, b""))
        _, closed = await receive_until_closed(ws)
        assert trio.current_time() == 0
    assert trio.current_time() == pytest.approx(7)
    assert closed.code == 1002
    assert ws.close_reason == CloseReason(1002, closed.reason)
    await peer.stream.aclose()


# A transport that breaks


@ROLES
async def test_a_reset_is_1006_with_the_os_error_as_cause(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await tcp_pair())
    await reset(peer.stream)
    _, closed = await receive_until_closed(ws)
    assert type(closed) is ConnectionClosedError
    assert (closed.code, closed.received, closed.sent) == (1006, None, None)
    assert isinstance(closed.__cause__, ConnectionResetError)


@ROLES
async def test_a_reset_while_closing_is_1006(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_peer(nursery, role, await tcp_pair())
    await ws.send_close()
    assert await peer.receive() == close_frame(1000)
    await reset(peer.stream)
    _, closed = await receive_until_closed(ws)
    assert (closed.code, closed.received) == (1006, None)
    assert closed.sent == CloseReason(1000, "")


@ROLES
@pytest.mark.parametrize("kind", ["socket", "tcp"])
async def test_after_a_failed_write_a_close_in_the_receive_buffer_is_still_seen(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    """And so is every message before it, though the inbox was full; over TCP even after a reset."""
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind), max_inbox_size=100)
    await peer.send(*[Frame(TEXT, b"unread")] * 100, close_frame(1000, "bye"))
    if kind == "tcp":
        await reset(peer.stream)
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert ws.is_open
    while ws.is_open:
        ws.send_nowait("into the void")
        await trio.testing.wait_all_tasks_blocked()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["unread"] * 100
    assert closed.received == CloseReason(1000, "bye")
    assert closed.__cause__ is None


class DeafStream(FaultyStream):
    """Receives, and fails to send."""

    error: Exception | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.error is not None:
            await trio.lowlevel.checkpoint()
            raise self.error
        await super().send_all(data)


@ROLES
@pytest.mark.parametrize("last", [close_frame(1000, "bye"), None], ids=["Close", "EOF"])
async def test_a_failed_write_while_the_inbox_is_full_ends_the_connection(
    role: Role, last: Frame | None, nursery: trio.Nursery
) -> None:
    ours, theirs = await make_streams("memory")
    stream = DeafStream(ours)
    ws, peer = await open_with_peer(nursery, role, (stream, theirs), max_inbox_size=100)
    await peer.send(*[Frame(TEXT, b"unread")] * 100, *([last] if last else []))
    await peer.half_close()
    stream.error = trio.BrokenResourceError("no")
    await ws.send("into the void")
    await trio.testing.wait_all_tasks_blocked()
    assert not ws.is_open
    messages, closed = await receive_until_closed(ws)
    assert messages == ["unread"] * 100
    if last:
        assert closed.received == CloseReason(1000, "bye")
    else:
        assert closed.code == 1006
        assert closed.__cause__ is stream.error
    await peer.stream.aclose()


@ROLES
async def test_after_a_failed_write_who_sends_is_not_held_up_by_what_nobody_receives(
    role: Role, nursery: trio.Nursery
) -> None:
    """An echo: it waits to send, and so it makes no room in the inbox for the end to be seen."""
    ours, theirs = await make_streams("memory")
    stream = DeafStream(ours)
    ws, peer = await open_with_peer(nursery, role, (stream, theirs), max_inbox_size=100)
    await peer.send(*[Frame(BINARY, bytes(10_000))] * 100)
    stream.error = trio.BrokenResourceError("no")
    with pytest.raises(ConnectionClosedError) as info:
        while True:
            await ws.send(await ws.receive())
    assert info.value.code == 1006
    assert info.value.__cause__ is stream.error
    await peer.stream.aclose()


@KINDS
async def test_what_can_not_be_encoded_ends_its_own_connection_only(
    kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams(kind))
    other, other_peer = await open_with_peer(nursery, Role.SERVER, await make_streams(kind))
    ws._outbox.max_frame_size = 0.5  # type: ignore[assignment]  # no option lets it in
    ws.send_nowait("x")
    await trio.testing.wait_all_tasks_blocked()
    assert not ws.is_open
    await other.send("y")
    assert other.is_open
    await peer.stream.aclose()
    with pytest.raises(ConnectionClosedError) as info:
        await ws.receive()
    assert isinstance(info.value.__cause__, TypeError)
    assert await other_peer.receive() == Frame(TEXT, b"y")
    await other_peer.stream.aclose()


async def test_after_a_failed_write_senders_wait_until_it_is_known_how_it_ended(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await make_streams("memory")
    stream = DeafStream(ours)
    ws, peer = await open_with_peer(nursery, Role.CLIENT, (stream, theirs))
    stream.error = OSError("no")
    await ws.send("into the void")
    await trio.testing.wait_all_tasks_blocked()
    errors: list[ConnectionClosedError] = []

    async def fail(call: Call) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            await call(ws)
        errors.append(info.value)

    waiting = [call for name, call in SENDING_CALLS.items() if name != "pong"]
    for call in waiting:
        nursery.start_soon(fail, call)
    await trio.testing.wait_all_tasks_blocked()
    assert errors == []
    with pytest.raises(trio.WouldBlock):
        ws.send_nowait("x")
    await peer.send(close_frame(4000, "bye"))
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert [closed.code for closed in errors] == [4000] * len(waiting)


async def test_a_failed_write_that_the_reader_never_hears_of_has_until_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams("memory")
        stream = DeafStream(ours)
        ws, peer = await open_with_peer(
            nursery, Role.CLIENT, (stream, theirs), timeouts=SEVEN_SECONDS
        )
        stream.error = OSError("no")
        await ws.send("into the void")
        _, closed = await receive_until_closed(ws)
    assert trio.current_time() == pytest.approx(7)
    assert closed.code == 1006
    assert isinstance(closed.__cause__, trio.TooSlowError)
    assert closed.__cause__.__cause__ is stream.error
    await peer.stream.aclose()


ODD_ERRORS = [ValueError("odd"), RuntimeError("odd"), trio.ClosedResourceError("odd"), OSError()]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
@ROLES
async def test_whatever_a_transport_raises_becomes_the_cause(
    role: Role, error: Exception, nursery: trio.Nursery
) -> None:
    ours, theirs = await make_streams("memory")
    stream = FaultyStream(ours)
    ws, peer = await open_with_peer(nursery, role, (stream, theirs))
    await trio.testing.wait_all_tasks_blocked()
    stream.fail_after(0, error)
    await peer.send(Frame(TEXT, b"one"))
    messages, closed = await receive_until_closed(ws)
    assert messages == ["one"]
    assert closed.code == 1006
    assert closed.__cause__ is error
    await ws.aclose()
    await peer.stream.aclose()


class OddStream(FaultyStream):
    """Receives what no stream may."""

    odd = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        return "not bytes" if self.odd and data else data  # type: ignore[return-value]  # that is the point


@ROLES
async def test_an_internal_fault_is_1011_and_becomes_the_cause_and_is_logged(
    role: Role, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = await make_streams("memory")
    stream = OddStream(ours)
    ws, peer = await open_with_peer(nursery, role, (stream, theirs))
    await trio.testing.wait_all_tasks_blocked()
    stream.odd = True
    await peer.send(Frame(TEXT, b"swallowed"))
    assert await peer.receive() == close_frame(1011, "internal error")
    messages, closed = await receive_until_closed(ws)
    assert messages == []
    assert closed.code == 1011
    assert isinstance(closed.__cause__, TypeError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await peer.stream.aclose()
    await ws.wait_closed()


# control_callback


def explode_on(*opcodes: Opcode) -> Callable[[Opcode, bytes], None]:
    def callback(opcode: Opcode, payload: bytes) -> None:
        if opcode in opcodes:
            raise ZeroDivisionError(payload)

    return callback


@KINDS
@ROLES
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_a_control_callback_that_raises_fails_the_connection_with_1011(
    kind: str, role: Role, opcode: Opcode, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ws, peer = await open_with_peer(
        nursery, role, await make_streams(kind), control_callback=explode_on(opcode)
    )
    bad = close_frame(1000) if opcode is CLOSE else Frame(opcode, b"bad")
    await peer.send(Frame(TEXT, b"one"), bad, Frame(TEXT, b"too late"))
    assert await peer.receive_all() == [close_frame(1011, "internal error")]
    messages, closed = await receive_until_closed(ws)
    assert messages == ["one"]
    assert type(closed) is ConnectionClosedError
    assert closed.code == 1011
    assert isinstance(closed.__cause__, ZeroDivisionError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await peer.stream.aclose()


@ROLES
async def test_a_control_callback_that_raises_when_both_have_closed_changes_nothing(
    role: Role, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ws, peer = await open_with_peer(nursery, role, control_callback=explode_on(CLOSE))
    received = await begin(nursery, receive_until_closed, ws)
    await ws.send_close()
    await peer.send(close_frame(1000, "bye"))
    await received.result()
    assert ws.close_reason == CloseReason(1000, "bye")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await peer.stream.aclose()


async def test_the_text_of_an_error_says_which_close_frames_are_missing(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await peer.stream.aclose()
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive()
    assert str(caught.value).endswith("closed: 1006, and no Close frame was exchanged")
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await ws.send_close()
    await peer.stream.aclose()
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive()
    assert str(caught.value).endswith("closed: 1006, and the peer sent no Close frame")
