"""Closing over every kind of transport, over odd ones too, and what is left afterwards: nothing."""

from __future__ import annotations

import enum
import gc
import os
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Unpack

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    Frame,
    RawPeer,
    Streams,
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
    Timeouts,
    WebSocketStream,
)
from trio_ws._options import StreamKeywords
from trio_ws._protocol import Role
from trio_ws._ticker import current_ticker
from trio_ws._tls import start_tls
from trio_ws.testing import FaultyStream, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
CLOSERS = pytest.mark.parametrize("closer", ["client", "server"])

SEVEN_SECONDS = Timeouts(handshake=7, idle=None, keep_alive_pings=False)


# Every kind


@CLOSERS
async def test_either_side_closes_over_every_transport(
    closer: str, nursery: trio.Nursery, streams: Streams
) -> None:
    pair = await websocket_pair(nursery, streams)
    this, other = pair if closer == "client" else pair[::-1]
    await other.send("before")
    await this.send_close(4000, "bye")
    assert await this.receive() == "before"
    for ws in (this, other):
        _, closed = await receive_until_closed(ws)
        assert type(closed) is ConnectionClosedError
        assert closed.code == 4000
        assert closed.__cause__ is None
        await ws.wait_closed()
    assert other.close_reason == CloseReason(4000, "bye")


async def test_both_sides_close_at_once_over_every_transport(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 3001)
        closing.start_soon(server.aclose, 3002)
    assert client.close_reason == CloseReason(3002, "")
    assert server.close_reason == CloseReason(3001, "")


@CLOSERS
async def test_aclose_drops_what_the_other_side_is_sending_over_every_transport(
    closer: str, nursery: trio.Nursery, streams: Streams
) -> None:
    pair = await websocket_pair(nursery, streams)
    this, other = pair if closer == "client" else pair[::-1]

    async def send_for_ever() -> None:
        with pytest.raises(ConnectionClosedError) as info:
            while True:
                await other.send(bytes(1000))
        assert info.value.code == 1000

    async with trio.open_nursery() as sending:
        sending.start_soon(send_for_ever)
        for _ in range(3):
            await this.receive()
        await this.aclose()
    await other.aclose()


@ROLES
async def test_eof_without_a_close_is_1006_over_every_transport(
    role: Role, nursery: trio.Nursery, streams: Streams
) -> None:
    ours, theirs = streams if role is Role.CLIENT else streams[::-1]
    ws, peer = await open_with_peer(nursery, role, (ours, theirs))
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"half a message", fin=False))
    await peer.stream.aclose()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["one"]
    assert type(closed) is ConnectionClosedError
    assert (closed.code, closed.received, closed.sent) == (1006, None, None)


@ROLES
async def test_a_violation_is_answered_over_every_transport(
    role: Role, nursery: trio.Nursery, streams: Streams
) -> None:
    """And before it the message in front of it."""
    ours, theirs = streams if role is Role.CLIENT else streams[::-1]
    ws, peer = await open_with_peer(nursery, role, (ours, theirs))

    async def echo() -> None:
        with pytest.raises(ConnectionClosedError):
            async for message in ws:
                await ws.send(message)

    echoing = await begin(nursery, echo)
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    await peer.send(Frame(TEXT, b"three"), Frame(0x3, b""))
    frames = [await peer.receive() for _ in range(4)]
    assert frames[:3] == [Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(TEXT, b"three")]
    assert frames[3] is not None
    assert frames[3].payload[:2] == (1002).to_bytes(2, "big")
    await peer.stream.aclose()
    await echoing.result()


async def test_nursery_cancellation_closes_every_transport(
    nursery: trio.Nursery, streams: Streams
) -> None:
    async with trio.open_nursery() as stream_nursery:
        client, server = await websocket_pair(stream_nursery, streams)
        stream_nursery.cancel_scope.cancel()
    for ws in (client, server):
        with pytest.raises(trio.ClosedResourceError):
            await ws.send("x")
    for stream in streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_a_close_follows_more_than_is_written_in_one_step(nursery: trio.Nursery) -> None:
    """Though the kernel would take it all at once."""
    ours, theirs = await make_streams("socket")
    assert isinstance(ours, trio.SocketStream)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs))
    await ws.send(bytes(300_000))
    await ws.send_close()
    assert await peer.answer_close() == [Frame(BINARY, bytes(300_000)), close_frame(1000)]


