"""Where the rooms live: who has which nickname, and what was said in which order.

A server process keeps a copy of each room that one of its clients is in. A backplane decides, and
tells every process that has the room open, this one included. There are two of them: one in the
memory of a single process, and one in Redis for many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from .messages import Event, Message

REMEMBERED: Final = 600.0
"""Seconds for which the keys of messages are remembered, so that none is said twice."""

MOST_REMEMBERED: Final = 2_000
"""Keys that are remembered of a room: those of its last messages."""


class Unavailable(Exception):
    """The backplane can not be reached: whether what was asked for has happened is not known."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who is in a room.

    :ivar member: random, and new with each connection.
    :ivar session: the secret of the client: who knows it can take the nickname over.
    """

    member: str
    session: str
    nick: str


@dataclass(frozen=True, slots=True)
class RoomState:
    """A room at one moment.

    :ivar since: there may have been messages up to this id that are not here.
    """

    messages: Sequence[Message] = ()
    nicks: Sequence[str] = ()
    since: int = 0


class LocalRoom(Protocol):
    """A room as a process knows it; the backplane may have forgotten something of that."""

    def identities(self) -> Sequence[Identity]:
        """Who is in it now, connected to this process."""

    def state(self) -> RoomState:
        """What this process has heard of it."""


class Listener(Protocol):
    """A process, as its backplane knows it. Nothing here waits."""

    def deliver(self, room: str, event: Event) -> None:
        """This happened in a room."""

    def set_online(self, online: bool) -> None:
        """The backplane was lost, or is back."""

    def load(self, room: str, state: RoomState) -> None:
        """This is how a room is, after some of what happened may not have been delivered."""

    def evict(self, room: str, member: str) -> None:
        """That member's nickname belongs to somebody else by now."""

    def local_rooms(self) -> Mapping[str, LocalRoom]:
        """The rooms that are open."""


class Backplane(ABC):
    """What decides. Whatever it is asked for, it may raise :exc:`Unavailable`."""

    @abstractmethod
    async def run(
        self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be there for *listener*, until cancelled."""

    @property
    @abstractmethod
    def online(self) -> bool:
        """Whether it can be reached, as far as is known."""

    @abstractmethod
    async def open(self, room: str) -> RoomState:
        """Tell the listener what happens in *room* from now on.

        :returns: how it was at some moment since the call.
        """

    @abstractmethod
    async def close(self, room: str) -> None:
        """The end of :meth:`open`; never raises."""

    @abstractmethod
    async def claim(self, room: str, who: Identity) -> bool:
        """Come in. False if the nickname belongs to another session.

        If it raises, the member is not in; and leaves as soon as can be, if that was not certain.
        """

    @abstractmethod
    async def rename(self, room: str, who: Identity, nick: str) -> bool:
        """Take another nickname. False if it belongs to another session."""

    @abstractmethod
    async def release(self, room: str, who: Identity) -> None:
        """Leave, whatever nickname the member has by now, if it has one.

        If it raises, the member leaves as soon as can be.
        """

    @abstractmethod
    async def post(self, room: str, who: Identity, key: str, text: str) -> int:
        """Say something; the same key again is the same message again.

        :returns: its id.
        """

    @abstractmethod
    async def tell(self, room: str, event: Event) -> None:
        """Let everybody know of something that nobody has to remember."""
