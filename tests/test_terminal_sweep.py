"""Cancellation at every point of what closes, opens and serves: nothing is left of it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import pytest
import trio
import trio.testing
from sweeping import (
    KINDS,
    ROLES_AND_KINDS,
    SMALL_SOCKETS,
    Book,
    Contexts,
    Listener,
    is_closed,
    make_streams,
    nothing_left,
    open_subject,
    record,
    split,
    until_closed,
)

import trio_ws
from trio_ws import (
    ConnectionClosed,
    ConnectionClosedOK,
    HandshakeError,
    WebSocketServer,
    WebSocketStream,
)
from trio_ws._protocol import Role
from trio_ws._tls import start_tls
from trio_ws.testing import (
    NO_TIMEOUTS,
    CancelProbe,
    FaultyStream,
    SweepResult,
    cancel_every_step,
    set_budget,
    websocket_pair,
)

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
OVER_KINDS = pytest.mark.parametrize("kind", KINDS)
HANDSHAKE_BYTES = 16
"""Bytes that a transport which passes few at a time passes of a handshake: one by one, they would
make ten times the points, and all of them alike."""

BOTH = pytest.mark.parametrize(("role", "kind"), ROLES_AND_KINDS)

BELOW_TLS: Final = {"tls": "lockstep", "direct_tls": "socket"}
"""Over what trio_ws itself begins TLS, for each kind that has it."""


@pytest.fixture
def contexts(client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext) -> Contexts:
    return client_ssl_context, server_ssl_context


def sweep(
    scenario: Callable[[CancelProbe], Awaitable[None]], name: str, *, every_task: bool = False
) -> SweepResult:
    threshold = 1.0 if "tcp" in name else 0.0
    return record(
        name,
        lambda: cancel_every_step(scenario, every_task=every_task, autojump_threshold=threshold),
    )


async def check_only_closing_succeeds(ws: WebSocketStream) -> None:
    assert not ws.is_open
    for call in (ws.receive, ws.receive_some, ws.ping, ws.pong, ws.flush, ws.send_close):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        await ws.send("too late")
    await ws.aclose()
    await ws.wait_closed()


# Closing


async def close_frame(role: Role, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    book = Book()
    set_budget(1)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            streams = await make_streams(kind, contexts)
            await open_subject(role, kind, streams, nursery, nursery, book)
            nursery.start_soon(book.peer_receives)
            nursery.start_soon(until_closed, functools.partial(book.send_many, "a", 2))
            nursery.start_soon(until_closed, functools.partial(book.send_many, "b", 2))
            with probe.scope:
                await book.ws.send_close(1000, "bye")
            if probe.cancelled:
                await book.check_round_trip()
            else:
                assert not book.ws.is_open
                with pytest.raises(ConnectionClosedOK):
                    await book.ws.receive()
            await book.ws.aclose()
            await book.peer.aclose()
        book.check_idle()
    book.check_sent()
    assert book.peer.close_reason == (1000, "" if probe.cancelled else "bye")


@BOTH
def test_a_close_frame_that_is_cancelled_is_not_sent(
    role: Role, kind: str, contexts: Contexts
) -> None:
    result = sweep(
        functools.partial(close_frame, role, kind, contexts), f"send_close {role.value} {kind}"
    )
    assert result.effective >= 1


async def wait_closed(role: Role, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    book = Book()
    set_budget(1)

    async def send_and_close() -> None:
        await book.peer_sends(3)
        await book.peer.aclose()

    with nothing_left():
        async with trio.open_nursery() as nursery:
            streams = await make_streams(kind, contexts)
            await open_subject(role, kind, streams, nursery, nursery, book)
            nursery.start_soon(send_and_close)
            nursery.start_soon(until_closed, functools.partial(book.send_many, "a", 2))
            with probe.scope:
                await book.ws.wait_closed()
            async for message in book.ws:
                book.note(message)
        book.check_idle()
    names = book.own_received() if probe.cancelled else []
    assert names == book.peer_sent[len(book.peer_sent) - len(names) :]
    assert book.ws.close_reason == (1000, "")


@BOTH
def test_a_wait_for_the_end_that_is_cancelled_leaves_the_stream_as_it_is(
    role: Role, kind: str, contexts: Contexts
) -> None:
    result = sweep(
        functools.partial(wait_closed, role, kind, contexts), f"wait_closed {role.value} {kind}"
    )
    assert result.effective > 1


def start_calls(nursery: trio.Nursery, book: Book) -> None:
    """Tasks that do everything at once on a stream that will be closed meanwhile."""
    ws = book.ws
    for call in (
        functools.partial(book.send_many, "a", 3),
        functools.partial(book.send_many, "b", 3),
        functools.partial(book.receive_rest, 9),
        functools.partial(book.receive_rest, 9),
        ws.ping,
        ws.pong,
        ws.flush,
        ws.wait_closed,
    ):
        nursery.start_soon(until_closed, call)
    nursery.start_soon(until_closed, functools.partial(book.peer_sends, 9))
    nursery.start_soon(until_closed, book.peer.ping)
    nursery.start_soon(book.peer_receives)


async def aclose(role: Role, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    book = Book()
    set_budget(1)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            streams = await make_streams(kind, contexts)
            await open_subject(role, kind, streams, nursery, nursery, book)
            start_calls(nursery, book)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            with probe.scope:
                await book.ws.aclose(1000, "bye")
            ours = book.streams[0 if role is Role.CLIENT else 1]
            assert await is_closed(ours)
            await check_only_closing_succeeds(book.ws)
        book.check_idle()
        for stream in book.streams:
            assert await is_closed(stream)
    book.check_sent(torn_down=probe.cancelled)
    assert book.peer.close_reason is not None
    if not probe.cancelled:
        assert book.peer.close_reason == (1000, "bye")
    else:
        assert book.peer.close_reason.code in (1000, 1006)


@OVER_KINDS
@ROLES
def test_aclose_that_is_cancelled_closes_at_once_and_everybody_ends(
    role: Role, kind: str, contexts: Contexts
) -> None:
    every_task = kind in ("lockstep", "socket")
    result = sweep(
        functools.partial(aclose, role, kind, contexts),
        f"aclose {role.value} {kind}",
        every_task=every_task,
    )
    assert result.effective > 1


# The nursery


async def nursery_scope(role: Role, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    """It is cancelled at every step of every task for a client over memory in lockstep and for a
    server over a socket, each way to write once; else at the steps of the task that opens the
    stream and closes it.
    """
    book = Book()
    set_budget(1)
    opened = False
    streams = await make_streams(kind, contexts)
    with nothing_left():
        async with trio.open_nursery() as outside:
            with probe.scope:
                async with trio.open_nursery() as nursery:
                    await open_subject(role, kind, streams, nursery, outside, book)
                    opened = True
                    start_calls(outside, book)
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                    await book.ws.aclose()
            ours = streams[0 if role is Role.CLIENT else 1]
            assert await is_closed(ours)
            if opened:
                await check_only_closing_succeeds(book.ws)
                book.check_idle()
            else:
                outside.cancel_scope.cancel()
        for stream in book.streams:
            assert await is_closed(stream)
    if opened:
        book.check_sent(torn_down=probe.cancelled)
        assert book.peer.close_reason is not None
        assert book.peer.close_reason.code in (1000, 1001, 1006)


@OVER_KINDS
@ROLES
def test_a_nursery_that_is_cancelled_leaves_nothing_of_its_stream_open_or_opening(
    role: Role, kind: str, contexts: Contexts
) -> None:
    every_task = (role, kind) in ((Role.CLIENT, "lockstep"), (Role.SERVER, "socket"))
    result = sweep(
        functools.partial(nursery_scope, role, kind, contexts),
        f"nursery {role.value} {kind}",
        every_task=every_task,
    )
    assert result.effective > 10


# Opening


async def opening(name: str, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    ours, theirs = streams = await make_streams(BELOW_TLS.get(kind, kind), contexts)
    split(streams, HANDSHAKE_BYTES)
    if kind in BELOW_TLS:
        theirs = start_tls(theirs, contexts[1])
    connected = False
    opened = False
    peers: list[WebSocketStream] = []

    async def connect(host: str, port: int) -> trio.abc.Stream:
        nonlocal connected
        await trio.lowlevel.checkpoint()
        connected = True
        return ours

    async def accept() -> None:
        with suppress(HandshakeError, trio.BrokenResourceError):
            peers.append(await trio_ws.wrap_server_stream(nursery, theirs, timeouts=NO_TIMEOUTS))
            async for message in peers[0]:
                await peers[0].send(message)

    url = "wss://localhost/" if kind in BELOW_TLS else "ws://localhost/"
    ssl_context = contexts[0] if kind in BELOW_TLS else None
    with nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with probe.scope:
                if name == "open_websocket":
                    async with trio_ws.open_websocket(
                        url, connect=connect, ssl_context=ssl_context, timeouts=NO_TIMEOUTS
                    ) as ws:
                        opened = True
                        await ws.send("hello")
                        assert await ws.receive() == "hello"
                else:
                    async with trio.open_nursery() as inner:
                        ws = await trio_ws.connect_websocket(
                            inner,
                            url,
                            connect=connect,
                            ssl_context=ssl_context,
                            timeouts=NO_TIMEOUTS,
                        )
                        opened = True
                        await ws.send("hello")
                        assert await ws.receive() == "hello"
                        await ws.aclose()
            if not connected:
                await ours.aclose()
            assert await is_closed(ours)
        assert await is_closed(theirs)
    if opened and peers:
        assert peers[0].close_reason is not None
        assert peers[0].close_reason.code in (1000, 1001, 1006)


@OVER_KINDS
@pytest.mark.parametrize("name", ["open_websocket", "connect_websocket"])
def test_a_client_that_is_cancelled_leaves_nothing(
    name: str, kind: str, contexts: Contexts
) -> None:
    every_task = kind in ("lockstep", "socket", "tls", "direct_tls")
    result = sweep(
        functools.partial(opening, name, kind, contexts), f"{name} {kind}", every_task=every_task
    )
    assert result.effective > 5


async def wrapping(role: Role, kind: str, contexts: Contexts, probe: CancelProbe) -> None:
    """Only the opening handshake is cancelled, and the nursery is not."""
    streams = await make_streams(kind, contexts)
    split(streams, HANDSHAKE_BYTES)
    ours, theirs = streams if role is Role.CLIENT else reversed(streams)
    ends: list[WebSocketStream] = []

    async def wrap(role: Role, stream: trio.abc.Stream) -> None:
        if role is Role.CLIENT:
            ws = await trio_ws.wrap_client_stream(
                nursery, stream, host="test", timeouts=NO_TIMEOUTS
            )
        else:
            ws = await trio_ws.wrap_server_stream(nursery, stream, timeouts=NO_TIMEOUTS)
        ends.append(ws)

    async def be_the_peer() -> None:
        with suppress(HandshakeError):
            await wrap(Role.SERVER if role is Role.CLIENT else Role.CLIENT, theirs)

    with nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_the_peer)
            with probe.scope:
                await wrap(role, ours)
            if probe.cancelled:
                assert await is_closed(ours)
                assert all(ws.transport_stream is theirs for ws in ends)
            else:
                await ends[-1].aclose()
        for stream in streams:
            assert await is_closed(stream)
    reasons = [ws.close_reason for ws in ends]
    assert reasons in ([], [(1006, "")]) if probe.cancelled else reasons == [(1000, "")] * 2


@OVER_KINDS
@ROLES
def test_a_handshake_that_is_cancelled_closes_its_transport_and_opens_nothing(
    role: Role, kind: str, contexts: Contexts
) -> None:
    result = sweep(functools.partial(wrapping, role, kind, contexts), f"wrap {role.value} {kind}")
    assert result.effective > 2


# Serving


async def echo(ws: WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def serve(
    nursery: trio.Nursery,
    listener: Listener,
    handler: Callable[[WebSocketStream], Awaitable[None]],
    ssl_context: ssl.SSLContext | None,
) -> WebSocketServer:
    server: WebSocketServer = await nursery.start(
        functools.partial(
            trio_ws.serve_websocket,
            handler,
            listeners=[listener],
            ssl_context=ssl_context,
            timeouts=NO_TIMEOUTS,
        )
    )
    return server


async def talk(listener: Listener, count: int, size: int) -> None:
    """A client, if there is still somebody who listens: it asks, and then closes."""
    try:
        stream = await listener.dial()
    except OSError:
        assert listener.closed
        return
    with suppress(HandshakeError, ConnectionClosed):
        async with trio.open_nursery() as nursery:
            ws = await trio_ws.wrap_client_stream(
                nursery, stream, host="test", timeouts=NO_TIMEOUTS
            )
            await until_closed(functools.partial(exchange, ws, count, size))
            await ws.aclose()
    assert await is_closed(stream)


async def exchange(ws: WebSocketStream, count: int, size: int) -> None:
    for number in range(count):
        message = str(number).ljust(size, ".")
        await ws.send(message)
        assert await ws.receive() == message


def message_size(kind: str) -> int:
    """More than the kernel takes at a time, where there is one."""
    return 3000 if kind in SMALL_SOCKETS else 3


async def check_server_is_gone(listener: Listener) -> None:
    """And its clients are."""
    assert listener.closed
    for stream in (*listener.accepted, *listener.dialed):
        assert await is_closed(stream)


async def serving(kind: str, contexts: Contexts, clients: int, probe: CancelProbe) -> None:
    """Clients come, talk and go, and then the server is shut down, all of it in the scope."""
    listener = Listener(kind, contexts, HANDSHAKE_BYTES)
    ssl_context = contexts[1] if kind in BELOW_TLS else None
    with nothing_left():
        with probe.scope:
            async with trio.open_nursery() as inner:
                server = await serve(inner, listener, echo, ssl_context)
                async with trio.open_nursery() as others:
                    for _ in range(clients - 1):
                        others.start_soon(talk, listener, 2, message_size(kind))
                    await talk(listener, 2, message_size(kind))
                await server.shutdown()
        await check_server_is_gone(listener)


@OVER_KINDS
def test_a_server_that_is_cancelled_leaves_nothing(kind: str, contexts: Contexts) -> None:
    clients = 2 if kind == "lockstep" else 1
    result = sweep(
        functools.partial(serving, kind, contexts, clients),
        f"serve_websocket {kind}",
        every_task=True,
    )
    assert result.effective > 10


async def shutting_down(kind: str, contexts: Contexts, clients: int, probe: CancelProbe) -> None:
    """All clients talk but the last one: its handler does not end by itself.

    Over TCP it does: each wait for the end of the grace would be one for the clock, a second long.
    """
    listener = Listener(kind, contexts, HANDSHAKE_BYTES)
    ssl_context = contexts[1] if kind in BELOW_TLS else None
    all_talk = trio.Event()

    async def handle(ws: WebSocketStream) -> None:
        if len(server.connections) == clients:
            all_talk.set()
            if kind != "tcp":
                await trio.sleep_forever()
        await echo(ws)

    with nothing_left():
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, listener, handle, ssl_context)
            for _ in range(clients):
                nursery.start_soon(talk, listener, 1000, message_size(kind))
            await all_talk.wait()
            with probe.scope:
                await server.shutdown(grace=3)
            returned_at = trio.current_time()
        # The nursery has ended, so the server has, and without another wait.
        assert trio.current_time() == returned_at
        await check_server_is_gone(listener)
        assert not server.connections


@OVER_KINDS
def test_a_shutdown_that_is_cancelled_is_one_without_grace(kind: str, contexts: Contexts) -> None:
    clients = 3 if kind == "lockstep" else 2
    result = sweep(
        functools.partial(shutting_down, kind, contexts, clients),
        f"shutdown {kind}",
        every_task=True,
    )
    assert result.effective > 10


class BreaksWhenWoken(FaultyStream):
    """As TLS does when its sender is cancelled: the receiver, awake already, finds it broken."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.armed = False
        self.woken = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.armed:
            return await super().receive_some(max_bytes)
        with trio.CancelScope(shield=True):
            await self.woken.wait()
        raise trio.BrokenResourceError


