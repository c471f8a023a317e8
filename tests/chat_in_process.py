"""The chat server in the test's own process, its clients connected through memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Unpack

import trio
import trio.testing
from chat_client import Visitor

import trio_ws
from examples.chat.backplane import Backplane
from examples.chat.limits import Limits
from examples.chat.memory_backplane import MemoryBackplane
from examples.chat.messages import MAX_FRAME
from examples.chat.server import ChatServer
from trio_ws.testing import websocket_pair


class LocalChat:
    """A chat server without a port."""

    def __init__(self, nursery: trio.Nursery, limits: Limits, backplane: Backplane) -> None:
        self.server = ChatServer(backplane, limits)
        self._nursery = nursery
        self._served = 0
        self._all_left = trio.Event()

    async def server_is_left(self) -> None:
        """Wait until everybody has left."""
        await self._all_left.wait()

    async def connect(self, **server: Unpack[trio_ws.StreamKeywords]) -> Visitor:
        options: trio_ws.StreamKeywords = {"max_message_size": MAX_FRAME, **server}
        ws, peer = await websocket_pair(self._nursery, server=options)
        self._nursery.start_soon(self._handle, peer)
        return Visitor(ws)

    async def connect_slowly(self) -> Visitor:
        """A client that reads nothing ahead, and for which next to nothing is kept."""
        ws, peer = await websocket_pair(
            self._nursery,
            trio.testing.lockstep_stream_pair(),
            client={"max_inbox_size": 1},
            server={"max_outbox_size": 1},
        )
        self._nursery.start_soon(self._handle, peer)
        return Visitor(ws)

    async def _handle(self, ws: trio_ws.WebSocketStream) -> None:
        """As serve_websocket calls it."""
        self._served += 1
        with suppress(trio_ws.ConnectionClosed):
            await self.server.handle(ws)
        await ws.aclose()
        self._served -= 1
        if not self._served:
            self._all_left.set()

    async def enter(self, nick: str, room: str = "lobby") -> Visitor:
        visitor = await self.connect()
        await visitor.join(nick, room)
        return visitor


async def start(
    nursery: trio.Nursery, limits: Limits | None = None, backplane: Backplane | None = None
) -> LocalChat:
    """A chat server that runs in *nursery*."""
    chat = LocalChat(nursery, limits or Limits(), backplane or MemoryBackplane())
    await nursery.start(chat.server.rooms.run)
    return chat
