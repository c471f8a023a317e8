"""The outbox against a model: any commits, any counts written, dropping at any time.

The model keeps what was committed and compares it with what the outbox hands out. So it knows after
each step what the next bytes must be, what must be counted and what must be written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from trio_ws._frames import (
    FIN,
    FRAME_COST,
    OPCODE_BITS,
    Opcode,
    apply_mask,
    pack_header,
    parse_header,
)
from trio_ws._outbox import AHEAD, Mark, Outbox

COPIED = 20 * 1024
SIZES = (
    st.sampled_from([0, 1, 125, 126, COPIED, COPIED + 1, AHEAD - 4, AHEAD])
    | st.integers(0, 300)
    | st.integers(0, 3 * AHEAD)
)
FRAME_SIZES = st.none() | st.sampled_from([COPIED, COPIED + 1, AHEAD]) | st.integers(500, 3 * AHEAD)
COUNTS = st.sampled_from([0, 1, 2, 6, 14, AHEAD]) | st.integers(0, 300) | st.integers(0, 4 * AHEAD)
OCTETS = (bytes(range(251)) * (3 * AHEAD // 251 + 1))[: 3 * AHEAD]


class Data(NamedTuple):
    """A message, or a part of one."""

    opcode: Opcode
    payload: bytes
    fin: bool
    frame: bytes | None = None


class Control(NamedTuple):
    opcode: Opcode
    payload: bytes
    not_behind: int
    """A data frame that begins here or later must come later than this."""


class Place(NamedTuple):
    mark: Mark
    data: int
    controls: int
    close: bool


class Frame(NamedTuple):
    opcode: int
    fin: bool
    masked: bool
    payload: bytes
    """As much of it as is there."""
    length: int
    start: int
    end: int


def parse(stream: bytes) -> list[Frame]:
    """The frames in *stream*, of which the last one may lack the end of its payload."""
    found = []
    position = 0
    while position < len(stream):
        header = parse_header(stream, position, len(stream))
        assert header is not None, "a header is handed out whole"
        first, key, length, _, size = header
        start = position + size
        end = start + length
        payload = stream[start:end]
        if key is not None:
            payload = apply_mask(payload, key)
        opcode, fin = first & OPCODE_BITS, bool(first & FIN)
        frame = Frame(opcode, fin, key is not None, payload, length, position, end)
        found.append(frame)
        position = end
    return found


@dataclass
class Walk:
    """What is in the stream that the outbox has handed out."""

    encoded: int = 0
    """Of the bytes of data that were committed, how many are in it."""
    data_ends: list[int] = field(default_factory=list)
    control_ends: list[int] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    close_end: int | None = None
    offset: int = 0
    """Within the first item that has not ended."""


def may_commit(model: OutboxModel) -> bool:
    """Nothing is committed after the Close; after dropping, nothing but the Close."""
    return model.drop_end is None and not model.close_committed


class OutboxModel(RuleBasedStateMachine):
    @initialize(masked=st.booleans(), max_frame_size=FRAME_SIZES)
    def start(self, masked: bool, max_frame_size: int | None) -> None:
        self.masked = masked
        self.box = Outbox(masked=masked, max_frame_size=max_frame_size)
        self.data: list[Data] = []
        self.controls: list[Control] = []
        self.replies: list[bytes] = []
        self.close_committed = False
        self.mid_message = False
        self.places: list[Place] = []
        self.wire = b""
        self.rest = b""
        """What is encoded and not written."""
        self.under_way = False
        """Whether somebody is writing it."""
        self.drop_end: int | None = None
        """Where the stream had to end but for the Close, when it was dropped."""

    # Committing

    def commit(self, data: Data) -> None:
        size, control_size = self.box.size, self.box.control_size
        self.data.append(data)
        if data.frame is None:
            self.box.commit_data(data.opcode, data.payload, data.fin)
        else:
            self.box.commit_frame(data.frame)
        assert self.box.size == size + FRAME_COST + len(data.frame or data.payload)
        assert self.box.control_size == control_size
        assert not self.box.is_empty()

    @precondition(lambda self: may_commit(self) and not self.mid_message)
    @rule(size=SIZES, opcode=st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
    def message(self, size: int, opcode: Opcode) -> None:
        self.commit(Data(opcode, OCTETS[:size], True))

    @precondition(lambda self: may_commit(self) and not self.mid_message and not self.masked)
    @rule(size=SIZES)
    def message_made_a_frame_before(self, size: int) -> None:
        payload = OCTETS[:size]
        frame = pack_header(Opcode.TEXT | FIN, size, None) + payload
        self.commit(Data(Opcode.TEXT, payload, True, frame))

    @precondition(may_commit)
    @rule(size=SIZES, fin=st.booleans())
    def part(self, size: int, fin: bool) -> None:
        opcode = Opcode.CONTINUATION if self.mid_message else Opcode.BINARY
        self.commit(Data(opcode, OCTETS[:size], fin))
        self.mid_message = not fin

    @precondition(may_commit)
    @rule(size=st.integers(0, 125), opcode=st.sampled_from([Opcode.PING, Opcode.PONG]))
    def control(self, size: int, opcode: Opcode) -> None:
        self.hand_out()
        before = self.box.size, self.box.control_size
        payload = b"c" * size
        self.controls.append(Control(opcode, payload, len(self.wire) + len(self.rest)))
        self.box.commit_control(opcode, payload)
        assert (self.box.size, self.box.control_size - FRAME_COST - size) == before
        assert not self.box.is_empty()

    @precondition(may_commit)
    @rule()
    def reply(self) -> None:
        payload = b"reply %d" % len(self.replies)
        self.replies.append(payload)
        self.box.commit_reply(payload)
        assert not self.box.is_empty()

    @precondition(lambda self: not self.close_committed)
    @rule()
    def close(self) -> None:
        self.close_committed = True
        self.box.commit_close(b"")
        assert not self.box.is_empty()

    @rule(size=FRAME_SIZES)
    def change_max_frame_size(self, size: int | None) -> None:
        self.box.max_frame_size = size

    @precondition(lambda self: self.drop_end is None)
    @rule()
    def mark(self) -> None:
        mark = self.box.mark()
        self.places.append(Place(mark, len(self.data), len(self.controls), self.close_committed))

    # Writing and dropping

    @rule()
    def hand_out(self) -> None:
        empty = self.box.is_empty()
        self.rest = b"".join(self.box.buffers())
        self.under_way = bool(self.rest)
        assert empty is not self.under_way
        self.check()

    @rule(count=COUNTS)
    def take(self, count: int) -> None:
        if not self.under_way:
            self.hand_out()
        written = self.rest[:count]
        self.box.written(len(written))
        self.wire += written
        self.rest = self.rest[count:]
        self.under_way = False
        self.check()

    @precondition(lambda self: self.drop_end is None)
    @rule()
    def drop(self) -> None:
        """The frame with the last byte that was sent stays, and the Close."""
        stream = self.wire + self.rest
        sent = len(stream) if self.under_way else len(self.wire)
        self.drop_end = max((frame.end for frame in parse(stream) if frame.start < sent), default=0)
        close = parse(stream)[-1:]
        self.rest = stream[len(self.wire) : self.drop_end]
        if close and close[0].opcode == Opcode.CLOSE and close[0].start >= self.drop_end:
            self.rest += stream[close[0].start :]
        self.box.drop_unsent()
        self.check()

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        while not self.box.is_empty():
            self.take(AHEAD)
        assert (self.box.size, self.box.control_size) == (0, 0)
        walk = self.walk()
        assert (walk.close_end is not None) is self.close_committed
        if self.drop_end is None:
            assert len(walk.data_ends) == len(self.data)
            assert len(walk.control_ends) == len(self.controls)
            assert walk.replies[-1:] == self.replies[-1:]
        else:
            assert len(self.wire) <= self.drop_end + (6 if self.masked else 2)

    # What must be true

    def check(self) -> None:
        walk = self.walk()
        size = len(self.wire) + len(self.rest)
        written = sum(end <= len(self.wire) for end in walk.data_ends)
        if self.drop_end is None:
            pending = sum(len(data.frame or data.payload) for data in self.data) - walk.encoded
            counted = len(self.data)
            controls = self.controls[len(walk.control_ends) :]
        else:
            pending = max(0, self.drop_end - size)
            counted = len(walk.data_ends)
            controls = []
        assert self.box.size == pending + len(self.rest) + FRAME_COST * (counted - written)
        assert self.box.control_size == sum(FRAME_COST + len(each.payload) for each in controls)
        for place in self.places:
            ends = walk.data_ends[: place.data] + walk.control_ends[: place.controls]
            if place.close:
                ends += [walk.close_end or size + 1]
            whole = len(ends) == place.data + place.controls + place.close
            is_written = whole and all(end <= len(self.wire) for end in ends)
            assert self.box.is_written(place.mark) is is_written

    def walk(self) -> Walk:
        """Compare the stream with what was committed."""
        walk = Walk()
        for frame in parse(self.wire + self.rest):
            assert frame.masked is self.masked
            assert walk.close_end is None, "nothing follows the Close"
            if frame.opcode == Opcode.CLOSE:
                assert self.close_committed
                walk.close_end = frame.end
                continue
            assert self.drop_end is None or frame.start < self.drop_end
            if frame.payload.startswith(b"reply"):
                self.walk_reply(walk, frame)
            elif frame.opcode in (Opcode.PING, Opcode.PONG):
                control = self.controls[len(walk.control_ends)]
                assert (frame.opcode, frame.payload) == (control.opcode, control.payload)
                walk.control_ends.append(frame.end)
            else:
                self.walk_data(walk, frame)
        return walk

    def walk_reply(self, walk: Walk, frame: Frame) -> None:
        assert frame.opcode == Opcode.PONG
        assert frame.payload in self.replies
        assert walk.replies[-1:] < [frame.payload] or len(frame.payload) > len(walk.replies[-1])
        walk.replies.append(frame.payload)

    def walk_data(self, walk: Walk, frame: Frame) -> None:
        data = self.data[len(walk.data_ends)]
        waiting = self.controls[len(walk.control_ends) :]
        assert all(frame.start < control.not_behind for control in waiting)
        offset, end = walk.offset, walk.offset + frame.length
        is_last = end == len(data.payload)
        assert frame.opcode == (data.opcode if offset == 0 else Opcode.CONTINUATION)
        assert frame.fin is (data.fin and is_last)
        assert frame.payload == data.payload[offset : offset + len(frame.payload)]
        walk.encoded += len(frame.payload) if data.frame is None else len(data.frame)
        walk.offset = end
        if is_last:
            walk.data_ends.append(frame.end)
            walk.offset = 0


TestOutboxModel = OutboxModel.TestCase
TestOutboxModel.settings = settings(max_examples=200, stateful_step_count=30)
