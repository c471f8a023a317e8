"""How a test lets trio_ws and a peer meet, in either role, over TCP or TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, Unpack

import trio

import trio_ws
from trio_ws._accepting import ProcessRequest
from trio_ws._options import StreamKeywords
from trio_ws._server import Handler

from .puppeteer import Puppet
from .wire import HOST, Opening, Refusal

Role: TypeAlias = Literal["client", "server"]


class PeerKeywords(TypedDict, total=False):
    """How the peer opens its side: see :class:`interop.wire.Opening`."""

    subprotocols: list[str]
    headers: dict[str, str]
    refusal: Refusal
    max_size: int
    compression: bool


class ServeKeywords(StreamKeywords, total=False):
    """What ``serve_websocket`` takes, as far as the tests need it."""

    subprotocols: Sequence[str]
    headers: Mapping[str, str]
    process_request: ProcessRequest


class OpenKeywords(StreamKeywords, total=False):
    """What both sides of trio_ws take."""

    subprotocols: Sequence[str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class TLS:
    """What both sides need for TLS: contexts for ours, files for the peer's."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    certificate: Path
    authority: Path


@dataclass(frozen=True)
class Meeting:
    """A peer that is ready to be told what to do, and the part that trio_ws plays."""

    nursery: trio.Nursery
    peer: Puppet
    role: Role
    tls: TLS | None

    async def __call__(
        self, peer: PeerKeywords | None = None, **ours: Unpack[OpenKeywords]
    ) -> tuple[trio_ws.WebSocketStream, Puppet]:
        """Open a WebSocket between trio_ws, in its role, and the peer, in the other."""
        if self.role == "client":
            url = await self.peer_listens(peer)
            ws = await trio_ws.connect_websocket(
                self.nursery, url, ssl_context=self.client_context, **ours
            )
        else:
            send, receive = trio.open_memory_channel[trio_ws.WebSocketStream](1)

            async def handler(ws: trio_ws.WebSocketStream) -> None:
                send.send_nowait(ws)
                await trio.sleep_forever()

            _, url = await self.serve(handler, **ours)
            await self.peer_connects(url, peer)
            ws = await receive.receive()
        await self.peer.opened()
        return ws, self.peer

    @property
    def client_context(self) -> ssl.SSLContext | None:
        """TLS for a client of ours."""
        return None if self.tls is None else self.tls.client_context

    async def serve(
        self, handler: Handler, **keywords: Unpack[ServeKeywords]
    ) -> tuple[trio_ws.WebSocketServer, str]:
        """Serve with trio_ws; returns the URL too."""
        server: trio_ws.WebSocketServer = await self.nursery.start(
            partial(
                trio_ws.serve_websocket,
                handler,
                0,
                host=HOST,
                ssl_context=None if self.tls is None else self.tls.server_context,
                **keywords,
            )
        )
        return server, self._url(server.port)

    async def peer_listens(self, how: PeerKeywords | None = None) -> str:
        """Make the peer a server; returns the URL."""
        return self._url(await self.peer.listen(self._opening("server", how or {})))

    async def peer_connects(self, url: str, how: PeerKeywords | None = None) -> None:
        """Make the peer a client, without waiting for the outcome."""
        await self.peer.connect(url, self._opening("client", how or {}))

    def _url(self, port: int) -> str:
        return f"{'ws' if self.tls is None else 'wss'}://{HOST}:{port}/path?query=1"

    def _opening(self, role: Role, how: PeerKeywords) -> Opening:
        return {
            "certificate": str(self.tls.certificate) if self.tls and role == "server" else None,
            "authority": str(self.tls.authority) if self.tls and role == "client" else None,
            "subprotocols": how.get("subprotocols", []),
            "headers": how.get("headers", {}),
            "refusal": how.get("refusal"),
            "max_size": how.get("max_size"),
            "compression": how.get("compression", False),
        }


async def exchange_many(ws: trio_ws.WebSocketStream, peer: Puppet, messages: list[str]) -> None:
    """Both send all messages before either has received them, and each arrives in its order."""

    async def send_ours() -> None:
        for message in messages:
            await ws.send(message)

    async def send_theirs() -> None:
        for message in messages:
            await peer.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_ours)
        nursery.start_soon(send_theirs)
        assert [await ws.receive() for _ in messages] == messages
        assert [await peer.message() for _ in messages] == messages
