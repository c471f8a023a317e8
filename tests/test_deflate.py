"""The codec of permessage-deflate with bytes alone, on top of zlib and of zlib-ng."""

from __future__ import annotations

import gc
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import bombs
import pytest
from compression_options import agreed, any_options
from hypothesis import example, given
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from trio_ws._deflate import (
    PIECE,
    Deflater,
    InflateError,
    Inflater,
    Zlib,
    check_answer,
    choose_offer,
    client_codec,
    make_offer,
    server_codec,
)
from trio_ws._options import PermessageDeflate

KIB = 1024
MIB = 1024 * KIB
TAIL = b"\x00\x00\xff\xff"
DEFAULTS = PermessageDeflate()
ZLIB_NG: Zlib = zlib_ng  # type: ignore[assignment]  # its stub has an instance for its error class


class Library:
    """What the codecs under test use for zlib: each test runs with either."""

    in_use: Zlib = zlib
    name = "zlib"


@pytest.fixture(autouse=True, scope="module", params=["zlib", "zlib-ng"])
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    Library.name = request.param
    Library.in_use = zlib if request.param == "zlib" else ZLIB_NG
    yield
    Library.in_use = zlib


def deflater(
    window_bits: int = 15, context_takeover: bool = True, level: int = 6, mem_level: int = 8
) -> Deflater:
    return Deflater(
        window_bits=window_bits,
        context_takeover=context_takeover,
        level=level,
        mem_level=mem_level,
        library=Library.in_use,
    )


def inflater(window_bits: int = 15, context_takeover: bool = True) -> Inflater:
    return Inflater(
        window_bits=window_bits, context_takeover=context_takeover, library=Library.in_use
    )


def deflate(codec: Deflater, *pieces: bytes) -> bytes:
    """The payload of a message that is given in *pieces*."""
    last = len(pieces) - 1
    return b"".join([codec.deflate(piece, at == last) for at, piece in enumerate(pieces)])


def inflate(codec: Inflater, *pieces: bytes, bounds: Sequence[int] = (64 * KIB,)) -> bytes:
    """The message whose payload comes in *pieces*, produced in parts of at most *bounds*."""
    parts: list[bytes] = []
    for at, piece in enumerate(pieces):
        codec.feed(piece, at == len(pieces) - 1)
        while not codec.needs_input:
            bound = bounds[len(parts) % len(bounds)]
            parts.append(codec.produce(bound))
            assert len(parts[-1]) <= bound
    return b"".join(parts)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """*data* cut at the places *cuts*, which are taken modulo its length."""
    places = sorted([cut % (len(data) + 1) for cut in cuts])
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]


def prose(size: int) -> bytes:
    """Text that repeats itself near and far."""
    lines = (b"line %d of a text in which %d is nothing new\n" % (n, n * n) for n in range(size))
    text = bytearray()
    while len(text) < size:
        text += next(lines)
    return bytes(text[:size])


class CountingZlib:
    """The standard module, and how many streams it has made."""

    error = zlib.error

    def __init__(self) -> None:
        self.made = 0

    def compressobj(
        self, level: int, method: int, window_bits: int, mem_level: int, /
    ) -> zlib._Compress:
        self.made += 1
        return zlib.compressobj(level, method, window_bits, mem_level)

    def decompressobj(self, window_bits: int, /) -> zlib._Decompress:
        self.made += 1
        return zlib.decompressobj(window_bits)


# The examples of RFC 7692 section 7.2.3

HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")
HELLO_AGAIN = bytes.fromhex("f2 00 11 00 00")


def test_rfc_7692_7_2_3_1_one_compressed_block() -> None:
    assert deflate(deflater(), b"Hello") == HELLO
    assert inflate(inflater(), HELLO) == b"Hello"
    assert inflate(inflater(), HELLO[:3], HELLO[3:]) == b"Hello"


def test_rfc_7692_7_2_3_2_sharing_the_window() -> None:
    sender, receiver = deflater(), inflater()
    assert [deflate(sender, b"Hello") for _ in range(2)] == [HELLO, HELLO_AGAIN]
    assert [inflate(receiver, payload) for payload in (HELLO, HELLO_AGAIN)] == [b"Hello"] * 2


