"""RFC 6455 after the opening handshake, without I/O: bytes in, events out, and one state table.

Theory of operation
-------------------

:meth:`Protocol.decode` takes the bytes that the transport has brought and returns events:

* a ``str`` or ``bytes``: a whole message, or what is left of one of which parts were taken before;
* :class:`Ping`, :class:`Pong`, :class:`Close`: a control frame;
* a :class:`Violation`: the peer broke a rule, and the connection has failed.

Decoding is resumable. It stops once it has cost more than its caller allows, keeps the rest, and
goes on with it at the next call. So the caller can bound both the time that a call takes and the
memory that its events hold.

A Close and a violation are the last event, and come alone, by the call after the one that found
them. So the caller can let the application answer what came before, in whichever read that was.

The payload of a message in several frames, or of a frame of which only a part is there, is unmasked
and validated as it arrives and collected in one buffer. :meth:`Protocol.take_part` takes from that
buffer before the message is complete. Of a large message, what the buffer has held goes on to where
it stays (``_large``), MiB by MiB: so the last step of a message is no longer than the others.

A compressed message (RFC 7692) takes the same way, with the inflater between its frames and the
buffer; past the buffer if it comes out in one piece. What the inflater holds is decoding that has
not been done yet: it counts against the caller's limit, and against ``max_message_size``, as it
comes out.

What may happen when, as far as closing goes, is the table :data:`TRANSITIONS`. Messages are
received in the states of :data:`RECEIVING` and sent in OPEN alone.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from ._deflate import INPUT_STEP, InflateError, Inflater
from ._frames import (
    CONTROL_BIT,
    FIN,
    FRAME_COST,
    MAX_CONTROL_PAYLOAD,
    NO_REASON,
    OPCODE_BITS,
    RSV1,
    RSV_BITS,
    Buffer,
    CloseCode,
    CloseReason,
    FrameHeader,
    Opcode,
    apply_mask,
    decode_compressed,
    decode_messages,
    is_valid_close_code,
    mask_in_place,
    parse_header,
    truncate_reason,
    validate_utf8,
)
from ._inbox import Inbox
from ._large import CHUNK, LargeBinary, LargeText

_INFLATE_COST: Final = 16
"""What a byte counts that is inflated, beside those that come of it: it may take much work to find
out that it is nothing. The worst ones take 70 ns each, those that come out 1 to 4. The step itself
counts as a frame: two bytes can be a stream of zlib's."""

_INFLATE_STEP: Final = 128 * 1024
"""Bytes that are inflated before it is seen what that has cost."""

_INFLATE_CRUMB: Final = 1024
"""Bytes that are inflated at once however little is left of a limit: one by one takes 300 times as
long."""

_INPUT_CRUMB: Final = 4 * 1024
"""So of what is inflated: 0.3 ms at the worst."""

_LENGTH_TOP_BIT = 1 << 63
_OPCODES = tuple(Opcode(bits) if bits in set(Opcode) else None for bits in range(16))
# An attribute of an enum costs as much as a whole check.
_CONTINUATION, _TEXT, _BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
_CLOSE, _PING = Opcode.CLOSE, Opcode.PING


class Role(enum.Enum):
    """Which side of the connection this is: it decides who masks and who closes TCP first."""

    CLIENT = "client"
    SERVER = "server"


class State(enum.Enum):
    """Where the connection is on its way from open to closed (RFC 6455 section 7.1)."""

    OPEN = "open"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    CLOSED = "closed"
    """Both Close frames have been exchanged."""
    FAILED = "failed"
    """This side has found the connection to be beyond repair and has said why in its Close."""
    LOST = "lost"
    """The transport ended before both Close frames were exchanged."""


class Signal(enum.Enum):
    """What moves a connection from one :class:`State` to the next."""

    SEND_CLOSE = "a Close frame is committed"
    RECEIVE_CLOSE = "a Close frame has arrived"
    FAIL = "a rule was broken, or this side can not go on"
    END = "the transport has ended"


