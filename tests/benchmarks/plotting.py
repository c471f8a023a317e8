"""Draws the rates of a run as an SVG, without any library."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

from reporting import python_version
from results import Outcome, format_value
from rows import OURS, PLAIN, Kind

_WIDTH: Final = 860
_PANEL_WIDTH: Final = 410
_BAR: Final = 13
_STEP: Final = 17
_LABELS: Final = 150
_VALUES: Final = 110
_STYLE: Final = """
text { font: 11px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600; font-size: 12px }
.value { fill: #555 }
.ours { fill: #c2410c }
.peer { fill: #64748b }
.plain { fill: #cbd5e1 }
"""


def write_plot(outcomes: list[Outcome], directory: Path) -> None:
    """A panel for each row, a bar for each peer: for each Python its own file."""
    directory.mkdir(exist_ok=True)
    path = directory / f"performance-{python_version()}.svg"
    path.write_text("\n".join(_draw(outcomes)) + "\n")


def _draw(outcomes: list[Outcome]) -> Iterator[str]:
    panels = [outcome for outcome in outcomes if outcome.row.kind is Kind.RATE]
    columns = [10, 10 + _PANEL_WIDTH + 20]
    heights = [10, 10]
    body: list[str] = []
    for outcome in panels:
        column = heights.index(min(heights))
        height = 24 + _STEP * len(outcome.measured()) + 16
        body += _panel(outcome, columns[column], heights[column])
        heights[column] += height
    height = max(heights)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">'
    )
    yield f"<title>Messages per second, CPython {python_version()}: longer is better</title>"
    yield f"<style>{_STYLE}</style>"
    yield f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#fff"/>'
    yield from body
    yield "</svg>"


def _panel(outcome: Outcome, left: int, top: int) -> Iterator[str]:
    yield f'<text class="title" x="{left}" y="{top + 12}">{escape(outcome.row.title)}</text>'
    peers = outcome.measured()
    # Bytes that are only copied would leave no room for the rest: that bar may be cut off.
    rivals = [outcome.median(peer.name) for peer in peers if peer.name != PLAIN]
    most = max(rivals, default=0.0) or 1.0
    room = _PANEL_WIDTH - _LABELS - _VALUES
    for number, peer in enumerate(peers):
        y = top + 24 + _STEP * number
        value = outcome.median(peer.name)
        width = max(1.0, min(1.0, value / most) * room)
        cut = " (cut off)" if value > 1.5 * most else ""
        kind = {OURS: "ours", PLAIN: "plain"}.get(peer.name, "peer")
        yield f'<text x="{left}" y="{y + _BAR - 3}">{escape(peer.title)}</text>'
        yield (
            f'<rect class="{kind}" x="{left + _LABELS}" y="{y}" rx="2" '
            f'width="{width:.1f}" height="{_BAR}"/>'
        )
        yield (
            f'<text class="value" x="{left + _LABELS + width + 6:.1f}" y="{y + _BAR - 3}">'
            f"{format_value(value, outcome.row.kind)}{cut}</text>"
        )
