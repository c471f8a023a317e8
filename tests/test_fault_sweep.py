"""A transport that fails at every operation: all calls end in time, and nothing is left."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from sweeping import Book, is_closed, nothing_left, record, strip

import trio_ws
from trio_ws import ConnectionClosed, HandshakeError, Timeouts, WebSocketStream
from trio_ws._protocol import Role
from trio_ws.testing import Fault, FaultProbe, FaultyStream, fail_every_operation, set_budget

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
FAULTS = pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())

TIMEOUTS = Timeouts(handshake=10, idle=20, keep_alive_pings=False)


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
    nursery: trio.Nursery, role: Role, faulty: FaultyStream, theirs: trio.abc.Stream
) -> tuple[WebSocketStream, WebSocketStream]:
    """The stream over the faulty transport, and its peer."""
    streams = (faulty, theirs) if role is Role.CLIENT else (theirs, faulty)
    client, server = await trio_ws.testing.websocket_pair(
        nursery, streams, timeouts=TIMEOUTS, max_inbox_size=1, max_outbox_size=1
    )
    return (client, server) if role is Role.CLIENT else (server, client)


async def traffic(role: Role, fault: Fault, probe: FaultProbe) -> None:
    """Everything at once, and then the close."""
    book = Book()
    book.padding = "..."
    ends = Ends()
    set_budget(1)
    ours, theirs = trio.testing.memory_stream_pair()
    faulty = FaultyStream(ours)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            book.ws, book.peer = await open_over(nursery, role, faulty, theirs)
            nursery.start_soon(book.peer_receives)
            probe.arm(faulty)
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
            assert trio.current_time() <= 31, "the deadline has not ended the stall"
            await book.ws.aclose()
            await book.peer.aclose()
        for stream in (faulty, theirs):
            assert await is_closed(stream)
        book.check_idle()
    book.check_sent(torn_down=probe.failed)
    check_ends(book, ends, probe)


def check_ends(book: Book, ends: Ends, probe: FaultProbe) -> None:
    names = [name for received in book.received.values() for name in received]
    assert names == book.peer_sent[: len(names)]
    reason = book.ws.close_reason
    assert reason is not None
    if not probe.failed:
        assert not ends.errors
        assert reason.code == 1000
        book.check_received()
    for error in ends.errors:
        assert isinstance(error, ConnectionClosed)
        if error.stream is book.ws:
            assert error.code == reason.code


@FAULTS
@ROLES
def test_a_transport_that_fails_anywhere_ends_all_calls_in_time(role: Role, fault: Fault) -> None:
    result = record(
        f"traffic {role.value} {fault.name}",
        lambda: fail_every_operation(functools.partial(traffic, role, fault), fault),
    )
    assert result.effective > 5


async def opening(role: Role, probe: FaultProbe) -> None:
    """The opening handshake over a transport that passes few bytes at a time."""
    ours, theirs = trio.testing.memory_stream_pair()
    faulty = FaultyStream(ours)
    faulty.max_bytes = 16
    probe.arm(faulty)
    opened = False
    with nothing_left():
        async with trio.open_nursery() as nursery:
            try:
                ws, peer = await open_over(nursery, role, faulty, theirs)
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
@ROLES
def test_a_transport_that_fails_in_the_opening_handshake_is_a_handshake_error(
    role: Role, fault: Fault
) -> None:
    result = record(
        f"opening {role.value} {fault.name}",
        lambda: fail_every_operation(functools.partial(opening, role), fault),
    )
    assert result.effective > 5
