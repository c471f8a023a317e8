"""A transport that fails at every operation: all calls end in time, and nothing is left.

Of a real socket it is every system call that fails: the calls of the operating system are replaced
for one descriptor, and nothing of trio_ws is.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import pytest
import trio
import trio.testing
from sweeping import (
    CALM_RUNS,
    Book,
    is_closed,
    make_streams,
    nothing_left,
    record,
    strip,
)

import trio_ws
from trio_ws import (
    ConnectionClosed,
    HandshakeError,
    PermessageDeflate,
    Timeouts,
    WebSocketStream,
)
from trio_ws._options import StreamKeywords
from trio_ws._protocol import Role
from trio_ws.testing import (
    Fault,
    FaultProbe,
    FaultyStream,
    SweepResult,
    fail_every_operation,
    set_budget,
)

FAULTS = pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
DEFLATE: Final = PermessageDeflate(min_size=0)
ONE_COMPRESSED = pytest.mark.parametrize(
    ("role", "compression"),
    [(Role.CLIENT, None), (Role.SERVER, DEFLATE)],
    ids=["client plain", "server compressed"],
)

TIMEOUTS: Final = Timeouts(handshake=10, idle=20, keep_alive_pings=False)


class Ends:
    """How the calls on a stream ended: each with its result, or with one documented exception."""

    def __init__(self) -> None:
        self.errors: list[ConnectionClosed | trio.ClosedResourceError] = []
        self.returned = 0

    async def call(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except (ConnectionClosed, trio.ClosedResourceError) as error:
            self.errors.append(error)
        else:
            self.returned += 1


async def open_over(
    nursery: trio.Nursery,
    role: Role,
    ours: trio.abc.Stream,
    theirs: trio.abc.Stream,
    compression: PermessageDeflate | None,
) -> tuple[WebSocketStream, WebSocketStream]:
    """The stream over the faulty transport, and its peer."""
    streams = (ours, theirs) if role is Role.CLIENT else (theirs, ours)
    options: StreamKeywords = {
        "timeouts": TIMEOUTS,
        "max_inbox_size": 1,
        "max_outbox_size": 1,
        "compression": compression,
    }
    client, server = await trio_ws.testing.websocket_pair(nursery, streams, **options)
    assert (client.compression is None) is (compression is None)
    return (client, server) if role is Role.CLIENT else (server, client)


async def call_whole(book: Book, ends: Ends) -> None:
    """Messages that are sent and received whole, all at once."""
    async with trio.open_nursery() as calls:
        for call in (
            functools.partial(book.send_many, "a", 3),
            functools.partial(book.send_many, "b", 3),
            functools.partial(book.receive_rest, 3),
            functools.partial(book.peer_sends, 3),
            functools.partial(book.ws.ping, b"ping"),
            book.peer.ping,
        ):
            calls.start_soon(ends.call, call)
    await ends.call(book.ws.flush)


async def call_in_parts(book: Book, ends: Ends) -> None:
    """Messages that are sent and received in parts, pongs, and a Close of our own."""
    async with trio.open_nursery() as calls:
        for call in (
            functools.partial(send_parts, book),
            functools.partial(receive_parts, book),
            functools.partial(send_pongs, book),
            functools.partial(book.peer_sends, 3),
        ):
            calls.start_soon(ends.call, call)
    await ends.call(book.ws.send_close)
    await book.ws.wait_closed()
    assert not book.ws.is_open


async def send_parts(book: Book) -> None:
    for name in ("a0", "a1"):
        await book.ws.send_some(name, fin=False)
        await book.ws.send_some(book.padding, fin=True)
        book.note_sent(name)


async def receive_parts(book: Book) -> None:
    while len(book.own_received()) < 3:
        await book.receive_part(1000)


async def send_pongs(book: Book) -> None:
    for number in range(3):
        payload = b"pong %d" % number
        book.pongs[payload] = False
        await book.ws.pong(payload)
        book.pongs[payload] = True


Calls: TypeAlias = Callable[[Book, Ends], Awaitable[None]]


async def traffic(
    role: Role, calls: Calls, compression: PermessageDeflate | None, probe: FaultProbe
) -> None:
    """Everything at once, and then the close."""
    ours, theirs = trio.testing.memory_stream_pair()
    faulty = FaultyStream(ours)
    await run_traffic(role, calls, compression, probe, (faulty, theirs), lambda: probe.arm(faulty))


async def run_traffic(
    role: Role,
    calls: Calls,
    compression: PermessageDeflate | None,
    probe: FaultProbe | FailingSocket,
    streams: tuple[trio.abc.Stream, trio.abc.Stream],
    arm: Callable[[], None],
) -> None:
    book = Book()
    # More than the kernel takes at a time, if it is not compressed away.
    fills = isinstance(probe, FailingSocket) and compression is None
    book.padding = "." * (3000 if fills else 3)
    ends = Ends()
    set_budget(1)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            book.ws, book.peer = await open_over(nursery, role, *streams, compression)
            book.peer.configure(control_callback=lambda _, data: book.controls.append(bytes(data)))
            nursery.start_soon(book.peer_receives)
            arm()
            await calls(book, ends)
            assert trio.current_time() <= 31, "the deadline has not ended the stall"
            await book.ws.aclose()
            await book.peer.aclose()
        for stream in streams:
            assert await is_closed(stream)
        book.check_idle()
    book.check_sent(torn_down=probe.failed)
    check_ends(book, ends, probe)


def check_ends(book: Book, ends: Ends, probe: FaultProbe | FailingSocket) -> None:
    names = [name for received in book.received.values() for name in received]
    assert names == book.peer_sent[: len(names)]
    pongs = [payload for payload in book.controls if payload.startswith(b"pong")]
    assert pongs == [payload for payload, returned in book.pongs.items() if returned][: len(pongs)]
    reason = book.ws.close_reason
    assert reason is not None
    if not probe.failed:
        assert not ends.errors
        assert reason.code == 1000
        book.check_received()
        book.check_pongs()
    for error in ends.errors:
        assert isinstance(error, ConnectionClosed)
        if error.stream is book.ws:
            assert error.code == reason.code


def name_of(calls: Calls, compression: PermessageDeflate | None) -> str:
    return f"{calls.__name__} {'plain' if compression is None else 'compressed'}"


@FAULTS
@pytest.mark.parametrize(
    ("role", "calls", "compression"),
    [
        (Role.CLIENT, call_whole, None),
        (Role.SERVER, call_whole, None),
        (Role.CLIENT, call_whole, DEFLATE),
        (Role.SERVER, call_in_parts, None),
        (Role.CLIENT, call_in_parts, DEFLATE),
    ],
)
def test_a_transport_that_fails_anywhere_ends_all_calls_in_time(
    role: Role, calls: Calls, compression: PermessageDeflate | None, fault: Fault
) -> None:
    result = record(
        f"traffic {role.value} {fault.name} {name_of(calls, compression)}",
        lambda: fail_every_operation(functools.partial(traffic, role, calls, compression), fault),
    )
    assert result.effective > 5


class SocketFault(enum.Enum):
    RESET = "reset"
    """Each call raises ``ConnectionResetError``, and the kernel has nothing more for us."""
    SHUT_DOWN = "shut down"
    """What comes of each call is the kernel's answer: EOF, and ``BrokenPipeError``."""
    NO_BUFFERS = "no buffers"
    """Each call raises ``OSError``, and the socket is as good as before."""


