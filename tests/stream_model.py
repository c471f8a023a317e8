"""Two streams, programs for tasks that use them, and a model of what may be seen of it.

A :class:`Program` says what each task does, and after how many scheduler ticks a call is cancelled.
:func:`run` runs it in a Trio run of its own. The model knows of each call whether it returned, and
from that alone what must have been received: a queue is right if nothing comes out that did not go
in, nothing twice, and nothing ahead of what had gone in before.

Whenever all tasks are stuck, the model says who may be: a call that waits has a reason. Then what
waits is cancelled, which is total, and the tasks go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

import trio
import trio.testing
from sweeping import Contexts, is_closed, make_streams, nothing_left

from trio_ws import (
    ConnectionClosed,
    ConnectionClosedOK,
    Opcode,
    PermessageDeflate,
    Timeouts,
    WebSocketStream,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_ws._options import StreamKeywords
from trio_ws.testing import FaultyStream, set_budget

T = TypeVar("T")

TIMEOUTS: Final = Timeouts(handshake=10, idle=None, keep_alive_pings=False)

_CLEAN_CODES: Final = (1000, 1001, 1005)


@dataclass(frozen=True)
class Call:
    """A call that is cancelled after so many ticks: 0 is before it, None is never."""

    cancel: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Send(Call):
    """A message, with so many characters beside its name."""

    size: int = 0
    binary: bool = False


@dataclass(frozen=True)
class SendPart(Call):
    """The first part of a message, or the next one of that which this task has begun."""

    size: int = 0
    fin: bool = True


@dataclass(frozen=True)
class SendNowait:
    size: int = 0


@dataclass(frozen=True)
class Receive(Call):
    pass


@dataclass(frozen=True)
class ReceivePart(Call):
    max_bytes: int | None = None


@dataclass(frozen=True)
class ReceiveNowait:
    pass


@dataclass(frozen=True)
class Ping(Call):
    pass


@dataclass(frozen=True)
class Pong(Call):
    pass


@dataclass(frozen=True)
class Flush(Call):
    pass


@dataclass(frozen=True)
class SendClose(Call):
    pass


@dataclass(frozen=True)
class Aclose(Call):
    pass


@dataclass(frozen=True)
class TearDown:
    """Cancel the nursery that the stream lives in."""


@dataclass(frozen=True)
class Wait:
    ticks: int = 1


SenderStep: TypeAlias = Send | SendPart | SendNowait | Ping | Pong | Flush | Wait
ReceiverStep: TypeAlias = Receive | ReceivePart | ReceiveNowait | Wait
CloserStep: TypeAlias = SendClose | Aclose | TearDown | Wait
Step: TypeAlias = SenderStep | ReceiverStep | CloserStep


@dataclass(frozen=True)
class Script:
    """What the tasks of one side do. Only one that receives alone may take parts."""

    senders: tuple[tuple[SenderStep, ...], ...] = ()
    receivers: tuple[tuple[ReceiverStep, ...], ...] = ()
    closer: tuple[CloserStep, ...] = ()


@dataclass(frozen=True)
class Program:
    """Everything that makes an example, but for the kind of the transports.

    :ivar max_bytes: that a transport which passes few at a time passes.
    :ivar compression: with context takeover, what is compressed and not sent garbles what follows.
    :ivar ticks_before: ticks that pass first. It changes nothing but the order in which Trio runs
        tasks, which is chance; within hypothesis, of a known seed.
    :ivar ending: who closes in the end, if nobody has before, and how.
    """

    client: Script = Script()
    server: Script = Script()
    max_bytes: int = 500
    budget: int = 1
    max_inbox_size: int = 1
    max_outbox_size: int = 1
    max_frame_size: int | None = None
    compression: PermessageDeflate | None = None
    ticks_before: int = 0
    ending: tuple[str, SendClose | Aclose] = ("client", Aclose())


class Outcome(Enum):
    RETURNED = "returned"
    CANCELLED = "cancelled"
    REFUSED = "refused"


@dataclass
class Ended(Generic[T]):
    """How a call has ended, and with what."""

    outcome: Outcome
    result: T | None = None
    error: ConnectionClosed | trio.ClosedResourceError | None = None


class Clock:
    """Numbers the events."""

    def __init__(self) -> None:
        self._time = 0

    def now(self) -> int:
        self._time += 1
        return self._time


@dataclass
class Message:
    """What one side sends.

    :ivar data: what was sent of it: its parts so far.
    :ivar returned: when the call that ended it returned: then it is committed.
    """

    data: str | bytes
    began: int
    returned: int | None = None


@dataclass
class Taken:
    """What one side has received whole."""

    data: str | bytes
    began: int
    returned: int


@dataclass
class Waiting:
    """A call that has not ended."""

    step: Call
    task: Player
    scope: trio.CancelScope


class Side:
    """One stream, and what is known of it.

    :ivar released: whether this side has closed the stream for good: from then on a call may raise
        ``trio.ClosedResourceError``.
    :ivar torn: whether that was terminal cancellation.
    :ivar ended: how its receivers saw the connection end, and when first.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.peer: Side
        self.ws: WebSocketStream
        self.stream: trio.abc.Stream
        self.scope = trio.CancelScope()
        self.messages: list[Message] = []
        self.taken: list[Taken] = []
        self.partial: str | bytes | None = None
        self.partial_began = 0
        self.open_message: tuple[Player, Message] | None = None
        self.waiting: list[Waiting] = []
        self.sent_pongs: dict[bytes, bool] = {}
        self.seen: list[tuple[Opcode, bytes]] = []
        self.released = False
        self.torn = False
        self.has_closed = False
        self.ended: ConnectionClosed | None = None
        self.ended_at: int | None = None
        self.receivers_left = 0
        self.receivers_done = trio.Event()

    def see_control(self, opcode: Opcode, payload: bytes) -> None:
        self.seen.append((opcode, bytes(payload)))

    def committed(self) -> list[Message]:
        return [message for message in self.messages if message.returned is not None]

    def waits(self, *kinds: type[Call]) -> list[Waiting]:
        """The calls of these kinds that wait."""
        return [waiting for waiting in self.waiting if isinstance(waiting.step, kinds)]

    def tear_down(self) -> None:
        self.released = self.torn = self.has_closed = True
        self.scope.cancel()

    def check_error(
        self, step: Call, error: ConnectionClosed | trio.ClosedResourceError, began: int
    ) -> None:
        """It is the documented one."""
        if isinstance(error, trio.ClosedResourceError):
            assert self.released
            return
        assert self.has_closed or self.peer.has_closed, "nobody has closed"
        assert self.ws.close_reason is not None
        receiving = isinstance(step, Receive | ReceivePart)
        assert isinstance(error, ConnectionClosedOK) is (receiving and error.code in _CLEAN_CODES)
        if receiving and self.ended_at is None:
            self.ended = error
            self.ended_at = self.clock.now()

    # What has been received

    def take(self, data: str | bytes, fin: bool, began: int) -> None:
        # Of a message that was cut off, the beginning can still be taken.
        assert not fin or self.ended_at is None or began < self.ended_at, "a message after the end"
        if self.partial is None:
            self.partial_began = began
            self.partial = data
        else:
            self.partial = _join(self.partial, data)
        if fin:
            self.taken.append(Taken(self.partial, self.partial_began, self.clock.now()))
            self.partial = None

    def check_taken(self) -> None:
        """Whole messages of the peer, each once, none ahead of what was sent before it."""
        sent = {message.data: message for message in self.peer.committed()}
        assert len({taken.data for taken in self.taken}) == len(self.taken), "doubled"
        for taken in self.taken:
            assert taken.data in sent, f"nobody has sent {taken.data[:20]!r}"
        for earlier in self.taken:
            for later in self.taken:
                if earlier.returned < later.began:
                    returned = sent[later.data].returned
                    assert returned is not None
                    assert sent[earlier.data].began < returned, "out of order"
        self._check_nothing_skipped(sent)

    def _check_nothing_skipped(self, sent: dict[str | bytes, Message]) -> None:
        seen = {taken.data for taken in self.taken}
        last_began = max((sent[data].began for data in seen), default=0)
        for message in sent.values():
            assert message.returned is not None
            if message.returned < last_began:
                assert message.data in seen, "lost, but a later one has arrived"

    def check_has_all(self) -> None:
        """Nothing that the peer has committed is missing."""
        self.check_taken()
        assert len(self.taken) == len(self.peer.committed()), "lost"
        assert self._seen_pongs() == {data for data, sent in self.peer.sent_pongs.items() if sent}

    def check_pongs(self) -> None:
        """None that was cancelled, and none twice."""
        seen = [payload for opcode, payload in self.seen if _is_own_pong(opcode, payload)]
        assert len(set(seen)) == len(seen)
        assert all(self.peer.sent_pongs[payload] for payload in seen)

    def _seen_pongs(self) -> set[bytes]:
        return {payload for opcode, payload in self.seen if _is_own_pong(opcode, payload)}

    # Who may wait

    def check_waiting(self) -> None:
        """All tasks are stuck, and both streams are open: is there a reason for each?"""
        if not self.waits(Receive, ReceivePart):
            return
        # This side takes what comes, so all that the peer has committed has come.
        self.check_has_all()
        peer = self.peer
        if self.waits(ReceivePart):
            begun = None if peer.open_message is None else peer.open_message[1].data
            assert self.partial == begun, "a part was not handed over"
        assert not peer.waits(Flush, Pong, SendClose)
        for waiting in peer.waits(Send, SendPart):
            assert peer.open_message is not None, "a send waits for nothing"
            assert peer.open_message[0] is not waiting.task
        if peer.waits(Receive, ReceivePart):
            assert not self.waits(Ping), "a ping is not answered"


