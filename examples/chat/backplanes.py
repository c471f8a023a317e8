"""Which backplane the command line asks for."""

from __future__ import annotations

import importlib
import sys

from .backplane import Backplane
from .memory_backplane import MemoryBackplane
from .options import Options


def make_backplane(options: Options) -> Backplane:
    """The backplane; one that needs what is not installed is said, and ends the program."""
    if options.backplane is None:
        return MemoryBackplane()
    # Only who wants Redis needs its client.
    try:
        module = importlib.import_module("examples.chat.redis_backplane")
    except ModuleNotFoundError as error:
        sys.exit(f"--backplane needs {error.name}: pip install '.[chat]'")
    limits = options.limits()
    backplane: Backplane = module.RedisBackplane(
        options.backplane, history=limits.history, keep=limits.keep
    )
    return backplane
