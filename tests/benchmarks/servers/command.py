"""The command line that all servers of the benchmark written in Python have."""

from __future__ import annotations

import argparse
import ssl
from typing import Final, NamedTuple

HOST: Final = "127.0.0.1"

MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024

WINDOW_BITS: Final = 12
MEM_LEVEL: Final = 5
"""How every server that compresses does, as far as it lets itself be told."""


class Command(NamedTuple):
    """What a server is asked to do.

    :ivar mode: ``echo`` or ``broadcast``; some know more.
    :ivar ssl_context: for TLS, or None.
    :ivar level: how hard to compress; None: not at all.
    """

    mode: str
    ssl_context: ssl.SSLContext | None
    level: int | None


def parse_command(*more_modes: str) -> Command:
    """The command line: MODE, ``--certificate PEM`` and ``--level N``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["echo", "broadcast", *more_modes])
    parser.add_argument("--certificate", help="key and chain: speak TLS")
    parser.add_argument("--level", type=int, help="compress")
    arguments = parser.parse_args()
    context = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate)
    return Command(arguments.mode, context, arguments.level)


def announce(port: int) -> None:
    """Say that the server listens."""
    print("port", port, flush=True)
