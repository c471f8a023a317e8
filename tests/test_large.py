"""Large messages while they arrive: held once, and whole in the end without a copy."""

from __future__ import annotations

import gc
import tracemalloc
import zlib
from collections.abc import Callable, Sequence

import pytest
from decoding import UNLIMITED, decode_all
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._deflate import Inflater
from trio_ws._frames import FIN, RSV1, Opcode, apply_mask, pack_header
from trio_ws._large import CHUNK
from trio_ws._protocol import Event, MessageTooBig, Protocol, ProtocolError, Role

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
KEY = b"\x12\x34\x56\x78"
READ = 256 * 1024
MIB = 1024 * 1024

ROLES = pytest.mark.parametrize("role", Role)
COMPRESSED = pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])


def receiver(role: Role, max_message_size: int | None = None) -> Protocol:
    inflater = Inflater(window_bits=15, context_takeover=True)
    return Protocol(role, max_message_size, inflater)


def frame(role: Role, first_byte: int, payload: bytes) -> bytes:
    if role is Role.CLIENT:
        return pack_header(first_byte, len(payload), None) + payload
    return pack_header(first_byte, len(payload), KEY) + apply_mask(payload, KEY)


def message(role: Role, opcode: Opcode, payload: bytes, compressed: bool = False) -> bytes:
    """A message in one frame."""
    if not compressed:
        return frame(role, opcode | FIN, payload)
    stream = zlib.compressobj(1, zlib.DEFLATED, -15)
    deflated = stream.compress(payload) + stream.flush(zlib.Z_FULL_FLUSH)
    return frame(role, opcode | FIN | RSV1, deflated.removesuffix(b"\x00\x00\xff\xff"))


def in_reads(protocol: Protocol, wire: bytes, limit: int = READ) -> list[Event]:
    """The events, as a reader gets them."""
    events: list[Event] = []
    for start in range(0, len(wire), READ):
        events += decode_all(protocol, wire[start : start + READ], limit)
    return events


def as_bytes(part: Event | None) -> bytes:
    assert isinstance(part, str | bytes)
    return part.encode() if isinstance(part, str) else part


CONTENTS = {
    "binary": (BINARY, bytes(range(256)) * 20_000),
    "ASCII": (TEXT, b"0123456" * 700_000),
    "code points of every length": (TEXT, "aé€😀".encode() * 500_000),
    "one after the other": (
        TEXT,
        b"a" * 2_000_000 + "é".encode() * 700_000 + "€".encode() * 600_000 + "😀".encode() * 5,
    ),
    "as large as is added at a time": (BINARY, bytes(CHUNK)),
    "a byte more": (BINARY, bytes(CHUNK + 1)),
}


@ROLES
@COMPRESSED
@pytest.mark.parametrize(("opcode", "payload"), CONTENTS.values(), ids=CONTENTS)
def test_a_large_message_is_received_as_it_was_sent(
    role: Role, compressed: bool, opcode: Opcode, payload: bytes
) -> None:
    protocol = receiver(role)
    whole = payload.decode() if opcode is TEXT else payload
    wire = message(role, opcode, payload, compressed)
    for _ in range(2):
        assert in_reads(protocol, wire) == [whole]
        assert protocol.partial_size == 0


@ROLES
@COMPRESSED
def test_what_is_held_of_a_large_message_counts_in_bytes(role: Role, compressed: bool) -> None:
    for content, opcode in (("😀" * MIB, TEXT), ("é" * MIB, BINARY)):
        payload = content.encode()
        protocol = receiver(role)
        wire = message(role, opcode, payload, compressed)
        assert in_reads(protocol, wire[:-1]) == []
        assert len(payload) - 300 <= protocol.partial_size <= len(payload)


@ROLES
@COMPRESSED
@pytest.mark.parametrize(
    ("end", "where"),
    [(b"\xe2\x82", "its end"), (b"\xff" + bytes(100), "within"), (b"\xe2\x82a", "within")],
)
def test_a_large_text_that_is_not_utf8_fails(
    role: Role, compressed: bool, end: bytes, where: str
) -> None:
    payload = "€".encode() * MIB + end
    (violation,) = in_reads(receiver(role), message(role, TEXT, payload, compressed))
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007
    assert violation.rule.startswith("text must be valid UTF-8")


