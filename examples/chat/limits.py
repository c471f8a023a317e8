"""How much is allowed: of what, and how fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server process allows.

    :ivar clients: connections.
    :ivar rooms: rooms that are open.
    :ivar members: members of a room.
    :ivar history: messages that a room keeps for who comes later.
    :ivar rate: things that a client may do in a second, in the long run.
    :ivar pings: pings that it may send in a second, besides.
    :ivar burst: things that it may do at once, and pings.
    :ivar join: seconds from connecting to having joined.
    :ivar patience: seconds for which a client's outbox may stay full.
    :ivar keep: seconds that a room is kept when everybody has left, if it need not make space.
    """

    clients: int = 10_000
    rooms: int = 1_000
    members: int = 500
    history: int = 50
    rate: float = 5.0
    pings: float = 1.0
    burst: int = 10
    join: float = 30.0
    patience: float = 5.0
    keep: float = 300.0


class TokenBucket:
    """So much per second in the long run, and so much at once.

    :param rate: tokens that flow in, per second.
    :param burst: tokens that the bucket holds; it begins full.
    :param now: the time in seconds, on any clock; so below.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._time = now

    def take(self, now: float) -> float:
        """Take one token if there is one.

        :returns: 0, or the seconds until there will be one; then none was taken.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
