"""What a server process answers: the page, health checks, and the WebSocket of the chat."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio_ws

from .backplane import Backplane
from .limits import Limits
from .messages import Code, Refused, encode_refusal
from .rooms import Rooms
from .session import Session

SERVER_FULL: Final = (1013, "the server is full")

_SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _load(name: str, content_type: str) -> trio_ws.Response:
    headers = {"Content-Type": f"{content_type}; charset=utf-8", "Cache-Control": "no-cache"}
    body = Path(__file__).with_name(name).read_bytes()
    return trio_ws.Response(200, {**headers, **_SECURITY}, body)


_PAGE: Final = _load("page.html", "text/html")
_FILES: Final[Mapping[str, trio_ws.Response]] = {
    "/": _PAGE,
    "/page.css": _load("page.css", "text/css"),
    "/page.js": _load("page.js", "text/javascript"),
}
_room_path = re.compile(r"/rooms/[a-z0-9_-]{1,32}", re.ASCII)


class ChatServer:
    """One process of the chat server.

    :ivar rooms: they are open while its ``run`` runs.
    """

    def __init__(self, backplane: Backplane, limits: Limits) -> None:
        self.rooms = Rooms(backplane, limits)
        self._backplane = backplane
        self._limits = limits
        self._clients = 0

    async def handle(self, ws: trio_ws.WebSocketStream) -> None:
        """Serve one client."""
        self._clients += 1
        try:
            if self._clients > self._limits.clients:
                await self._turn_away(ws)
            else:
                await Session(ws, self.rooms, self._limits).run()
        finally:
            self._clients -= 1

    async def _turn_away(self, ws: trio_ws.WebSocketStream) -> None:
        text = f"{self._limits.clients} are here: the server is full"
        await ws.send(encode_refusal(Refused(Code.SERVER_FULL, text)))
        await ws.aclose(*SERVER_FULL)

    async def process_request(  # noqa: ASYNC124 (a hook is async, also one that never waits)
        self, request: trio_ws.Request
    ) -> trio_ws.Response | None:
        """Answer what is not for the WebSocket."""
        path, _, _ = request.target.partition("?")
        if path == "/chat":
            return None
        if path == "/healthz":
            answer = self._health()
        elif _room_path.fullmatch(path):
            answer = _PAGE
        elif path in _FILES:
            answer = _FILES[path]
        else:
            return trio_ws.Response(404, body="There is nothing here.\n")
        if request.method not in ("GET", "HEAD"):
            return trio_ws.Response(405, {"Allow": "GET, HEAD"}, "This can only be read.\n")
        return answer

    def _health(self) -> trio_ws.Response:
        """A server without its backplane is well: its clients wait there for it to come back."""
        health = {
            "status": "ok",
            "pid": os.getpid(),
            "clients": self._clients,
            "rooms": len(self.rooms),
            "backplane": "online" if self._backplane.online else "offline",
        }
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return trio_ws.Response(200, headers, json.dumps(health) + "\n")