@ROLES
@COMPRESSED
def test_a_large_message_that_is_discarded_is_forgotten(role: Role, compressed: bool) -> None:
    protocol = receiver(role)
    wire = message(role, BINARY, bytes(3 * MIB), compressed)
    half = len(wire) // 2
    for take in (False, True):
        assert in_reads(protocol, wire[:half]) == []
        assert protocol.partial_size > MIB
        if take:
            assert protocol.take_part(100) == bytes(100)
        protocol.discard(True)
        assert protocol.partial_size == 0
        assert protocol.take_part(None) is None
        protocol.discard(False)
        assert in_reads(protocol, wire[half:]) == []
        assert in_reads(protocol, message(role, TEXT, b"next", compressed)) == ["next"]


# Parts


@ROLES
@COMPRESSED
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("taken", [1, 1000, 3 * MIB])
def test_after_a_part_of_a_large_message_its_remainder_is_received(
    role: Role, compressed: bool, opcode: Opcode, taken: int
) -> None:
    content = "€uro" * MIB
    payload = content.encode()
    protocol = receiver(role)
    wire = message(role, opcode, payload, compressed)
    assert in_reads(protocol, wire[: len(wire) * 3 // 4]) == []
    part = as_bytes(protocol.take_part(taken))
    assert 0 < len(part) <= max(taken, 3)
    (rest,) = in_reads(protocol, wire[len(wire) * 3 // 4 :])
    assert isinstance(rest, str if opcode is TEXT else bytes)
    assert part + as_bytes(rest) == payload


@given(
    st.data(),
    st.sampled_from(Role),
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([TEXT, BINARY]),
            st.lists(st.text(st.sampled_from("aé€😀"), max_size=30), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_parts_taken_at_any_time_and_the_remainder_make_the_message(
    data: st.DataObject,
    role: Role,
    compressed: bool,
    contents: list[tuple[Opcode, list[str]]],
) -> None:
    wire = b"".join(
        message(role, opcode, "".join(texts).encode(), compressed)
        if len(texts) % 2
        else in_fragments(role, opcode, [text.encode() for text in texts])
        for opcode, texts in contents
    )
    protocol = receiver(role)
    messages: list[bytes] = []
    parts: list[bytes] = []
    position = 0
    with pytest.MonkeyPatch.context() as patch:
        # What may be left of a code point, three bytes, is never large.
        patch.setattr("trio_ws._protocol.CHUNK", data.draw(st.integers(3, 40)))
        while position < len(wire) or protocol.stalled:
            step = 0 if protocol.stalled else data.draw(st.integers(1, 60))
            for event in protocol.decode(wire[position : position + step], UNLIMITED):
                messages.append(b"".join([*parts, as_bytes(event)]))
                parts = []
            position += step
            for _ in range(data.draw(st.integers(0, 3))):
                part = protocol.take_part(data.draw(st.none() | st.integers(1, 30)))
                if part is not None:
                    assert part
                    parts.append(as_bytes(part))
    assert messages == ["".join(texts).encode() for _, texts in contents]
    assert protocol.partial_size == 0


def in_fragments(role: Role, opcode: Opcode, parts: Sequence[bytes]) -> bytes:
    last = len(parts) - 1
    return b"".join(
        frame(role, (CONTINUATION if at else opcode) | (FIN if at == last else 0), part)
        for at, part in enumerate(parts)
    )


# Memory


def peak_of(step: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@ROLES
@COMPRESSED
@pytest.mark.parametrize(
    ("opcode", "unit", "width", "copies"),
    [
        # A buffer that grows has an eighth to spare.
        (BINARY, b"01234567", 8, 1.125),
        # Where a tracer runs, CPython 3.11 appends to text in a copy.
        (TEXT, b"01234567", 8, 2),
        (TEXT, "😀😀".encode(), 8, 2),
    ],
    ids=["binary", "ASCII", "emoji"],
)
def test_a_large_message_is_not_held_a_second_time(
    role: Role, compressed: bool, opcode: Opcode, unit: bytes, width: int, copies: float
) -> None:
    payload = unit * (2 * MIB)
    held = width * 2 * MIB
    wire = message(role, opcode, payload, compressed)
    del payload

    def receive() -> None:
        (received,) = in_reads(receiver(role), wire)
        assert isinstance(received, str | bytes)

    assert peak_of(receive) < held * copies + 6 * MIB


@ROLES
@COMPRESSED
def test_what_is_over_the_limit_is_not_held(role: Role, compressed: bool) -> None:
    stream = receiver(role, 2 * MIB)
    wire = message(role, TEXT, b"x" * (32 * MIB), compressed)
    events: list[Event] = []

    def receive() -> None:
        events.extend(in_reads(stream, wire))

    assert peak_of(receive) < 8 * MIB
    assert [type(event) for event in events] == [MessageTooBig]
