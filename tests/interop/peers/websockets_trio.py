"""``websockets``, its Trio client and server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import version

import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.trio.client import connect
from websockets.trio.connection import Connection
from websockets.trio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from interop.wire import HOST, Opening

from .on_trio import run
from .puppet import Session, client_context, server_context

DEFAULT_MAX_SIZE = 2**20


class WebSocket:
    """A connection of ``websockets``, to be told what to do."""

    def __init__(self, ws: Connection, session: Session) -> None:
        self._ws = ws
        self._session = session

    async def send(self, message: str | bytes) -> None:
        await self._ws.send(message)

    async def send_fragments(self, parts: list[str | bytes]) -> None:
        await self._ws.send(parts)

    async def ping(self, payload: bytes) -> None:
        await (await self._ws.ping(payload)).wait()
        self._session.pong(payload)

    async def close(self, code: int | None, reason: str) -> None:
        assert code is not None
        await self._ws.aclose(code, reason)


async def converse(ws: Connection, headers: Mapping[str, str], session: Session) -> None:
    """Report what a connection receives, until it is closed."""
    session.opened(WebSocket(ws, session), ws.subprotocol, headers)
    try:
        async for message in ws:
            session.message(message)
    except ConnectionClosed:
        pass
    await ws.wait_closed()
    session.closed(ws.close_code, ws.close_reason)


class WebsocketsTrio:
    """The library."""

    version = f"websockets {version('websockets')}, trio"

    async def listen(self, opening: Opening, session: Session) -> None:
        def process_request(ws: ServerConnection, request: Request) -> Response | None:
            if opening["refusal"] is None:
                return None
            return ws.respond(opening["refusal"]["status"], opening["refusal"]["body"])

        def process_response(ws: ServerConnection, request: Request, response: Response) -> None:
            response.headers.update(opening["headers"])

        async def handler(ws: ServerConnection) -> None:
            assert ws.request is not None
            await converse(ws, ws.request.headers, session)

        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(
                partial(
                    serve,
                    handler,
                    0,
                    host=HOST,
                    ssl=server_context(opening),
                    subprotocols=[Subprotocol(name) for name in opening["subprotocols"]] or None,
                    process_request=process_request,
                    process_response=process_response,
                    max_size=opening["max_size"] or DEFAULT_MAX_SIZE,
                )
            )
            session.listening(server.listeners[0].socket.getsockname()[1])

    async def connect(self, url: str, opening: Opening, session: Session) -> None:
        try:
            async with connect(
                url,
                ssl=client_context(opening),
                subprotocols=[Subprotocol(name) for name in opening["subprotocols"]] or None,
                additional_headers=opening["headers"],
                max_size=opening["max_size"] or DEFAULT_MAX_SIZE,
                proxy=None,
            ) as ws:
                assert ws.response is not None
                await converse(ws, ws.response.headers, session)
        except InvalidStatus as error:
            session.refused(error.response.status_code, error.response.body)


if __name__ == "__main__":
    run(WebsocketsTrio())
