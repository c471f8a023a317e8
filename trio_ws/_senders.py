"""Whose turn it is to commit: tasks that wait for room, first come first served.

A message that is sent in parts is open from its first part to its last. While it is, the task that
began it goes first and all others wait. Pings and pongs pass, with a little room of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import Task

from ._frames import Opcode
from ._outbox import Outbox
from ._waiting import NOBODY, Waiter

_CONTROL_ROOM: Final = 16 * 1024
"""Bytes of pings and pongs that wait for a frame boundary before more have to wait."""


class DataSender(Waiter):
    """The current task, with a message, or a part of one, to commit."""

    __slots__ = ("compress", "fin", "opcode", "payload", "utf8_pending")

    def __init__(
        self, opcode: Opcode, payload: bytes, compress: bool, fin: bool, utf8_pending: bytes
    ) -> None:
        super().__init__()
        self.opcode = opcode
        self.payload = payload
        self.compress = compress
        self.fin = fin
        self.utf8_pending = utf8_pending
        """The start of a code point with which the message ends as yet."""


class ControlSender(Waiter):
    """The current task, with a ping or a pong to commit."""

    __slots__ = ("opcode", "payload", "round_trip")

    def __init__(self, opcode: Opcode, payload: bytes) -> None:
        super().__init__()
        self.opcode = opcode
        self.payload = payload
        self.round_trip = 0.0
        """Of a ping, the seconds until its pong."""


class OpenMessage:
    """The message of which a task has sent a part, and not the last one."""

    __slots__ = ("compress", "opcode", "task", "utf8_pending")

    def __init__(self, task: Task, opcode: Opcode, compress: bool, utf8_pending: bytes) -> None:
        self.task = task
        self.opcode = opcode
        self.compress = compress
        self.utf8_pending = utf8_pending


class Senders:
    """The tasks that send on one stream.

    :param outbox: where they commit.
    :param max_size: bytes in the outbox above which they wait.
    :param sent_ping: called with the sender of each ping that is committed.
    :ivar limit: a whole message may be committed right now, without waiting, if the outbox is
        smaller than this: *max_size*, or 0 while others go first. So every send has one thing
        to look at.
    """

    __slots__ = (
        "_controls",
        "_data",
        "_max_size",
        "_open",
        "_outbox",
        "_sent_ping",
        "_stopped",
        "limit",
    )

    def __init__(
        self, outbox: Outbox, max_size: int, sent_ping: Callable[[ControlSender], None]
    ) -> None:
        self._outbox = outbox
        self._sent_ping = sent_ping
        self._data: OrderedDict[Task, DataSender] = NOBODY
        self._controls: OrderedDict[Task, ControlSender] = NOBODY
        self._open: OpenMessage | None = None
        self._stopped = False
        self._max_size = max_size
        self.limit = max_size

    def set_max_size(self, max_size: int) -> None:
        """Change it: they wait while the outbox has more bytes than that."""
        self._max_size = max_size
        self._set_limit()

    def _set_limit(self) -> None:
        """After any change of what :attr:`limit` depends on."""
        others_first = self._open is not None or bool(self._data) or self._stopped
        self.limit = 0 if others_first else self._max_size

    @property
    def are_waiting(self) -> bool:
        """Whether any task waits."""
        return bool(self._data or self._controls)

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._data) + len(self._controls)

    # Messages

    def own_message(self) -> OpenMessage | None:
        """The open message, if the current task has begun it."""
        message = self._open
        if message is None or message.task is not trio.lowlevel.current_task():
            return None
        return message

    def has_turn(self) -> bool:
        """Whether a whole message may be committed right now, without waiting."""
        return self._outbox.size < self.limit

    def try_part(self, sender: DataSender) -> bool:
        """Commit a part at once if it is the sender's turn; whether it was."""
        if self._open is None and self._data:
            return False
        if not self._may_commit(sender.task):
            return False
        self._commit_part(sender)
        return True

    async def wait(self, sender: DataSender) -> None:
        """Wait for the turn: it is committed by whoever makes room.

        Cancellation takes the sender out of the queue, and nothing has happened.
        """
        if self._data is NOBODY:
            self._data = OrderedDict()
        self._data[sender.task] = sender
        if self._open is not None and self._open.task is sender.task:
            self._data.move_to_end(sender.task, last=False)
        self._set_limit()
        await sender.wait(self._forget_data)

    def _forget_data(self, task: Task, default: None) -> None:
        """For a cancelled task: it waits no more to commit."""
        self._data.pop(task, default)
        self._set_limit()

    # Pings and pongs

    def send_control(self, sender: ControlSender) -> bool:
        """Commit a ping or a pong at once if there is room, else queue it; whether there was."""
        if self._controls or not self.has_control_room():
            if self._controls is NOBODY:
                self._controls = OrderedDict()
            self._controls[sender.task] = sender
            return False
        self._commit_control(sender)
        return True

    def has_control_room(self) -> bool:
        """Whether another control frame may be committed."""
        return self._outbox.control_size < _CONTROL_ROOM

    def forget_control(self, task: Task, default: None) -> None:
        """For a cancelled task: it waits no more to commit a ping or a pong."""
        self._controls.pop(task, default)

    # Turns

    def admit(self) -> None:
        """Commit for those whose turn it is, and wake them: whoever makes room calls this."""
        while self._controls and self.has_control_room():
            _, control = self._controls.popitem(last=False)
            self._commit_control(control)
            if control.opcode is Opcode.PONG:
                control.wake()
        while self._data:
            sender = next(iter(self._data.values()))
            if not self._may_commit(sender.task):
                break
            del self._data[sender.task]
            self._commit_part(sender)
            sender.wake()

    def stop(self) -> None:
        """There is no room any more, and will not be: nothing is written."""
        self._stopped = True
        self._set_limit()

    def refuse(self, make_error: Callable[[], Exception]) -> None:
        """Nobody may commit any more: each who waits gets an error of its own."""
        self._open = None
        while self._data:
            self._data.popitem(last=False)[1].refuse(make_error())
        while self._controls:
            self._controls.popitem(last=False)[1].refuse(make_error())
        self._set_limit()

    def _has_room(self) -> bool:
        return self._outbox.size < self._max_size and not self._stopped

    def _may_commit(self, task: Task) -> bool:
        """Whether *task*, being the first in turn, may commit."""
        return (self._open is None or self._open.task is task) and self._has_room()

    def _commit_part(self, sender: DataSender) -> None:
        message = self._open
        opcode = sender.opcode if message is None else Opcode.CONTINUATION
        self._outbox.commit_data(opcode, sender.payload, sender.fin, sender.compress)
        if sender.fin:
            self._open = None
        elif message is None:
            self._open = OpenMessage(
                sender.task, sender.opcode, sender.compress, sender.utf8_pending
            )
        else:
            message.utf8_pending = sender.utf8_pending
        self._set_limit()

    def _commit_control(self, sender: ControlSender) -> None:
        self._outbox.commit_control(sender.opcode, sender.payload)
        if sender.opcode is Opcode.PING:
            self._sent_ping(sender)
