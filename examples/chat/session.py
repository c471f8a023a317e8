"""One client, from connecting to leaving: what it sends is checked, and done or refused."""

from __future__ import annotations

import logging
import secrets
from typing import Final

import trio

import trio_ws

from .backplane import Identity, Unavailable
from .limits import Limits, TokenBucket
from .logs import log
from .messages import (
    ClientMessage,
    Code,
    Join,
    Ping,
    Refused,
    Rename,
    Say,
    StartTyping,
    encode,
    encode_refusal,
    parse,
)
from .room import TOO_SLOW, Member, Room
from .rooms import LEAVE_TIMEOUT, Rooms

NOT_JOINED: Final = (1008, "you did not join")
TOO_FAST: Final = (1008, "you were told to slow down")

_WARNINGS: Final = 100
"""Times that a client is told to slow down before it is dropped; good conduct makes up for them."""

_RETRY_AFTER: Final = 1.0
"""Seconds after which a client may try again what the backplane was lost for."""


class Session:
    """The conversation with one client."""

    def __init__(self, ws: trio_ws.WebSocketStream, rooms: Rooms, limits: Limits) -> None:
        self._ws = ws
        self._rooms = rooms
        self._limits = limits
        self._bucket = TokenBucket(limits.rate, limits.burst, trio.current_time())
        self._pings = TokenBucket(limits.pings, limits.burst, trio.current_time())
        self._warnings = 0
        self._goodbye: tuple[int, str] | None = None

    async def run(self) -> None:
        """Serve the client until it leaves, or is dropped."""
        entered = await self._join()
        if entered is not None:
            await self._stay(*entered)
        if self._goodbye is not None:
            await self._ws.aclose(*self._goodbye)

    async def _join(self) -> tuple[Room, Member] | None:
        with trio.move_on_after(self._limits.join):
            async for data in self._ws:
                try:
                    return await self._enter(self._check(data))
                except (Refused, Unavailable) as error:
                    await self._refuse(error)
                except trio.WouldBlock:
                    self._goodbye = TOO_SLOW
                if self._goodbye is not None:
                    return None
            return None
        self._goodbye = NOT_JOINED
        return None

    async def _enter(self, message: ClientMessage) -> tuple[Room, Member]:
        if not isinstance(message, Join):
            raise Refused(Code.BAD_MESSAGE, "join comes first")
        identity = Identity(secrets.token_hex(8), message.session, message.nick)
        member = Member(self._ws, identity)
        return await self._rooms.enter(message.room, member, message.seen), member

    async def _stay(self, room: Room, member: Member) -> None:
        log(logging.INFO, "joined", room=room.name, nick=member.who.nick)
        try:
            with member.listening:
                async for data in self._ws:
                    try:
                        await self._do(self._check(data), room, member)
                    except (Refused, Unavailable) as error:
                        await self._refuse(error)
                    if self._goodbye is not None:
                        break
        finally:
            self._goodbye = member.goodbye or self._goodbye
            code, reason = self._goodbye or self._ws.close_reason or (1006, "")
            fields = {"code": code, "reason": reason} if reason else {"code": code}
            log(logging.INFO, "left", room=room.name, nick=member.who.nick, **fields)
            with trio.move_on_after(LEAVE_TIMEOUT, shield=True):
                await self._rooms.leave(room, member)

    def _check(self, data: str | bytes) -> ClientMessage:
        try:
            message = parse(data)
        except Refused:
            self._take(self._bucket)
            raise
        wait = self._take(self._pings if isinstance(message, Ping) else self._bucket)
        if wait:
            key = message.key if isinstance(message, Say) else None
            raise Refused(Code.SLOW_DOWN, "not so fast", key=key, retry_after=round(wait, 3))
        return message

    def _take(self, bucket: TokenBucket) -> float:
        """Take a token from one of the buckets, and warn the client if there is none."""
        wait = bucket.take(trio.current_time())
        self._warnings = self._warnings + 1 if wait else max(0, self._warnings - 1)
        if self._warnings > _WARNINGS:
            self._goodbye = TOO_FAST
        return wait

    async def _do(self, message: ClientMessage, room: Room, member: Member) -> None:
        match message:
            case Say(key, text):
                try:
                    id_ = await self._rooms.say(room, member, key, text)
                except Unavailable:
                    raise _unavailable(key) from None
                await self._ws.send(encode("accepted", key=key, id=id_))
            case Rename(nick):
                await self._rooms.rename(room, member, nick)
            case StartTyping():
                await self._rooms.show_typing(room, member)
            case Ping():
                await self._ws.send(encode("pong"))
            case Join():
                raise Refused(
                    Code.BAD_MESSAGE, "you have joined; connect again to join another room"
                )

    async def _refuse(self, error: Refused | Unavailable) -> None:
        refused = error if isinstance(error, Refused) else _unavailable(None)
        await self._ws.send(encode_refusal(refused))


def _unavailable(key: str | None) -> Refused:
    text = "the servers have lost each other: try again soon"
    return Refused(Code.UNAVAILABLE, text, key=key, retry_after=_RETRY_AFTER)
