"""The benchmark of fairness runs, and says what it is to say."""

from __future__ import annotations

from programs import ROOT, run

SCRIPT = ROOT / "tests" / "benchmarks" / "fairness.py"


async def test_it_shows_every_kind_of_load_with_the_budget_and_without() -> None:
    ended = await run(SCRIPT, "--seconds", "0.1", "--streams", "10")
    assert ended.code == 0, ended.output
    rows = [line.split() for line in ended.output.splitlines()[2:]]
    assert [row[-6] if row[-5] == "KiB" else row[-5] for row in rows] == 4 * ["256", "none"]
    assert all(int(row[-1]) > 0 for row in rows)
