"""Where the time of trio_ws goes: microseconds for each message, of each row of the benchmark.

    python tests/benchmarks/where.py                # every row
    python tests/benchmarks/where.py --only many --lines 20

The server runs as in ``run.py``. How much CPU time a message takes, in the kernel and outside of
it, the kernel tells. For what is outside ``py-spy`` looks some hundred times a second at which line
of Python the server is; what is in C counts for the line that calls it.
"""

from __future__ import annotations

import argparse
import linecache
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from machine import describe_machine
from measuring import CORES, Effort, Laboratory
from peers import PEERS
from reporting import python_version, table_head, table_row
from rows import OURS, ROWS, Kind, Row
from run import DOCS, make_certificate, pick, say

import trio_ws

_ROOM_OF: Final = {
    "Trio": ("trio", "outcome", "sortedcontainers", "attr"),
    "handshake": (
        "h11",
        "_handshake.py",
        "_heads.py",
        "_headers.py",
        "_http.py",
        "_origins.py",
        "_upgrade.py",
    ),
    "codec": ("_deflate.py", "_frames.py", "_large.py", "_outbox.py", "_protocol.py"),
    "application": ("servers",),
}
"""Part of a path, to what it counts for; what else is in trio_ws is "stream"."""

_COLUMNS: Final = ("kernel", "Trio", "codec", "handshake", "stream", "application", "other")

_SYSTEM_CALLS: Final = ("os.read", "os.write", "_epoll.", ".accept(", ".close()", "_sock")
"""What is in a line that enters the kernel: there it is not known where the time goes."""

_PACKAGE: Final = str(Path(trio_ws.__file__).parent)

_SAMPLES: Final = 250
"""For each second."""


class Place(NamedTuple):
    """A line of Python."""

    function: str
    file: str
    line: int


class Profile(NamedTuple):
    """Of one row: microseconds of a message in the kernel and outside of it, and where the samples
    were.
    """

    row: Row
    system: float
    user: float
    samples: Counter[Place]

    @property
    def total(self) -> float:
        return self.system + self.user

    @property
    def weight(self) -> float:
        """Microseconds that a sample stands for."""
        return self.user / (self.samples.total() or 1)

    def columns(self) -> dict[str, float]:
        """Microseconds for each of :data:`_COLUMNS`."""
        found = dict.fromkeys(_COLUMNS, 0.0)
        found["kernel"] = self.system
        for place, count in self.samples.items():
            found[_column(place)] += count * self.weight
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="ROW", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row; default 4")
    parser.add_argument("--lines", type=int, default=0, help="and the lines that take the most")
    parser.add_argument("--docs", action="store_true", help="write the table of the docs")
    arguments = parser.parse_args()
    if shutil.which(_py_spy()) is None:
        sys.exit("py-spy is missing: install the extra of this project that is named benchmark")
    describe_machine([peer for peer in PEERS if peer.name == OURS])
    rows = [row for row in pick(ROWS, arguments.only, "row") if row.kind is Kind.RATE]
    profiles = []
    with tempfile.TemporaryDirectory() as workspace:
        effort = Effort(seconds=arguments.seconds, warm_up=0.3, scale=1.0)
        certificate = make_certificate(Path(workspace))
        with Laboratory(certificate, Path(workspace), effort) as laboratory:
            for row in rows:
                profiles.append(measure(laboratory, row, Path(workspace)))
                print_profile(profiles[-1], arguments.lines)
    if arguments.docs:
        path = DOCS / f"performance-where-{python_version()}.inc"
        path.write_text("\n".join(table(profiles)) + "\n")


def _py_spy() -> str:
    return str(Path(sys.executable).with_name("py-spy"))


def measure(laboratory: Laboratory, row: Row, workspace: Path) -> Profile:
    """One row, with py-spy looking on."""
    ours = next(peer for peer in PEERS if peer.name == OURS)
    output = workspace / f"{row.name}.stacks"
    command = [_py_spy(), "record", "--full-filenames", "--format", "raw", "--rate", str(_SAMPLES)]
    command += ["--duration", str(round(laboratory.effort.seconds)), "--output", str(output)]
    command += ["--pid", str(laboratory.server(ours, row).pid)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=workspace
    ) as looking_on:
        if len(CORES) > 1:
            laboratory.pin_to_client(looking_on.pid)
        figure = laboratory.measure(ours, row)
    if not output.exists():
        say("py-spy has seen nothing: is it allowed to look at other processes?")
        sys.exit(1)
    return Profile(row, figure.server_system, figure.server_user, read_stacks(output))


def read_stacks(path: Path) -> Counter[Place]:
    """How often each line was the innermost one, those left out that enter the kernel."""
    places = Counter[Place]()
    for text in path.read_text().splitlines():
        stack, _, count = text.rpartition(" ")
        function, _, where = stack.rpartition(";")[2].partition(" (")
        file, _, line = where.rstrip(")").rpartition(":")
        if not line.isdecimal():
            continue
        place = Place(function, file, int(line))
        if not any(call in linecache.getline(file, place.line) for call in _SYSTEM_CALLS):
            places[place] += int(count)
    return places


def _column(place: Place) -> str:
    path = Path(place.file)
    for column, parts in _ROOM_OF.items():
        if any(part in path.parts for part in parts):
            return column
    return "stream" if place.file.startswith(_PACKAGE) else "other"


def print_profile(profile: Profile, lines: int) -> None:
    columns = profile.columns()
    print(f"{profile.row.title} ({profile.row.name}): {profile.total:.1f} us")
    print("    " + ", ".join(f"{name} {columns[name]:.1f}" for name in _COLUMNS if columns[name]))
    for place, count in profile.samples.most_common(lines):
        text = linecache.getline(place.file, place.line).strip()
        where = f"{Path(place.file).name}:{place.line}"
        print(f"    {count * profile.weight:7.2f} us  {where}  {text[:80]}")
    print(flush=True)


def table(profiles: list[Profile]) -> Iterator[str]:
    yield from table_head("Scenario", "total", *_COLUMNS, widths="30" + " 10" * 8)
    for profile in profiles:
        figures = [f"{us:.1f}" if us else "" for us in profile.columns().values()]
        yield from table_row(profile.row.title, f"{profile.total:.1f}", *figures)


if __name__ == "__main__":
    main()
