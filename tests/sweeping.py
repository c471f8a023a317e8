"""Scenarios for sweeps: two streams that are busy, and a book of what may be seen of it.

Everything is small: the bounds of inbox and outbox, and what the transports take at a time, so that
few messages are enough for every kind of waiting.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio
import trio.testing
from raw_peer import Streams, make_crowd, tcp_pair

from trio_ws import (
    ConnectionClosed,
    PermessageDeflate,
    Timeouts,
    WebSocketStream,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_ws._options import StreamKeywords
from trio_ws._poller import current_poller
from trio_ws._protocol import Role
from trio_ws._ticker import current_ticker
from trio_ws._tls import start_tls
from trio_ws.testing import NO_TIMEOUTS, FaultyStream, SweepResult

KINDS: Final = ("lockstep", "bytes", "socket", "tcp", "tls", "direct_tls")
"""``bytes`` is memory that brings one byte at a time, ``socket`` and ``tcp`` are sockets with the
smallest buffers the kernel knows, ``tcp`` in a run with so many streams that the poller reads for
all, ``tls`` is TLS over memory, ``direct_tls`` over sockets, opened by trio_ws itself."""

SMALL_SOCKETS: Final = ("socket", "tcp", "direct_tls")
"""What needs messages of some size to be full."""

COMPRESSED: Final = ("bytes", "tls")
"""Over these kinds every message is compressed, with context takeover: one that were deflated and
not sent, or sent twice, would garble the next."""

ROLES_AND_KINDS: Final = tuple(itertools.product(Role, KINDS))
"""Every call is swept in both roles over each."""

CALM_RUNS: Final = 3
"""After so many runs in a row that end before the trouble comes, a sweep is over: which of two
tasks runs first is chance, so one run alone may just have been short."""

Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]

counts: dict[str, SweepResult] = {}
"""What each sweep of this test run has done, by its name."""

programs: list[tuple[int, int]] = []
"""Of each random program of this test run, how many calls it made, and how many were cancelled."""


async def make_streams(kind: str, contexts: Contexts | None = None) -> Streams:
    """The transports of a client and a server."""
    if kind == "lockstep":
        return trio.testing.lockstep_stream_pair()
    if kind == "bytes":
        left, right = map(FaultyStream, trio.testing.memory_stream_pair())
        return left, right
    if kind == "watched":
        make_crowd()
        return await make_streams("socket")
    if kind == "socket":
        near, far = socket.socketpair()
        return _small(near), _small(far)
    if kind == "tcp":
        make_crowd()
        streams = await tcp_pair()
        for stream in streams:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return streams
    assert contexts is not None
    client_tls, server_tls = contexts
    if kind == "direct_tls":
        client, server = await make_streams("socket")
        return start_tls(client, client_tls, "localhost"), start_tls(server, server_tls)
    assert kind == "tls"
    below = trio.testing.memory_stream_pair()
    return (
        trio.SSLStream(below[0], client_tls, server_hostname="localhost", https_compatible=True),
        trio.SSLStream(below[1], server_tls, server_side=True, https_compatible=True),
    )


def _small(sock: socket.socket) -> trio.SocketStream:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def split(streams: Streams, max_bytes: int = 1) -> None:
    """From now on, so few bytes at a time, if they are of that kind."""
    for stream in streams:
        if isinstance(stream, FaultyStream):
            stream.max_bytes = max_bytes


async def is_closed(stream: trio.abc.Stream) -> bool:
    """Whether this side has closed it."""
    if isinstance(stream, trio.SSLStream):
        return await is_closed(stream.transport_stream)
    if isinstance(stream, FaultyStream):
        return await is_closed(stream.stream)
    if isinstance(stream, trio.SocketStream):
        return stream.socket.fileno() == -1
    assert isinstance(stream, trio.StapledStream)
    with trio.move_on_after(1):  # noqa: ASYNC912 (a stream's send_all is one)
        try:
            await stream.send_stream.send_all(b"")
        except trio.ClosedResourceError:
            return True
        except trio.BrokenResourceError:
            return False
    return False


async def open_subject(
    role: Role,
    kind: str,
    streams: Streams,
    nursery: trio.Nursery,
    peer_nursery: trio.Nursery,
    book: Book,
    timeouts: Timeouts = NO_TIMEOUTS,
) -> None:
    """Open the stream that is tested, in *nursery*, and its peer in another one."""
    options: StreamKeywords = {
        "timeouts": timeouts,
        "max_inbox_size": 1,
        "max_outbox_size": 1,
        "compression": PermessageDeflate(min_size=0) if kind in COMPRESSED else None,
    }
    book.streams = streams
    size = 3000 if kind in SMALL_SOCKETS else 3
    book.padding = "." * size
    ends: dict[Role, WebSocketStream] = {}

    async def connect() -> None:
        where = nursery if role is Role.CLIENT else peer_nursery
        ends[Role.CLIENT] = await wrap_client_stream(where, streams[0], host="test", **options)

    async def accept() -> None:
        where = nursery if role is Role.SERVER else peer_nursery
        ends[Role.SERVER] = await wrap_server_stream(where, streams[1], **options)

    async with trio.open_nursery() as handshakes:
        handshakes.start_soon(connect)
        handshakes.start_soon(accept)
    split(streams)
    book.ws = ends.pop(role)
    assert (book.ws.compression is None) is (kind not in COMPRESSED)
    (book.peer,) = ends.values()
    book.peer.configure(control_callback=lambda opcode, data: book.controls.append(bytes(data)))


@dataclass
class Sent:
    """One call of ``send``, with the times at which it began and returned, if it did not raise."""

    began: int
    returned: int | None = None
    cancelled: bool = False


@dataclass
class Book:
    """What each task has sent and received, and how it ended."""

    sent: dict[str, Sent] = field(default_factory=dict)
    peer_saw: list[str] = field(default_factory=list)
    peer_sent: list[str] = field(default_factory=list)
    received: dict[trio.lowlevel.Task, list[str]] = field(default_factory=dict)
    controls: list[bytes] = field(default_factory=list)
    pongs: dict[bytes, bool] = field(default_factory=dict)
    padding: str = ""
    partial: str = ""
    parts_sent: int = 0
    time: int = 0

    def __post_init__(self) -> None:
        self.ws: WebSocketStream
        self.peer: WebSocketStream
        self.streams: Streams

    def now(self) -> int:
        self.time += 1
        return self.time

    # What tasks do

    async def send(self, name: str) -> None:
        """One message of the stream that is tested."""
        sent = self.sent[name] = Sent(self.now())
        try:
            await self.ws.send(name + self.padding)
        except (trio.Cancelled, ConnectionClosed, trio.ClosedResourceError):
            sent.cancelled = True
            raise
        sent.returned = self.now()

    def note_sent(self, name: str) -> None:
        """A message that was sent in parts has been sent whole."""
        self.sent[name] = Sent(0, self.now())

    async def receive(self) -> None:
        self.note(await self.ws.receive())

    def note(self, message: str | bytes) -> None:
        """A message was received; of one that was taken in parts, the rest."""
        assert isinstance(message, str)
        self.partial += message
        self.take_partial()

    async def receive_part(self, max_bytes: int) -> None:
        """A part of a message; whether it was the last one is noted, too."""
        part, fin = await self.ws.receive_some(max_bytes)
        assert isinstance(part, str)
        self.partial += part
        if fin:
            self.take_partial()

    def take_partial(self) -> None:
        """What was taken in parts is a whole message now."""
        message, self.partial = self.partial, ""
        self.own_received().append(strip(message))

    def own_received(self) -> list[str]:
        """What the current task has received."""
        return self.received.setdefault(trio.lowlevel.current_task(), [])

    async def receive_rest(self, count: int) -> None:
        """Until the current task has received that many."""
        while len(self.own_received()) < count:
            await self.receive()

    async def send_many(self, sender: str, count: int) -> None:
        for number in range(count):
            await self.send(f"{sender}{number}")

    async def peer_sends(self, count: int) -> None:
        for number in range(count):
            self.peer_sent.append(str(number))
            await self.peer.send(f"{number}{self.padding}")

    async def peer_receives(self) -> None:
        """Until the end of the connection."""
        with suppress(ConnectionClosed, trio.ClosedResourceError):
            while True:
                self.peer_saw.append(strip(await self.peer.receive()))

    # What has to hold

    def check_sent(self, *, torn_down: bool = False) -> None:
        """What the peer saw is whole, in commit order, once; all of what was sent, nothing else."""
        saw = self.peer_saw
        assert len(set(saw)) == len(saw), f"doubled: {saw}"
        for name in saw:
            assert not self.sent[name].cancelled, f"{name} was cancelled, and arrived"
        if not torn_down:
            lost = [n for n, sent in self.sent.items() if sent.returned and n not in saw]
            assert not lost, f"{lost} were sent, and lost"
        for position, name in enumerate(saw):
            for later in saw[position + 1 :]:
                returned = self.sent[later].returned
                assert returned is None or self.sent[name].began < returned, saw
        if torn_down:
            self._check_is_beginning(saw)

    def _check_is_beginning(self, saw: list[str]) -> None:
        """Nothing is missing but at the end."""
        for name in saw:
            for earlier, sent in self.sent.items():
                if sent.returned is not None and sent.returned < self.sent[name].began:
                    assert earlier in saw, f"{earlier} was lost, but {name} arrived: {saw}"

    def check_received(self) -> None:
        """Each message of the peer was received once, and by each task in order."""
        for names in self.received.values():
            assert names == sorted(names)
        assert sorted(itertools.chain(*self.received.values())) == self.peer_sent

    def check_pongs(self) -> None:
        """Those that were sent arrived, in order, and those that were cancelled did not."""
        arrived = [payload for payload in self.controls if payload.startswith(b"pong")]
        assert arrived == [payload for payload, returned in self.pongs.items() if returned]

    def check_idle(self) -> None:
        """Nobody waits in the stream for anything."""
        statistics = self.ws.statistics()
        assert statistics.tasks_waiting_send == 0
        assert statistics.tasks_waiting_receive == 0
        assert not self.ws._pings._sent

    async def check_round_trip(self) -> None:
        """The stream is as good as new."""
        assert self.ws.is_open
        assert await self.ws.ping() >= 0


def strip(message: str | bytes) -> str:
    """The name in a message, which has to be whole."""
    assert isinstance(message, str)
    name = message.rstrip(".")
    assert len(message) - len(name) in (3, 3000), f"torn: {message[:20]!r}"
    return name


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Listens within this process, or for ``tcp`` on a port: then the kernel is between.

    Over TLS it hands out what is below, as listeners do for a server that has an ``ssl_context``.

    :ivar accepted: the streams that it has handed out.
    :ivar dialed: those of the clients.
    """

    def __init__(
        self, kind: str, contexts: Contexts | None = None, max_bytes: int | None = None
    ) -> None:
        self.accepted: list[trio.abc.Stream] = []
        self.dialed: list[trio.abc.Stream] = []
        self.closed = False
        self._kind = kind
        self._contexts = contexts
        self._max_bytes = max_bytes
        self._backlog: trio.SocketListener | None = None
        if kind == "tcp":
            listening = socket.create_server(("127.0.0.1", 0))
            self._backlog = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](10)

    async def dial(self) -> trio.abc.Stream:
        """A client's stream that is connected.

        :raises OSError: the listener is closed.
        """
        if self._backlog is not None:
            client = await trio.open_tcp_stream(*self._backlog.socket.getsockname())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            self.dialed.append(client)
            return client
        if self.closed:
            raise ConnectionRefusedError
        ours, theirs = streams = await make_streams(self._kind, self._contexts)
        if self._max_bytes is not None:
            split(streams, self._max_bytes)
        self.dialed.append(ours)
        if isinstance(theirs, trio.SSLStream):
            theirs = theirs.transport_stream
        self._send.send_nowait(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        if self._backlog is None:
            stream = await self._receive.receive()
        else:
            stream = await self._backlog.accept()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.accepted.append(stream)
        return stream

    async def aclose(self) -> None:
        """Close it, and as a kernel does, who was not accepted yet."""
        self.closed = True
        with trio.CancelScope(shield=True), suppress(trio.WouldBlock):
            if self._backlog is not None:
                await self._backlog.aclose()
            while True:
                self.accepted.append(self._receive.receive_nowait())
                await trio.aclose_forcefully(self.accepted[-1])
        await trio.lowlevel.checkpoint()


async def until_closed(call: Callable[[], Awaitable[object]]) -> None:
    """A call that may end because the connection does, and in no other way."""
    with suppress(ConnectionClosed, trio.ClosedResourceError):
        await call()


@contextmanager
def nothing_left() -> Iterator[None]:
    """In a Trio run: the block leaves no task and no deadline behind."""
    ticker = current_ticker()
    current_poller().start()
    before = trio.lowlevel.current_statistics().tasks_living
    yield
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert ticker.pending_deadlines == 0


def record(name: str, sweep: Callable[[], SweepResult]) -> SweepResult:
    """Run a sweep, count it, and see that no descriptor is left open."""
    gc.collect()
    before = _descriptors()
    result = sweep()
    gc.collect()
    assert _descriptors() == before
    counts[name] = result
    return result


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
