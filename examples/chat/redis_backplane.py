"""Rooms in Redis, for any number of server processes on any number of machines.

Theory of operation
-------------------

What has to be decided in one place is decided by the scripts in ``lua/``, which Redis runs one by
one: who has a nickname, which id a message gets, whether it was said before. A script also
publishes what has happened, so all processes are told in the order of the decisions.

A nickname is held by a lease that the process of its owner renews. If that process dies, the lease
ends, and whichever process renews next finds that, and tells that somebody has left. To renew is to
make longer what is still held: it never brings back what was released meanwhile. If Redis has lost
a nickname, its owner takes it back, unless it is somebody else's by then.

A process that has no connection misses what is published, and it may not know: so each says
something to itself from time to time, and if it does not hear that, it connects anew. After each
connect it brings its rooms up to date: it gives back to Redis what Redis may have lost, and takes
what it has missed itself. All keys of a room have its name in braces, which puts them into one
shard of a cluster.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import coredis
import trio
from coredis.commands import Script
from coredis.exceptions import RedisError
from coredis.patterns.pubsub import PubSub
from coredis.response.types import PubSubMessage
from coredis.retry import NoRetryPolicy

from .backplane import (
    MOST_REMEMBERED,
    REMEMBERED,
    Backplane,
    Identity,
    Listener,
    LocalRoom,
    RoomState,
    Unavailable,
)
from .logs import log
from .messages import Event, Message, decode_event, encode_event
from .nicknames import fold

_LEASE: Final = 30.0
"""Seconds after which somebody has left whose server is gone."""

_LEASE_MS: Final = round(_LEASE * 1000)
_REMEMBERED_MS: Final = round(REMEMBERED * 1000)

_RENEWAL: Final = _LEASE / 3
"""Seconds between renewals of the leases."""

_TIMEOUT: Final = 3.0
"""Seconds for Redis to answer."""

_PULSE: Final = 2.0
"""Seconds between two times that a process hears itself through Redis."""

_SILENCE: Final = 5.0
"""Seconds in which it has to; or else the connection is dead."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
"""Seconds between attempts to connect; the pause doubles from the first to the longest."""

_FAILURES: Final = (
    RedisError,
    OSError,
    trio.TooSlowError,
    # What coredis has for a pool, or a connection, that ends at this moment.
    RuntimeError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
)

_SCRIPTS: Final = {path.stem: path.read_text() for path in Path(__file__).parent.glob("lua/*.lua")}


@dataclass(frozen=True, slots=True)
class _Link:
    """One connection to Redis, for as long as it lives."""

    scripts: dict[str, Script[str]]
    pubsub: PubSub[str]

    async def call(self, name: str, keys: Sequence[str], *arguments: str | int) -> object:
        """Run a script.

        :raises Unavailable: there was no answer: whether it has run is not known.
        """
        try:
            with trio.fail_after(_TIMEOUT):
                return await self.scripts[name](keys=keys, args=arguments)
        except _FAILURES as error:
            raise Unavailable from error


