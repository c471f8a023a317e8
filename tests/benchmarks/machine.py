"""On what, and with what, was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from measuring import CORES
from peers import Peer

import trio_ws


def machine_lines(peers: list[Peer]) -> list[str]:
    """Machine, Python and versions, a line each."""
    speedups = "in use" if trio_ws.SPEEDUPS else "not in use"
    return [
        f"{_processor()}, {os.cpu_count()} cores: one for the server, one for the client"
        if len(CORES) > 1
        else f"{_processor()}: server and client share its cores",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}; "
        f"speedups of trio_ws in C: {speedups}",
        *(f"{peer.title}: {peer.versions()}" for peer in peers),
    ]


def describe_machine(peers: list[Peer]) -> None:
    """Print all that."""
    print(*machine_lines(peers), "", sep="\n", flush=True)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
