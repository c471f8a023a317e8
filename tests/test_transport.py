"""Both transports over everything they are meant for, and the kernel at its most unhelpful."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import pytest
import transports
import trio
import trio.testing
from raw_peer import Streams
from transports import read_all

from trio_ws._frames import Buffer
from trio_ws._poller import Next, current_poller
from trio_ws._transport import (
    _SMALL_READ as SMALL_READ,
)
from trio_ws._transport import (
    MAX_BUFFERS,
    RECEIVE_SIZE,
    SocketTransport,
    StreamTransport,
    Transport,
    make_transport,
)
from trio_ws.testing import FaultyStream

KIB = 1024
LARGE = bytes(range(256)) * (4 * KIB)


Sockets: TypeAlias = tuple[trio.SocketStream, trio.SocketStream]


async def open_sockets(kind: str, nursery: trio.Nursery) -> Sockets:
    near, far = await transports.open_streams(kind, nursery)
    assert isinstance(near, trio.SocketStream)
    assert isinstance(far, trio.SocketStream)
    return near, far


@pytest.fixture(params=["socket", "tcp"])
async def sockets(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Sockets:
    """What the fast path is for."""
    return await open_sockets(request.param, nursery)


@pytest.fixture
async def unix_sockets(nursery: trio.Nursery) -> Sockets:
    """What one end has written is at the other end in the same step."""
    return await open_sockets("socket", nursery)


async def write_all(transport: Transport, data: bytes) -> None:
    view = memoryview(data)
    while view:
        half = len(view) // 2
        count = await transport.write([view[:half], view[half:]])
        assert 0 < count <= len(view)
        view = view[count:]


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


class Outcome:
    """What became of a call in another task."""

    def __init__(self) -> None:
        self.result: object = None

    async def of(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            self.result = await call()
        except Exception as error:
            self.result = error


# Any stream


async def test_a_socket_stream_has_the_fast_transport_and_nothing_else_has(
    unix_sockets: Sockets, client_ssl_context: ssl.SSLContext
) -> None:
    await trio.lowlevel.checkpoint()
    stream = unix_sockets[0]
    transport = make_transport(stream)
    assert type(transport) is SocketTransport
    assert transport.can_write_nowait
    assert transport.can_send_eof
    others: list[trio.abc.Stream] = [
        trio.SSLStream(stream, client_ssl_context),
        trio.StapledStream(stream, stream),
        trio.testing.memory_stream_pair()[0],
        FaultyStream(stream),
    ]
    for other in others:
        assert type(make_transport(other)) is StreamTransport


async def test_bytes_arrive_as_written_in_both_directions_at_once(streams: Streams) -> None:
    near, far = map(make_transport, streams)
    size = len(LARGE) if not isinstance(streams[0], FaultyStream) else 3000
    received: list[bytes] = []

    async def read(transport: Transport) -> None:
        received.append(await read_all(transport, size))

    async with trio.open_nursery() as nursery:
        for transport in (near, far):
            nursery.start_soon(write_all, transport, LARGE[:size])
            nursery.start_soon(read, transport)
    assert received == [LARGE[:size]] * 2


async def test_no_more_is_received_than_is_asked_for_and_the_rest_comes_next(
    streams: Streams,
) -> None:
    near, far = map(make_transport, streams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, [b"abcdefgh"])
        for octet in b"abc":
            assert await far.receive(1) == bytes([octet])
        data = b""
        while len(data) < 5:
            received = await far.receive(4)
            assert 0 < len(received) <= 4
            data += received
    assert data == b"defgh"


async def test_closing_in_order_is_eof_for_the_peer_once_it_has_read_everything(
    streams: Streams,
) -> None:
    near, far = map(make_transport, streams)
    async with trio.open_nursery() as nursery:

        async def write_and_close() -> None:
            await near.write([b"last"])
            await near.aclose()
            await near.aclose()

        nursery.start_soon(write_and_close)
        data = await read_all(far, 4)
        assert await far.receive() == b""
    assert data == b"last"
    await far.aclose()


async def test_a_receive_that_was_cancelled_has_taken_nothing(streams: Streams) -> None:
    near, far = map(make_transport, streams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, [b"ab"])
        assert await read_all(far, 2) == b"ab"
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.receive)
            await quiet()
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, [b"cd"])
        assert await read_all(far, 2) == b"cd"


async def test_half_closing_leaves_the_other_direction_open(streams: Streams) -> None:
    near, far = map(make_transport, streams)
    assert near.can_send_eof
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, [b"all"])
        assert await read_all(far, 3) == b"all"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_eof)
        nursery.start_soon(far.write, [b"answer"])
        assert await read_all(near, 6) == b"answer"
    assert await far.receive() == b""


async def test_over_a_socket_the_peer_may_answer_after_it_has_read_eof(sockets: Sockets) -> None:
    near, far = map(SocketTransport, sockets)
    await near.send_eof()
    await near.send_eof()
    assert await far.receive() == b""
    assert await far.write([b"answer"]) == 6
    assert await near.receive() == b"answer"
    with pytest.raises(BrokenPipeError):
        near.write_nowait([b"x"])


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="no such option here")
async def test_of_a_large_frame_alone_the_kernel_may_hold_much(nursery: trio.Nursery) -> None:
    near, _far = await open_sockets("tcp", nursery)
    transport = SocketTransport(near)

    def may_hold() -> int:
        return near.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

    assert transport.write_nowait([b"header", LARGE]) > 0
    assert may_hold() == len(LARGE)
    transport.write_nowait([b"small", b"frames"])
    assert may_hold() == 16 * KIB
    transport.abort()
    with pytest.raises(trio.ClosedResourceError):
        transport.write_nowait([LARGE])


# Any stream but a socket


class Sink(trio.abc.Stream):
    """Takes everything; closing it does what it is told to."""

    def __init__(self) -> None:
        self.sent: list[bytes | bytearray | memoryview] = []
        self.on_close: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    async def aclose(self) -> None:
        await self.on_close()


class SlowSink(Sink):
    """One that takes its time."""

    seconds = 0.0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(self.seconds)
        await super().send_all(data)


class HalfCloseableSink(Sink, trio.abc.HalfCloseableStream):
    """The same with half-closing."""

    async def send_eof(self) -> None:
        await self.on_close()


async def test_a_stream_gets_16_kib_or_more_at_a_time_in_one_piece() -> None:
    sink = Sink()
    transport = StreamTransport(sink)
    assert await transport.write([b"a", memoryview(b"bc"), bytearray(b"d")]) == 4
    assert await transport.write([b"x" * 10, LARGE]) == 16 * KIB
    assert await transport.write([LARGE, b"not now"]) == 32 * KIB
    assert sink.sent == [b"abcd", b"x" * 10 + LARGE[: 16 * KIB - 10], LARGE[: 32 * KIB]]


async def test_a_stream_that_takes_it_at_once_gets_more_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sink = SlowSink()
    transport = StreamTransport(sink)
    await transport.write([b"little"])
    for size in (16, 32, 64, 128, 128):
        assert await transport.write([LARGE]) == size * KIB
    sink.seconds = 0.2
    assert await transport.write([LARGE]) == 128 * KIB
    assert await transport.write([LARGE]) == 16 * KIB
    sink.seconds = 0
    assert await transport.write([LARGE]) == 16 * KIB
    assert await transport.write([LARGE]) == 32 * KIB


async def test_more_follows_a_full_record_and_the_one_behind_it() -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near)
    seen = [transport.more_follows]
    for size in (16 * KIB, 8, 8, 16 * KIB, 16 * KIB, 100, 16 * KIB - 1):
        await far.send_all(bytes(size))
        await transport.receive()
        seen.append(transport.more_follows)
    assert seen == [False, True, True, False, True, True, True, False]


async def test_of_a_large_buffer_no_more_is_copied_than_is_written() -> None:
    sink = Sink()
    transport = StreamTransport(sink)
    buffers: list[Buffer] = [b"header", memoryview(bytes(32 * KIB * KIB)), b"next"]
    await trio.lowlevel.checkpoint()
    tracemalloc.start()
    try:
        await transport.write(buffers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (16 + 16 + 8) * KIB


async def test_what_the_stream_raises_comes_out() -> None:
    stream = FaultyStream(trio.testing.memory_stream_pair()[0])
    transport = StreamTransport(stream)
    stream.fail_after(0, trio.BrokenResourceError("fault"))
    with pytest.raises(trio.BrokenResourceError, match="fault"):
        await transport.receive()
    with pytest.raises(trio.BrokenResourceError, match="fault"):
        await transport.write([b"x"])


async def test_a_stream_takes_nothing_without_waiting() -> None:
    sink = Sink()
    await trio.lowlevel.checkpoint()
    assert not StreamTransport(sink).can_write_nowait
    assert StreamTransport(sink).write_nowait([b"x"]) == 0
    assert sink.sent == []


async def test_only_a_socket_can_be_watched() -> None:
    transport = StreamTransport(Sink())
    assert not transport.can_watch
    with pytest.raises(NotImplementedError):
        await transport.watch(current_poller(), lambda watch, now: Next.READER)


async def test_a_stream_without_half_close_says_so() -> None:
    await trio.lowlevel.checkpoint()
    assert not StreamTransport(Sink()).can_send_eof
    assert StreamTransport(HalfCloseableSink()).can_send_eof


async def fail() -> None:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("a fault of this stream")


@pytest.mark.parametrize("method", [StreamTransport.aclose, StreamTransport.send_eof])
async def test_closing_raises_nothing_but_cancelled(
    method: Callable[[StreamTransport], Awaitable[None]],
) -> None:
    sink = HalfCloseableSink()
    transport = StreamTransport(sink)
    sink.on_close = fail
    await method(transport)
    sink.on_close = trio.sleep_forever
    with trio.CancelScope() as scope:
        scope.cancel()
        await method(transport)
    assert scope.cancelled_caught


async def test_half_closing_while_another_task_writes_raises_nothing(
    nursery: trio.Nursery, client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext
) -> None:
    near, far = map(
        make_transport,
        await transports.connect("tls", nursery, client_ssl_context, server_ssl_context),
    )
    async with trio.open_nursery() as writing:
        nursery.start_soon(near.write, [b"handshake"])
        assert await read_all(far, 9) == b"handshake"
        writing.start_soon(write_all, near, LARGE * 16)
        await quiet()
        await near.send_eof()
        writing.cancel_scope.cancel()


async def test_any_other_stream_can_not_be_closed_without_waiting() -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near)
    assert not transport.abort()
    await near.send_all(b"still open")
    assert await far.receive_some() == b"still open"


# Sockets: reading


async def receive_twice() -> tuple[memoryview, memoryview]:
    """What two streams have received after much, one after the other."""
    received: list[memoryview] = []
    for data in (b"first", b"SECOND"):
        near, far = socket.socketpair()
        transport = SocketTransport(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
        far.sendall(bytes(SMALL_READ))
        assert len(await transport.receive()) == SMALL_READ
        far.sendall(data)
        view = await transport.receive()
        assert isinstance(view, memoryview)
        assert bytes(view) == data
        received.append(view)
        far.close()
        transport.abort()
    return received[0], received[1]


async def test_all_streams_of_a_thread_are_read_into_one_buffer() -> None:
    first, second = await receive_twice()
    assert first.obj is second.obj
    assert (bytes(first), bytes(second)) == (b"SECON", b"SECOND"), "valid until the next await"
    assert isinstance(first.obj, bytearray)
    assert len(first.obj) == RECEIVE_SIZE
    in_thread = await trio.to_thread.run_sync(trio.run, receive_twice)
    assert in_thread[0].obj is in_thread[1].obj
    assert in_thread[0].obj is not first.obj
    assert bytes(first) == b"SECON"


async def test_one_buffer_is_for_streams_that_receive_much(unix_sockets: Sockets) -> None:
    near, far = map(SocketTransport, unix_sockets)
    kinds = []
    for size in (10, SMALL_READ, SMALL_READ, SMALL_READ // 2 + 1, 10, 10):
        assert await far.write([bytes(size)]) == size
        data = await near.receive()
        assert len(data) == size
        kinds.append(type(data))
    assert kinds == [bytes, bytes, memoryview, memoryview, memoryview, bytes]


async def test_no_more_is_received_than_asked_for(unix_sockets: Sockets) -> None:
    near, far = map(SocketTransport, unix_sockets)
    sent = bytes(range(256)) * (SMALL_READ // 128)
    assert await far.write([sent]) == len(sent)
    received = b""
    for size in (7, SMALL_READ, 7, 7):
        data = await near.receive(size)
        assert len(data) == size
        received += data
    assert sent.startswith(received)


def doubled(stream: trio.SocketStream) -> tuple[SocketTransport, SocketTransport]:
    """Two transports with descriptors of their own for one and the same socket."""
    copy = trio.socket.from_stdlib_socket(
        socket.fromfd(stream.socket.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
    )
    return SocketTransport(stream), SocketTransport(trio.SocketStream(copy))


async def test_a_receiver_that_was_woken_for_nothing_waits_on(unix_sockets: Sockets) -> None:
    near, far = unix_sockets
    both = doubled(near)
    received: list[bytes] = []

    async def read(transport: Transport) -> None:
        received.append(bytes(await transport.receive()))

    async with trio.open_nursery() as nursery:
        for transport in both:
            nursery.start_soon(read, transport)
        await quiet()
        await far.send_all(b"for one")
        await quiet()
        assert received == [b"for one"]
        await far.send_all(b"for the other")
    assert received == [b"for one", b"for the other"]
    both[1].abort()


async def test_eof_is_no_bytes_again_and_again(sockets: Sockets) -> None:
    near, far = map(SocketTransport, sockets)
    near.abort()
    for _ in range(3):
        assert await far.receive() == b""


async def test_a_reset_is_what_the_kernel_says(nursery: trio.Nursery) -> None:
    near, far = await open_sockets("tcp", nursery)
    transport = SocketTransport(near)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.socket.close()
    with pytest.raises(ConnectionResetError):
        await transport.receive()
    with pytest.raises(BrokenPipeError):
        transport.write_nowait([b"x"])
    with pytest.raises(BrokenPipeError):
        await transport.write([b"x"])
    await transport.send_eof()


async def test_writing_to_a_peer_that_has_closed_is_a_broken_pipe(unix_sockets: Sockets) -> None:
    near, far = map(SocketTransport, unix_sockets)
    far.abort()
    with pytest.raises(BrokenPipeError):
        await near.write([b"x"])
    await near.send_eof()
    with pytest.raises(BrokenPipeError):
        near.write_nowait([b"x"])


# Sockets: writing


def fill(transport: SocketTransport) -> bytes:
    """Write until the kernel takes no more; what it took."""
    taken = b""
    while count := transport.write_nowait([LARGE[:1000], memoryview(LARGE)[1000:]]):
        assert count < len(LARGE), "a socket holds less than that"
        taken += LARGE[:count]
    return taken


async def test_a_full_kernel_takes_a_part_and_then_nothing(unix_sockets: Sockets) -> None:
    near, far = map(SocketTransport, unix_sockets)
    taken = fill(near)
    assert taken
    assert near.write_nowait([b"x"]) == 0
    assert await read_all(far, len(taken)) == taken
    assert near.write_nowait([b"x", b"y"]) == 2
    assert await read_all(far, 2) == b"xy"


async def test_a_write_waits_until_the_kernel_takes_something(unix_sockets: Sockets) -> None:
    near, far = map(SocketTransport, unix_sockets)
    taken = fill(near)
    async with trio.open_nursery() as nursery:
        outcome = Outcome()
        nursery.start_soon(outcome.of, partial(near.write, [b"now", b"!"]))
        await quiet()
        assert outcome.result is None
        assert await read_all(far, len(taken)) == taken
    assert outcome.result == 4
    assert await read_all(far, 4) == b"now!"


async def test_a_write_that_was_cancelled_while_it_waited_has_written_nothing(
    unix_sockets: Sockets,
) -> None:
    near, far = map(SocketTransport, unix_sockets)
    taken = fill(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, [b"never"])
        await quiet()
        nursery.cancel_scope.cancel()
    assert await read_all(far, len(taken)) == taken
    assert near.write_nowait([b"next"]) == 4
    assert await read_all(far, 4) == b"next"


async def test_a_writer_that_was_woken_for_nothing_waits_on(unix_sockets: Sockets) -> None:
    near, far = unix_sockets
    both = doubled(near)
    reader = SocketTransport(far)
    room = len(fill(both[0]))
    outcomes = [Outcome(), Outcome()]
    async with trio.open_nursery() as nursery:
        for transport, outcome in zip(both, outcomes, strict=True):
            nursery.start_soon(outcome.of, partial(transport.write, [LARGE]))
        await quiet()
        received = 0
        while (data := reader.receive_nowait(RECEIVE_SIZE)) is not None:
            received += len(data)
        assert received == room, "both are woken"
        await quiet()
        (count,) = [outcome.result for outcome in outcomes if outcome.result is not None]
        assert isinstance(count, int)
        await read_all(reader, count)
    assert all(outcome.result for outcome in outcomes)
    both[1].abort()


async def test_more_buffers_than_one_call_takes(sockets: Sockets) -> None:
    near, far = map(SocketTransport, sockets)
    buffers = [b"%05d" % number for number in range(3 * MAX_BUFFERS + 1)]
    starts = range(0, len(buffers), MAX_BUFFERS)
    counts = [near.write_nowait(buffers[start:]) for start in starts]
    assert counts == [5 * MAX_BUFFERS] * 3 + [5]
    assert await read_all(far, sum(counts)) == b"".join(buffers)


async def test_nothing_is_copied_for_a_socket(unix_sockets: Sockets) -> None:
    transport = SocketTransport(unix_sockets[0])
    await transport.write([b"warm up"])
    buffers: list[Buffer] = [b"header", memoryview(bytes(32 * KIB * KIB))]
    tracemalloc.start()
    try:
        count = await transport.write(buffers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count > 32 * KIB
    assert peak < 8 * KIB


# Sockets: closing


async def close_in_order(transport: SocketTransport) -> None:
    await transport.aclose()


async def close_now(transport: SocketTransport) -> None:
    await trio.lowlevel.checkpoint()
    assert transport.abort()


CLOSING = pytest.mark.parametrize("close", [close_in_order, close_now])
Close: TypeAlias = Callable[[SocketTransport], Awaitable[None]]


@CLOSING
async def test_closing_wakes_who_reads_and_who_writes(unix_sockets: Sockets, close: Close) -> None:
    transport = SocketTransport(unix_sockets[0])
    fill(transport)
    reading, writing = Outcome(), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading.of, transport.receive)
        nursery.start_soon(writing.of, partial(transport.write, [b"x"]))
        await quiet()
        await close(transport)
        assert unix_sockets[0].socket.fileno() == -1
    assert isinstance(reading.result, trio.ClosedResourceError)
    assert isinstance(writing.result, trio.ClosedResourceError)


@CLOSING
async def test_a_closed_socket_says_that_it_is_closed(sockets: Sockets, close: Close) -> None:
    for stream in sockets:
        transport = SocketTransport(stream)
        for _ in range(2):
            await close(transport)
            with pytest.raises(trio.ClosedResourceError):
                await transport.receive()
            with pytest.raises(trio.ClosedResourceError):
                await transport.write([b"x"])
            with pytest.raises(trio.ClosedResourceError):
                transport.write_nowait([b"x"])
            await transport.send_eof()


@contextmanager
def another_connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """It has bytes to read at its first end."""
    near, far = socket.socketpair()
    with near, far:
        far.send(b"theirs")
        yield near, far


@contextmanager
def opened_as(descriptor: int, sock: socket.socket) -> Iterator[None]:
    """Give *sock* a *descriptor* that is closed."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    os.dup2(sock.fileno(), descriptor)
    yield
    os.close(descriptor)