class RedisBackplane(Backplane):
    """Rooms in Redis.

    :param url: such as ``redis://localhost:6379``.
    :param history: messages that a room keeps.
    :param keep: seconds that a room is kept when everybody has left.
    """

    def __init__(self, url: str, *, history: int, keep: float) -> None:
        self._url = url
        self._history = history
        self._keep = round(max(keep, 2 * _LEASE) * 1000)
        self._link: _Link | None = None
        self._announced = False
        self._tried = trio.Event()
        self._pulse = f"chat:pulse:{secrets.token_hex(8)}"  # a channel of this process alone
        self._heard = trio.Event()
        self._unreleased: set[tuple[str, Identity]] = set()  # who may hold what they should not

    @property
    def online(self) -> bool:
        return self._link is not None

    async def run(
        self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        logging.getLogger("coredis").setLevel(logging.CRITICAL)  # what it says is said below
        self._listener: Listener = listener
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connect_for_ever)
            nursery.start_soon(self._renew_for_ever)
            await self._tried.wait()
            task_status.started()

    async def _connect_for_ever(self) -> None:
        pause = _FIRST_PAUSE
        level = logging.WARNING
        error = ""
        while True:
            try:
                await self._connect()
            except* (Unavailable, *_FAILURES) as errors:
                error = _text_of(errors)
            # Of a Cancelled too coredis makes ClosedResourceError, wanting to unsubscribe.
            await trio.lowlevel.checkpoint()
            # Once for each time that it is away.
            log(logging.WARNING if self._announced else level, "no Redis", error=error)
            level = logging.DEBUG
            self._tried.set()
            if self._announced:
                self._announced = False
                pause = _FIRST_PAUSE
                self._listener.set_online(False)
            # Not all servers at once.
            await trio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _connect(self) -> None:
        """Be connected, until the connection is lost."""
        client = coredis.Redis.from_url(
            self._url,
            decode_responses=True,
            retry_policy=NoRetryPolicy(),
            stream_timeout=_TIMEOUT,
            connect_timeout=_TIMEOUT,
        )
        async with (
            client,
            client.pubsub(
                ignore_subscribe_messages=True,
                retry_policy=NoRetryPolicy(),
                subscription_timeout=_TIMEOUT,
            ) as pubsub,
        ):
            scripts = {name: client.register_script(text) for name, text in _SCRIPTS.items()}
            link = _Link(scripts, pubsub)
            await self._resume(link)
            self._link = link
            self._announced = True
            self._listener.set_online(True)
            self._tried.set()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, link)
                    while True:
                        self._receive(await pubsub.get_message())
            finally:
                self._link = None

    async def _watch(self, link: _Link) -> None:
        """Fail if nothing comes any more: a connection can be dead without anybody knowing.

        So this process says something to itself from time to time.
        """
        while True:
            self._heard = trio.Event()
            with trio.move_on_after(_SILENCE):
                await self._hear_myself(link)
            if not self._heard.is_set():
                raise trio.TooSlowError(f"it has said nothing for {_SILENCE} s")
            await trio.sleep(_PULSE)

    async def _hear_myself(self, link: _Link) -> None:
        while True:
            with suppress(Unavailable):
                await link.call("tell", [self._pulse], "")
            with trio.move_on_after(_PULSE):
                await self._heard.wait()
                return

    def _receive(self, message: PubSubMessage | None) -> None:
        self._heard.set()
        if message is None or message["type"] != "message" or message["channel"] == self._pulse:
            return
        room = _room_of(str(message["channel"]))
        try:
            event = decode_event(str(message["data"]))
        except (ValueError, KeyError, TypeError) as error:
            log(logging.ERROR, "not understood", room=room, error=error)
        else:
            self._listener.deliver(room, event)

    async def _resume(self, link: _Link) -> None:
        """Bring Redis and the rooms of this process up to date with each other.

        What is published from now on waits in the connection until this is done.
        """
        rooms = self._listener.local_rooms()
        channels = [_Keys(room).channel for room in rooms]
        await link.pubsub.subscribe(self._pulse, *channels)
        for name, room in rooms.items():
            await self._seed(link, name, room.state())
            await self._renew(link, name, room)
            self._listener.load(name, await self._state_of(link, name))
        await self._release_late(link)

    async def _seed(self, link: _Link, room: str, state: RoomState) -> None:
        keys = _Keys(room)
        arguments: list[str | int] = [self._history + 1, self._keep, state.since]
        for message in state.messages:
            arguments += [message.id, message.wire]
        await link.call("seed", [keys.log, keys.last, keys.since], *arguments)

    async def _renew_for_ever(self) -> None:
        while True:
            await trio.sleep(_RENEWAL)
            with suppress(Unavailable):
                await self.renew(self._listener.local_rooms())

    async def renew(self, rooms: Mapping[str, LocalRoom]) -> None:
        """What is to be done from time to time, lest the nicknames in *rooms* get lost."""
        for name, room in rooms.items():
            await self._renew(self._current(), name, room)
        await self._release_late(self._current())

    async def _renew(self, link: _Link, name: str, room: LocalRoom) -> None:
        """Keep the nicknames in *room*, take back those that Redis has lost, tell who has left."""
        keys = _Keys(name)
        members = room.identities()
        arguments: list[str | int] = [_LEASE_MS]
        for who in members:
            arguments += [fold(who.nick), who.member]
        held = _flags(await link.call("renew", [keys.nicks, keys.leases], *arguments))
        lost = [who for who, is_held in zip(members, held, strict=True) if not is_held]
        taken_back = await self._claim(link, name, lost, takeover=False)
        still_here = {who.member for who in room.identities()}
        for who, is_theirs in zip(lost, taken_back, strict=True):
            if who.member not in still_here:
                self._unreleased.add((name, who))  # left before it was taken back, maybe
            elif not is_theirs:
                self._listener.evict(name, who.member)

    async def _claim(
        self, link: _Link, room: str, members: Sequence[Identity], *, takeover: bool
    ) -> list[bool]:
        keys = _Keys(room)
        arguments: list[str | int] = [_LEASE_MS, self._keep, int(takeover)]
        for who in members:
            arguments += [fold(who.nick), who.session, who.member, who.nick]
        results = await link.call(
            "claim",
            [keys.nicks, keys.leases, keys.channel, keys.log, keys.last, keys.said, keys.since],
            *arguments,
        )
        return _flags(results)

    async def _state_of(self, link: _Link, room: str) -> RoomState:
        keys = _Keys(room)
        state = await link.call("state", [keys.log, keys.nicks, keys.since], self._keep)
        assert isinstance(state, list)
        wires, owners, since = state
        events = [decode_event(wire) for wire in wires]
        messages = [event for event in events if isinstance(event, Message)]
        nicks = [owner.split(" ", 2)[2] for owner in owners]
        # One more is kept than is shown: without it, the first was the first of all.
        is_cut = len(messages) > self._history
        return RoomState(messages, nicks, messages[0].id - 1 if is_cut else int(since))

    def _current(self) -> _Link:
        if self._link is None:
            raise Unavailable
        return self._link

    async def open(self, room: str) -> RoomState:
        link = self._current()
        try:
            await link.pubsub.subscribe(_Keys(room).channel)
        except _FAILURES as error:
            raise Unavailable from error
        return await self._state_of(link, room)

    async def close(self, room: str) -> None:
        with suppress(Unavailable, *_FAILURES):
            await self._current().pubsub.unsubscribe(_Keys(room).channel)

    async def claim(self, room: str, who: Identity) -> bool:
        link = self._current()
        try:
            (is_theirs,) = await self._claim(link, room, [who], takeover=True)
        except BaseException:
            self._unreleased.add((room, who))
            raise
        return is_theirs

    async def rename(self, room: str, who: Identity, nick: str) -> bool:
        keys = _Keys(room)
        result = await self._current().call(
            "rename",
            [keys.nicks, keys.leases, keys.channel],
            *(_LEASE_MS, who.session, who.member, fold(who.nick), fold(nick), who.nick, nick),
        )
        if result == -1:
            raise Unavailable
        return result == 1

    async def release(self, room: str, who: Identity) -> None:
        try:
            await self._release(self._current(), room, who)
        except BaseException:
            self._unreleased.add((room, who))
            raise

    async def _release(self, link: _Link, room: str, who: Identity) -> None:
        keys = _Keys(room)
        await link.call("release", [keys.nicks, keys.leases, keys.channel], who.member)

    async def _release_late(self, link: _Link) -> None:
        """Release what could not be released in time."""
        while self._unreleased:
            room, who = next(iter(self._unreleased))
            await self._release(link, room, who)
            self._unreleased.discard((room, who))

    async def post(self, room: str, who: Identity, key: str, text: str) -> int:
        keys = _Keys(room)
        fields = {"nick": who.nick, "text": text, "key": key}
        rest = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:]
        id_ = await self._current().call(
            "post",
            [keys.log, keys.last, keys.said, keys.channel],
            *(f"{who.session} {key}", rest, self._history + 1),
            *(_REMEMBERED_MS, MOST_REMEMBERED, self._keep),
        )
        assert isinstance(id_, int)
        return id_

    async def tell(self, room: str, event: Event) -> None:
        await self._current().call("tell", [_Keys(room).channel], encode_event(event))


class _Keys:
    """The names of a room's keys. The braces keep them in one shard of a Redis Cluster."""

    def __init__(self, room: str) -> None:
        prefix = f"chat:{{{room}}}:"
        self.log = prefix + "log"
        self.last = prefix + "last"
        self.since = prefix + "since"
        self.said = prefix + "said"
        self.nicks = prefix + "nicks"
        self.leases = prefix + "leases"
        self.channel = prefix + "events"


def _flags(results: object) -> list[bool]:
    assert isinstance(results, list)
    return [result == 1 for result in results]


def _text_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text_of(each) for each in error.exceptions)
    return str(error) or repr(error)


def _room_of(channel: str) -> str:
    return channel.partition("{")[2].partition("}")[0]
