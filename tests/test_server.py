"""The server: what it answers, whom it serves, what its handlers may do, and how it ends."""

from __future__ import annotations

import errno
import gc
import logging
import math
import re
import signal
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
import trio.testing
from raw_http import UPGRADE, Answer, exchange, parse_answer, receive_to_eof, request_head
from raw_peer import TEXT, Frame, RawPeer, close_frame, make_streams, reset, tcp_pair
from resolver import AddressInfo, Resolver

import trio_ws
from trio_ws._protocol import Role
from trio_ws.testing import NO_TIMEOUTS, FaultyStream

TEN_SECONDS = trio_ws.Timeouts(handshake=10)
MIB = 1024 * 1024

Handler: TypeAlias = Callable[[trio_ws.WebSocketStream], Awaitable[object]]
Log: TypeAlias = Callable[[int], list[str]]


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Listens for connections within this process.

    :ivar errors: what the next calls of ``accept`` raise.
    """

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.closed = False
        self._dialled, self._accepted = trio.open_memory_channel[trio.abc.Stream](math.inf)

    def dial(self, wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None) -> RawPeer:
        """A client that has connected; *wrap* goes around the server's stream."""
        ours, theirs = trio.testing.memory_stream_pair()
        self._dialled.send_nowait(theirs if wrap is None else wrap(theirs))
        return RawPeer(ours, Role.CLIENT)

    async def open(self) -> RawPeer:
        """A client whose WebSocket is open."""
        peer = self.dial()
        await peer.open_as_client()
        return peer

    async def accept(self) -> trio.abc.Stream:
        if self.errors:
            raise self.errors.pop(0)
        return await self._accepted.receive()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Running:
    """A server that runs in the background.

    :ivar scope: around ``serve_websocket``.
    :ivar ended: set when ``serve_websocket`` has returned.
    """

    server: trio_ws.WebSocketServer

    def __init__(self) -> None:
        self.listener = MemoryListener()
        self.scope = trio.CancelScope()
        self.started = trio.Event()
        self.ended = trio.Event()

    async def run(self, serve: Callable[..., Awaitable[None]]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.server = await nursery.start(serve)
                self.started.set()
        self.ended.set()


async def run_server(
    nursery: trio.Nursery,
    handler: Handler = echo,
    *,
    timeouts: trio_ws.Timeouts = NO_TIMEOUTS,
    process_request: Callable[[trio_ws.Request], Awaitable[trio_ws.Response | None]] | None = None,
) -> Running:
    """Serve on a :class:`MemoryListener`."""
    running = Running()
    serve = partial(
        trio_ws.serve_websocket,
        handler,
        listeners=[running.listener],
        timeouts=timeouts,
        process_request=process_request,
    )
    nursery.start_soon(running.run, serve)
    await running.started.wait()
    return running


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    """The messages at a level."""
    caplog.set_level(logging.DEBUG, "trio_ws")

    def messages(level: int) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == level and record.name == "trio_ws"
        ]

    return messages


def nothing_above_debug(log: Log) -> bool:
    return not any(map(log, (logging.INFO, logging.WARNING, logging.ERROR)))


# Refusals, over real sockets

LONG = "x" * 70_000

REFUSALS = {
    "method": (request_head("POST / HTTP/1.1"), 405, {"allow": "GET"}),
    "old HTTP": (request_head("GET / HTTP/1.0"), 505, {}),
    "no host": (request_head(changes={"Host": None}), 400, {}),
    "two hosts": (request_head(changes={"host": "other"}), 400, {}),
    "no upgrade": (request_head(changes={"Upgrade": None}), 426, {"upgrade": "websocket"}),
    "no connection": (request_head(changes={"Connection": "keep-alive"}), 426, {}),
    "no key": (request_head(changes={"Sec-WebSocket-Key": None}), 400, {}),
    "short key": (request_head(changes={"Sec-WebSocket-Key": "c2hvcnQ="}), 400, {}),
    "version": (
        request_head(changes={"Sec-WebSocket-Version": "8"}),
        426,
        {"sec-websocket-version": "13"},
    ),
    "origin": (request_head(changes={"Origin": "https://elsewhere.example"}), 403, {}),
    "body": (request_head(changes={"Content-Length": "5"}) + b"hello", 400, {}),
    "headers too large": (request_head(changes={"X-Long": LONG}), 431, {}),
    "line too long": (request_head(f"GET /{LONG} HTTP/1.1"), 414, {}),
    "malformed": (b"GET / HTTP/1.1\r\nHost : test\r\n\r\n", 400, {}),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400, {}),
}


@pytest.fixture(params=["tcp", "tls", "unix"])
async def dial(
    request: pytest.FixtureRequest,
    nursery: trio.Nursery,
    client_ssl_context: ssl.SSLContext,
    server_ssl_context: ssl.SSLContext,
    tmp_path: Path,
) -> Callable[[], Awaitable[trio.abc.Stream]]:
    """Connects to a real server."""
    if request.param == "unix":
        path = tmp_path / "socket"
        listeners = [await listen_at(path)]
    else:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    context = server_ssl_context if request.param == "tls" else None
    await nursery.start(
        partial(trio_ws.serve_websocket, echo, listeners=listeners, ssl_context=context)
    )

    async def connect() -> trio.abc.Stream:
        if request.param == "unix":
            return await trio.open_unix_socket(path)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        if request.param == "tcp":
            return stream
        return trio.SSLStream(
            stream, client_ssl_context, server_hostname="localhost", https_compatible=True
        )

    return connect


async def listen_at(path: Path) -> trio.SocketListener:
    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()
    return trio.SocketListener(listening)


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_says_why_and_arrives(
    dial: Callable[[], Awaitable[trio.abc.Stream]], case: str
) -> None:
    request, status, headers = REFUSALS[case]
    answer = await exchange(await dial(), request)
    assert answer.status == status
    assert answer.headers.items() >= headers.items()
    assert "close" in answer.headers["connection"]
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.body.endswith(b".\n")


async def test_the_server_works_on_after_refusals(
    dial: Callable[[], Awaitable[trio.abc.Stream]],
) -> None:
    await exchange(await dial(), b"nonsense\r\n\r\n")
    peer = RawPeer(await dial(), Role.CLIENT)
    async with peer.stream:
        await peer.open_as_client()
        await peer.send(Frame(TEXT, b"hello"), close_frame(1000))
        assert await peer.receive_all() == [Frame(TEXT, b"hello"), close_frame(1000)]


@pytest.mark.parametrize("page", ["short", "x" * MIB])
async def test_an_answer_arrives_though_the_client_goes_on_sending(
    nursery: trio.Nursery, page: str
) -> None:
    async def process(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(413, body=page)

    ours, theirs = await tcp_pair()
    result: list[Answer] = []

    async def upload() -> None:
        head = request_head("POST / HTTP/1.1", {"Content-Length": str(4 * MIB)})
        async with ours, trio.open_nursery() as both:
            both.start_soon(ours.send_all, head + bytes(4 * MIB))
            result.append(parse_answer(await receive_to_eof(ours)))

    nursery.start_soon(upload)
    with pytest.raises(trio_ws.HandshakeError):
        await trio_ws.wrap_server_stream(nursery, theirs, process_request=process)
    assert theirs.socket.fileno() == -1
    await trio.testing.wait_all_tasks_blocked()
    assert result[0].status == 413
    assert result[0].body == page.encode()


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("http://localhost:3000", "'http://localhost:3000'"),
        ("http://" + "x" * 1000, "'http://" + "x" * 192),
    ],
)
async def test_a_refused_origin_is_a_warning_that_says_how_to_allow_it(
    nursery: trio.Nursery, log: Log, origin: str, shown: str
) -> None:
    running = await run_server(nursery)
    request = request_head(changes={"Origin": origin})
    assert (await exchange(running.listener.dial().stream, request)).status == 403
    assert log(logging.WARNING) == [
        f"a client: web pages from {shown} may not connect to 'test': "
        f"allow it with origins=[{shown}]"
    ]


