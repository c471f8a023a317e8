"""The client's ways in: real sockets where they matter, scripted servers for the rest."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from raw_http import receive_to_eof
from raw_peer import CLOSE, TEXT, Frame, RawPeer, make_streams, tcp_pair
from resolver import Resolver
from trio.socket import SocketType

import trio_ws
from trio_ws._client import Connect
from trio_ws._protocol import Role
from trio_ws.testing import NO_TIMEOUTS, FaultyStream

TEN_SECONDS = trio_ws.Timeouts(handshake=10)

Script = Callable[[RawPeer], Awaitable[None]]


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def report_request(ws: trio_ws.WebSocketStream) -> None:
    lines = [f"{ws.request.method} {ws.request.target}"]
    await ws.send("\n".join([*lines, *map(": ".join, ws.request.headers)]))


async def serve(
    nursery: trio.Nursery,
    handler: Callable[[trio_ws.WebSocketStream], Awaitable[None]] = echo,
    *,
    ssl_context: ssl.SSLContext | None = None,
    subprotocols: list[str] | None = None,
) -> trio_ws.WebSocketServer:
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(
            trio_ws.serve_websocket,
            handler,
            0,
            host="127.0.0.1",
            ssl_context=ssl_context,
            subprotocols=subprotocols or (),
            origins=["*"],
        )
    )
    return server


class Scripted:
    """A server in memory that does what *script* says, and then goes away.

    :ivar connect: for ``connect=``.
    :ivar ours: the client's stream; a test may put another one around it.
    :ivar calls: host and port of each call of *connect*.
    """

    def __init__(self, nursery: trio.Nursery, script: Script) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        self.ours: trio.abc.Stream = ours
        self._ours = ours
        self.peer = RawPeer(theirs, Role.SERVER)
        self.calls: list[tuple[str, int]] = []
        self._nursery = nursery
        self._script = script

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.calls.append((host, port))
        self._nursery.start_soon(self._run)
        return self.ours

    async def _run(self) -> None:
        async with self.peer.stream:
            await self._script(self.peer)

    async def was_closed(self) -> bool:
        """Whether the client has closed its end."""
        try:
            await self._ours.receive_some()
        except trio.ClosedResourceError:
            return True
        return False


def answering(*chunks: bytes) -> Script:
    """Read the request, answer with *chunks*, and go away."""

    async def answer(peer: RawPeer) -> None:
        await peer.receive_head()
        for chunk in chunks:
            await peer.stream.send_all(chunk)

    return answer


def answering_and_waiting(*chunks: bytes) -> Script:
    """Read the request, answer with *chunks*, and stay."""

    async def answer(peer: RawPeer) -> None:
        await answering(*chunks)(peer)
        with suppress(trio.BrokenResourceError):
            await receive_to_eof(peer.stream)

    return answer


async def open_and_echo(peer: RawPeer) -> None:
    """Frames as they come, up to the Close."""
    async with peer.stream:
        await peer.open_as_server()
        await echo_frames(peer)


async def echo_frames(peer: RawPeer) -> None:
    while (frame := await peer.receive()) is not None:
        await peer.send(frame)
        if frame.opcode == CLOSE:
            break


async def say_nothing(peer: RawPeer) -> None:
    await receive_to_eof(peer.stream)


async def use(opening: trio_ws.open_websocket) -> None:
    async with opening as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


# Where to


async def test_over_tcp(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    await use(trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}"))


async def test_over_tls(
    nursery: trio.Nursery, client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext
) -> None:
    server = await serve(nursery, ssl_context=server_ssl_context)
    url = f"wss://localhost:{server.port}"
    async with trio_ws.open_websocket(url, ssl_context=client_ssl_context) as ws:
        assert isinstance(ws.transport_stream, trio.SSLStream)
        await ws.send(b"secret")
        assert await ws.receive() == b"secret"
    assert ws.close_reason == (1000, "")


async def test_over_a_unix_socket(nursery: trio.Nursery, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()
    nursery.start_soon(
        partial(trio_ws.serve_websocket, echo, listeners=[trio.SocketListener(listening)])
    )

    async def connect(host: str, port: int) -> trio.abc.Stream:
        return await trio.open_unix_socket(path)

    await use(trio_ws.open_websocket("ws://localhost/", connect=connect))


async def test_connect_is_given_host_and_port(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, open_and_echo)
    await use(trio_ws.open_websocket("ws://[::1]:8080/", connect=server.connect))
    assert server.calls == [("::1", 8080)]


@pytest.mark.parametrize(
    ("host", "server_name"), [("localhost", "localhost"), ("[::1]", "::1"), ("127.0.0.1",) * 2]
)
async def test_tls_goes_on_top_of_connect(
    nursery: trio.Nursery,
    client_ssl_context: ssl.SSLContext,
    server_ssl_context: ssl.SSLContext,
    host: str,
    server_name: str,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    secure = trio.SSLStream(theirs, server_ssl_context, server_side=True, https_compatible=True)

    async def connect(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        assert (host, port) == (server_name, 443)
        nursery.start_soon(open_and_echo, RawPeer(secure, Role.SERVER))
        return ours

    opening = trio_ws.open_websocket(
        f"wss://{host}/", connect=connect, ssl_context=client_ssl_context
    )
    async with opening as ws:
        assert isinstance(ws.transport_stream, trio.SSLStream)
        assert ws.transport_stream.server_hostname == server_name
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_the_zone_of_an_address_is_not_shown_to_the_server(
    nursery: trio.Nursery, server_ssl_context: ssl.SSLContext
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    secure = trio.SSLStream(theirs, server_ssl_context, server_side=True, https_compatible=True)
    lenient = ssl.create_default_context()
    lenient.check_hostname = False
    lenient.verify_mode = ssl.CERT_NONE

    async def connect(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        assert host == "fe80::1%eth0"
        nursery.start_soon(open_and_echo, RawPeer(secure, Role.SERVER))
        return ours

    opening = trio_ws.open_websocket(
        "wss://[fe80::1%25eth0]/", connect=connect, ssl_context=lenient
    )
    async with opening as ws:
        assert ws.request.header("Host") == "[fe80::1]"
        assert isinstance(ws.transport_stream, trio.SSLStream)
        assert ws.transport_stream.server_hostname == "fe80::1"


# What is asked


async def test_what_the_server_is_told(nursery: trio.Nursery) -> None:
    server = await serve(nursery, report_request, subprotocols=["b"])
    opening = trio_ws.open_websocket(
        f"ws://user:p%40ss@127.0.0.1:{server.port}/chat?room=1&q=%C3%A9",
        subprotocols=["a", "b"],
        headers={"X-Trace": "17"},
        origin="https://example.org",
    )
    async with opening as ws:
        assert ws.subprotocol == "b"
        assert ws.response.status == 101
        report = await ws.receive()
    assert isinstance(report, str)
    line, *lines = report.split("\n")
    assert line == "GET /chat?room=1&q=%C3%A9"
    told = dict(line.split(": ", 1) for line in lines)
    assert told["Host"] == f"127.0.0.1:{server.port}"
    assert told["X-Trace"] == "17"
    assert told["Origin"] == "https://example.org"
    assert told["Authorization"] == "Basic dXNlcjpwQHNz"
    assert told["Sec-WebSocket-Protocol"] == "a, b"


async def test_what_comes_with_the_101_is_the_first_message(nursery: trio.Nursery) -> None:
    async def send_both(peer: RawPeer) -> None:
        await peer.open_as_server()
        await peer.send(Frame(TEXT, b"first"))
        client_side.resume()
        await echo_frames(peer)

    server = Scripted(nursery, send_both)
    server.ours = client_side = FaultyStream(server.ours)
    client_side.stall(send=False)
    async with trio_ws.open_websocket("ws://test/", connect=server.connect) as ws:
        assert await ws.receive() == "first"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://test/", {}),
        ("ws://test/#part", {}),
        ("ws://test/", {"max_inbox_size": 0}),
        ("ws://test/", {"subprotocols": ["a b"]}),
        ("ws://test/", {"headers": {"Host": "other"}}),
        ("ws://user@test/", {"headers": {"Authorization": "Bearer x"}}),
        ("ws://test/", {"origin": "a\r\nb"}),
    ],
)
async def test_what_is_not_legal_is_found_before_connecting(
    nursery: trio.Nursery, url: str, options: dict[str, object]
) -> None:
    server = Scripted(nursery, say_nothing)
    opening: Callable[..., trio_ws.open_websocket] = trio_ws.open_websocket
    with pytest.raises(ValueError):
        async with opening(url, connect=server.connect, **options):
            pass
    assert server.calls == []


# No connection


async def test_a_refused_connection_is_an_oserror() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        await use(trio_ws.open_websocket(f"ws://127.0.0.1:{port}"))


class HangingSocket(SocketType):
    """A socket that is never connected."""

    def __init__(self) -> None:
        self.closed = False

    async def connect(self, address: object) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        self.closed = True


class HangingSockets(trio.abc.SocketFactory):
    """Makes :class:`HangingSocket`."""

    def __init__(self) -> None:
        self.made: list[HangingSocket] = []

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> HangingSocket:
        self.made.append(HangingSocket())
        return self.made[-1]


def connect_to_nobody() -> HangingSockets:
    """Until this run of Trio ends, every connection hangs."""
    factory = HangingSockets()
    trio.socket.set_custom_hostname_resolver(Resolver("192.0.2.1", "192.0.2.2"))
    trio.socket.set_custom_socket_factory(factory)
    return factory


async def test_an_unknown_name_is_an_oserror() -> None:
    connect_to_nobody()
    with pytest.raises(socket.gaierror):
        await use(trio_ws.open_websocket("ws://unknown/"))


async def test_cancelling_while_connecting_raises_cancelled_in_no_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sockets = connect_to_nobody()
    bare = False
    with trio.move_on_after(5) as scope:
        try:
            await use(trio_ws.open_websocket("ws://test/"))
        except trio.Cancelled:
            bare = True
            raise
    assert scope.cancelled_caught
    assert bare
    assert [each.closed for each in sockets.made] == [True, True]


def test_ctrl_c_while_connecting_is_in_no_group() -> None:
    @trio.lowlevel.enable_ki_protection
    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> list[HangingSocket]:
        sockets = connect_to_nobody()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await use(trio_ws.open_websocket("ws://test/"))
        return sockets.made

    (first,) = trio.run(main)
    assert first.closed


async def test_connecting_too_slowly(autojump_clock: trio.testing.MockClock) -> None:
    sockets = connect_to_nobody()
    start = trio.current_time()
    with pytest.raises(trio_ws.HandshakeTimeout) as caught:
        await use(trio_ws.open_websocket("ws://test/", timeouts=TEN_SECONDS))
    assert trio.current_time() - start == 10
    assert isinstance(caught.value, trio.TooSlowError)
    assert caught.value.response is None
    assert all(each.closed for each in sockets.made)


@pytest.mark.parametrize("trusting_the_system", [False, True])
async def test_a_certificate_that_does_not_verify_is_an_ssl_error(
    nursery: trio.Nursery,
    client_ssl_context: ssl.SSLContext,
    server_ssl_context: ssl.SSLContext,
    trusting_the_system: bool,
) -> None:
    server = await serve(nursery, ssl_context=server_ssl_context)
    # Our authority is trusted, and this host is not in its certificate; or it is not trusted.
    host, context = ("localhost", None) if trusting_the_system else ("test", client_ssl_context)
    opened = []

    async def connect(host: str, port: int) -> trio.abc.Stream:
        opened.append(await trio.open_tcp_stream("127.0.0.1", port))
        return opened[-1]

    url = f"wss://{host}:{server.port}"
    with pytest.raises(ssl.SSLCertVerificationError):
        await use(trio_ws.open_websocket(url, ssl_context=context, connect=connect))
    assert [stream.socket.fileno() for stream in opened] == [-1]


async def test_a_server_without_tls_is_an_ssl_error(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    with pytest.raises(ssl.SSLError, match="without TLS a URL starts with ws://"):
        await use(trio_ws.open_websocket(f"wss://127.0.0.1:{server.port}"))


async def test_a_server_with_tls_may_be_why_nothing_comes(
    nursery: trio.Nursery, server_ssl_context: ssl.SSLContext
) -> None:
    server = await serve(nursery, ssl_context=server_ssl_context)
    with pytest.raises(trio_ws.HandshakeError, match=r"expects TLS .* if the URL starts with ws:"):
        await use(trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}"))


@pytest.mark.parametrize(
    ("url", "ssl_context", "error", "message"),
    [
        ("ws://h/", ssl.create_default_context(), ValueError, "ssl_context is for wss://"),
        ("wss://h/", True, TypeError, "must be an ssl.SSLContext, not True"),
    ],
)
async def test_an_ssl_context_is_one_and_for_wss(
    nursery: trio.Nursery, url: str, ssl_context: Any, error: type[Exception], message: str
) -> None:
    server = Scripted(nursery, say_nothing)
    opening = trio_ws.open_websocket(url, ssl_context=ssl_context, connect=server.connect)
    with pytest.raises(error, match=message):
        await use(opening)
    assert server.calls == []


async def test_a_connection_that_breaks_during_tls_is_an_oserror(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, say_nothing)
    server.ours = faulty = FaultyStream(server.ours)
    faulty.fail_after(1, trio.BrokenResourceError())
    with pytest.raises(OSError, match="TLS"):
        await use(trio_ws.open_websocket("wss://test/", connect=server.connect))
    assert await server.was_closed()


async def test_tls_that_is_too_slow(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = Scripted(nursery, say_nothing)
    with pytest.raises(trio_ws.HandshakeTimeout):
        await use(
            trio_ws.open_websocket("wss://test/", connect=server.connect, timeouts=TEN_SECONDS)
        )
    assert await server.was_closed()


async def test_what_connect_raises_comes_out(nursery: trio.Nursery) -> None:
    error = ExceptionGroup("no proxy works", [OSError(1), OSError(2)])

    async def connect(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401 (this very one)
        await use(trio_ws.open_websocket("ws://test/", connect=connect))
    assert caught.value is error


# No WebSocket


async def refused(nursery: trio.Nursery, script: Script) -> trio_ws.HandshakeError:
    """The error that *script* brings about; the stream is closed then."""
    server = Scripted(nursery, script)
    with pytest.raises(trio_ws.HandshakeError) as caught:
        await use(
            trio_ws.open_websocket("ws://test/", connect=server.connect, timeouts=TEN_SECONDS)
        )
    assert await server.was_closed()
    return caught.value


async def response_of(nursery: trio.Nursery, script: Script) -> trio_ws.Response:
    response = (await refused(nursery, script)).response
    assert response is not None
    return response


async def test_a_refusal_until_its_length(nursery: trio.Nursery) -> None:
    response = await response_of(
        nursery,
        answering_and_waiting(
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Why: age\r\n\r\nto", b"o young"
        ),
    )
    assert response.status == 403
    assert response.header("X-Why") == "age"
    assert response.body == b"too you"


async def test_a_refusal_until_eof(nursery: trio.Nursery) -> None:
    error = await refused(nursery, answering(b"HTTP/1.1 503 Busy\r\n\r\n", b"come ", b"again\n"))
    assert str(error) == "the server refused the WebSocket handshake: 503 Busy: come again"
    assert error.response is not None
    assert error.response.body == b"come again\n"


async def test_a_refusal_until_a_reset(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, answering_and_waiting(b"HTTP/1.1 503 Busy\r\n\r\ncome"))
    server.ours = faulty = FaultyStream(server.ours)
    faulty.fail_after(2, trio.BrokenResourceError())
    with pytest.raises(trio_ws.HandshakeError) as caught:
        await use(trio_ws.open_websocket("ws://test/", connect=server.connect))
    assert caught.value.response is not None
    assert caught.value.response.body == b"come"


async def test_a_refusal_until_64_kib(nursery: trio.Nursery) -> None:
    response = await response_of(
        nursery, answering_and_waiting(b"HTTP/1.1 404 Not Found\r\n\r\n" + bytes(100_000))
    )
    assert response.body == bytes(64 * 1024)


async def test_a_refusal_until_a_second_has_passed(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def dribble(peer: RawPeer) -> None:
        await answering(b"HTTP/1.1 404 Not Found\r\n\r\n")(peer)
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.stream.send_all(b"x")
                await trio.sleep(0.4)

    start = trio.current_time()
    response = await response_of(nursery, dribble)
    assert response.body == b"xxx"
    assert trio.current_time() - start == pytest.approx(1)


async def test_a_refusal_is_known_though_the_deadline_passes_in_its_body(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def refuse_late(peer: RawPeer) -> None:
        await trio.sleep(9.5)
        await answering_and_waiting(b"HTTP/1.1 404 Not Found\r\n\r\nwhere")(peer)

    start = trio.current_time()
    error = await refused(nursery, refuse_late)
    assert trio.current_time() - start == 10
    assert not isinstance(error, trio_ws.HandshakeTimeout)
    assert error.response is not None
    assert error.response.body == b"where"


async def test_a_refusal_by_a_real_server_over_a_real_socket(nursery: trio.Nursery) -> None:
    async def process(request: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return trio_ws.Response(401, {"WWW-Authenticate": "Basic"}, "who are you?")

    server: trio_ws.WebSocketServer = await nursery.start(
        partial(trio_ws.serve_websocket, echo, 0, host="127.0.0.1", process_request=process)
    )
    with pytest.raises(trio_ws.HandshakeError, match="401 Unauthorized: who are you") as caught:
        await use(trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}"))
    assert caught.value.response is not None
    assert caught.value.response.header("WWW-Authenticate") == "Basic"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 101 Swi", "closed the connection in the middle"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "Upgrade"),
        (b"HTTP/1.1 101 " + bytes([0x20]) * 70_000, "too large"),
    ],
)
async def test_an_answer_that_is_no_handshake(
    nursery: trio.Nursery, answer: bytes, message: str
) -> None:
    assert message in str(await refused(nursery, answering(answer)))


async def test_a_connection_that_breaks_before_the_answer(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, say_nothing)
    server.ours = faulty = FaultyStream(server.ours)
    cause = trio.BrokenResourceError()
    faulty.fail_after(1, cause)
    with pytest.raises(trio_ws.HandshakeError) as caught:
        await use(trio_ws.open_websocket("ws://test/", connect=server.connect))
    assert caught.value.__cause__ is cause
    assert await server.was_closed()


async def test_a_server_that_refuses_before_it_has_read_the_request() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    await theirs.aclose()
    async with trio.open_nursery() as nursery:
        with pytest.raises(trio_ws.HandshakeError, match="503 Busy"):
            await trio_ws.wrap_client_stream(nursery, ours, host="test")


# Time


async def dribble_answer(peer: RawPeer) -> None:
    """A byte a second, and each of them right."""
    with suppress(trio.BrokenResourceError):
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n":
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(1)


@pytest.mark.parametrize("script", [say_nothing, dribble_answer])
async def test_the_deadline_cuts_off_a_server_that_dribbles(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, script: Script
) -> None:
    start = trio.current_time()
    error = await refused(nursery, script)
    assert isinstance(error, trio_ws.HandshakeTimeout)
    assert trio.current_time() - start == 10


async def test_without_a_deadline_a_server_may_take_its_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def open_tomorrow(peer: RawPeer) -> None:
        await trio.sleep(24 * 3600)
        await open_and_echo(peer)

    server = Scripted(nursery, open_tomorrow)
    await use(trio_ws.open_websocket("ws://test/", connect=server.connect, timeouts=NO_TIMEOUTS))


async def test_the_users_own_deadline_is_the_users(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = Scripted(nursery, say_nothing)
    with trio.move_on_after(5) as scope:
        await use(
            trio_ws.open_websocket("ws://test/", connect=server.connect, timeouts=TEN_SECONDS)
        )
    assert scope.cancelled_caught
    assert trio.current_time() == scope.deadline
    assert await server.was_closed()


# In the user's nursery


async def test_a_connected_stream_lives_in_the_users_nursery(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, open_and_echo)
    async with trio.open_nursery() as mine:
        with trio.testing.assert_checkpoints():
            ws = await trio_ws.connect_websocket(mine, "ws://test/", connect=server.connect)
        await ws.send("hello")
        assert await ws.receive() == "hello"
        mine.cancel_scope.cancel()
    assert not ws.is_open
    assert await server.was_closed()


async def test_the_nursery_is_open_until_the_stream_is_closed(nursery: trio.Nursery) -> None:
    left = trio.Event()

    async def connect_and_leave() -> None:
        async with trio.open_nursery() as mine:
            streams.append(
                await trio_ws.connect_websocket(mine, "ws://test/", connect=server.connect)
            )
        left.set()

    streams: list[trio_ws.WebSocketStream] = []
    server = Scripted(nursery, open_and_echo)
    nursery.start_soon(connect_and_leave)
    await trio.testing.wait_all_tasks_blocked()
    assert not left.is_set()
    await streams[0].aclose()
    await left.wait()


async def test_connecting_into_a_closed_nursery_closes_the_stream(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as closed:
        pass
    server = Scripted(nursery, open_and_echo)
    with pytest.raises(RuntimeError, match="closed"):
        await trio_ws.connect_websocket(closed, "ws://test/", connect=server.connect)
    assert await server.was_closed()


async def test_wrapping_a_stream(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    peer = RawPeer(theirs, Role.SERVER)
    nursery.start_soon(open_and_echo, peer)
    with trio.testing.assert_checkpoints():
        ws = await trio_ws.wrap_client_stream(
            nursery,
            ours,
            host="example.org:81",
            target="/chat?a=b",
            headers=[("X-Trace", "17")],
            origin="https://example.org",
            subprotocols=["chat"],
            max_frame_size=10,
        )
    assert ws.transport_stream is ours
    assert ws.subprotocol is None
    assert ws.options.max_frame_size == 10
    assert ws.request.target == "/chat?a=b"
    assert ws.request.header("Host") == "example.org:81"
    assert ws.request.header("X-Trace") == "17"
    assert ws.request.header("Origin") == "https://example.org"
    assert ws.request.header("Sec-WebSocket-Protocol") == "chat"
    await ws.send("hello")
    assert await ws.receive() == "hello"
    await ws.aclose()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": "two words"}, ValueError),
        ({"host": "test", "target": "relative"}, ValueError),
        ({"host": "test", "max_frame_size": 0}, ValueError),
        ({"host": "test", "subprotocols": "chat"}, TypeError),
        ({"host": "test", "colour": "red"}, TypeError),
    ],
)
async def test_a_wrapped_stream_is_closed_whatever_fails(
    nursery: trio.Nursery, options: dict[str, object], error: type[Exception]
) -> None:
    ours, theirs = await make_streams("memory")
    wrap: Callable[..., Awaitable[object]] = trio_ws.wrap_client_stream
    with pytest.raises(error):
        await wrap(nursery, ours, **options)
    assert await theirs.receive_some() == b""


async def test_a_wrapped_stream_is_closed_when_the_handshake_fails(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, answering(b"HTTP/1.1 404 Not Found\r\n\r\n"))
    stream = await server.connect("test", 80)
    with pytest.raises(trio_ws.HandshakeError, match="404"):
        await trio_ws.wrap_client_stream(nursery, stream, host="test")
    assert await server.was_closed()


async def test_a_wrapped_stream_is_closed_when_cancelled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = Scripted(nursery, say_nothing)
    stream = await server.connect("test", 80)
    with trio.move_on_after(1) as scope:
        await trio_ws.wrap_client_stream(nursery, stream, host="test")
    assert scope.cancelled_caught
    assert await server.was_closed()


class StubbornStream(FaultyStream):
    """A stream that fails to close."""

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            raise RuntimeError("the stream's own trouble")


async def test_a_stream_that_fails_to_close_does_not_hide_why_it_was_closed(
    nursery: trio.Nursery,
) -> None:
    ours, _ = await make_streams("memory")
    with pytest.raises(ValueError, match="host"):
        await trio_ws.wrap_client_stream(nursery, StubbornStream(ours), host="two words")


async def test_cancellation_does_not_hide_why_a_stream_was_closed(nursery: trio.Nursery) -> None:
    ours, theirs = await make_streams("memory")
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ValueError) as caught:
            await trio_ws.wrap_client_stream(nursery, ours, host="two words")
    # Out here, where a Cancelled in its place would have been caught.
    assert "host" in str(caught.value)
    assert await theirs.receive_some() == b""


async def test_the_size_of_the_answer_is_limited(nursery: trio.Nursery) -> None:
    long = b"HTTP/1.1 101 Switching Protocols\r\nX-Long: " + b"x" * 1000
    for wrapped in (False, True):
        server = Scripted(nursery, answering(long))
        with pytest.raises(trio_ws.HandshakeError, match="too large"):
            if wrapped:
                stream = await server.connect("test", 80)
                await trio_ws.wrap_client_stream(
                    nursery, stream, host="test", max_handshake_size=1000
                )
            else:
                await use(
                    trio_ws.open_websocket(
                        "ws://test/", connect=server.connect, max_handshake_size=1000
                    )
                )


class ProtectionRecorder(FaultyStream):
    """Notes whether KeyboardInterrupt is held back while the stream below a WebSocket works."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.protected: dict[str, set[bool]] = {}

    def note(self, operation: str) -> None:
        self.protected.setdefault(operation, set()).add(trio.lowlevel.currently_ki_protected())

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self.note("receive_some")
        return await super().receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.note("send_all")
        await super().send_all(data)

    async def aclose(self) -> None:
        self.note("aclose")
        await super().aclose()


