"""The room: who is in it, and how a line reaches everybody."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass, field

import trio

import trio_ws

logger = logging.getLogger("chat")


@dataclass(eq=False)
class Member:
    """Somebody in the room.

    :ivar listening: the scope of the task that listens to them; cancelled if they are too slow.
    """

    name: str
    ws: trio_ws.WebSocketStream
    listening: trio.CancelScope = field(default_factory=trio.CancelScope)


class Room:
    """Everybody hears everybody, and nobody waits for anybody.

    A member sends bare text. It goes to all members as a JSON object: ``text``, and ``name``, which
    is null in the notices of the room itself.
    """

    def __init__(self) -> None:
        self._members: dict[trio_ws.WebSocketStream, Member] = {}
        self._numbers = itertools.count(1)

    async def serve(self, ws: trio_ws.WebSocketStream) -> None:
        """The life of one member, from coming in to leaving."""
        member = Member(f"Guest {next(self._numbers)}", ws)
        await ws.send(encode_line(None, f"You are {member.name}."))
        self._enter(member)
        try:
            with member.listening:
                await self._listen(member)
        finally:
            self._leave(member)
        if member.listening.cancelled_caught:
            await ws.aclose(1013, "you read too slowly")

    async def _listen(self, member: Member) -> None:
        async for line in member.ws:
            if isinstance(line, bytes):
                await member.ws.aclose(1003, "text only")
                return
            self._tell(member.name, line)

    def _enter(self, member: Member) -> None:
        self._members[member.ws] = member
        self._tell(None, f"{member.name} came in, {len(self._members)} here.")
        logger.info("%s came in", member.name)

    def _leave(self, member: Member) -> None:
        del self._members[member.ws]
        self._tell(None, f"{member.name} left, {len(self._members)} here.")
        how = "too slow" if member.listening.cancelled_caught else member.ws.close_reason
        logger.info("%s left: %s", member.name, how)

    def _tell(self, name: str | None, text: str) -> None:
        for ws in trio_ws.broadcast(self._members, encode_line(name, text)):
            if ws.is_open:
                self._members[ws].listening.cancel()


def encode_line(name: str | None, text: str) -> str:
    return json.dumps({"name": name, "text": text}, ensure_ascii=False)