TRANSITIONS: Final = MappingProxyType(
    {
        (State.OPEN, Signal.SEND_CLOSE): State.CLOSE_SENT,
        (State.OPEN, Signal.RECEIVE_CLOSE): State.CLOSE_RECEIVED,
        (State.OPEN, Signal.FAIL): State.FAILED,
        (State.OPEN, Signal.END): State.LOST,
        (State.CLOSE_SENT, Signal.RECEIVE_CLOSE): State.CLOSED,
        (State.CLOSE_SENT, Signal.FAIL): State.FAILED,
        (State.CLOSE_SENT, Signal.END): State.LOST,
        (State.CLOSE_RECEIVED, Signal.SEND_CLOSE): State.CLOSED,
        (State.CLOSE_RECEIVED, Signal.FAIL): State.FAILED,
        (State.CLOSE_RECEIVED, Signal.END): State.LOST,
        (State.CLOSED, Signal.END): State.CLOSED,
        (State.FAILED, Signal.END): State.FAILED,
        (State.LOST, Signal.END): State.LOST,
    }
)
"""Every move that is possible. One that is missing here is a mistake of the caller's."""

RECEIVING: Final = (State.OPEN, State.CLOSE_SENT)
"""The states in which frames from the peer still count; in the others they are discarded. A tuple,
since finding a member of an enum in a set costs as much as decoding a frame."""


class Violation(Exception):
    """The peer sent what can not be accepted; ``code`` is what the connection fails with."""

    code: CloseCode


