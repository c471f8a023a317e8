"""The ways to open a WebSocket as a server, and the server itself."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from ._accepting import Acceptor, ProcessRequest
from ._arguments import check_async, check_stream
from ._errors import ConnectionClosed, StreamClosed
from ._handshake import HandshakeError
from ._http import HeadersInput, Request
from ._listening import (
    Listeners,
    check_server_context,
    listen,
    name_listener,
    name_peer,
    port_of,
)
from ._opening import (
    call_unprotected,
    close_after,
    closing_on_failure,
    unwrap,
)
from ._options import StreamKeywords
from ._payloads import close_payload
from ._stream import WebSocketStream
from ._tls import start_tls

Handler: TypeAlias = Callable[[WebSocketStream], Awaitable[object]]
"""What is called for every WebSocket that was opened."""

_OVERLOADED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What ``accept`` fails with while the process or the system has too many open files."""

_OVERLOAD_PAUSE: Final = 0.1
"""Seconds until ``accept`` is tried again."""

_NO_TLS: Final = {"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
"""How OpenSSL calls it that a client does not speak TLS at all, as who only looks around."""

_CLIENT_HAS_GONE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Which of the two it is depends on the version of CPython."""

logger = logging.getLogger("trio_ws")


@enable_ki_protection
async def wrap_server_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    request: Request | None = None,
    buffered: bytes = b"",
    subprotocols: Sequence[str] = (),
    origins: Sequence[str] | None = None,
    headers: HeadersInput = (),
    process_request: ProcessRequest | None = None,
    **options: Unpack[StreamKeywords],
) -> WebSocketStream:
    """Accept a WebSocket on a stream that a client has connected (Beast's ``accept``).

    The stream belongs to this call from the start: whatever fails closes it. A refusal is sent
    first, and the client has until the deadline of the handshake to read it and close (one second
    if the stream can not half-close).

    :param nursery: where the background tasks of the WebSocket run. It stays open until the
        WebSocket is closed; cancelling it closes the stream at once.
    :param stream: any ``trio.abc.Stream``.
    :param request: the request, if another HTTP server has read it (Beast's ``accept(request)``).
        Default None: it is read from the stream.
    :param buffered: bytes that were read from the stream already: the start of the request, or what
        came behind it if ``request`` is given. Default: none.
    :param subprotocols: names the server knows, in order of preference: the first that the client
        offered is chosen (RFC 6455 section 1.9). Default: none.
    :param origins: whose web pages may connect, such as ``https://example.org``; ``"*"`` is
        everybody's. Default None: those of the host that the request names. A request without an
        Origin header, which no browser sends, is accepted.
    :param headers: more headers for the 101: pairs or a mapping. Default: none.
    :param process_request: an async callable that sees every well-formed request first, HEAD and
        HTTP/1.0 included. It returns None to go on; a :class:`Response` to answer with that
        instead; or ``Response(101, headers)`` to go on and add headers to the answer, where
        Sec-WebSocket-Protocol chooses the subprotocol. If it raises, the client gets 500. Default:
        none.
    :param options: see :class:`StreamOptions`.
    :raises ValueError: a parameter is not legal.
    :raises TypeError: a parameter is of a wrong type, such as a socket for *stream*, or
        *process_request* is a function that is not async.
    :raises HandshakeError: the request was refused, or answered by ``process_request``, and
        ``response`` says how; or the client went away, and ``response`` is None.
    :raises HandshakeTimeout: the handshake, ``process_request`` included, took longer than
        ``Timeouts.handshake``.

    Cancellation closes the stream.
    """
    async with closing_on_failure(stream):
        check_stream("stream", stream)
        acceptor = Acceptor.check(subprotocols, origins, headers, process_request, options)
        handshake = acceptor.make_handshake()
        if request is not None:
            handshake.use_request(request)
        if buffered:
            handshake.receive_data(buffered)
        # A socket may have a request, and take the answer, without any wait.
        await trio.lowlevel.checkpoint()
        ws = await acceptor.accept(stream, handshake, acceptor.make_wait())
        ws._start(nursery, shield=False)
        return ws


@enable_ki_protection
async def serve_websocket(
    handler: Handler,
    port: int | None = None,
    *,
    host: str | None = None,
    listeners: Listeners | None = None,
    ssl_context: ssl.SSLContext | None = None,
    subprotocols: Sequence[str] = (),
    origins: Sequence[str] | None = None,
    headers: HeadersInput = (),
    process_request: ProcessRequest | None = None,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[StreamKeywords],
) -> None:
    """Serve WebSockets until cancelled, or until :meth:`WebSocketServer.shutdown`.

    ``handler(ws)`` runs in a task of its own for every client, and the connection is closed with
    1000 when it returns:

    .. example: fragment

    .. code-block:: python

        async def echo(ws):
            async for message in ws:
                await ws.send(message)

        server = await nursery.start(trio_ws.serve_websocket, echo, 8000)

    Handlers are isolated from each other. What one raises is logged at once, to the logger
    ``trio_ws``, and closes its connection with 1011. The end of its own stream, bare or in groups
    with nothing else, is no error but the usual end: its :class:`ConnectionClosed`, or its
    ``trio.ClosedResourceError`` after another task has closed it. Cancelled, KeyboardInterrupt and
    SystemExit pass.

    :param handler: an async function, or another callable that returns an awaitable. It is given
        the :class:`WebSocketStream`.
    :param port: the TCP port to listen on; 0 lets the system choose one that is free for every
        address, and :attr:`WebSocketServer.port` says which. Give this or *listeners*.
    :param host: the address or the name to listen on. Default None: every address, by IPv4 and by
        IPv6.
    :param listeners: what to listen on instead of *port*, such as Unix sockets. They belong to this
        call from the start.
    :param ssl_context: speak TLS, on top of *listeners* too. It is one for servers, as
        ``ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)`` makes it, with a certificate loaded.
        Default: do not.
    :param subprotocols: as for :func:`wrap_server_stream`; so *origins*, *headers* and
        *process_request*.
    :param task_status: for ``nursery.start``, which returns the :class:`WebSocketServer` when it
        listens.
    :param options: see :class:`StreamOptions`.
    :raises ValueError: a parameter is not legal.
    :raises TypeError: a parameter is of a wrong type, or *handler* or *process_request* is a
        function that is not async.
    :raises OSError: the port can not be listened on.

    Cancellation cancels the handlers. Until its handler has ended a stream works, in shields; then
    its client is told 1001, and has a second to answer.
    """
    async with closing_on_failure(*(listeners or ())):
        check_async("handler", handler)
        acceptor = Acceptor.check(subprotocols, origins, headers, process_request, options)
        check_server_context(ssl_context)
        opened = await listen(port, host, listeners)
    server = WebSocketServer(handler, acceptor, opened, ssl_context)
    try:
        await server._serve(lambda: task_status.started(server))
        return
    except BaseExceptionGroup as group:
        # Of the server's own nurseries nobody needs to know.
        error = unwrap(group)
    raise error


class WebSocketServer:
    """A running server: what ``nursery.start(serve_websocket, ...)`` returns.

    Made by :func:`serve_websocket`; the constructor is not public.
    """

    def __init__(
        self,
        handler: Handler,
        acceptor: Acceptor,
        listeners: Listeners,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._handler = handler
        self._acceptor = acceptor
        self._listeners = tuple(listeners)
        self._ssl_context = ssl_context
        self._ports = {port for port in map(port_of, listeners) if port is not None}
        self._addresses = ", ".join(map(name_listener, listeners))
        self._connections: set[WebSocketStream] = set()
        self._handshakes: set[trio.CancelScope] = set()
        self._goodbye: tuple[int | None, str] | None = None
        self._listening = trio.CancelScope()
        self._running = trio.CancelScope()
        self._ended = trio.Event()

    def __repr__(self) -> str:
        count = len(self._connections)
        connections = "1 connection" if count == 1 else f"{count} connections"
        return f"<WebSocketServer on {self._addresses}: {connections}>"

    @property
    def listeners(self) -> tuple[trio.abc.Listener[trio.abc.Stream], ...]:
        """What the server listens on, below TLS: the addresses are those of their sockets."""
        return self._listeners

    @property
    def port(self) -> int:
        """The TCP port that the server listens on.

        :raises RuntimeError: there is none, or there are several: then see :attr:`listeners`.
        """
        if not self._ports:
            raise RuntimeError("this server does not listen on a TCP port: see its listeners")
        if len(self._ports) > 1:
            raise RuntimeError(
                f"this server listens on several ports, {sorted(self._ports)}: see its listeners"
            )
        return next(iter(self._ports))

    @property
    def connections(self) -> frozenset[WebSocketStream]:
        """The streams whose handlers run, at this moment: for :func:`broadcast`, say."""
        return frozenset(self._connections)

    @enable_ki_protection
    async def shutdown(
        self, *, grace: float = 10.0, code: int | None = 1001, reason: str = ""
    ) -> None:
        """End the server in order; afterwards :func:`serve_websocket` returns.

        It stops listening, answers open handshakes with 503, and sends a Close to every client. The
        handlers then have time to end: they can send no more, receive until their
        :class:`ConnectionClosed`, and clean up. Those that have not ended by then are cancelled.

        It may be called again, by other tasks too: the first Close counts, and the shortest grace.
        A handler must not wait for it: it would wait for itself, until it is cancelled.

        :param grace: seconds for handlers and open handshakes to end. Default 10. 0 cancels them at
            once; ``math.inf`` never does.
        :param code: as for :meth:`WebSocketStream.send_close`. Default 1001, going away.
        :param reason: as for :meth:`WebSocketStream.send_close`. Default: none.
        :raises ValueError: *code* or *reason* may not be sent, or *grace* is negative; then nothing
            has changed.
        :raises TypeError: *code* is not an int, or *reason* not a str; so, too.

        Cancellation is a grace of 0: the handlers are cancelled, and this does not wait for them.
        """
        close_payload(code, reason)
        if not grace >= 0:
            raise ValueError(f"grace={grace!r}: give seconds, 0 or more")
        try:
            await self._begin_shutdown(code, reason)
            with trio.move_on_after(grace):
                await self._ended.wait()
        finally:
            self._listening.cancel()
            self._running.cancel()
        await self._ended.wait()

    async def _begin_shutdown(self, code: int | None, reason: str) -> None:
        if self._goodbye is not None:
            return
        self._goodbye = code, reason
        self._listening.cancel()
        for handshake in self._handshakes:
            handshake.cancel()
        for ws in self.connections:
            # It does not wait, and being shielded reaches them with a grace of 0, too.
            with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError):
                await ws.send_close(code, reason)

    async def _serve(self, started: Callable[[], None]) -> None:
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    started()
                    with self._listening:
                        async with trio.open_nursery() as accepting:
                            for listener in self._listeners:
                                accepting.start_soon(self._accept, listener, nursery)
        finally:
            self._ended.set()

    @enable_ki_protection
    async def _accept(
        self, listener: trio.abc.Listener[trio.abc.Stream], clients: trio.Nursery
    ) -> None:
        """What ``trio.serve_listeners`` does, but for one thing: it closes a client's stream in
        whatever scope there is, and a Cancelled from there would hide what the handler raised.
        """
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _OVERLOADED:
                        raise
                    logger.error("no connection can be accepted: %s: trying again soon", error)
                    await trio.sleep(_OVERLOAD_PAUSE)
                else:
                    clients.start_soon(self._serve_client, stream, clients, name="trio_ws handler")

    @enable_ki_protection
    async def _serve_client(self, stream: trio.abc.Stream, clients: trio.Nursery) -> None:
        peer = name_peer(stream)
        try:
            async with closing_on_failure(stream):
                ws = await self._open(self._start_tls(stream))
            logger.debug("%s: opened", peer)
            # Its background tasks share the nursery of all clients: one of its own would cost
            # 30 us, a fifteenth of a connection, and 1.6 KiB. They shield themselves, and have
            # ended when _run_handler has.
            ws._start(clients, shield=True)
            self._connections.add(ws)
            try:
                await self._run_handler(ws, peer)
            finally:
                self._connections.remove(ws)
            logger.debug("%s: closed: %s", peer, ws.close_reason)
        except HandshakeError as error:
            _log_unopened(error, peer)
        except Exception:
            logger.exception("%s: the connection failed", peer)

    def _start_tls(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """Not the business of a listener: what fails here is one client's, who is closed."""
        if self._ssl_context is None:
            return stream
        return start_tls(stream, self._ssl_context)

    async def _open(self, stream: trio.abc.Stream) -> WebSocketStream:
        waiting = self._acceptor.make_wait()
        if self._goodbye is not None:
            waiting.cancel()
        self._handshakes.add(waiting)
        try:
            return await self._acceptor.accept(stream, self._acceptor.make_handshake(), waiting)
        finally:
            self._handshakes.remove(waiting)

    async def _run_handler(self, ws: WebSocketStream, peer: str) -> None:
        """Run the handler, and close. Whatever it raises that is an Exception is only logged, when
        it is raised: closing may take a while.
        """
        if self._goodbye is not None:
            await ws.aclose(*self._goodbye)
            return
        try:
            await call_unprotected(self._handler, ws)
        except Exception as error:
            if not _is_own_end(error, ws):
                _log_failure(error, peer)
                await close_after(ws, error)
        except BaseExceptionGroup as group:
            failures, others = group.split(Exception)
            if failures is not None and not _is_own_end(failures, ws):
                _log_failure(failures, peer)
            await close_after(ws, group)  # noqa: ASYNC120 (it shields itself)
            assert others is not None
            raise others from group.__cause__
        except BaseException as error:
            await close_after(ws, error)  # noqa: ASYNC102 (it shields itself)
            raise
        await ws.aclose()


def _is_own_end(error: BaseException, ws: WebSocketStream) -> bool:
    """Whether a handler ended because its stream did: that, and nothing else, went wrong."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_own_end(part, ws) for part in error.exceptions)
    # StreamClosed: another task of the application has closed the stream under the handler.
    return isinstance(error, ConnectionClosed | StreamClosed) and error.stream is ws


def _log_unopened(error: HandshakeError, peer: str) -> None:
    """Whoever knocks and goes away is DEBUG; what a server or a client does wrong is more."""
    refused = error.response is not None and error.response.status >= 400
    level = logging.INFO if refused else logging.DEBUG
    why = str(error)
    tls_error = _tls_error(error)
    if tls_error is not None:
        why = f"TLS failed: {tls_error}"
        if tls_error.reason == "NO_SHARED_CIPHER":
            level = logging.WARNING
            why += ": has ssl_context loaded a certificate?"
        elif tls_error.reason not in _NO_TLS:
            level = logging.INFO
    logger.log(level, "%s: no WebSocket was opened: %s", peer, why)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """What OpenSSL has to say about how it came to this, unless it is that the client has gone."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, _CLIENT_HAS_GONE):
            return error
        error = error.__cause__
    return None


def _log_failure(error: BaseException, peer: str) -> None:
    logger.error("%s: the handler raised", peer, exc_info=error)