def test_rfc_7692_7_2_3_2_not_sharing_the_window() -> None:
    sender, receiver = deflater(context_takeover=False), inflater(context_takeover=False)
    assert [deflate(sender, b"Hello") for _ in range(2)] == [HELLO] * 2
    assert [inflate(receiver, HELLO) for _ in range(2)] == [b"Hello"] * 2
    with pytest.raises(InflateError, match="invalid distance too far back"):
        inflate(receiver, HELLO_AGAIN)


def test_rfc_7692_7_2_3_3_a_block_without_compression() -> None:
    payload = bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")
    assert inflate(inflater(), payload) == b"Hello"


def test_rfc_7692_7_2_3_4_a_block_with_bfinal() -> None:
    payload = bytes.fromhex("f3 48 cd c9 c9 07 00 00")
    assert inflate(inflater(), payload) == b"Hello"


def test_rfc_7692_7_2_3_5_two_blocks() -> None:
    payload = bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")
    assert inflate(inflater(), payload) == b"Hello"


def test_rfc_7692_7_2_3_6_an_empty_last_fragment() -> None:
    sender, receiver = deflater(), inflater()
    fragments = [sender.deflate(b"Hello", False), sender.deflate(b"", True)]
    assert fragments == [HELLO + TAIL, b"\x00"]
    assert inflate(receiver, *fragments) == b"Hello"


# Deflating

takeover = pytest.mark.parametrize(
    "context_takeover", [True, False], ids=["takeover", "no takeover"]
)
byte_strings = st.one_of(
    st.binary(max_size=3000),
    st.integers(0, 40_000).map(prose),
    st.integers(0, 70_000).map(bytes),
    st.lists(st.sampled_from([b"one", b"two", b"three", b"\x00\x00\xff\xff"])).map(b"".join),
)
cuts = st.lists(st.integers(0, 2**20), max_size=4)


def reference_inflate(payloads: Iterable[bytes], window_bits: int, together: bool) -> list[bytes]:
    """What zlib makes of *payloads*; one byte at a time, so that it has nothing but the window."""
    messages = []
    stream = zlib.decompressobj(-window_bits)
    for payload in payloads:
        if not together:
            stream = zlib.decompressobj(-window_bits)
        message = b""
        data = payload + TAIL
        while part := stream.decompress(data, 1):
            message += part
            data = stream.unconsumed_tail
        messages.append(message)
    return messages


@given(
    messages=st.lists(byte_strings.map(lambda data: data[:3000]), max_size=4),
    window_bits=st.integers(9, 15),
    mem_level=st.integers(1, 9),
    level=st.integers(0, 9),
    context_takeover=st.booleans(),
    places=cuts,
)
def test_zlib_inflates_what_is_deflated_within_the_window(
    messages: list[bytes],
    window_bits: int,
    mem_level: int,
    level: int,
    context_takeover: bool,
    places: list[int],
) -> None:
    codec = deflater(window_bits, context_takeover, level, mem_level)
    payloads = [deflate(codec, *split(message, places)) for message in messages]
    assert reference_inflate(payloads, window_bits, context_takeover) == messages


@pytest.mark.parametrize("level", range(10))
def test_a_piece_is_flushed_to_its_last_byte(level: int) -> None:
    codec, reference = deflater(level=level), zlib.decompressobj(-15)
    text = prose(5 * PIECE)
    for start in range(0, len(text), PIECE):
        piece = text[start : start + PIECE]
        assert reference.decompress(codec.deflate(piece, False)) == piece


@takeover
def test_messages_that_deflate_to_nothing(context_takeover: bool) -> None:
    sender, receiver = deflater(12, context_takeover), inflater(12, context_takeover)
    messages = [b"", b"a", b"", b"", b"aaaaaaaaaa", b""]
    for message in messages:
        payload = deflate(sender, message)
        assert (payload == b"\x00") is (message == b"")
        assert inflate(receiver, payload) == message


def test_an_empty_piece_that_is_not_the_last_is_nothing() -> None:
    codec = deflater()
    assert codec.deflate(b"", False) == b""
    assert deflate(codec, b"", b"Hello", b"") == HELLO + TAIL + b"\x00"


