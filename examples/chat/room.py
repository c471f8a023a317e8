"""One room, as this process knows it: its members here, and a copy of what the backplane has.

Theory of operation
-------------------

What happens in a room comes from the backplane as events, in order, and each goes to all members by
``trio_ws.broadcast``, which waits for nobody. A member whose outbox is full *lags*: it is left out,
and a task of its own waits for its outbox to empty and then sends what it has missed, from the
history. If the outbox stays full, or more was missed than the history has, it is dropped with 1013;
it can come back and say what it saw last.

Until a room is open, events are *held*: they wait for the state of the room, which may be newer.
Messages that are in it already are then left out by their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

import trio_ws

from .backplane import Identity, RoomState
from .history import History
from .limits import Limits
from .messages import (
    Code,
    Event,
    Joined,
    Left,
    Message,
    Refused,
    Renamed,
    encode,
    encode_event,
    encode_welcome,
)
from .nicknames import fold

TOO_SLOW: Final = (1013, "you read too slowly: come back")
REPLACED: Final = (4000, "you are here by another connection")


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
