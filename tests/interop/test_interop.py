"""trio_ws with other WebSocket libraries, in processes of their own, over real sockets.

Every test runs with each peer, as client and as server, over TCP and over TLS, unless it says
otherwise:

===================  ========================================  ===================================
peer                 is                                        can not
===================  ========================================  ===================================
websockets_asyncio   ``websockets`` on asyncio                 send an empty Close
websockets_trio      ``websockets`` on Trio                    send an empty Close
trio_websocket       ``trio-websocket``, on wsproto            send fragments
aiohttp              ``aiohttp``                               send fragments, send an empty Close
picows               ``picows``, in Cython, on aiofastnet
ws                   Node's ``ws``
===================  ========================================  ===================================

All are as they come, options included: some offer permessage-deflate, and are told no; with it on,
and with Chromium, there are test_compression.py and test_chromium.py. What each test promises is
its name; the run ends with a table of them, in reStructuredText.
"""

from __future__ import annotations

import dataclasses
import logging

import pytest
import trio

import trio_ws

from .conftest import PEERS
from .meeting import Meeting, exchange_many

FRAGMENTING = [name for name in PEERS if name not in ("trio_websocket", "aiohttp")]
CLOSING_WITHOUT_A_CODE = ["trio_websocket", "picows", "ws"]

TEXT = "Zwölf Boxkämpfer jagen Виктор quer über den 大きな Sylter Deich \U0001f94a\n\0"
BINARY = bytes(range(256))
REASON = "das wär's \U0001f44b"
MIB = 1024 * 1024


def answer_to(code: int, peer_name: str) -> int:
    """The code with which the peer answers our Close: its own, but for aiohttp's."""
    return 1000 if peer_name == "aiohttp" else code


async def echo(ws: trio_ws.WebSocketStream) -> None:
    """A handler that sends back what it receives."""
    async for message in ws:
        await ws.send(message)


async def test_text_arrives_as_sent(meet: Meeting) -> None:
    ws, peer = await meet()
    await ws.send(TEXT)
    assert await peer.message() == TEXT
    await peer.send(TEXT)
    assert await ws.receive() == TEXT


async def test_binary_arrives_as_sent(meet: Meeting) -> None:
    ws, peer = await meet()
    await ws.send(BINARY)
    assert await peer.message() == BINARY
    await peer.send(BINARY)
    assert await ws.receive() == BINARY


@pytest.mark.parametrize("empty", ["", b""])
async def test_an_empty_message_arrives(meet: Meeting, empty: str | bytes) -> None:
    ws, peer = await meet()
    await ws.send(empty)
    assert await peer.message() == empty
    await peer.send(empty)
    assert await ws.receive() == empty


