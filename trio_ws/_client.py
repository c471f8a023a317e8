"""The ways to open a WebSocket as a client."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, NoReturn, TypeAlias, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from ._arguments import check_stream
from ._handshake import ClientHandshake
from ._http import HeadersInput, Response
from ._opening import (
    GONE,
    StreamOwner,
    call_unprotected,
    closing_on_failure,
    deadline_of,
    handshake_deadline,
    receive_some,
    unwrap,
)
from ._options import StreamKeywords, StreamOptions, make_options
from ._protocol import Role
from ._stream import WebSocketStream
from ._tls import start_tls
from ._transport import Transport, make_transport
from ._url import WebSocketURL, parse_url

Connect: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""What ``connect=`` takes: called with host and port, it returns a connected stream."""

_REFUSAL_TIME: Final = 1.0
"""Seconds for the body of a refusal to arrive."""

_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
"""How versions of OpenSSL call it that the server does not speak TLS."""


class open_websocket:
    """Connect to a WebSocket server, and close the connection after the block.

    An async context manager, whose value is the :class:`WebSocketStream`. It is entered once: the
    next connection takes another call.

    .. example: client

    .. code-block:: python

        async with trio_ws.open_websocket("wss://example.org/chat") as ws:
            await ws.send("hello")
            print(await ws.receive())

    :param url: ``ws://`` or ``wss://``. A user name and a password in it become Basic
        authorization (RFC 7617).
    :param subprotocols: names to offer, in order of preference (RFC 6455 section 1.9). Default:
        none.
    :param headers: more headers for the request: pairs or a mapping. Default: none.
    :param origin: the value of the Origin header, which browsers send. Default: no such header.
    :param ssl_context: for ``wss://`` alone. Default: ``ssl.create_default_context()``, which
        trusts whom the system trusts.
    :param connect: an async callable that is given host and port of the URL and returns a connected
        ``trio.abc.Stream``: by way of a proxy, a Unix socket, a fake. TLS goes on top of it.
        Default: ``trio.open_tcp_stream``.
    :param options: see :class:`StreamOptions`.
    :raises ValueError: an option is not legal.
    :raises TypeError: an option is of a wrong type, or there is no such option.

    Entering raises:

    :raises ValueError: the URL or another parameter is not legal; nothing has been sent.
    :raises TypeError: a parameter is of a wrong type, or ``connect`` has returned no Stream.
    :raises RuntimeError: it was entered before.
    :raises OSError: the name could not be resolved, no address could be reached, or TLS failed: a
        certificate that does not verify is ``ssl.SSLCertVerificationError``.
    :raises HandshakeError: the server refused, and ``response`` says how; or it broke a rule of the
        handshake, or went away.
    :raises HandshakeTimeout: connecting, TLS and handshake together took longer than
        ``Timeouts.handshake``.

    Leaving the block closes the connection with 1000, as :meth:`WebSocketStream.aclose` does. If
    the block raises, that exception comes out as it is, in no group, and the peer is told 1011; or
    1001 if it is Cancelled, KeyboardInterrupt or another exception that is no ``Exception``. That
    takes one second at most.

    Cancellation while connecting closes the socket; nothing leaks. In the block it cancels the
    block and never the stream, so that the block's cleanup code can still use it in a shield.
    """

    def __init__(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: HeadersInput = (),
        origin: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect: Connect | None = None,
        **options: Unpack[StreamKeywords],
    ) -> None:
        checked = make_options(options)
        self._entered = False
        self._open = partial(
            _open, url, subprotocols, headers, origin, ssl_context, connect, checked
        )

    @enable_ki_protection
    async def __aenter__(self) -> WebSocketStream:
        if self._entered:
            raise RuntimeError("open_websocket(...) is entered once: call it again")
        self._entered = True
        self._owner = StreamOwner(await self._open())
        return await self._owner.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._owner.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (it shields itself)


@enable_ki_protection
async def connect_websocket(
    nursery: trio.Nursery,
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeadersInput = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect: Connect | None = None,
    **options: Unpack[StreamKeywords],
) -> WebSocketStream:
    """Connect to a WebSocket server; the stream lives in *nursery*.

    The nursery stays open until the stream is closed. Cancelling it closes the transport at once.

    :param nursery: where the background tasks of the stream run.

    The other parameters, and what is raised, are those of :class:`open_websocket`.

    Cancellation closes the socket; nothing leaks.
    """
    checked = make_options(options)
    ws = await _open(url, subprotocols, headers, origin, ssl_context, connect, checked)
    async with closing_on_failure(ws.transport_stream):
        ws._start(nursery, shield=False)
    return ws