def _join(start: str | bytes, rest: str | bytes) -> str | bytes:
    if isinstance(start, str):
        assert isinstance(rest, str)
        return start + rest
    assert isinstance(rest, bytes)
    return start + rest


def _is_own_pong(opcode: Opcode, payload: bytes) -> bool:
    return opcode is Opcode.PONG and payload.startswith(b"pong")


class Player:
    """One task, as its script has it."""

    def __init__(self, run: Run, side: Side, name: str) -> None:
        self.run = run
        self.side = side
        self.name = f"{side.name} {name}"
        self.open_message: Message | None = None
        self._count = 0

    async def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self.take_step(step)

    async def take_step(self, step: Step) -> None:
        match step:
            case Wait():
                for _ in range(step.ticks):
                    await trio.lowlevel.checkpoint()
            case Send():
                await self._send(step)
            case SendPart():
                await self._send_part(step)
            case SendNowait():
                self._send_nowait(step)
            case Receive():
                await self.receive(step)
            case ReceivePart():
                await self._receive_part(step)
            case ReceiveNowait():
                self._receive_nowait()
            case Ping():
                await self._ping(step)
            case Pong():
                await self._pong(step)
            case Flush():
                await self._call(step, self.side.ws.flush)
            case SendClose():
                await self._send_close(step)
            case Aclose():
                await self._aclose(step)
            case TearDown():
                self.side.tear_down()

    async def _call(self, step: Call, function: Callable[[], Awaitable[T]]) -> Ended[T]:
        """Make a call, and cancel it when its time has come."""
        side = self.side
        began = side.clock.now()
        ended: Ended[T] | None = None
        waiting = Waiting(step, self, trio.CancelScope())
        side.waiting.append(waiting)
        self.run.calls += 1
        with waiting.scope:
            if step.cancel is not None:
                self.run.cancel_after(step.cancel, waiting.scope)
            try:
                ended = Ended(Outcome.RETURNED, await function())
            except (ConnectionClosed, trio.ClosedResourceError) as error:
                side.check_error(step, error, began)
                ended = Ended(Outcome.REFUSED, error=error)
        side.waiting.remove(waiting)
        if ended is None:
            assert waiting.scope.cancelled_caught
            self.run.cancelled += 1
            return Ended(Outcome.CANCELLED)
        assert step.cancel != 0, "not a cancellation point"
        return ended

    def _new_name(self) -> str:
        self._count += 1
        return f"{self.name} {self._count} "

    def _begin(self, data: str | bytes) -> Message:
        message = Message(data, self.side.clock.now())
        self.side.messages.append(message)
        return message

    async def _send(self, step: Send) -> None:
        text = self._new_name() + "é" * step.size
        message = self._begin(text.encode() if step.binary else text)
        if self.open_message is not None:
            await self._check_refused_amid_a_message(step, message)
            return
        ended = await self._call(step, partial(self.side.ws.send, message.data))
        if ended.outcome is Outcome.RETURNED:
            message.returned = self.side.clock.now()

    async def _check_refused_amid_a_message(self, step: Send, message: Message) -> None:
        async def send() -> bool:
            try:
                await self.side.ws.send(message.data)
            except RuntimeError:
                return True
            return False

        ended = await self._call(step, send)
        assert ended.outcome is not Outcome.RETURNED or ended.result, "sent amid a message"

    async def _send_part(self, step: SendPart) -> None:
        side = self.side
        first = self.open_message is None
        message = self.open_message or self._begin("")
        part = (self._new_name() if first else "") + "é" * step.size
        ended = await self._call(step, partial(side.ws.send_some, part, fin=step.fin))
        if ended.outcome is Outcome.REFUSED:
            self._set_open(None)
        if ended.outcome is not Outcome.RETURNED:
            return
        message.data = _join(message.data, part)
        if step.fin:
            message.returned = side.clock.now()
        self._set_open(None if step.fin else message)

    def _set_open(self, message: Message | None) -> None:
        if message is not None:
            self.side.open_message = self, message
        elif self.open_message is not None:
            self.side.open_message = None
        self.open_message = message

    def _send_nowait(self, step: SendNowait) -> None:
        message = self._begin(self._new_name() + "é" * step.size)
        try:
            self.side.ws.send_nowait(message.data)
        except trio.WouldBlock:
            return
        except (ConnectionClosed, trio.ClosedResourceError) as error:
            self.side.check_error(Send(), error, self.side.clock.now())
            return
        message.returned = self.side.clock.now()

    async def receive(self, step: Receive) -> bool:
        """False if there will be no more."""
        began = self.side.clock.now()
        ended = await self._call(step, self.side.ws.receive)
        if ended.result is not None:
            self.side.take(ended.result, True, began)
        return ended.outcome is not Outcome.REFUSED

    async def _receive_part(self, step: ReceivePart) -> None:
        began = self.side.clock.now()
        ended = await self._call(step, partial(self.side.ws.receive_some, step.max_bytes))
        if ended.result is not None:
            data, fin = ended.result
            assert data or fin, "an empty part that is not the last one"
            size = len(data.encode() if isinstance(data, str) else data)
            assert step.max_bytes is None or size <= step.max_bytes or len(data) == 1
            self.side.take(data, fin, began)

    def _receive_nowait(self) -> None:
        began = self.side.clock.now()
        try:
            message = self.side.ws.receive_nowait()
        except trio.WouldBlock:
            return
        except (ConnectionClosed, trio.ClosedResourceError) as error:
            self.side.check_error(Receive(), error, began)
            return
        self.side.take(message, True, began)

    async def _ping(self, step: Ping) -> None:
        payload = self._new_name().encode()
        ended = await self._call(step, partial(self.side.ws.ping, payload))
        if ended.outcome is Outcome.RETURNED:
            assert (Opcode.PING, payload) in self.side.peer.seen

    async def _pong(self, step: Pong) -> None:
        payload = b"pong " + self._new_name().encode()
        pongs = self.side.sent_pongs
        pongs[payload] = False
        ended = await self._call(step, partial(self.side.ws.pong, payload))
        pongs[payload] = ended.outcome is Outcome.RETURNED

    async def _send_close(self, step: SendClose) -> None:
        side = self.side
        was_open = side.ws.is_open
        ended = await self._call(step, side.ws.send_close)
        if ended.outcome is Outcome.RETURNED:
            side.has_closed = True
            assert not side.ws.is_open
        elif was_open and ended.outcome is Outcome.CANCELLED:
            assert side.ws.is_open or side.has_closed or side.peer.has_closed

    async def _aclose(self, step: Aclose) -> None:
        side = self.side
        side.released = side.has_closed = True
        ended = await self._call(step, side.ws.aclose)
        assert ended.outcome is not Outcome.REFUSED, "aclose raised"
        if ended.outcome is Outcome.CANCELLED:
            side.torn = True
        assert not side.ws.is_open
        assert side.ws.close_reason is not None
        assert await is_closed(side.stream)


