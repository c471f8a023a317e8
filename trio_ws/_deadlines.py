"""When it is time to ping, and when to give up: clock readings in, decisions out, no clock inside.

Three things can take too long: the close, once it has begun; silence, unless this side has stopped
listening; and a transport that takes nothing of what is to be written.
"""

from __future__ import annotations

import enum
import math

from ._options import Timeouts


class Due(enum.Enum):
    """What is to be done when a deadline has passed."""

    NOTHING = "nothing yet"
    PING = "half of the idle time was silence: ping"
    CLOSE_EXPIRED = "the closing handshake took too long"
    SILENT = "the peer has been silent for the idle time"
    STUCK = "the peer has taken nothing of what was to be written for the idle time"


class Deadlines:
    """The deadlines of one stream. All times are seconds on one clock.

    :param timeouts: may be changed.
    :param now: when the stream was opened.
    :ivar close_at: when the close must have ended; infinity before it has begun.
    """

    __slots__ = ("_closing", "_paused", "_pinged", "_received_at", "close_at", "timeouts")

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self.timeouts = timeouts
        self.close_at = math.inf
        self._closing = False
        self._received_at = now
        self._pinged = False
        self._paused = False

    def received(self, now: float) -> None:
        """Bytes, whatever they are: the idle time starts anew."""
        self._received_at = now
        self._pinged = False

    def pause(self) -> None:
        """This side does not listen: silence does not count."""
        self._paused = True

    def resume(self, now: float) -> None:
        """This side listens again, and the idle time starts anew."""
        self._paused = False
        self.received(now)

    def begin_close(self, now: float) -> None:
        """From now on the deadline of the close alone counts, and nothing extends it."""
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
        """What is to be done at *now*; a ping counts as sent."""
        if self.close_at <= now:
            return Due.CLOSE_EXPIRED
        if blocked_since + self.timeouts.idle_seconds <= now:
            return Due.STUCK
        if self._silence_at() > now:
            return Due.NOTHING
        if self._may_ping():
            self._pinged = True
            return Due.PING
        return Due.SILENT

    def _silence_at(self) -> float:
        if self._paused or self._closing:
            return math.inf
        idle = self.timeouts.idle_seconds
        return self._received_at + (idle / 2 if self._may_ping() else idle)

    def _may_ping(self) -> bool:
        return self.timeouts.keep_alive_pings and not self._pinged
