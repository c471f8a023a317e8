"""The rooms of a server that is a single process. What is in them ends with it."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from .backplane import MOST_REMEMBERED, REMEMBERED, Backplane, Identity, Listener, RoomState
from .messages import Event, Joined, Left, Renamed, make_message
from .nicknames import fold


class _Said(NamedTuple):
    id: int
    time: float


@dataclass(eq=False, slots=True)
class _Room:
    owners: dict[str, Identity] = field(default_factory=dict)
    """By folded nickname."""
    said: OrderedDict[tuple[str, str], _Said] = field(default_factory=OrderedDict)
    """By session and key."""
    last_id: int = 0


class MemoryBackplane(Backplane):
    """Decides at once, and is never unavailable."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    async def run(
        self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._listener: Listener = listener
        task_status.started()
        await trio.sleep_forever()

    @property
    def online(self) -> bool:
        return True

    async def open(self, room: str) -> RoomState:
        await trio.lowlevel.checkpoint()
        # Whatever was said before, in a room or a process that has ended, is gone.
        since = _now() - 1
        self._rooms[room] = _Room(last_id=since)
        return RoomState(since=since)

    async def close(self, room: str) -> None:
        await trio.lowlevel.checkpoint()
        del self._rooms[room]

    async def claim(self, room: str, who: Identity) -> bool:
        await trio.lowlevel.checkpoint()
        owners = self._rooms[room].owners
        owner = owners.get(fold(who.nick))
        if owner is not None and owner.session != who.session:
            return False
        owners[fold(who.nick)] = who
        if owner is None:
            self._deliver(room, Joined(who.nick))
        return True

    async def rename(self, room: str, who: Identity, nick: str) -> bool:
        await trio.lowlevel.checkpoint()
        owners = self._rooms[room].owners
        owner = owners.get(fold(nick))
        if owner is not None and owner.session != who.session:
            return False
        del owners[fold(who.nick)]
        owners[fold(nick)] = Identity(who.member, who.session, nick)
        self._deliver(room, Renamed(who.nick, nick))
        return True

    async def release(self, room: str, who: Identity) -> None:
        await trio.lowlevel.checkpoint()
        owners = self._rooms[room].owners
        for folded, owner in list(owners.items()):
            if owner.member == who.member:
                del owners[folded]
                self._deliver(room, Left(owner.nick))

    async def post(self, room: str, who: Identity, key: str, text: str) -> int:
        await trio.lowlevel.checkpoint()
        state = self._rooms[room]
        said = state.said.get((who.session, key))
        if said is not None:
            return said.id
        state.last_id = max(state.last_id + 1, _now())
        self._remember(state, (who.session, key))
        self._deliver(room, make_message(state.last_id, who.nick, text, key))
        return state.last_id

    async def tell(self, room: str, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        self._deliver(room, event)

    def _remember(self, state: _Room, session_and_key: tuple[str, str]) -> None:
        now = trio.current_time()
        state.said[session_and_key] = _Said(state.last_id, now)
        while len(state.said) > MOST_REMEMBERED or _oldest(state).time < now - REMEMBERED:
            state.said.popitem(last=False)

    def _deliver(self, room: str, event: Event) -> None:
        self._listener.deliver(room, event)


def _oldest(room: _Room) -> _Said:
    return next(iter(room.said.values()))


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
