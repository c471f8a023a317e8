"""The benchmark works; what it measures is not looked at."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio
from programs import ROOT

BENCHMARK = ROOT / "tests" / "benchmarks" / "run.py"


@pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("g++") or shutil.which("c++")),
    reason="the load client is in C++, for Linux",
)
async def test_every_row_of_the_benchmark_can_be_measured(tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARK), "--quick", "--peers", "trio_ws,plain-trio"]
    ended = await trio.run_process(
        [*command, "--save", str(saved)],
        capture_stdout=True,
        env={**os.environ, "TRIO_WS_BENCHMARKS": str(tmp_path)},
    )
    rows = json.loads(saved.read_text())["rows"]
    assert len(rows) >= 15 or b"libssl-dev" in ended.stderr
    for figures in rows.values():
        assert len(figures["trio_ws"]) == 1
    assert rows["many"]["plain-trio"][0]["value"] > 0