class Run:
    """One program, running.

    :ivar calls: how many calls were made.
    :ivar cancelled: how many of them were cancelled.
    """

    def __init__(self, program: Program, kind: str, contexts: Contexts) -> None:
        self.calls = 0
        self.cancelled = 0
        self._program = program
        self._kind = kind
        self._contexts = contexts
        clock = Clock()
        self._client, self._server = self._sides = Side("client", clock), Side("server", clock)
        self._client.peer, self._server.peer = self._server, self._client

    async def main(self) -> None:
        set_budget(self._program.budget)
        began = trio.current_time()
        with nothing_left(), trio.fail_after(100):
            async with trio.open_nursery() as self._cancellers, trio.open_nursery() as nursery:
                await self._open(nursery)
                for _ in range(self._program.ticks_before):
                    await trio.lowlevel.checkpoint()
                await self._play()
                for side in self._sides:
                    await side.ws.aclose()
                    side.scope.cancel()
            for side in self._sides:
                await _check_end(side)
        # No deadline has run out: everything ended by itself.
        assert trio.current_time() < began + TIMEOUTS.handshake_seconds

    def cancel_after(self, ticks: int, scope: trio.CancelScope) -> None:
        if ticks:
            self._cancellers.start_soon(_cancel_after, ticks, scope)
        else:
            scope.cancel()

    async def _open(self, nursery: trio.Nursery) -> None:
        program = self._program
        streams = await make_streams(self._kind, self._contexts)
        nurseries = [await nursery.start(_keep_nursery, side) for side in self._sides]
        options: StreamKeywords = {
            "timeouts": TIMEOUTS,
            "max_inbox_size": program.max_inbox_size,
            "max_outbox_size": program.max_outbox_size,
            "max_frame_size": program.max_frame_size,
            "compression": program.compression,
        }

        async def connect() -> None:
            self._client.ws = await wrap_client_stream(
                nurseries[0], streams[0], host="test", **options
            )

        async def accept() -> None:
            self._server.ws = await wrap_server_stream(nurseries[1], streams[1], **options)

        async with trio.open_nursery() as handshakes:
            handshakes.start_soon(connect)
            handshakes.start_soon(accept)
        for side, stream in zip(self._sides, streams, strict=True):
            side.stream = stream
            assert (side.ws.compression is None) is (program.compression is None)
            side.ws.configure(control_callback=side.see_control)
            if isinstance(stream, FaultyStream):
                stream.max_bytes = program.max_bytes

    async def _play(self) -> None:
        """The program, and then the end of the connection."""
        async with trio.open_nursery() as nursery:
            self._tasks_left = 0
            for side, script in zip(
                self._sides, (self._program.client, self._program.server), strict=True
            ):
                self._start(nursery, side, script)
            await trio.testing.wait_all_tasks_blocked()
            while self._tasks_left and self._is_open():
                for side in self._sides:
                    side.check_waiting()
                for waiting in [*self._client.waiting, *self._server.waiting]:
                    waiting.scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            for side in self._sides:
                nursery.start_soon(self._receive_rest, side)
            if self._is_open():
                await self._end()

    def _start(self, nursery: trio.Nursery, side: Side, script: Script) -> None:
        for number, sender in enumerate(script.senders):
            self._start_task(nursery, Player(self, side, f"sends {number}"), sender)
        for number, receiver in enumerate(script.receivers):
            side.receivers_left += 1
            self._start_task(nursery, Player(self, side, f"receives {number}"), receiver)
        self._start_task(nursery, Player(self, side, "closes"), script.closer)

    def _start_task(self, nursery: trio.Nursery, player: Player, steps: Sequence[Step]) -> None:
        self._tasks_left += 1
        nursery.start_soon(self._play_task, player, steps, name=player.name)

    async def _play_task(self, player: Player, steps: Sequence[Step]) -> None:
        await player.play(steps)
        self._tasks_left -= 1
        if "receives" in player.name:
            player.side.receivers_left -= 1
            player.side.receivers_done.set()

    def _is_open(self) -> bool:
        return all(side.ws.is_open for side in self._sides)

    async def _receive_rest(self, side: Side) -> None:
        """Until the end of the connection, after the side's own receivers."""
        while side.receivers_left:
            side.receivers_done = trio.Event()
            await side.receivers_done.wait()
        player = Player(self, side, "receives the rest")
        while await player.receive(Receive()):
            pass

    async def _end(self) -> None:
        """Both streams are open, and as good as new."""
        await trio.testing.wait_all_tasks_blocked()
        for side in self._sides:
            side.check_has_all()
            assert await side.ws.ping() >= 0
        name, step = self._program.ending
        side = self._client if name == "client" else self._server
        await Player(self, side, "ends").take_step(step)