async def test_a_reader_that_finds_tls_broken_by_the_same_cancellation_was_cancelled(
    nursery: trio.Nursery,
) -> None:
    left, right = trio.testing.memory_stream_pair()
    stream = BreaksWhenWoken(left)
    async with trio.open_nursery() as inner:
        client, server = await websocket_pair(inner, (stream, right))
        await trio.testing.wait_all_tasks_blocked()
        stream.armed = True
        await server.send("let the reader go round")
        await client.receive()
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
        stream.woken.set()
    await check_only_closing_succeeds(client)


class HoldsUp(BreaksWhenWoken):
    """It takes what is sent, and does not return."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.taken: list[bytes] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.armed:
            await super().send_all(data)
        else:
            self.taken.append(bytes(data))
            await trio.sleep_forever()


async def test_what_a_cancelled_write_may_have_written_is_not_written_again() -> None:
    left, right = trio.testing.memory_stream_pair()
    stream = HoldsUp(left)
    async with trio.open_nursery() as outside:
        async with trio.open_nursery() as inner:
            client = await open_with_peer_in(inner, outside, stream, right)
            client.send_nowait("one")
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                # The reader does not know yet, so this is committed, and goes nowhere.
                client.send_nowait("two")
                await trio.testing.wait_all_tasks_blocked()
            stream.woken.set()
        assert len(stream.taken) == 1
        outside.cancel_scope.cancel()
    await check_only_closing_succeeds(client)


async def open_with_peer_in(
    inner: trio.Nursery, outside: trio.Nursery, stream: HoldsUp, theirs: trio.abc.Stream
) -> WebSocketStream:
    """A client in one nursery, whose reader waits in the stream, and its peer in another one."""
    peers: list[WebSocketStream] = []

    async def accept() -> None:
        peers.append(await trio_ws.wrap_server_stream(outside, theirs, timeouts=NO_TIMEOUTS))

    outside.start_soon(accept)
    client = await trio_ws.wrap_client_stream(inner, stream, host="test", timeouts=NO_TIMEOUTS)
    await trio.testing.wait_all_tasks_blocked()
    stream.armed = True
    await peers[0].send("let the reader go round")
    await client.receive()
    await trio.testing.wait_all_tasks_blocked()
    return client
