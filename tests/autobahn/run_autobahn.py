"""Run Autobahn|Testsuite against trio_ws, in either role, and judge the outcome."""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
import wstest_environment
import wstest_report
from testees import echo, echo_to

import trio_ws

AGENT = "trio_ws"
HOST = "127.0.0.1"
CASES = [f"{section}.*" for section in wstest_report.SECTIONS]
MIB = 1024 * 1024

# The parameters of section 13 are answered to the letter if no window is too large for us.
DEFAULTS = trio_ws.PermessageDeflate()
AS_ASKED = trio_ws.PermessageDeflate(server_max_window_bits=15, client_max_window_bits=15)


@dataclass(frozen=True)
class Batch:
    """Cases that one process runs, one after the other, with the same options."""

    role: str
    name: str
    cases: list[str]
    compression: trio_ws.PermessageDeflate


@dataclass
class Run:
    """One run of ``wstest``: what it is asked, and what it has said so far."""

    role: str
    compression: trio_ws.PermessageDeflate
    wstest: list[str]
    cases: list[str]
    report: Path
    selected: list[str] = field(default_factory=list)
    announced: trio.Event = field(default_factory=trio.Event)

    @property
    def mode(self) -> str:
        """The part that ``wstest`` plays, the opposite of ours."""
        return "fuzzingclient" if self.role == "server" else "fuzzingserver"

    def command(self, url: str) -> list[str]:
        """Write the specification down, and name it in the command line."""
        specification: dict[str, object] = {
            "outdir": str(self.report),
            "cases": self.cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        if self.role == "server":
            specification["servers"] = [{"agent": AGENT, "url": url}]
        else:
            specification["url"] = url
        path = self.report / "specification.json"
        path.write_text(json.dumps(specification, indent=2))
        return [*self.wstest, "--mode", self.mode, "--spec", str(path), "--webport", "0"]


async def follow(run: Run, output: trio.abc.ReceiveStream) -> None:
    """Keep what ``wstest`` says in its log, and show how far it is."""
    started = time.monotonic()
    section = ""
    pending = b""
    with (run.report / "wstest.log").open("wb") as log:
        async for chunk in output:
            log.write(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                if text.startswith("Cases = "):
                    run.selected = ast.literal_eval(text.removeprefix("Cases = "))
                    run.announced.set()
                case = re.match(r"Running test case ID (\d+)\.", text)
                if case and case[1] != section:
                    section = case[1]
                    name = wstest_report.SECTIONS.get(int(section), "")
                    elapsed = time.monotonic() - started
                    print(f"{elapsed:6.1f} s  {run.role}: section {section} {name}", flush=True)


async def start_wstest(
    run: Run, url: str, *, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run ``wstest`` until it ends; cancelling stops it."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                run.command(url),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=wstest_environment.plain_environment() | {"PYTHONUNBUFFERED": "1"},
            )
        )
        assert process.stdout is not None
        nursery.start_soon(follow, run, process.stdout)
        task_status.started(process)


async def exercise_server(run: Run) -> None:
    """``wstest`` connects to our echo server, case after case, and ends by itself."""
    async with trio.open_nursery() as nursery:
        server: trio_ws.WebSocketServer = await nursery.start(
            partial(trio_ws.serve_websocket, echo, 0, host=HOST, compression=run.compression)
        )
        await start_wstest(run, f"ws://{HOST}:{server.port}")
        nursery.cancel_scope.cancel()


async def exercise_client(run: Run) -> None:
    """Our client connects to ``wstest``, case after case, and asks for the report at the end."""
    url = f"ws://{HOST}:{free_port()}"
    async with trio.open_nursery() as nursery:
        await nursery.start(start_wstest, run, url)
        await run.announced.wait()
        await wait_until_listening(url)
        for case in run.selected:
            await echo_to(f"{url}/runCase?casetuple={case}&agent={AGENT}", run.compression)
        await echo_to(f"{url}/updateReports?agent={AGENT}", run.compression)
        nursery.cancel_scope.cancel()


def free_port() -> int:
    """A port nobody listens on; ``wstest`` has to be told one."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def wait_until_listening(url: str) -> None:
    """``wstest`` announces its cases a moment before it listens."""
    port = int(url.rpartition(":")[2])
    while True:
        try:
            stream = await trio.open_tcp_stream(HOST, port)
        except OSError:
            await trio.sleep(0.05)
        else:
            await stream.aclose()
            return


def batches(role: str, cases: list[str]) -> list[Batch]:
    """What can run at the same time of *cases* in one role."""
    of_13 = [case for case in cases if case.startswith("13.")]
    others = [case for case in cases if case not in of_13]
    both = [
        Batch(role, f"{role}-1-to-12", others, DEFAULTS),
        Batch(role, f"{role}-13", of_13, AS_ASKED),
    ]
    return [batch for batch in both if batch.cases]


async def run_batch(run: Run, seconds: float) -> None:
    """Run some cases in one role.

    :param seconds: until the run is given up.
    :raises trio.TooSlowError: it was given up.
    """
    with trio.fail_after(seconds):
        await (exercise_server if run.role == "server" else exercise_client)(run)


def outcomes_of(
    batch: Batch, wstest: list[str], reports: Path, seconds: float
) -> list[wstest_report.Outcome]:
    """Run some cases in one role, and read what came out."""
    run = Run(batch.role, batch.compression, wstest, batch.cases, reports / batch.name)
    run.report.mkdir(parents=True, exist_ok=True)
    (run.report / "index.json").unlink(missing_ok=True)
    log = run.report / "wstest.log"
    log.write_bytes(b"")
    try:
        trio.run(run_batch, run, seconds)
        return wstest_report.read_outcomes(run.report, AGENT, run.selected)
    except Exception:
        said = log.read_text(errors="replace").splitlines()
        print(f"{batch.name}: the end of what wstest said:", *said[-10:], sep="\n  ", flush=True)
        raise


def judge(
    roles: list[str], arguments: argparse.Namespace, wstest: list[str], reports: Path
) -> bool:
    """Run the cases in each role, as many at a time as there are jobs; print what came out."""
    started = time.monotonic()
    lines = []
    good = True
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        running = {
            role: [
                pool.submit(outcomes_of, batch, wstest, reports, arguments.timeout)
                for batch in batches(role, arguments.cases)
            ]
            for role in roles
        }
        for role, futures in running.items():
            outcomes = [outcome for future in futures for outcome in future.result()]
            lines.append(wstest_report.summary(role, outcomes))
            print(lines[-1], wstest_report.table(outcomes), sep="\n", flush=True)
            good = good and wstest_report.passed(outcomes)
    print(f"Autobahn: {'; '.join(lines)}, in {time.monotonic() - started:.0f} s", flush=True)
    return good


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run Autobahn|Testsuite against trio_ws and judge the outcome. Exits with 1 "
        "if any case is not OK in behaviour and in close (three are informational by nature), "
        "with 3 if there is no Python 2.7.",
        epilog="wstest needs CPython 2.7, on PATH or in pyenv. Its environment is made once, in "
        "$TRIO_WS_AUTOBAHN or ~/.cache/trio_ws-autobahn.",
    )
    parser.add_argument("--role", choices=["server", "client", "both"], default="both")
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="PATTERN",
        default=CASES,
        help="cases to run, such as 7.1.1 or '9.*'; by default all that there are",
    )
    parser.add_argument(
        "--report-dir", type=Path, help="where the reports go; by default they are thrown away"
    )
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds for each job (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="how many of the four jobs to run at a time: sections 1 to 12, and 13, in each role "
        "(default: as there are processors)",
    )
    parser.add_argument(
        "--compressed-mib",
        type=int,
        default=8,
        metavar="MIB",
        help="MiB of messages after which a case of sections 12 and 13 is done: the 1,000 messages "
        "of those with large ones take most of an hour (default: %(default)s; 125 is all)",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        wstest = wstest_environment.wstest(arguments.compressed_mib * MIB)
    except wstest_environment.NoPython27 as exc:
        print(exc, file=sys.stderr)
        return 3
    roles = ["server", "client"] if arguments.role == "both" else [arguments.role]
    with tempfile.TemporaryDirectory() as scratch:
        reports = (arguments.report_dir or Path(scratch)).resolve()
        good = judge(roles, arguments, wstest, reports)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