def test_what_can_not_be_compressed_grows_by_some_bytes() -> None:
    noise = random.Random(7692).randbytes(PIECE)
    for level in range(10):
        for mem_level in range(1, 10):
            payload = deflate(deflater(12, True, level, mem_level), noise)
            # 5 bytes for each block that is stored as it is; level 1 of zlib-ng stores nothing.
            stored = 5 * (PIECE >> (mem_level + 6)) + 100
            growth = stored if Library.in_use is zlib else PIECE // 16
            assert len(payload) < PIECE + growth


@takeover
def test_any_buffer_is_deflated(context_takeover: bool) -> None:
    text = prose(10_000)
    expected = deflate(deflater(context_takeover=context_takeover), text)
    for data in (bytearray(text), memoryview(text), memoryview(bytearray(text))):
        assert deflater(context_takeover=context_takeover).deflate(data, True) == expected


def test_the_same_settings_without_takeover_make_the_same_of_a_message() -> None:
    one, other = deflater(12, False, 6, 5), deflater(12, False, 6, 5)
    deflate(one, b"something that comes before in one of them")
    assert deflate(one, prose(1000)) == deflate(other, prose(1000))


# Inflating

flush_modes = st.sampled_from(
    [zlib.Z_NO_FLUSH, zlib.Z_BLOCK, zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]
)


@given(
    messages=st.lists(st.lists(st.tuples(byte_strings, flush_modes), max_size=3), max_size=4),
    window_bits=st.integers(8, 15),
    level=st.integers(0, 9),
    strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY]),
    context_takeover=st.booleans(),
    places=cuts,
    bounds=st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
)
@example(
    messages=[[(bytes(70_000), zlib.Z_NO_FLUSH)]],
    window_bits=15,
    level=9,
    strategy=zlib.Z_DEFAULT_STRATEGY,
    context_takeover=True,
    places=[1, 1, 2],
    bounds=[65_536, 1],
)
def test_whatever_zlib_deflates_is_inflated_in_any_pieces_and_within_any_bounds(
    messages: list[list[tuple[bytes, int]]],
    window_bits: int,
    level: int,
    strategy: int,
    context_takeover: bool,
    places: list[int],
    bounds: list[int],
) -> None:
    receiver = inflater(window_bits, context_takeover)
    # With 9 bits zlib looks back by 250 bytes at most, so that it fits into 8 as well.
    settings = (level, zlib.DEFLATED, -max(window_bits, 9), 8, strategy)
    reference = zlib.compressobj(*settings)
    for pieces in messages:
        if not context_takeover:
            reference = zlib.compressobj(*settings)
        payload = b""
        for data, mode in pieces:
            payload += reference.compress(data) + reference.flush(mode)
        payload += reference.flush(zlib.Z_SYNC_FLUSH)
        # zlib does not flush twice in a row.
        payload = payload.removesuffix(TAIL) or b"\x00"
        if len(payload) > 10_000:
            bounds = [bound + 1000 for bound in bounds]
        expected = b"".join([data for data, _ in pieces])
        assert inflate(receiver, *split(payload, places), bounds=bounds) == expected


@given(
    messages=st.lists(byte_strings, max_size=4),
    client=any_options,
    server=any_options,
    places=cuts,
)
def test_both_roles_understand_each_other(
    messages: list[bytes],
    client: PermessageDeflate,
    server: PermessageDeflate,
    places: list[int],
) -> None:
    chosen = choose_offer([make_offer(client)], server)
    assert chosen is not None
    ours = client_codec(chosen[0], client, Library.in_use)
    theirs = server_codec(chosen[0], server, Library.in_use)
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        assert sender.deflater is not None
        for message in messages:
            payload = deflate(sender.deflater, *split(message, places))
            assert inflate(receiver.inflater, *split(payload, places)) == message


def test_a_window_of_8_bits_is_256_bytes() -> None:
    literals = bytes(range(128)) * 2
    bits = "010"  # a block of fixed Huffman codes that is not the last
    bits += "".join([f"{0x30 + byte:08b}" for byte in literals])
    bits += "0000001" + "01111" + "111111"  # 3 bytes from 256 bytes back
    bits += "0000000" + "000"  # the end of the block, and the head of an empty one
    bits += "0" * (-len(bits) % 8)
    octets = [int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)]
    assert inflate(inflater(8), bytes(octets), bounds=[1]) == literals + literals[:3]


