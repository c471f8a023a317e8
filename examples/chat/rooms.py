"""The rooms that are open in this process: copies of what the backplane has, and who is in them.

Theory of operation
-------------------

What happens in a room comes from the backplane as events, in order, and each goes to all members by
``trio_ws.broadcast``, which waits for nobody. A member whose outbox is full *lags*: it is left out,
and a task of its own waits for its outbox to empty and then sends what it has missed, from the
history. If the outbox stays full, or more was missed than the history has, it is dropped with 1013;
it can come back and say what it saw last.

Until a room is open, events are *held*: they wait for the state of the room, which may be newer.
Messages that are in it already are then left out by their ids.

A room is there as soon as somebody wants to come in, and as long as it is used or open. It opens
and closes under a lock of its own, so that who waits for one room does not wait for another. Who
comes while it closes is its user at once, and opens it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import trio

import trio_ws

from .backplane import Backplane, Identity, LocalRoom, RoomState, Unavailable
from .history import History
from .limits import Limits
from .logs import log
from .messages import (
    Code,
    Event,
    Joined,
    Left,
    Message,
    Refused,
    Renamed,
    Typing,
    encode,
    encode_event,
    encode_welcome,
    fold,
)

OPEN_TIMEOUT: Final = 5.0
"""Seconds for a room to open."""

LEAVE_TIMEOUT: Final = 5.0
"""Seconds to tell the backplane that somebody has left."""

TOO_SLOW: Final = (1013, "you read too slowly: come back")
REPLACED: Final = (4000, "you are here by another connection")
OUSTED: Final = (1013, "your nickname was taken while the servers were apart: come back")


@dataclass(eq=False, slots=True)
class Member:
    """Somebody in a room, who is connected to this process.

    :ivar listening: the scope of the task that listens to them; cancelled to drop them.
    :ivar goodbye: code and reason to close with when that has happened.
    :ivar online: whether the servers have each other, as it was told last.
    """

    ws: trio_ws.WebSocketStream
    who: Identity
    listening: trio.CancelScope = field(default_factory=trio.CancelScope)
    goodbye: tuple[int, str] | None = None
    online: bool = True

    def drop(self, goodbye: tuple[int, str]) -> None:
        self.goodbye = goodbye
        self.listening.cancel()


class Room:
    """One room: its members, and the copy of what the backplane has.

    :param nursery: where members that lag are waited for.
    :ivar users: how many are in it, or on their way into it.
    :ivar turning: held by who opens or closes it.
    """

    def __init__(self, name: str, limits: Limits, nursery: trio.Nursery) -> None:
        self.name = name
        self.users = 0
        self.empty_since = trio.current_time()
        self.turning = trio.Lock()
        self._limits = limits
        self._nursery = nursery
        self._members: dict[trio_ws.WebSocketStream, Member] = {}
        self._lagging: set[Member] = set()
        self._coming: set[Member] = set()
        self._online = True
        self.unload()

    def unload(self) -> None:
        """Forget what the backplane has: the room is not open (any more)."""
        self._history = History(self._limits.history)
        self._nicks: dict[str, str] = {}
        self._held: list[Event] | None = []

    @property
    def is_open(self) -> bool:
        return self._held is None

    def members(self) -> list[Member]:
        return [*self._members.values(), *self._lagging]

    def identities(self) -> list[Identity]:
        return [member.who for member in self.members()]

    def state(self) -> RoomState:
        return RoomState(list(self._history), list(self._nicks.values()), self._history.gone)

    @contextmanager
    def place_for(self, member: Member) -> Iterator[None]:
        """Keep a place free, unless *member* has one already by another connection.

        :raises Refused: there is none.
        """
        taken = {*self.members(), *self._coming}
        others = [each for each in taken if each.who.session != member.who.session]
        if len(others) >= self._limits.members:
            raise Refused(Code.ROOM_FULL, f"this room is full: {self._limits.members} may be in it")
        self._coming.add(member)
        try:
            yield
        finally:
            self._coming.discard(member)

    def admit(self, member: Member, seen: int | None) -> None:
        """Welcome *member*, and let it hear all that happens from now on."""
        for other in self.members():
            if other.who.session == member.who.session:
                other.drop(REPLACED)
        # Where the backplane is far away, its word that they joined may still be on its way.
        self._nicks[fold(member.who.nick)] = member.who.nick
        messages, complete = self._history.since(seen)
        nicks = list(self._nicks.values())
        member.ws.send_nowait(
            encode_welcome(
                self.name,
                member.who.nick,
                nicks,
                messages,
                seen=self._history.seen,
                complete=complete,
            )
        )
        self._members[member.ws] = member

    def remove(self, member: Member) -> None:
        self._members.pop(member.ws, None)
        self._lagging.discard(member)

    def load(self, state: RoomState) -> None:
        """Take over *state*, then what was held."""
        held, self._held = self._held or [], None
        if state.since > self._history.seen:
            self.send_to_all(encode("missed"))
            self._history.begin_after(state.since)
        for message in state.messages:
            self.deliver(message)
        nicks = {fold(nick): nick for nick in state.nicks}
        if nicks != self._nicks:
            self._nicks = nicks
            self.send_to_all(self._encode_nicks())
        for event in held:
            self.deliver(event)

    def deliver(self, event: Event) -> None:
        """This happened: remember it, and tell the members."""
        if self._held is not None:
            self._held.append(event)
            return
        seen = self._history.seen
        match event:
            case Message() if not self._history.add(event):
                return
            case Joined(nick):
                self._nicks[fold(nick)] = nick
            case Left(nick):
                self._nicks.pop(fold(nick), None)
            case Renamed(old, new):
                self._nicks.pop(fold(old), None)
                self._nicks[fold(new)] = new
                self._rename_member(old, new)
        self._broadcast(encode_event(event), seen)

    def _rename_member(self, old: str, new: str) -> None:
        """Who is called *old*, and has asked for *new*, may not have got the answer to that."""
        for member in self.members():
            if member.who.nick == old:
                member.who = replace(member.who, nick=new)

    def set_online(self, online: bool) -> None:
        """The servers have lost each other, or have each other again."""
        self._online = online
        self.send_to_all(encode("status", online=online))
        for member in self._members.values():
            member.online = online

    def send_to_all(self, wire: str) -> None:
        """Tell the members of this process what is no event of the room."""
        self._broadcast(wire, self._history.seen)

    def _broadcast(self, wire: str, seen: int) -> None:
        """Send to all who do not lag.

        :param seen: the id of the last message before this.
        """
        for ws in trio_ws.broadcast(self._members, wire):
            if ws.is_open:
                member = self._members.pop(ws)
                self._lagging.add(member)
                self._nursery.start_soon(self._catch_up, member, seen)

    async def _catch_up(self, member: Member, seen: int) -> None:
        """Wait until *member* has read, and send what it has missed since the message *seen*."""
        try:
            with trio.fail_after(self._limits.patience):
                await member.ws.flush()
                while not self._take_back(member, seen):
                    seen = await self._send_missed(member, seen)
                    await member.ws.flush()
        except trio.TooSlowError:
            member.drop(TOO_SLOW)
        except (trio_ws.ConnectionClosed, trio.ClosedResourceError):
            # Whoever listens to it notices too, and removes it.
            pass

    async def _send_missed(self, member: Member, seen: int) -> int:
        """
        :returns: the id of the last message sent.
        """
        while seen < self._history.last_id:
            missed, complete = self._history.since(seen)
            if not complete:
                raise trio.TooSlowError
            await member.ws.send(missed[0].wire)
            seen = missed[0].id
        if member.online != self._online:
            member.online = self._online
            await member.ws.send(encode("status", online=member.online))
        return seen

    def _take_back(self, member: Member, seen: int) -> bool:
        """Let *member* hear what happens, if nothing was missed but who is here.

        Nothing waits between telling that and then, so nobody comes or goes meanwhile.
        """
        if seen < self._history.last_id or member.online != self._online:
            return False
        try:
            member.ws.send_nowait(self._encode_nicks())
        except trio.WouldBlock:
            return False
        if member in self._lagging:
            self._lagging.remove(member)
            self._members[member.ws] = member
        return True

    def _encode_nicks(self) -> str:
        return encode("nicks", nicks=list(self._nicks.values()))


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
        log(logging.WARNING, "backplane", online=online)
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
