"""``aiohttp``, its client and its server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType, web

from interop.wire import HOST, Opening

from .on_asyncio import run
from .puppet import Session, client_context, server_context

DEFAULT_MAX_SIZE = 4 * 2**20
# What RFC 6455 calls 1005 is 0 in aiohttp.
NO_CODE = 0
LARGEST_WINDOW = 15


class WebSocket:
    """A connection of aiohttp, to be told what to do."""

    def __init__(
        self, ws: ClientWebSocketResponse | web.WebSocketResponse, session: Session
    ) -> None:
        self._ws = ws
        self._session = session
        self._closed = asyncio.Event()

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def send_fragments(self, parts: list[str | bytes]) -> None:
        raise NotImplementedError("aiohttp sends whole messages only")

    async def ping(self, payload: bytes) -> None:
        await self._ws.ping(payload)

    async def close(self, code: int | None, reason: str) -> None:
        assert code is not None
        await self._ws.close(code=code, message=reason.encode())
        self._closed.set()

    async def report(self) -> None:
        """Report what it receives, until it is closed."""
        while True:
            message = await self._ws.receive()
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    self._session.message(message.data)
                case WSMsgType.PING:
                    await self._ws.pong(message.data)
                case WSMsgType.PONG:
                    self._session.pong(bytes(message.data))
                case WSMsgType.CLOSE:
                    code = 1005 if message.data == NO_CODE else message.data
                    self._session.closed(code, message.extra)
                    return
                case _:
                    break
        if message.type is WSMsgType.CLOSING:
            await self._closed.wait()
        # Its server does not wait for our answer when another task receives.
        answered = isinstance(self._ws, ClientWebSocketResponse)
        self._session.closed(self._ws.close_code if answered else None, "")


class Aiohttp:
    """The library."""

    version = f"aiohttp {aiohttp.__version__}"

    async def listen(self, opening: Opening, session: Session) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            refusal = opening["refusal"]
            if refusal is not None:
                return web.Response(status=refusal["status"], text=refusal["body"])
            ws = web.WebSocketResponse(
                protocols=opening["subprotocols"],
                autoping=False,
                max_msg_size=opening["max_size"] or DEFAULT_MAX_SIZE,
            )
            ws.headers.update(opening["headers"])
            await ws.prepare(request)
            connection = WebSocket(ws, session)
            session.opened(connection, ws.ws_protocol, request.headers)
            await connection.report()
            return ws

        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, 0, ssl_context=server_context(opening))
            await site.start()
            port: int = runner.addresses[0][1]
            session.listening(port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def connect(self, url: str, opening: Opening, session: Session) -> None:
        headers: dict[str, str] = {}

        async def note_headers(
            http: aiohttp.ClientSession,
            context: SimpleNamespace,
            params: aiohttp.TraceRequestEndParams,
        ) -> None:
            headers.update(params.response.headers)
            await asyncio.sleep(0)

        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(note_headers)
        try:
            async with (
                aiohttp.ClientSession(trace_configs=[tracing]) as http,
                http.ws_connect(
                    url,
                    protocols=opening["subprotocols"],
                    headers=opening["headers"],
                    ssl=client_context(opening) or True,
                    autoping=False,
                    max_msg_size=opening["max_size"] or DEFAULT_MAX_SIZE,
                    compress=LARGEST_WINDOW if opening["compression"] else 0,
                ) as ws,
            ):
                connection = WebSocket(ws, session)
                session.opened(connection, ws.protocol, headers)
                await connection.report()
        except aiohttp.WSServerHandshakeError as error:
            session.refused(error.status, None)


if __name__ == "__main__":
    run(Aiohttp())
