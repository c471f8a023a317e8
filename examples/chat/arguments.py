"""Numbers on a command line, checked: for the server's and for the load test's."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """How many, from 1."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError("give a number from 1")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("give a number above 0")
    return number
