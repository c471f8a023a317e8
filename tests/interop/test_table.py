"""The table at the end of a test run."""

from __future__ import annotations

from .table import Table


def test_a_cell_tells_what_did_not_pass() -> None:
    table = Table()
    table.add("text", "a", "passed")
    table.add("text", "a", "passed")
    table.add("text", "b", "passed")
    table.add("text", "b", "failed")
    table.add("fragments", "b", "skipped")
    assert table.lines({"a": "A 1.0", "b": "B"}) == [
        "=========  =====  ==================",
        "\\          A 1.0  B",
        "=========  =====  ==================",
        "text       yes    1 passed, 1 failed",
        "fragments  \\-     1 skipped",
        "=========  =====  ==================",
    ]