@pytest.mark.parametrize("way", ["open", "connect", "wrap", "fail"])
async def test_ctrl_c_is_held_back_while_a_stream_opens_works_and_closes(
    nursery: trio.Nursery, way: str
) -> None:
    server = Scripted(nursery, open_and_echo if way != "fail" else answering())
    server.ours = recorder = ProtectionRecorder(server.ours)
    if way == "connect":
        ws = await trio_ws.connect_websocket(nursery, "ws://test/", connect=server.connect)
        await ws.aclose()
    elif way == "wrap":
        stream = await server.connect("test", 80)
        ws = await trio_ws.wrap_client_stream(nursery, stream, host="test")
        await ws.aclose()
    else:
        with suppress(trio_ws.HandshakeError):
            await use(trio_ws.open_websocket("ws://test/", connect=server.connect))
    assert recorder.protected == {
        operation: {True} for operation in ("receive_some", "send_all", "aclose")
    }


@pytest.mark.parametrize("kind", [socket.socket, trio.socket.socket])
async def test_connect_returns_a_stream_and_a_socket_is_closed(
    kind: Callable[[], socket.socket | SocketType],
) -> None:
    opened = []

    async def connect(host: str, port: int) -> Any:
        await trio.lowlevel.checkpoint()
        opened.append(kind())
        return opened[0]

    with pytest.raises(TypeError, match=r"connect returns must be .*: put a trio.SocketStream"):
        await use(trio_ws.open_websocket("ws://test/", connect=connect))
    assert opened[0].fileno() == -1


