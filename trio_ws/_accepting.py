"""Answering a handshake over its stream: with 101 and a WebSocket, or a refusal that arrives."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

from ._arguments import check_async
from ._handshake import HandshakeError, ServerHandshake, ServerRules
from ._http import HeadersInput, Request, Response
from ._listening import name_peer
from ._opening import (
    GONE,
    call_unprotected,
    deadline_of,
    handshake_deadline,
    handshake_timeout,
    receive_some,
)
from ._options import StreamKeywords, StreamOptions, make_options
from ._protocol import Role
from ._stream import WebSocketStream
from ._transport import Transport, make_transport

ProcessRequest: TypeAlias = Callable[[Request], Awaitable[Response | None]]
"""What ``process_request=`` takes."""

_LINGER: Final = 1.0
"""Seconds for a client to read a refusal, where the stream can not half-close."""

logger = logging.getLogger("trio_ws")


@dataclass(frozen=True, slots=True)
class Acceptor:
    """How requests are answered, and with which options streams are opened."""

    rules: ServerRules
    process_request: ProcessRequest | None
    options: StreamOptions

    @classmethod
    def check(
        cls,
        subprotocols: Sequence[str],
        origins: Sequence[str] | None,
        headers: HeadersInput,
        process_request: ProcessRequest | None,
        keywords: StreamKeywords,
    ) -> Acceptor:
        if process_request is not None:
            check_async("process_request", process_request)
        options = make_options(keywords)
        rules = ServerRules(
            subprotocols=subprotocols,
            origins=origins,
            headers=headers,
            compression=options.compression,
            max_size=options.max_handshake_size,
        )
        return cls(rules, process_request, options)

    def make_handshake(self) -> ServerHandshake:
        return ServerHandshake(self.rules)

    def make_wait(self) -> trio.CancelScope:
        """The scope of a handshake that begins now; see :meth:`accept`."""
        return trio.CancelScope(deadline=deadline_of(self.options))

    async def accept(
        self, stream: trio.abc.Stream, handshake: ServerHandshake, waiting: trio.CancelScope
    ) -> WebSocketStream:
        """Answer the client, and make the WebSocket if the answer is 101.

        :param waiting: what :meth:`make_wait` has made. Whoever cancels it makes the answer 503,
            unless there is one.
        :raises HandshakeError: if the answer is not 101, or the client went away.
        :raises HandshakeTimeout: the deadline of *waiting* has passed.
        """
        transport = make_transport(stream)
        refusal = await self._answer(transport, handshake, waiting)
        if refusal is not None:
            _explain_refused_origin(stream, handshake)
            with handshake_deadline(handshake, self.options, waiting.deadline):
                await _deliver_refusal(stream, transport, handshake)
            raise refusal
        data = handshake.data_to_send()
        try:
            # Most sockets take it at once: no scope is needed for that, nor Trio's way to write.
            count = transport.write_nowait([data])
            if count < len(data):
                with handshake_deadline(handshake, self.options, waiting.deadline):
                    await stream.send_all(data[count:])
        except GONE as error:
            raise HandshakeError("the client went away before it was answered") from error
        return _make_stream(stream, handshake, self.options)

    async def _answer(
        self, transport: Transport, handshake: ServerHandshake, waiting: trio.CancelScope
    ) -> HandshakeError | None:
        """Let ``handshake`` have an answer; the error that stands for it unless it is 101."""
        try:
            with waiting:
                while (request := handshake.next_request()) is None:
                    handshake.receive_data(await receive_some(transport))
                await self._respond(handshake, request)
        except HandshakeError as error:
            return error
        if waiting.cancelled_caught:
            if trio.current_time() >= waiting.deadline:
                raise handshake_timeout(self.options)
            handshake.refuse(503, "The server is shutting down.")
        return handshake.refusal()

    async def _respond(self, handshake: ServerHandshake, request: Request) -> None:
        try:
            answer = None
            if self.process_request is not None:
                answer = await call_unprotected(self.process_request, request)
            if not isinstance(answer, Response | None):
                raise TypeError(
                    "process_request must return a Response or None, "
                    f"not {type(answer).__name__}: such as Response(200, body=...)"
                )
            handshake.respond(answer)
        except Exception:
            logger.exception("process_request failed: the client gets 500")
            handshake.refuse(500, "The server failed to process the request.")


def _explain_refused_origin(stream: trio.abc.Stream, handshake: ServerHandshake) -> None:
    """To whoever runs the server: a browser does not say what is wrong, and nobody else can."""
    if handshake.refused_origin is not None:
        assert handshake.request is not None
        logger.warning(
            "%s: web pages from %.200r may not connect to %.200r: allow it with origins=[%.200r]",
            name_peer(stream),
            handshake.refused_origin,
            handshake.request.header("Host"),
            handshake.refused_origin,
        )


async def _deliver_refusal(
    stream: trio.abc.Stream, transport: Transport, handshake: ServerHandshake
) -> None:
    """Send it, and discard what still comes: unread input would turn the end of TCP into a reset,
    which can destroy what was sent.
    """
    data = handshake.data_to_send()
    if not data:
        return
    with suppress(*GONE):
        await stream.send_all(data)
        if transport.can_send_eof:
            await transport.send_eof()
        with trio.move_on_after(math.inf if transport.can_send_eof else _LINGER):
            while await transport.receive():
                pass


def _make_stream(
    stream: trio.abc.Stream, handshake: ServerHandshake, options: StreamOptions
) -> WebSocketStream:
    assert handshake.request is not None
    assert handshake.response is not None
    return WebSocketStream(
        stream,
        Role.SERVER,
        options,
        request=handshake.request,
        response=handshake.response,
        subprotocol=handshake.subprotocol,
        compression=handshake.compression,
        buffered=handshake.trailing_data,
    )
