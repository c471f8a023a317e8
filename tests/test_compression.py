"""Compressed messages with bytes alone: the protocol's side of RFC 7692, and the outbox's.

The other end is Python's own zlib, which knows nothing of this package.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import bombs
import pytest
from decoding import UNLIMITED, comparable, decode_all
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_ws._deflate import PIECE, Deflater, Inflater, SharedDeflate
from trio_ws._frames import FRAME_COST, Opcode, apply_mask, parse_header
from trio_ws._outbox import AHEAD, Outbox
from trio_ws._protocol import (
    RECEIVING,
    Close,
    Event,
    MessageTooBig,
    Ping,
    Pong,
    Protocol,
    ProtocolError,
    Role,
    State,
)

CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
KEY = bytes.fromhex("37fa213d")
KIB = 1024
MIB = 1024 * KIB
TAIL = b"\x00\x00\xff\xff"

BOTH_ROLES = pytest.mark.parametrize("role", Role)
BOTH = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
TAKEOVER = pytest.mark.parametrize("takeover", [False, True], ids=["no_takeover", "takeover"])


class Sender:
    """The compressor of a peer (RFC 7692 section 7.2.1)."""

    def __init__(self, window_bits: int = 15, takeover: bool = True, level: int = 6) -> None:
        self.window_bits = window_bits
        self.takeover = takeover
        self.level = level
        self.stream = self._new()

    def _new(self) -> zlib._Compress:
        return zlib.compressobj(self.level, zlib.DEFLATED, -self.window_bits)

    def __call__(self, *parts: bytes) -> list[bytes]:
        """The payloads of a message's frames."""
        payloads = [
            self.stream.compress(part) + self.stream.flush(zlib.Z_SYNC_FLUSH) for part in parts
        ]
        payloads[-1] = payloads[-1].removesuffix(TAIL)
        if not self.takeover:
            self.stream = self._new()
        return payloads


class Receiver:
    """The decompressor of a peer (RFC 7692 section 7.2.2)."""

    def __init__(self, window_bits: int = 15, takeover: bool = True) -> None:
        self.window_bits = window_bits
        self.takeover = takeover
        self.stream = zlib.decompressobj(-window_bits)

    def __call__(self, payload: bytes) -> bytes:
        message = self.stream.decompress(payload + TAIL)
        assert not self.stream.unused_data
        if not self.takeover:
            self.stream = zlib.decompressobj(-self.window_bits)
        return message


class CountingZlib:
    """The standard module, and how much it was made to do."""

    error = zlib.error

    def __init__(self) -> None:
        self.calls = 0
        self.taken = 0
        self.given = 0

    def compressobj(
        self, level: int, method: int, window_bits: int, mem_level: int, /
    ) -> CountingCompressor:
        return CountingCompressor(zlib.compressobj(level, method, window_bits, mem_level), self)

    def decompressobj(self, window_bits: int, /) -> CountingDecompressor:
        return CountingDecompressor(zlib.decompressobj(window_bits), self)

    def count(self, taken: int, given: int) -> None:
        self.calls += 1
        self.taken += taken
        self.given += given

    def forget(self) -> None:
        self.calls = self.taken = self.given = 0


class CountingCompressor:
    def __init__(self, stream: zlib._Compress, library: CountingZlib) -> None:
        self.stream = stream
        self.library = library

    def compress(self, data: bytes | bytearray | memoryview, /) -> bytes:
        output = self.stream.compress(data)
        self.library.count(len(data), len(output))
        return output

    def flush(self, mode: int, /) -> bytes:
        return self.stream.flush(mode)


class CountingDecompressor:
    def __init__(self, stream: zlib._Decompress, library: CountingZlib) -> None:
        self.stream = stream
        self.library = library

    @property
    def eof(self) -> bool:
        return self.stream.eof

    @property
    def unconsumed_tail(self) -> bytes:
        return self.stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self.stream.unused_data

    def decompress(self, data: bytes | bytearray | memoryview, max_length: int, /) -> bytes:
        output = self.stream.decompress(data, max_length)
        left = len(self.stream.unconsumed_tail) + len(self.stream.unused_data)
        self.library.count(len(data) - left, len(output))
        return output


def frame(
    role: Role, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0
) -> bytes:
    """A frame to *role*, straight from RFC 6455 section 5.2; *rsv* is 4 for RSV1."""
    size = len(payload)
    if size <= 125:
        encoded = bytearray([size])
    elif size <= 65535:
        encoded = bytearray([126]) + size.to_bytes(2, "big")
    else:
        encoded = bytearray([127]) + size.to_bytes(8, "big")
    first_byte = bytes([fin << 7 | rsv << 4 | opcode])
    if role is Role.CLIENT:
        return first_byte + encoded + payload
    encoded[0] |= 0x80
    return first_byte + encoded + KEY + apply_mask(payload, KEY)


def fragments(role: Role, opcode: Opcode, payloads: list[bytes]) -> list[bytes]:
    """The frames of a compressed message."""
    last = len(payloads) - 1
    return [
        frame(role, CONTINUATION if at else opcode, part, fin=at == last, rsv=0 if at else 4)
        for at, part in enumerate(payloads)
    ]


def protocol(
    role: Role,
    max_message_size: int | None = None,
    *,
    window_bits: int = 15,
    takeover: bool = True,
    library: CountingZlib | None = None,
) -> Protocol:
    """One to which the peer may send compressed messages."""
    inflater = Inflater(
        window_bits=window_bits, context_takeover=takeover, library=library or CountingZlib()
    )
    return Protocol(role, max_message_size, inflater)


def traced(step: Callable[[], object]) -> tuple[int, int]:
    """Bytes that *step* leaves behind, and that it holds at its peak."""
    gc.collect()
    tracemalloc.start()
    try:
        result = step()
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return kept, peak


def noise(size: int) -> bytes:
    """What can not be compressed."""
    return random.Random(size).randbytes(size)


