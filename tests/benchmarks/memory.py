"""What a process holds of the machine's memory, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def resident(process: int | str) -> int:
    """Bytes in memory now.

    :param process: its number, or ``"self"``.
    """
    return _status(process, "VmRSS")


def peak_above(process: int | str, idle: int) -> int:
    """Bytes that the peak since :func:`reset_peak` was above *idle*."""
    return max(0, _status(process, "VmHWM") - idle)


def reset_peak(process: int | str) -> None:
    """Let the peak begin anew."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def _status(process: int | str, field: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)