async def test_a_descriptor_that_belongs_to_another_by_now_is_left_alone(sockets: Sockets) -> None:
    transport = SocketTransport(sockets[0])
    descriptor = sockets[0].socket.fileno()
    with another_connection() as (near, far):
        transport.abort()
        with opened_as(descriptor, near):
            for call in (transport.receive, partial(transport.write, [b"x"])):
                with pytest.raises(trio.ClosedResourceError):
                    await call()
            with pytest.raises(trio.ClosedResourceError):
                transport.write_nowait([b"x"])
            await transport.send_eof()
            await transport.aclose()
            transport.abort()
        assert near.recv(100) == b"theirs"
        near.send(b"intact")
        assert far.recv(100) == b"intact"


async def test_a_task_that_was_woken_does_not_read_what_was_opened_before_it_ran(
    nursery: trio.Nursery,
) -> None:
    """The same bytes wake the reader and a task that closes its socket, in either order."""

    async def replace(stream: trio.SocketStream, copy: socket.socket) -> None:
        descriptor = stream.socket.fileno()
        with another_connection() as (near, _):
            await trio.lowlevel.wait_readable(copy)
            SocketTransport(stream).abort()
            with opened_as(descriptor, near):
                await quiet()
            assert near.recv(100) == b"theirs"

    for _ in range(20):
        near, far = await open_sockets("socket", nursery)
        reading = Outcome()
        with socket.socket(fileno=os.dup(near.socket.fileno())) as copy:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(reading.of, SocketTransport(near).receive)
                tasks.start_soon(replace, near, copy)
                await quiet()
                await far.send_all(b"ours")
        if not isinstance(reading.result, trio.ClosedResourceError):
            assert reading.result == b"ours"