async def test_connect_that_returns_nothing_is_told_so() -> None:
    async def connect(host: str, port: int) -> Any:
        await trio.lowlevel.checkpoint()

    with pytest.raises(TypeError, match=r"connect returns must be a .*Stream, not NoneType"):
        await use(trio_ws.open_websocket("ws://test/", connect=connect))


async def test_a_client_needs_a_stream(nursery: trio.Nursery) -> None:
    wrap: Callable[..., Awaitable[object]] = trio_ws.wrap_client_stream
    with pytest.raises(TypeError, match=r"stream must be a trio.abc.Stream, not str$"):
        await wrap(nursery, "test", host="test")


def test_options_are_checked_by_the_call() -> None:
    with pytest.raises(TypeError, match="there is no option timeout: say timeouts="):
        trio_ws.open_websocket("ws://test/", timeout=5)  # type: ignore[call-arg]  # the mistake


async def test_it_is_entered_once(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, open_and_echo)
    opening = trio_ws.open_websocket("ws://test/", connect=server.connect)
    async with opening as ws:
        with pytest.raises(RuntimeError, match="is entered once: call it again"):
            await use(opening)
        await ws.send("hello")
        assert await ws.receive() == "hello"
    with pytest.raises(RuntimeError, match="is entered once: call it again"):
        await use(opening)


async def test_connect_may_be_any_callable(nursery: trio.Nursery) -> None:
    server = Scripted(nursery, open_and_echo)
    connect: Connect = partial(_connect_by, server)
    await use(trio_ws.open_websocket("ws://test/", connect=connect))


async def _connect_by(server: Scripted, host: str, port: int) -> trio.abc.Stream:
    return await server.connect(host, port)
