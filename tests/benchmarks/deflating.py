"""What compression costs and brings: memory, time and size, as tables for docs/compression.rst.

``python tests/benchmarks/deflating.py`` takes a minute. ``zlib-ng`` and ``isal`` are measured
where they are installed. Memory is what was asked of Python's allocator; time is the best of some
rounds on one core; a message is cut into pieces and flushed as a stream does it.
"""

from __future__ import annotations

import gc
import importlib
import json
import platform
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pydoc_data.topics import topics
from typing import NamedTuple, cast

from trio_ws import PermessageDeflate
from trio_ws._deflate import PIECE, Deflater, Inflater, Zlib

DEFAULTS = PermessageDeflate()
KIB = 1024
AMOUNT = 1024 * KIB
ROUNDS = 5
WINDOWS = range(9, 16)
MEM_LEVELS = range(1, 10)


class Settings(NamedTuple):
    """How both ends of one direction are made."""

    window_bits: int = 12
    mem_level: int = DEFAULTS.mem_level
    level: int = DEFAULTS.level
    takeover: bool = True

    def deflater(self, library: Zlib = zlib) -> Deflater:
        return Deflater(
            window_bits=self.window_bits,
            context_takeover=self.takeover,
            level=self.level,
            mem_level=self.mem_level,
            library=library,
        )

    def inflater(self, library: Zlib = zlib) -> Inflater:
        return Inflater(
            window_bits=self.window_bits, context_takeover=self.takeover, library=library
        )

    def __str__(self) -> str:
        if not self.takeover:
            return "no takeover"
        return f"window {self.window_bits}, mem_level {self.mem_level}, level {self.level}"


def libraries() -> dict[str, Zlib]:
    """The modules that are installed, by name."""
    found: dict[str, Zlib] = {"zlib": zlib}
    for name, module in {"zlib-ng": "zlib_ng.zlib_ng", "isal": "isal.isal_zlib"}.items():
        try:
            found[name] = cast(Zlib, importlib.import_module(module))  # they copy zlib's interface
        except ImportError:
            print(f"({name} is not installed)")
    return found


# What is sent


def records() -> Iterator[str]:
    """Objects of a feed: the same keys each time, numbers and names that differ."""
    source = random.Random(7692)
    names = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(200)]
    for number in range(1_000_000):
        yield json.dumps(
            {
                "id": 7_000_000 + number,
                "time": f"2026-11-21T09:{number // 600 % 60:02}:{number / 10 % 60:04.1f}Z",
                "symbol": source.choice(names[:30]).upper()[:4],
                "price": round(source.gauss(100, 20), 2),
                "volume": source.randrange(1, 10_000),
                "buyer": source.choice(names),
                "seller": source.choice(names),
                "flags": source.sample(["open", "late", "odd", "cross", "halted"], 2),
            }
        )


def json_messages(size: int) -> list[bytes]:
    """Arrays of such objects, cut off at *size* bytes."""
    messages: list[bytes] = []
    source = records()
    while len(messages) * size < AMOUNT:
        array: list[str] = []
        length = 0
        while length < size:
            array.append(next(source))
            length += len(array[-1]) + 2
        messages.append(f"[{', '.join(array)}]".encode()[:size])
    return messages


def prose_messages(size: int) -> list[bytes]:
    """Pieces of Python's own documentation."""
    text = "".join(topics.values()).encode()
    return [text[at : at + size] for at in range(0, min(len(text) - size, AMOUNT), size)]


MESSAGES = {
    f"{kind}, {size // KIB} KiB": make(size)
    for kind, make in {"JSON": json_messages, "prose": prose_messages}.items()
    for size in (KIB, 64 * KIB)
}


# Measuring


def deflate(codec: Deflater, message: bytes) -> bytes:
    last = (len(message) - 1) // PIECE * PIECE
    return b"".join(
        [
            codec.deflate(message[at : at + PIECE], at == last, at == last)
            for at in range(0, last + 1, PIECE)
        ]
    )


def inflate(codec: Inflater, payload: bytes) -> bytes:
    codec.feed(payload, True)
    parts = []
    while not codec.needs_input:
        parts.append(codec.produce(64 * KIB))
    return b"".join(parts)


def allocated(make_and_use: Callable[[], object]) -> float:
    """KiB that are held by what *make_and_use* returns."""
    gc.collect()
    tracemalloc.start()
    kept = make_and_use()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held / KIB


