"""What a run of the benchmark has brought, and what it says about the goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from measuring import Figure
from peers import PEERS, Peer
from rows import BEST, BEST_PYTHON, OURS, PLAIN, Goal, Kind, Row


@dataclass(slots=True)
class Outcome:
    """The figures of one row."""

    row: Row
    figures: dict[str, list[Figure]] = field(default_factory=dict)

    def add(self, peer: Peer, figure: Figure) -> None:
        self.figures.setdefault(peer.name, []).append(figure)

    def median(self, name: str) -> float:
        return statistics.median(figure.value for figure in self.figures[name])

    def spread(self, name: str) -> float:
        """How far the least and the most are apart, as a part of the median."""
        values = [figure.value for figure in self.figures[name]]
        return (max(values) - min(values)) / (self.median(name) or 1)

    def server_time(self, name: str) -> tuple[float, float]:
        """Microseconds of CPU time for each message: in the server's own code, in the kernel."""
        figures = self.figures[name]
        return (
            statistics.median(figure.server_user for figure in figures),
            statistics.median(figure.server_system for figure in figures),
        )

    def client_busy(self, name: str) -> float:
        """Which part of its core the client used."""
        return statistics.median(figure.client_busy for figure in self.figures[name])

    def leaves_closes_unanswered(self, name: str) -> bool:
        """Whether it sometimes does less than the row is about."""
        return any(figure.unanswered for figure in self.figures[name])

    def measured(self) -> list[Peer]:
        return [peer for peer in PEERS if peer.name in self.figures]

    def ratio(self, name: str) -> float | None:
        """Ours to that of a peer."""
        if OURS not in self.figures or name == OURS:
            return None
        return self.median(OURS) / (self.median(name) or 1)

    def opponent(self, goal: Goal) -> Peer | None:
        """Whom the goal compares with; None if that one was not measured."""
        if goal.against in (BEST, BEST_PYTHON):
            rivals = [
                peer
                for peer in self.measured()
                if peer.name not in (OURS, PLAIN) and (goal.against == BEST or peer.is_python)
            ]
            return max(rivals, key=lambda peer: self.median(peer.name), default=None)
        return next((peer for peer in self.measured() if peer.name == goal.against), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How trio_ws stands to one goal.

    :ivar wanted: the goal in words.
    :ivar reached: what was measured; None if it could not be.
    """

    wanted: str
    reached: float | None
    met: bool

    def __str__(self) -> str:
        if self.reached is None:
            return f"{self.wanted}: not measured"
        return f"{self.wanted}: {self.reached:.2f}, {'met' if self.met else 'MISSED'}"


def judge(outcome: Outcome) -> Iterable[Verdict]:
    """The goals of a row."""
    for goal in outcome.row.goals:
        if OURS not in outcome.figures:
            yield Verdict(_in_words(goal, None, outcome.row), None, False)
        elif goal.against is None:
            reached = outcome.median(OURS)
            yield Verdict(_in_words(goal, None, outcome.row), reached, reached <= goal.bound)
        else:
            opponent = outcome.opponent(goal)
            ratio = None if opponent is None else outcome.ratio(opponent.name)
            met = ratio is not None and ratio >= goal.bound
            yield Verdict(_in_words(goal, opponent, outcome.row), ratio, met)


def _in_words(goal: Goal, opponent: Peer | None, row: Row) -> str:
    if goal.against is None:
        return f"at most {goal.bound:g} {row.kind.value}"
    of = goal.against if opponent is None else opponent.title
    if goal.against in (BEST, BEST_PYTHON) and opponent is not None:
        of = f"{goal.against}, {of}"
    return f"at least {goal.bound:g} x {of}"


def format_value(value: float, kind: Kind) -> str:
    """A figure for people."""
    return f"{value:,.0f}" if kind is Kind.RATE else f"{value:.1f}"
