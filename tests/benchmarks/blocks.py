"""The frames that the load client sends, made before: each is a whole message, and masked."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rows import KIB, Row

_FIN: Final = 0x80
_RSV1: Final = 0x40
_TEXT: Final = 1
_BINARY: Final = 2
_MASKED: Final = 0x80
_WINDOW_BITS: Final = 12

_ARTICLES: Final = ("anchor", "bolt", "bracket", "clamp", "dowel", "hinge", "nut", "rivet", "screw")

OFFER: Final = (
    f"permessage-deflate; server_max_window_bits={_WINDOW_BITS}; "
    f"client_max_window_bits={_WINDOW_BITS}"
)
"""What the client wants to be compressed with, so that all do it alike."""

_BLOCK: Final = 256 * KIB
"""Bytes of messages that are sent over and over."""


def write_block(row: Row, path: Path) -> Path:
    """Write the frames of *row* into a file."""
    random_source = random.Random(row.name)
    count = max(1, min(row.in_flight, _BLOCK // row.size, 1000))
    if row.level is not None:
        # Something else each time, or a window that goes on would have nothing left to say.
        count = max(8, count)
    messages = _json_texts(row.size, random_source) if row.json else _noise(row.size, random_source)
    frames = (_frame(row, next(messages), random_source) for _ in range(count))
    path.write_bytes(b"".join(frames))
    return path


def _noise(size: int, random_source: random.Random) -> Iterator[bytes]:
    while True:
        yield random_source.randbytes(size)


def _json_texts(size: int, random_source: random.Random) -> Iterator[bytes]:
    """Lists of orders as a shop might send them, and as many as fill *size* bytes."""
    while True:
        orders: list[dict[str, object]] = []
        while len(text := json.dumps(orders)) < size:
            orders.append(
                {
                    "id": random_source.randrange(10**6),
                    "article": " ".join(random_source.choices(_ARTICLES, k=2)),
                    "price": random_source.randrange(10**5) / 100,
                    "in_stock": random_source.random() < 0.5,
                    "seller": {"name": random_source.choice(_ARTICLES), "rating": None},
                }
            )
        yield text[:size].encode()


def _frame(row: Row, payload: bytes, random_source: random.Random) -> bytes:
    first_byte = _FIN | (_TEXT if row.json else _BINARY)
    if row.level is not None:
        first_byte |= _RSV1
        payload = _deflate(payload, row.level)
    key = random_source.randbytes(4)
    header = bytes([first_byte]) + _pack_length(len(payload)) + key
    return header + _mask(payload, key)


def _deflate(payload: bytes, level: int) -> bytes:
    """What RFC 7692 section 7.2.1 makes of a message, with an empty window before it."""
    deflater = zlib.compressobj(level, zlib.DEFLATED, -_WINDOW_BITS)
    deflated = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return deflated.removesuffix(b"\x00\x00\xff\xff")


def _pack_length(length: int) -> bytes:
    if length < 126:
        return bytes([_MASKED | length])
    if length < 1 << 16:
        return bytes([_MASKED | 126]) + length.to_bytes(2)
    return bytes([_MASKED | 127]) + length.to_bytes(8)


def _mask(payload: bytes, key: bytes) -> bytes:
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload) ^ int.from_bytes(keys)
    return masked.to_bytes(len(payload))
