"""Autobahn|Testsuite, and the judge of its reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wstest_environment
from run_autobahn import CASES, batches
from wstest_report import SECTIONS, Outcome, passed, read_outcomes, summary, table

SCRIPT = Path(__file__).parent / "autobahn" / "run_autobahn.py"


@pytest.fixture
def wstest_wanted(pytestconfig: pytest.Config) -> None:
    """Skip, with the reason, where Autobahn|Testsuite was not asked for or can not run."""
    if not pytestconfig.getoption("--autobahn"):
        pytest.skip(
            "Autobahn|Testsuite takes minutes: run `python tests/autobahn/run_autobahn.py`, "
            "or pytest with --autobahn"
        )
    try:
        wstest_environment.find_python27()
    except wstest_environment.NoPython27 as exc:
        pytest.skip(str(exc))


@pytest.mark.usefixtures("wstest_wanted")
@pytest.mark.parametrize("role", ["server", "client"])
def test_every_autobahn_case_is_ok(role: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--role", role, "--report-dir", str(tmp_path)]
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout


def test_each_section_runs_once_in_each_role_and_13_with_any_window() -> None:
    for role in ("server", "client"):
        parts = batches(role, CASES)
        assert len({part.name for part in parts}) == len(parts)
        cases = [case for part in parts for case in part.cases]
        assert sorted(cases) == sorted(f"{section}.*" for section in SECTIONS)
        [largest] = [part for part in parts if part.compression.server_max_window_bits == 15]
        assert largest.cases == ["13.*"]


@pytest.mark.parametrize(
    ("case", "behavior", "behavior_close", "verdict"),
    [
        ("1.1.1", "OK", "OK", "OK"),
        ("3.2", "NON-STRICT", "OK", "bad"),
        ("7.1.5", "OK", "WRONG CODE", "bad"),
        ("7.1.5", "OK", "INFORMATIONAL", "bad"),
        ("7.1.6", "INFORMATIONAL", "INFORMATIONAL", "INFORMATIONAL"),
        ("7.1.6", "FAILED", "INFORMATIONAL", "bad"),
    ],
)
def test_only_ok_is_good_and_only_three_cases_may_be_informational(
    case: str, behavior: str, behavior_close: str, verdict: str
) -> None:
    outcome = Outcome(case, behavior, behavior_close, 0.0)
    assert outcome.verdict == verdict
    assert passed([outcome]) == (verdict != "bad")


def test_a_case_that_never_ran_is_bad(tmp_path: Path) -> None:
    ran = {"behavior": "OK", "behaviorClose": "OK", "duration": 1500}
    (tmp_path / "index.json").write_text(json.dumps({"trio_ws": {"1.1.1": ran}}))
    outcomes = read_outcomes(tmp_path, "trio_ws", ["1.1.1", "10.1.1"])
    assert not passed(outcomes)
    assert summary("server", outcomes) == "server: 2 cases, 1 OK, 0 informational, 1 bad"
    assert table(outcomes).splitlines()[1:] == [
        " 1 framing                       1     1              0    0    1.5 s",
        "10 automatic fragmentation       1     0              0    1    0.0 s",
        "case 10.1.1: MISSING, close MISSING",
    ]


def test_a_run_of_no_cases_has_not_passed() -> None:
    assert not passed([])
