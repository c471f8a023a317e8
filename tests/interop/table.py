"""The table of what works with whom, in reStructuredText, at the end of a test run."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

RULE = "="


@dataclass
class Table:
    """Outcomes by case and peer."""

    cells: defaultdict[str, defaultdict[str, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )

    def add(self, case: str, peer: str, outcome: str) -> None:
        """Count how a test ended."""
        self.cells[case][peer][outcome] += 1

    def rows(self, peers: list[str]) -> list[list[str]]:
        """The cells as text: how many ways of doing it passed, or what did not."""
        return [
            [case, *(_cell(outcomes[peer]) for peer in peers)]
            for case, outcomes in self.cells.items()
        ]

    def lines(self, peers: dict[str, str]) -> list[str]:
        """A simple table of reStructuredText.

        :param peers: heading by name.
        """
        heading = ["", *peers.values()]
        rows = self.rows(list(peers))
        widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
        widths[0] = max(widths[0], 1)
        rule = "  ".join(RULE * width for width in widths)
        # An empty first cell would continue the row above.
        heading[0] = "\\"
        body = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [heading, *rows]
        ]
        return [rule, body[0], rule, *body[1:], rule]


def _cell(outcomes: Counter[str]) -> str:
    if not outcomes:
        return "\\-"
    if set(outcomes) == {"passed"}:
        return "yes"
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
