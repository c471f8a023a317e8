"""Whose turn it is to receive: messages that have arrived, and tasks that wait for them.

Each message goes to one task, first come first served. It is handed over in the same step that
wakes the task, and nothing is awaited after that, so that it can not be lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from trio.lowlevel import Task

from ._inbox import Inbox
from ._payloads import Message
from ._poller import Poller, Watch
from ._protocol import Protocol
from ._waiting import Waiter, call_nobody


class Receiver(Waiter):
    """The current task, in ``receive`` or, if not *whole*, in ``receive_some``."""

    __slots__ = ("fin", "leads", "max_bytes", "message", "whole")

    def __init__(self, whole: bool, max_bytes: int | None) -> None:
        super().__init__()
        self.whole = whole
        self.max_bytes = max_bytes
        self.message: Message = b""
        """What it was handed."""
        self.fin = True
        """Whether that ends the message."""
        self.leads: Watch | None = None
        """What it reads itself."""

    def wake(self) -> None:
        watch, self.leads = self.leads, None
        if watch is None:
            super().wake()
        else:
            watch.call_off()


class Receivers:
    """The tasks that receive on one stream, and what waits for them.

    :param inbox: the messages that have arrived: while any task waits there are none.
    :param protocol: it has the part of a message that is still arriving.
    :param on_waiting: called when a task begins to wait, and who fills the inbox pauses.
    :ivar waiting: the tasks that wait for them, in turn.
    """

    __slots__ = ("_inbox", "_on_waiting", "_protocol", "waiting")

    def __init__(
        self,
        inbox: Inbox,
        protocol: Protocol,
        *,
        on_waiting: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._protocol = protocol
        self._on_waiting = on_waiting
        # As a rule it is one task, for which a list takes half the time of a dict.
        self.waiting: list[Receiver] = []

    def take_part(self, max_bytes: int | None) -> tuple[Message, bool] | None:
        """A part of the first message, and whether it ends it; None if nothing is there, or others
        wait for it.
        """
        return None if self.waiting else self._next_part(max_bytes)

    def wait(self, receiver: Receiver) -> Awaitable[None]:
        """Wait for the turn. Raises what :meth:`refuse` gives.

        Cancellation takes the receiver out of the queue, and nothing has happened.
        """
        self.waiting.append(receiver)
        if self._inbox.resume_size >= 0:
            self._on_waiting()
        return receiver.wait(self._forget)

    async def lead(self, receiver: Receiver, poller: Poller, watch: Watch) -> None:
        """Wait as the first one, and read meanwhile what *poller* would; else as :meth:`wait`."""
        self.waiting.append(receiver)
        receiver.leads = watch
        try:
            await poller.lead(watch, receiver)
        except BaseException:
            self._forget(receiver.task, None)
            raise
        if receiver.leads is None:
            receiver.unwrap()
        else:
            # The reader goes on.
            receiver.leads = None
            await receiver.wait(self._forget)

    def _forget(self, task: Task, _: None) -> None:
        """Take a cancelled task out of the queue."""
        self.waiting = [receiver for receiver in self.waiting if receiver.task is not task]

    def deliver(self, messages: list[Message]) -> None:
        """Messages have arrived: hand them over, and put into the inbox what nobody waits for."""
        if self.waiting and messages:
            receiver = self.waiting[0]
            if receiver.max_bytes is None:
                # Past the inbox, which takes twice the time.
                del self.waiting[0]
                receiver.message = messages[0]
                receiver.wake()
                messages = messages[1:]
        if messages:
            self._inbox.put(messages)
        if self.waiting:
            self.serve()

    def serve(self) -> None:
        """Hand over what has arrived."""
        while self.waiting:
            receiver = self.waiting[0]
            if receiver.whole:
                part = (self._inbox.take(), True) if self._inbox.size else None
            else:
                part = self._next_part(receiver.max_bytes)
            if part is None:
                break
            del self.waiting[0]
            receiver.message, receiver.fin = part
            receiver.wake()

    def refuse(self, make_error: Callable[[], Exception]) -> None:
        """Nothing more will come: each who waits gets an error of its own; nobody will again."""
        self._on_waiting = call_nobody
        receivers, self.waiting = self.waiting, []
        for receiver in receivers:
            receiver.refuse(make_error())

    def _next_part(self, max_bytes: int | None) -> tuple[Message, bool] | None:
        if self._inbox.size:
            return self._inbox.take_part(max_bytes)
        part = self._protocol.take_part(max_bytes)
        return None if part is None else (part, False)