@enable_ki_protection
async def wrap_client_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    host: str,
    target: str = "/",
    subprotocols: Sequence[str] = (),
    headers: HeadersInput = (),
    origin: str | None = None,
    **options: Unpack[StreamKeywords],
) -> WebSocketStream:
    """Open a WebSocket over a stream that is connected already (Beast's ``handshake``).

    The stream belongs to this call from the start: whatever fails closes it.

    :param nursery: where the background tasks of the WebSocket run. It stays open until the
        WebSocket is closed; cancelling it closes the stream at once.
    :param stream: any ``trio.abc.Stream``.
    :param host: the value of the Host header: ``host`` or ``host:port``.
    :param target: path and query, percent-encoded. Default ``/``.
    :param subprotocols: as for :class:`open_websocket`; so ``headers``, ``origin`` and ``options``.
    :raises ValueError: a parameter is not legal.
    :raises TypeError: a parameter is of a wrong type, such as a socket for *stream*.
    :raises HandshakeError: the server refused, broke a rule of the handshake, or went away.
    :raises HandshakeTimeout: the handshake took longer than ``Timeouts.handshake``.

    Cancellation closes the stream.
    """
    async with closing_on_failure(stream):
        check_stream("stream", stream)
        checked = make_options(options)
        handshake = ClientHandshake(
            host,
            target,
            subprotocols=subprotocols,
            headers=headers,
            origin=origin,
            compression=checked.compression,
            max_size=checked.max_handshake_size,
        )
        with handshake_deadline(handshake, checked, deadline_of(checked)):
            ws = await _shake_hands(stream, handshake, checked)
        ws._start(nursery, shield=False)
        return ws


async def _open(
    url: str,
    subprotocols: Sequence[str],
    headers: HeadersInput,
    origin: str | None,
    ssl_context: ssl.SSLContext | None,
    connect: Connect | None,
    options: StreamOptions,
) -> WebSocketStream:
    parsed = parse_url(url)
    handshake = ClientHandshake(
        parsed.host_header,
        parsed.target,
        subprotocols=subprotocols,
        headers=headers,
        origin=origin,
        authorization=parsed.authorization,
        compression=options.compression,
        max_size=options.max_handshake_size,
    )
    _check_context(ssl_context, parsed)
    if parsed.secure and ssl_context is None:
        ssl_context = ssl.create_default_context()
    with handshake_deadline(handshake, options, deadline_of(options)):
        stream = await _connect(parsed, connect)
        async with closing_on_failure(stream):
            if parsed.secure:
                assert ssl_context is not None
                stream = await _start_tls(stream, ssl_context, parsed.host)
            return await _shake_hands(stream, handshake, options)


def _check_context(ssl_context: ssl.SSLContext | None, url: WebSocketURL) -> None:
    if ssl_context is None:
        return
    if not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
    if not url.secure:
        raise ValueError("ssl_context is for wss://, and the URL starts with ws://")


async def _connect(url: WebSocketURL, connect: Connect | None) -> trio.abc.Stream:
    if connect is not None:
        stream = await call_unprotected(connect, url.host, url.port)
        check_stream("what connect returns", stream)
        return stream
    try:
        return await trio.open_tcp_stream(url.host, url.port)
    except BaseExceptionGroup as group:
        # Trio tries several addresses at a time, in a nursery.
        error = unwrap(group)
    raise error


async def _start_tls(
    stream: trio.abc.Stream, ssl_context: ssl.SSLContext, host: str
) -> trio.abc.Stream:
    # The zone of an IPv6 address is nobody's business but this machine's.
    name, _, _ = host.partition("%")
    tls_stream = start_tls(stream, ssl_context, name)
    try:
        await tls_stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            cause.strerror = f"{cause.strerror}: without TLS a URL starts with ws://"
        if isinstance(cause, OSError):
            raise cause from None
        raise OSError("the connection broke during the TLS handshake") from error
    return tls_stream


async def _shake_hands(
    stream: trio.abc.Stream, handshake: ClientHandshake, options: StreamOptions
) -> WebSocketStream:
    transport = make_transport(stream)
    # A server may refuse before it has read the request, and its answer is there all the same.
    with suppress(*GONE):
        await stream.send_all(handshake.data_to_send())
    while (response := handshake.next_response()) is None:
        if handshake.refusal() is not None:
            await _raise_refusal(transport, handshake)
        handshake.receive_data(await receive_some(transport))
    return _make_stream(stream, handshake, response, options)


async def _raise_refusal(transport: Transport, handshake: ClientHandshake) -> NoReturn:
    """Read as much of the refusal's body as is worth it."""
    with trio.move_on_after(_REFUSAL_TIME), suppress(*GONE):
        while True:
            handshake.receive_data(await transport.receive())
            handshake.next_response()
    refusal = handshake.refusal()
    assert refusal is not None
    raise refusal


def _make_stream(
    stream: trio.abc.Stream, handshake: ClientHandshake, response: Response, options: StreamOptions
) -> WebSocketStream:
    return WebSocketStream(
        stream,
        Role.CLIENT,
        options,
        request=handshake.request,
        response=response,
        subprotocol=handshake.subprotocol,
        compression=handshake.compression,
        buffered=handshake.trailing_data,
    )
