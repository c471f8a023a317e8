"""TLS that trio_ws itself has begun over a socket: its fast path, over the worst of connections."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, Unpack

import pytest
import trio
import trio.testing
import trustme
from background import begin
from raw_peer import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Frame,
    RawPeer,
    close_frame,
    make_streams,
    open_with_peer,
    reset,
)
from transports import close_in_the_end, read_all

import trio_ws
from trio_ws import CloseReason, Timeouts
from trio_ws._options import StreamKeywords
from trio_ws._protocol import Role
from trio_ws._tls import TlsTransport, make_opened_transport, start_tls
from trio_ws._transport import RECEIVE_SIZE, SocketTransport, StreamTransport, make_transport
from trio_ws.testing import FaultyStream

KIB = 1024
RECORD = 16 * KIB
LARGE = bytes(range(256)) * (4 * KIB)

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
SOCKETS = pytest.mark.parametrize("sockets", ["socket", "watched", "alone"])


class Peer(trio.abc.Stream):
    """The other end of a TLS connection, record by record.

    :param stream: its socket.
    """

    def __init__(self, stream: trio.SocketStream, role: Role, context: ssl.SSLContext) -> None:
        self.stream = stream
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=role is Role.SERVER,
            server_hostname="localhost" if role is Role.CLIENT else None,
        )

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send_records(self.outgoing.read())
                self.incoming.write(await self.stream.receive_some())
            else:
                await self.send_records(self.outgoing.read())
                return

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    async def send_records(self, records: bytes) -> None:
        if records:
            await self.stream.send_all(records)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.send_records(self.encrypt(bytes(data)))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = b""
        while not data and (records := await self.stream.receive_some()):
            data = self.decrypt(bytes(records))
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()

    def decrypt(self, records: bytes) -> bytes:
        """The data in them; what is not whole stays in the engine."""
        self.incoming.write(records)
        data = b""
        try:
            while part := self.tls.read(RECORD):
                data += part
        except ssl.SSLWantReadError:
            pass
        return data

    async def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await self.receive_some()
            assert part, "EOF"
            data += part
        assert len(data) == size
        return data


class Ends:
    """The two ends of a TLS connection on which "hello" has gone both ways."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        self.contexts = {Role.CLIENT: client, Role.SERVER: server}

    def start(self, role: Role, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        return start_tls(stream, self.contexts[role], "localhost" if role is Role.CLIENT else None)

    async def shake_hands(
        self, role: Role, nursery: trio.Nursery, kind: str = "socket"
    ) -> tuple[trio.SSLStream[trio.abc.Stream], Peer]:
        """Ours, which is not opened yet, and the peer."""
        ours, theirs = await make_streams(kind)
        assert isinstance(theirs, trio.SocketStream)
        peer_role = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        peer = Peer(theirs, peer_role, self.contexts[peer_role])
        stream = self.start(role, ours)
        nursery.start_soon(close_in_the_end, stream)
        nursery.start_soon(close_in_the_end, theirs)
        async with trio.open_nursery() as handshakes:
            handshakes.start_soon(peer.handshake)
            await stream.do_handshake()
        return stream, peer

    async def open(
        self, role: Role, nursery: trio.Nursery, kind: str = "socket"
    ) -> tuple[TlsTransport, Peer]:
        """Ours, which is opened, and the peer."""
        stream, peer = await self.shake_hands(role, nursery, kind)
        await stream.send_all(b"hello")
        assert await peer.receive(5) == b"hello"
        await peer.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        transport = make_opened_transport(stream)
        assert type(transport) is TlsTransport
        return transport, peer


@pytest.fixture
def ends(client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext) -> Ends:
    return Ends(client_ssl_context, server_ssl_context)


def read_nowait(stream: trio.SocketStream) -> bytes:
    """What the kernel has."""
    data = b""
    with suppress(BlockingIOError):
        while True:
            data += os.read(stream.socket.fileno(), 64 * KIB)
    return data


def fill_kernel(stream: trio.SocketStream) -> int:
    """Send zeros until it takes no more; how many."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            count += os.write(stream.socket.fileno(), bytes(4096))
    return count


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


# Which streams


async def test_only_tls_that_was_begun_here_and_over_a_socket_has_the_fast_path(
    ends: Ends,
) -> None:
    ours, theirs = await make_streams("socket")
    stream = ends.start(Role.CLIENT, ours)
    assert type(make_transport(stream)) is StreamTransport, "until it is opened"
    assert type(make_opened_transport(stream)) is TlsTransport
    assert type(make_opened_transport(stream)) is StreamTransport, "there is one"
    users_own = trio.SSLStream(ours, ends.contexts[Role.CLIENT], https_compatible=True)
    assert type(make_opened_transport(users_own)) is StreamTransport
    over_another = ends.start(Role.SERVER, FaultyStream(theirs))
    assert type(make_opened_transport(over_another)) is StreamTransport
    assert type(make_opened_transport(ours)) is SocketTransport
    for each in (ours, theirs):
        await each.aclose()


def test_a_stream_that_was_never_opened_is_forgotten(ends: Ends) -> None:
    async def main() -> None:
        ours, theirs = await make_streams("socket")
        ends.start(Role.CLIENT, ours)
        await ours.aclose()
        await theirs.aclose()

    trio.run(main)
    gc.collect()
    assert not trio_ws._tls._engines


async def test_what_is_known_of_the_peer_is_asked_of_the_tls_stream(
    ends: Ends, certificate_authority: object, nursery: trio.Nursery
) -> None:
    """And the context is as it was."""
    context = ends.contexts[Role.SERVER]
    before = context.get_ca_certs(), context.options, context.verify_mode

    async def echo(ws: trio_ws.WebSocketStream) -> None:
        assert type(ws._transport) is TlsTransport
        async for message in ws:
            await ws.send(message)

    server = await nursery.start(
        partial(trio_ws.serve_websocket, echo, 0, host="127.0.0.1", ssl_context=context)
    )
    async with trio_ws.open_websocket(
        f"wss://localhost:{server.port}/", ssl_context=ends.contexts[Role.CLIENT]
    ) as ws:
        assert type(ws._transport) is TlsTransport
        stream = ws.transport_stream
        assert isinstance(stream, trio.SSLStream)
        assert stream.version() == "TLSv1.3"
        names = dict(stream.getpeercert())["subjectAltName"]
        assert ("DNS", "localhost") in names
        assert stream.context is ends.contexts[Role.CLIENT]
        for message in ("hello", LARGE, LARGE[: 3 * RECORD + 1]):
            await ws.send(message)
            assert await ws.receive() == message
    assert (context.get_ca_certs(), context.options, context.verify_mode) == before
    await server.shutdown()


# Reading


@ROLES
async def test_bytes_arrive_as_written_in_both_directions_at_once(
    role: Role, ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(role, nursery, "tcp")
    received = []

    async def write_all() -> None:
        rest = memoryview(LARGE)
        while rest:
            count = await transport.write([rest[:3], rest[3:]])
            rest = rest[count:]
        while transport.has_unsent:
            assert await transport.write([]) == 0

    async def peer_receives() -> None:
        received.append(await peer.receive(len(LARGE)))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(write_all)
        tasks.start_soon(peer_receives)
        tasks.start_soon(peer.send_all, LARGE)
        assert await read_all(transport, len(LARGE)) == LARGE
    assert received == [LARGE]


async def test_of_many_records_no_more_is_received_than_is_asked_for(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery)
    await peer.send_records(b"".join(map(peer.encrypt, [b"abc", b"def", b"ghi"])))
    assert await transport.receive(2) == b"ab"
    assert not transport.can_watch, "the kernel has nothing any more"
    assert await transport.receive(3) == b"cde"
    assert await transport.receive(3) == b"fgh"
    assert await transport.receive(3) == b"i"
    assert transport.can_watch


async def test_of_very_small_records_a_step_takes_some(ends: Ends, nursery: trio.Nursery) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    await peer.send_records(b"".join(peer.encrypt(LARGE[at : at + 1]) for at in range(1000)))
    data = bytes(await transport.receive())
    assert len(data) < 500
    assert not transport.can_watch
    assert data + await read_all(transport, 1000 - len(data)) == LARGE[:1000]
    assert transport.can_watch


async def test_what_came_with_the_end_of_the_opening_handshake_is_not_lost(
    ends: Ends, nursery: trio.Nursery
) -> None:
    """In the engine there is the rest of a record, then one more, and half of another."""
    stream, peer = await ends.shake_hands(Role.CLIENT, nursery)
    half = peer.encrypt(b"101+") + peer.encrypt(b"more") + peer.encrypt(b"half")
    await peer.send_records(half[:-5])
    assert await stream.receive_some(3) == b"101"
    transport = make_opened_transport(stream)
    assert isinstance(transport, TlsTransport)
    assert bytes(await transport.receive()) == b"+more"
    await peer.send_records(half[-5:])
    assert await transport.receive() == b"half"
    assert transport.can_watch


async def test_half_a_record_in_the_engine_is_nothing_yet(
    ends: Ends, nursery: trio.Nursery
) -> None:
    stream, peer = await ends.shake_hands(Role.CLIENT, nursery)
    records = peer.encrypt(b"101") + peer.encrypt(b"half")
    await peer.send_records(records[:-5])
    assert await stream.receive_some(3) == b"101"
    transport = make_opened_transport(stream)
    assert not transport.can_watch
    receiving = await begin(nursery, transport.receive)
    assert transport.can_watch
    await peer.send_records(records[-5:])
    assert await receiving.result() == b"half"


async def test_half_a_record_is_nothing_yet(ends: Ends, nursery: trio.Nursery) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    record = peer.encrypt(b"whole")
    receiver = await begin(nursery, transport.receive)
    for start in range(0, len(record), 3):
        await peer.send_records(record[start : start + 3])
        await quiet()
    assert await receiver.result() == b"whole"


@pytest.mark.parametrize("cut", [1, 5, 20], ids=lambda cut: f"{cut} bytes of it")
async def test_an_eof_in_mid_record_is_an_eof(cut: int, ends: Ends, nursery: trio.Nursery) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery)
    await peer.send_records(peer.encrypt(b"whole") + peer.encrypt(b"never seen")[:cut])
    await peer.stream.send_eof()
    assert await transport.receive() == b"whole"
    for _ in range(2):
        assert await transport.receive() == b""


async def test_close_notify_is_an_eof_though_more_comes_behind_it(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    data = peer.encrypt(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    await peer.send_records(data + peer.outgoing.read() + b"what is this?")
    assert await transport.receive() == b"last"
    for _ in range(2):
        assert await transport.receive() == b""
    # The other direction is not ended by that.
    assert transport.write_nowait([b"answer"]) == 6


async def test_garbage_is_an_error_behind_what_came_before_it_and_the_peer_is_told(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    await peer.send_records(peer.encrypt(b"fine") + b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await transport.receive() == b"fine"
    with pytest.raises(trio.BrokenResourceError) as info:
        await transport.receive()
    assert isinstance(info.value.__cause__, ssl.SSLError)
    assert info.value.__cause__.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    alert = await peer.stream.receive_some()
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        peer.decrypt(bytes(alert))
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as info:
            await transport.receive()
        assert isinstance(info.value.__cause__, ssl.SSLError)
    with pytest.raises(trio.BrokenResourceError) as info:
        transport.write_nowait([b"x"])
    assert isinstance(info.value.__cause__, ssl.SSLError)


async def test_garbage_from_a_peer_that_has_gone(ends: Ends, nursery: trio.Nursery) -> None:
    """It can not be told."""
    transport, peer = await ends.open(Role.SERVER, nursery)
    await peer.send_records(b"GET / HTTP/1.1\r\n\r\n")
    await peer.stream.aclose()
    with pytest.raises(trio.BrokenResourceError) as info:
        await transport.receive()
    assert isinstance(info.value.__cause__, ssl.SSLError)


async def test_a_reset_is_what_the_kernel_says(ends: Ends, nursery: trio.Nursery) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery, "tcp")
    await reset(peer.stream)
    with pytest.raises(ConnectionResetError):
        await transport.receive()
    with pytest.raises(BrokenPipeError):
        transport.write_nowait([b"x"])


# Writing


async def test_many_buffers_are_few_records(ends: Ends, nursery: trio.Nursery) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery)
    buffers = [b"%05d" % number for number in range(3000)]
    assert transport.write_nowait(buffers) == 15_000
    records = await peer.stream.receive_some()
    assert 15_000 < len(records) < 15_100
    assert peer.decrypt(bytes(records)) == b"".join(buffers)


def fill(transport: TlsTransport) -> bytes:
    """Write until the kernel is full; what was taken."""
    taken = b""
    while not transport.has_unsent:
        count = transport.write_nowait([LARGE[:1000], memoryview(LARGE)[1000:]])
        taken += LARGE[:count]
    assert transport.write_nowait([b"x"]) == 0
    return taken


async def test_what_was_encrypted_and_not_sent_leaves_first(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    taken = fill(transport)
    counts: list[int] = []

    async def write() -> None:
        while not counts or not counts[-1]:
            counts.append(await transport.write([b"next", b"!"]))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(write)
        await quiet()
        assert counts == []
        assert await peer.receive(len(taken) + 5) == taken + b"next!"
    assert counts[-1] == 5
    assert set(counts[:-1]) == {0}
    assert not transport.has_unsent


async def test_what_was_encrypted_leaves_with_the_next_write_if_the_kernel_has_room(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery)
    taken = fill(transport)
    received = b""
    while not (count := transport.write_nowait([b"next"])):
        received += await peer.receive_some()
    assert count == 4
    while transport.has_unsent:
        received += await peer.receive_some()
        assert transport.write_nowait([]) == 0
    received += await peer.receive(len(taken) + 4 - len(received))
    assert received == taken + b"next"


async def test_little_is_encrypted_that_the_kernel_does_not_take(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    taken = fill(transport)
    assert len(taken) - len(read_nowait(peer.stream)) < 64 * KIB


async def test_a_write_that_was_cancelled_has_torn_nothing(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.CLIENT, nursery)
    taken = fill(transport)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(transport.write, [b"never"])
        await quiet()
        tasks.cancel_scope.cancel()
    async with trio.open_nursery() as tasks:
        tasks.start_soon(transport.write, [])
        assert await peer.receive(len(taken)) == taken
    while transport.has_unsent:
        await transport.write([])
    assert transport.write_nowait([b"next"]) == 4
    assert await peer.receive(4) == b"next"


async def test_closing_wakes_who_reads_and_who_writes(ends: Ends, nursery: trio.Nursery) -> None:
    transport, _ = await ends.open(Role.CLIENT, nursery)
    fill(transport)

    async def closed(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()

    async with trio.open_nursery() as tasks:
        tasks.start_soon(closed, transport.receive)
        tasks.start_soon(closed, partial(transport.write, [b"x"]))
        await quiet()
        assert transport.abort()
    for call in (transport.receive, partial(transport.write, [b"x"])):
        await closed(call)
    with pytest.raises(trio.ClosedResourceError):
        transport.write_nowait([b"x"])


# Streams


async def open_direct(
    ends: Ends,
    role: Role,
    nursery: trio.Nursery,
    stream_nursery: trio.Nursery | None = None,
    *,
    sockets: str = "socket",
    **options: Unpack[StreamKeywords],
) -> tuple[trio_ws.WebSocketStream, RawPeer]:
    """A stream, for which the kernel takes but a few KiB, and a peer, both over TLS."""
    ours, theirs = await make_streams(sockets)
    assert isinstance(ours, trio.SocketStream)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    peer_role = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    streams = ends.start(role, ours), ends.start(peer_role, theirs)
    for stream in streams:
        nursery.start_soon(close_in_the_end, stream)
    return await open_with_peer(stream_nursery or nursery, role, streams, **options)


@ROLES
@SOCKETS
async def test_records_wait_for_room_in_the_inbox(
    sockets: str, role: Role, ends: Ends, nursery: trio.Nursery
) -> None:
    """Then there may be nothing that the kernel could say of them."""
    ws, peer = await open_direct(ends, role, nursery, sockets=sockets, max_inbox_size=1)
    for number in range(5):
        await peer.send(Frame(TEXT, b"%d" % number * 10_000))
    nursery.start_soon(peer.send, Frame(BINARY, LARGE))
    await quiet()
    for number in range(5):
        assert await ws.receive() == f"{number}" * 10_000
    assert await ws.receive() == LARGE


@pytest.fixture
async def unsent(ends: Ends, nursery: trio.Nursery) -> tuple[trio_ws.WebSocketStream, RawPeer]:
    """A stream with 10 KiB that are encrypted, of which the kernel has taken a part."""
    ws, peer = await open_direct(ends, Role.SERVER, nursery)
    ws.send_nowait(LARGE[: 10 * KIB])
    assert ws.statistics().outbox_size == 0
    assert ws._transport.has_unsent
    return ws, peer


Unsent: TypeAlias = tuple[trio_ws.WebSocketStream, RawPeer]
FRAME = Frame(BINARY, LARGE[: 10 * KIB])


async def test_a_flush_waits_for_what_is_encrypted(unsent: Unsent, nursery: trio.Nursery) -> None:
    ws, peer = unsent
    flushing = await begin(nursery, ws.flush)
    assert not flushing.is_over
    assert await peer.receive() == FRAME
    await flushing.result()


async def test_a_close_waits_for_what_is_encrypted(unsent: Unsent, nursery: trio.Nursery) -> None:
    ws, peer = unsent
    nursery.start_soon(ws.aclose)
    assert await peer.answer_close() == [FRAME, close_frame(1000)]
    await ws.wait_closed()
    assert ws.close_reason == CloseReason(1000, "")


async def test_a_violation_is_told_behind_what_is_encrypted(unsent: Unsent) -> None:
    ws, peer = unsent
    await peer.send(Frame(0x3, b""))
    await quiet()
    first, close = await peer.receive(), await peer.receive()
    assert first == FRAME
    assert close is not None
    assert close.payload[:2] == (1002).to_bytes(2, "big")
    await peer.stream.aclose()
    await ws.wait_closed()


async def test_pings_meanwhile_are_answered_by_the_last_pong(unsent: Unsent) -> None:
    _, peer = unsent
    for number in range(10):
        await peer.send(Frame(PING, b"%d" % number))
        await quiet()
    assert [await peer.receive(), await peer.receive()] == [FRAME, Frame(PONG, b"9")]


async def test_terminal_cancellation_says_goodbye_if_the_kernel_takes_it(
    ends: Ends, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as inner:
        ws, peer = await open_direct(ends, Role.SERVER, nursery, inner)
        ws.send_nowait("before")
        inner.cancel_scope.cancel()
    assert await peer.receive_all() == [Frame(TEXT, b"before"), close_frame(1001)]


async def test_terminal_cancellation_closes_at_once_with_bytes_that_are_encrypted(
    unsent: Unsent,
) -> None:
    """The peer has half a record, then EOF."""
    ws, peer = unsent
    with trio.move_on_after(0):
        await ws.aclose()
    stream = ws.transport_stream
    assert isinstance(stream, trio.SSLStream)
    assert isinstance(stream.transport_stream, trio.SocketStream)
    assert stream.transport_stream.socket.fileno() == -1
    assert await peer.receive_all() == []


async def test_a_kernel_that_takes_nothing_in_time_ends_the_connection(
    ends: Ends, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that takes a little now and then does not."""
    timeouts = Timeouts(handshake=5, idle=20, keep_alive_pings=False)
    async with trio.open_nursery() as nursery:
        ws, peer = await open_direct(ends, Role.SERVER, nursery, timeouts=timeouts)
        ws.send_nowait(LARGE[: 60 * KIB])
        assert ws.statistics().outbox_size == 0
        stream = peer.stream
        assert isinstance(stream, trio.SSLStream)
        below = stream.transport_stream
        for takes in (5000, 5000, 5000, 0):
            await trio.sleep(15)
            await peer.send(Frame(PONG, b""))
            if takes:
                await below.receive_some(takes)
            assert ws.is_open
            assert ws._transport.has_unsent
        await ws.wait_closed()
        assert trio.current_time() == pytest.approx(65)
        nursery.cancel_scope.cancel()
    assert ws.close_reason == CloseReason(1006, "")


# What the engine itself has to say


@pytest.fixture
def authenticating(certificate_authority: trustme.CA, ends: Ends) -> Ends:
    """The server may ask for the client's certificate at any time, which TLS 1.3 alone can do."""
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for context, name in ((client, "client"), (server, "localhost")):
        certificate_authority.configure_trust(context)
        certificate_authority.issue_cert(name).configure_cert(context)
        context.post_handshake_auth = True
    server.verify_mode = ssl.CERT_REQUIRED
    return Ends(client, server)


async def test_a_client_proves_who_it_is_when_it_is_asked(
    authenticating: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await authenticating.open(Role.CLIENT, nursery)
    assert peer.tls.getpeercert() is None
    peer.tls.verify_client_post_handshake()
    await peer.send_all(b"who are you?")
    assert await transport.receive() == b"who are you?"
    assert not transport.has_unsent
    assert peer.decrypt(bytes(await peer.stream.receive_some())) == b""
    assert peer.tls.getpeercert()


@SOCKETS
async def test_an_answer_of_the_engine_that_the_kernel_does_not_take_is_written_later(
    sockets: str, authenticating: Ends, nursery: trio.Nursery
) -> None:
    ours, theirs = await make_streams(sockets)
    assert isinstance(ours, trio.SocketStream)
    assert isinstance(theirs, trio.SocketStream)
    peer = Peer(theirs, Role.SERVER, authenticating.contexts[Role.SERVER])
    stream = authenticating.start(Role.CLIENT, ours)
    async with trio.open_nursery() as handshakes:
        handshakes.start_soon(peer.handshake)
        await stream.do_handshake()
    ws, raw = await open_with_peer(nursery, Role.CLIENT, (stream, peer))
    await quiet()
    filling = fill_kernel(ours)
    peer.tls.verify_client_post_handshake()
    await raw.send(Frame(TEXT, b"who are you?"))
    assert await ws.receive() == "who are you?"
    assert ws._transport.has_unsent
    while filling:
        filling -= len(await theirs.receive_some(filling))
    assert peer.tls.getpeercert() is None
    peer.decrypt(bytes(await theirs.receive_some()))
    assert peer.tls.getpeercert()
    await quiet()
    assert not ws._transport.has_unsent
    await ws.send("done")
    assert await raw.receive() == Frame(TEXT, b"done")
    for each in (ours, theirs):
        await each.aclose()


async def open_authenticating(
    authenticating: Ends, nursery: trio.Nursery, sockets: str
) -> tuple[trio_ws.WebSocketStream, RawPeer, Peer]:
    """A client, whose server may ask who it is."""
    ours, theirs = await make_streams(sockets)
    assert isinstance(theirs, trio.SocketStream)
    peer = Peer(theirs, Role.SERVER, authenticating.contexts[Role.SERVER])
    stream = authenticating.start(Role.CLIENT, ours)
    for each in (stream, theirs):
        nursery.start_soon(close_in_the_end, each)
    async with trio.open_nursery() as handshakes:
        handshakes.start_soon(peer.handshake)
        await stream.do_handshake()
    return *await open_with_peer(nursery, Role.CLIENT, (stream, peer)), peer


@SOCKETS
async def test_an_answer_of_the_engine_behind_what_is_encrypted_waits_with_it(
    sockets: str, authenticating: Ends, nursery: trio.Nursery
) -> None:
    """And meanwhile nothing runs: a peer that reads nothing does not keep this side busy."""
    ws, raw, peer = await open_authenticating(authenticating, nursery, sockets)
    ws.send_nowait(LARGE)
    await quiet()
    assert ws._transport.has_unsent
    peer.tls.verify_client_post_handshake()
    await raw.send(Frame(TEXT, b"who are you?"))
    assert await ws.receive() == "who are you?"
    with trio.fail_after(5):
        await quiet()
    assert await raw.receive() == Frame(BINARY, LARGE)
    await ws.send("done")
    assert await raw.receive() == Frame(TEXT, b"done")
    assert peer.tls.getpeercert()


@SOCKETS
async def test_an_answer_of_the_engine_to_what_came_with_the_close_is_written_later(
    sockets: str, authenticating: Ends, nursery: trio.Nursery
) -> None:
    ws, raw, peer = await open_authenticating(authenticating, nursery, sockets)
    closing = await begin(nursery, ws.aclose)
    assert await raw.receive() == close_frame(1000)
    stream = ws.transport_stream
    assert isinstance(stream, trio.SSLStream)
    filling = fill_kernel(stream.transport_stream)
    peer.tls.verify_client_post_handshake()
    await raw.send(close_frame(1000))
    await quiet()
    assert ws._transport.has_unsent
    while filling:
        filling -= len(await peer.stream.receive_some(filling))
    with trio.fail_after(5):
        peer.decrypt(bytes(await peer.stream.receive_some()))
        assert peer.tls.getpeercert()
        await peer.aclose()
        await closing.result()


async def test_a_peer_that_asks_and_asks_and_does_not_read_is_not_answered_for_ever(
    ends: Ends, nursery: trio.Nursery
) -> None:
    transport, peer = await ends.open(Role.SERVER, nursery)
    fill(transport)
    for size in (30 * KIB, 30 * KIB):
        transport._outgoing.write(bytes(size))
        await peer.send_all(b"new keys!")
        assert await transport.receive() == b"new keys!"
    transport._outgoing.write(bytes(5 * KIB))
    await peer.send_all(b"new keys!")
    with pytest.raises(trio.BrokenResourceError, match="does not read"):
        await transport.receive()


# OpenSSL's own command, which can do what Python's module can not


OpenSsl: TypeAlias = Callable[[*tuple[str, ...]], Awaitable[trio.Process]]


@pytest.fixture
async def openssl(nursery: trio.Nursery) -> AsyncIterator[OpenSsl]:
    """Starts it with these arguments."""
    command = shutil.which("openssl")
    if command is None:
        pytest.skip("openssl is not installed")
    processes = []

    async def start(*arguments: str) -> trio.Process:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


async def read_until(stream: trio.abc.ReceiveStream | None, text: bytes) -> bytes:
    """What comes, up to a line with *text* and this line."""
    assert stream is not None
    data = b""
    while text not in data or not data.endswith(b"\n"):
        part = await stream.receive_some()
        assert part, f"EOF after {data!r}"
        data += part
    return data


async def test_a_client_that_changes_its_keys_again_and_again(
    openssl: OpenSsl, ends: Ends, nursery: trio.Nursery
) -> None:
    async def echo(ws: trio_ws.WebSocketStream) -> None:
        async for message in ws:
            await ws.send(message)

    server = await nursery.start(
        partial(
            trio_ws.serve_websocket,
            echo,
            0,
            host="127.0.0.1",
            ssl_context=ends.contexts[Role.SERVER],
        )
    )
    process = await openssl(
        "s_client", "-quiet", "-no_ign_eof", "-connect", f"127.0.0.1:{server.port}"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    peer = RawPeer(trio.StapledStream(process.stdin, process.stdout), Role.CLIENT)
    await peer.open_as_client()
    for number in range(6):
        # K asks for new keys of the server, too, k does not.
        await process.stdin.send_all((b"k\n", b"K\n")[number % 2])
        await read_until(process.stderr, b"KEYUPDATE")
        frames = [Frame(TEXT, b"%d %d" % (number, each)) for each in range(50)]
        for frame in frames:
            await peer.send(frame)
        for frame in frames:
            assert await peer.receive() == frame
    await peer.send(close_frame(1000))
    assert await peer.receive() == close_frame(1000)
    await server.shutdown()


async def test_a_server_that_renegotiates_holds_up_what_is_written_meanwhile(
    openssl: OpenSsl,
    certificate_authority: trustme.CA,
    ends: Ends,
    tmp_path: Path,
    nursery: trio.Nursery,
) -> None:
    """As TLS 1.2 allows: the engine then has to hear the server before it can encrypt more."""
    certificate = tmp_path / "certificate.pem"
    issued = certificate_authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    certificate_authority.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    process = await openssl(
        *("s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", str(certificate)),
        # Then it takes two flights each time.
        "-no_resumption_on_reneg",
    )
    heading = await read_until(process.stdout, b"ACCEPT")
    port = int(heading.rpartition(b":")[2])
    below = await trio.open_tcp_stream("127.0.0.1", port)
    stream = start_tls(below, context, "localhost")
    await stream.send_all(b"hello\n")
    await read_until(process.stdout, b"hello")
    transport = make_opened_transport(stream)
    assert process.stdin is not None
    for number in range(3):
        await process.stdin.send_all(b"r\n")
        await transport.wait_received(RECEIVE_SIZE)
        assert transport.receive_nowait(RECEIVE_SIZE) is None
        assert transport.write_nowait([b"not now"]) == 0
        assert not transport.has_unsent
        text = b"message %d\n" % number
        async with trio.open_nursery() as tasks:
            counts: list[int] = []

            async def write(text: bytes = text, counts: list[int] = counts) -> None:
                while not any(counts):
                    counts.append(await transport.write([text]))

            writing = await begin(tasks, write)
            assert counts == []
            reading = await begin(tasks, transport.receive)
            await writing.result()
            assert counts.pop() == len(text)
            assert not any(counts)
            reading.cancel()
        await read_until(process.stdout, text)
    await stream.aclose()
