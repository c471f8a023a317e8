"""The benchmark: trio_ws and others at the same work, in one run.

    python tests/benchmarks/run.py                # all of it: a quarter of an hour
    python tests/benchmarks/run.py --quick        # does it work? The figures mean little
    python tests/benchmarks/run.py --only many    # one row
    python tests/benchmarks/run.py --docs         # and write the tables and plots of the docs

Each server runs on one core and the load client, which is in C++, on another. The rounds are
interleaved: in each, every peer has its turn, so that what disturbs the machine disturbs all. The
median of the rounds counts, and the ratio of two medians of one run. Nothing else should run; if
something must, ``chrt -r 1`` in front of the command (for root) gives it what is left over.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import trustme
from building import BuildError, build_client
from machine import describe_machine
from measuring import CORES, Effort, Failed, Laboratory
from peers import PEERS, Peer
from plotting import write_plot
from reporting import print_outcome, print_summary, save_results, write_tables
from results import Outcome
from rows import OURS, ROWS, Kind, Row

DOCS: Final = Path(__file__).parents[2] / "docs"

Named = TypeVar("Named", Peer, Row)


def main() -> None:
    arguments = parse_arguments()
    try:
        _, speaks_tls = build_client()
    except BuildError as error:
        sys.exit(f"the load client is missing: {error}")
    peers = available(pick(PEERS, arguments.peers, "peer"))
    rows = pick(ROWS, arguments.only, "row")
    if not speaks_tls:
        say("there are no headers of OpenSSL (libssl-dev): the rows with TLS are left out")
        rows = [row for row in rows if not row.tls]
    if len(CORES) < 2:
        say("there is one core, or they can not be told apart: client and server share it")
    describe_machine(peers)
    outcomes = measure_all(rows, peers, arguments)
    print_summary(outcomes)
    if arguments.save:
        save_results(outcomes, peers, arguments.save)
    if arguments.docs:
        write_tables(outcomes, peers, DOCS)
        write_plot(outcomes, DOCS / "_static")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument(
        "--only", metavar="ROW", action="append", default=[], help=f"one of: {names}; repeatable"
    )
    peers = ", ".join(peer.name for peer in PEERS)
    parser.add_argument(
        "--peers", metavar="A,B", type=lambda text: text.split(","), default=[], help=peers
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 5; 1 with --quick")
    parser.add_argument(
        "--seconds", type=float, help="for which a rate is measured each time; default 1"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works")
    parser.add_argument("--save", type=Path, metavar="FILE", help="every figure, as JSON")
    parser.add_argument(
        "--docs", action="store_true", help="write tables and plot for docs/performance.rst"
    )
    return parser.parse_args()


def pick(all_of_them: Sequence[Named], names: list[str], what: str) -> list[Named]:
    """Those with these names; all if there are none."""
    for name in names:
        if name not in [each.name for each in all_of_them]:
            sys.exit(f"there is no {what} {name!r}")
    return [each for each in all_of_them if not names or each.name in names]


def available(peers: list[Peer]) -> list[Peer]:
    """Those that can be measured here."""
    found = []
    for peer in peers:
        reason = peer.missing()
        if reason is None:
            found.append(peer)
        else:
            say(f"{peer.title} is left out: {reason}")
    return found


def measure_all(rows: list[Row], peers: list[Peer], arguments: argparse.Namespace) -> list[Outcome]:
    effort = Effort(seconds=arguments.seconds or 1.0, warm_up=0.3, scale=1.0)
    if arguments.quick:
        effort = Effort(seconds=arguments.seconds or 0.05, warm_up=0.02, scale=0.01)
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    outcomes = []
    with tempfile.TemporaryDirectory() as workspace:
        certificate = make_certificate(Path(workspace))
        with Laboratory(certificate, Path(workspace), effort) as laboratory:
            for row in rows:
                outcome = measure_row(laboratory, row, peers, rounds)
                print_outcome(outcome)
                outcomes.append(outcome)
    return outcomes


def make_certificate(directory: Path) -> Path:
    """For the rows with TLS: key and chain in one file."""
    path = directory / "certificate.pem"
    identity = trustme.CA().issue_cert("localhost", "127.0.0.1")
    identity.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def measure_row(laboratory: Laboratory, row: Row, peers: list[Peer], rounds: int) -> Outcome:
    outcome = Outcome(row)
    taking_part = [peer for peer in peers if peer.takes_part(row)]
    # Memory is the same each time.
    for number in range(rounds if row.kind is Kind.RATE else 1):
        # Nobody always comes after the same one.
        turn = number % (len(taking_part) or 1)
        for peer in taking_part[turn:] + taking_part[:turn]:
            progress(f"{row.name}: round {number + 1} of {rounds}: {peer.title}")
            try:
                outcome.add(peer, laboratory.measure(peer, row))
            except Failed as error:
                say(f"{row.name}: {error}")
                if peer.name == OURS:
                    sys.exit(1)
    progress("")
    return outcome


def progress(text: str) -> None:
    """One line that is written over, for who looks on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
