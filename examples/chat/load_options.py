"""What the command line of the load test says."""

from __future__ import annotations

import argparse
import urllib.parse
from dataclasses import dataclass

from .arguments import count, positive


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The command line, checked.

    :ivar url: of the server, without a slash at the end.
    """

    url: str
    clients: int
    rooms: int
    rate: float
    seconds: float

    @property
    def messages(self) -> int:
        return round(self.rate * self.seconds)


def parse_options() -> LoadOptions:
    """Read the command line; what is wrong with it is said, and ends the program with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat.load", description="Many clients of a chat server at once."
    )
    add = parser.add_argument
    add(
        "url",
        type=_url,
        nargs="?",
        default="http://127.0.0.1:8000/",
        help="of the server (%(default)s)",
    )
    add("--clients", type=count, default=100, metavar="N", help="how many (%(default)s)")
    add("--rooms", type=count, default=2, metavar="N", help="that they are in (%(default)s)")
    add(
        "--rate",
        type=positive,
        default=10.0,
        metavar="N",
        help="messages a second, of all of them (%(default)s)",
    )
    add(
        "--seconds",
        type=positive,
        default=10.0,
        metavar="N",
        help="for which they talk (%(default)s)",
    )
    options = LoadOptions(**vars(parser.parse_args()))
    if options.rooms > options.clients:
        parser.error(f"{options.rooms} rooms are too many for {options.clients} clients")
    if not options.messages:
        parser.error("nothing would be said: give a larger --rate, or more --seconds")
    return options


def _url(text: str) -> str:
    try:
        url = urllib.parse.urlsplit(text)
        has_server = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        has_more = url.path not in ("", "/") or bool(url.query or url.fragment)
    except ValueError:
        has_server = has_more = False
    if not has_server or has_more:
        raise argparse.ArgumentTypeError("give the URL of a server, such as http://127.0.0.1:8000/")
    return text.rstrip("/")