def bomb(mebibytes: int, *, final: bool = True) -> bytes:
    """The payload of a message of so many MiB of zeros, and 32 KiB."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    fuse = stream.compress(bytes(32 * KIB)) + stream.flush(zlib.Z_SYNC_FLUSH)
    charge = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_SYNC_FLUSH)
    payload = fuse + charge * mebibytes
    return payload.removesuffix(TAIL) if final else payload


# Receiving: messages and fragments

WORDS = ["hello hello hello", "", "hello again", "€" * 40, "hello hello hello", "x" * 70]
"""Messages of less than 256 bytes together."""


@BOTH_ROLES
@TAKEOVER
@pytest.mark.parametrize("window_bits", range(8, 16))
def test_compressed_messages_of_any_window(role: Role, takeover: bool, window_bits: int) -> None:
    sender = Sender(max(window_bits, 9), takeover)
    receiver = protocol(role, window_bits=window_bits, takeover=takeover)
    for word in WORDS:
        (sent,) = fragments(role, TEXT, sender(word.encode()))
        assert receiver.decode(sent, UNLIMITED) == [word]
        (sent,) = fragments(role, BINARY, sender(word[:20].encode()))
        assert receiver.decode(sent, UNLIMITED) == [word[:20].encode()]


@pytest.mark.parametrize("window_bits", range(8, 15))
def test_a_message_that_needs_a_larger_window_than_agreed_is_corrupt(window_bits: int) -> None:
    block = noise(1 << window_bits)
    # Within what it inflates at once zlib may look back further: 1 KiB ends between the blocks.
    content = noise(-(len(block) + 20) % KIB) + block + bytes(40) + block
    (payload,) = Sender(15)(content)
    sent = frame(Role.CLIENT, BINARY, payload, rsv=4)
    assert decode_all(protocol(Role.CLIENT), sent, 100) == [content]
    (violation,) = decode_all(protocol(Role.CLIENT, window_bits=window_bits), sent, 100)
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007


@BOTH_ROLES
def test_without_takeover_a_message_must_stand_for_itself(role: Role) -> None:
    sender = Sender(takeover=True)
    receiver = protocol(role, takeover=False)
    wire = [fragments(role, BINARY, sender(noise(200)))[0] for _ in range(2)]
    assert receiver.decode(wire[0], UNLIMITED) == [noise(200)]
    (event,) = decode_all(receiver, wire[1])
    assert isinstance(event, ProtocolError)
    assert event.code == 1007


@BOTH_ROLES
@TAKEOVER
@pytest.mark.parametrize(
    "parts",
    [
        ["ab", "c"],
        ["", "ab"],
        ["ab", ""],
        ["", "", ""],
        ["ab", "", "", "c", ""],
        ["é" * 300, "€" * 300],
    ],
)
def test_a_compressed_message_in_fragments(role: Role, takeover: bool, parts: list[str]) -> None:
    sender, receiver = Sender(takeover=takeover), protocol(role, takeover=takeover)
    for opcode in (TEXT, BINARY, TEXT):
        payload = "".join(parts).encode()
        sent = fragments(role, opcode, sender(*(part.encode() for part in parts)))
        message = payload.decode() if opcode is TEXT else payload
        events = [receiver.decode(piece, UNLIMITED) for piece in sent]
        assert events == [[]] * (len(sent) - 1) + [[message]]


@BOTH_ROLES
def test_fragments_need_not_end_where_blocks_do_and_may_be_empty_frames(role: Role) -> None:
    sender, receiver = Sender(), protocol(role)
    for message in ("hello hello hello", "hello hello hello hello"):
        (payload,) = sender(message.encode())
        octets = [payload[at : at + 1] for at in range(len(payload))]
        woven = [part for octet in octets for part in (b"", octet, b"")]
        wire = b"".join(fragments(role, TEXT, woven))
        assert receiver.decode(wire, UNLIMITED) == [message]


@BOTH_ROLES
def test_control_frames_between_the_fragments_of_a_compressed_message(role: Role) -> None:
    sender, receiver = Sender(), protocol(role)
    first, second, third = fragments(role, TEXT, sender(b"one ", b"two ", b"three"))
    wire = [first, frame(role, PING, b"1"), second, frame(role, PONG, b"2"), third]
    assert receiver.decode(b"".join(wire), UNLIMITED) == [Ping(b"1"), Pong(b"2"), "one two three"]
    assert [type(event) for event in [*receiver.decode(wire[1], UNLIMITED)]] == [Ping]


@BOTH_ROLES
def test_a_close_between_the_fragments_of_a_compressed_message(role: Role) -> None:
    receiver = protocol(role)
    first, _ = fragments(role, TEXT, Sender()(b"one ", b"two"))
    assert [type(event) for event in decode_all(receiver, first + frame(role, CLOSE))] == [Close]
    assert receiver.take_part(None) == "one "


@BOTH_ROLES
@TAKEOVER
def test_compressed_and_plain_messages_mixed(role: Role, takeover: bool) -> None:
    sender, receiver = Sender(takeover=takeover), protocol(role, takeover=takeover)
    for number in range(8):
        message = b"message number %d" % (number // 3)
        plain = [
            frame(role, BINARY, message[:5], fin=False),
            frame(role, CONTINUATION, message[5:]),
        ]
        whole = [frame(role, BINARY, message)]
        for wire in (fragments(role, BINARY, sender(message)), plain, whole):
            assert receiver.decode(b"".join(wire), UNLIMITED) == [message]


NOTHING = {
    "no payload": [b""],
    "the rest of an empty block": [b"\x00"],
    "an empty block of fixed codes": [b"\x02\x00"],
    "empty blocks": [b"\x00" + TAIL, b"\x00" + TAIL, b"\x00"],
    "empty fragments": [b"", b"", b""],
    "an empty final block": [b"\x03\x00"],
    "two of them": [b"\x03\x00\x03\x00"],
    "one and the rest of an empty block": [b"\x03\x00\x00"],
    "one, fragment by fragment": [b"\x03", b"", b"\x00", b""],
}


@BOTH_ROLES
@TAKEOVER
@pytest.mark.parametrize("payloads", NOTHING.values(), ids=NOTHING)
def test_a_message_that_is_nothing(role: Role, takeover: bool, payloads: list[bytes]) -> None:
    receiver = protocol(role, takeover=takeover)
    for opcode in (TEXT, BINARY):
        wire = b"".join(fragments(role, opcode, payloads))
        assert decode_all(receiver, wire, 1) == ["" if opcode is TEXT else b""]
    (sent,) = fragments(role, TEXT, Sender()(b"something"))
    assert decode_all(receiver, sent, 1) == ["something"]


@BOTH_ROLES
@TAKEOVER
def test_a_final_block_ends_a_stream_and_the_next_message_begins_one(
    role: Role, takeover: bool
) -> None:
    receiver = protocol(role, takeover=takeover)
    for _ in range(3):
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        payload = stream.compress(b"hello hello") + stream.flush(zlib.Z_FINISH)
        (sent,) = fragments(role, TEXT, [payload])
        assert receiver.decode(sent, UNLIMITED) == ["hello hello"]
        (sent,) = fragments(role, TEXT, [payload + payload])
        assert receiver.decode(sent, UNLIMITED) == ["hello hello" * 2]


# Receiving: rules


RESERVED = "reserved bits must be 0"
FIRST_ALONE = "RSV1 belongs on the first frame of a message alone"


@BOTH_ROLES
@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", Opcode)
@pytest.mark.parametrize("agreed", [False, True])
def test_which_reserved_bits_may_be_set(role: Role, agreed: bool, opcode: Opcode, rsv: int) -> None:
    receiver = protocol(role) if agreed else Protocol(role, None)
    before = b""
    if opcode is CONTINUATION:
        before = frame(role, TEXT, b"\x00" if agreed else b"a", fin=False, rsv=4 if agreed else 0)
    events = decode_all(receiver, before + frame(role, opcode, rsv=rsv))
    if agreed and rsv == 4 and opcode in (TEXT, BINARY):
        assert events == ["" if opcode is TEXT else b""]
        assert receiver.state is State.OPEN
        return
    (violation,) = events
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1002
    assert violation.rule.startswith(FIRST_ALONE if agreed and rsv == 4 else RESERVED)
    assert receiver.state is State.FAILED


@BOTH_ROLES
@pytest.mark.parametrize("compressed", [False, True])
def test_rsv1_on_a_continuation_fails_whether_the_message_is_compressed_or_not(
    role: Role, compressed: bool
) -> None:
    receiver = protocol(role)
    first = frame(role, TEXT, b"\x00", fin=False, rsv=4 if compressed else 0)
    assert receiver.decode(first, UNLIMITED) == []
    (violation,) = decode_all(receiver, frame(role, CONTINUATION, b"\x00", rsv=4))
    assert isinstance(violation, ProtocolError)
    assert violation.rule.startswith(FIRST_ALONE)


@BOTH_ROLES
def test_rsv1_on_a_reserved_opcode_or_a_second_first_frame(role: Role) -> None:
    for wire in (
        frame(role, 3, rsv=4),
        frame(role, 11, rsv=4),
        frame(role, TEXT, fin=False, rsv=4) + frame(role, TEXT, rsv=4),
        frame(role, CONTINUATION),
    ):
        (violation,) = decode_all(protocol(role), wire)
        assert isinstance(violation, ProtocolError)
        assert violation.code == 1002


@BOTH_ROLES
def test_the_rules_of_framing_hold_for_compressed_frames_too(role: Role) -> None:
    other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    overlong = bytearray(frame(role, BINARY, bytes(126), rsv=4))
    overlong[3] = 125
    top_bit = bytearray(frame(role, BINARY, bytes(70_000), rsv=4)[:20])
    top_bit[2] |= 0x80
    for wire, rule in (
        (frame(other, BINARY, b"\x00", rsv=4), "mask"),
        (bytes(overlong), "fewest"),
        (bytes(top_bit), "most significant"),
    ):
        (violation,) = decode_all(protocol(role), wire)
        assert isinstance(violation, ProtocolError)
        assert rule in violation.rule


# Receiving: corrupt data and text


def fails_at(receiver: Protocol, wire: bytes) -> tuple[int, Event]:
    """Bytes after which the connection has failed, and how."""
    for at, octet in enumerate(wire):
        events = receiver.decode(bytes([octet]), UNLIMITED)
        if receiver.is_ending:
            assert events == []
            (event,) = receiver.decode(b"", UNLIMITED)
            return at + 1, event
    raise AssertionError("it does not fail")


def zlib_fails_at(payload: bytes) -> int:
    stream = zlib.decompressobj(-15)
    for at, octet in enumerate(payload):
        try:
            stream.decompress(bytes([octet]))
        except zlib.error:
            return at + 1
    raise AssertionError("it does not fail")


_sender = Sender()
_sender(noise(200))
(REPEATED,) = _sender(noise(200))

CORRUPT = {
    "reserved block type": b"\x06",
    "stored block with a wrong length": b"\x00\x01\x00\x01\x00",
    "distance too far back": REPEATED,
    "after a good part": Sender()(b"good " * 20, b"")[0] + b"\x07",
}


@BOTH_ROLES
@pytest.mark.parametrize("payload", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("fin", [False, True])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_corrupt_data_fails_at_the_byte_at_which_zlib_sees_it(
    role: Role, opcode: Opcode, fin: bool, payload: bytes
) -> None:
    at = zlib_fails_at(payload)
    payload += bytes(300)
    wire = frame(role, opcode, payload, fin=fin, rsv=4)
    head = len(wire) - len(payload)
    count, violation = fails_at(protocol(role), wire)
    assert count == head + at
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007
    assert violation.rule.startswith("a compressed message must be deflate data (RFC 7692")


@BOTH_ROLES
@TAKEOVER
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("empty_fragment", [False, True])
def test_data_that_is_cut_off_within_a_stored_block_fails(
    role: Role, takeover: bool, opcode: Opcode, empty_fragment: bool
) -> None:
    payload = b"\x00\x05\x00\xfa\xff" + b"Hell"
    parts = [payload, b""] if empty_fragment else [payload]
    wire = b"".join(fragments(role, opcode, parts))
    (violation,) = decode_all(protocol(role, takeover=takeover), wire)
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007
    assert violation.rule.endswith("it is cut off")


@BOTH_ROLES
@pytest.mark.parametrize(
    ("text", "at"), [(b"abc\xffdef", 4), (b"\xe2\x82\xff", 3), (b"\xed\xa0\x80", 2), (b"\xc0", 1)]
)
def test_compressed_text_that_is_not_utf8_fails_at_the_byte(
    role: Role, text: bytes, at: int
) -> None:
    (stored,) = Sender(level=0)(text + bytes(50))
    wire = frame(role, TEXT, stored, rsv=4)
    count, violation = fails_at(protocol(role), wire)
    assert count == len(wire) - len(stored) + 5 + at, "a stored block has a head of 5 bytes"
    assert isinstance(violation, ProtocolError)
    assert (violation.code, violation.rule[:4]) == (1007, "text")


@BOTH_ROLES
def test_compressed_text_may_not_end_within_a_code_point(role: Role) -> None:
    (payload,) = Sender()("12 €".encode()[:-1])
    (violation,) = decode_all(protocol(role), frame(role, TEXT, payload, rsv=4))
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007
    assert decode_all(protocol(role), frame(role, BINARY, payload, rsv=4)) == ["12 €".encode()[:-1]]


@BOTH_ROLES
def test_code_points_may_be_split_between_fragments_and_steps(role: Role) -> None:
    text = "a€b😀" * 50
    octets = [text.encode()[at : at + 1] for at in range(len(text.encode()))]
    wire = b"".join(fragments(role, TEXT, Sender()(*octets)))
    for limit in (1, 2, 3, UNLIMITED):
        assert decode_all(protocol(role), wire, limit) == [text]


# Receiving: anything at all, however it comes

SIZE_LIMIT = 300


@st.composite
def compressed_wires(draw: st.DrawFn) -> tuple[Role, bool, bytes]:
    """Frames to one role, of compressed and plain messages, mostly good ones."""
    role, takeover = draw(st.sampled_from(Role)), draw(st.booleans())
    sender = Sender(9, takeover)
    wire = bytearray()
    for _ in range(draw(st.integers(0, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        text = draw(st.text(st.sampled_from("aé€😀"), max_size=20))
        content = text.encode() * draw(st.sampled_from([1, 1, 3, 10]))
        if draw(st.integers(0, 5)) == 0:
            content = content[: draw(st.integers(0, len(content)))]
        places = sorted(draw(st.lists(st.integers(0, len(content)), max_size=2)))
        parts = [content[i:j] for i, j in itertools.pairwise([0, *places, len(content)])]
        if draw(st.integers(0, 3)):
            sent = fragments(role, opcode, sender(*parts))
        else:
            sent = [
                frame(role, CONTINUATION if at else opcode, part, fin=at == len(parts) - 1)
                for at, part in enumerate(parts)
            ]
        for piece in sent:
            wire += piece
            if draw(st.integers(0, 3)) == 0:
                wire += frame(
                    role, draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=9))
                )
        if draw(st.integers(0, 15)) == 0:
            wire += frame(role, draw(st.integers(0, 15)), b"\x01", rsv=draw(st.integers(0, 7)))
    if draw(st.booleans()):
        wire += frame(role, CLOSE, draw(st.sampled_from([b"", b"\x03\xe8bye"])))
    if wire and draw(st.integers(0, 3)) == 0:
        wire[draw(st.integers(0, len(wire) - 1))] ^= draw(st.integers(1, 255))
    return role, takeover, bytes(wire)


@settings(max_examples=60)
@given(compressed_wires(), st.data())
def test_any_split_and_any_limits_give_the_same_events(
    given_wire: tuple[Role, bool, bytes], data: st.DataObject
) -> None:
    role, takeover, wire = given_wire
    reference = protocol(role, SIZE_LIMIT, takeover=takeover)
    expected = decode_all(reference, wire)
    receiver = protocol(role, SIZE_LIMIT, takeover=takeover)
    events: list[Event] = []
    position = 0
    while position < len(wire) or receiver.stalled:
        size = data.draw(st.integers(0, 60)) if position < len(wire) else 0
        limit = data.draw(st.sampled_from([0, 1, 7, 64, 65, 130, 1000, UNLIMITED]))
        before = receiver.stalled
        decoded = receiver.decode(wire[position : position + size], limit)
        assert len(decoded) <= math.ceil(limit / FRAME_COST) + 1
        assert before or size or not decoded
        events += decoded
        position += size
    assert comparable(events) == comparable(expected)
    assert (receiver.state, receiver.close_reason) == (reference.state, reference.close_reason)
    if receiver.state in RECEIVING:
        assert receiver.take_part(None) == reference.take_part(None)


@given(
    st.lists(st.lists(st.binary(max_size=80), min_size=1, max_size=4), min_size=1, max_size=5),
    st.booleans(),
    st.integers(9, 15),
    st.integers(1, 200),
)
def test_what_zlib_deflates_in_any_fragments_is_received(
    messages: list[list[bytes]], takeover: bool, window_bits: int, limit: int
) -> None:
    sender = Sender(window_bits, takeover)
    receiver = protocol(Role.SERVER, window_bits=window_bits, takeover=takeover)
    wire = b"".join(
        piece for parts in messages for piece in fragments(Role.SERVER, BINARY, sender(*parts))
    )
    assert decode_all(receiver, wire, limit) == [b"".join(parts) for parts in messages]


def as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


@given(compressed_wires(), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_parts_and_the_remainder_make_the_message(
    given_wire: tuple[Role, bool, bytes], sizes: list[int]
) -> None:
    role, takeover, wire = given_wire
    whole = decode_all(protocol(role, takeover=takeover), wire)
    expected = [as_bytes(event) for event in whole if isinstance(event, (str, bytes))]
    receiver = protocol(role, takeover=takeover)
    rounds = itertools.cycle(sizes)
    messages: list[bytes] = []
    parts: list[bytes] = []
    position = 0
    while position < len(wire) or receiver.stalled:
        step = b"" if receiver.stalled else wire[position : position + next(rounds)]
        position += len(step)
        for event in receiver.decode(step, next(rounds)):
            if isinstance(event, (str, bytes)):
                messages.append(b"".join([*parts, as_bytes(event)]))
                parts = []
        part = receiver.take_part(next(rounds))
        if part is not None:
            assert part
            parts.append(as_bytes(part))
    assert messages == expected


# Receiving: max_message_size


@BOTH_ROLES
@pytest.mark.parametrize("content", [bytes(1000), noise(1000)], ids=["small", "larger"])
@pytest.mark.parametrize("cuts", [[1000], [500, 500], [0, 999, 1, 0]])
def test_max_message_size_counts_what_comes_out(
    role: Role, content: bytes, cuts: list[int]
) -> None:
    ends = list(itertools.accumulate(cuts))
    parts = [content[end - cut : end] for cut, end in zip(cuts, ends, strict=True)]
    wire = b"".join(fragments(role, BINARY, Sender()(*parts)))
    assert decode_all(protocol(role, 1000), wire) == [content]
    for limit in (999, 100, 1):
        receiver = protocol(role, limit)
        (violation,) = decode_all(receiver, wire)
        assert isinstance(violation, MessageTooBig)
        assert (violation.size, violation.limit, violation.code) == (limit + 1, limit, 1009)


def test_the_declared_length_of_a_compressed_frame_says_nothing() -> None:
    receiver = protocol(Role.CLIENT, 1000)
    assert receiver.decode(b"\xc2\x7f" + (1 << 62).to_bytes(8, "big"), UNLIMITED) == []
    (payload,) = Sender()(bytes(1000), b"")[:1]
    assert receiver.decode(payload, UNLIMITED) == []
    assert receiver.take_part(None) == bytes(1000)
    assert receiver.decode(b"\x00" + TAIL + b"\x00" + TAIL, UNLIMITED) == []
    decode_all(receiver, Sender()(b"one more", b"")[0])
    assert receiver.state is State.FAILED
    assert receiver.close_reason is not None
    assert receiver.close_reason.code == 1009


def test_each_compressed_message_has_the_whole_limit_and_plain_ones_count_as_before() -> None:
    sender, receiver = Sender(), protocol(Role.CLIENT, 1000)
    for _ in range(3):
        (sent,) = fragments(Role.CLIENT, BINARY, sender(bytes(1000)))
        assert receiver.decode(sent, UNLIMITED) == [bytes(1000)]
        assert receiver.decode(frame(Role.CLIENT, BINARY, noise(1000)), UNLIMITED) == [noise(1000)]
    (violation,) = decode_all(receiver, frame(Role.CLIENT, BINARY, bytes(1001)))
    assert isinstance(violation, MessageTooBig)


def test_the_limit_may_be_changed_in_the_middle_of_a_compressed_message() -> None:
    for limit, fails in ((None, False), (2000, False), (500, True), (1999, True)):
        receiver = protocol(Role.CLIENT, 1000)
        first, second = fragments(Role.CLIENT, BINARY, Sender()(bytes(1000), bytes(1000)))
        assert receiver.decode(first, UNLIMITED) == []
        receiver.max_message_size = limit
        (event,) = decode_all(receiver, second)
        assert isinstance(event, MessageTooBig) is fails
        assert fails or event == bytes(2000)


# Receiving: discarding


@given(st.data(), st.sampled_from(Role), st.booleans())
def test_discarding_at_any_time_keeps_the_context_in_step(
    data: st.DataObject, role: Role, takeover: bool
) -> None:
    sender = Sender(takeover=takeover)
    messages = [b"message %d of some, like all of them" % at for at in range(6)]
    wires = [b"".join(fragments(role, BINARY, sender(m[:9], m[9:]))) for m in messages]
    ends = list(itertools.accumulate(map(len, wires)))
    wire = b"".join(wires)
    on = data.draw(st.integers(0, len(wire)))
    off = data.draw(st.integers(on, len(wire)))
    receiver = protocol(role, 40, takeover=takeover)
    limit = data.draw(st.sampled_from([1, 50, UNLIMITED]))
    events = decode_all(receiver, wire[:on], limit)
    receiver.discard(True)
    assert decode_all(receiver, wire[on:off], limit) == []
    receiver.discard(False)
    events += decode_all(receiver, wire[off:], limit)
    kept = [
        message
        for message, size, end in zip(messages, map(len, wires), ends, strict=True)
        if end <= on or end - size >= off
    ]
    # A message of which only a part of the first header had come has not begun.
    assert set(kept) <= set(events)
    assert len(events) <= len(kept) + 2
    assert events == [message for message in messages if message in events]


@BOTH_ROLES
def test_a_compressed_message_that_is_discarded_while_it_inflates(role: Role) -> None:
    sender, receiver = Sender(), protocol(role, 100 * KIB)
    (sent,) = fragments(role, TEXT, sender(b"hello" * 20 * KIB))
    assert receiver.decode(sent, KIB) == []
    assert receiver.stalled
    assert receiver.partial_size > 0
    receiver.discard(True)
    assert receiver.partial_size == 0
    assert receiver.take_part(None) is None
    receiver.discard(False)
    assert decode_all(receiver, b"", KIB) == []
    (sent,) = fragments(role, TEXT, sender(b"hello" * 10))
    assert decode_all(receiver, sent) == ["hello" * 10]


@BOTH_ROLES
def test_what_is_discarded_may_inflate_to_any_size_and_to_any_text(role: Role) -> None:
    sender, receiver = Sender(), protocol(role, 10)
    receiver.discard(True)
    for content in (bytes(200 * KIB), b"\xff\xfe" * 100):
        (sent,) = fragments(role, TEXT, sender(content))
        assert decode_all(receiver, sent, 64 * KIB) == []
    assert receiver.partial_size == 0
    receiver.discard(False)
    (sent,) = fragments(role, TEXT, sender(b"\x00" * 10))
    assert decode_all(receiver, sent) == ["\x00" * 10]


@BOTH_ROLES
@pytest.mark.parametrize("begun", [False, True])
def test_max_message_size_does_not_cut_up_what_is_discarded(role: Role, begun: bool) -> None:
    library = CountingZlib()
    receiver = protocol(role, library=library)
    receiver.discard(not begun)
    (sent,) = fragments(role, BINARY, Sender()(bytes(MIB)))
    assert receiver.decode(sent, 1) == []
    receiver.max_message_size = receiver.partial_size + 1
    receiver.discard(True)
    assert decode_all(receiver, b"", STEP) == []
    assert library.calls <= 10 * MIB // STEP, "as if there were no limit"


@BOTH_ROLES
def test_what_is_discarded_must_be_deflate_data_still(role: Role) -> None:
    receiver = protocol(role)
    receiver.discard(True)
    (violation,) = decode_all(receiver, frame(role, TEXT, b"\x06", rsv=4))
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007


# Receiving: memory and work


@BOTH_ROLES
@pytest.mark.parametrize("end", ["fail", "end", "close", "violation"])
def test_what_the_inflater_holds_is_given_up_at_the_end(role: Role, end: str) -> None:
    (payload,) = Sender(level=0)(noise(60 * KIB))
    sent = frame(role, BINARY, payload, rsv=4)

    def used() -> Protocol:
        receiver = Protocol(role, None, Inflater(window_bits=15, context_takeover=True))
        assert len(decode_all(receiver, sent)) == 1
        receiver.decode(sent, KIB)
        assert receiver.stalled
        receiver.discard(True)
        if end == "fail":
            receiver.fail(1011, "")  # type: ignore[arg-type]  # any code will do
        elif end == "end":
            receiver.end()
        else:
            last = frame(role, CLOSE) if end == "close" else frame(role, TEXT, rsv=2)
            assert len(decode_all(receiver, last)) == 1
        return receiver

    kept, peak = traced(used)
    assert peak > 100 * KIB
    assert kept < 8 * KIB


READ = 256 * KIB
STEP = 64 * KIB


def in_steps(receiver: Protocol, reads: Iterable[bytes]) -> Iterator[list[Event]]:
    """What a reader gets, read by read and step by step."""
    for read in reads:
        yield receiver.decode(read, STEP)
        while receiver.stalled:
            yield receiver.decode(b"", STEP)


@BOTH_ROLES
def test_a_bomb_of_10_gib_stops_at_the_limit_and_no_more_than_that_and_a_piece_was_held(
    role: Role,
) -> None:
    limit = 4 * MIB
    sent = frame(role, BINARY, bomb(10 * KIB), rsv=4)
    assert 10 * MIB < len(sent) < 11 * MIB
    library = CountingZlib()
    used = 0

    def explode() -> list[Event]:
        nonlocal used
        receiver = protocol(role, limit, library=library)
        for start in range(0, len(sent), READ):
            used = start + READ
            for events in in_steps(receiver, [sent[start : start + READ]]):
                if events:
                    return events
        raise AssertionError("the bomb was a dud")

    results: list[list[Event]] = []
    _, peak = traced(lambda: results.append(explode()))
    ((violation,),) = results
    assert isinstance(violation, MessageTooBig)
    assert (violation.size, violation.code) == (limit + 1, 1009)
    assert library.given == limit + 1, "not a byte more has come out"
    assert used == READ, "of the wire the first read was enough"
    # A bytearray that grows has an eighth to spare. A read is held as it came, and inflated in
    # steps from a copy that is unmasked.
    allowed = limit + limit // 8 + STEP + 4 * READ
    assert limit < peak < allowed
    bombs.measured[f"one message, max_message_size 4 MiB, decoded by a {role.value}"] = bombs.Bomb(
        len(sent), 10 * KIB * MIB, allowed, peak
    )


@pytest.mark.parametrize(("role", "takeover"), [(Role.CLIENT, True), (Role.SERVER, False)])
def test_one_read_full_of_small_bombs_is_inflated_in_bounded_steps(
    role: Role, takeover: bool
) -> None:
    sender = Sender(takeover=takeover, level=9)
    read = b"".join([frame(role, BINARY, *sender(bytes(60 * KIB)), rsv=4) for _ in range(500)])
    assert len(read) < READ
    library = CountingZlib()
    receiver = protocol(role, takeover=takeover, library=library)
    received = 0

    def explode() -> None:
        nonlocal received
        for events in in_steps(receiver, [read]):
            assert sum(len(event) for event in events if isinstance(event, bytes)) <= 2 * STEP
            assert library.given <= STEP + 1
            assert library.calls <= STEP // FRAME_COST
            library.forget()
            received += len(events)

    _, peak = traced(explode)
    assert received == 500
    allowed = len(read) + 6 * STEP
    assert peak < allowed, "30 MB have come out, no more than a few pieces at a time"
    bombs.measured[f"one read of 500 messages, decoded by a {role.value}"] = bombs.Bomb(
        len(read), 500 * 60 * KIB, allowed, peak
    )


WORK = {
    "zeros": bomb(20),
    "noise that is stored": Sender(level=0)(noise(MIB))[0],
    "empty stored blocks": (b"\x00" + TAIL) * 50_000 + b"\x00",
    "empty final blocks": b"\x03\x00" * 10_000,
    "final blocks of a byte": b"\x4b\x04\x00" * 10_000,
}


@pytest.mark.parametrize("payload", WORK.values(), ids=WORK)
@pytest.mark.parametrize("discarding", [False, True])
def test_a_step_of_the_decoder_is_bounded_in_work(payload: bytes, discarding: bool) -> None:
    library = CountingZlib()
    receiver = protocol(Role.CLIENT, library=library)
    receiver.discard(discarding)
    sent = frame(Role.CLIENT, BINARY, payload, rsv=4)
    steps = 0
    for _ in in_steps(receiver, [sent[at : at + READ] for at in range(0, len(sent), READ)]):
        assert library.given <= STEP
        assert library.taken <= STEP // 4 + 4 * KIB
        assert library.calls <= STEP // FRAME_COST
        library.forget()
        steps += 1
    assert receiver.state is State.OPEN
    assert steps > 5


@BOTH_ROLES
def test_the_least_limit_is_enough_for_a_kib(role: Role) -> None:
    library = CountingZlib()
    receiver = protocol(role, library=library)
    sent = frame(role, BINARY, *Sender()(bytes(MIB)), rsv=4)
    assert receiver.decode(sent, FRAME_COST + 1) == []
    assert library.given == receiver.partial_size == KIB
    assert decode_all(receiver, b"", 1) == [bytes(MIB)]
    assert library.calls <= MIB // KIB + 2


@BOTH_ROLES
def test_what_a_step_has_no_room_for_waits_for_the_next_one_and_comes_at_once(role: Role) -> None:
    library = CountingZlib()
    receiver = protocol(role, takeover=False, library=library)
    (payload,) = Sender(takeover=False)(noise(6000))
    sent = frame(role, BINARY, payload, rsv=4)
    assert receiver.decode(sent + sent, 160 * 1000) == [noise(6000)]
    assert receiver.stalled
    assert receiver.partial_size == 0, "no crumb of the second has been inflated"
    library.forget()
    assert receiver.decode(b"", 160 * 1000) == [noise(6000)]
    assert library.calls == 2, "itself, and its end"
    assert not receiver.stalled


@BOTH_ROLES
@pytest.mark.parametrize(("missing", "count"), [(0, 2), (1, 1)])
def test_a_message_waits_for_the_next_step_only_if_there_is_too_little_room(
    role: Role, missing: int, count: int
) -> None:
    receiver = protocol(role, takeover=False)
    (payload,) = Sender(takeover=False)(noise(2000))
    sent = frame(role, BINARY, payload, rsv=4)
    each = 2 * FRAME_COST + 16 * len(payload) + 2000
    enough = each + FRAME_COST + 16 * len(payload)
    assert receiver.decode(sent + sent, enough - missing) == [noise(2000)] * count
    assert receiver.stalled is (count == 1)


@BOTH_ROLES
def test_a_step_of_many_small_messages_is_bounded_in_work(role: Role) -> None:
    library = CountingZlib()
    receiver = protocol(role, takeover=False, library=library)
    sent = frame(role, BINARY, b"\x00", rsv=4) * 3000
    received = []
    for events in in_steps(receiver, [sent]):
        assert library.calls <= STEP // FRAME_COST
        library.forget()
        received += events
    assert received == [b""] * 3000


# Sending


class Wire(NamedTuple):
    """A frame as it was on the wire, its payload unmasked."""

    opcode: int
    fin: bool
    payload: bytes
    rsv: int


def frames(wire: bytes) -> list[Wire]:
    """The frames that *wire* consists of; it must end with one."""
    found = []
    position = 0
    while position < len(wire):
        header = parse_header(wire, position, len(wire))
        assert header is not None
        first, key, length, _, size = header
        start = position + size
        position = start + length
        payload = wire[start:position]
        assert len(payload) == length
        if key is not None:
            payload = apply_mask(payload, key)
        found.append(Wire(first & 15, bool(first & 0x80), payload, first >> 4 & 7))
    return found


def outbox(
    masked: bool,
    max_frame_size: int | None = None,
    *,
    takeover: bool = True,
    window_bits: int = 15,
    level: int = 6,
    library: CountingZlib | None = None,
) -> Outbox:
    deflater = Deflater(
        window_bits=window_bits,
        context_takeover=takeover,
        level=level,
        mem_level=8,
        library=library or CountingZlib(),
    )
    return Outbox(masked=masked, max_frame_size=max_frame_size, deflater=deflater)


def take(box: Outbox, count: int | None = None) -> bytes:
    """What a transport gets that takes *count* bytes of what is ready."""
    data = b"".join(box.buffers())[:count]
    box.written(len(data))
    return data


def drain(box: Outbox, count: int | None = None) -> bytes:
    """What a transport gets that takes *count* bytes at a time."""
    return b"".join(iter(lambda: take(box, count), b""))


class Peer:
    """Who receives: RFC 6455 section 5.4 and RFC 7692 section 6, in a few lines."""

    def __init__(self, window_bits: int = 15, takeover: bool = True) -> None:
        self.receiver = Receiver(window_bits, takeover)
        self.opcode = 0
        self.rsv = 0
        self.parts: list[bytes] = []

    def __call__(self, wire: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of messages and control frames."""
        events = []
        for opcode, fin, payload, rsv in frames(wire):
            if opcode >= 8:
                assert fin
                assert not rsv
                events.append((opcode, payload))
                continue
            if opcode:
                assert not self.opcode
                assert rsv in (0, 4)
                self.opcode, self.rsv, self.parts = opcode, rsv, []
            else:
                assert self.opcode
                assert not rsv, "RSV1 is on first frames alone"
            self.parts.append(payload)
            if fin:
                message = b"".join(self.parts)
                events.append((self.opcode, self.receiver(message) if self.rsv else message))
                self.opcode = 0
        return events


