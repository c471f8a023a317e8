"""Cancellation of one stream's calls, as the design's table has it, row by row.

Total: the call had no effect, and the stream is as good as before. Terminal: the transport is gone
at once, and only closing succeeds.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Unpack

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawPeer,
    close_frame,
    make_streams,
    open_with_peer,
)

from trio_ws import CloseReason, Opcode, WebSocketStream
from trio_ws._options import StreamKeywords
from trio_ws._protocol import Role
from trio_ws.testing import FaultyStream, websocket_pair

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
KINDS = pytest.mark.parametrize("kind", ["memory", "socket", "watched", "alone"])

FILLER = bytes(3_000_000)
"""More than a socket takes whose peer does not read."""

Method = Callable[[WebSocketStream], Awaitable[object]]

METHODS: dict[str, Method] = {
    "send": lambda ws: ws.send("x"),
    "send_some": lambda ws: ws.send_some("x", fin=False),
    "flush": lambda ws: ws.flush(),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "receive": lambda ws: ws.receive(),
    "receive_some": lambda ws: ws.receive_some(),
    "iteration": lambda ws: anext(ws.__aiter__()),
    "send_close": lambda ws: ws.send_close(),
}
NEVER_READY = {name: METHODS[name] for name in METHODS if name not in ("pong", "send_close")}
"""Those that have to wait while nothing comes and nothing leaves."""


def pong_125(ws: WebSocketStream) -> Awaitable[object]:
    return ws.pong(bytes(125))


class MemoryStream(FaultyStream):
    """Memory that says whether it was closed."""

    is_closed = False

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self.is_closed = True


def is_closed(stream: trio.abc.Stream) -> bool:
    if isinstance(stream, MemoryStream):
        return stream.is_closed
    assert isinstance(stream, trio.SocketStream)
    return stream.socket.fileno() == -1


async def open_over(
    kind: str, nursery: trio.Nursery, role: Role, **options: Unpack[StreamKeywords]
) -> tuple[WebSocketStream, RawPeer]:
    ours, theirs = await make_streams(kind)
    stream = MemoryStream(ours) if kind == "memory" else ours
    return await open_with_peer(nursery, role, (stream, theirs), **options)


class Stuck:
    """A stream with a large message under way, of which the transport takes no more."""

    def __init__(self, nursery: trio.Nursery, ws: WebSocketStream, peer: RawPeer) -> None:
        self.nursery = nursery
        self.ws = ws
        self.peer = peer

    def resume(self) -> None:
        """Let the transport go on; of a socket the peer has to read."""
        if isinstance(self.ws.transport_stream, MemoryStream):
            self.ws.transport_stream.resume()

    async def end(self) -> list[Frame]:
        """Let everything out, and more; the frames that came behind the large message."""
        self.resume()
        answered = await begin(self.nursery, self.peer.answer_close)
        assert self.ws.is_open
        await self.ws.send("still open")
        await self.ws.send_close()
        large, *frames, last, _ = await answered.result()
        assert large == Frame(BINARY, FILLER)
        assert last == Frame(TEXT, b"still open")
        return frames


async def open_stuck(nursery: trio.Nursery, role: Role, kind: str) -> Stuck:
    ws, peer = await open_over(kind, nursery, role)
    if isinstance(ws.transport_stream, MemoryStream):
        ws.transport_stream.stall(receive=False)
    await ws.send(FILLER)
    await trio.testing.wait_all_tasks_blocked()
    return Stuck(nursery, ws, peer)


async def call_in_cancelled_scope(function: Callable[[], Awaitable[object]]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await function()
    assert scope.cancelled_caught


# Any call


@pytest.mark.parametrize("name", [*METHODS, "wait_closed"])
@ROLES
async def test_a_call_in_a_scope_that_is_cancelled_already_has_no_effect(
    role: Role, name: str, nursery: trio.Nursery
) -> None:
    """Though it need not wait."""
    method = METHODS.get(name, WebSocketStream.wait_closed)
    ws, peer = await open_with_peer(nursery, role)
    await peer.send(Frame(TEXT, b"hello"))
    await trio.testing.wait_all_tasks_blocked()
    await call_in_cancelled_scope(partial(method, ws))
    assert ws.is_open
    assert await ws.receive() == "hello"
    await ws.send("whole")
    await ws.send_close()
    assert await peer.answer_close() == [Frame(TEXT, b"whole"), close_frame(1000)]


# send, send_some, pong


@pytest.mark.parametrize("name", ["send", "send_some"])
@KINDS
@ROLES
async def test_a_send_that_is_cancelled_while_it_waits_for_room_sends_nothing(
    kind: str, role: Role, name: str, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    before = await begin(nursery, stuck.ws.send, "before")
    call = await begin(nursery, METHODS[name], stuck.ws)
    after = await begin(nursery, stuck.ws.send, "after")
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    assert stuck.ws.statistics().tasks_waiting_send == 2
    assert await stuck.end() == [Frame(TEXT, b"before"), Frame(TEXT, b"after")]
    await before.result()
    await after.result()


@KINDS
@ROLES
async def test_a_pong_that_is_cancelled_while_it_waits_for_room_is_not_sent(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    committed = 0
    while (call := await begin(nursery, stuck.ws.pong, b"%0125d" % committed)).is_over:
        committed += 1
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    assert await stuck.end() == [Frame(PONG, b"%0125d" % number) for number in range(committed)]


@ROLES
async def test_a_part_that_is_cancelled_while_it_waits_can_be_sent_again(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role, max_outbox_size=1)
    await ws.send_some("ä".encode()[:1], fin=False, text=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.send_some("ä".encode()[1:], fin=True)
    await ws.send_some("ä".encode()[1:], fin=True)
    assert [await peer.receive(), await peer.receive()] == [
        Frame(TEXT, "ä".encode()[:1], fin=False),
        Frame(CONTINUATION, "ä".encode()[1:]),
    ]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["send", "send_some"])
@ROLES
async def test_a_send_that_is_cancelled_while_another_tasks_message_is_open_sends_nothing(
    role: Role, name: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await ws.send_some("first", fin=False)
    call = await begin(nursery, METHODS[name], ws)
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    await ws.send_some(" and last", fin=True)
    await ws.send_close()
    assert await peer.answer_close() == [
        Frame(TEXT, b"first", fin=False),
        Frame(CONTINUATION, b" and last"),
        close_frame(1000),
    ]


@pytest.mark.parametrize("name", ["send", "send_some"])
@ROLES
async def test_a_send_that_was_committed_while_it_waited_is_not_cancelled_any_more(
    role: Role, name: str, nursery: trio.Nursery
) -> None:
    """Its turn comes and it is cancelled in one and the same step."""
    stuck = await open_stuck(nursery, role, "memory")
    call = await begin(nursery, METHODS[name], stuck.ws)
    stuck.ws.configure(max_outbox_size=1 << 30)
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.is_over
    assert not call.was_cancelled
    stuck.resume()
    assert await stuck.peer.receive() == Frame(BINARY, FILLER)
    assert await stuck.peer.receive() == Frame(TEXT, b"x", fin=name == "send")
    nursery.cancel_scope.cancel()


@KINDS
@ROLES
async def test_what_send_has_returned_for_goes_out_whole_whatever_is_cancelled_then(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_over(kind, nursery, role)
    with trio.CancelScope() as scope:
        await ws.send(FILLER)
        scope.cancel()
        await ws.send("cancelled")
    await ws.send_close()
    assert await peer.answer_close() == [Frame(BINARY, FILLER), close_frame(1000)]


# receive, receive_some, iteration


@pytest.mark.parametrize("name", ["receive", "receive_some", "iteration"])
@KINDS
@ROLES
async def test_a_receive_that_is_cancelled_loses_no_message(
    kind: str, role: Role, name: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_over(kind, nursery, role)
    calls = [await begin(nursery, METHODS[name], ws) for _ in range(3)]
    calls[0].cancel()
    calls[2].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert [call.was_cancelled for call in calls] == [True, False, True]
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    assert await calls[1].result() in ("one", ("one", True))
    assert await ws.receive() == "two"
    await peer.stream.aclose()


@pytest.mark.parametrize("name", ["receive", "receive_some", "iteration"])
@ROLES
async def test_a_receive_that_is_cancelled_in_the_step_in_which_its_message_comes_loses_nothing(
    role: Role, name: str, nursery: trio.Nursery
) -> None:
    def cancel(opcode: Opcode, payload: bytes) -> None:
        for call in calls:
            call.cancel()

    ws, peer = await open_with_peer(nursery, role, control_callback=cancel)
    calls = [await begin(nursery, METHODS[name], ws) for _ in range(2)]
    first, second = calls
    await peer.send(Frame(TEXT, b"one"), Frame(PONG, b""), Frame(TEXT, b"two"))
    await trio.testing.wait_all_tasks_blocked()
    assert await first.result() in ("one", ("one", True))
    assert second.was_cancelled
    assert await ws.receive() == "two"
    await peer.stream.aclose()


async def test_a_cancelled_receive_some_leaves_the_message_in_one_piece(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.CLIENT)
    await peer.send(Frame(TEXT, b"abc", fin=False))
    assert await ws.receive_some(2) == ("ab", False)
    assert await ws.receive_some() == ("c", False)
    call = await begin(nursery, ws.receive_some)
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    await peer.send(Frame(CONTINUATION, b"def"))
    assert await ws.receive_some() == ("def", True)
    await peer.stream.aclose()


# ping, flush, send_close


@ROLES
async def test_the_pong_of_a_ping_that_was_cancelled_is_ignored(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    cancelled = await begin(nursery, ws.ping, b"cancelled")
    cancelled.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert cancelled.was_cancelled
    pending = await begin(nursery, ws.ping, b"pending")
    await peer.send(Frame(PONG, b"cancelled"))
    await trio.testing.wait_all_tasks_blocked()
    assert not pending.is_over
    assert ws.latency is None
    await peer.send(Frame(PONG, b"pending"))
    await pending.result()
    assert [await peer.receive(), await peer.receive()] == [
        Frame(PING, b"cancelled"),
        Frame(PING, b"pending"),
    ]
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_a_ping_that_is_cancelled_while_it_waits_for_room_is_not_sent(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    committed = 0
    while (pong := await begin(nursery, pong_125, stuck.ws)).is_over:
        committed += 1
    pong.cancel()
    ping = await begin(nursery, stuck.ws.ping)
    assert stuck.ws.statistics().tasks_waiting_send == 1
    ping.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert ping.was_cancelled
    assert await stuck.end() == [Frame(PONG, bytes(125))] * committed


@KINDS
@ROLES
async def test_what_was_committed_goes_out_though_the_flush_was_cancelled(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    flush = await begin(nursery, stuck.ws.flush)
    flush.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert flush.was_cancelled
    assert await stuck.end() == []


# aclose: terminal


async def check_only_closing_succeeds(ws: WebSocketStream) -> None:
    for method in METHODS.values():
        with pytest.raises(trio.ClosedResourceError):
            await method(ws)
    with pytest.raises(trio.ClosedResourceError):
        ws.send_nowait("x")
    with pytest.raises(trio.ClosedResourceError):
        ws.receive_nowait()
    await ws.aclose()
    await ws.wait_closed()
    assert not ws.is_open
    assert is_closed(ws.transport_stream)


@KINDS
@ROLES
async def test_aclose_in_a_cancelled_scope_closes_the_transport_in_that_very_step(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_over(kind, nursery, role)
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await ws.aclose(4000, "bye")
        finally:
            assert is_closed(ws.transport_stream)
    assert scope.cancelled_caught
    frames = await peer.receive_all()
    assert frames == ([close_frame(4000, "bye")] if kind != "memory" else [])
    assert ws.close_reason == CloseReason(1006, "")
    await check_only_closing_succeeds(ws)
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_aclose_that_is_cancelled_while_it_waits_closes_the_transport_and_frees_all_tasks(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_over(kind, nursery, role)
    sent = await begin(nursery, ws.send_close)
    await sent.result()
    receiver = await begin(nursery, ws.receive)
    waiting = await begin(nursery, ws.wait_closed)
    others = [await begin(nursery, ws.aclose) for _ in range(2)]
    with pytest.raises(trio.ClosedResourceError):
        await receiver.result()
    with trio.CancelScope() as scope:
        nursery.start_soon(cancel_when_all_wait, scope)
        try:
            await ws.aclose()
        finally:
            assert is_closed(ws.transport_stream)
    assert scope.cancelled_caught
    for call in (*others, waiting):
        await call.result()
        assert not call.was_cancelled
    assert await peer.receive_all() == [close_frame(1000)]
    await check_only_closing_succeeds(ws)
    await peer.stream.aclose()


async def cancel_when_all_wait(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@KINDS
@ROLES
async def test_aclose_is_cancelled_while_the_transport_takes_nothing(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    call = await begin(nursery, stuck.ws.aclose)
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    assert is_closed(stuck.ws.transport_stream)
    await stuck.peer.stream.aclose()


@pytest.mark.parametrize("role", list(Role))
async def test_aclose_that_is_cancelled_when_both_have_closed_keeps_the_reason(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_over("socket", nursery, role)
    await peer.send(Frame(TEXT, b"last"), close_frame(1000, "bye"))
    call = await begin(nursery, ws.aclose)
    assert not call.is_over
    call.cancel()
    await ws.wait_closed()
    assert is_closed(ws.transport_stream)
    assert ws.close_reason == CloseReason(1000, "bye")
    await peer.stream.aclose()


async def test_a_cancelled_aclose_of_a_closed_stream_is_harmless(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.aclose()
    await call_in_cancelled_scope(client.aclose)
    await server.aclose()
    assert server.close_reason == CloseReason(1000, "")


# The stream's nursery: terminal


@KINDS
@ROLES
async def test_when_the_nursery_is_cancelled_the_transport_is_closed_and_a_socket_says_1001(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    """On memory the peer sees 1006: there is no way to write without waiting."""
    async with trio.open_nursery() as stream_nursery:
        ws, peer = await open_over(kind, stream_nursery, role)
        await peer.send(Frame(TEXT, b"unread"))
        await trio.testing.wait_all_tasks_blocked()
        stream_nursery.cancel_scope.cancel()
    assert is_closed(ws.transport_stream)
    assert await peer.receive_all() == ([close_frame(1001)] if kind != "memory" else [])
    assert ws.close_reason == CloseReason(1006, "")
    await check_only_closing_succeeds(ws)
    await peer.stream.aclose()


@KINDS
@ROLES
async def test_pending_calls_end_when_the_nursery_is_cancelled(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as stream_nursery:
        stuck = await open_stuck(stream_nursery, role, kind)
        ws = stuck.ws
        while (pong := await begin(nursery, pong_125, ws)).is_over:
            pass
        others = [await begin(nursery, method, ws) for method in NEVER_READY.values()]
        pending = [pong, *others]
        waiting = await begin(nursery, ws.wait_closed)
        assert not any(call.is_over for call in pending)
        stream_nursery.cancel_scope.cancel()
    for call in pending:
        with pytest.raises(trio.ClosedResourceError):
            await call.result()
    await waiting.result()
    await stuck.peer.stream.aclose()


@KINDS
@ROLES
async def test_pending_calls_end_when_another_task_closes(
    kind: str, role: Role, nursery: trio.Nursery
) -> None:
    stuck = await open_stuck(nursery, role, kind)
    ws = stuck.ws
    while (pong := await begin(nursery, pong_125, ws)).is_over:
        pass
    others = [await begin(nursery, method, ws) for method in NEVER_READY.values()]
    pending = [pong, *others]
    closing = await begin(nursery, ws.aclose)
    for call in pending:
        with pytest.raises(trio.ClosedResourceError):
            await call.result()
    assert not closing.is_over
    stuck.resume()
    await stuck.peer.answer_close()
    await closing.result()


@ROLES
@pytest.mark.parametrize("by", ["nursery", "aclose"])
async def test_terminal_cancellation_writes_all_that_is_committed_if_the_kernel_has_room(
    by: str, role: Role
) -> None:
    """And the Close. All but the first message were to leave in the next tick."""
    for _ in range(10):  # The order of tasks within a tick is random.
        async with trio.open_nursery() as nursery:
            ws, peer = await open_over("socket", nursery, role, max_outbox_size=1 << 20)
            for _ in range(5):
                ws.send_nowait(bytes(30_000))
            if by == "nursery":
                nursery.cancel_scope.cancel()
            else:
                await call_in_cancelled_scope(partial(ws.aclose, 1001))
        assert await peer.receive_all() == [Frame(BINARY, bytes(30_000))] * 5 + [close_frame(1001)]
        await peer.stream.aclose()


@ROLES
async def test_the_goodbye_ends_an_open_message(role: Role, nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as stream_nursery:
        ws, peer = await open_over("socket", stream_nursery, role)
        await ws.send_some("begun", fin=False)
        stream_nursery.cancel_scope.cancel()
    assert await peer.receive_all() == [Frame(TEXT, b"begun", fin=False), close_frame(1001)]
    await peer.stream.aclose()


@ROLES
@pytest.mark.parametrize("state", ["close sent", "both closed", "failed", "inbox full"])
@KINDS
async def test_the_nursery_can_be_cancelled_in_every_state(
    kind: str, role: Role, state: str, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as stream_nursery:
        ws, peer = await open_over(kind, stream_nursery, role, max_inbox_size=100)
        if state == "close sent":
            await ws.send_close(4000)
        elif state == "both closed":
            await peer.send(close_frame(4000))
        elif state == "failed":
            await peer.send(Frame(0x3, b""))
        else:
            await peer.send(*[Frame(TEXT, b"unread")] * 100)
        await trio.testing.wait_all_tasks_blocked()
        stream_nursery.cancel_scope.cancel()
    assert is_closed(ws.transport_stream)
    frames = await peer.receive_all()
    codes = [int.from_bytes(frame.payload[:2], "big") for frame in frames]
    if state == "inbox full":
        assert codes == ([1001] if kind != "memory" else [])
    else:
        assert codes == [1002 if state == "failed" else 4000]
    await ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ws.receive()
    await peer.stream.aclose()


async def test_a_stream_in_a_nursery_that_is_cancelled_already_is_closed(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as stream_nursery:
        ws, peer = await open_over("socket", stream_nursery, Role.CLIENT)
        stream_nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await ws.aclose(4000)
            assert is_closed(ws.transport_stream)
    assert await peer.receive_all() == [close_frame(4000)]
    await peer.stream.aclose()


# wait_closed


async def test_wait_closed_that_is_cancelled_leaves_the_stream_open(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    waiting = await begin(nursery, client.wait_closed)
    waiting.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.was_cancelled
    await server.send("hello")
    assert await client.receive() == "hello"
    await client.aclose()


# Ctrl-C: a real signal, which Trio gives to the main task


@trio.lowlevel.enable_ki_protection
async def interrupt_when_all_wait() -> None:
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", ["memory", "socket"])
@pytest.mark.parametrize("name", ["send", "receive", "receive_some", "iteration", "ping", "flush"])
def test_ctrl_c_in_a_call_is_total_like_any_other_cancellation(kind: str, name: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            stuck = await open_stuck(nursery, Role.CLIENT, kind)
            nursery.start_soon(interrupt_when_all_wait)
            with pytest.raises(KeyboardInterrupt):
                await METHODS[name](stuck.ws)
            assert stuck.ws.statistics().tasks_waiting_send == 0
            assert stuck.ws.statistics().tasks_waiting_receive == 0
            await stuck.peer.send(Frame(TEXT, b"hello"))
            assert await stuck.ws.receive() == "hello"
            pings = [frame for frame in await stuck.end() if frame.opcode is PING]
            assert len(pings) == (1 if name == "ping" else 0)

    trio.run(main)


@pytest.mark.parametrize("kind", ["memory", "socket"])
def test_ctrl_c_in_aclose_is_terminal(kind: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            ws, peer = await open_over(kind, nursery, Role.CLIENT)
            nursery.start_soon(interrupt_when_all_wait)
            with pytest.raises(KeyboardInterrupt):
                await ws.aclose(4000)
            assert is_closed(ws.transport_stream)
            assert await peer.receive_all() == [close_frame(4000)]
            await check_only_closing_succeeds(ws)
            await peer.stream.aclose()

    trio.run(main)


def test_ctrl_c_that_comes_in_a_step_of_ours_waits_for_its_end() -> None:
    """No commit is torn: the signal comes in the reader, in the middle of what it hands over."""

    def interrupt(opcode: Opcode, payload: bytes) -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            ws, peer = await open_with_peer(nursery, Role.CLIENT, control_callback=interrupt)
            await peer.send(Frame(TEXT, b"one"), Frame(PING, b"!"), Frame(TEXT, b"two"))
            with pytest.raises(KeyboardInterrupt):
                await trio.sleep_forever()
            assert [await ws.receive(), await ws.receive()] == ["one", "two"]
            assert await peer.receive() == Frame(PONG, b"!")
            ws.configure(control_callback=None)
            await ws.send_close()
            await peer.answer_close()

    trio.run(main)