def test_all_that_a_fragment_says_is_produced_before_the_next() -> None:
    payload = deflate(deflater(), bytes(1000) + b"and" + bytes(1000))
    for cut in range(1, len(payload)):
        expected = zlib.decompressobj(-15).decompress(payload[:cut])
        receiver = inflater()
        receiver.feed(payload[:cut], False)
        parts = []
        while not receiver.needs_input:
            parts.append(receiver.produce(1))
        assert b"".join(parts) == expected


def test_a_piece_is_produced_as_soon_as_it_has_come() -> None:
    sender, receiver = deflater(), inflater()
    for part in (b"first ", b"second ", b"third"):
        receiver.feed(sender.deflate(part, False), False)
        assert receiver.produce(100) == part
        assert receiver.needs_input


def test_nothing_is_produced_without_input() -> None:
    library = CountingZlib()
    receiver = Inflater(window_bits=15, context_takeover=True, library=library)
    assert receiver.needs_input
    assert receiver.produce(1) == b""
    for final in (False, True):
        receiver.feed(b"", final)
        assert receiver.needs_input
    assert library.made == 0


def test_input_must_be_used_up_before_the_next() -> None:
    receiver = inflater()
    receiver.feed(HELLO[:3], False)
    with pytest.raises(RuntimeError, match="has not been used up"):
        receiver.feed(HELLO[3:], True)


def test_a_bound_of_nothing_is_a_mistake() -> None:
    receiver = inflater()
    receiver.feed(HELLO, True)
    with pytest.raises(ValueError, match="max_bytes must be at least 1"):
        receiver.produce(0)
    assert receiver.produce(5) == b"Hello"


@pytest.mark.parametrize("final", [True, False])
def test_any_buffer_is_inflated_and_none_is_kept(final: bool) -> None:
    receiver = inflater()
    buffer = bytearray(HELLO)
    with memoryview(buffer) as view:
        receiver.feed(view, final)
    buffer[:] = bytes(100)
    assert receiver.produce(100) == b"Hello"


@takeover
def test_a_compressed_message_without_any_payload_is_empty(context_takeover: bool) -> None:
    # Some peers send this, though RFC 7692 section 7.2.3.6 wants one byte at least.
    sender, receiver = deflater(15, context_takeover), inflater(15, context_takeover)
    for message in (b"before", b"after", b"and again after"):
        assert inflate(receiver, deflate(sender, message)) == message
        assert inflate(receiver, b"") == b""
        assert inflate(receiver, b"", b"", b"") == b""


# BFINAL

FINAL_HELLO = bytes.fromhex("f3 48 cd c9 c9 07 00")
EMPTY_FINAL = bytes.fromhex("03 00")
FINALS = {
    "alone": (FINAL_HELLO, b"Hello"),
    "with the empty block": (FINAL_HELLO + b"\x00", b"Hello"),
    "two": (FINAL_HELLO + FINAL_HELLO, b"HelloHello"),
    "two with the empty block": (FINAL_HELLO * 2 + b"\x00", b"HelloHello"),
    "before another block": (FINAL_HELLO + HELLO, b"HelloHello"),
    "after another block": (HELLO + TAIL + FINAL_HELLO, b"HelloHello"),
    "in the middle": (HELLO + TAIL + FINAL_HELLO + HELLO, b"HelloHelloHello"),
    "empty ones": (EMPTY_FINAL * 3 + FINAL_HELLO + EMPTY_FINAL * 3 + b"\x00", b"Hello"),
    "nothing but an empty one": (EMPTY_FINAL, b""),
}


@takeover
@pytest.mark.parametrize(("payload", "message"), FINALS.values(), ids=FINALS.keys())
def test_final_blocks(payload: bytes, message: bytes, context_takeover: bool) -> None:
    for cut in range(len(payload) + 1):
        for bound in (1, 5, 100):
            receiver = inflater(15, context_takeover)
            for _ in range(2):
                for pieces in (payload[:cut], payload[cut:]), (payload[:cut], payload[cut:], b""):
                    assert inflate(receiver, *pieces, bounds=[bound]) == message
            assert inflate(receiver, HELLO) == b"Hello", "the next message begins anew"


