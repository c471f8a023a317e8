"""Pings whose pongs are still to come, and the round trips of those that came."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import trio
from trio.lowlevel import Task

from ._senders import ControlSender
from ._waiting import NOBODY


class _SentPing(NamedTuple):
    payload: bytes
    at: float
    sender: ControlSender | None
    """Who waits for the pong: nobody for that of a keep-alive."""


def fresh_payload() -> bytes:
    """Eight bytes that no other ping of the stream is likely to have."""
    return os.urandom(8)


class Pings:
    """The pings of one stream, in the order in which they were committed.

    :ivar latency: seconds from the last ping that was answered to its pong; None before that.
    """

    __slots__ = ("_sent", "latency")

    def __init__(self) -> None:
        # One for each task that waits, and one for the last keep-alive, whose key is None.
        self._sent: OrderedDict[Task | None, _SentPing] = NOBODY
        self.latency: float | None = None

    def sent(self, sender: ControlSender) -> None:
        """A task's ping was committed."""
        self._add(sender.task, _SentPing(sender.payload, trio.current_time(), sender))

    def sent_keep_alive(self, payload: bytes) -> None:
        """A keep-alive was committed: it takes the place of one that was not answered."""
        self._sent.pop(None, None)
        self._add(None, _SentPing(payload, trio.current_time(), None))

    def _add(self, task: Task | None, ping: _SentPing) -> None:
        if self._sent is NOBODY:
            self._sent = OrderedDict()
        self._sent[task] = ping

    def forget(self, task: Task) -> None:
        """Nobody waits for this pong any more: it will be ignored."""
        self._sent.pop(task, None)

    def receive_pong(self, payload: bytes) -> None:
        """Complete the ping that this pong answers, and those before it (section 5.5.3)."""
        if not any(sent.payload == payload for sent in self._sent.values()):
            return
        now = trio.current_time()
        answered = False
        while not answered:
            _, sent = self._sent.popitem(last=False)
            answered = sent.payload == payload
            self.latency = now - sent.at
            if sent.sender is not None:
                sent.sender.round_trip = self.latency
                sent.sender.wake()

    def refuse(self, make_error: Callable[[], Exception]) -> None:
        """No pong will come: each who waits gets an error of its own."""
        while self._sent:
            _, sent = self._sent.popitem(last=False)
            if sent.sender is not None:
                sent.sender.refuse(make_error())