class FailingSocket:
    """Lets the n-th read or write of a socket fail, and all that follow.

    :ivar fault: in what way.
    :ivar failed: whether it has failed.
    """

    def __init__(self, call: int, fault: SocketFault) -> None:
        self.fault = fault
        self.failed = False
        self._calls_left = call
        self._socket: trio.socket.SocketType | None = None

    def arm(self, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        self._socket = stream.socket

    def before_call(self, descriptor: int) -> None:
        if self._socket is None or descriptor != self._socket.fileno():
            return
        if self._calls_left == 0:
            self.failed = True
            if self.fault is not SocketFault.NO_BUFFERS:
                self._socket.shutdown(socket.SHUT_RDWR)
        self._calls_left -= 1
        if self.failed and self.fault is SocketFault.RESET:
            raise ConnectionResetError(errno.ECONNRESET, "told to fail")
        if self.failed and self.fault is SocketFault.NO_BUFFERS:
            raise OSError(errno.ENOBUFS, "told to fail")


async def socket_traffic(
    role: Role, compression: PermessageDeflate | None, probe: FailingSocket
) -> None:
    ours, theirs = await make_streams("socket")
    await run_traffic(role, call_whole, compression, probe, (ours, theirs), lambda: probe.arm(ours))
    if probe.fault is not SocketFault.NO_BUFFERS:
        assert trio.current_time() == 0, "what failed at once was found by a deadline"


def fail_every_system_call(
    scenario: Callable[[FailingSocket], Awaitable[None]],
    fault: SocketFault,
    monkeypatch: pytest.MonkeyPatch,
) -> SweepResult:
    runs = effective = calm_runs = 0
    while calm_runs < CALM_RUNS:
        probe = FailingSocket(runs, fault)
        clock = trio.testing.MockClock(autojump_threshold=0)
        with monkeypatch.context() as patch:
            patch_system_calls(patch, probe)
            trio.run(scenario, probe, clock=clock)
        runs += 1
        effective += probe.failed
        calm_runs = 0 if probe.failed else calm_runs + 1
    return SweepResult(runs, effective, 0)


def patch_system_calls(patch: pytest.MonkeyPatch, probe: FailingSocket) -> None:
    real_read, real_readv, real_write, real_writev = os.read, os.readv, os.write, os.writev

    def read(descriptor: int, size: int) -> bytes:
        probe.before_call(descriptor)
        return real_read(descriptor, size)

    def readv(descriptor: int, buffers: Sequence[memoryview]) -> int:
        probe.before_call(descriptor)
        return real_readv(descriptor, buffers)

    def write(descriptor: int, data: bytes) -> int:
        probe.before_call(descriptor)
        return real_write(descriptor, data)

    def writev(descriptor: int, buffers: Sequence[memoryview]) -> int:
        probe.before_call(descriptor)
        return real_writev(descriptor, buffers)

    patch.setattr(os, "read", read)
    patch.setattr(os, "readv", readv)
    patch.setattr(os, "write", write)
    patch.setattr(os, "writev", writev)


@pytest.mark.parametrize("fault", list(SocketFault), ids=lambda fault: fault.value)
@ONE_COMPRESSED
def test_a_socket_that_fails_at_any_system_call_ends_all_calls_in_time(
    role: Role,
    compression: PermessageDeflate | None,
    fault: SocketFault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = functools.partial(socket_traffic, role, compression)
    name = f"socket {role.value} {fault.value} {name_of(call_whole, compression)}"
    result = record(name, lambda: fail_every_system_call(scenario, fault, monkeypatch))
    assert result.effective > 5


async def opening(role: Role, compression: PermessageDeflate | None, probe: FaultProbe) -> None:
    """The opening handshake over a transport that passes few bytes at a time."""
    ours, theirs = trio.testing.memory_stream_pair()
    faulty = FaultyStream(ours)
    faulty.max_bytes = 16
    probe.arm(faulty)
    opened = False
    with nothing_left():
        async with trio.open_nursery() as nursery:
            try:
                ws, peer = await open_over(nursery, role, faulty, theirs, compression)
                opened = True
                await ws.send("hello...")
                assert strip(await peer.receive()) == "hello"
            except (HandshakeError, ConnectionClosed):
                assert probe.failed
            if opened:
                await ws.aclose()
                await peer.aclose()
            else:
                nursery.cancel_scope.cancel()
        assert trio.current_time() <= 41
        for stream in (faulty, theirs):
            assert await is_closed(stream)


@FAULTS
@ONE_COMPRESSED
def test_a_transport_that_fails_in_the_opening_handshake_is_a_handshake_error(
    role: Role, compression: PermessageDeflate | None, fault: Fault
) -> None:
    compressed = "plain" if compression is None else "compressed"
    result = record(
        f"opening {role.value} {fault.name} {compressed}",
        lambda: fail_every_operation(functools.partial(opening, role, compression), fault),
    )
    assert result.effective > 5