class ProtocolError(Violation):
    """The peer broke a rule of RFC 6455.

    :ivar rule: the rule, with its section.
    :ivar code: 1002, or 1007 for text that is not UTF-8.
    """

    def __init__(self, rule: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(rule)
        self.rule = rule
        self.code = code


class MessageTooBig(Violation):
    """The peer sent a message of more than ``max_message_size`` bytes.

    :ivar size: bytes that the message would have had at least.
    :ivar limit: the ``max_message_size`` of the stream.
    :ivar code: 1009.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit
        self.code = CloseCode.MESSAGE_TOO_BIG

    def __str__(self) -> str:
        return f"a message of at least {self.size} bytes: at most {self.limit} are accepted"


class Ping(NamedTuple):
    """A ping has arrived; RFC 6455 section 5.5.2 wants it answered."""

    payload: bytes


class Pong(NamedTuple):
    """A pong has arrived, asked for or not (RFC 6455 section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The peer's Close frame has arrived; nothing comes after it."""

    payload: bytes
    reason: CloseReason


Event: TypeAlias = str | bytes | Ping | Pong | Close | Violation


class Protocol:
    """One side of one connection.

    :param role: which side this is.
    :param max_message_size: bytes that a received message may have, or None. It may be changed.
    :param inflater: for compressed messages; None if they were not agreed on.
    """

    __slots__ = (
        "_compressed",
        "_dropped",
        "_fin",
        "_inflater",
        "_inflating",
        "_key",
        "_large",
        "_last",
        "_message",
        "_offset",
        "_opcode",
        "_parts",
        "_peer_masks",
        "_remaining",
        "_size",
        "_undecoded",
        "_utf8_pending",
        "bytes_received",
        "close_received",
        "close_sent",
        "discarding",
        "failure",
        "in_message",
        "max_message_size",
        "only_messages",
        "role",
        "stalled",
        "state",
    )

    def __init__(
        self, role: Role, max_message_size: int | None, inflater: Inflater | None = None
    ) -> None:
        self.role = role
        self._inflater = inflater
        self._peer_masks = role is Role.SERVER
        self.max_message_size = max_message_size
        self.state = State.OPEN
        self.close_sent: CloseReason | None = None
        self.close_received: CloseReason | None = None
        self.failure: CloseReason | None = None
        self.bytes_received = 0
        """Bytes that :meth:`decode` was given."""
        self.stalled = False
        """Whether :meth:`decode` has more events in what it has kept, without further data."""
        self.in_message = False
        """Whether :meth:`decode` has stopped within a message."""
        self.only_messages = True
        """Whether what :meth:`decode` has returned last is nothing but messages."""
        self._last: Close | Violation | None = None
        self._undecoded = bytearray()
        # The message in progress: _opcode is None between messages.
        self._opcode: Opcode | None = None
        self._message = bytearray()
        # What came before _message: of a message that has become large, or of one that had when the
        # first part was taken.
        self._large: LargeBinary | LargeText | None = None
        self._parts: Inbox | None = None
        self._size = 0
        self._utf8_pending = b""
        self._compressed = False
        self._inflating = False
        self._dropped = False
        self.discarding = False
        """Whether messages are thrown away as they arrive: :meth:`discard`."""
        # Its frame in progress: _remaining is 0 between frames.
        self._fin = False
        self._remaining = 0
        self._key: bytes | None = None
        self._offset = 0

    # Closing

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection is closing or closed; None while it is open.

        The peer's Close counts, unless this side has failed the connection; 1006 if the transport
        ended without one.
        """
        if self.failure is not None:
            return self.failure
        if self.close_received is not None:
            return self.close_received
        if self.state is State.LOST:
            return CloseReason(CloseCode.ABNORMAL_CLOSURE, "")
        return self.close_sent

    def send_close(self, reason: CloseReason) -> None:
        """This side commits its Close frame."""
        self._move(Signal.SEND_CLOSE)
        self.close_sent = reason

    def fail(self, code: CloseCode, reason: str) -> None:
        """This side gives the connection up (RFC 6455 section 7.1.7).

        Its Close frame says *code* and as much of *reason* as fits, unless it has sent one before.
        """
        self._move(Signal.FAIL)
        self._forget_undecoded()
        self.failure = CloseReason(code, truncate_reason(reason))
        if self.close_sent is None:
            self.close_sent = self.failure

    def end(self) -> None:
        """The transport has ended: nothing more arrives and nothing more leaves."""
        self._move(Signal.END)
        self._forget_undecoded()

    def _forget_undecoded(self) -> None:
        self._undecoded = bytearray()
        self._inflater = None
        self._last = None
        self.stalled = False

    def _move(self, signal: Signal) -> None:
        self.state = TRANSITIONS[self.state, signal]

    # Receiving

    @property
    def partial_size(self) -> int:
        """Bytes held of the message in progress."""
        before = self._large or self._parts
        return len(self._message) if before is None else before.size + len(self._message)

    def discard(self, discarding: bool) -> None:
        """Throw messages away as they arrive; or, if not *discarding*, do so no more.

        A message of which any part was thrown away is thrown away whole. If it is compressed it is
        inflated all the same, since those after it may refer to it.
        """
        self.discarding = discarding
        if discarding and self._opcode is not None:
            self._dropped = True
            self._forget_message()

    def decode(self, data: Buffer, limit: int) -> list[Event]:
        """The events in what was kept and *data*, in order.

        :param data: what the transport has brought; empty to go on after a stop. It is not kept.
        :param limit: payload bytes, and :data:`FRAME_COST` for each frame, after which to stop. Of
            a compressed message, what it inflates to counts, each byte of its payload sixteen
            times, and :data:`FRAME_COST` for each piece in which that is done. If there are events,
            it stops before a compressed payload that costs more than is left.
        """
        self.bytes_received += len(data)
        self.only_messages = True
        if self.state not in RECEIVING:
            return []
        if self._last is not None:
            self.only_messages = False
            return [self._end_receiving(self._last)]
        events: list[Event] = []
        if self._opcode is None and not self._undecoded and not self.discarding:
            # All that most reads bring is whole messages: past the rest of this it takes half the
            # time.
            end = len(data)
            messages, position, limit = decode_messages(
                data, 0, end, self._peer_masks, self.max_message_size, limit
            )
            if position == end:
                return messages  # type: ignore[return-value]  # which nobody adds to
            if position:
                events += messages
                data = memoryview(data)[position:]
        self._decode_kept_and(data, limit, events)
        self.in_message = self._opcode is not None
        if self._last is not None:
            self.stalled = True
        return events

    @property
    def is_ending(self) -> bool:
        """Whether the next call of :meth:`decode` returns a Close or a violation."""
        return self._last is not None

    def _decode_kept_and(self, data: Buffer, limit: int, events: list[Event]) -> None:
        kept = self._undecoded
        if kept:
            kept += data
            data = kept
        try:
            position, self.stalled = self._decode_frames(memoryview(data), limit, events)
        except Violation as violation:
            # The frames of its traceback hold views of the caller's buffer.
            self._last = violation.with_traceback(None)
            return
        except UnicodeDecodeError:
            self._last = ProtocolError(
                "text must be valid UTF-8 (section 8.1)", CloseCode.INVALID_PAYLOAD_DATA
            )
            return
        except InflateError as error:
            self._last = ProtocolError(str(error), CloseCode.INVALID_PAYLOAD_DATA)
            return
        if data is kept:
            del kept[:position]
        elif position < len(data):
            kept += data[position:]

    def _end_receiving(self, last: Close | Violation) -> Close | Violation:
        if isinstance(last, Close):
            self._move(Signal.RECEIVE_CLOSE)
            self.close_received = last.reason
            self._forget_undecoded()
        else:
            self.fail(last.code, str(last))
        return last

    def take_part(self, max_bytes: int | None) -> str | bytes | None:
        """What has arrived of the message in progress, taken out of it; None if there is nothing.

        At most *max_bytes*, but at least one code point. A split code point waits for its rest.
        """
        if self._large is not None:
            self._parts = Inbox()
            self._parts.put([self._large.take()])
            self._large = None
        if self._parts is not None:
            part, is_last = self._parts.take_part(max_bytes)
            if is_last:
                self._parts = None
            return part
        message = self._message
        size = len(message) - len(self._utf8_pending)
        if size == 0:
            return None
        if max_bytes is not None and max_bytes < size:
            size = max_bytes if self._opcode is _BINARY else _cut_text(message, max_bytes, size)
        taken = message[:size]
        del message[:size]
        return bytes(taken) if self._opcode is _BINARY else taken.decode()

    def _decode_frames(self, view: memoryview, limit: int, events: list[Event]) -> tuple[int, bool]:
        """How far it came, and whether it stopped because of *limit*."""
        position, end = 0, len(view)
        while position < end or self._inflating:
            if limit <= 0:
                return position, True
            if self._inflating:
                if events and self._inflate_cost() > limit:
                    # The next step does it at once, and need not collect it: of messages of 64 KiB
                    # each one so spared takes 10 us less.
                    return position, True
                limit -= self._inflate(limit, events)
                continue
            if self._remaining:
                chunk = view[position : position + self._remaining]
                self._receive_payload(chunk, events)
                position += len(chunk)
                if not self._compressed:
                    limit -= len(chunk)
                continue
            if self._opcode is None:
                if self._inflater is not None:
                    # By the rest of this loop a message takes 2.5 us more.
                    message = decode_compressed(view, position, end, self._peer_masks)
                    if message is not None:
                        opcode_bits, payload, position = message
                        limit -= FRAME_COST
                        self._begin_compressed(opcode_bits, payload, events)
                        continue
                # In C that takes 0.03 us a message; the rest of this loop takes 2 us.
                messages, position, limit = decode_messages(
                    view, position, end, self._peer_masks, self.max_message_size, limit
                )
                if not self.discarding:
                    events += messages
                if messages:
                    continue
            header = parse_header(view, position, end)
            if header is None:
                break
            opcode = self._check_header(header)
            first, key, length, _, size = header
            start = position + size
            stop = start + length
            if opcode >= CONTROL_BIT:
                if stop > end:
                    break
                payload = _unmask(view[start:stop], key)
                limit -= FRAME_COST + length
                position = stop
                if opcode is _CLOSE:
                    self._last = Close(payload, _parse_close(payload))
                    break
                self.only_messages = False
                events.append(Ping(payload) if opcode is _PING else Pong(payload))
                continue
            compressed = bool(first & RSV1) if opcode else self._compressed
            self._check_data_frame(opcode, length, compressed)
            limit -= FRAME_COST
            position = start
            self._begin_frame(opcode, header, events)
        return position, False

    def _check_header(self, header: FrameHeader) -> Opcode:
        """The checks that need no knowledge of the frames before: RFC 6455 sections 5.1 and 5.2."""
        first, key, length, minimal, _ = header
        opcode = _OPCODES[first & OPCODE_BITS]
        if first & RSV_BITS:
            self._check_reserved_bits(first & RSV_BITS, opcode)
        if opcode is None:
            raise ProtocolError(f"opcode {first & OPCODE_BITS:#x} is reserved (section 5.2)")
        if (key is not None) is not self._peer_masks:
            if key is not None:
                raise ProtocolError("a server must not mask its frames (section 5.1)")
            raise ProtocolError("a client must mask its frames (section 5.1)")
        if not minimal:
            raise ProtocolError("the length must be encoded in the fewest bytes (section 5.2)")
        if length >= _LENGTH_TOP_BIT:
            raise ProtocolError("the most significant bit of the length must be 0 (section 5.2)")
        if opcode >= CONTROL_BIT:
            if not first & FIN:
                raise ProtocolError("a control frame must not be fragmented (section 5.5)")
            if length > MAX_CONTROL_PAYLOAD:
                raise ProtocolError("a control frame has at most 125 bytes (section 5.5)")
        return opcode

    def _check_reserved_bits(self, bits: int, opcode: Opcode | None) -> None:
        if bits != RSV1 or self._inflater is None:
            raise ProtocolError("reserved bits must be 0 without an extension (section 5.2)")
        if opcode is not _TEXT and opcode is not _BINARY:
            raise ProtocolError(
                "RSV1 belongs on the first frame of a message alone (RFC 7692 section 6)"
            )

    def _check_data_frame(self, opcode: Opcode, length: int, compressed: bool) -> None:
        if opcode is _CONTINUATION:
            if self._opcode is None:
                raise ProtocolError("there is no message to continue (section 5.4)")
            size, dropped = self._size + length, self._dropped
        else:
            if self._opcode is not None:
                raise ProtocolError("a message must end before the next begins (section 5.4)")
            size, dropped = length, self.discarding
        if not compressed and not dropped:
            self._check_size(size)

    def _check_size(self, size: int) -> None:
        limit = self.max_message_size
        if limit is not None and size > limit:
            raise MessageTooBig(size, limit)

    def _begin_frame(self, opcode: Opcode, header: FrameHeader, events: list[Event]) -> None:
        first, key, length, _, _ = header
        if opcode is not _CONTINUATION:
            self._opcode = opcode
            self._size = 0
            self._compressed = bool(first & RSV1)
            self._dropped = self.discarding
        if not self._compressed:
            self._size += length
        self._fin = bool(first & FIN)
        self._key = key
        self._offset = 0
        self._remaining = length
        if self._remaining == 0 and self._fin:
            self._receive_payload(memoryview(b""), events)

    def _begin_compressed(self, opcode_bits: int, payload: bytes, events: list[Event]) -> None:
        """A compressed message in one frame, which is all there."""
        self._opcode = _OPCODES[opcode_bits]
        self._size = 0
        self._compressed = self._fin = True
        self._dropped = self.discarding
        self._feed_inflater(payload, events)

    def _receive_payload(self, chunk: memoryview, events: list[Event]) -> None:
        """Bytes of the data frame in progress."""
        offset = self._offset
        self._offset += len(chunk)
        self._remaining -= len(chunk)
        if self._compressed:
            payload = chunk if self._key is None else apply_mask(chunk, self._key, offset)
            self._feed_inflater(payload, events)
            return
        if not self._dropped:
            self._collect_frame(chunk, offset)
        self._end_message_if_complete(events)

    def _collect_frame(self, chunk: memoryview, offset: int) -> None:
        """Bytes of the message in progress, unmasked where they are to stay."""
        message = self._message
        start = len(message)
        message += chunk
        if self._key is not None:
            mask_in_place(message, start, self._key, offset)
        if self._opcode is _TEXT:
            try:
                with memoryview(message) as whole, whole[start:] as text:
                    self._utf8_pending = validate_utf8(self._utf8_pending, text, False)
            except UnicodeDecodeError:
                del message[start:]
                raise
        if len(message) > CHUNK:
            self._put_aside()

    def _feed_inflater(self, payload: Buffer, events: list[Event]) -> None:
        assert self._inflater is not None
        self._inflater.feed(payload, self._fin and self._remaining == 0)
        self._inflating = not self._inflater.needs_input
        if not self._inflating:
            self._end_message_if_complete(events)

    def _inflate(self, limit: int, events: list[Event]) -> int:
        """Go on with the compressed message in progress; what that counts against *limit*."""
        inflater = self._inflater
        assert inflater is not None
        input_left = inflater.input_left
        most_input = max(_INPUT_CRUMB, min(limit // _INFLATE_COST, INPUT_STEP))
        payload = inflater.produce(self._inflate_at_most(limit), most_input)
        used = input_left - inflater.input_left
        self._inflating = not inflater.needs_input
        is_end = not self._inflating and self._remaining == 0 and self._fin
        if not self._dropped:
            self._size += len(payload)
            self._check_size(self._size)
            if is_end and not self._message and self._large is None and self._parts is None:
                # As a rule it comes at once and need not be collected: a KiB takes a seventh less.
                events.append(payload if self._opcode is _BINARY else payload.decode())
                self._opcode = None
                return FRAME_COST + len(payload) + _INFLATE_COST * used
            self._collect(payload)
        if is_end:
            self._end_message(events)
        return FRAME_COST + len(payload) + _INFLATE_COST * used

    def _inflate_cost(self) -> int:
        """What it counts to inflate what is at hand of the compressed message in progress, beside
        what comes of it.
        """
        assert self._inflater is not None
        return _INFLATE_COST * self._inflater.input_left

    def _inflate_at_most(self, limit: int) -> int:
        """No more than *limit*, if that is no crumb, nor than what is one byte too many."""
        limit = max(_INFLATE_CRUMB, min(limit, _INFLATE_STEP))
        if self.max_message_size is None or self._dropped:
            return limit
        return min(limit, max(self.max_message_size - self._size, 0) + 1)

    def _collect(self, payload: Buffer) -> None:
        """Bytes of the message in progress, inflated."""
        if self._opcode is _TEXT:
            self._utf8_pending = validate_utf8(self._utf8_pending, payload, False)
        self._message += payload
        if len(self._message) > CHUNK:
            self._put_aside()

    def _put_aside(self) -> None:
        """The message in progress is large: what has been collected goes to where it stays."""
        if self._parts is not None:
            return
        if self._large is None:
            self._large = LargeBinary() if self._opcode is _BINARY else LargeText()
        message = self._message
        end = len(message) - len(self._utf8_pending)
        with memoryview(message) as whole, whole[:end] as complete:
            self._large.add(complete)
        del message[:end]

    def _end_message_if_complete(self, events: list[Event]) -> None:
        if self._remaining == 0 and self._fin:
            self._end_message(events)

    def _end_message(self, events: list[Event]) -> None:
        if not self._dropped:
            events.append(self._whole_message())
        self._opcode = None
        self._forget_message()

    def _whole_message(self) -> str | bytes:
        """The message, or what is left of it."""
        message = self._message
        if self._large is not None:
            self._large.add(message)
            return self._large.take()
        if self._parts is not None:
            before = self._parts.take()
            return before + message.decode() if isinstance(before, str) else before + message
        return bytes(message) if self._opcode is _BINARY else message.decode()

    def _forget_message(self) -> None:
        self._message = bytearray()
        self._large = self._parts = None
        self._utf8_pending = b""


def _unmask(payload: memoryview, key: bytes | None) -> bytes:
    return bytes(payload) if key is None else apply_mask(payload, key)


def _cut_text(text: bytearray, max_bytes: int, size: int) -> int:
    """The last end of a code point within *max_bytes* of *text*, or the first one after."""
    cut = max_bytes
    while cut > 0 and text[cut] & 0xC0 == 0x80:
        cut -= 1
    if cut == 0:
        cut = max_bytes
        while cut < size and text[cut] & 0xC0 == 0x80:
            cut += 1
    return cut


def _parse_close(payload: bytes) -> CloseReason:
    """The payload of a Close frame, checked (RFC 6455 sections 5.5.1 and 7.4)."""
    if not payload:
        return NO_REASON
    if len(payload) == 1:
        raise ProtocolError("a Close frame has no payload, or a code of two bytes (section 5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if not is_valid_close_code(code):
        raise ProtocolError(f"close code {code} must not be on the wire (section 7.4)")
    text = _decode_reason(payload)
    if text is None:
        raise ProtocolError(
            "the reason of a Close must be valid UTF-8 (section 5.5.1)",
            CloseCode.INVALID_PAYLOAD_DATA,
        )
    return CloseReason(code, text)


def _decode_reason(payload: bytes) -> str | None:
    """None if it is not UTF-8: a chained UnicodeDecodeError would keep the frames alive."""
    try:
        return payload[2:].decode()
    except UnicodeDecodeError:
        return None