# TLS


TlsStream = trio.SSLStream[trio.abc.Stream]


class Ours(enum.Enum):
    """What TLS is on our side: that of trio_ws over a socket, or a user's own."""

    DIRECT = "direct"
    HTTPS_COMPATIBLE = "https-compatible"
    STRICT = "strict"


class Tls:
    """TLS over TCP between a stream of ours and a raw peer, which is as strict as it is told."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        self.contexts = {Role.CLIENT: client, Role.SERVER: server}
        for context in self.contexts.values():
            # CPython 3.11.2 sets this, and then nobody can be strict.
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    def wrap(self, stream: trio.abc.Stream, role: Role, strict: bool) -> TlsStream:
        return trio.SSLStream(
            stream,
            self.contexts[role],
            server_side=role is Role.SERVER,
            server_hostname="localhost" if role is Role.CLIENT else None,
            https_compatible=not strict,
        )

    async def open(
        self,
        nursery: trio.Nursery,
        role: Role,
        streams: Streams,
        *,
        ours_is: Ours = Ours.HTTPS_COMPATIBLE,
        strict_peer: bool = False,
        **options: Unpack[StreamKeywords],
    ) -> tuple[WebSocketStream, RawPeer, TlsStream]:
        peer_role = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        if ours_is is Ours.DIRECT:
            name = "localhost" if role is Role.CLIENT else None
            ours = start_tls(streams[0], self.contexts[role], name)
        else:
            ours = self.wrap(streams[0], role, ours_is is Ours.STRICT)
        theirs = self.wrap(streams[1], peer_role, strict_peer)
        return *await open_with_peer(nursery, role, (ours, theirs), **options), theirs


@pytest.fixture
def tls(client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext) -> Tls:
    return Tls(client_ssl_context, server_ssl_context)


OURS = pytest.mark.parametrize("ours_is", list(Ours), ids=lambda ours_is: ours_is.value)
NOTIFIES = pytest.mark.parametrize("notifies", [False, True], ids=["bare EOF", "close_notify"])


@OURS
@NOTIFIES
@ROLES
async def test_tls_a_closed_connection_ends_in_order_with_or_without_close_notify(
    tls: Tls, role: Role, notifies: bool, ours_is: Ours, nursery: trio.Nursery
) -> None:
    ws, peer, theirs = await tls.open(
        nursery, role, await tcp_pair(), ours_is=ours_is, strict_peer=notifies
    )
    await peer.send(close_frame(1000, "bye"))
    assert await peer.receive() == close_frame(1000)
    await theirs.aclose()
    _, closed = await receive_until_closed(ws)
    assert type(closed) is ConnectionClosedOK
    assert closed.received == CloseReason(1000, "bye")
    assert closed.__cause__ is None
    await ws.aclose()


@OURS
@NOTIFIES
@ROLES
async def test_tls_without_a_close_any_end_is_1006(
    tls: Tls, role: Role, notifies: bool, ours_is: Ours, nursery: trio.Nursery
) -> None:
    """Only a strict TLS stream tells a bare EOF from an end that was meant."""
    ws, peer, theirs = await tls.open(
        nursery, role, await tcp_pair(), ours_is=ours_is, strict_peer=notifies
    )
    await peer.send(Frame(TEXT, b"one"))
    await theirs.aclose()
    messages, closed = await receive_until_closed(ws)
    assert messages == ["one"]
    assert type(closed) is ConnectionClosedError
    assert (closed.code, closed.received) == (1006, None)
    if ours_is is Ours.STRICT and not notifies:
        assert isinstance(closed.__cause__, trio.BrokenResourceError)
    else:
        assert closed.__cause__ is None


@OURS
@ROLES
@pytest.mark.parametrize("both_closed", [True, False])
async def test_tls_a_reset(
    tls: Tls, role: Role, both_closed: bool, ours_is: Ours, nursery: trio.Nursery
) -> None:
    ws, peer, theirs = await tls.open(nursery, role, await tcp_pair(), ours_is=ours_is)
    if both_closed:
        await peer.send(close_frame(1000, "bye"))
        assert await peer.receive() == close_frame(1000)
    await reset(theirs.transport_stream)
    _, closed = await receive_until_closed(ws)
    await ws.aclose()
    if both_closed:
        assert closed.received == CloseReason(1000, "bye")
    else:
        assert closed.code == 1006
        error = ConnectionResetError if ours_is is Ours.DIRECT else trio.BrokenResourceError
        assert isinstance(closed.__cause__, error)


@OURS
@ROLES
async def test_tls_a_blocked_writer_does_not_hold_up_the_close(
    tls: Tls, role: Role, ours_is: Ours, autojump_clock: trio.testing.MockClock
) -> None:
    """It is stopped first, and TLS then closed without waiting for what can not be written."""
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams("memory")
        below = FaultyStream(ours)
        ws, _, their_tls = await tls.open(
            nursery,
            role,
            (below, theirs),
            ours_is=ours_is,
            strict_peer=True,
            timeouts=SEVEN_SECONDS,
        )
        below.stall(receive=False)
        ws.send_nowait(bytes(1_000_000))
        await trio.testing.wait_all_tasks_blocked()
        await their_tls.aclose()
        await ws.wait_closed()
        assert trio.current_time() == 0
    assert ws.close_reason == CloseReason(1006, "")


@OURS
@pytest.mark.parametrize("trigger", ["aclose", "violation"])
async def test_tls_a_client_that_has_sent_much_that_was_not_read_still_sees_the_close(
    tls: Tls, trigger: str, ours_is: Ours
) -> None:
    code = 1001 if trigger == "aclose" else 1002
    flood = [Frame(0x3, b"")] * (trigger == "violation") + [Frame(BINARY, bytes(100_000))] * 20
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            ws, peer, theirs = await tls.open(
                nursery, Role.SERVER, await tcp_pair(), ours_is=ours_is
            )
            if trigger == "aclose":
                nursery.start_soon(ws.aclose, code)
            await peer.send(*flood)
            close = await peer.receive()
            await peer.send(close_frame(code))
            await theirs.aclose()
        assert close is not None
        assert (close.opcode, close.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))


# Odd ones


class BadCloser(FaultyStream):
    """Closes, and then raises or hangs."""

    error: Exception | None = None

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            if self.error is not None:
                raise self.error
        await trio.sleep_forever()


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no")], ids=repr)
@ROLES
async def test_a_transport_whose_aclose_raises_does_no_harm(
    role: Role, error: Exception, nursery: trio.Nursery
) -> None:
    ours, theirs = await make_streams("memory")
    stream = BadCloser(ours)
    stream.error = error
    ws, peer = await open_with_peer(nursery, role, (stream, theirs))
    closing = await begin(nursery, ws.aclose)
    assert await peer.answer_close() == [close_frame(1000)]
    await closing.result()
    assert ws.close_reason == CloseReason(1000, "")


@ROLES
async def test_a_transport_whose_aclose_hangs_is_closed_by_force(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams("memory")
        ws, peer = await open_with_peer(
            nursery, role, (BadCloser(ours), theirs), timeouts=SEVEN_SECONDS
        )
        nursery.start_soon(peer.answer_close)
        await ws.aclose()
    assert trio.current_time() == pytest.approx(1)
    assert ws.close_reason == CloseReason(1000, "")


@ROLES
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
async def test_terminal_cancellation_does_not_wait_for_a_transport_whose_aclose_hangs(
    role: Role, closing: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams("memory")
        ws, peer = await open_with_peer(nursery, role, (BadCloser(ours), theirs))
        if closing:
            await ws.send_close()
            await peer.answer_close()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert ws.close_reason == CloseReason(1000 if closing else 1006, "")
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


class Unaware(FaultyStream):
    """Whoever receives from it does not hear of its end."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        with suppress(trio.ClosedResourceError):
            data = await super().receive_some(max_bytes)
        if not data:
            await trio.sleep_forever()
        return data


