"""Tells what was measured: on the terminal, in a file, and in the docs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from machine import machine_lines
from peers import Peer
from results import Outcome, format_value, judge
from rows import OURS, Kind

_CLIENT_LIMITED: Final = 0.97
"""Of the client's core; above it the figure may be the client's own."""


def print_outcome(outcome: Outcome) -> None:
    """One row."""
    row = outcome.row
    print(f"{row.title} [{row.kind.value}]  ({row.name})")
    for peer in outcome.measured():
        value = format_value(outcome.median(peer.name), row.kind)
        ratio = outcome.ratio(peer.name)
        ours_to_it = "" if ratio is None else f"{ratio:7.2f} x"
        spread = f"+-{outcome.spread(peer.name) / 2:4.0%}"
        details = _details(outcome, peer.name) if row.kind is Kind.RATE else ""
        print(f"    {peer.title:24}{value:>12} {spread} {ours_to_it:10} {details}".rstrip())
    for verdict in judge(outcome):
        print(f"    goal: {verdict}")
    print(flush=True)


def _details(outcome: Outcome, name: str) -> str:
    user, system = outcome.server_time(name)
    client = outcome.client_busy(name)
    note = ", which limits it" if client > _CLIENT_LIMITED else ""
    if outcome.leaves_closes_unanswered(name):
        note += "; leaves some Closes unanswered"
    return f"server {user:6.1f} + {system:5.1f} us, client {client:4.0%} busy{note}"


def print_summary(outcomes: list[Outcome]) -> None:
    """How many goals were met, and which were not."""
    verdicts = [(outcome.row, verdict) for outcome in outcomes for verdict in judge(outcome)]
    measured = [(row, verdict) for row, verdict in verdicts if verdict.reached is not None]
    missed = [(row, verdict) for row, verdict in measured if not verdict.met]
    print(f"{len(measured) - len(missed)} goals of {len(measured)} were met.")
    for row, verdict in missed:
        print(f"    {row.name}: {verdict}")


def save_results(outcomes: list[Outcome], peers: list[Peer], path: Path) -> None:
    """Every figure, as JSON."""
    rows = {
        outcome.row.name: {
            name: [asdict(figure) for figure in figures]
            for name, figures in outcome.figures.items()
        }
        for outcome in outcomes
    }
    path.write_text(json.dumps({"machine": machine_lines(peers), "rows": rows}, indent=1) + "\n")


def python_version() -> str:
    return "{}.{}".format(*sys.version_info)


def write_tables(outcomes: list[Outcome], peers: list[Peer], docs: Path) -> None:
    """The tables that ``performance.rst`` includes: for each Python its own file."""
    figures = [*_machine_table(peers), "", *_figures_table(outcomes)]
    for name, lines in (("", figures), ("goals-", _goals_table(outcomes))):
        path = docs / f"performance-{name}{python_version()}.inc"
        path.write_text("\n".join(lines) + "\n")


def _machine_table(peers: list[Peer]) -> Iterator[str]:
    for line in machine_lines(peers):
        yield f"| {line}"


def _figures_table(outcomes: list[Outcome]) -> Iterator[str]:
    yield from table_head("Scenario", "Who", "Figure", "trio_ws to it", widths="40 25 20 15")
    for outcome in outcomes:
        title = f"{outcome.row.title} [{outcome.row.kind.value}]"
        for peer in outcome.measured():
            value = format_value(outcome.median(peer.name), outcome.row.kind)
            ratio = outcome.ratio(peer.name)
            name = f"**{peer.title}**" if peer.name == OURS else peer.title
            if outcome.leaves_closes_unanswered(peer.name):
                name += " (leaves some Closes unanswered)"
            yield from table_row(title, name, value, "" if ratio is None else f"{ratio:.2f}")
            title = ""


def _goals_table(outcomes: list[Outcome]) -> Iterator[str]:
    yield from table_head("Scenario", "Goal", "Reached", "", widths="40 35 10 15")
    for outcome in outcomes:
        for verdict in judge(outcome):
            reached = "" if verdict.reached is None else f"{verdict.reached:.2f}"
            word = "met" if verdict.met else "**missed**" if reached else "not measured"
            yield from table_row(outcome.row.title, verdict.wanted, reached, word)


def table_head(*titles: str, widths: str) -> Iterator[str]:
    """The start of a table in reST."""
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield f"   :widths: {widths}"
    yield ""
    yield from table_row(*titles)


def table_row(*cells: str) -> Iterator[str]:
    """A row of it."""
    for number, cell in enumerate(cells):
        yield f"   {'* -' if number == 0 else '  -'} {cell}".rstrip()
