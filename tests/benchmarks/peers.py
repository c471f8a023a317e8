"""Who is measured: programs under ``servers/``, one for each library."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from building import BuildError, build_beast
from rows import DEFAULT_LEVEL, FAST_LEVEL, OURS, PLAIN, Kind, Row

SERVERS: Final = Path(__file__).with_name("servers")

_BEAST_VERSION: Final = Path("/usr/include/boost/version.hpp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library, and the server that was written with it.

    :ivar name: for the command line.
    :ivar program: the file of its server.
    :ivar needs: the distributions that it needs, itself first.
    :ivar levels: those that it can be told to compress with.
    """

    name: str
    title: str
    program: str
    needs: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()

    @property
    def is_python(self) -> bool:
        return self.program.endswith(".py")

    def missing(self) -> str | None:
        """Why it can not be measured here; None if it can."""
        for name in self.needs:
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return f"{name} is not installed"
        if not self.is_python:
            try:
                build_beast(SERVERS / self.program)
            except BuildError as error:
                return str(error)
        return None

    def versions(self) -> str:
        """Of what it is made of."""
        if not self.is_python:
            text = _BEAST_VERSION.read_text() if _BEAST_VERSION.exists() else ""
            found = re.search(r'BOOST_LIB_VERSION "(.*)"', text)
            return "Boost " + (found[1].replace("_", ".") if found else "of unknown version")
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.needs)

    def command(self, row: Row, certificate: Path) -> list[str]:
        """How its server is started."""
        program = SERVERS / self.program
        command = [sys.executable, str(program)]
        if not self.is_python:
            command = [str(build_beast(program))]
        command.append(row.mode)
        if row.tls:
            command += ["--certificate", str(certificate)]
        if row.level is not None:
            command += ["--level", str(row.level)]
        return command

    def takes_part(self, row: Row) -> bool:
        """Whether it can do what the row is about."""
        if row.kind is Kind.PARTS:
            return self.name == OURS
        if self.name == PLAIN:
            return row.mode == row.client == "echo" and row.level is None
        return row.level is None or row.level in self.levels


ALL_LEVELS: Final = (FAST_LEVEL, DEFAULT_LEVEL)

PEERS: Final = (
    Peer(
        name=OURS,
        title="trio_ws",
        program="with_trio_ws.py",
        needs=("trio-ws", "trio", "h11"),
        levels=ALL_LEVELS,
    ),
    Peer(
        name="trio-websocket",
        title="trio-websocket",
        program="with_trio_websocket.py",
        needs=("trio-websocket", "wsproto"),
    ),
    Peer(
        name="websockets-trio",
        title="websockets, Trio",
        program="with_websockets_trio.py",
        needs=("websockets",),
        levels=ALL_LEVELS,
    ),
    Peer(
        name="websockets-uvloop",
        title="websockets, uvloop",
        program="with_websockets_uvloop.py",
        needs=("websockets", "uvloop"),
        levels=ALL_LEVELS,
    ),
    Peer(
        name="aiohttp",
        title="aiohttp, uvloop",
        program="with_aiohttp.py",
        needs=("aiohttp", "uvloop"),
        levels=(FAST_LEVEL,),
    ),
    Peer(
        name="picows",
        title="picows, uvloop",
        program="with_picows.py",
        needs=("picows", "uvloop"),
    ),
    Peer(
        name="beast",
        title="Boost.Beast, C++",
        program="with_beast.cpp",
        levels=ALL_LEVELS,
    ),
    Peer(
        name=PLAIN,
        title="no WebSocket: Trio, TCP",
        program="plain_trio.py",
        needs=("trio",),
    ),
)
