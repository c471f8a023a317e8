"""The rooms of this process: when they open and close, and who is let in.

A room is there as soon as somebody wants to come in, and as long as it is used or open. It opens
and closes under a lock of its own, so that who waits for one room does not wait for another. Who
comes while it closes is its user at once, and opens it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from .backplane import Backplane, LocalRoom, RoomState, Unavailable
from .limits import Limits
from .logs import log
from .messages import Code, Event, Refused, Typing
from .room import Member, Room

OPEN_TIMEOUT: Final = 5.0
"""Seconds for a room to open."""

LEAVE_TIMEOUT: Final = 5.0
"""Seconds to tell the backplane that somebody has left."""

OUSTED: Final = (1013, "your nickname was taken while the servers were apart: come back")


class Rooms:
    """All rooms that are open in this process; the listener of its backplane."""

    def __init__(self, backplane: Backplane, limits: Limits) -> None:
        self._backplane = backplane
        self._limits = limits
        self._rooms: dict[str, Room] = {}
        self._leave_by = math.inf
        self._leaving: set[trio.CancelScope] = set()
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._rooms)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the rooms until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._backplane.run, self)
            task_status.started()
            while True:
                await trio.sleep(self._limits.keep / 4)
                await self._close_empty()

    async def enter(self, name: str, member: Member, seen: int | None) -> Room:
        """Let *member* into a room; the caller must :meth:`leave`.

        :raises Refused: it can not be let in.
        :raises Unavailable: the backplane can not be reached.
        :raises trio.WouldBlock: it does not read, not even refusals.
        :raises trio_ws.ConnectionClosed: it has gone.
        """
        room = await self._use(name)
        try:
            with room.place_for(member):
                if not await self._backplane.claim(name, member.who):
                    raise Refused(Code.NICK_TAKEN, f"there is a {member.who.nick} in this room")
                try:
                    room.admit(member, seen)
                except Exception:
                    with trio.move_on_after(LEAVE_TIMEOUT, shield=True):
                        await self._release(name, member)
                    raise
        except BaseException:
            self._stop_using(room)
            raise
        return room

    async def leave(self, room: Room, member: Member) -> None:
        """The end of :meth:`enter`."""
        room.remove(member)
        try:
            await self._release(room.name, member)
        finally:
            self._stop_using(room)

    def leave_by(self, deadline: float) -> None:
        """The server stops: from *deadline* on, the backplane is not told any more who leaves."""
        self._leave_by = deadline
        for scope in self._leaving:
            scope.deadline = deadline

    async def _release(self, room: str, member: Member) -> None:
        """Tell the backplane that *member* has left, if there is time for that."""
        with trio.CancelScope(deadline=self._leave_by) as scope, suppress(Unavailable):
            self._leaving.add(scope)
            try:
                await self._backplane.release(room, member.who)
            finally:
                self._leaving.remove(scope)

    async def rename(self, room: Room, member: Member, nick: str) -> None:
        if not await self._backplane.rename(room.name, member.who, nick):
            raise Refused(Code.NICK_TAKEN, f"there is a {nick} in this room")
        member.who = replace(member.who, nick=nick)

    async def say(self, room: Room, member: Member, key: str, text: str) -> int:
        """:returns: the id of the message."""
        return await self._backplane.post(room.name, member.who, key, text)

    async def show_typing(self, room: Room, member: Member) -> None:
        await self._backplane.tell(room.name, Typing(member.who.nick))

    def deliver(self, room: str, event: Event) -> None:
        if room in self._rooms:
            self._rooms[room].deliver(event)

    def set_online(self, online: bool) -> None:
        log(logging.INFO if online else logging.WARNING, "backplane", online=online)
        for room in self._rooms.values():
            room.set_online(online)

    def load(self, room: str, state: RoomState) -> None:
        if room in self.local_rooms():
            self._rooms[room].load(state)

    def evict(self, room: str, member: str) -> None:
        if room in self._rooms:
            for each in self._rooms[room].members():
                if each.who.member == member:
                    each.drop(OUSTED)

    def local_rooms(self) -> Mapping[str, LocalRoom]:
        return {name: room for name, room in self._rooms.items() if room.is_open}

    async def _use(self, name: str) -> Room:
        try:
            with trio.fail_after(OPEN_TIMEOUT):
                room = await self._find(name)
                room.users += 1
                try:
                    await self._open(room)
                except BaseException:
                    self._stop_using(room)
                    raise
        except trio.TooSlowError:
            raise Unavailable from None
        return room

    def _stop_using(self, room: Room) -> None:
        room.users -= 1
        room.empty_since = trio.current_time()
        if not room.users and not room.is_open:
            del self._rooms[room.name]

    async def _find(self, name: str) -> Room:
        """The room, which may have to be made, and then not be open."""
        while name not in self._rooms:
            if len(self._rooms) < self._limits.rooms:
                assert self._nursery is not None
                self._rooms[name] = Room(name, self._limits, self._nursery)
            else:
                await self._make_space()
        return self._rooms[name]

    async def _make_space(self) -> None:
        """Close the room that has been empty for longest."""
        empty = [room for room in self._rooms.values() if not room.users]
        if not empty:
            raise Refused(Code.SERVER_FULL, f"all {self._limits.rooms} rooms are used: join one")
        await self._close(min(empty, key=lambda room: room.empty_since))

    async def _close_empty(self) -> None:
        for room in list(self._rooms.values()):
            is_over = trio.current_time() >= room.empty_since + self._limits.keep
            # While others were closed, it may have been closed too.
            if is_over and not room.users and room.is_open:
                await self._close(room)

    async def _open(self, room: Room) -> None:
        async with room.turning:
            if not room.is_open:
                room.unload()  # what was held in vain
                room.load(await self._backplane.open(room.name))
                log(logging.INFO, "room opened", room=room.name)

    async def _close(self, room: Room) -> None:
        """Close a room that nobody uses."""
        room.users += 1
        try:
            async with room.turning:
                room.unload()
                await self._backplane.close(room.name)
                log(logging.INFO, "room closed", room=room.name)
        finally:
            self._stop_using(room)
