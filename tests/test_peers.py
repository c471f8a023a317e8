"""The README's comparison: each of its rows is a test, which does the same with every library.

At the other end, of a Unix socket pair, is a server of trio_ws each time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import pytest
import trio
import trio.testing
import trio_websocket
import websockets.trio.client
from background import begin
from transports import open_streams

import trio_ws
from trio_ws.testing import NO_TIMEOUTS, FaultyStream


class Client(NamedTuple):
    """A client, whatever library it is of."""

    connection: object
    send: Callable[[str], Awaitable[None]]
    receive: Callable[[], Awaitable[str | bytes]]


Connect = Callable[[trio.Nursery, trio.abc.Stream], Awaitable[Client]]


async def connect_trio_ws(nursery: trio.Nursery, stream: trio.abc.Stream) -> Client:
    ws = await trio_ws.wrap_client_stream(
        nursery, stream, host="test", compression=trio_ws.PermessageDeflate()
    )
    return Client(ws, ws.send, ws.receive)


async def connect_trio_websocket(nursery: trio.Nursery, stream: trio.abc.Stream) -> Client:
    assert isinstance(stream, trio.SocketStream)
    connection = await trio_websocket.wrap_client_stream(nursery, stream, "test", "/")
    return Client(connection, connection.send_message, connection.get_message)


async def connect_websockets(nursery: trio.Nursery, stream: trio.abc.Stream) -> Client:
    connect = websockets.trio.client.connect("ws://test/", stream=stream)
    connection = await connect.connect(nursery)
    return Client(connection, connection.send, connection.recv)


def each(*, trio_ws: bool, trio_websocket: bool, websockets: bool) -> pytest.MarkDecorator:
    """What the row says of each library."""
    return pytest.mark.parametrize(
        ("connect", "says_yes"),
        [
            pytest.param(connect_trio_ws, trio_ws, id="trio_ws"),
            pytest.param(connect_trio_websocket, trio_websocket, id="trio-websocket"),
            pytest.param(connect_websockets, websockets, id="websockets"),
        ],
    )


class Meeting(NamedTuple):
    """A client of some library and a server, and the server's end of the transport."""

    client: Client
    server: trio_ws.WebSocketStream
    transport: FaultyStream


async def meet(
    nursery: trio.Nursery, connect: Connect, compression: trio_ws.PermessageDeflate | None = None
) -> Meeting:
    client_stream, server_stream = await open_streams("socket", nursery)
    transport = FaultyStream(server_stream)
    client = await begin(nursery, connect, nursery, client_stream)
    server = await trio_ws.wrap_server_stream(
        nursery, transport, timeouts=NO_TIMEOUTS, compression=compression
    )
    return Meeting(await client.result(), server, transport)


@each(trio_ws=True, trio_websocket=False, websockets=False)
async def test_after_a_cancelled_send_the_connection_is_as_good_as_before(
    connect: Connect, says_yes: bool, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    client, server, _ = await meet(nursery, connect)
    sent: list[str | bytes] = []
    sending = trio.CancelScope()
    while not sending.cancelled_caught:
        with trio.move_on_after(1) as sending:
            message = str(len(sent)).ljust(1_000_000)
            await client.send(message)
            sent.append(message)
    received: list[str | bytes] = []

    async def receive_all() -> None:
        with suppress(trio_ws.ConnectionClosed):
            while True:
                received.append(await server.receive())

    nursery.start_soon(receive_all)
    await client.send("the next")
    await trio.testing.wait_all_tasks_blocked()
    # Half a frame may swallow the next or make the server fail the connection: the masks decide.
    assert (server.is_open and received == [*sent, "the next"]) is says_yes


@each(trio_ws=True, trio_websocket=True, websockets=False)
async def test_a_second_task_may_wait_to_receive(
    connect: Connect, says_yes: bool, nursery: trio.Nursery
) -> None:
    client, server, _ = await meet(nursery, connect)
    first = await begin(nursery, client.receive)
    second = await begin(nursery, client.receive)
    assert second.is_over is not says_yes
    await server.send("one")
    assert await first.result() == "one"


@each(trio_ws=True, trio_websocket=False, websockets=True)
async def test_a_peer_that_is_silent_for_ten_minutes_is_given_up_by_default(
    connect: Connect, says_yes: bool, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    client, _, transport = await meet(nursery, connect)
    transport.stall()
    receiving = await begin(nursery, client.receive)
    await trio.sleep(600)
    assert receiving.is_over is says_yes


@each(trio_ws=True, trio_websocket=False, websockets=False)
async def test_it_is_a_trio_channel(
    connect: Connect, says_yes: bool, nursery: trio.Nursery
) -> None:
    client, _, _ = await meet(nursery, connect)
    assert isinstance(client.connection, trio.abc.Channel) is says_yes


@each(trio_ws=True, trio_websocket=False, websockets=True)
async def test_it_can_compress(connect: Connect, says_yes: bool, nursery: trio.Nursery) -> None:
    client, server, _ = await meet(nursery, connect, trio_ws.PermessageDeflate())
    assert (server.compression is not None) is says_yes
    await client.send("the same again, " * 1000)
    assert await server.receive() == "the same again, " * 1000
    assert (server.statistics().bytes_received < 1000) is says_yes
