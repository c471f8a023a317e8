"""When it is time to ping, and when to give up: clock readings in, decisions out, no clock inside.

Three things can take too long: the close, once it has begun; silence, unless this side has stopped
listening; and a transport that takes nothing of what is to be written.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from ._options import Timeouts

_ANSWER_TIME: Final = 10.0
"""Seconds that the peer has at least to answer a ping that was late, because this process or this
machine stood still; half of the idle time, if that is less."""


class Due(enum.Enum):
    """What is to be done when a deadline has passed."""

    NOTHING = "nothing yet"
    PING = "half of the idle time was silence: ask the peer for a sign of life"
    PONG = "this side has not listened for half of the idle time: give a sign of life"
    CLOSE_EXPIRED = "the closing handshake took too long"
    SILENT = "the peer has been silent for the idle time"
    STUCK = "the peer has taken nothing of what was to be written for the idle time"


class Deadlines:
    """The deadlines of one stream. All times are seconds on one clock.

    :param timeouts: may be changed.
    :param now: when the stream was opened.
    :ivar close_at: when the close must have ended; infinity before it has begun.
    """

    __slots__ = ("_closing", "_paused", "_received_at", "_signalled_at", "close_at", "timeouts")

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self.timeouts = timeouts
        self.close_at = math.inf
        self._closing = False
        self._received_at = now
        self._signalled_at: float | None = None
        self._paused = False

    def received(self, now: float) -> None:
        """Bytes, whatever they are: the idle time starts anew."""
        self._received_at = now
        self._signalled_at = None

    def pause(self) -> None:
        """This side does not listen: silence does not count."""
        self._paused = True

    def resume(self, now: float) -> None:
        """This side listens again, and the idle time starts anew."""
        self._paused = False
        self.received(now)

    def begin_close(self, now: float) -> None:
        """From now on the deadline of the close alone counts, if there is one, and nothing extends
        it.
        """
        if not self._closing:
            self._closing = True
            self.close_at = now + self.timeouts.handshake_seconds

    def hasten(self, close_at: float) -> None:
        """The close must have ended by *close_at*, if not before."""
        self.close_at = min(self.close_at, close_at)

    def next(self, blocked_since: float) -> float:
        """The earliest time at which something may be due.

        :param blocked_since: when the transport last took something of what is to be written;
            infinity if there is nothing to write.
        """
        idle = self.timeouts.idle_seconds
        return min(self.close_at, self._silence_at(), blocked_since + idle)

    def due(self, now: float, blocked_since: float) -> Due:
        """What is to be done at *now*; a ping or a pong counts as sent."""
        if self.close_at <= now:
            return Due.CLOSE_EXPIRED
        if blocked_since + self.timeouts.idle_seconds <= now:
            return Due.STUCK
        if self._silence_at() > now:
            return Due.NOTHING
        if self._may_signal():
            self._signalled_at = now
            return Due.PONG if self._paused else Due.PING
        return Due.SILENT

    def _silence_at(self) -> float:
        """When silence calls for a sign of life, or is the end."""
        idle = self.timeouts.idle_seconds
        if self._closing:
            return self._silence_at_closing(idle)
        if not self._paused:
            return self._peer_expected_by(idle)
        if not self._may_signal():
            return math.inf
        since = self._received_at if self._signalled_at is None else self._signalled_at
        return since + idle / 2

    def _silence_at_closing(self, idle: float) -> float:
        """A close without a deadline ends with the peer's silence at least."""
        if self._paused or self.close_at < math.inf:
            return math.inf
        return self._received_at + idle

    def _peer_expected_by(self, idle: float) -> float:
        if self._may_signal():
            return self._received_at + idle / 2
        gone_at = self._received_at + idle
        if self._signalled_at is None:
            return gone_at
        return max(gone_at, self._signalled_at + min(idle / 2, _ANSWER_TIME))

    def _may_signal(self) -> bool:
        """One ping for each silence; and while this side does not listen, as many pongs as it takes
        for the peer not to hear silence.
        """
        return self.timeouts.keep_alive_pings and (self._paused or self._signalled_at is None)