@BOTH
@TAKEOVER
@pytest.mark.parametrize("window_bits", range(9, 16))
def test_zlib_inflates_what_leaves(masked: bool, takeover: bool, window_bits: int) -> None:
    box = outbox(masked, takeover=takeover, window_bits=window_bits)
    peer = Peer(window_bits, takeover)
    contents = [b"hello hello", b"", b"hello hello", noise(40_000) * 2, b"", b"x"]
    for content in contents:
        for compress in (True, False):
            box.commit_data(BINARY, content, True, compress)
            assert peer(drain(box)) == [(BINARY, content)]
            assert box.size == 0
            assert box.is_empty()


@BOTH
def test_takeover_makes_a_message_that_was_sent_before_smaller(masked: bool) -> None:
    sizes = {}
    for takeover in (False, True):
        box = outbox(masked, takeover=takeover)
        for _ in range(2):
            box.commit_data(BINARY, noise(1000), True, True)
            sizes[takeover] = len(drain(box))
    assert sizes[True] < 100
    assert sizes[False] > 1000


@BOTH
def test_a_message_that_is_sent_as_it_is_does_not_enter_the_window(masked: bool) -> None:
    box, fresh = outbox(masked), outbox(masked)
    box.commit_data(BINARY, noise(1000), True, False)
    drain(box)
    for each in (box, fresh):
        each.commit_data(BINARY, noise(1000), True, True)
    assert [f.payload for f in frames(drain(box))] == [f.payload for f in frames(drain(fresh))]