@given(
    parts=st.lists(st.tuples(byte_strings, st.booleans()), min_size=1, max_size=4),
    places=cuts,
    bound=st.integers(1000, 100_000),
)
def test_any_sequence_of_streams(
    parts: list[tuple[bytes, bool]], places: list[int], bound: int
) -> None:
    payload = b""
    for data, final in parts:
        reference = zlib.compressobj(wbits=-15)
        payload += reference.compress(data)
        # A stream that has not ended does not reset the window; one that begins does not need it.
        payload += reference.flush(zlib.Z_FINISH if final else zlib.Z_FULL_FLUSH)
    pieces = split(payload + b"\x00", places)
    expected = b"".join([data for data, _ in parts])
    receiver = inflater()
    for _ in range(2):
        assert inflate(receiver, *pieces, bounds=[bound]) == expected


# Corrupt data

CORRUPT = {
    "a reserved block type": (b"\x06", "invalid block type"),
    "lengths that do not match": (b"\x00\x05\x00\xfa\xfe", "invalid stored block lengths"),
    "a distance beyond the beginning": (HELLO_AGAIN, "invalid distance too far back"),
    "bad code lengths": (b"\xfc\xff\xff\xff\xff", "too many length or distance symbols"),
    "garbage behind a final block": (FINAL_HELLO + b"\x06", "invalid block type"),
}


