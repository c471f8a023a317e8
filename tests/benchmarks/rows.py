"""What is measured, and what is to be reached: the rows of the benchmark."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

OURS: Final = "trio_ws"
PLAIN: Final = "plain-trio"
BEST: Final = "best peer"
BEST_PYTHON: Final = "best Python peer"

DEFAULT_LEVEL: Final = 6
"""How hard zlib compresses if nobody says otherwise: so trio_ws, websockets and Beast here."""

FAST_LEVEL: Final = 1
"""What aiohttp compresses with always."""


class Kind(enum.Enum):
    """How a row is measured, and the unit of its figures."""

    RATE = "per second"
    MEMORY = "KiB per connection"
    PARTS = "MiB above idle"


@dataclass(frozen=True, slots=True)
class Goal:
    """What trio_ws is to reach.

    :ivar bound: of a rate, the least ratio to *against*; of memory, the most in the row's unit.
    :ivar against: a peer, :data:`BEST` or :data:`BEST_PYTHON`; None for memory.
    """

    bound: float
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario.

    :ivar name: for the command line.
    :ivar mode: what the server does.
    :ivar client: what the load client does.
    :ivar size: bytes of a message; of ``json`` about as many.
    :ivar in_flight: messages that are under way on each connection.
    :ivar json: whether messages are JSON text, not random bytes.
    :ivar level: how hard both sides compress; None: not at all.
    """

    name: str
    title: str
    goals: tuple[Goal, ...]
    kind: Kind = Kind.RATE
    mode: str = "echo"
    client: str = "echo"
    size: int = 32
    connections: int = 1
    in_flight: int = 1
    tls: bool = False
    json: bool = False
    level: int | None = None

    @property
    def server(self) -> tuple[str, bool, int | None]:
        """What has to be the same for two rows to share their servers."""
        return self.mode, self.tls, self.level


_IN_FLIGHT: Final = 4 * MIB

ROWS: Final = (
    Row(
        name="one",
        title="1 connection, 32 B, one in flight",
        goals=(Goal(0.9, PLAIN), Goal(2.0, "websockets-trio")),
    ),
    Row(
        name="many",
        title="100 connections, 128 B, one in flight each",
        goals=(Goal(0.85, PLAIN), Goal(4.0, "websockets-trio")),
        size=128,
        connections=100,
    ),
    Row(
        name="pipelined",
        title="1 connection, 100 B, 4 MiB in flight",
        goals=(Goal(4.0, BEST),),
        size=100,
        in_flight=_IN_FLIGHT // 100,
    ),
    Row(
        name="pipelined-16k",
        title="1 connection, 16 KiB, 4 MiB in flight",
        goals=(Goal(1.0, BEST),),
        size=16 * KIB,
        in_flight=_IN_FLIGHT // (16 * KIB),
    ),
    Row(
        name="large",
        title="1 connection, 1 MiB, one in flight",
        goals=(Goal(1.0, BEST),),
        size=MIB,
    ),
    Row(
        name="connect",
        title="connect, handshake, close: 4 at a time",
        goals=(Goal(1.5, "websockets-trio"),),
        client="connect",
        connections=4,
    ),
    Row(
        name="memory",
        title="memory of an idle connection that has echoed a message",
        goals=(Goal(13.0),),
        kind=Kind.MEMORY,
        client="hold",
        connections=2000,
    ),
    Row(
        name="parts",
        title="1 GiB as one message, echoed through receive_some and send_some",
        goals=(Goal(64.0),),
        kind=Kind.PARTS,
        mode="parts",
        size=GIB,
    ),
    Row(
        name="broadcast",
        title="broadcast, 64 B to 300 clients, one at a time",
        goals=(Goal(2.0, BEST),),
        mode="broadcast",
        client="broadcast",
        size=64,
        connections=300,
        json=True,
    ),
    Row(
        name="broadcast-many",
        title="broadcast, 64 B to 300 clients, 16 in flight",
        goals=(Goal(2.0, BEST),),
        mode="broadcast",
        client="broadcast",
        size=64,
        connections=300,
        in_flight=16,
        json=True,
    ),
    Row(
        name="tls-one",
        title="TLS: 1 connection, 32 B, one in flight",
        goals=(Goal(1.5, "websockets-trio"),),
        tls=True,
    ),
    Row(
        name="tls-pipelined",
        title="TLS: 1 connection, 100 B, 4 MiB in flight",
        goals=(Goal(1.5, "websockets-trio"),),
        size=100,
        in_flight=_IN_FLIGHT // 100,
        tls=True,
    ),
    Row(
        name="tls-pipelined-16k",
        title="TLS: 1 connection, 16 KiB, 4 MiB in flight",
        goals=(Goal(1.5, "websockets-trio"),),
        size=16 * KIB,
        in_flight=_IN_FLIGHT // (16 * KIB),
        tls=True,
    ),
    *(
        Row(
            name=f"json-{size // KIB}k{suffix}",
            title=f"compressed at level {level}: JSON of {size // KIB} KiB, {in_flight} in flight",
            goals=(Goal(1.0, BEST_PYTHON),),
            size=size,
            in_flight=in_flight,
            json=True,
            level=level,
        )
        for level, suffix in ((DEFAULT_LEVEL, ""), (FAST_LEVEL, "-fast"))
        for size, in_flight in ((KIB, 64), (64 * KIB, 4))
    ),
)
