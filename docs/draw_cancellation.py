"""Draw the timeline of docs/cancellation.rst: ``python docs/draw_cancellation.py``.

Two cards, one above the other: a ``send`` that is cancelled before its commit, and one that is
cancelled after it. Each has three lanes: the task, the outbox, the peer.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).parent / "_static" / "cancellation.svg"

WIDTH: Final = 760
CARD_HEIGHT: Final = 236
GAP: Final = 16
FIRST_LANE: Final = 84
LANE_STEP: Final = 48
BAR_HEIGHT: Final = 28
START: Final = 112
END: Final = WIDTH - 24

TASK, OUTBOX, PEER = range(3)
LANES: Final = ("your task", "outbox", "peer")

STYLE: Final = """
text { font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1d2433 }
.code { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.title { font-weight: 600; font-size: 15px }
.quiet { fill: #5a6478 }
.bad { fill: #b42318 }
.card { fill: #fbfcfe; stroke: #c9d1de }
.lane { stroke: #c9d1de; fill: none }
.call { fill: #dbe7fb; stroke: #3b6fc4 }
.message { fill: #d6f0de; stroke: #2b8a4b }
.cancel { stroke: #b42318; stroke-width: 2; fill: none }
.commit { stroke: #2b8a4b; stroke-width: 2; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf2 }
.quiet { fill: #a3adbf }
.bad { fill: #ff8a7a }
.card { fill: #171b24; stroke: #3a4356 }
.lane { stroke: #3a4356 }
.call { fill: #1f3558; stroke: #7aa7f0 }
.message { fill: #173a25; stroke: #63c788 }
.cancel { stroke: #ff8a7a }
.commit { stroke: #63c788 }
}
"""


class Card:
    """One story: its shapes, with the lanes as coordinates."""

    def __init__(self, top: int, title: str) -> None:
        self.shapes: list[str] = []
        self._top = top
        self._add(
            f'<rect class="card" x="0.5" y="{top + 0.5}" width="{WIDTH - 1}" '
            f'height="{CARD_HEIGHT - 1}" rx="8"/>'
        )
        self._text(20, top + 28, title, "title")
        for lane, name in enumerate(LANES):
            y = self._middle(lane)
            self._text(20, y + 5, name, "quiet")
            self._add(f'<path class="lane" d="M{START} {y}H{END}"/>')

    def call(self, x: int, end: int, code: str) -> None:
        """A call of the task."""
        self._box(TASK, x, end, code, "call")

    def message(self, lane: int, x: int, end: int, name: str) -> None:
        self._box(lane, x, end, name, "message")

    def cancel(self, x: int) -> None:
        """The scope is cancelled, and the call raises."""
        self._vertical(x, "cancel", "5 4")
        y = self._middle(TASK)
        self._add(f'<path class="cancel" d="M{x - 7} {y - 7}l14 14m0 -14l-14 14"/>')
        self._text(x, self._top + 56, "cancelled", "bad", anchor="middle")

    def commit(self, x: int) -> None:
        """The step in which the message goes into the outbox."""
        self._vertical(x, "commit", "none")
        self._text(x, self._top + 56, "commit", "", anchor="middle")

    def conclude(self, text: str) -> None:
        self._text(20, self._top + CARD_HEIGHT - 18, text, "")

    def _middle(self, lane: int) -> int:
        return self._top + FIRST_LANE + lane * LANE_STEP

    def _vertical(self, x: int, kind: str, dashes: str) -> None:
        top, bottom = self._top + 62, self._middle(PEER) + 20
        self._add(f'<path class="{kind}" stroke-dasharray="{dashes}" d="M{x} {top}V{bottom}"/>')

    def _box(self, lane: int, x: int, end: int, text: str, kind: str) -> None:
        y = self._middle(lane)
        self._add(
            f'<rect class="{kind}" x="{x}" y="{y - BAR_HEIGHT // 2}" width="{end - x}" '
            f'height="{BAR_HEIGHT}" rx="4"/>'
        )
        self._text((x + end) // 2, y + 5, text, "code", anchor="middle")

    def _text(self, x: int, y: int, text: str, kind: str, anchor: str = "start") -> None:
        self._add(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def _add(self, shape: str) -> None:
        self.shapes.append(shape)


def cancelled_before() -> Card:
    card = Card(0, "Cancelled before its commit: the send has never been")
    card.call(126, 400, 'await ws.send("b")')
    card.message(OUTBOX, 126, 480, "a")
    card.message(PEER, 490, 530, "a")
    card.cancel(400)
    card.call(540, 700, 'await ws.send("c")')
    card.message(OUTBOX, 660, 700, "c")
    card.message(PEER, 706, 736, "c")
    card.conclude(
        'It waited for room behind "a". No byte of "b" was or will be sent; all is as before.'
    )
    return card


def cancelled_after() -> Card:
    card = Card(CARD_HEIGHT + GAP, "Cancelled after its commit: the send has returned")
    card.call(126, 330, 'await ws.send("b")')
    card.message(OUTBOX, 126, 320, "a")
    card.commit(330)
    card.message(PEER, 340, 380, "a")
    card.call(336, 520, "await ws.receive()")
    card.message(OUTBOX, 330, 610, "b")
    card.cancel(520)
    card.message(PEER, 620, 660, "b")
    card.conclude(
        'The commit is the last thing it did. "b" goes out whole; the next call is cancelled.'
    )
    return card


def draw() -> str:
    """The drawing, as SVG. It has its own background, so any page may be around it."""
    height = 2 * CARD_HEIGHT + GAP
    shapes = [*cancelled_before().shapes, *cancelled_after().shapes]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            "<title>A send that is cancelled before its commit, and one after it</title>",
            f"<style>{STYLE}</style>",
            *shapes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(draw(), encoding="utf-8")
