"""What the tests with decompression bombs have measured, for the summary of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MIB = 1024 * 1024


class Bomb(NamedTuple):
    """Bytes: on the wire, what they would inflate to, what may be held, and the peak that was."""

    wire: int
    inflated: int
    limit: int
    peak: int


measured: dict[str, Bomb] = {}
"""By what the test was about."""


def report() -> Iterator[str]:
    """A line for each bomb."""
    for about, bomb in measured.items():
        wire, inflated, limit, peak = (size / MIB for size in bomb)
        yield (
            f"bomb of {wire:.2f} MiB, inflated {inflated:,.0f} MiB: "
            f"peak {peak:.2f} MiB of {limit:.2f} allowed ({about})"
        )
