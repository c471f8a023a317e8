"""``picows``, its client and its server. It hands out frames; messages are made of them here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version

from picows import (
    WSFrame,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)

from interop.wire import HOST, Opening

from .on_asyncio import run
from .puppet import Session, client_context, server_context

DEFAULT_MAX_SIZE = 10 * 2**20
# What RFC 6455 calls 1005 is 0 in picows.
NO_CODE = 0


class WebSocket(WSListener):
    """A connection of picows: reports what it receives, and can be told what to do."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._type = WSMsgType.TEXT
        self._parts: list[bytes] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if transport.is_client_side:
            headers: Mapping[str, str] = transport.response.headers
        else:
            headers = transport.request.headers
        subprotocol = transport.response.headers.get("Sec-WebSocket-Protocol")
        self._session.opened(self, subprotocol, headers)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type == WSMsgType.PONG:
            self._session.pong(payload)
        elif frame.msg_type == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send(WSMsgType.CLOSE, payload)
            if not transport.is_client_side:
                transport.disconnect()
        else:
            self._receive_data(frame, payload)

    def _receive_data(self, frame: WSFrame, payload: bytes) -> None:
        if frame.msg_type != WSMsgType.CONTINUATION:
            self._type = frame.msg_type
        self._parts.append(payload)
        if frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._session.message(message.decode() if self._type == WSMsgType.TEXT else message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        close = transport.close_handshake
        if close is None or close.recv is None:
            self._session.closed(1006, "")
        else:
            # By its stub this is an Enum, but it is an int.
            code: object = close.recv.code
            assert isinstance(code, int)
            self._session.closed(1005 if code == NO_CODE else code, close.recv.reason)

    async def send(self, message: str | bytes) -> None:
        text = isinstance(message, str)
        self._transport.send(WSMsgType.TEXT if text else WSMsgType.BINARY, message)

    async def send_fragments(self, parts: list[str | bytes]) -> None:
        kind = WSMsgType.TEXT if isinstance(parts[0], str) else WSMsgType.BINARY
        for number, part in enumerate(parts, 1):
            self._transport.send(kind, part, fin=number == len(parts))
            kind = WSMsgType.CONTINUATION

    async def ping(self, payload: bytes) -> None:
        self._transport.send_ping(payload)

    async def close(self, code: int | None, reason: str) -> None:
        if code is None:
            self._transport.send(WSMsgType.CLOSE, None)
        else:
            self._transport.send_close(
                code,  # type: ignore[arg-type]  # it takes any, by its stub only registered ones
                reason.encode(),
            )
        await self._transport.wait_disconnected()


class Picows:
    """The library."""

    version = f"picows {version('picows')}"

    async def listen(self, opening: Opening, session: Session) -> None:
        def make_listener(
            request: WSUpgradeRequest,
        ) -> WSUpgradeResponseWithListener:
            refusal = opening["refusal"]
            if refusal is not None:
                response = WSUpgradeResponse.create_error_response(
                    refusal["status"], refusal["body"].encode()
                )
                return WSUpgradeResponseWithListener(response, None)
            offered = request.headers.get("Sec-WebSocket-Protocol", "").split(", ")
            common = [name for name in opening["subprotocols"] if name in offered]
            headers = dict(opening["headers"])
            if common:
                headers["Sec-WebSocket-Protocol"] = common[0]
            response = WSUpgradeResponse.create_101_response(headers)
            return WSUpgradeResponseWithListener(response, WebSocket(session))

        server = await ws_create_server(
            make_listener,
            HOST,
            0,
            ssl=server_context(opening),
            max_frame_size=opening["max_size"] or DEFAULT_MAX_SIZE,
        )
        async with server:
            session.listening(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    async def connect(self, url: str, opening: Opening, session: Session) -> None:
        headers = dict(opening["headers"])
        if opening["subprotocols"]:
            headers["Sec-WebSocket-Protocol"] = ", ".join(opening["subprotocols"])
        try:
            transport, _ = await ws_connect(
                lambda: WebSocket(session),
                url,
                ssl_context=client_context(opening),
                extra_headers=headers,
                max_frame_size=opening["max_size"] or DEFAULT_MAX_SIZE,
            )
        except WSInvalidStatusError as error:
            session.refused(error.response.status if error.response else 0, error.raw_body)
        else:
            # What our side does wrong on purpose: it sees the Close that says so.
            with suppress(WSProtocolError):
                await transport.wait_disconnected()


if __name__ == "__main__":
    run(Picows())