def memory_of(settings: Settings, library: Zlib = zlib) -> tuple[float, float]:
    """KiB of a deflater and of an inflater that have been used."""
    message = MESSAGES["JSON, 64 KiB"][0]
    payload = deflate(settings.deflater(library), message)

    def use_deflater() -> Deflater:
        codec = settings.deflater(library)
        deflate(codec, message)
        return codec

    def use_inflater() -> Inflater:
        codec = settings.inflater(library)
        inflate(codec, payload)
        return codec

    return allocated(use_deflater), allocated(use_inflater)


class Outcome(NamedTuple):
    """What became of some messages."""

    size: float
    """Percent of what it was."""
    deflating: float
    """MB a second."""
    inflating: float
    """MB a second."""


def measure(messages: list[bytes], settings: Settings, library: Zlib = zlib) -> Outcome:
    total = sum(map(len, messages))
    best_deflating = best_inflating = float("inf")
    payloads: list[bytes] = []
    for _ in range(ROUNDS):
        sender, receiver = settings.deflater(library), settings.inflater(library)
        started = time.process_time()
        payloads = [deflate(sender, message) for message in messages]
        best_deflating = min(best_deflating, time.process_time() - started)
        started = time.process_time()
        inflated = [inflate(receiver, payload) for payload in payloads]
        best_inflating = min(best_inflating, time.process_time() - started)
        assert inflated == messages
    size = sum(map(len, payloads)) / total * 100
    return Outcome(size, total / best_deflating / 1e6, total / best_inflating / 1e6)


# Tables


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table in reStructuredText."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    print(rule, lines[0], rule, *lines[1:], rule, "", sep="\n")


def print_memory() -> None:
    print("KiB of a direction with context takeover, by window and mem_level:\n")
    head = ["window", *[f"deflate, {mem_level}" for mem_level in MEM_LEVELS], "inflate"]
    rows = []
    for window_bits in WINDOWS:
        pairs = [memory_of(Settings(window_bits, mem_level)) for mem_level in MEM_LEVELS]
        cells = [*[deflating for deflating, _ in pairs], pairs[0][1]]
        rows.append([str(window_bits), *[f"{cell:.0f}" for cell in cells]])
    table(head, rows)


def print_settings() -> None:
    print("Size in percent, and MB/s deflating, by settings:\n")
    choices = [
        *[Settings(window, mem_level) for window, mem_level in ((9, 1), (10, 3), (11, 4), (12, 4))],
        Settings(),
        *[
            Settings(window, mem_level)
            for window, mem_level in ((12, 8), (13, 6), (14, 7), (15, 8))
        ],
        *[Settings(level=level) for level in (1, 3, 8, 9)],
        Settings(takeover=False),
    ]
    rows = []
    for settings in choices:
        outcomes = [measure(messages, settings) for messages in MESSAGES.values()]
        held = sum(memory_of(settings))
        cells = [f"{each.size:.1f} %, {each.deflating:.0f}" for each in outcomes]
        rows.append([str(settings), f"{held:.0f}", *cells])
    table(["settings", "KiB", *MESSAGES], rows)


def print_small() -> None:
    print("Size in percent of short messages, with and without context takeover:\n")
    rows = []
    for size in (50, 100, 300, KIB):
        kinds = [make(size)[:2000] for make in (json_messages, prose_messages)]
        outcomes = [
            measure(messages, Settings(takeover=takeover))
            for messages in kinds
            for takeover in (True, False)
        ]
        rows.append([str(size), *[f"{each.size:.0f} %" for each in outcomes]])
    table(["bytes", "JSON", "no takeover", "prose", "no takeover"], rows)


def print_libraries() -> None:
    print("Size in percent, and MB/s deflating and inflating, by module:\n")
    rows = []
    for name, library in libraries().items():
        for level in (1, 6) if name != "isal" else (1, 3):
            for takeover in (True, False):
                settings = Settings(level=level, takeover=takeover)
                outcomes = [measure(messages, settings, library) for messages in MESSAGES.values()]
                held = sum(memory_of(settings._replace(takeover=True), library))
                rows.append(
                    [
                        f"{name}, level {level}{'' if takeover else ', no takeover'}",
                        f"{held:.0f}",
                        *[
                            f"{each.size:.1f} %, {each.deflating:.0f}, {each.inflating:.0f}"
                            for each in outcomes
                        ],
                    ]
                )
    table(["module", "KiB", *MESSAGES], rows)


def main() -> None:
    print(f"Python {platform.python_version()}, zlib {zlib.ZLIB_RUNTIME_VERSION}\n")
    print_memory()
    print_settings()
    print_small()
    print_libraries()


if __name__ == "__main__":
    main()
