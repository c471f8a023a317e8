"""Compiles what is in C++, once, into a cache directory."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CACHE: Final = Path(
    os.environ.get("TRIO_WS_BENCHMARKS", Path.home() / ".cache" / "trio_ws-benchmarks")
)

_FLAGS: Final = ("-std=c++17", "-O2", "-DNDEBUG")
_OPENSSL: Final = ("-lssl", "-lcrypto")


class BuildError(Exception):
    """It can not be compiled here; the message says why."""


@functools.cache
def build_client() -> tuple[Path, bool]:
    """The load client, and whether it can speak TLS.

    :raises BuildError: it can not be had.
    """
    source = Path(__file__).with_name("client.cpp")
    if _has_header("openssl/ssl.h"):
        return _build(source, "-DWITH_TLS", *_OPENSSL), True
    return _build(source), False


@functools.cache
def build_beast(source: Path) -> Path:
    """The server that is written with Boost.Beast.

    :raises BuildError: it can not be had.
    """
    for header, package in (
        ("boost/beast/websocket.hpp", "libboost1.81-dev"),
        ("openssl/ssl.h", "libssl-dev"),
    ):
        if not _has_header(header):
            raise BuildError(f"there is no {header}: install {package}, or what has it elsewhere")
    return _build(source, *_OPENSSL, "-pthread")


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise BuildError("there is no C++ compiler: install g++, or name one in CXX")
    return compiler


def _has_header(name: str) -> bool:
    found = subprocess.run(
        [_compiler(), "-E", "-x", "c++", "-"],
        input=f"#include <{name}>",
        text=True,
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


def _build(source: Path, *flags: str) -> Path:
    """The program, compiled unless it is there already."""
    key = hashlib.sha256(source.read_bytes() + repr((_compiler(), flags)).encode()).hexdigest()
    program = CACHE / f"{source.stem}-{key[:16]}"
    if program.exists():
        return program
    print(f"compiling {source.name} ...", file=sys.stderr, flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    compiled = subprocess.run(
        [_compiler(), *_FLAGS, source, "-o", unfinished, *flags],
        text=True,
        capture_output=True,
        check=False,
    )
    if compiled.returncode:
        raise BuildError(f"{source.name} can not be compiled:\n{compiled.stderr[-2000:]}")
    unfinished.rename(program)
    return program