@takeover
@pytest.mark.parametrize(("payload", "why"), CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_data(payload: bytes, why: str, context_takeover: bool) -> None:
    for cut in range(len(payload)):
        with pytest.raises(InflateError) as caught:
            inflate(inflater(15, context_takeover), payload[:cut], payload[cut:])
        assert str(caught.value) == (
            f"a compressed message must be deflate data (RFC 7692 section 7.2.2): {why}"
        )


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """What zlib makes of some text or noise, cut off anywhere, with one bit changed or without."""
    reference = zlib.compressobj(
        draw(st.integers(0, 9)), zlib.DEFLATED, -15, 8, draw(st.sampled_from([0, zlib.Z_FIXED]))
    )
    payload = reference.compress(draw(byte_strings)) + reference.flush(zlib.Z_SYNC_FLUSH)
    damaged = bytearray(payload[: draw(st.integers(1, len(payload) - len(TAIL)))])
    if draw(st.booleans()):
        damaged[draw(st.integers(0, len(damaged) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(damaged)


@given(
    payload=st.binary(min_size=1, max_size=100) | damaged(),
    places=cuts,
    bound=st.integers(1000, 100_000),
)
def test_zlib_and_the_inflater_agree_about_garbage(
    payload: bytes, places: list[int], bound: int
) -> None:
    pieces = split(payload, places)
    reference = zlib.decompressobj(-15)
    try:
        expected = reference.decompress(payload)
        # Messages that are empty must be that to it, and not be taken for the end of this one.
        more = reference.decompress(TAIL + 32 * (b"\x00" + TAIL))
    except zlib.error:
        expected, more = b"", b"more"
    if reference.eof:
        return
    if more:
        with pytest.raises(InflateError):
            inflate(inflater(), *pieces, bounds=[bound])
    else:
        assert inflate(inflater(), *pieces, bounds=[bound]) == expected


@takeover
@pytest.mark.parametrize("before", [b"", HELLO + TAIL])
@pytest.mark.parametrize("block", [b"\x00", b"\x01"], ids=["a block", "a final block"])
def test_a_stored_block_that_is_cut_off(
    before: bytes, block: bytes, context_takeover: bool
) -> None:
    stored = block + (50).to_bytes(2, "little") + (0xFFFF - 50).to_bytes(2, "little") + bytes(50)
    whole = stored + b"\x00"
    message = inflate(inflater(), before, whole)
    for length in range(2, len(stored)):
        payload = before + stored[:length]
        for pieces in ((payload,), (payload, b""), (payload[:1], payload[1:])):
            receiver = inflater(15, context_takeover)
            assert inflate(receiver, before, whole) == message
            with pytest.raises(InflateError, match="must be deflate data"):
                inflate(receiver, *pieces)


@takeover
@pytest.mark.parametrize(
    ("level", "strategy"),
    [(0, zlib.Z_DEFAULT_STRATEGY), (6, zlib.Z_FIXED), (6, zlib.Z_DEFAULT_STRATEGY)],
    ids=["stored", "fixed codes", "dynamic codes"],
)
def test_a_message_that_is_cut_off_within_a_block_of_any_kind(
    level: int, strategy: int, context_takeover: bool
) -> None:
    text = b"".join(b"the %d. of the words is %x; " % (at, at**5) for at in range(60))
    reference = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    payload = (reference.compress(text) + reference.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    assert inflate(inflater(15, context_takeover), payload) == text
    # One byte of a stored block is all that an empty message has.
    for length in range(2, len(payload)):
        with pytest.raises(InflateError, match="it is cut off"):
            inflate(inflater(15, context_takeover), payload[:length])


def test_the_tail_may_end_a_final_block() -> None:
    receiver = inflater()
    for _ in range(2):
        assert inflate(receiver, EMPTY_FINAL[:1]) == b""
        assert inflate(receiver, HELLO) == b"Hello"


# Bounds


def bomb_of_zeros(blocks: int) -> tuple[bytes, bytes]:
    """The payload of 32 KiB of zeros, and one of *blocks* MiB of them that follows it."""
    codec = deflater(level=9, mem_level=9)
    return codec.deflate(bytes(32 * KIB), False), codec.deflate(bytes(MIB), False) * blocks


def traced(step: Callable[[], object]) -> tuple[int, int]:
    """Bytes that *step* leaves behind, and that it holds at its peak."""
    gc.collect()
    tracemalloc.start()
    try:
        result = step()
        kept, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return kept, peak


def measured(about: str, wire: int, inflated: int, allowed: int, peak: int) -> None:
    """Have the summary of the run say it."""
    about += f", {Library.name} alone"
    bombs.measured[about] = bombs.Bomb(wire, inflated, allowed, peak)


def test_a_bomb_of_10_gib_is_stopped_without_holding_more_than_the_limit_and_one_piece() -> None:
    limit, piece, read = 4 * MIB, 64 * KIB, 64 * KIB
    fuse, bomb = bomb_of_zeros(10 * KIB)
    assert 10 * MIB < len(bomb) < 11 * MIB
    receiver = inflater()
    receiver.feed(fuse, False)
    assert receiver.produce(piece) == bytes(32 * KIB)

    def explode() -> bytearray:
        message = bytearray()
        for start in range(0, len(bomb), read):
            receiver.feed(memoryview(bomb)[start : start + read], False)
            while not receiver.needs_input:
                message += receiver.produce(min(piece, limit + 1 - len(message)))
                if len(message) > limit:
                    return message
        raise AssertionError("the bomb was a dud")

    kept, peak = traced(explode)
    assert kept > limit, "the message is collected up to its limit"
    # A bytearray that grows is held twice while it moves, and has an eighth to spare.
    allowed = 2 * (limit + limit // 8) + piece + read + 32 * KIB
    assert peak < allowed
    measured("one message collected up to 4 MiB", len(bomb), 10 * KIB * MIB, allowed, peak)


def test_a_bomb_that_is_not_collected_is_held_in_pieces() -> None:
    piece = 64 * KIB
    fuse, bomb = bomb_of_zeros(64)
    receiver = inflater()

    def explode() -> None:
        receiver.feed(fuse, False)
        receiver.produce(piece)
        receiver.feed(bomb, False)
        total = 0
        while not receiver.needs_input:
            total += len(receiver.produce(piece))
        assert total == 64 * MIB

    _, peak = traced(explode)
    assert peak < 4 * piece
    measured("pieces that nobody keeps", len(bomb), 64 * MIB, 4 * piece, peak)


def test_one_read_full_of_small_bombs_is_inflated_one_piece_at_a_time() -> None:
    bomb = deflate(deflater(), bytes(MIB))
    receiver = inflater(context_takeover=False)
    piece = 64 * KIB

    count = 64 * KIB // len(bomb)

    def explode() -> None:
        total = 0
        for _ in range(count):
            receiver.feed(bomb, True)
            while not receiver.needs_input:
                total += len(receiver.produce(piece))
        assert total == count * MIB

    explode()  # where coverage is measured, its first lines are kept
    kept, peak = traced(explode)
    assert kept < KIB
    assert peak < 4 * piece
    measured("small ones, piece by piece", count * len(bomb), count * MIB, 4 * piece, peak)


def test_input_that_waits_is_not_copied_at_every_step() -> None:
    data = deflate(deflater(level=0), bytes(4 * MIB))
    receiver = inflater()
    receiver.feed(data, True)
    for _ in range(5):
        _, peak = traced(lambda: receiver.produce(16))
        assert peak < 128 * KIB


def test_input_without_output_is_inflated_in_steps() -> None:
    receiver = inflater()
    receiver.feed((b"\x00" + TAIL) * (200 * KIB), False)
    steps = 0
    while not receiver.needs_input:
        assert receiver.produce(64 * KIB) == b""
        steps += 1
    assert steps >= 1000 * KIB // (16 * KIB)


def test_no_more_input_is_used_than_is_asked_for() -> None:
    receiver = inflater()
    receiver.feed((b"\x00" + TAIL) * KIB, False)
    assert receiver.produce(64 * KIB, 3 * KIB) == b""
    assert receiver.input_left == 2 * KIB


def test_final_blocks_are_inflated_one_at_a_time() -> None:
    receiver = inflater()
    receiver.feed(EMPTY_FINAL * 1000, True)
    steps = 0
    while not receiver.needs_input:
        receiver.produce(64 * KIB)
        steps += 1
    assert steps == 1000


# Memory

ANY_MESSAGE = prose(2000)


@takeover
def test_memory_is_taken_with_the_first_message_and_kept_for_takeover_alone(
    context_takeover: bool,
) -> None:
    def made() -> tuple[Deflater, Inflater]:
        return deflater(15, context_takeover), inflater(15, context_takeover)

    def used() -> tuple[Deflater, Inflater]:
        sender, receiver = made()
        inflate(receiver, deflate(sender, ANY_MESSAGE))
        return sender, receiver

    kept, _ = traced(made)
    assert kept < KIB
    kept, peak = traced(used)
    assert peak > 256 * KIB
    if context_takeover:
        assert kept > 256 * KIB
    else:
        assert kept < KIB


def test_a_message_in_progress_keeps_its_window_without_takeover() -> None:
    sender, receiver = deflater(context_takeover=False), inflater(context_takeover=False)
    fragments = [sender.deflate(b"Hello", False), sender.deflate(b"Hello", True)]
    assert fragments == [HELLO + TAIL, HELLO_AGAIN]
    assert inflate(receiver, *fragments) == b"HelloHello"


# Codecs


def test_the_codecs_of_both_roles_have_what_was_agreed() -> None:
    parameters = agreed(10, 13, (True, False))
    options = PermessageDeflate(client_max_window_bits=14, level=3, mem_level=7)
    client = client_codec(parameters, options, Library.in_use)
    server = server_codec(parameters, options, Library.in_use)
    assert client.deflater is not None
    assert server.deflater is not None
    for codec in (client.deflater, server.deflater):
        assert (codec.level, codec.mem_level) == (3, 7)
    assert (server.deflater.window_bits, server.deflater.context_takeover) == (10, False)
    assert (client.inflater.window_bits, client.inflater.context_takeover) == (10, False)
    assert (client.deflater.window_bits, client.deflater.context_takeover) == (13, True)
    assert (server.inflater.window_bits, server.inflater.context_takeover) == (13, True)


def test_a_client_compresses_with_its_default_window_where_it_may_use_a_larger() -> None:
    codec = client_codec(agreed(15, 15), DEFAULTS, Library.in_use).deflater
    assert codec is not None
    assert codec.window_bits == 12


def test_a_client_sends_its_messages_as_they_are_if_it_may_have_no_more_than_8_bits() -> None:
    parameters = check_answer(["permessage-deflate; client_max_window_bits=8"], DEFAULTS)
    assert parameters == agreed(15, 8)
    codec = client_codec(parameters, DEFAULTS, Library.in_use)
    assert codec.deflater is None
    assert inflate(codec.inflater, HELLO) == b"Hello"


def test_another_module_can_stand_in_for_zlib() -> None:
    library = CountingZlib()
    parameters = agreed(12, 12, (True, False))
    client = client_codec(parameters, DEFAULTS, library)
    server = server_codec(parameters, DEFAULTS, library)
    assert library.made == 0
    assert client.deflater is not None
    assert server.deflater is not None
    for _ in range(5):
        assert inflate(server.inflater, deflate(client.deflater, b"Hello")) == b"Hello"
    assert library.made == 2, "with takeover one stream lasts"
    for _ in range(5):
        assert inflate(client.inflater, deflate(server.deflater, b"Hello")) == b"Hello"
    assert library.made == 12, "without takeover each message has its own"
    with pytest.raises(InflateError):
        inflate(server.inflater, b"\x06")