@BOTH
@pytest.mark.parametrize("content", [bytes, noise], ids=["zeros", "noise"])
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 7])
@pytest.mark.parametrize(("late", "pieces"), [(False, 4), (True, 1)], ids=["quick", "late"])
def test_a_compressed_message_leaves_in_a_frame_for_what_is_deflated_at_once(
    masked: bool, content: Callable[[int], bytes], size: int, late: bool, pieces: int
) -> None:
    box = outbox(masked)
    box.commit_data(TEXT, content(size), True, True)
    wire = b""
    while buffers := box.buffers(lambda: late):
        wire += b"".join(buffers)
        box.written(sum(map(len, buffers)))
    found = frames(wire)
    assert len(found) == max(1, -(-size // (pieces * PIECE)))
    assert [(f.opcode, f.fin, f.rsv) for f in found] == [
        (CONTINUATION if at else TEXT, at == len(found) - 1, 0 if at else 4)
        for at in range(len(found))
    ]
    assert Receiver()(b"".join(f.payload for f in found)) == content(size)


def test_within_a_message_nothing_is_flushed_unless_nothing_else_would_leave() -> None:
    tails = []
    for content in (noise(200_000), bytes(200_000)):
        box = outbox(False)
        box.commit_data(BINARY, content, True, True)
        *before, last = frames(drain(box))
        assert len(before) == 3
        assert not last.payload.endswith(TAIL)
        tails.append([f.payload.endswith(TAIL) for f in before])
    assert tails == [[False] * 3, [True] * 3]


@BOTH
@pytest.mark.parametrize("max_frame_size", [1, 7, 100, 16 * KIB, 1 * MIB])
@pytest.mark.parametrize("content", [b"", bytes(50_000), noise(300)], ids=["", "zeros", "noise"])
def test_max_frame_size_cuts_what_was_deflated(
    masked: bool, max_frame_size: int, content: bytes
) -> None:
    box = outbox(masked, max_frame_size)
    box.commit_data(BINARY, content, True, True)
    mark = box.mark()
    assert not box.is_written(mark)
    found = frames(drain(box))
    assert all(len(f.payload) <= max_frame_size for f in found)
    assert [f.opcode for f in found] == [BINARY] + [CONTINUATION] * (len(found) - 1)
    assert [f.rsv for f in found] == [4] + [0] * (len(found) - 1)
    assert [f.fin for f in found] == [False] * (len(found) - 1) + [True]
    assert Receiver()(b"".join(f.payload for f in found)) == content
    assert box.is_written(mark)
    assert box.size == 0


@BOTH
@TAKEOVER
@pytest.mark.parametrize(
    "parts", [[b"ab", b"c"], [b"", b"ab"], [b"ab", b""], [b"", b"", b""], [noise(PIECE), b"", b"x"]]
)
def test_a_compressed_message_in_parts(masked: bool, takeover: bool, parts: list[bytes]) -> None:
    box, peer = outbox(masked, takeover=takeover), Peer(takeover=takeover)
    for _ in range(2):
        events = []
        for at, part in enumerate(parts):
            is_last = at == len(parts) - 1
            box.commit_data(CONTINUATION if at else BINARY, part, is_last, True)
            mark = box.mark()
            wire = drain(box)
            assert wire, "each part leaves, an empty one too"
            assert box.is_written(mark)
            events.append(peer(wire))
            assert box.size == 0
        assert events == [[]] * (len(parts) - 1) + [[(BINARY, b"".join(parts))]]


def test_what_came_of_a_part_can_be_inflated_before_the_next_is_sent() -> None:
    box, stream = outbox(False), zlib.decompressobj(-15)
    for part in (b"one", b"two", noise(20_000)):
        box.commit_data(CONTINUATION, part, False, True)
        assert stream.decompress(b"".join(f.payload for f in frames(drain(box)))) == part


@BOTH
def test_control_frames_pass_between_the_frames_of_a_compressed_message_and_the_close_follows(
    masked: bool,
) -> None:
    box, peer = outbox(masked), Peer()
    content = noise(300_000)
    box.commit_data(BINARY, content, True, True)
    wire = take(box, 100)
    box.commit_control(PING, b"ping")
    box.commit_reply(b"pong")
    box.commit_close(b"\x03\xe8")
    wire += drain(box, 10_000)
    opcodes = [f.opcode for f in frames(wire)]
    assert opcodes[-1] == CLOSE
    assert opcodes.index(PONG) < opcodes.index(PING) < 6
    assert peer(wire) == [(PONG, b"pong"), (PING, b"ping"), (BINARY, content), (CLOSE, b"\x03\xe8")]


@BOTH
@pytest.mark.parametrize("max_frame_size", [None, 5000])
@pytest.mark.parametrize("content", [bytes(200_000), noise(90_000)], ids=["zeros", "noise"])
@pytest.mark.parametrize("handed_out", [False, True])
def test_failing_within_a_compressed_message_ends_its_frame_and_leaves_the_close_alone(
    masked: bool, max_frame_size: int | None, content: bytes, handed_out: bool
) -> None:
    reference = outbox(masked, max_frame_size)
    reference.commit_data(BINARY, content, True, True)
    total = len(drain(reference))
    for written in {0, 1, 2, total // 3, total // 2, total - 1}:
        box = outbox(masked, max_frame_size)
        box.commit_data(BINARY, content, True, True)
        box.commit_data(BINARY, content, True, True)
        wire = b""
        while len(wire) < written:
            wire += take(box, written - len(wire))
        if handed_out:
            box.buffers()
        box.drop_unsent()
        box.commit_close(b"\x03\xea")
        assert box.size <= AHEAD
        rest = drain(box, 1000)
        assert box.size == 0
        assert box.is_empty()
        found = frames(wire + rest)
        assert (found[-1].opcode, found[-1].payload) == (CLOSE, b"\x03\xea")
        if not handed_out:
            assert len(frames(wire + rest)) - 1 <= len(wire) // 2 + 1
            ends = itertools.accumulate(
                len(f.payload) + (4 if len(f.payload) > 125 else 2) + 4 * masked for f in found[:-1]
            )
            assert not [end for end in ends if end >= len(wire)][1:], "no frame was begun for it"


@BOTH
@TAKEOVER
@settings(max_examples=30)
@given(st.data())
def test_whatever_a_transport_takes_at_a_time_zlib_inflates_what_was_committed(
    masked: bool, takeover: bool, data: st.DataObject
) -> None:
    max_frame_size = data.draw(st.sampled_from([None, 50, 1000]))
    box = outbox(masked, max_frame_size, takeover=takeover, window_bits=9)
    peer = Peer(9, takeover)
    wire, expected, marks = b"", [], []
    for _ in range(data.draw(st.integers(1, 6))):
        parts = data.draw(
            st.lists(
                st.binary(max_size=50) | st.sampled_from([bytes(20_000), noise(100) * 9]),
                min_size=1,
                max_size=3,
            )
        )
        compress = data.draw(st.booleans())
        for at, part in enumerate(parts):
            opcode = CONTINUATION if at else BINARY
            box.commit_data(opcode, part, at == len(parts) - 1, compress)
            marks.append(box.mark())
            if data.draw(st.booleans()):
                wire += take(box, data.draw(st.sampled_from([1, 5, 100, None])))
        expected.append((int(BINARY), b"".join(parts)))
        if data.draw(st.booleans()):
            box.commit_control(PING, b"?")
    wire += drain(box, data.draw(st.sampled_from([200, 1000, None])))
    assert [event for event in peer(wire) if event[0] != PING] == expected
    assert all(map(box.is_written, marks))
    assert box.size == box.control_size == 0
    assert box.is_empty()


def test_a_message_counts_until_its_last_byte_is_written() -> None:
    for content in (bytes(100_000), noise(100_000)):
        box = outbox(True)
        box.commit_data(BINARY, content, True, True)
        assert box.size == len(content) + FRAME_COST
        mark = box.mark()
        while not box.is_written(mark):
            assert box.size >= FRAME_COST
            assert not box.is_empty()
            take(box, 1000)
        assert box.size == 0


@pytest.mark.parametrize(
    ("content", "count"),
    [(bytes(100 * MIB), 1), (noise(4 * MIB), 1), (b"x" * 64, 5000), (b"", 5000)],
    ids=["zeros", "noise", "small messages", "empty messages"],
)
@pytest.mark.parametrize(("late", "pieces"), [(False, 4), (True, 1)], ids=["quick", "late"])
def test_no_call_deflates_more_than_some_pieces(
    content: bytes, count: int, late: bool, pieces: int
) -> None:
    library = CountingZlib()
    box = outbox(False, level=1, library=library)
    for _ in range(count):
        box.commit_data(BINARY, content, True, True)
    calls = 0
    while buffers := box.buffers(lambda: late):
        assert library.taken <= pieces * PIECE
        assert library.calls <= 2 * pieces * PIECE // FRAME_COST
        library.forget()
        box.written(sum(map(len, buffers)))
        calls += 1
    assert calls >= count * len(content) // (pieces * PIECE)
    assert box.size == 0


@BOTH
@pytest.mark.parametrize("compress", ["not", "alone", "for many"])
@pytest.mark.parametrize("max_frame_size", [1, 3, 100])
def test_no_call_packs_more_than_some_hundred_frames(
    masked: bool, compress: str, max_frame_size: int
) -> None:
    box, peer = outbox(masked, max_frame_size, takeover=False), Peer(15, False)
    content = noise(30_000)
    shared = SharedDeflate(
        content, Deflater(window_bits=15, context_takeover=False, level=6, mem_level=8)
    )
    box.commit_data(
        BINARY, content, True, shared if compress == "for many" else compress == "alone"
    )
    wire = b""
    while buffers := box.buffers():
        assert len(buffers) <= 1200
        wire += b"".join(buffers)
        box.written(sum(map(len, buffers)))
    assert peer(wire) == [(BINARY, content)]
    assert box.size == 0


@BOTH
def test_a_compressed_message_is_not_held_a_second_time(masked: bool) -> None:
    content = noise(4 * MIB)

    def send() -> None:
        box = outbox(masked, level=1)
        box.commit_data(BINARY, content, True, True)
        while buffers := box.buffers():
            box.written(sum(map(len, buffers)))

    _, peak = traced(send)
    assert peak < MIB


@BOTH
def test_streams_that_share_a_message_have_it_deflated_once(masked: bool) -> None:
    library = CountingZlib()
    content = noise(100_000)
    settings = Deflater(
        window_bits=12, context_takeover=False, level=6, mem_level=5, library=library
    )
    shared = SharedDeflate(content, settings.twin())
    boxes = [outbox(masked, max_frame_size) for max_frame_size in (None, 1000, None)]
    for box in boxes:
        box.commit_data(BINARY, content, True, shared)
        assert box.size == FRAME_COST + len(content)
    wires = [b"", b"", b""]
    while any(box.buffers() for box in boxes):
        for at, box in enumerate(boxes):
            wires[at] += take(box, 5000 * (at + 1))
    assert [Peer(12, False)(wire) for wire in wires] == [[(BINARY, content)]] * 3
    assert library.taken == len(content)
    assert [box.size for box in boxes] == [0, 0, 0]
