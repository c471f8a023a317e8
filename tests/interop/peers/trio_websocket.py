"""``trio-websocket``."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version
from typing import TypeAlias
from urllib.parse import urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
    wrap_client_stream,
)
from wsproto.frame_protocol import CloseReason

from interop.wire import HOST, Opening

from .on_trio import run
from .puppet import Session, client_context, server_context

DEFAULT_MAX_SIZE = 2**20

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class WebSocket:
    """A connection of ``trio-websocket``, to be told what to do."""

    def __init__(self, ws: WebSocketConnection, session: Session) -> None:
        self._ws = ws
        self._session = session
        self._closing: trio.Event | None = None

    async def send(self, message: str | bytes) -> None:
        await self._ws.send_message(message)

    async def send_fragments(self, parts: list[str | bytes]) -> None:
        raise NotImplementedError("trio-websocket sends whole messages only")

    async def ping(self, payload: bytes) -> None:
        await self._ws.ping(payload)
        self._session.pong(payload)

    async def close(self, code: int | None, reason: str) -> None:
        self._closing = trio.Event()
        try:
            await self._ws.aclose(CloseReason.NO_STATUS_RCVD if code is None else code, reason)
        finally:
            self._closing.set()

    async def report(self) -> None:
        """Report what it receives, until it is closed."""
        try:
            while True:
                self._session.message(await self._ws.get_message())
        except ConnectionClosed:
            pass
        if self._closing is not None:
            # What our side answers is known only then.
            await self._closing.wait()
        closed = self._ws.closed
        assert closed is not None
        self._session.closed(closed.code, closed.reason)


async def open_stream(url: str, context: ssl.SSLContext | None) -> Stream:
    """Connect to a URL's host, with TLS if there is a context for it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    if context is None:
        return await trio.open_tcp_stream(parts.hostname, parts.port)
    return await trio.open_ssl_over_tcp_stream(
        parts.hostname, parts.port, ssl_context=context, https_compatible=True
    )


def header_dict(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text."""
    return {name.decode("ascii"): value.decode("latin-1") for name, value in headers}


def header_list(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as bytes."""
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


class TrioWebsocket:
    """The library."""

    version = f"trio-websocket {version('trio-websocket')}"

    async def listen(self, opening: Opening, session: Session) -> None:
        async def handler(request: WebSocketRequest) -> None:
            refusal = opening["refusal"]
            if refusal is not None:
                await request.reject(refusal["status"], body=refusal["body"].encode())
                return
            common = [n for n in opening["subprotocols"] if n in request.proposed_subprotocols]
            ws = await request.accept(
                subprotocol=common[0] if common else None,
                extra_headers=header_list(opening["headers"]),
            )
            connection = WebSocket(ws, session)
            session.opened(connection, ws.subprotocol, header_dict(request.headers))
            await connection.report()

        async with trio.open_nursery() as nursery:
            server: WebSocketServer = await nursery.start(
                partial(
                    serve_websocket,
                    handler,
                    HOST,
                    0,
                    server_context(opening),
                    max_message_size=opening["max_size"] or DEFAULT_MAX_SIZE,
                )
            )
            session.listening(server.port)

    async def connect(self, url: str, opening: Opening, session: Session) -> None:
        # With open_websocket_url the socket would stay open after a Close from the server, until it
        # is garbage: a stream of our own can be closed.
        stream = await open_stream(url, client_context(opening))
        try:
            async with trio.open_nursery() as nursery:
                await self._converse(nursery, stream, url, opening, session)
        except* ConnectionRejected as group:
            [error] = group.exceptions
            assert isinstance(error, ConnectionRejected)
            session.refused(error.status_code, error.body)
        finally:
            await trio.aclose_forcefully(stream)

    async def _converse(
        self, nursery: trio.Nursery, stream: Stream, url: str, opening: Opening, session: Session
    ) -> None:
        parts = urlsplit(url)
        ws = await wrap_client_stream(
            nursery,
            stream,
            parts.netloc,
            f"{parts.path}?{parts.query}",
            subprotocols=opening["subprotocols"],
            extra_headers=header_list(opening["headers"]),
            max_message_size=opening["max_size"] or DEFAULT_MAX_SIZE,
        )
        connection = WebSocket(ws, session)
        session.opened(connection, ws.subprotocol, header_dict(ws.handshake_headers))
        await connection.report()


if __name__ == "__main__":
    run(TrioWebsocket())
