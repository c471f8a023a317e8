"""What the command line says."""

from __future__ import annotations

import argparse
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .arguments import count, positive
from .limits import Limits

_origin_form = re.compile(
    r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line, checked."""

    host: str
    port: int
    certificate: str | None
    key: str | None
    origin: list[str] | None
    backplane: str | None
    workers: int
    worker: bool
    grace: float
    log: Literal["text", "json"]
    clients: int
    rooms: int
    members: int
    rate: float
    patience: float
    keep: float

    def limits(self) -> Limits:
        return Limits(
            clients=self.clients,
            rooms=self.rooms,
            members=self.members,
            rate=self.rate,
            burst=max(1, round(2 * self.rate)),
            patience=self.patience,
            keep=self.keep,
        )


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; what is wrong with it is said, and ends the program with 2."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if (options.certificate is None) != (options.key is None):
        parser.error("give both --certificate and --key, or neither")
    if options.workers > 1 and options.backplane is None:
        parser.error("--workers needs a --backplane, or each of them would have rooms of its own")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat", description="A chat server on trio_ws, with its page."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    add(
        "--port",
        type=_port,
        default=8000,
        help="on which port (%(default)s); 0: any that is free",
    )
    add("--certificate", metavar="FILE", help="speak TLS, with this chain of certificates (PEM)")
    add("--key", metavar="FILE", help="the private key of the certificate (PEM)")
    add(
        "--origin",
        type=_origin,
        action="append",
        metavar="URL",
        help="whose pages may connect, such as https://example.org; may be given several times "
        "(those of the host that was asked for)",
    )
    add(
        "--backplane",
        type=_redis_url,
        metavar="URL",
        help="share the rooms with other servers through Redis, such as redis://localhost:6379 "
        "(they are in the memory of this server)",
    )
    add(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="processes that share the port; needs a --backplane (%(default)s)",
    )
    add("--worker", action="store_true", help=argparse.SUPPRESS)  # what a worker is started with
    add(
        "--grace",
        type=positive,
        default=5.0,
        metavar="SECONDS",
        help="for everybody to leave when the server stops (%(default)s)",
    )
    add("--log", choices=["text", "json"], default="text", help="how to log (%(default)s)")
    _add_limits(parser)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    default = Limits()
    add = parser.add_argument_group("limits of each process").add_argument
    add(
        "--clients",
        type=count,
        default=default.clients,
        metavar="N",
        help="connections (%(default)s)",
    )
    add("--rooms", type=count, default=default.rooms, metavar="N", help="rooms (%(default)s)")
    add(
        "--members",
        type=count,
        default=default.members,
        metavar="N",
        help="members of a room (%(default)s)",
    )
    add(
        "--rate",
        type=positive,
        default=default.rate,
        metavar="N",
        help="things a client may do in a second; twice as many at once (%(default)s)",
    )
    add(
        "--patience",
        type=positive,
        default=default.patience,
        metavar="SECONDS",
        help="for which a client may read too slowly (%(default)s)",
    )
    add(
        "--keep",
        type=positive,
        default=default.keep,
        metavar="SECONDS",
        help="that a room is kept when everybody has left (%(default)s)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _origin(text: str) -> str:
    found = _origin_form.fullmatch(text)
    if not (text == "*" or (found and int(found["port"] or 1) in range(1, 65536))):
        raise argparse.ArgumentTypeError("give a URL without a path, such as https://example.org")
    return text


def _redis_url(text: str) -> str:
    try:
        url = urllib.parse.urlsplit(text)
        is_complete = url.scheme in ("redis", "rediss") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise argparse.ArgumentTypeError("give a URL such as redis://localhost:6379")
    return text
