"""The outbox with bytes alone: what the peer decodes, in which order, however little is taken."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._frames import (
    FIN,
    FRAME_COST,
    OPCODE_BITS,
    CloseReason,
    Opcode,
    apply_mask,
    pack_close,
    pack_header,
    parse_header,
)
from trio_ws._outbox import AHEAD, AHEAD_OF_FRAGMENTS, Outbox
from trio_ws._protocol import Close, Event, Ping, Pong, Protocol, Role

CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
UNLIMITED = 1 << 62
BYE = CloseReason(1000, "bye")
KIB = 1024
COPIED = 20 * KIB
"""A payload of which there is one byte more is not copied behind its header."""

BOTH = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])


class Frame(NamedTuple):
    """A frame as it was on the wire, its payload unmasked."""

    opcode: int
    fin: bool
    payload: bytes
    key: bytes | None


def outbox(masked: bool, max_frame_size: int | None = None) -> Outbox:
    return Outbox(masked=masked, max_frame_size=max_frame_size)


def pattern(size: int) -> bytes:
    """ASCII of which no shifted or repeated part equals another for long."""
    return b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]


def take(box: Outbox, count: int | None = None) -> bytes:
    """What a transport gets that takes *count* bytes of what is ready."""
    data = b"".join(box.buffers())[:count]
    box.written(len(data))
    return data


def drain(box: Outbox, count: int | None = None) -> bytes:
    """What a transport gets that takes *count* bytes at a time."""
    return b"".join(iter(lambda: take(box, count), b""))


def ready(box: Outbox) -> int:
    return sum(map(len, box.buffers()))


def frames(wire: bytes) -> list[Frame]:
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
        found.append(Frame(first & OPCODE_BITS, bool(first & FIN), payload, key))
    return found


def frame_ends(wire: bytes) -> list[int]:
    sizes = [
        len(pack_header(0, len(frame.payload), frame.key)) + len(frame.payload)
        for frame in frames(wire)
    ]
    return list(itertools.accumulate(sizes))


def shapes(wire: bytes) -> list[tuple[int, bool, int]]:
    """Opcode, fin and length of the payload of each frame."""
    return [(frame.opcode, frame.fin, len(frame.payload)) for frame in frames(wire)]


def peer_decodes(wire: bytes, masked: bool) -> list[Event]:
    peer = Protocol(Role.SERVER if masked else Role.CLIENT, None)
    events = peer.decode(wire, UNLIMITED)
    while peer.stalled:
        events += peer.decode(b"", UNLIMITED)
    return events


# Order


@BOTH
def test_data_leaves_in_the_order_of_the_commits(masked: bool) -> None:
    box = outbox(masked)
    messages: list[Event] = [pattern(size) for size in (3, 0, 70 * KIB, COPIED, COPIED + 1, 125)]
    for message in messages:
        assert isinstance(message, bytes)
        box.commit_data(BINARY, message, True)
    assert peer_decodes(drain(box), masked) == messages


@BOTH
def test_control_frames_pass_data_that_is_not_encoded_and_keep_their_own_order(
    masked: bool,
) -> None:
    box = outbox(masked)
    box.commit_data(TEXT, b"data", True)
    box.commit_control(PING, b"1")
    box.commit_control(PONG, b"2")
    box.commit_control(PING, b"3")
    expected: list[Event] = [Ping(b"1"), Pong(b"2"), Ping(b"3"), "data"]
    assert peer_decodes(drain(box), masked) == expected


@BOTH
def test_control_frames_wait_for_the_end_of_the_frame_that_has_been_begun(masked: bool) -> None:
    box = outbox(masked)
    box.commit_data(BINARY, pattern(3 * AHEAD), True)
    wire = take(box, 1)
    box.commit_control(PING, b"")
    box.commit_reply(b"reply")
    assert shapes(wire + drain(box)) == [
        (BINARY, True, 3 * AHEAD),
        (PONG, True, 5),
        (PING, True, 0),
    ]


@BOTH
def test_control_frames_pass_a_large_message_between_its_frames(masked: bool) -> None:
    box = outbox(masked, 20_000)
    box.commit_data(BINARY, pattern(300_000), True)
    wire = take(box, 1)
    box.commit_control(PING, b"now")
    found = shapes(wire + drain(box))
    assert found.index((PING, True, 3)) * 20_000 < AHEAD, "what has been encoded, no more"
    assert [length for opcode, _, length in found if opcode != PING] == [20_000] * 15


@BOTH
def test_a_reply_that_has_not_left_gives_way_to_a_later_one(masked: bool) -> None:
    box = outbox(masked)
    box.commit_control(PING, b"mine")
    for number in range(1000):
        box.commit_reply(b"%d" % number)
    assert not box.is_empty()
    assert peer_decodes(drain(box), masked) == [Pong(b"999"), Ping(b"mine")]
    box.commit_reply(b"")
    assert not box.is_empty()
    assert peer_decodes(drain(box), masked) == [Pong(b"")]
    assert box.is_empty()


@BOTH
def test_a_reply_that_is_being_written_is_not_replaced(masked: bool) -> None:
    box = outbox(masked)
    box.commit_reply(b"first")
    wire = take(box, 1)
    box.commit_reply(b"second")
    assert peer_decodes(wire + drain(box), masked) == [Pong(b"first"), Pong(b"second")]


@BOTH
def test_the_close_comes_after_everything_whenever_it_was_committed(masked: bool) -> None:
    box = outbox(masked, 10)
    box.commit_close(pack_close(*BYE))
    box.commit_data(TEXT, pattern(25), True)
    box.commit_control(PING, b"ping")
    box.commit_reply(b"reply")
    assert peer_decodes(drain(box, 7), masked) == [
        Pong(b"reply"),
        Ping(b"ping"),
        pattern(25).decode(),
        Close(pack_close(*BYE), BYE),
    ]


@BOTH
def test_an_empty_close(masked: bool) -> None:
    box = outbox(masked)
    box.commit_close(b"")
    assert not box.is_empty()
    assert shapes(drain(box)) == [(CLOSE, True, 0)]
    assert box.is_empty()


@BOTH
def test_nothing_to_write(masked: bool) -> None:
    box = outbox(masked)
    assert box.is_empty()
    assert box.buffers() == []
    box.written(0)
    assert box.is_empty()
    assert box.size == box.control_size == 0


# Frames


def fragmentations() -> Iterator[tuple[int, int | None]]:
    """Lengths of a payload, and frame sizes around each and around what divides it."""
    for length in (0, 1, 2, 3, 125, 126, COPIED - 1, COPIED, COPIED + 1, AHEAD - 1, AHEAD + 1):
        yield length, None
        around = {length // parts + offset for parts in (1, 2, 3) for offset in (-1, 0, 1)}
        for frame_size in sorted(around):
            if frame_size > 0:
                yield length, frame_size
    for frame_size in (COPIED, COPIED + 1, AHEAD - 1, AHEAD, AHEAD + 1, 3 * AHEAD):
        yield 3 * AHEAD, frame_size


@BOTH
@pytest.mark.parametrize(("length", "frame_size"), list(fragmentations()))
def test_a_message_is_cut_into_frames_of_max_frame_size_and_a_last_one(
    masked: bool, length: int, frame_size: int | None
) -> None:
    box = outbox(masked, frame_size)
    payload = pattern(length)
    box.commit_data(TEXT, payload, True)
    found = frames(drain(box))
    full, rest = divmod(length, frame_size or UNLIMITED)
    lengths = [frame_size] * full + ([rest] if rest or not length else [])
    assert [len(frame.payload) for frame in found] == lengths
    assert [frame.opcode for frame in found] == [TEXT] + [CONTINUATION] * (len(lengths) - 1)
    assert [frame.fin for frame in found] == [False] * (len(lengths) - 1) + [True]
    assert b"".join(frame.payload for frame in found) == payload
    assert all((frame.key is not None) is masked for frame in found)


@BOTH
def test_max_frame_size_may_change_and_counts_from_the_next_frame_on(masked: bool) -> None:
    box = outbox(masked, 2 * AHEAD)
    box.commit_data(BINARY, pattern(5 * AHEAD), True)
    wire = take(box, AHEAD)
    box.max_frame_size = AHEAD
    wire += take(box, AHEAD + 100)
    wire += drain(box, AHEAD)
    assert [length // AHEAD for _, _, length in shapes(wire)] == [2, 1, 1, 1]
    box.max_frame_size = None
    box.commit_data(BINARY, pattern(5 * AHEAD), True)
    assert shapes(drain(box)) == [(BINARY, True, 5 * AHEAD)]


@BOTH
def test_max_frame_size_may_be_lifted_in_the_middle_of_a_small_message(masked: bool) -> None:
    box = outbox(masked, max_frame_size=1000)
    messages: list[Event] = [pattern(AHEAD_OF_FRAGMENTS - 17_236), pattern(3000), b"next"]
    for message in messages:
        assert isinstance(message, bytes)
        box.commit_data(BINARY, message, True)
    wire = take(box)
    assert shapes(wire)[-1] == (BINARY, False, 1000)
    box.max_frame_size = None
    rest = drain(box)
    assert shapes(rest) == [(CONTINUATION, True, 2000), (BINARY, True, 4)]
    assert peer_decodes(wire + rest, masked) == messages


@BOTH
@pytest.mark.parametrize("size", [0, 1, 5, COPIED + 1, AHEAD + 5])
def test_each_part_of_a_message_is_a_frame_of_its_own(masked: bool, size: int) -> None:
    box = outbox(masked)
    part = pattern(size)
    box.commit_data(TEXT, part, False)
    wire = drain(box)
    box.commit_control(PING, b"")
    box.commit_data(CONTINUATION, part, False)
    box.commit_data(CONTINUATION, b"", False)
    box.commit_data(CONTINUATION, part, True)
    wire += drain(box)
    assert shapes(wire) == [
        (TEXT, False, size),
        (PING, True, 0),
        (CONTINUATION, False, size),
        (CONTINUATION, False, 0),
        (CONTINUATION, True, size),
    ]
    assert peer_decodes(wire, masked) == [Ping(b""), 3 * part.decode()]


@BOTH
def test_a_part_above_max_frame_size_takes_several_frames_and_ends_as_it_says(masked: bool) -> None:
    box = outbox(masked, 4)
    box.commit_data(BINARY, b"123456", False)
    box.commit_data(CONTINUATION, b"789012", True)
    assert [(frame.opcode, frame.fin, frame.payload) for frame in frames(drain(box))] == [
        (BINARY, False, b"1234"),
        (CONTINUATION, False, b"56"),
        (CONTINUATION, False, b"7890"),
        (CONTINUATION, True, b"12"),
    ]


def test_a_frame_made_before_leaves_as_it_is_in_its_turn() -> None:
    box = outbox(masked=False, max_frame_size=4)
    payload = pattern(10)
    shared = pack_header(TEXT | FIN, len(payload), None) + payload
    box.commit_data(BINARY, b"before", True)
    box.commit_frame(shared)
    box.commit_control(PING, b"")
    box.commit_data(BINARY, b"after", True)
    assert box.size == 3 * FRAME_COST + 6 + len(shared) + 5
    assert any(buffer is shared for buffer in box.buffers()), "it is not copied"
    wire = drain(box, 5)
    assert (TEXT, True, 10) in shapes(wire)
    expected: list[Event] = [Ping(b""), b"before", payload.decode(), b"after"]
    assert peer_decodes(wire, masked=False) == expected
    assert box.size == 0


def test_what_is_not_alone_is_not_committed_alone() -> None:
    box = outbox(masked=False)
    box.commit_data(TEXT, b"before", True)
    mark = box.mark()
    assert box.commit_alone(TEXT, b"after") is None
    assert len(box.buffers()) == 1, "encoded, and not written"
    assert box.commit_alone(TEXT, b"after") is None
    assert box.mark() == mark
    assert peer_decodes(drain(box), masked=False) == ["before"]
    assert box.commit_alone(TEXT, b"after") == pack_header(TEXT | FIN, 5, None) + b"after"


def test_a_frame_made_before_does_not_join_those_that_are_being_written() -> None:
    box = outbox(masked=False)
    box.commit_frame(b"\x82\1a")
    under_way = box.buffers()
    box.commit_frame(b"\x82\1b")
    assert under_way == [b"\x82\1a"]
    box.drop_unsent()
    box.written(3)
    assert box.is_empty()


# Masking


def test_every_frame_has_a_key_of_its_own() -> None:
    box = outbox(masked=True, max_frame_size=COPIED + 1)
    for _ in range(8):
        box.commit_data(BINARY, b"", True)
        box.commit_data(BINARY, pattern(4 * COPIED), True)
        box.commit_control(PING, b"")
    box.commit_reply(b"")
    box.commit_close(b"")
    keys = [frame.key for frame in frames(drain(box))]
    assert len(keys) == 8 * (1 + 4 + 1) + 2
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("size", [COPIED, COPIED + 1, AHEAD - 1, AHEAD, 3 * AHEAD + 3])
@pytest.mark.parametrize("step", [1021, 50_003, AHEAD, None])
def test_a_message_masked_in_pieces_is_the_message_masked_at_once(
    size: int, step: int | None
) -> None:
    box = outbox(masked=True)
    payload = pattern(size)
    box.commit_data(BINARY, payload, True)
    wire = drain(box, step)
    header = parse_header(wire, 0, len(wire))
    assert header is not None
    _, key, _, _, start = header
    assert key is not None
    assert wire[start:] == apply_mask(payload, key)


# What is held, and what is copied


def test_a_large_payload_without_a_mask_is_not_copied() -> None:
    box = outbox(masked=False, max_frame_size=AHEAD)
    payload = pattern(5 * AHEAD // 2)
    box.commit_data(BINARY, payload, True)
    wire = b""
    written = 0
    while buffers := box.buffers():
        views = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
        assert views
        assert all(view.obj is payload for view in views)
        assert sum(len(buffer) for buffer in buffers if isinstance(buffer, bytes)) < 100
        data = b"".join(buffers)[:50_000]
        wire += data
        written += len(data)
        box.written(len(data))
    assert peer_decodes(wire, masked=False) == [payload]


@pytest.mark.parametrize(
    ("max_frame_size", "ahead"),
    [(None, AHEAD), (AHEAD_OF_FRAGMENTS // 2 + 1, AHEAD_OF_FRAGMENTS)],
)
@pytest.mark.parametrize("step", [1, 1000, AHEAD_OF_FRAGMENTS, AHEAD - 1, AHEAD])
def test_no_more_is_masked_ahead_than_that(
    max_frame_size: int | None, ahead: int, step: int
) -> None:
    box = outbox(masked=True, max_frame_size=max_frame_size)
    box.commit_data(BINARY, bytes(200 * AHEAD), True)
    for _ in range(150):
        buffers = box.buffers()
        length = sum(map(len, buffers))
        assert 3 * ahead // 4 <= length <= ahead
        assert len(buffers) <= 16, "pieces are not tiny, even if the transport takes tiny ones"
        box.written(min(step, length))


@BOTH
def test_a_message_in_the_outbox_takes_no_second_place_in_memory(masked: bool) -> None:
    payload = bytes(32 * 1024 * KIB)
    box = outbox(masked)
    tracemalloc.start()
    try:
        box.commit_data(BINARY, payload, True)
        box.buffers()
        box.written(100)
        box.buffers()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * AHEAD


# Sizes and marks


@BOTH
def test_sizes_count_what_is_committed_and_not_written(masked: bool) -> None:
    box = outbox(masked)
    box.commit_data(BINARY, bytes(1000), True)
    box.commit_data(BINARY, b"", True)
    assert (box.size, box.control_size) == (1000 + 2 * FRAME_COST, 0)
    box.commit_control(PING, bytes(10))
    box.commit_control(PONG, b"")
    assert (box.size, box.control_size) == (1000 + 2 * FRAME_COST, 10 + 2 * FRAME_COST)
    assert not box.is_empty()
    drain(box)
    assert (box.size, box.control_size) == (0, 0)
    assert box.is_empty()


@BOTH
def test_a_message_counts_until_its_last_byte_is_written(masked: bool) -> None:
    box = outbox(masked, max_frame_size=3)
    box.commit_data(BINARY, b"12345", True)
    box.commit_data(BINARY, b"", True)
    left = ready(box)
    last = 2 + 4 * masked
    while left:
        assert box.size == left + FRAME_COST * (1 + (left > last))
        take(box, 1)
        left -= 1
    assert box.size == 0


@BOTH
@pytest.mark.parametrize("step", [1, 3, 7])
def test_small_messages_count_one_by_one_though_they_leave_in_one_buffer(
    masked: bool, step: int
) -> None:
    box = outbox(masked)
    marks = []
    for payload in (b"1", b"", b"12345", b"12"):
        box.commit_data(BINARY, payload, True)
        marks.append(box.mark())
    (buffer,) = box.buffers()
    ends = frame_ends(bytes(buffer))
    written = 0
    while written < len(buffer):
        written += len(take(box, step))
        assert [box.is_written(mark) for mark in marks] == [end <= written for end in ends]
        messages = sum(end > written for end in ends)
        assert box.size == len(buffer) - written + FRAME_COST * messages


def test_small_messages_of_which_none_is_written_are_bounded_by_size() -> None:
    box = outbox(masked=True)
    count = 0
    while box.size < AHEAD:
        box.commit_data(BINARY, b"", True)
        take(box, 0)
        count += 1
    assert count < AHEAD / FRAME_COST


@BOTH
def test_a_mark_is_written_with_the_last_byte_before_it(masked: bool) -> None:
    box = outbox(masked, max_frame_size=3)
    nothing = box.mark()
    assert box.is_written(nothing)
    box.commit_data(BINARY, b"12345", True)
    box.commit_control(PING, b"ping")
    mark = box.mark()
    length = ready(box)
    box.commit_data(BINARY, b"later", True)
    box.commit_control(PING, b"later")
    later = box.mark()
    for _ in range(length):
        assert not box.is_written(mark)
        take(box, 1)
    assert box.is_written(mark)
    while not box.is_empty():
        assert not box.is_written(later)
        take(box, 1)
    assert box.is_written(later)
    assert box.is_written(nothing)


@BOTH
def test_a_mark_needs_the_control_frames_and_the_data_before_it(masked: bool) -> None:
    box = outbox(masked)
    box.commit_data(BINARY, b"data", True)
    data = box.mark()
    length = ready(box)
    box.commit_control(PING, b"ping")
    both = box.mark()
    take(box, length)
    assert box.is_written(data)
    assert not box.is_written(both)
    drain(box)
    assert box.is_written(both)
    box.commit_control(PING, b"passes the data")
    control = box.mark()
    box.commit_data(BINARY, b"data", True)
    behind = box.mark()
    take(box, 2 + 4 * masked + 15)
    assert box.is_written(control)
    assert not box.is_written(behind)


@BOTH
def test_a_mark_counts_the_control_frames_one_by_one(masked: bool) -> None:
    box = outbox(masked)
    marks = []
    for _ in range(3):
        box.commit_control(PING, b"")
        marks.append(box.mark())
    for count in range(1, 4):
        take(box, 2 + 4 * masked)
        assert [box.is_written(mark) for mark in marks] == [True] * count + [False] * (3 - count)


@BOTH
def test_a_mark_after_the_close_needs_the_close_and_one_before_does_not(masked: bool) -> None:
    box = outbox(masked)
    before = box.mark()
    box.commit_close(b"")
    after = box.mark()
    take(box, 1)
    assert box.is_written(before)
    assert not box.is_written(after)
    drain(box)
    assert box.is_written(before)
    assert box.is_written(after)


# Dropping what is unsent


def mixed(masked: bool, max_frame_size: int | None, *, closing: bool) -> Outbox:
    """Frames of all kinds, copied ones and others, whole messages and parts: less than 64 KiB."""
    box = outbox(masked, max_frame_size)
    box.commit_data(TEXT, b"small", True)
    box.commit_data(TEXT, b"small, too", True)
    box.commit_data(TEXT, b"", True)
    box.commit_data(BINARY, pattern(COPIED + 30), True)
    box.commit_data(TEXT, b"", False)
    box.commit_data(CONTINUATION, pattern(50), False)
    box.commit_control(PING, b"ping")
    box.commit_reply(pattern(125))
    if closing:
        box.commit_close(b"")
    return box


def large(masked: bool, max_frame_size: int | None) -> Outbox:
    box = outbox(masked, max_frame_size)
    box.commit_data(BINARY, pattern(5 * AHEAD // 2), True)
    return box


def contents(wire: bytes) -> list[tuple[int, bool, bytes]]:
    return [frame[:3] for frame in frames(wire)]


class Begun:
    """The frames of *whole* that begin before a position."""

    def __init__(self, whole: bytes) -> None:
        self._ends = frame_ends(whole)
        self._contents = contents(whole)

    def before(self, position: int) -> list[tuple[int, bool, bytes]]:
        count = sum(end < position for end in self._ends) + (position > 0)
        return self._contents[:count]


@BOTH
@pytest.mark.parametrize("max_frame_size", [None, COPIED + 10])
@pytest.mark.parametrize("closing", [False, True])
def test_dropping_at_any_byte_ends_the_frame_and_leaves_nothing_but_the_close(
    masked: bool, max_frame_size: int | None, closing: bool
) -> None:
    whole = drain(mixed(masked, max_frame_size, closing=closing))
    begun = Begun(whole)
    close = (CLOSE, True, b"")
    # Within the payload of the large frame one byte is as another.
    around = [end + offset for end in frame_ends(whole) for offset in range(-70, 70)]
    for position in sorted({0, *range(0, len(whole), 997), *around} & set(range(len(whole) + 1))):
        box = mixed(masked, max_frame_size, closing=closing)
        wire = take(box, position)
        box.drop_unsent()
        if not closing:
            box.commit_close(b"")
        expected = begun.before(position)
        if close not in expected:
            expected.append(close)
        wire += drain(box)
        assert contents(wire) == expected
        assert box.is_empty()
        assert (box.size, box.control_size) == (0, 0)


@BOTH
@pytest.mark.parametrize("max_frame_size", [None, AHEAD, 3 * AHEAD // 2])
def test_dropping_in_a_large_message_ends_its_frame(
    masked: bool, max_frame_size: int | None
) -> None:
    whole = drain(large(masked, max_frame_size))
    begun = Begun(whole)
    step = AHEAD if max_frame_size is None else 3 * AHEAD_OF_FRAGMENTS // 4
    around = [*frame_ends(whole), *range(0, len(whole), step)]
    positions = {place + offset for place in around for offset in range(-16, 17)}
    for position in positions & set(range(1, len(whole) + 1)):
        box = large(masked, max_frame_size)
        wire = b"".join(take(box, step) for _ in range(position // step))
        wire += take(box, position % step)
        box.commit_data(BINARY, b"not sent", True)
        box.commit_control(PING, b"not sent")
        box.drop_unsent()
        box.commit_close(b"")
        wire += drain(box, AHEAD)
        assert contents(wire) == [*begun.before(position), (CLOSE, True, b"")]
        assert (box.size, box.control_size) == (0, 0)


@BOTH
def test_dropping_before_a_byte_was_written_leaves_the_close_alone(masked: bool) -> None:
    box = mixed(masked, COPIED + 10, closing=True)
    box.drop_unsent()
    assert shapes(drain(box)) == [(CLOSE, True, 0)]
    box.drop_unsent()
    assert box.is_empty()


@BOTH
def test_what_is_being_written_is_not_dropped(masked: bool) -> None:
    for payload in (pattern(100), pattern(3 * AHEAD)):
        for fraction in (0, 3, 4):
            box = outbox(masked)
            box.commit_data(BINARY, payload, True)
            box.commit_data(BINARY, b"", True)
            under_way = b"".join(box.buffers())
            box.drop_unsent()
            box.commit_close(b"")
            written = under_way[: len(under_way) * fraction // 4]
            box.written(len(written))
            found = shapes(written + drain(box))
            assert found[0] == (BINARY, True, len(payload))
            assert found[-1] == (CLOSE, True, 0)
            assert box.size == 0


@BOTH
def test_what_was_reported_as_written_is_no_longer_being_written(masked: bool) -> None:
    box = outbox(masked)
    box.commit_data(BINARY, b"dropped", True)
    take(box, 0)
    box.drop_unsent()
    assert box.is_empty()
    assert box.size == 0


@BOTH
@pytest.mark.parametrize("max_frame_size", [None, AHEAD, 2 * AHEAD, 3 * AHEAD])
def test_what_was_dropped_is_never_written(masked: bool, max_frame_size: int | None) -> None:
    box = outbox(masked, max_frame_size)
    box.commit_data(BINARY, b"before", True)
    box.commit_control(PING, b"before")
    before = box.mark()
    drain(box)
    box.commit_data(BINARY, pattern(3 * AHEAD), True)
    in_progress = box.mark()
    take(box, 5)
    box.commit_data(BINARY, b"", True)
    data_dropped = box.mark()
    box.commit_control(PING, b"")
    control_dropped = box.mark()
    box.drop_unsent()
    box.drop_unsent()
    box.commit_close(b"")
    drain(box)
    assert box.is_written(before)
    whole = max_frame_size is None or max_frame_size == 3 * AHEAD
    assert box.is_written(in_progress) is whole
    assert not box.is_written(data_dropped)
    assert not box.is_written(control_dropped)


@BOTH
def test_dropping_copies_nothing(masked: bool) -> None:
    box = outbox(masked, max_frame_size=16 * 1024 * KIB)
    box.commit_data(BINARY, bytes(20 * 1024 * KIB), True)
    take(box, 5)
    tracemalloc.start()
    try:
        box.drop_unsent()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * KIB


# Written little by little

COMMITS = st.lists(
    st.one_of(
        st.tuples(st.just(BINARY), st.sampled_from([0, 1, 125, 126, COPIED, COPIED + 1])),
        st.tuples(st.just(BINARY), st.integers(0, 3 * AHEAD)),
        st.tuples(st.sampled_from([PING, PONG]), st.integers(0, 125)),
    ),
    max_size=8,
)
COUNTS = st.lists(st.integers(0, 300_000) | st.integers(0, 20), min_size=1)


@BOTH
@given(
    max_frame_size=st.none() | st.integers(1000, 3 * AHEAD),
    commits=COMMITS,
    counts=COUNTS,
)
def test_whatever_a_transport_takes_at_a_time_the_peer_decodes_what_was_committed(
    masked: bool, max_frame_size: int | None, commits: list[tuple[Opcode, int]], counts: list[int]
) -> None:
    box = outbox(masked, max_frame_size)
    for opcode, size in commits:
        if opcode is BINARY:
            box.commit_data(BINARY, pattern(size), True)
        else:
            box.commit_control(opcode, pattern(size))
    box.commit_close(pack_close(*BYE))
    wire = b""
    for count in itertools.chain(counts, itertools.repeat(200_000)):
        if box.is_empty():
            break
        size, control_size = box.size, box.control_size
        wire += take(box, count)
        assert box.size + box.control_size <= size + control_size + AHEAD
    events = peer_decodes(wire, masked)
    controls = [Ping(pattern(size)) for opcode, size in commits if opcode is PING]
    assert [event for event in events if isinstance(event, Ping)] == controls
    data = [pattern(size) for opcode, size in commits if opcode is BINARY]
    assert [event for event in events if isinstance(event, bytes)] == data
    assert len(events) == len(commits) + 1
    assert events[-1] == Close(pack_close(*BYE), BYE)
    assert (box.size, box.control_size) == (0, 0)