@pytest.mark.parametrize("message", ["é" * (MIB // 2), BINARY * (MIB // 256)], ids=["text", "bin"])
async def test_a_message_of_1_mib_arrives(meet: Meeting, message: str | bytes) -> None:
    ws, peer = await meet()
    await ws.send(message)
    assert await peer.message() == message
    await peer.send(message)
    assert await ws.receive() == message


async def test_a_large_message_may_be_received_in_parts(meet: Meeting) -> None:
    ws, peer = await meet()
    await peer.send("é" * (MIB // 4))
    whole, fin = "", False
    while not fin:
        part, fin = await ws.receive_some(1001)
        assert isinstance(part, str)
        assert len(part) <= 500
        whole += part
    assert whole == "é" * (MIB // 4)


async def test_our_fragments_make_one_message(meet: Meeting) -> None:
    ws, peer = await meet()
    data = TEXT.encode()
    split = data.index("大".encode()) + 1
    await ws.send_some(data[:split], fin=False, text=True)
    await ws.send_some(b"", fin=False)
    await ws.send_some(data[split:], fin=True)
    assert await peer.message() == TEXT
    await ws.send_some(BINARY, fin=False)
    await ws.send_some(BINARY, fin=False)
    await ws.send_some(b"", fin=True)
    assert await peer.message() == BINARY * 2


async def test_our_automatic_fragments_make_one_message(meet: Meeting) -> None:
    ws, peer = await meet(max_frame_size=7)
    await ws.send(TEXT)
    assert await peer.message() == TEXT
    await ws.send(BINARY)
    assert await peer.message() == BINARY


@pytest.mark.parametrize("peer_name", FRAGMENTING)
async def test_the_peers_fragments_make_one_message(meet: Meeting) -> None:
    ws, peer = await meet()
    await peer.send_fragments([TEXT[:10], "", TEXT[10:], TEXT])
    assert await ws.receive() == TEXT * 2
    await peer.send_fragments([BINARY, b"", BINARY])
    assert await ws.receive() == BINARY * 2


async def test_our_ping_is_answered(meet: Meeting) -> None:
    ws, _ = await meet()
    assert await ws.ping() > 0
    assert await ws.ping(b"") > 0
    assert await ws.ping(BINARY[:125]) > 0


async def test_our_ping_and_pong_may_stand_between_fragments(meet: Meeting) -> None:
    ws, peer = await meet()
    await ws.send_some(TEXT, fin=False)
    assert await ws.ping(b"in between") > 0
    await ws.pong(b"nobody asked")
    await ws.send_some(TEXT, fin=True)
    assert await peer.message() == TEXT * 2


async def test_the_peers_ping_is_answered(meet: Meeting) -> None:
    seen = []
    ws, peer = await meet(control_callback=lambda opcode, payload: seen.append((opcode, payload)))
    for payload in (b"ping", BINARY[:125]):
        await peer.ping(payload)
        assert await peer.pong() == payload
    assert seen == [(trio_ws.Opcode.PING, b"ping"), (trio_ws.Opcode.PING, BINARY[:125])]
    assert ws.is_open


async def test_many_messages_in_flight_arrive_in_order(meet: Meeting) -> None:
    ws, peer = await meet()
    messages = [f"{number}:" + "x" * (number * number % 9973) for number in range(400)]
    await exchange_many(ws, peer, messages)


async def test_a_subprotocol_is_agreed_on(meet: Meeting) -> None:
    offered, known = ["chat.v3", "chat.v2", "chat.v1"], ["chat.v2", "other"]
    if meet.role == "client":
        ws, peer = await meet({"subprotocols": known}, subprotocols=offered)
    else:
        ws, peer = await meet({"subprotocols": offered}, subprotocols=known)
    assert ws.subprotocol == "chat.v2"
    assert peer.subprotocol == "chat.v2"


async def test_without_subprotocols_there_is_none(meet: Meeting) -> None:
    ws, peer = await meet()
    assert ws.subprotocol is None
    assert peer.subprotocol is None


async def test_extra_headers_arrive(meet: Meeting) -> None:
    ws, peer = await meet({"headers": {"X-Theirs": "of theirs"}}, headers={"X-Ours": "of ours"})
    received = ws.response if meet.role == "client" else ws.request
    assert received.header("x-theirs") == "of theirs"
    assert peer.headers["x-ours"] == "of ours"
    assert ws.request.target == "/path?query=1"


@pytest.mark.parametrize("role", ["client"])
async def test_we_see_the_peers_refusal(meet: Meeting) -> None:
    url = await meet.peer_listens({"refusal": {"status": 403, "body": "not on a Sunday"}})
    with pytest.raises(trio_ws.HandshakeError, match="403") as caught:
        await trio_ws.connect_websocket(meet.nursery, url, ssl_context=meet.client_context)
    assert caught.value.response is not None
    assert caught.value.response.status == 403
    assert caught.value.response.body == b"not on a Sunday"


@pytest.mark.parametrize("role", ["server"])
async def test_the_peer_sees_our_refusal(meet: Meeting, peer_name: str) -> None:
    async def refuse(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(403, body=f"not {request.target}")

    _, url = await meet.serve(echo, process_request=refuse)
    await meet.peer_connects(url)
    status, body = await meet.peer.refused()
    assert status == 403
    # aiohttp's exception has no body.
    assert body == (None if peer_name == "aiohttp" else "not /path?query=1")


async def test_our_aclose_arrives_with_code_and_reason(meet: Meeting, peer_name: str) -> None:
    ws, peer = await meet()
    await ws.aclose(4001, REASON)
    assert await peer.closed() == (4001, REASON)
    assert ws.close_reason is not None
    assert ws.close_reason.code == answer_to(4001, peer_name)


async def test_after_our_send_close_what_the_peer_has_sent_still_arrives(
    meet: Meeting, peer_name: str
) -> None:
    ws, peer = await meet()
    for number in range(20):
        await peer.send(f"{number}")
    await peer.sync()
    await ws.send_close(4001, REASON)
    assert [await ws.receive() for _ in range(20)] == [f"{number}" for number in range(20)]
    with pytest.raises(trio_ws.ConnectionClosed) as caught:
        await ws.receive()
    assert caught.value.sent == (4001, REASON)
    assert caught.value.received is not None
    assert caught.value.received.code == answer_to(4001, peer_name)
    assert await peer.closed() == (4001, REASON)


async def test_our_empty_close_arrives(meet: Meeting) -> None:
    ws, peer = await meet()
    await ws.aclose(code=None)
    assert await peer.closed() == (1005, "")


async def test_the_peers_close_arrives_with_code_and_reason(meet: Meeting, peer_name: str) -> None:
    ws, peer = await meet()
    await peer.send("last words")
    await peer.close(4002, REASON)
    assert await ws.receive() == "last words"
    with pytest.raises(trio_ws.ConnectionClosedError) as caught:
        await ws.receive()
    assert (caught.value.code, caught.value.reason) == (4002, REASON)
    assert caught.value.received == (4002, REASON)
    with pytest.raises(trio_ws.ConnectionClosedError):
        await ws.send("too late")
    # aiohttp's server does not wait for our answer.
    deaf = peer_name == "aiohttp" and meet.role == "client"
    assert await peer.closed() == (None if deaf else (4002, ""))


async def test_the_peers_close_with_1000_ends_an_iteration(meet: Meeting) -> None:
    ws, peer = await meet()
    await peer.send("one")
    await peer.send("two")
    await peer.close(1000, REASON)
    assert [message async for message in ws] == ["one", "two"]
    assert ws.close_reason == (1000, REASON)


@pytest.mark.parametrize("peer_name", CLOSING_WITHOUT_A_CODE)
async def test_the_peers_empty_close_arrives(meet: Meeting) -> None:
    ws, peer = await meet()
    await peer.close(code=None)
    with pytest.raises(trio_ws.ConnectionClosedOK) as caught:
        await ws.receive()
    assert caught.value.code == 1005
    assert await peer.closed() == (1000, "")


# The server of trio-websocket may then end without a Close.
@pytest.mark.parametrize("peer_name", [name for name in PEERS if name != "trio_websocket"])
async def test_both_may_close_at_once(meet: Meeting, peer_name: str) -> None:
    ws, peer = await meet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.close, 4002, "theirs")
        nursery.start_soon(ws.aclose, 4001, "ours")
    assert ws.close_reason is not None
    assert ws.close_reason.code in {4002, answer_to(4001, peer_name)}
    assert ws.close_reason.reason in {"theirs", "ours", ""}
    await peer.closed()


@pytest.mark.parametrize("role", ["client"])
async def test_leaving_the_block_closes_with_1000(meet: Meeting) -> None:
    url = await meet.peer_listens()
    async with trio_ws.open_websocket(url, ssl_context=meet.client_context) as ws:
        await meet.peer.opened()
        await ws.send(TEXT)
    assert await meet.peer.message() == TEXT
    assert await meet.peer.closed() == (1000, "")


@pytest.mark.parametrize("role", ["client"])
async def test_a_block_that_raises_closes_with_1011(meet: Meeting) -> None:
    url = await meet.peer_listens()
    error = ValueError("in the block")
    with pytest.raises(ValueError, match="in the block") as caught:
        async with trio_ws.open_websocket(url, ssl_context=meet.client_context):
            await meet.peer.opened()
            raise error
    assert caught.value is error
    assert await meet.peer.closed() == (1011, "")


@pytest.mark.parametrize("role", ["server"])
async def test_a_handler_that_returns_closes_with_1000(meet: Meeting) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.send(TEXT)

    _, url = await meet.serve(handler)
    await meet.peer_connects(url)
    assert await meet.peer.message() == TEXT
    assert await meet.peer.closed() == (1000, "")


@pytest.mark.parametrize("role", ["server"])
async def test_a_handler_that_raises_closes_with_1011(
    meet: Meeting, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.send(TEXT)
        raise ValueError("in the handler")

    server, url = await meet.serve(handler)
    await meet.peer_connects(url)
    assert await meet.peer.message() == TEXT
    assert await meet.peer.closed() == (1011, "")
    await server.shutdown()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "in the handler" in str(record.exc_info)


@pytest.mark.parametrize("role", ["server"])
async def test_a_shutdown_of_our_server_closes_with_1001(meet: Meeting) -> None:
    server, url = await meet.serve(echo)
    await meet.peer_connects(url)
    await meet.peer.opened()
    await meet.peer.send(TEXT)
    assert await meet.peer.message() == TEXT
    await server.shutdown(reason=REASON)
    assert await meet.peer.closed() == (1001, REASON)


@pytest.mark.parametrize("role", ["server"])
async def test_cancelling_our_server_closes_with_1001(meet: Meeting) -> None:
    async with trio.open_nursery() as nursery:
        _, url = await dataclasses.replace(meet, nursery=nursery).serve(echo)
        await meet.peer_connects(url)
        await meet.peer.opened()
        nursery.cancel_scope.cancel()
    assert await meet.peer.closed() == (1001, "")


# Over TLS a goodbye could make the cancellation wait, so there is none.
@pytest.mark.parametrize(("role", "transport"), [("client", "tcp")])
async def test_cancelling_our_client_closes_with_1001(meet: Meeting) -> None:
    async with trio.open_nursery() as nursery:
        await dataclasses.replace(meet, nursery=nursery)()
        nursery.cancel_scope.cancel()
    assert await meet.peer.closed() == (1001, "")


async def test_a_message_too_big_for_us_closes_with_1009(meet: Meeting) -> None:
    ws, peer = await meet(max_message_size=1000)
    await peer.send("x" * 1000)
    await peer.send("x" * 1001)
    assert await ws.receive() == "x" * 1000
    with pytest.raises(trio_ws.ConnectionClosedError) as caught:
        await ws.receive()
    assert caught.value.code == 1009
    assert isinstance(caught.value.__cause__, trio_ws.MessageTooBig)
    closed = await peer.closed()
    assert closed is not None
    assert closed.code == 1009


async def test_a_message_too_big_for_the_peer_closes_with_1009(meet: Meeting) -> None:
    ws, peer = await meet({"max_size": 1000})
    await ws.send("x" * 999)
    assert await peer.message() == "x" * 999
    await ws.send("x" * 5000)
    with pytest.raises(trio_ws.ConnectionClosedError) as caught:
        await ws.receive()
    assert caught.value.received is not None
    assert caught.value.received.code == 1009
