"""What has been committed and not yet written: its order, its frames, and one pending pong.

Theory of operation
-------------------

What is committed is a message, not its bytes. :meth:`Outbox.buffers` turns messages into frames,
but never more than 288 KiB ahead of what the transport has taken, or 64 KiB where the application
has messages cut into frames, so that control frames can pass: a message of any size is masked
piece by piece, and never held twice. A message that is to be compressed is deflated piece by piece
too; and at each call only so much, since what comes of it says nothing of the time that it takes.
What has come of it goes into frames of its own, so that control frames pass there as well.

At every boundary between two frames the next frame is, in this order, the pending pong, the other
control frames first come first served, the next piece of data, and the Close. So control frames
pass data, and a Close follows everything. Only when the connection is failed is what is unsent
dropped, except for the rest of a frame that the peer has the beginning of.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from ._deflate import PIECE, Deflater, SharedDeflate
from ._frames import (
    FIN,
    FRAME_COST,
    RSV1,
    Buffer,
    MaskingKeys,
    Opcode,
    apply_mask,
    pack_frame,
    pack_header,
    pack_messages,
)

AHEAD: Final = 288 * 1024
"""Bytes that are encoded before the transport has taken those before them: as many as one read
brings, and some that the last message may lack, so that one write can answer it: of messages of 16
KiB each takes 4 % less."""

AHEAD_OF_FRAGMENTS: Final = 64 * 1024
"""The same, where messages are cut into frames: pings and pongs are to pass."""

_DEFLATE_STEP: Final = 64 * 1024
"""Bytes that are deflated for one call of :meth:`Outbox.buffers`, unless they take too long: half a
millisecond as a rule, but the worst ones ten times that."""

_FRAGMENT_COST: Final = 64
"""What a small frame that is packed by itself counts as much as, in bytes that are deflated."""

_MAX_FRAGMENTS: Final = 512
"""Frames that a piece is deflated for: in frames of a few bytes 16 KiB would take 20 ms."""

_EMPTY: Final[deque[Any]] = deque(maxlen=0)
"""Stands for every queue that is empty: a deque takes 760 bytes, and most connections are idle."""

_UNMASKED_PIECE: Final = 1024 * 1024
"""Bytes of a large frame without a mask that one system call is given: no step is longer."""

_REFILL = 16 * 1024
"""Bytes that must have been taken before more is encoded, so that pieces do not become tiny."""

_COPY_BELOW = 20 * 1024
"""Payloads up to here are copied behind their header: 2 us cheaper than a buffer of their own."""

_MAX_RUN = 1024
"""Messages that are masked in one step, so that keys are not drawn for all that wait."""


class _Boundary(enum.IntEnum):
    """What ends with an encoded piece."""

    NONE = 0
    FRAME = 1
    DATA = 2
    """A frame, and with it a data item."""
    CONTROL = 3
    """A frame, and with it a control item."""
    CLOSE = 4
    """The Close frame, the last of all."""


# A message, or a part of one: its opcode, or None if the payload is a whole frame already; its
# payload; whether it ends with it; whether it is deflated, or by whom if that is done for many
# streams at once; whether the end of it was dropped, so that it never counts as written. No class:
# to make one of them takes twice the time.
_Data: TypeAlias = tuple[Opcode | None, Buffer, bool, bool | SharedDeflate, bool]


def _never() -> bool:
    return False


class Mark(NamedTuple):
    """A place in the order of commits: see :meth:`Outbox.mark`."""

    data: int
    control: int
    close: bool


class Outbox:
    """Everything that one stream has still to write.

    :param masked: whether frames are masked: a client's are.
    :param max_frame_size: bytes of payload after which a message goes on in a further frame, or
        None. It may be changed.
    :param deflater: for compressed messages; None if they were not agreed on.
    """

    __slots__ = (
        "_close",
        "_close_committed",
        "_close_written",
        "_committed_control",
        "_committed_data",
        "_committed_parts",
        "_controls",
        "_data",
        "_deflater",
        "_encoded",
        "_encoded_end",
        "_ends",
        "_frame_key",
        "_frame_left",
        "_frame_offset",
        "_handed_out",
        "_is_behind",
        "_keys",
        "_mid_frame",
        "_offset",
        "_other_ends",
        "_pong",
        "_position",
        "_written_control",
        "_written_data",
        "compresses",
        "control_size",
        "deflated",
        "max_frame_size",
        "size",
    )

    def __init__(
        self, *, masked: bool, max_frame_size: int | None, deflater: Deflater | None = None
    ) -> None:
        self.max_frame_size = max_frame_size
        self._deflater = deflater
        self.compresses = deflater is not None
        """Whether messages can be compressed."""
        self.deflated = 0
        """Bytes that have been deflated since the beginning, and :data:`FRAME_COST` each time; and
        what else takes long, in as many."""
        self._keys = MaskingKeys() if masked else None
        self._data: deque[_Data] = _EMPTY
        self._controls: deque[tuple[Opcode, bytes]] = _EMPTY
        self.control_size = 0
        """Bytes of control frames that are not encoded, and :data:`FRAME_COST` for each."""
        self._pong: bytes | None = None
        self._close: bytes | None = None
        self._close_committed = False
        self._close_written = False
        # Of the first message in _data, _offset bytes have been encoded. Of the frame that is being
        # cut from it, _frame_offset bytes have been and _frame_left are missing.
        self._offset = 0
        self._frame_offset = 0
        self._frame_left = 0
        self._frame_key: bytes | None = None
        # Of all the bytes that have been here, those from _position to _encoded_end are encoded and
        # not written. _ends is where frames end among them, each with a data item, but for those in
        # _other_ends.
        self._encoded: list[Buffer] = []
        self._position = 0
        self._encoded_end = 0
        self._ends: list[int] = []
        self._other_ends: dict[int, _Boundary] = {}
        self._mid_frame = False
        # Whether somebody is writing what buffers() has returned: those bytes count as sent.
        self._handed_out = False
        # Whether anything that was committed has not been encoded: that is asked at every step.
        self._is_behind = False
        self.size = 0
        """Bytes that are committed and not written, and :data:`FRAME_COST` for each message."""
        self._committed_data = 0
        self._committed_parts = 0
        self._committed_control = 0
        self._written_data = 0
        self._written_control = 0

    # Committing

    @property
    def messages(self) -> int:
        """Messages committed whole since the beginning."""
        return self._committed_data - self._committed_parts

    def is_empty(self) -> bool:
        """Whether everything has been written."""
        return not (self._encoded or self._is_behind)

    def _is_anything_unencoded(self) -> bool:
        is_control = self._controls or self._pong is not None or self._close is not None
        return bool(self._data or is_control)

    def commit_data(
        self,
        opcode: Opcode,
        payload: bytes,
        fin: bool,
        compress: bool | SharedDeflate = False,
    ) -> None:
        """A message, or a part of one, after everything committed before.

        :param compress: whether to deflate it, all parts of a message or none; or the message, if
            it is deflated for many streams at once.
        """
        if not self._data:
            self._data = deque()
        self._data.append((opcode, payload, fin, compress, False))
        self._is_behind = True
        self.size += FRAME_COST + len(payload)
        self._committed_data += 1
        if not fin:
            self._committed_parts += 1

    def commit_frame(self, frame: bytes) -> None:
        """A whole message that has been made a frame before: many streams can share one."""
        size, end = len(frame), self._encoded_end
        self._committed_data += 1
        self.size += FRAME_COST + size
        if self._is_behind or self._handed_out or self._encode_room() < 0:
            self._data = self._data or deque()
            self._data.append((None, frame, True, False, False))
            self._is_behind = True
            return
        # As a rule: there is nothing to do but to write it.
        self._encoded.append(frame)
        self._encoded_end = end + size
        self._ends.append(end + size)

    def commit_alone(self, opcode: Opcode, payload: bytes) -> bytes | None:
        """Commit a small message that is all there is to write, and return its frame.

        None, and nothing has happened, if it is not: then it is for :meth:`commit_data`. Whoever
        has the frame writes it, and gives what is left of it to :meth:`put_back`.
        """
        if self._encoded or self._is_behind:
            return None
        if len(payload) > _COPY_BELOW or self.max_frame_size is not None:
            return None
        self._committed_data += 1
        self._written_data += 1
        return pack_frame(opcode | FIN, payload, self._keys() if self._keys else None)

    def put_back(self, frame: bytes, count: int) -> None:
        """Of the one frame that there was the transport has taken only the first *count* bytes."""
        self._written_data -= 1
        self._mid_frame = count > 0
        self.size += FRAME_COST
        self._append(memoryview(frame)[count:], _Boundary.DATA)

    def commit_control(self, opcode: Opcode, payload: bytes) -> None:
        """A ping or a pong, at the next frame boundary after other control frames."""
        if not self._controls:
            self._controls = deque()
        self._controls.append((opcode, payload))
        self._is_behind = True
        self.control_size += FRAME_COST + len(payload)
        self._committed_control += 1

    def commit_reply(self, payload: bytes) -> None:
        """The pong for a ping; one for an earlier ping that has not left is forgotten.

        RFC 6455 section 5.5.3 allows that, and a flood of pings then needs no memory.
        """
        self._pong = payload
        self._is_behind = True

    def commit_close(self, payload: bytes) -> None:
        """The Close frame, after everything else."""
        self._close = payload
        self._is_behind = True
        self._close_committed = True

    def drop_unsent(self) -> None:
        """Forget what of which no byte has been written, and end the frame that has been begun.

        A Close that was committed stays. What :meth:`buffers` has handed out and :meth:`written`
        not yet reported is kept as well.
        """
        self._pong = None
        self._controls = _EMPTY
        self.control_size = 0
        if self._handed_out:
            rest = self._frame_left
        else:
            rest = 0 if self._ends or not self._mid_frame else self._frame_left
            self._drop_encoded()
        self._drop_data(rest)
        self._is_behind = self._is_anything_unencoded()
        ends = len(self._ends) - len(self._other_ends)
        ends += sum(not cut for *_, cut in self._data)
        self.size = FRAME_COST * ends + rest + self._encoded_end - self._position

    def _drop_encoded(self) -> None:
        """Drop the frames that have not been begun, but for a Close."""
        encoded, ends, others = self._encoded, self._ends, self._other_ends
        if self._mid_frame and not ends:
            return
        begun = ends[:1] if self._mid_frame else []
        others_begun = {end: others[end] for end in begun if end in others}
        end = begun[0] if begun else self._position
        has_close = ends != begun and others.get(ends[-1]) is _Boundary.CLOSE
        self._encoded = _first_bytes(encoded, end - self._position)
        self._encoded_end, self._ends, self._other_ends = end, begun, others_begun
        if has_close:
            self._append(encoded[-1], _Boundary.CLOSE)

    def _drop_data(self, rest: int) -> None:
        """Drop all data but the *rest* of the frame in progress."""
        if not rest:
            self._data = _EMPTY
            self._offset = self._frame_left = 0
            return
        opcode, payload, fin, compress, cut = self._data[0]
        end = self._offset + rest
        cut = cut or end < len(payload)
        self._data = deque([(opcode, memoryview(payload)[:end], fin, compress, cut)])

    # Writing

    def mark(self) -> Mark:
        """The place after everything that has been committed until now."""
        return Mark(self._committed_data, self._committed_control, self._close_committed)

    def is_written(self, mark: Mark) -> bool:
        """Whether everything before *mark* has been handed to the transport."""
        return (
            self._written_data >= mark.data
            and self._written_control >= mark.control
            and self._close_written >= mark.close
        )

    def buffers(self, is_late: Callable[[], bool] = _never) -> list[Buffer]:
        """What to write next: as much as may be encoded ahead, unless it is to be deflated.

        Empty only if there is nothing.

        Whoever asks writes them, and reports it to :meth:`written`.

        :param is_late: asked after each :data:`PIECE` that was deflated: no more of them if it
            returns true.
        """
        if self._is_behind:
            enough = self.deflated + _DEFLATE_STEP
            while True:
                pause = self.deflated + PIECE
                while (
                    self._encode_room() >= 0
                    and self.deflated < pause
                    and self._encode_next(enough, is_late)
                ):
                    pass
                if self.deflated < pause or self.deflated >= enough or is_late():
                    break
            self._is_behind = self._is_anything_unencoded()
        self._handed_out = bool(self._encoded)
        return self._encoded

    def _encode_room(self) -> int:
        """Bytes after which no more is encoded."""
        return self._ahead() - _REFILL

    def _ahead(self) -> int:
        """Bytes that may still be encoded."""
        most = AHEAD if self.max_frame_size is None else AHEAD_OF_FRAGMENTS
        return most - (self._encoded_end - self._position)

    def written(self, count: int) -> bool:
        """The transport has taken the first *count* bytes of :meth:`buffers`; whether all."""
        self._handed_out = False
        self._position = position = self._position + count
        ends = self._ends
        if position < self._encoded_end or self._other_ends or not ends:
            return self._written_in_part(count)
        # As a rule: all, and nothing but data.
        done = len(ends)
        self._mid_frame = ends[-1] < position
        self._written_data += done
        self.size -= FRAME_COST * done + count
        self._encoded = []
        self._ends = []
        return True

    def _written_in_part(self, count: int) -> bool:
        """As :meth:`written`, whatever has been written."""
        self.size -= count
        if count:
            self._encoded = _last_bytes(self._encoded, count)
            done = bisect_right(self._ends, self._position)
            ends, self._ends = self._ends[:done], self._ends[done:]
            self._mid_frame = not ends or ends[-1] < self._position
            data = done - self._others_written(ends)
            self._written_data += data
            self.size -= FRAME_COST * data
        return not self._encoded

    def _others_written(self, ends: list[int]) -> int:
        """How many of the frames with these *ends* are not the end of a data item."""
        found = [self._other_ends.pop(end) for end in ends if end in self._other_ends]
        self._written_control += found.count(_Boundary.CONTROL)
        if _Boundary.CLOSE in found:
            self._close_written = True
        return len(found)

    def _encode_next(self, enough: int, is_late: Callable[[], bool]) -> bool:
        """The next frame, or the next piece of a large one; False if there is none."""
        if self._frame_left:
            self._encode_payload()
        elif self._pong is not None:
            self._encode_control(Opcode.PONG, self._pong, _Boundary.FRAME)
            self._pong = None
        elif self._controls:
            opcode, payload = self._controls.popleft()
            self._controls = self._controls or _EMPTY
            self.control_size -= FRAME_COST + len(payload)
            self._encode_control(opcode, payload, _Boundary.CONTROL)
        elif self._data:
            self._begin_data_frame(enough, is_late)
        elif self._close is not None:
            self._encode_control(Opcode.CLOSE, self._close, _Boundary.CLOSE)
            self._close = None
        else:
            return False
        return True

    def _encode_control(self, opcode: Opcode, payload: bytes, boundary: _Boundary) -> None:
        self._append(self._frame(opcode | FIN, payload), boundary)

    def _begin_data_frame(self, enough: int, is_late: Callable[[], bool]) -> None:
        opcode, payload, fin, compress, _ = self._data[0]
        if opcode is None:
            self._append(payload, _Boundary.DATA)
            self.size -= len(payload)
            self._end_data()
            return
        if compress:
            self._deflate_next(enough, is_late)
            return
        offset = self._offset
        if len(payload) <= _COPY_BELOW and offset == 0 and self.max_frame_size is None:
            self._encode_small_messages()
            return
        left = len(payload) - offset
        length = left if self.max_frame_size is None else min(left, self.max_frame_size)
        fin_bit = FIN if fin and length == left else 0
        first_byte = fin_bit | (opcode if offset == 0 else Opcode.CONTINUATION)
        if length <= _COPY_BELOW:
            self.deflated += _FRAGMENT_COST
            self._append(
                self._frame(first_byte, payload[offset : offset + length]),
                _Boundary.DATA if length == left else _Boundary.FRAME,
            )
            self._advance(length)
        else:
            self._frame_key = self._keys() if self._keys else None
            self._frame_offset = 0
            self._frame_left = length
            self._append(pack_header(first_byte, length, self._frame_key), _Boundary.NONE)

    def _encode_small_messages(self) -> None:
        """The next message and those like it, in one buffer: 3.5 times as fast as one by one."""
        data, start = self._data, self._encoded_end
        keys = self._keys.take(min(len(data), _MAX_RUN)) if self._keys else None
        frames, ends, payload_size = pack_messages(
            data, _COPY_BELOW, self._encode_room(), keys, start
        )
        if len(ends) == len(data):
            self._data = _EMPTY
        else:
            for _ in ends:
                data.popleft()
        self._encoded.append(frames)
        self._ends += ends
        self._encoded_end = ends[-1]
        self.size += ends[-1] - start - payload_size

    def _encode_payload(self) -> None:
        """The next piece of a frame too large to be copied."""
        _, payload, _, _, cut = self._data[0]
        key = self._frame_key
        most = _UNMASKED_PIECE if key is None else self._ahead()
        length = min(self._frame_left, most)
        chunk = memoryview(payload)[self._offset : self._offset + length]
        self._frame_left -= length
        if self._frame_left:
            boundary = _Boundary.NONE
        elif cut or self._offset + length < len(payload):
            boundary = _Boundary.FRAME
        else:
            boundary = _Boundary.DATA
        self._append(chunk if key is None else apply_mask(chunk, key, self._frame_offset), boundary)
        self._frame_offset += length
        self._advance(length)

    def _deflate_next(self, enough: int, is_late: Callable[[], bool]) -> None:
        """Go on with a message that is compressed, in frames of its own."""
        opcode, payload, fin, compress, cut = self._data[0]
        offset = self._offset
        assert opcode is not None
        shared = compress if isinstance(compress, SharedDeflate) else None
        size = PIECE
        if self.max_frame_size is not None and (shared is None or offset == 0):
            size = min(size, self.max_frame_size * _MAX_FRAGMENTS)
        if shared is not None and size < PIECE:
            # What is shared would be too many frames at once.
            self._data[0] = (opcode, payload, fin, True, cut)
            shared = None
        deflated, end = self._deflate_pieces(shared, size, enough, is_late)
        is_begin = offset == 0 and opcode is not Opcode.CONTINUATION
        first_bits = opcode | RSV1 if is_begin else Opcode.CONTINUATION
        is_end = end == len(payload)
        self._append_frames(first_bits, deflated, fin and is_end, is_end)
        self._advance(end - offset)

    def _deflate_pieces(
        self, shared: SharedDeflate | None, size: int, enough: int, is_late: Callable[[], bool]
    ) -> tuple[bytes, int]:
        """What comes of some pieces of the first message, and where the next one begins."""
        _, payload, fin, _, _ = self._data[0]
        view, length, end = memoryview(payload), len(payload), self._offset
        deflater, room, deflated = self._deflater, self._encode_room(), b""
        while True:
            start, end = end, min(end + size, length)
            if shared is not None:
                deflated += shared.piece(start // PIECE)
            else:
                assert deflater is not None
                is_end = end == length
                deflated += deflater.deflate(view[start:end], fin and is_end, is_end)
            self.deflated += FRAME_COST + end - start
            if end == length:
                break
            if self.max_frame_size is not None or self.deflated >= enough:
                break
            if len(deflated) > room or is_late():
                break
        if not deflated and end < length:
            # All of it is in zlib still, as of zeros: something has to leave.
            assert deflater is not None
            deflated = deflater.flush()
        return deflated, end

    def _append_frames(self, opcode: int, payload: bytes, final: bool, is_end: bool) -> None:
        """Frames for *payload*, the last of which may end the message, and the data item."""
        step = self.max_frame_size or len(payload) or 1
        starts = range(0, len(payload) or 1, step)
        self.deflated += _FRAGMENT_COST * (len(starts) - 1)
        for start in starts:
            is_last = start + step >= len(payload)
            fin_bit = FIN if final and is_last else 0
            self._append(
                self._frame(fin_bit | opcode, payload[start : start + step]),
                _Boundary.DATA if is_end and is_last else _Boundary.FRAME,
            )
            opcode = Opcode.CONTINUATION

    def _frame(self, first_byte: int, payload: Buffer) -> bytes:
        return pack_frame(first_byte, payload, self._keys() if self._keys else None)

    def _append(self, buffer: Buffer, boundary: _Boundary) -> None:
        self._encoded.append(buffer)
        self._encoded_end += len(buffer)
        self.size += len(buffer)
        if boundary is not _Boundary.NONE:
            self._ends.append(self._encoded_end)
            if boundary is not _Boundary.DATA:
                self._other_ends[self._encoded_end] = boundary

    def _advance(self, length: int) -> None:
        """*length* bytes of the first message have been encoded."""
        self._offset += length
        self.size -= length
        if self._offset == len(self._data[0][1]):
            self._end_data()

    def _end_data(self) -> None:
        self._data.popleft()
        self._data = self._data or _EMPTY
        self._offset = 0


def _first_bytes(buffers: list[Buffer], count: int) -> list[Buffer]:
    """The first *count* bytes of *buffers*."""
    first: list[Buffer] = []
    for buffer in buffers:
        if count <= 0:
            break
        first.append(buffer if len(buffer) <= count else memoryview(buffer)[:count])
        count -= len(buffer)
    return first


def _last_bytes(buffers: list[Buffer], count: int) -> list[Buffer]:
    """What follows the first *count* bytes of *buffers*."""
    for done, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[done + 1 :]]
        count -= len(buffer)
    return []
