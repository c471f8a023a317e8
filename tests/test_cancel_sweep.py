"""Cancellation at every point there is: the table of promises, row by row, over each transport.

Total around a call: it had no effect, and the stream is as good as before. So it is too while the
peer closes, when the same calls may end with the connection, and timeouts are running.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
from sweeping import (
    ROLES_AND_KINDS,
    Book,
    Contexts,
    is_closed,
    make_streams,
    nothing_left,
    open_subject,
    record,
    until_closed,
)

from trio_ws import Timeouts
from trio_ws._protocol import Role
from trio_ws._ticker import current_ticker
from trio_ws.testing import CancelProbe, cancel_every_step, set_budget

TIMEOUTS: Final = Timeouts(handshake=10, idle=20)


@pytest.fixture
def contexts(client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext) -> Contexts:
    return client_ssl_context, server_ssl_context


def threshold(kind: str) -> float:
    """The clock must not jump while bytes are on their way, which TCP alone takes time for."""
    return 1.0 if kind == "tcp" else 0.0


# The calls, as scenarios have them: each notes what has returned


async def send(book: Book) -> None:
    await book.send_many("c", 3)


async def send_some(book: Book) -> None:
    """A message in parts; the parts that have been sent are noted, so that it can go on."""
    parts = ["c", "0", book.padding]
    while book.parts_sent < 3:
        number = book.parts_sent
        await book.ws.send_some(parts[number], fin=number == 2)
        book.parts_sent += 1


async def receive(book: Book) -> None:
    for _ in range(2):
        await book.receive()


async def receive_some(book: Book) -> None:
    for _ in range(3):
        await book.receive_part(2)


async def iterate(book: Book) -> None:
    count = 0
    async for message in book.ws:
        book.note(message)
        count += 1
        if count == 2:
            break


async def ping(book: Book) -> None:
    for payload in (b"c0", b"c1"):
        assert await book.ws.ping(payload) >= 0
        assert payload in book.controls


async def pong(book: Book) -> None:
    for number in range(3):
        payload = b"pong %d" % number
        book.pongs[payload] = False
        await book.ws.pong(payload)
        book.pongs[payload] = True


async def flush(book: Book) -> None:
    await book.send("c0")
    await book.ws.flush()
    assert book.ws.statistics().bytes_sent > 0


CALLS = {
    "send": send,
    "send_some": send_some,
    "receive": receive,
    "receive_some": receive_some,
    "iterate": iterate,
    "ping": ping,
    "pong": pong,
    "flush": flush,
}


async def finish_parts(book: Book) -> None:
    """End the message of which the cancelled call has sent a part."""
    if 0 < book.parts_sent < 3:
        await send_some(book)
    if book.parts_sent == 3:
        book.note_sent("c0")


def is_helped(call: Callable[[Book], Awaitable[None]]) -> bool:
    """Whether others receive: a pong behind messages that nobody takes is not seen."""
    return call in (send, ping, pong, flush)


async def total(
    call: Callable[[Book], Awaitable[None]],
    role: Role,
    kind: str,
    contexts: Contexts,
    probe: CancelProbe,
) -> None:
    """One call is cancelled; afterwards all goes on as if it had not been made."""
    book = Book()
    helped = is_helped(call)
    set_budget(1)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            streams = await make_streams(kind, contexts)
            await open_subject(role, kind, streams, nursery, nursery, book)
            nursery.start_soon(book.peer_receives)
            async with trio.open_nursery() as traffic:
                traffic.start_soon(book.peer_sends, 4)
                if helped:
                    traffic.start_soon(book.receive_rest, 4)
                traffic.start_soon(book.send_many, "a", 2)
                traffic.start_soon(book.send_many, "b", 2)
                traffic.start_soon(book.ws.ping)
                traffic.start_soon(book.peer.ping)
                with probe.scope:
                    await call(book)
                await finish_parts(book)
                assert book.ws.is_open
                await book.receive_rest(0 if helped else 4)
            await book.check_round_trip()
            await book.send("z0")
            await book.ws.flush()
            await book.peer.ping()
            book.check_idle()
            await book.ws.aclose()
            await book.peer.aclose()
        for stream in book.streams:
            assert await is_closed(stream)
    book.check_sent()
    book.check_received()
    book.check_pongs()


@pytest.mark.parametrize(("role", "kind"), ROLES_AND_KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cancelled_anywhere_has_no_effect(
    call: str, role: Role, kind: str, contexts: Contexts
) -> None:
    scenario = functools.partial(total, CALLS[call], role, kind, contexts)
    result = record(
        f"{call} {role.value} {kind}",
        lambda: cancel_every_step(scenario, autojump_threshold=threshold(kind)),
    )
    assert result.effective > 1


@pytest.mark.parametrize(("role", "kind"), [(Role.CLIENT, "lockstep"), (Role.SERVER, "socket")])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cancelled_between_any_two_steps_of_others_has_no_effect(
    call: str, role: Role, kind: str, contexts: Contexts
) -> None:
    scenario = functools.partial(total, CALLS[call], role, kind, contexts)
    result = record(
        f"{call} {role.value} {kind} every task",
        lambda: cancel_every_step(scenario, every_task=True),
    )
    assert result.effective > 1


async def receive_until_closed(book: Book) -> None:
    async def receive_for_ever() -> None:
        while True:
            await book.receive()

    await until_closed(receive_for_ever)


async def send_and_close(book: Book) -> None:
    """The peer closes, and still receives what was committed before its Close is answered."""
    await book.peer_sends(3)
    await book.peer.send_close(1000, "bye")


async def while_closing(
    call: Callable[[Book], Awaitable[None]],
    role: Role,
    kind: str,
    contexts: Contexts,
    probe: CancelProbe,
) -> None:
    """One call is cancelled, or ended by the peer's Close, before which nothing is lost."""
    book = Book()
    set_budget(1)
    with nothing_left():
        async with trio.open_nursery() as nursery:
            streams = await make_streams(kind, contexts)
            await open_subject(role, kind, streams, nursery, nursery, book, TIMEOUTS)
            assert current_ticker().pending_deadlines > 0
            nursery.start_soon(book.peer_receives)
            async with trio.open_nursery() as traffic:
                traffic.start_soon(send_and_close, book)
                for others_call in (
                    functools.partial(book.send_many, "a", 2),
                    functools.partial(book.send_many, "b", 2),
                    book.ws.ping,
                    book.peer.ping,
                ):
                    traffic.start_soon(until_closed, others_call)
                if is_helped(call):
                    traffic.start_soon(receive_until_closed, book)
                with probe.scope:
                    await until_closed(functools.partial(call, book))
                await until_closed(functools.partial(finish_parts, book))
                if not is_helped(call):
                    await receive_until_closed(book)
            assert not book.ws.is_open
            book.check_idle()
            await book.ws.aclose()
            await book.peer.wait_closed()
        for stream in book.streams:
            assert await is_closed(stream)
    assert TIMEOUTS.handshake_seconds > trio.current_time(), "a deadline has run out"
    assert book.ws.close_reason == (1000, "bye")
    assert book.peer.close_reason == (1000, "")
    book.check_sent()
    book.check_received()
    book.check_pongs()


@pytest.mark.parametrize(
    ("role", "kind", "every_task"),
    [
        (Role.CLIENT, "lockstep", True),
        (Role.SERVER, "socket", True),
        (Role.SERVER, "tls", False),
    ],
    ids=["client-lockstep", "server-socket", "server-tls"],
)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cancelled_while_the_peer_closes_leaves_no_timer_and_loses_nothing(
    call: str, role: Role, kind: str, every_task: bool, contexts: Contexts
) -> None:
    scenario = functools.partial(while_closing, CALLS[call], role, kind, contexts)
    result = record(
        f"{call} {role.value} {kind} closing",
        lambda: cancel_every_step(scenario, every_task=every_task),
    )
    assert result.effective > 1