async def _check_end(side: Side) -> None:
    """The connection is closed."""
    assert await is_closed(side.stream)
    side.check_taken()
    side.check_pongs()
    statistics = side.ws.statistics()
    assert statistics.messages_sent == len(side.committed())
    assert statistics.tasks_waiting_send == statistics.tasks_waiting_receive == 0
    if not side.released:
        assert side.ended is not None, "nobody has told the receivers"
        # A Close follows everything that was committed, so who has seen it has seen all.
        if side.ended.received is not None:
            side.check_has_all()
        else:
            assert side.peer.torn, "the Close is lost"


async def _keep_nursery(  # noqa: ASYNC114 (it holds a nursery open, and is only started)
    side: Side, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
) -> None:
    with side.scope:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def _cancel_after(ticks: int, scope: trio.CancelScope) -> None:
    """A task that is started runs in the next tick."""
    for _ in range(ticks - 1):
        await trio.lowlevel.checkpoint()
    scope.cancel()


def run(program: Program, kind: str, contexts: Contexts) -> Run:
    """Run a program over transports of a kind, see :data:`sweeping.KINDS`.

    :raises AssertionError: something was seen that the model does not allow. It may come in groups.
    """
    played = Run(program, kind, contexts)
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(played.main, clock=clock)
    return played