async def test_another_403_is_no_warning(nursery: trio.Nursery, log: Log) -> None:
    async def process(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(403)

    running = await run_server(nursery, process_request=process)
    foreign = request_head(changes={"Origin": "http://localhost:3000"})
    assert (await exchange(running.listener.dial().stream, foreign)).status == 403
    await trio.testing.wait_all_tasks_blocked()
    assert log(logging.WARNING) == []
    assert len(log(logging.INFO)) == 1


async def serve_tls(nursery: trio.Nursery, context: ssl.SSLContext) -> int:
    """The port of a server that speaks TLS."""
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(trio_ws.serve_websocket, echo, 0, host="127.0.0.1", ssl_context=context)
    )
    return server.port


async def test_a_server_without_a_certificate_is_a_warning(
    nursery: trio.Nursery, client_ssl_context: ssl.SSLContext, log: Log
) -> None:
    port = await serve_tls(nursery, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(OSError):
        async with trio_ws.open_websocket(
            f"wss://127.0.0.1:{port}/", ssl_context=client_ssl_context
        ):
            pass
    (message,) = log(logging.WARNING)
    assert re.search(r"TLS failed: .*no shared cipher.*: has ssl_context loaded a cert", message)


async def test_tls_that_fails_is_in_the_log(nursery: trio.Nursery, log: Log) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.minimum_version = ssl.TLSVersion.TLSv1_3
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    port = await serve_tls(nursery, ours)
    with pytest.raises(OSError):
        async with trio_ws.open_websocket(f"wss://127.0.0.1:{port}/", ssl_context=theirs):
            pass
    await trio.testing.wait_all_tasks_blocked()
    (message,) = log(logging.INFO)
    assert re.search(r"TLS failed: .*unsupported protocol", message)
    assert log(logging.WARNING) == []


@pytest.mark.parametrize("compatible", [True, False])
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02"])
async def test_a_client_that_goes_away_during_tls_is_no_news(
    nursery: trio.Nursery,
    server_ssl_context: ssl.SSLContext,
    log: Log,
    hello: bytes,
    compatible: bool,
) -> None:
    def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
        return trio.SSLStream(
            stream, server_ssl_context, server_side=True, https_compatible=compatible
        )

    running = await run_server(nursery)
    client = running.listener.dial(wrap).stream
    if hello:
        await client.send_all(hello)
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert nothing_above_debug(log)
    assert len(log(logging.DEBUG)) == 1


# process_request


async def answer_to(
    nursery: trio.Nursery,
    request: bytes,
    process: Callable[[trio_ws.Request], Awaitable[trio_ws.Response | None]],
) -> Answer:
    running = await run_server(nursery, process_request=process)
    return await exchange(running.listener.dial().stream, request)


@pytest.mark.parametrize(
    "line", ["GET /health HTTP/1.1", "GET /health HTTP/1.0", "HEAD /health HTTP/1.1"]
)
async def test_process_request_answers_what_is_no_websocket(
    nursery: trio.Nursery, line: str
) -> None:
    seen = []

    async def process(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        seen.append(f"{request.method} {request.target} HTTP/{request.http_version}")
        return trio_ws.Response(200, {"Content-Type": "text/html"}, "<p>fine</p>")

    plain = {name: None for name in UPGRADE if name != "Host"}
    answer = await answer_to(nursery, request_head(line, plain), process)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-length"] == "11"
    assert answer.body == (b"" if line.startswith("HEAD") else b"<p>fine</p>")
    assert seen == [line]


async def test_process_request_that_returns_none_leaves_the_rules_in_force(
    nursery: trio.Nursery,
) -> None:
    async def process(request: trio_ws.Request) -> None:
        await trio.lowlevel.checkpoint()

    assert (await answer_to(nursery, request_head("POST / HTTP/1.1"), process)).status == 405


async def test_process_request_adds_headers_and_chooses_the_subprotocol(
    nursery: trio.Nursery,
) -> None:
    async def process(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(101, [("Set-Cookie", "a=b"), ("Sec-WebSocket-Protocol", "v2")])

    subprotocols = []

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await trio.lowlevel.checkpoint()
        subprotocols.append(ws.subprotocol)

    running = await run_server(nursery, handler, process_request=process)
    peer = running.listener.dial()
    await peer.stream.send_all(request_head(changes={"Sec-WebSocket-Protocol": "v1, v2"}))
    answer = parse_answer(await peer.receive_head() + b"\r\n")
    assert answer.status == 101
    assert answer.headers["set-cookie"] == "a=b"
    assert answer.headers["sec-websocket-protocol"] == "v2"
    assert await peer.receive() == close_frame(1000)
    assert subprotocols == ["v2"]


async def fail(request: trio_ws.Request) -> trio_ws.Response:
    await trio.lowlevel.checkpoint()
    raise KeyError("secret detail")


async def answer_by_text(request: trio_ws.Request) -> Any:
    await trio.lowlevel.checkpoint()
    return "fine\n"


async def answer_illegally(request: trio_ws.Request) -> trio_ws.Response:
    await trio.lowlevel.checkpoint()
    return trio_ws.Response(101, {"Upgrade": "something else"})


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (fail, "secret detail"),
        (answer_illegally, "Upgrade can not be among the headers"),
        (answer_by_text, r"must return a Response or None, not str: such as Response\(200, body="),
    ],
)
async def test_process_request_that_fails_is_a_500_and_in_the_log(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    process: Callable[[trio_ws.Request], Awaitable[trio_ws.Response]],
    reason: str,
) -> None:
    answer = await answer_to(nursery, request_head(), process)
    assert answer.status == 500
    assert b"secret" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "trio_ws"
    assert record.exc_info is not None
    assert re.search(reason, str(record.exc_info[1]))


async def test_process_request_has_the_deadline_of_the_handshake(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def process(request: trio_ws.Request) -> None:
        await trio.sleep_forever()

    running = await run_server(nursery, process_request=process, timeouts=TEN_SECONDS)
    peer = running.listener.dial()
    await peer.stream.send_all(request_head())
    assert await receive_to_eof(peer.stream) == b""
    assert trio.current_time() == 10


# wrap_server_stream


async def test_wrapping_a_stream(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    peer = RawPeer(theirs, Role.CLIENT)
    await peer.stream.send_all(
        request_head("GET /chat HTTP/1.1", {"Sec-WebSocket-Protocol": "v1, v2"})
    )
    await peer.send(Frame(TEXT, b"first"))
    with trio.testing.assert_checkpoints():
        ws = await trio_ws.wrap_server_stream(
            nursery, ours, subprotocols=["v2"], headers={"X-Served-By": "me"}, max_frame_size=10
        )
    assert ws.transport_stream is ours
    assert ws.subprotocol == "v2"
    assert ws.options.max_frame_size == 10
    assert ws.request.target == "/chat"
    assert ws.response.header("X-Served-By") == "me"
    assert await ws.receive() == "first"
    head = await peer.receive_head()
    assert b"X-Served-By: me\r\n" in head
    nursery.start_soon(ws.aclose)
    assert await peer.receive() == close_frame(1000)
    await peer.send(close_frame(1000))
    assert await peer.receive() is None
    await peer.stream.aclose()


async def test_a_request_that_another_server_has_read(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    peer = RawPeer(theirs, Role.CLIENT)
    request = trio_ws.Request("GET", "/", {**{k: v for k, v in UPGRADE.items() if v}})
    assert trio_ws.is_upgrade(request)
    first = peer.encode(Frame(TEXT, b"first"))
    ws = await trio_ws.wrap_server_stream(nursery, ours, request=request, buffered=first)
    assert ws.request is request
    assert await ws.receive() == "first"
    assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
    nursery.cancel_scope.cancel()


async def test_the_start_of_a_request_that_was_read_already(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    request = request_head()
    await theirs.send_all(request[40:])
    ws = await trio_ws.wrap_server_stream(nursery, ours, buffered=request[:40])
    assert ws.request.target == "/"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"origins": ["example.org/path"]}, ValueError),
        ({"headers": {"Upgrade": "x"}}, ValueError),
        ({"headers": {"X-Trace": "a\r\nb"}}, ValueError),
        ({"max_inbox_size": 0}, ValueError),
        ({"subprotocols": "chat"}, TypeError),
        ({"colour": "red"}, TypeError),
    ],
)
async def test_a_wrapped_stream_is_closed_whatever_fails(
    nursery: trio.Nursery, options: dict[str, object], error: type[Exception]
) -> None:
    ours, theirs = await make_streams("memory")
    wrap: Callable[..., Awaitable[object]] = trio_ws.wrap_server_stream
    with pytest.raises(error):
        await wrap(nursery, ours, **options)
    assert await theirs.receive_some() == b""


async def test_a_wrapped_stream_is_closed_when_refused(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head(changes={"Upgrade": None}))
    assert isinstance(theirs, trio.abc.HalfCloseableStream)
    await theirs.send_eof()
    with pytest.raises(trio_ws.HandshakeError, match="Upgrade") as caught:
        await trio_ws.wrap_server_stream(nursery, ours)
    assert caught.value.response is not None
    assert caught.value.response.status == 426
    answer = parse_answer(await receive_to_eof(theirs))
    assert answer.status == 426


async def test_a_wrapped_stream_is_closed_when_cancelled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await make_streams("memory")
    with trio.move_on_after(5) as scope:
        await trio_ws.wrap_server_stream(nursery, ours)
    assert scope.cancelled_caught
    assert trio.current_time() == scope.deadline
    assert await theirs.receive_some() == b""


async def test_a_wrapped_stream_is_closed_when_the_nursery_is(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as closed:
        pass
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head())
    with pytest.raises(RuntimeError, match="closed"):
        await trio_ws.wrap_server_stream(closed, ours)
    assert (await receive_to_eof(theirs)).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: te"])
async def test_a_client_that_goes_away_before_its_request(
    nursery: trio.Nursery, sent: bytes
) -> None:
    ours, theirs = await make_streams("memory")
    if sent:
        await theirs.send_all(sent)
    await theirs.aclose()
    with pytest.raises(trio_ws.HandshakeError, match="closed the connection") as caught:
        await trio_ws.wrap_server_stream(nursery, ours)
    assert caught.value.response is None


async def test_a_client_that_goes_away_before_the_101(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head())
    await theirs.aclose()
    with pytest.raises(trio_ws.HandshakeError, match="went away") as caught:
        await trio_ws.wrap_server_stream(nursery, ours)
    assert caught.value.response is None


async def test_a_client_that_resets_after_its_refusal(nursery: trio.Nursery) -> None:
    async def be_refused() -> None:
        await theirs.send_all(request_head("POST / HTTP/1.1"))
        assert parse_answer(await receive_to_eof(theirs)).status == 405
        await reset(theirs)

    ours, theirs = await tcp_pair()
    nursery.start_soon(be_refused)
    with pytest.raises(trio_ws.HandshakeError, match="405"):
        await trio_ws.wrap_server_stream(nursery, ours)


async def test_the_size_of_the_request_is_limited(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head(changes={"X-Long": "x" * 1000}))
    await theirs.aclose()
    with pytest.raises(trio_ws.HandshakeError, match="431"):
        await trio_ws.wrap_server_stream(nursery, ours, max_handshake_size=1000)


async def test_a_client_that_goes_away_before_its_refusal(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head("POST / HTTP/1.1"))
    await theirs.aclose()
    with pytest.raises(trio_ws.HandshakeError, match="405"):
        await trio_ws.wrap_server_stream(nursery, ours)


@pytest.mark.parametrize("chunk", [b"", b"x"])
async def test_the_deadline_cuts_off_a_client_that_dribbles(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, chunk: bytes
) -> None:
    async def dribble() -> None:
        with suppress(trio.BrokenResourceError):
            await theirs.send_all(b"GET / HTTP/1.1\r\nX-Slow: ")
            while chunk:
                await trio.sleep(1)
                await theirs.send_all(chunk)

    ours, theirs = await make_streams("memory")
    nursery.start_soon(dribble)
    start = trio.current_time()
    with pytest.raises(trio_ws.HandshakeTimeout):
        await trio_ws.wrap_server_stream(nursery, ours, timeouts=TEN_SECONDS)
    assert trio.current_time() - start == 10
    assert await theirs.receive_some() == b""


async def test_the_deadline_ends_the_wait_for_a_refused_client_to_close(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head("POST / HTTP/1.1"))
    with pytest.raises(trio_ws.HandshakeError, match="405") as caught:
        await trio_ws.wrap_server_stream(nursery, ours, timeouts=TEN_SECONDS)
    assert not isinstance(caught.value, trio_ws.HandshakeTimeout)
    assert trio.current_time() == 10
    assert parse_answer(await receive_to_eof(theirs)).status == 405


class NotHalfCloseable(trio.abc.Stream):
    """A stream that can only be closed as a whole."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_a_stream_that_can_not_half_close_is_closed_after_a_second(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await make_streams("memory")
    await theirs.send_all(request_head("POST / HTTP/1.1"))
    with pytest.raises(trio_ws.HandshakeError, match="405"):
        await trio_ws.wrap_server_stream(nursery, NotHalfCloseable(ours))
    assert trio.current_time() == 1
    assert parse_answer(await receive_to_eof(theirs)).status == 405


# Listening


async def start(
    nursery: trio.Nursery,
    port: int | None = None,
    *,
    host: str | None = None,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> trio_ws.WebSocketServer:
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(
            trio_ws.serve_websocket,
            echo,
            port,
            host=host,
            listeners=listeners,
            ssl_context=ssl_context,
        )
    )
    return server


async def test_the_port_that_the_system_chose(nursery: trio.Nursery) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    (listener,) = server.listeners
    assert isinstance(listener, trio.SocketListener)
    assert server.port == listener.socket.getsockname()[1]
    async with trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_the_port_that_the_system_chose_is_the_same_for_all_addresses(
    nursery: trio.Nursery,
) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2", "127.0.0.3"))
    server = await start(nursery, 0, host="test")
    assert len(server.listeners) == 3
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        async with await trio.open_tcp_stream(address, server.port):
            pass


class Occupier(Resolver):
    """Whenever a port other than 0 is asked for, it is taken, at one address of the two."""

    def __init__(self, times: int) -> None:
        super().__init__("127.0.0.1", "127.0.0.2")
        self.times = times
        self.sockets: list[socket.socket] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        if port != 0 and len(self.sockets) < self.times:
            assert isinstance(port, int)
            # By chance it is taken already: by an earlier one of these, for one.
            with suppress(OSError):
                self.sockets.append(socket.create_server(("127.0.0.2", port)))
        return await super().getaddrinfo(host, port, family, type, proto, flags)

    def close(self) -> None:
        for each in self.sockets:
            each.close()


async def test_a_port_that_is_taken_at_one_address_is_not_chosen(nursery: trio.Nursery) -> None:
    with closing(Occupier(2)) as resolver:
        trio.socket.set_custom_hostname_resolver(resolver)
        server = await start(nursery, 0, host="test")
    taken = resolver.ports[1::2][:2]
    assert resolver.ports == [0, taken[0], 0, taken[1], 0, server.port]


async def test_not_every_port_there_is_is_tried() -> None:
    with closing(Occupier(100)) as resolver:
        trio.socket.set_custom_hostname_resolver(resolver)
        with pytest.raises(OSError) as caught:
            await trio_ws.serve_websocket(echo, 0, host="test")
    assert caught.value.errno == errno.EADDRINUSE
    assert len(resolver.ports[1::2]) == 20


async def test_the_port_below_tls(
    nursery: trio.Nursery, server_ssl_context: ssl.SSLContext
) -> None:
    server = await start(nursery, 0, host="127.0.0.1", ssl_context=server_ssl_context)
    (listener,) = server.listeners
    assert isinstance(listener, trio.SocketListener)
    assert server.port == listener.socket.getsockname()[1]


async def test_a_port_is_an_int() -> None:
    serve: Callable[..., Awaitable[None]] = trio_ws.serve_websocket
    with pytest.raises(TypeError, match="port='8000': give an int, such as 8000"):
        await serve(echo, "8000")


async def test_a_server_needs_a_stream_and_closes_a_socket(nursery: trio.Nursery) -> None:
    wrap: Callable[..., Awaitable[object]] = trio_ws.wrap_server_stream
    with socket.socket() as plain:
        with pytest.raises(TypeError, match=r"a trio.abc.Stream, not socket: .*SocketStream"):
            await wrap(nursery, plain)
        assert plain.fileno() == -1


async def test_the_port_of_a_listener_that_speaks_tls_itself(
    nursery: trio.Nursery, server_ssl_context: ssl.SSLContext
) -> None:
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = await start(nursery, listeners=[trio.SSLListener(below, server_ssl_context)])
    port = below.socket.getsockname()[1]
    assert server.port == port
    assert repr(server) == f"<WebSocketServer on 127.0.0.1 port {port}: 0 connections>"


@pytest.mark.parametrize(
    ("ssl_context", "error", "message"),
    [
        (True, TypeError, "must be an ssl.SSLContext, not True: make it by .*CLIENT_AUTH"),
        (ssl.create_default_context(), ValueError, "not be used by a server: .*CLIENT_AUTH"),
    ],
)
async def test_a_context_that_is_not_for_servers_is_refused_before_a_client_comes(
    ssl_context: ssl.SSLContext, error: type[Exception], message: str
) -> None:
    listener = MemoryListener()
    with pytest.raises(error, match=message):
        await trio_ws.serve_websocket(echo, listeners=[listener], ssl_context=ssl_context)
    assert listener.closed


class ChangingContext(ssl.SSLContext):
    """Good for one use."""

    uses = 0

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self.uses += 1
        if self.uses > 1:
            raise RuntimeError("this context has changed")
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


async def test_tls_that_can_not_begin_is_one_clients_failure(
    nursery: trio.Nursery, log: Log
) -> None:
    context = ChangingContext(ssl.PROTOCOL_TLS_SERVER)
    server = await start(nursery, 0, host="127.0.0.1", ssl_context=context)
    for _ in range(2):
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as client:
            assert await client.receive_some() == b""
    messages = log(logging.ERROR)
    assert [message.partition(": ")[2] for message in messages] == ["the connection failed"] * 2


async def test_the_port_is_known_after_the_end(nursery: trio.Nursery) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    port = server.port
    await server.shutdown()
    assert server.port == port


async def test_several_ports_are_not_one(nursery: trio.Nursery) -> None:
    listeners = [
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
    ]
    server = await start(nursery, listeners=listeners)
    assert server.listeners == tuple(listeners)
    with pytest.raises(RuntimeError, match="several ports"):
        _ = server.port


async def test_a_unix_socket_has_no_port(nursery: trio.Nursery, tmp_path: Path) -> None:
    server = await start(nursery, listeners=[await listen_at(tmp_path / "socket")])
    with pytest.raises(RuntimeError, match="does not listen on a TCP port"):
        _ = server.port


async def test_a_listener_of_another_kind_has_no_port(nursery: trio.Nursery) -> None:
    running = await run_server(nursery)
    with pytest.raises(RuntimeError, match="does not listen on a TCP port"):
        _ = running.server.port


async def test_the_repr_of_a_server_has_its_addresses_and_connections(
    nursery: trio.Nursery, server_ssl_context: ssl.SSLContext
) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2"))
    server = await start(nursery, 0, host="test")
    addresses = f"127.0.0.1 port {server.port}, 127.0.0.2 port {server.port}"
    assert repr(server) == f"<WebSocketServer on {addresses}: 0 connections>"
    async with trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}") as ws:
        await ws.send("hello")
        await ws.receive()
        assert repr(server) == f"<WebSocketServer on {addresses}: 1 connection>"
    await server.shutdown()
    assert repr(server) == f"<WebSocketServer on {addresses}: 0 connections>"
    secure = await start(nursery, 0, host="127.0.0.1", ssl_context=server_ssl_context)
    assert f"127.0.0.1 port {secure.port}:" in repr(secure)


async def test_the_repr_of_a_server_without_tcp(nursery: trio.Nursery, tmp_path: Path) -> None:
    server = await start(nursery, listeners=[await listen_at(tmp_path / "socket")])
    assert repr(server) == f"<WebSocketServer on {tmp_path / 'socket'}: 0 connections>"
    running = await run_server(nursery)
    assert repr(running.server) == "<WebSocketServer on MemoryListener: 0 connections>"


async def test_a_port_that_is_taken_is_an_oserror(nursery: trio.Nursery) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    with pytest.raises(OSError) as caught:
        await trio_ws.serve_websocket(echo, server.port, host="127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"port": 0, "listeners": []}, ValueError),
        ({"listeners": [], "host": "localhost"}, ValueError),
        ({"port": 0, "max_message_size": 0}, ValueError),
        ({"port": 65536}, ValueError),
        ({"port": 0, "subprotocols": ["a b"]}, ValueError),
        ({"port": 0, "headers": {"Connection": "close"}}, ValueError),
        ({"port": 0, "colour": "red"}, TypeError),
    ],
)
async def test_what_is_not_legal_is_found_at_the_start(
    options: dict[str, object], error: type[Exception]
) -> None:
    serve: Callable[..., Awaitable[None]] = trio_ws.serve_websocket
    with pytest.raises(error):
        await serve(echo, **options)


class CallableObject:
    async def __call__(self, argument: object) -> None:
        pass

    async def method(self, argument: object) -> None:
        pass

    def sync(self, argument: object) -> None:
        pass


async def async_function(argument: object) -> None:
    pass


async def async_generator(argument: object) -> AsyncIterator[None]:  # noqa: ASYNC900 (a mistake)
    await trio.lowlevel.checkpoint()
    yield


@wraps(async_function)
def wrapper(argument: object) -> Awaitable[None]:
    return async_function(argument)


def sync_function(argument: object) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (sync_function, "must be an async function: write async def sync_function"),
        (CallableObject().sync, "must be an async function: write async def sync"),
        (async_generator, "must be an async function: there must be no yield in it"),
        (None, "must be an async function, not None"),
        ("echo", "must be an async function, not 'echo'"),
    ],
)
async def test_a_handler_that_is_not_async_is_found_at_the_start(
    function: Handler, message: str
) -> None:
    with pytest.raises(TypeError, match=f"^handler {message}"):
        await trio_ws.serve_websocket(function, 0)


async def test_a_handler_that_was_called_is_found_at_the_start() -> None:
    serve: Callable[..., Awaitable[None]] = trio_ws.serve_websocket
    with closing(async_function(None)) as coroutine, pytest.raises(TypeError, match="without call"):
        await serve(coroutine, 0)


async def test_a_process_request_that_is_not_async_is_found_at_the_start(
    nursery: trio.Nursery,
) -> None:
    serve: Callable[..., Awaitable[None]] = trio_ws.serve_websocket
    wrap: Callable[..., Awaitable[object]] = trio_ws.wrap_server_stream
    message = "^process_request must be an async function: write async def sync_function"
    with pytest.raises(TypeError, match=message):
        await serve(echo, 0, process_request=sync_function)
    _, stream = trio.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=message):
        await wrap(nursery, stream, process_request=sync_function)


@pytest.mark.parametrize(
    "function",
    [
        async_function,
        wrapper,
        CallableObject(),
        CallableObject().method,
        partial(async_function),
        lambda argument: async_function(argument),
    ],
)
async def test_whatever_returns_an_awaitable_is_async(
    nursery: trio.Nursery, log: Log, function: Callable[[object], Awaitable[None]]
) -> None:
    running = await run_server(nursery, function, process_request=function)
    peer = await running.listener.open()
    assert await peer.receive() == close_frame(1000)
    await peer.stream.aclose()
    await running.server.shutdown()
    assert nothing_above_debug(log)


async def test_a_call_that_turns_out_not_to_be_async_is_in_the_log(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    serve: Callable[..., Awaitable[Running]] = run_server
    running = await serve(nursery, partial(sync_function))
    peer = await running.listener.open()
    assert await peer.receive() == close_frame(1011)
    await peer.stream.aclose()
    running = await serve(nursery, process_request=partial(sync_function))
    answer = await exchange(running.listener.dial().stream, request_head())
    assert answer.status == 500
    errors = [record.exc_info for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    for error in errors:
        assert error is not None
        assert "must be an async function: it returned NoneType" in str(error[1])


async def test_listeners_are_closed_whatever_fails() -> None:
    listener = MemoryListener()
    with pytest.raises(ValueError):
        await trio_ws.serve_websocket(echo, listeners=[listener], max_inbox_size=0)
    assert listener.closed


async def test_listeners_are_closed_when_cancelled(nursery: trio.Nursery) -> None:
    running = await run_server(nursery)
    running.scope.cancel()
    await running.ended.wait()
    assert running.listener.closed


async def test_headers_may_come_from_an_iterator(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    headers = iter([("X-Served-By", "me")])
    await nursery.start(
        partial(trio_ws.serve_websocket, echo, listeners=[listener], headers=headers)
    )
    for _ in range(2):
        peer = listener.dial()
        await peer.stream.send_all(request_head())
        assert b"X-Served-By: me\r\n" in await peer.receive_head()
        await peer.stream.aclose()


async def test_too_many_open_files_are_waited_out(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    listener = MemoryListener()
    listener.errors += [OSError(errno.EMFILE, "Too many open files")] * 3
    await nursery.start(partial(trio_ws.serve_websocket, echo, listeners=[listener]))
    peer = await listener.open()
    assert listener.errors == []
    assert trio.current_time() == pytest.approx(0.3)
    assert len(log(logging.ERROR)) == 3
    await peer.stream.aclose()


async def test_a_listener_that_fails_ends_the_server_with_its_error_in_no_group() -> None:
    listener = MemoryListener()
    error = OSError(errno.EINVAL, "Invalid argument")
    listener.errors.append(error)
    with pytest.raises(OSError) as caught:
        await trio_ws.serve_websocket(echo, listeners=[listener])
    assert caught.value is error
    assert listener.closed


# The log


async def test_a_connection_is_in_the_log_by_its_address(nursery: trio.Nursery, log: Log) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    host, port = stream.socket.getsockname()
    ws = await trio_ws.wrap_client_stream(nursery, stream, host="test")
    await ws.aclose()
    await server.shutdown()
    opened, closed = log(logging.DEBUG)
    assert opened == f"{host} port {port}: opened"
    assert closed.startswith(f"{host} port {port}: closed: ")
    assert nothing_above_debug(log)


async def test_a_client_that_does_not_speak_tls_is_debug(
    nursery: trio.Nursery, log: Log, server_ssl_context: ssl.SSLContext
) -> None:
    server = await start(nursery, 0, host="127.0.0.1", ssl_context=server_ssl_context)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    host, port = stream.socket.getsockname()
    async with stream:
        await stream.send_all(request_head())
        await receive_to_eof(stream)
    await server.shutdown()
    (line,) = log(logging.DEBUG)
    assert line.startswith(f"{host} port {port}: no WebSocket was opened: TLS failed: ")
    assert "http request" in line
    assert nothing_above_debug(log)


async def test_a_probe_of_the_port_is_debug(nursery: trio.Nursery, log: Log) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    for leave in (trio.aclose_forcefully, reset):
        await leave(await trio.open_tcp_stream("127.0.0.1", server.port))
    await server.shutdown()
    assert len(log(logging.DEBUG)) == 2
    assert nothing_above_debug(log)


async def test_a_client_that_resets_in_its_request_is_debug(
    nursery: trio.Nursery, log: Log
) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(b"GET / HTTP/1.1\r\n")
    await reset(stream)
    await server.shutdown()
    assert len(log(logging.DEBUG)) == 1
    assert nothing_above_debug(log)


async def test_a_refusal_is_info_and_a_page_is_debug(nursery: trio.Nursery, log: Log) -> None:
    async def process(request: trio_ws.Request) -> trio_ws.Response | None:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(200) if request.target == "/page" else None

    running = await run_server(nursery, process_request=process)
    await exchange(running.listener.dial().stream, request_head("GET /page HTTP/1.1"))
    await exchange(running.listener.dial().stream, request_head("POST / HTTP/1.1"))
    await running.server.shutdown()
    (page,) = log(logging.DEBUG)
    (refusal,) = log(logging.INFO)
    assert "200 OK" in page
    assert "405 Method Not Allowed: The method must be GET." in refusal


async def test_a_stream_that_fails_in_its_own_way_is_an_error_of_its_connection_only(
    nursery: trio.Nursery, log: Log
) -> None:
    def broken(stream: trio.abc.Stream) -> trio.abc.Stream:
        faulty = FaultyStream(stream)
        faulty.fail_after(0, RuntimeError("the stream's own trouble"))
        return faulty

    running = await run_server(nursery)
    peer = running.listener.dial(broken)
    assert await receive_to_eof(peer.stream) == b""
    await (await running.listener.open()).stream.aclose()
    (line,) = log(logging.ERROR)
    assert line == "a client: the connection failed"


# Handlers


async def test_the_streams_whose_handlers_run(nursery: trio.Nursery) -> None:
    running = await run_server(nursery)
    assert running.server.connections == frozenset()
    peers = [await running.listener.open() for _ in range(3)]
    for peer in peers:
        await peer.send(Frame(TEXT, b"hello"))
        await peer.receive()
    streams = running.server.connections
    assert len(streams) == 3
    assert trio_ws.broadcast(streams, "to all") == []
    for peer in peers:
        assert await peer.receive() == Frame(TEXT, b"to all")
        await peer.send(close_frame(1000))
        assert await peer.receive_all() == [close_frame(1000)]
        await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert running.server.connections == frozenset()
    assert len(streams) == 3
    assert not running.server._handshakes


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed is freed because nobody holds it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_stream_that_has_ended_is_no_garbage_that_has_to_be_found(
    nursery: trio.Nursery,
) -> None:
    streams: list[weakref.ref[trio_ws.WebSocketStream]] = []

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        streams.append(weakref.ref(ws))
        await echo(ws)

    server = await nursery.start(trio_ws.serve_websocket, handler, 0)
    async with trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    streams.append(weakref.ref(ws))
    del ws
    await trio.testing.wait_all_tasks_blocked()
    assert [stream() for stream in streams] == [None, None]


async def test_a_handler_that_returns_closes_with_1000(nursery: trio.Nursery, log: Log) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.send("only this")

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    assert await peer.receive() == Frame(TEXT, b"only this")
    assert await peer.receive() == close_frame(1000)
    await peer.send(close_frame(1000))
    assert await peer.receive() is None
    assert nothing_above_debug(log)


async def test_a_stream_that_another_task_closes_ends_its_handler_in_order(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    running = await run_server(nursery, echo)
    peer = await running.listener.open()
    (ws,) = running.server.connections
    nursery.start_soon(ws.aclose, 1013)
    assert await peer.receive() == close_frame(1013)
    await peer.send(close_frame(1013))
    assert await peer.receive() is None
    await peer.stream.aclose()
    await running.server.shutdown()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("error", [ValueError("mine"), ExceptionGroup("", [ValueError("mine")])])
async def test_a_handler_that_raises_is_logged_and_disturbs_nobody(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        async for message in ws:
            if message == "fail":
                raise error
            await ws.send(message)

    running = await run_server(nursery, handler)
    bystander = await running.listener.open()
    peer = await running.listener.open()
    await peer.send(Frame(TEXT, b"fail"))
    assert await peer.receive() == close_frame(1011)
    await peer.send(close_frame(1011))
    assert await peer.receive() is None
    await peer.stream.aclose()
    await bystander.send(Frame(TEXT, b"still here"))
    assert await bystander.receive() == Frame(TEXT, b"still here")
    await bystander.stream.aclose()
    await running.server.shutdown()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "trio_ws"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_what_a_handler_raises_is_in_the_log_before_the_connection_is_closed(
    nursery: trio.Nursery, log: Log
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("mine")

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await trio.testing.wait_all_tasks_blocked()
    assert len(running.server.connections) == 1
    assert log(logging.ERROR) == ["a client: the handler raised"]
    assert await peer.receive() == close_frame(1011)
    await peer.stream.aclose()


async def test_something_else_that_is_closed_is_an_error(nursery: trio.Nursery, log: Log) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        closed, _ = trio.testing.memory_stream_pair()
        await closed.aclose()
        await closed.receive_some()

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    assert await peer.receive() == close_frame(1011)
    await peer.stream.aclose()
    await running.server.shutdown()
    assert log(logging.ERROR) == ["a client: the handler raised"]


async def use_a_closed_channel() -> None:
    channel, _ = trio.open_memory_channel[str](1)
    channel.close()
    await channel.send("hello")


async def use_closed_channels_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use_a_closed_channel)
        nursery.start_soon(use_a_closed_channel)


async def use_another_stream_that_is_closed() -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = await trio_ws.testing.websocket_pair(nursery)
        nursery.start_soon(theirs.aclose)
        await ours.aclose()
    await ours.receive()


@pytest.mark.parametrize(
    "fail",
    [use_a_closed_channel, use_closed_channels_in_a_nursery, use_another_stream_that_is_closed],
)
async def test_something_else_that_is_closed_is_an_error_after_the_end_of_the_stream_too(
    nursery: trio.Nursery, log: Log, fail: Callable[[], Awaitable[None]]
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.wait_closed()
        await fail()

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await peer.send(close_frame(1000))
    assert await peer.receive_all() == [close_frame(1000)]
    await running.server.shutdown()
    assert log(logging.ERROR) == ["a client: the handler raised"]


async def test_that_another_task_has_closed_the_stream_is_no_error(
    nursery: trio.Nursery, log: Log
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        nursery.start_soon(ws.aclose)
        await ws.receive()

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    assert await peer.receive() == close_frame(1000)
    await peer.stream.aclose()
    await running.server.shutdown()
    assert nothing_above_debug(log)


async def receive_twice(ws: trio_ws.WebSocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ws.receive)
        nursery.start_soon(ws.receive)


async def receive_in_vain(ws: trio_ws.WebSocketStream) -> None:
    await ws.receive()


@pytest.mark.parametrize("handler", [receive_in_vain, receive_twice])
@pytest.mark.parametrize("code", [1000, 4000])
async def test_the_end_of_its_own_stream_is_how_a_handler_ends(
    nursery: trio.Nursery, log: Log, handler: Handler, code: int
) -> None:
    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await peer.send(close_frame(code))
    assert await peer.receive_all() == [close_frame(code)]
    await peer.stream.aclose()
    await running.server.shutdown()
    assert nothing_above_debug(log)


async def test_what_a_handler_sent_leaves_though_its_stream_has_ended(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """In its time, and not in the second that a handler which failed has."""

    def keep(stream: trio.abc.Stream) -> trio.abc.Stream:
        kept.append(FaultyStream(stream))
        return kept[0]

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        kept[0].stall(receive=False)
        await ws.send("the last word")
        await ws.receive()

    kept: list[FaultyStream] = []
    running = await run_server(nursery, handler, timeouts=TEN_SECONDS)
    peer = running.listener.dial(keep)
    await peer.open_as_client()
    await peer.send(close_frame(1000))
    await trio.sleep(8)
    kept[0].resume()
    assert await peer.receive_all() == [Frame(TEXT, b"the last word"), close_frame(1000)]


async def test_the_end_of_another_stream_is_an_error(nursery: trio.Nursery, log: Log) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await other.receive()

    client, other = await trio_ws.testing.websocket_pair(nursery)
    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    nursery.start_soon(client.aclose)
    assert await peer.receive() == close_frame(1011)
    await peer.stream.aclose()
    await running.server.shutdown()
    assert len(log(logging.ERROR)) == 1


async def test_the_end_of_its_own_stream_beside_an_error_is_an_error(
    nursery: trio.Nursery, log: Log
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        try:
            await ws.receive()
        except trio_ws.ConnectionClosed as closed:
            raise ExceptionGroup("both", [closed, ValueError()]) from None

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await peer.send(close_frame(1000))
    await peer.receive_all()
    await peer.stream.aclose()
    await running.server.shutdown()
    assert len(log(logging.ERROR)) == 1


async def exit_process(ws: trio_ws.WebSocketStream) -> None:
    await trio.lowlevel.checkpoint()
    raise SystemExit(3)


async def exit_process_in_a_nursery(ws: trio_ws.WebSocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exit_process, ws)
        await trio.sleep_forever()


async def exit_process_beside_an_error(ws: trio_ws.WebSocketStream) -> None:
    await trio.lowlevel.checkpoint()
    raise BaseExceptionGroup("", [SystemExit(3), ValueError("mine")])


async def exit_process_beside_its_end(ws: trio_ws.WebSocketStream) -> None:
    try:
        await ws.receive()
    except trio_ws.ConnectionClosed as closed:
        raise BaseExceptionGroup("", [SystemExit(3), closed]) from None


@pytest.mark.parametrize(
    ("handler", "code", "errors"),
    [
        (exit_process, 1001, 0),
        (exit_process_in_a_nursery, 1001, 0),
        (exit_process_beside_an_error, 1011, 1),
        (exit_process_beside_its_end, 1000, 0),
    ],
)
async def test_system_exit_passes_in_no_group(
    nursery: trio.Nursery, log: Log, handler: Handler, code: int, errors: int
) -> None:
    async def connect() -> None:
        peer = await listener.open()
        if code == 1000:
            await peer.send(close_frame(code))
        assert await peer.receive() == close_frame(code)
        await peer.stream.aclose()
        over.set()

    over = trio.Event()
    listener = MemoryListener()
    nursery.start_soon(connect)
    with pytest.raises(SystemExit) as caught:
        await trio_ws.serve_websocket(handler, listeners=[listener])
    assert caught.value.code == 3
    await over.wait()
    assert len(log(logging.ERROR)) == errors


async def test_system_exit_of_two_handlers_passes_in_a_group(nursery: trio.Nursery) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        try:
            await ws.receive()
        finally:
            raise SystemExit(3)

    async def connect() -> None:
        peers = [await listener.open() for _ in range(2)]
        await peers[0].send(Frame(TEXT, b"exit"))
        for peer in peers:
            assert await peer.receive() == close_frame(1001)
            await peer.stream.aclose()

    listener = MemoryListener()
    nursery.start_soon(connect)
    with pytest.RaisesGroup(SystemExit, SystemExit, flatten_subgroups=True):
        await trio_ws.serve_websocket(handler, listeners=[listener])


def test_ctrl_c_in_the_code_of_a_handler_passes_in_no_group() -> None:
    late = False

    async def compute(ws: trio_ws.WebSocketStream) -> None:
        nonlocal late
        await ws.receive()
        signal.raise_signal(signal.SIGINT)
        late = True

    async def connect(listener: MemoryListener) -> None:
        peer = await listener.open()
        await peer.send(Frame(TEXT, b"go"))
        assert await peer.receive() == close_frame(1001)
        await peer.stream.aclose()

    async def main() -> None:
        listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, listener)
            with pytest.raises(KeyboardInterrupt):
                await trio_ws.serve_websocket(compute, listeners=[listener])

    trio.run(main)
    assert not late


def test_ctrl_c_in_the_code_of_process_request_passes_in_no_group() -> None:
    late = False

    async def compute(request: trio_ws.Request) -> None:
        nonlocal late
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)
        late = True

    async def connect(listener: MemoryListener) -> None:
        peer = listener.dial()
        await peer.stream.send_all(request_head())
        assert await receive_to_eof(peer.stream) == b""

    async def main() -> None:
        listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, listener)
            with pytest.raises(KeyboardInterrupt):
                await trio_ws.serve_websocket(echo, listeners=[listener], process_request=compute)

    trio.run(main)
    assert not late


@trio.lowlevel.enable_ki_protection
async def interrupt_when_all_wait() -> None:
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_the_server_waits_comes_out_in_no_group_and_says_1001() -> None:
    async def connect(listener: MemoryListener, interrupters: trio.Nursery) -> None:
        peer = await listener.open()
        interrupters.start_soon(interrupt_when_all_wait)
        assert await peer.receive() == close_frame(1001)
        await peer.stream.aclose()

    async def main() -> None:
        listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, listener, nursery)
            with pytest.raises(KeyboardInterrupt):
                await trio_ws.serve_websocket(echo, listeners=[listener])

    trio.run(main)


async def test_cancelling_the_server_cancels_handlers_whose_streams_live_on_in_shields(
    nursery: trio.Nursery,
) -> None:
    cancelled = []

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        try:
            await ws.receive()
        except trio.Cancelled:
            cancelled.append(ws)
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                await ws.send("goodbye")
                await ws.aclose(4001)
            raise

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    running.scope.cancel()
    assert await peer.receive() == Frame(TEXT, b"goodbye")
    assert await peer.receive() == close_frame(4001)
    await peer.send(close_frame(4001))
    assert await peer.receive() is None
    await peer.stream.aclose()
    await running.ended.wait()
    assert len(cancelled) == 1


async def test_cancelling_the_server_waits_a_second_for_clients_that_do_not_answer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery)
    peers = [await running.listener.open() for _ in range(3)]
    start = trio.current_time()
    running.scope.cancel()
    await running.ended.wait()
    assert trio.current_time() - start == pytest.approx(1)
    for peer in peers:
        assert await peer.receive_all() == [close_frame(1001)]


async def test_an_error_of_a_handler_that_is_cancelled_is_logged_too(
    nursery: trio.Nursery, log: Log
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the cleanup failed")

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        async with trio.open_nursery() as mine:
            mine.start_soon(fail_when_cancelled)
            await ws.receive()

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await trio.testing.wait_all_tasks_blocked()
    running.scope.cancel()
    assert await peer.receive() == close_frame(1011)
    await peer.stream.aclose()
    await running.ended.wait()
    assert len(log(logging.ERROR)) == 1


# Shutting down


async def test_shutdown_closes_all_and_ends_the_server(nursery: trio.Nursery) -> None:
    server = await start(nursery, 0, host="127.0.0.1")
    clients = [
        await trio_ws.connect_websocket(nursery, f"ws://127.0.0.1:{server.port}") for _ in range(3)
    ]
    async with trio.open_nursery() as receivers:
        for client in clients:
            receivers.start_soon(client.wait_closed)
        await server.shutdown()
    assert {client.close_reason for client in clients} == {(1001, "")}
    assert server.connections == frozenset()
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", server.port)


async def test_shutdown_says_code_and_reason(nursery: trio.Nursery) -> None:
    running = await run_server(nursery)
    peer = await running.listener.open()
    nursery.start_soon(partial(running.server.shutdown, code=1012, reason="back in a minute"))
    assert await peer.receive() == close_frame(1012, "back in a minute")
    await peer.send(close_frame(1012))
    assert await peer.receive() is None
    await peer.stream.aclose()
    await running.ended.wait()
    assert running.listener.closed


@pytest.mark.parametrize(
    ("options"), [{"code": 1005}, {"reason": "x" * 124}, {"grace": -1}, {"grace": math.nan}]
)
async def test_shutdown_with_what_is_not_legal_changes_nothing(
    nursery: trio.Nursery, options: dict[str, object]
) -> None:
    running = await run_server(nursery)
    shutdown: Callable[..., Awaitable[None]] = running.server.shutdown
    with pytest.raises(ValueError):
        await shutdown(**options)
    peer = await running.listener.open()
    await peer.send(Frame(TEXT, b"hello"))
    assert await peer.receive() == Frame(TEXT, b"hello")
    await peer.stream.aclose()


async def test_shutdown_gives_handlers_their_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.wait_closed()
        await trio.sleep(3)
        cleaned_up.append(ws)

    cleaned_up: list[trio_ws.WebSocketStream] = []
    running = await run_server(nursery, handler)
    peer = await running.listener.open()

    async def answer() -> None:
        assert await peer.receive() == close_frame(1001)
        await peer.send(close_frame(1001))
        assert await peer.receive() is None
        await peer.stream.aclose()

    nursery.start_soon(answer)
    await running.server.shutdown(grace=5)
    assert trio.current_time() == 3
    assert len(cleaned_up) == 1
    await running.ended.wait()


async def sleep_for_ever(ws: trio_ws.WebSocketStream) -> None:
    await trio.sleep_forever()


async def test_shutdown_cancels_handlers_that_are_stuck(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    await running.server.shutdown(grace=5)
    # A second for the client, which does not answer.
    assert trio.current_time() == pytest.approx(6)
    assert await peer.receive_all() == [close_frame(1001)]
    await running.ended.wait()


async def test_the_default_grace_is_ten_seconds(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    nursery.start_soon(receive_to_eof, peer.stream)
    await running.server.shutdown()
    assert trio.current_time() == pytest.approx(11)


async def test_shutdown_without_grace_still_says_why(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    await running.server.shutdown(grace=0, code=4000, reason="now")
    assert trio.current_time() == pytest.approx(1)
    assert await peer.receive_all() == [close_frame(4000, "now")]


async def test_cancelling_shutdown_is_no_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    with trio.move_on_after(5) as scope:
        await running.server.shutdown(grace=math.inf)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    await running.ended.wait()
    assert trio.current_time() == pytest.approx(6)
    assert await peer.receive_all() == [close_frame(1001)]


async def test_shutdown_in_a_cancelled_scope_still_says_why(nursery: trio.Nursery) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    with trio.CancelScope() as scope:
        scope.cancel()
        await running.server.shutdown(code=4000)
    assert scope.cancelled_caught
    assert await peer.receive() == close_frame(4000)
    await peer.stream.aclose()
    await running.ended.wait()


async def test_shutdown_by_several_tasks_has_the_first_code_and_the_shortest_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, sleep_for_ever)
    peer = await running.listener.open()
    async with trio.open_nursery() as callers:
        callers.start_soon(partial(running.server.shutdown, grace=20, code=4000))
        await trio.testing.wait_all_tasks_blocked()
        callers.start_soon(partial(running.server.shutdown, grace=3, code=4001))
    assert trio.current_time() == pytest.approx(4)
    assert await peer.receive_all() == [close_frame(4000)]


async def test_shutdown_after_the_end_returns_at_once(nursery: trio.Nursery) -> None:
    running = await run_server(nursery)
    running.scope.cancel()
    await running.ended.wait()
    with trio.testing.assert_checkpoints():
        await running.server.shutdown()
    await running.server.shutdown()


async def test_shutdown_by_a_handler_ends_with_its_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await running.server.shutdown(grace=2)

    running = await run_server(nursery, handler)
    peer = await running.listener.open()
    await running.ended.wait()
    assert await peer.receive_all() == [close_frame(1001)]
    assert trio.current_time() == pytest.approx(3)


async def test_shutdown_while_a_handler_closes_its_stream(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    running = await run_server(nursery, timeouts=TEN_SECONDS)
    peer = await running.listener.open()
    (ws,) = running.server.connections
    nursery.start_soon(ws.aclose, 4000)
    assert await peer.receive() == close_frame(4000)
    await running.server.shutdown(grace=1)
    assert await peer.receive() is None


async def test_shutdown_answers_open_handshakes_with_503(nursery: trio.Nursery) -> None:
    async def process(request: trio_ws.Request) -> None:
        await trio.sleep_forever()

    running = await run_server(nursery, process_request=process)
    silent, halfway, processed = (running.listener.dial() for _ in range(3))
    await halfway.stream.send_all(b"GET / HTTP/1.1\r\n")
    await processed.stream.send_all(request_head())
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(running.server.shutdown)
    for peer in (silent, halfway, processed):
        answer = parse_answer(await receive_to_eof(peer.stream))
        assert answer.status == 503
        assert answer.body == b"The server is shutting down.\n"
        await peer.stream.aclose()
    await running.ended.wait()


async def test_shutdown_answers_open_handshakes_with_503_over_tls(
    nursery: trio.Nursery, client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext
) -> None:
    server = await start(nursery, 0, host="127.0.0.1", ssl_context=server_ssl_context)
    silent = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", server.port),
        client_ssl_context,
        server_hostname="localhost",
        https_compatible=True,
    )
    await stream.do_handshake()
    await stream.send_all(b"GET / HTTP/1.1\r\n")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(server.shutdown)
    assert parse_answer(await receive_to_eof(stream)).status == 503
    await stream.aclose()
    assert await silent.receive_some() == b""
    await silent.aclose()


async def test_shutdown_while_the_101_is_sent_closes_without_a_handler(
    nursery: trio.Nursery,
) -> None:
    called = []

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await trio.lowlevel.checkpoint()
        called.append(ws)

    def stall(stream: trio.abc.Stream) -> trio.abc.Stream:
        stalled.append(FaultyStream(stream))
        stalled[0].stall(receive=False)
        return stalled[0]

    stalled: list[FaultyStream] = []
    running = await run_server(nursery, handler)
    peer = running.listener.dial(stall)
    await peer.stream.send_all(request_head())
    await trio.testing.wait_all_tasks_blocked()
    for code in (1012, 4000):
        nursery.start_soon(partial(running.server.shutdown, code=code))
        await trio.testing.wait_all_tasks_blocked()
    stalled[0].resume()
    assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
    assert await peer.receive() == close_frame(1012)
    await peer.send(close_frame(1012))
    await peer.stream.aclose()
    await running.ended.wait()
    assert called == []


class SlowListener(MemoryListener):
    """What it has begun to accept it accepts, cancelled or not."""

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint_if_cancelled()
        accepted = []
        with trio.CancelScope(shield=True):
            accepted.append(await super().accept())
        return accepted[0]


async def test_a_connection_accepted_after_shutdown_gets_503(nursery: trio.Nursery) -> None:
    listener = SlowListener()
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(trio_ws.serve_websocket, echo, listeners=[listener])
    )
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(server.shutdown)
    await trio.testing.wait_all_tasks_blocked()
    answer = await exchange(listener.dial().stream, request_head())
    assert answer.status == 503
    await server.shutdown()
    assert listener.closed
