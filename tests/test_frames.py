"""Frames on the wire: RFC 6455 section 5, close codes, and UTF-8 as it arrives."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import EACH_TWIN, Twin

from trio_ws._frames import (
    FIN,
    FRAME_COST,
    MAX_HEADER_SIZE,
    RSV1,
    Buffer,
    CloseCode,
    MaskingKeys,
    MessageFields,
    Opcode,
    is_valid_close_code,
    pack_close,
    pack_frame,
    truncate_reason,
)

KEY = bytes.fromhex("37fa213d")
BUFFERS = pytest.mark.parametrize(
    "buffer", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))]
)
MakeBuffer = Callable[[bytes], Buffer]

# Headers


@EACH_TWIN
@pytest.mark.parametrize(
    ("wire", "first_byte", "payload", "key"),
    [
        ("810548656c6c6f", 0x81, b"Hello", None),
        ("818537fa213d7f9f4d5158", 0x81, b"Hello", KEY),
        ("010348656c", 0x01, b"Hel", None),
        ("80026c6f", 0x80, b"lo", None),
        ("890548656c6c6f", 0x89, b"Hello", None),
        ("8a8537fa213d7f9f4d5158", 0x8A, b"Hello", KEY),
        ("827e0100" + 256 * "aa", 0x82, 256 * b"\xaa", None),
        ("827f0000000000010000" + 65536 * "aa", 0x82, 65536 * b"\xaa", None),
    ],
)
def test_examples_of_section_5_7(
    twin: Twin, wire: str, first_byte: int, payload: bytes, key: bytes | None
) -> None:
    frame = bytes.fromhex(wire)
    body = payload if key is None else twin.apply_mask(payload, key)
    assert twin.pack_header(first_byte, len(payload), key) + body == frame
    assert twin.pack_frame(first_byte, payload, key) == frame
    header = (first_byte, key, len(payload), True, len(frame) - len(payload))
    assert twin.parse_header(frame, 0, len(frame)) == header


@EACH_TWIN
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (124, "7c"),
        (125, "7d"),
        (126, "7e007e"),
        (127, "7e007f"),
        (128, "7e0080"),
        (65534, "7efffe"),
        (65535, "7effff"),
        (65536, "7f0000000000010000"),
        (65537, "7f0000000000010001"),
        (2**63 - 1, "7f7fffffffffffffff"),
    ],
)
def test_a_length_is_encoded_in_the_fewest_bytes(
    twin: Twin, length: int, encoded: str, key: bytes | None
) -> None:
    expected = bytearray(b"\x82" + bytes.fromhex(encoded))
    if key is not None:
        expected[1] |= 0x80
        expected += key
    header = twin.pack_header(0x82, length, key)
    assert header == expected
    parsed = twin.parse_header(header, 0, len(header))
    assert parsed == (0x82, key, length, True, len(header))


@EACH_TWIN
@pytest.mark.parametrize(
    ("encoded", "length"),
    [
        ("7e0000", 0),
        ("7e007d", 125),
        ("7f0000000000000000", 0),
        ("7f000000000000007d", 125),
        ("7f000000000000007e", 126),
        ("7f000000000000ffff", 65535),
    ],
)
@pytest.mark.parametrize("key", [b"", KEY])
def test_a_length_in_more_bytes_than_needed_is_seen(
    twin: Twin, encoded: str, length: int, key: bytes
) -> None:
    header = bytearray(b"\x82" + bytes.fromhex(encoded) + key)
    header[1] |= 0x80 if key else 0
    parsed = twin.parse_header(header, 0, len(header))
    assert parsed == (0x82, key or None, length, False, len(header))


@EACH_TWIN
@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_a_length_with_its_top_bit_set_is_parsed_as_it_is(twin: Twin, length: int) -> None:
    header = b"\x82\x7f" + length.to_bytes(8, "big")
    assert twin.parse_header(header, 0, len(header)) == (0x82, None, length, True, 10)


@EACH_TWIN
@BUFFERS
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_a_header_is_none_until_it_is_whole_wherever_it_stands(
    twin: Twin, length: int, key: bytes | None, buffer: MakeBuffer
) -> None:
    header = twin.pack_header(0x01, length, key)
    for position in (0, 3):
        data = buffer(position * b"\xff" + header + b"\xff\xff")
        whole = position + len(header)
        for end in range(position, whole):
            assert twin.parse_header(data, position, end) is None
        for end in range(whole, len(data) + 1):
            parsed = twin.parse_header(data, position, end)
            assert parsed == (0x01, key, length, True, len(header))


@EACH_TWIN
@pytest.mark.parametrize("first_byte", range(256))
def test_the_first_byte_is_handed_on_unchecked(twin: Twin, first_byte: int) -> None:
    assert twin.parse_header(bytes([first_byte, 0]), 0, 2) == (first_byte, None, 0, True, 2)
    assert twin.pack_header(first_byte, 0, None) == bytes([first_byte, 0])


@EACH_TWIN
@BUFFERS
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_a_frame_is_its_header_and_its_payload(
    twin: Twin, length: int, key: bytes | None, buffer: MakeBuffer
) -> None:
    payload = os.urandom(length)
    frame = twin.pack_frame(0x82, buffer(payload), key)
    assert type(frame) is bytes
    body = payload if key is None else masked_bytewise(payload, key, 0)
    assert frame == twin.pack_header(0x82, length, key) + body


def committed(
    payload: Buffer,
    *,
    opcode: int | None = 2,
    fin: bool = True,
    compress: object = False,
    cut: bool = False,
) -> MessageFields:
    return opcode, payload, fin, compress, cut


SMALL = [committed(b""), committed(b"Hello", opcode=1), committed(125 * b"a", fin=False)]
SMALL += [committed(126 * b"b", opcode=0), committed(4000 * b"c")]


@EACH_TWIN
@pytest.mark.parametrize("keys", [None, b"".join(bytes([number]) * 4 for number in range(5))])
def test_small_messages_are_packed_together(twin: Twin, keys: bytes | None) -> None:
    frames = [
        twin.pack_frame(opcode | (FIN if fin else 0), payload, keys and keys[4 * place :][:4])
        for place, (opcode, payload, fin, _, _) in enumerate(SMALL)
        if opcode is not None
    ]
    packed, ends, payload_size = twin.pack_messages(deque(SMALL), 4000, 10_000, keys, 0)
    assert packed == b"".join(frames)
    assert ends == [len(b"".join(frames[:count])) for count in range(1, 6)]
    assert payload_size == 0 + 5 + 125 + 126 + 4000


NOT_SIMPLE_MESSAGES = {
    "a frame that was made before": committed(b"a", opcode=None),
    "too large": committed(4001 * b"a"),
    "compressed": committed(b"a", compress=True),
    "compressed for many": committed(b"a", compress=object()),
    "cut": committed(b"a", cut=True),
    "a view": committed(memoryview(b"a")),
}


@EACH_TWIN
@pytest.mark.parametrize("message", NOT_SIMPLE_MESSAGES.values(), ids=NOT_SIMPLE_MESSAGES.keys())
def test_a_message_with_which_something_is_to_be_done_is_not_packed(
    twin: Twin, message: MessageFields
) -> None:
    assert twin.pack_messages([message], 4000, 10_000, None, 0) == (b"", [], 0)
    packed = twin.pack_messages([SMALL[1], message, SMALL[0]], 4000, 10_000, None, 100)
    assert packed == (b"\x81\5Hello", [107], 5)


@EACH_TWIN
@pytest.mark.parametrize(("fin", "packed"), [(1, b"\x82\1a"), (0, b"\x02\1a"), ([], b"\x02\1a")])
def test_fin_counts_by_its_truth(twin: Twin, fin: bool, packed: bytes) -> None:
    assert twin.pack_messages([committed(b"a", fin=fin)], 4000, 100, None, 0)[0] == packed


@EACH_TWIN
@pytest.mark.parametrize(("limit", "count"), [(-1, 0), (0, 1), (6, 1), (7, 2), (13, 2), (14, 3)])
def test_no_message_is_packed_beyond_the_limit(twin: Twin, limit: int, count: int) -> None:
    packed, ends, size = twin.pack_messages(3 * [committed(b"Hello")], 4000, limit, None, 0)
    assert (packed, ends, size) == (count * b"\x82\5Hello", [7, 14, 21][:count], 5 * count)


@EACH_TWIN
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_no_message_is_packed_without_a_key(twin: Twin, count: int) -> None:
    packed, ends, _ = twin.pack_messages(3 * [committed(b"a")], 4000, 10_000, count * KEY, 0)
    assert ends == [7, 14, 21][:count]
    assert packed == min(count, 3) * twin.pack_frame(0x82, b"a", KEY)


# Masking


def masked_bytewise(payload: Buffer, key: bytes, offset: int) -> bytes:
    """Section 5.3, word for word."""
    return bytes(octet ^ key[(index + offset) % 4] for index, octet in enumerate(payload))


@EACH_TWIN
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 7, 16383, 2**63 - 1])
@pytest.mark.parametrize(
    "length", [*range(10), 127, 128, 16383, 16384, 16385, 16387, 32768, 32769, 70001]
)
def test_masking_is_the_xor_of_section_5_3(twin: Twin, length: int, offset: int) -> None:
    payload = os.urandom(length)
    key = os.urandom(4)
    assert twin.apply_mask(payload, key, offset) == masked_bytewise(payload, key, offset)


@EACH_TWIN
@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4), st.integers(0, 100))
def test_masking_twice_gives_the_payload_back(
    twin: Twin, payload: bytes, key: bytes, offset: int
) -> None:
    masked = twin.apply_mask(payload, key, offset)
    assert masked == masked_bytewise(payload, key, offset)
    assert twin.apply_mask(masked, key, offset) == payload


@EACH_TWIN
@given(st.binary(max_size=50), st.data())
def test_a_frame_may_be_masked_in_pieces(twin: Twin, payload: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(payload)))
    pieces = twin.apply_mask(payload[:cut], KEY), twin.apply_mask(payload[cut:], KEY, cut)
    assert b"".join(pieces) == twin.apply_mask(payload, KEY)


@EACH_TWIN
@BUFFERS
@pytest.mark.parametrize("length", [0, 5, 16384, 40000])
def test_masking_takes_any_buffer_and_returns_bytes(
    twin: Twin, length: int, buffer: MakeBuffer
) -> None:
    payload = os.urandom(length)
    masked = twin.apply_mask(buffer(payload), KEY)
    assert type(masked) is bytes
    assert masked == twin.apply_mask(payload, KEY)


@EACH_TWIN
@pytest.mark.parametrize("length", [5, 40000])
def test_masking_neither_changes_nor_keeps_its_payload(twin: Twin, length: int) -> None:
    payload = bytearray(length)
    twin.apply_mask(payload, KEY)
    assert payload == bytes(length)
    payload.clear()


@EACH_TWIN
@given(st.binary(max_size=100), st.integers(0, 100), st.integers(0, 7), st.booleans())
def test_masking_in_place_leaves_what_is_before(
    twin: Twin, payload: bytes, start: int, offset: int, in_view: bool
) -> None:
    start = min(start, len(payload))
    buffer = bytearray(payload)
    twin.mask_in_place(memoryview(buffer) if in_view else buffer, start, KEY, offset)
    assert buffer == payload[:start] + masked_bytewise(payload[start:], KEY, offset)
    buffer.clear()


@EACH_TWIN
@pytest.mark.parametrize("start", [-1, 6])
def test_masking_in_place_stays_within_the_buffer(twin: Twin, start: int) -> None:
    buffer = bytearray(b"Hello")
    with pytest.raises(ValueError, match="start must be within the buffer"):
        twin.mask_in_place(buffer, start, KEY)
    assert buffer == b"Hello"


@EACH_TWIN
def test_masking_in_place_needs_a_buffer_that_can_be_written(twin: Twin) -> None:
    with pytest.raises((TypeError, BufferError)):
        twin.mask_in_place(memoryview(b"Hello"), 0, KEY)


def test_masking_keys_are_the_bytes_of_urandom_each_used_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urandom = os.urandom
    blocks: list[bytes] = []

    def recording_urandom(size: int) -> bytes:
        blocks.append(urandom(size))
        return blocks[-1]

    monkeypatch.setattr(os, "urandom", recording_urandom)
    ours, theirs = MaskingKeys(), MaskingKeys()
    assert blocks == []
    keys = [ours() for _ in range(1000)]
    assert {len(key) for key in keys} == {4}
    drawn = len(blocks)
    assert 1 < drawn <= 10
    assert b"".join(blocks).startswith(b"".join(keys))
    assert theirs() == blocks[drawn][:4]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_several_masking_keys_are_drawn_at_once_none_of_them_twice(count: int) -> None:
    keys = MaskingKeys()
    drawn = [keys(), keys.take(count), keys(), keys.take(count), keys()]
    assert [len(each) for each in drawn] == [4, 4 * count, 4, 4 * count, 4]
    joined = b"".join(drawn)
    single = {joined[place : place + 4] for place in range(0, len(joined), 4)}
    # By chance two are the same once in a thousand runs; three of them never.
    assert len(single) >= len(joined) // 4 - 1


# UTF-8

WELL_FORMED = [
    [(0x00, 0x7F)],
    [(0xC2, 0xDF), (0x80, 0xBF)],
    [(0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)],
    [(0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)],
    [(0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)],
]
"""Table 3-7 of the Unicode standard: well-formed byte sequences."""


def next_bytes() -> dict[bytes, dict[int, bool]]:
    """For each start of a code point the bytes that may follow, and whether they end it."""
    table: dict[bytes, dict[int, bool]] = {}
    for row in WELL_FORMED:
        starts = [b""]
        for place, (low, high) in enumerate(row, start=1):
            octets = range(low, high + 1)
            for start in starts:
                table.setdefault(start, {}).update(dict.fromkeys(octets, place == len(row)))
            starts = [start + bytes([octet]) for start in starts for octet in octets]
    return table


NEXT_BYTES = next_bytes()


def candidates(start: bytes) -> Iterator[int]:
    """All bytes; after three, where the standard has one range, the edges of all its ranges."""
    yield from range(256) if len(start) < 3 else (0x00, 0x7F, 0x80, 0x8F, 0x90, 0xBF, 0xC0, 0xFF)


def accepts(twin: Twin, pending: bytes, data: bytes) -> bytes | None:
    try:
        return twin.validate_utf8(pending, data, False)
    except UnicodeDecodeError:
        return None


@EACH_TWIN
def test_utf8_fails_at_the_first_byte_that_nothing_valid_begins_with(twin: Twin) -> None:
    for start, following in NEXT_BYTES.items():
        for octet in candidates(start):
            text = start + bytes([octet])
            expected = None
            if octet in following:
                expected = b"" if following[octet] else text
            assert accepts(twin, start, bytes([octet])) == expected, (start, octet)
            if len(start) < 3:
                assert accepts(twin, b"", text) == expected, text
                assert accepts(twin, b"", b"ab\xc3\xa9" + text) == expected, text
                assert accepts(twin, start[:1], text[1:] if start else text) == expected, text


@EACH_TWIN
def test_utf8_fails_in_the_middle_whatever_comes_behind(twin: Twin) -> None:
    for start, following in NEXT_BYTES.items():
        if len(start) < 3:
            for octet in set(range(256)) - set(following):
                assert accepts(twin, b"", b"a" + start + bytes([octet]) + b"\x80\x80\x80") is None


@EACH_TWIN
def test_utf8_must_not_end_within_a_code_point(twin: Twin) -> None:
    for start in NEXT_BYTES:
        if start:
            with pytest.raises(UnicodeDecodeError):
                twin.validate_utf8(start, b"", True)
            with pytest.raises(UnicodeDecodeError):
                twin.validate_utf8(b"", b"a" + start, True)
    assert twin.validate_utf8(b"", b"", True) == b""
    assert twin.validate_utf8(b"\xe2\x82", b"\xac", True) == b""


@EACH_TWIN
@pytest.mark.parametrize("size", [997, 4093, 65536, 10**7])
def test_every_code_point_is_valid_in_pieces_of_any_size(twin: Twin, size: int) -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    pending = b""
    for position in range(0, len(everything), size):
        pending = twin.validate_utf8(pending, everything[position : position + size], False)
    assert twin.validate_utf8(pending, b"", True) == b""


@EACH_TWIN
@given(st.text(), st.data())
def test_pending_is_what_was_cut_off(twin: Twin, text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    pending = twin.validate_utf8(b"", encoded[:cut], False)
    assert encoded[: cut - len(pending)].decode() == encoded[:cut].decode(errors="ignore")
    assert twin.validate_utf8(pending, encoded[cut:], True) == b""


@EACH_TWIN
@BUFFERS
@pytest.mark.parametrize("pending", [b"", b"\xe2"])
def test_utf8_takes_any_buffer_and_keeps_none(
    twin: Twin, pending: bytes, buffer: MakeBuffer
) -> None:
    data = buffer(b"\xe2\x82\xaca\xe2"[len(pending) :])
    rest = twin.validate_utf8(pending, data, False)
    assert type(rest) is bytes
    assert rest == b"\xe2"
    if isinstance(data, bytearray):
        data.clear()


# Simple messages

MESSAGES: list[str | bytes] = ["", "a", "é€😀", b"", b"\xff", 125 * "b", 126 * "c", 5000 * "d"]
MESSAGES += [bytes(65535), bytes(65536), 65536 * "e"]
EITHER_ROLE = pytest.mark.parametrize("key", [None, KEY])


def message_frame(message: str | bytes, key: bytes | None) -> bytes:
    if isinstance(message, str):
        return pack_frame(FIN | Opcode.TEXT, message.encode(), key)
    return pack_frame(FIN | Opcode.BINARY, message, key)


@EACH_TWIN
@EITHER_ROLE
@BUFFERS
def test_simple_messages_are_decoded_in_one_call(
    twin: Twin, key: bytes | None, buffer: MakeBuffer
) -> None:
    wire = b"".join(message_frame(message, key) for message in MESSAGES)
    data = buffer(b"skip" + wire + b"\x82")
    messages, position, left = twin.decode_messages(
        data, 4, len(data), key is not None, None, 1_000_000
    )
    assert messages == MESSAGES
    assert [type(message) for message in messages] == [type(message) for message in MESSAGES]
    assert position == len(data) - 1
    payload = sum(len(each.encode() if isinstance(each, str) else each) for each in MESSAGES)
    assert left == 1_000_000 - payload - FRAME_COST * len(MESSAGES)
    if isinstance(data, bytearray):
        data.clear()


NOT_SIMPLE = {
    "a continuation": b"\x80\x01a",
    "the first fragment": b"\x01\x01a",
    "a ping": b"\x89\x01a",
    "a pong": b"\x8a\x01a",
    "a close": b"\x88\x02\x03\xe8",
    "a reserved opcode": b"\x83\x01a",
    "RSV1": b"\xc1\x01a",
    "RSV2": b"\xa1\x01a",
    "RSV3": b"\x91\x01a",
    "a length of 16 bits that needs 7": b"\x82\x7e\x00\x7d" + bytes(125),
    "a length of 64 bits that needs 7": b"\x82\x7f" + bytes(7) + b"\x01a",
    "a length of 64 bits that needs 16": b"\x82\x7f" + bytes(6) + b"\xff\xff" + bytes(65535),
    "a length with its top bit set": b"\x82\x7f\x80" + bytes(7) + b"a",
    "the largest length": b"\x82\x7f" + 8 * b"\xff" + b"a",
    "text that is not UTF-8": b"\x81\x01\xff",
    "text that ends too early": b"\x81\x02\xe2\x82",
    "a surrogate": b"\x81\x03\xed\xa0\x80",
    "a masked frame": b"\x81\x81" + KEY + b"a",
}


@EACH_TWIN
@pytest.mark.parametrize("frame", NOT_SIMPLE.values(), ids=NOT_SIMPLE.keys())
def test_what_is_not_simple_is_left_where_it_is(twin: Twin, frame: bytes) -> None:
    wire = message_frame("before", None) + frame + message_frame("behind", None)
    expected = ["before"], 8, 900 - FRAME_COST - 6
    assert twin.decode_messages(wire, 0, len(wire), False, None, 900) == expected


@EACH_TWIN
def test_where_frames_must_be_masked_one_that_is_not_is_not_simple(twin: Twin) -> None:
    wire = message_frame("a", KEY) + message_frame("b", None) + bytes(9)
    assert twin.decode_messages(wire, 0, len(wire), True, None, 900)[:2] == (["a"], 7)


@EACH_TWIN
@EITHER_ROLE
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{message[:1]!r}-{len(message)}")
def test_a_message_that_is_not_whole_is_left_where_it_is(
    twin: Twin, message: str | bytes, key: bytes | None
) -> None:
    wire = message_frame(message, key) + message_frame("behind", key)
    whole = len(message_frame(message, key))
    masked = key is not None
    for end in {*range(min(whole, 20)), whole - 1}:
        assert twin.decode_messages(wire, 0, end, masked, None, 99) == ([], 0, 99)
    messages, position, _ = twin.decode_messages(wire, 0, whole, masked, None, 99)
    assert (messages, position) == ([message], whole)


@EACH_TWIN
@EITHER_ROLE
@pytest.mark.parametrize("message", [130 * b"a", 65 * "é"])
def test_a_message_above_the_size_is_left_where_it_is(
    twin: Twin, message: str | bytes, key: bytes | None
) -> None:
    wire = message_frame(message, key)
    masked = key is not None
    for max_size in (0, 129):
        assert twin.decode_messages(wire, 0, len(wire), masked, max_size, 99) == ([], 0, 99)
    for max_size in (130, 2**64):
        messages, _, _ = twin.decode_messages(wire, 0, len(wire), masked, max_size, 99)
        assert messages == [message]


@EACH_TWIN
@pytest.mark.parametrize(
    ("limit", "count"),
    [
        (-1, 0),
        (0, 0),
        (1, 1),
        (FRAME_COST + 2, 1),
        (FRAME_COST + 3, 2),
        (2 * FRAME_COST + 4, 2),
        (2 * FRAME_COST + 5, 3),
        (9 * FRAME_COST, 3),
    ],
)
def test_nothing_is_decoded_once_the_limit_is_used_up(twin: Twin, limit: int, count: int) -> None:
    wire = 3 * message_frame("ab", None)
    assert twin.decode_messages(wire, 0, len(wire), False, None, limit) == (
        count * ["ab"],
        count * 4,
        limit - count * (FRAME_COST + 2),
    )


@EACH_TWIN
@pytest.mark.parametrize(("position", "end"), [(-1, 2), (2, 1), (0, 8)])
def test_messages_are_in_the_buffer(twin: Twin, position: int, end: int) -> None:
    with pytest.raises(ValueError, match="must be within the buffer"):
        twin.decode_messages(message_frame("Hello", None), position, end, False, None, 900)
    with pytest.raises(ValueError, match="must be within the buffer"):
        twin.decode_compressed(message_frame("Hello", None), position, end, False)
    with pytest.raises(ValueError, match="must be within the buffer"):
        twin.parse_header(message_frame("Hello", None), position, end)


# Compressed messages


@EACH_TWIN
@EITHER_ROLE
@BUFFERS
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_a_compressed_message_that_is_whole_is_unmasked(
    twin: Twin, key: bytes | None, buffer: MakeBuffer, opcode: Opcode, length: int
) -> None:
    payload = os.urandom(length)
    frame = pack_frame(FIN | RSV1 | opcode, payload, key)
    masked = key is not None
    data = buffer(b"skip" + frame + b"\xc2")
    whole = 4 + len(frame)
    decoded = twin.decode_compressed(data, 4, len(data), masked)
    assert decoded == (opcode, payload, whole)
    assert decoded is not None
    assert type(decoded[1]) is bytes
    assert twin.decode_compressed(data, 4, whole, masked) == decoded
    for end in {*range(4, min(whole, 20)), whole - 1}:
        assert twin.decode_compressed(data, 4, end, masked) is None
    assert twin.decode_compressed(data, 4, len(data), not masked) is None
    if isinstance(data, bytearray):
        data.clear()


NOT_SIMPLE_COMPRESSED = {
    "not compressed": b"\x81\x01a",
    "the first fragment": b"\x41\x01a",
    "a continuation": b"\xc0\x01a",
    "a ping": b"\xc9\x01a",
    "a reserved opcode": b"\xc3\x01a",
    "RSV2": b"\xe1\x01a",
    "RSV3": b"\xd1\x01a",
    "a length of 16 bits that needs 7": b"\xc2\x7e\x00\x7d" + bytes(125),
    "a length of 64 bits that needs 16": b"\xc2\x7f" + bytes(6) + b"\xff\xff" + bytes(65535),
    "a length with its top bit set": b"\xc2\x7f\x80" + bytes(7) + b"a",
}


@EACH_TWIN
@pytest.mark.parametrize("frame", NOT_SIMPLE_COMPRESSED.values(), ids=NOT_SIMPLE_COMPRESSED.keys())
def test_what_is_no_simple_compressed_message_is_left_where_it_is(twin: Twin, frame: bytes) -> None:
    assert twin.decode_compressed(frame, 0, len(frame), False) is None


# Close

ON_THE_WIRE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_close_codes_that_may_be_on_the_wire() -> None:
    valid = {code for code in range(-1, 70000) if is_valid_close_code(code)}
    assert valid == ON_THE_WIRE


def packed(code: int) -> bytes | None:
    try:
        return pack_close(code, "é")
    except ValueError:
        return None


def test_a_close_payload_has_a_code_that_may_be_sent_or_none() -> None:
    for code in range(-1, 70000):
        expected = code.to_bytes(2, "big") + b"\xc3\xa9" if code in ON_THE_WIRE else None
        assert packed(code) == expected, code
    assert pack_close(None) == b""


@pytest.mark.parametrize("code", [-1, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_bad_close_code_is_named(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} may not be sent: use 1000"):
        pack_close(code)


@pytest.mark.parametrize("reason", [123 * "a", 61 * "é" + "a", 41 * "€", 30 * "😀" + "abc"])
def test_a_reason_has_at_most_123_bytes_of_utf8(reason: str) -> None:
    assert pack_close(1000, reason) == b"\x03\xe8" + reason.encode()
    assert len(pack_close(1000, reason)) == 125
    with pytest.raises(ValueError, match="124 bytes of UTF-8: at most 123 fit"):
        pack_close(1000, reason + "b")


def test_a_reason_needs_a_code() -> None:
    with pytest.raises(ValueError, match="give a code"):
        pack_close(None, "why")


def test_a_reason_that_is_not_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        pack_close(1000, "\ud800")


@given(st.text(st.sampled_from("aé€😀"), max_size=140))
def test_a_truncated_reason_is_the_longest_start_that_fits(reason: str) -> None:
    cut = truncate_reason(reason)
    assert reason.startswith(cut)
    assert len(pack_close(1000, cut)) <= 125
    assert cut == reason or len(reason[: len(cut) + 1].encode()) > 123


def test_a_truncated_reason_can_always_be_sent() -> None:
    assert truncate_reason("a\udcff\ud800b") == "a??b"
    assert truncate_reason(200 * "\ud800") == 123 * "?"


# Constants


def test_opcodes_of_section_11_8() -> None:
    assert [opcode.value for opcode in Opcode] == [0, 1, 2, 8, 9, 10]
    assert {opcode for opcode in Opcode if opcode & 8} == {Opcode.CLOSE, Opcode.PING, Opcode.PONG}
    assert FIN == 0x80


def test_close_codes_of_section_7_4_1_and_the_registry() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL_CLOSURE": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS_RECEIVED": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_PAYLOAD_DATA": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "TLS_HANDSHAKE": 1015,
    }


@EACH_TWIN
def test_the_longest_header(twin: Twin) -> None:
    assert len(twin.pack_header(0x82, 2**63 - 1, KEY)) == MAX_HEADER_SIZE
