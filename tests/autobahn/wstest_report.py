"""What ``wstest`` found: its ``index.json``, judged case by case."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits, performance",
    10: "automatic fragmentation",
    12: "compression, payloads",
    13: "compression, parameters",
}

# The protocol leaves the outcome of these open, and Autobahn never says more of them than this.
INFORMATIONAL_BY_NATURE = {"7.1.6", "7.13.1", "7.13.2"}


@dataclass(frozen=True)
class Outcome:
    """How one case ended, in Autobahn's words."""

    case: str
    behavior: str
    behavior_close: str
    seconds: float

    @property
    def section(self) -> int:
        return int(self.case.partition(".")[0])

    @property
    def verdict(self) -> str:
        """``"OK"``, ``"INFORMATIONAL"``, or ``"bad"``, which is all the rest."""
        words = {self.behavior, self.behavior_close}
        if words == {"OK"}:
            return "OK"
        if self.case in INFORMATIONAL_BY_NATURE and words <= {"OK", "INFORMATIONAL"}:
            return "INFORMATIONAL"
        return "bad"


def read_outcomes(report: Path, agent: str, cases: Iterable[str]) -> list[Outcome]:
    """The outcomes of ``cases`` in the order given; a case the report does not know is MISSING."""
    found = json.loads((report / "index.json").read_text()).get(agent, {})
    return [
        Outcome(
            case,
            found.get(case, {}).get("behavior", "MISSING"),
            found.get(case, {}).get("behaviorClose", "MISSING"),
            found.get(case, {}).get("duration", 0) / 1000,
        )
        for case in cases
    ]


def table(outcomes: list[Outcome]) -> str:
    """One line for each section, and one for each case that is neither OK nor informational."""
    lines = [f"{'section':<28}{'cases':>6}{'OK':>6}{'informational':>15}{'bad':>5}{'time':>9}"]
    for section in sorted({outcome.section for outcome in outcomes}):
        members = [outcome for outcome in outcomes if outcome.section == section]
        count = Counter(outcome.verdict for outcome in members)
        seconds = sum(outcome.seconds for outcome in members)
        name = f"{section:>2} {SECTIONS.get(section, '')}"
        lines.append(
            f"{name:<28}{len(members):>6}{count['OK']:>6}{count['INFORMATIONAL']:>15}"
            f"{count['bad']:>5}{seconds:>7.1f} s"
        )
    lines += [
        f"case {outcome.case}: {outcome.behavior}, close {outcome.behavior_close}"
        for outcome in outcomes
        if outcome.verdict == "bad"
    ]
    return "\n".join(lines)


def summary(role: str, outcomes: list[Outcome]) -> str:
    """The line that says it all."""
    count = Counter(outcome.verdict for outcome in outcomes)
    return (
        f"{role}: {len(outcomes)} cases, {count['OK']} OK, "
        f"{count['INFORMATIONAL']} informational, {count['bad']} bad"
    )


def passed(outcomes: list[Outcome]) -> bool:
    """Whether there were cases, and every one was as it should be."""
    return bool(outcomes) and all(outcome.verdict != "bad" for outcome in outcomes)