@ROLES
async def test_a_cancelled_aclose_frees_all_tasks_though_the_transport_does_not_wake_the_reader(
    role: Role, nursery: trio.Nursery
) -> None:
    ours, theirs = await make_streams("memory")
    ws, _ = await open_with_peer(nursery, role, (Unaware(ours), theirs))
    other = await begin(nursery, ws.aclose)
    with trio.move_on_after(0):
        await ws.aclose()
    await other.result()


class PlainStream(trio.abc.Stream):
    """A stream that can not half-close."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_a_server_that_can_not_half_close_closes_when_its_close_has_left(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await make_streams("memory")
    ws, peer = await open_with_peer(
        nursery, Role.SERVER, (PlainStream(ours), theirs), max_outbox_size=1 << 20
    )
    for _ in range(10):
        ws.send_nowait(bytes(50_000))
    await peer.send(close_frame(1000))
    assert await peer.receive_all() == [Frame(BINARY, bytes(50_000))] * 10 + [close_frame(1000)]
    await ws.wait_closed()
    await peer.stream.aclose()


@ROLES
@pytest.mark.parametrize("peer_ends", [True, False])
async def test_a_failed_stream_that_can_not_half_close_lingers_until_its_peer_has_read_why(
    role: Role, peer_ends: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """For a second at most."""
    async with trio.open_nursery() as nursery:
        ours, theirs = await make_streams("memory")
        ws, peer = await open_with_peer(nursery, role, (PlainStream(ours), theirs))
        await peer.send(Frame(0x3, b""), Frame(TEXT, b"more"))
        close = await peer.receive()
        assert close is not None
        assert close.payload[:2] == (1002).to_bytes(2, "big")
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(Frame(TEXT, b"and more"))
        if peer_ends:
            await peer.stream.aclose()
        await ws.wait_closed()
        assert trio.current_time() == (0 if peer_ends else 1)
    await peer.stream.aclose()


@pytest.mark.parametrize("kind", ["memory", "socket"])
@ROLES
async def test_a_transport_that_somebody_else_closes_is_1006(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, await make_streams(kind))
    receiver = await begin(nursery, ws.receive)
    await ws.transport_stream.aclose()
    with pytest.raises(ConnectionClosedError) as info:
        await receiver.result()
    assert info.value.code == 1006
    assert isinstance(info.value.__cause__, trio.ClosedResourceError)
    with pytest.raises(ConnectionClosedError):
        await ws.send("x")
    await ws.aclose()
    await peer.stream.aclose()


@pytest.mark.parametrize("operation", ["receive", "send"])
@ROLES
async def test_what_is_no_exception_comes_out_of_the_nursery_and_the_stream_is_closed(
    role: Role, operation: str
) -> None:
    class Exiting(FaultyStream):
        exiting = ""

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            data = await super().receive_some(max_bytes)
            if self.exiting == "receive":
                raise SystemExit(3)
            return data

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if self.exiting == "send":
                raise SystemExit(3)
            await super().send_all(data)

    ours, theirs = await make_streams("memory")
    stream = Exiting(ours)
    with pytest.RaisesGroup(SystemExit):
        async with trio.open_nursery() as nursery:
            ws, peer = await open_with_peer(nursery, role, (stream, theirs))
            await trio.testing.wait_all_tasks_blocked()
            stream.exiting = operation
            ws.send_nowait("x")
            await peer.send(Frame(TEXT, b"x"))
            await trio.sleep_forever()
    await ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ws.receive()


# Nothing is left

End = Callable[[WebSocketStream, RawPeer, trio.Nursery], Awaitable[None]]


async def end_by_own_aclose(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    nursery.start_soon(peer.answer_close)
    await ws.aclose()


async def end_by_peers_close(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    await peer.send(Frame(TEXT, b"unread"), close_frame(1000))
    await peer.receive()
    await peer.stream.aclose()


async def end_by_eof(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    await peer.send(Frame(TEXT, b"unread"), Frame(TEXT, b"half", fin=False))
    await peer.stream.aclose()


async def end_by_violation(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    await peer.send(Frame(CONTINUATION, b""))
    await peer.stream.aclose()


async def end_by_cancelled_aclose(
    ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery
) -> None:
    with trio.move_on_after(0):
        await ws.aclose()


async def end_by_nursery(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()


async def end_with_calls_pending(ws: WebSocketStream, peer: RawPeer, nursery: trio.Nursery) -> None:
    async def fail() -> None:
        with pytest.raises(ConnectionClosed):
            await ws.receive()

    nursery.start_soon(fail)
    nursery.start_soon(ws.wait_closed)
    await trio.testing.wait_all_tasks_blocked()
    ws.send_nowait(bytes(5_000_000))
    await trio.testing.wait_all_tasks_blocked()
    await peer.stream.aclose()


@pytest.mark.parametrize(
    "end",
    [
        end_by_own_aclose,
        end_by_peers_close,
        end_by_eof,
        end_by_violation,
        end_by_cancelled_aclose,
        end_by_nursery,
        end_with_calls_pending,
    ],
)
@pytest.mark.parametrize("kind", ["memory", "socket", "tcp", "direct_tls"])
@ROLES
async def test_nothing_of_a_closed_stream_is_left(
    kind: str, role: Role, end: End, tls: Tls
) -> None:
    """No task, no descriptor, no deadline, and no object that refers to it."""
    ticker = current_ticker()

    async def open_and_end() -> weakref.ref[WebSocketStream]:
        async with trio.open_nursery() as nursery:
            if kind == "direct_tls":
                ws, peer, _ = await tls.open(
                    nursery, role, await tcp_pair(), ours_is=Ours.DIRECT, timeouts=Timeouts()
                )
            else:
                ws, peer = await open_with_peer(
                    nursery, role, await make_streams(kind), timeouts=Timeouts()
                )
            await trio.testing.wait_all_tasks_blocked()
            assert ticker.pending_deadlines == 1
            await end(ws, peer, nursery)
        await peer.stream.aclose()
        await ws.wait_closed()
        return weakref.ref(ws)

    await open_and_end()  # Some tasks stay for the whole run.
    tasks = trio.lowlevel.current_statistics().tasks_living
    descriptors = os.listdir("/dev/fd")
    stream = await open_and_end()
    assert ticker.pending_deadlines == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert os.listdir("/dev/fd") == descriptors
    gc.collect()
    assert stream() is None


# Records


class RecordStream(PlainStream):
    """It brings a TLS record at a time, and counts what is sent."""

    sends = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await super().receive_some(16 * 1024)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        await super().send_all(data)


@pytest.mark.parametrize("size", [16 * 1024 - 8, 16 * 1024])
async def test_answers_to_what_comes_record_after_record_leave_together(
    size: int, nursery: trio.Nursery
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = RecordStream(ours)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (stream, theirs))
    await peer.send(*[Frame(BINARY, bytes(size))] * 20)
    for _ in range(20):
        await ws.send(await ws.receive())
    for _ in range(20):
        frame = await peer.receive()
        assert frame is not None
        assert len(frame.payload) == size
    assert stream.sends <= 12
    nursery.cancel_scope.cancel()


async def test_a_single_answer_is_not_held_back(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = RecordStream(ours)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (stream, theirs))
    before = stream.sends
    for sends in range(1, 4):
        await peer.send(Frame(BINARY, bytes(16 * 1024)))
        await ws.receive()
        await ws.send("an answer")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.sends == before + sends
        await peer.receive()
    nursery.cancel_scope.cancel()
