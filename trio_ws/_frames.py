"""RFC 6455 section 5 on the wire: opcodes, close codes, headers, masking and UTF-8.

Everything here is a pure function of bytes. Frames know nothing of messages: what may follow what
is :mod:`trio_ws._protocol`'s job.

The functions on which speed depends are written twice, and the end of this file picks one of each:
those of ``_speedups.c`` if they were built, else those here whose names begin with ``pure_``. Both
give the same answers to the byte.
"""

from __future__ import annotations

import codecs
import enum
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

FIN = 0x80
RSV1 = 0x40
RSV_BITS = 0x70
OPCODE_BITS = 0x0F
CONTROL_BIT = 0x08
MASK_BIT = 0x80
MAX_CONTROL_PAYLOAD = 125
MAX_REASON_SIZE = MAX_CONTROL_PAYLOAD - 2
MAX_HEADER_SIZE = 14

FRAME_COST = 512
"""What a frame or a message counts beside its payload, so that empty ones are not free: about what
a small one takes, in bytes of a large one, which are only copied."""

_MASKING_STEP = 16 * 1024
_KEY_BLOCK = 1024

_pack_short = struct.Struct("!BB").pack
_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack
_pack_code = struct.Struct("!H").pack
_from_bytes = int.from_bytes


class Opcode(enum.IntEnum):
    """What a frame is (RFC 6455 section 11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_WHOLE_TEXT = FIN | Opcode.TEXT
_WHOLE_MESSAGES = frozenset({_WHOLE_TEXT, FIN | Opcode.BINARY})
_WHOLE_COMPRESSED = frozenset(first_byte | RSV1 for first_byte in _WHOLE_MESSAGES)


class CloseCode(enum.IntEnum):
    """Why a connection was closed (RFC 6455 section 7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class CloseReason(NamedTuple):
    """The code and the text of one Close frame (Beast's ``close_reason``).

    ``code`` is 1005 when the Close frame was empty.
    """

    code: int
    reason: str


NO_REASON = CloseReason(CloseCode.NO_STATUS_RECEIVED, "")

_NEVER_ON_THE_WIRE = frozenset(
    {CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE}
)
_REGISTERED_ON_THE_WIRE = frozenset(CloseCode) - _NEVER_ON_THE_WIRE


FrameHeader: TypeAlias = tuple[int, bytes | None, int, bool, int]
"""The fixed part of a frame, RFC 6455 section 5.2, as it was on the wire: the first byte, the
masking key or None, the length of the payload, whether that was encoded in the fewest bytes, as it
must be, and the bytes that the header takes, the key included."""


def pure_parse_header(buffer: Buffer, position: int, end: int, /) -> FrameHeader | None:
    """The frame header at *position*, or None if it is not whole before *end*.

    Nothing is checked of it: what a header may say depends on role and state. Raises ValueError if
    *position* or *end* are not within *buffer*.
    """
    if not 0 <= position <= end <= len(buffer):
        raise ValueError("position and end must be within the buffer")
    if end - position < 2:
        return None
    first, second = buffer[position], buffer[position + 1]
    length = second & 0x7F
    minimal = True
    body = position + 2
    if length == 126:
        body += 2
        if body > end:
            return None
        length = int.from_bytes(buffer[position + 2 : body], "big")
        minimal = length > 125
    elif length == 127:
        body += 8
        if body > end:
            return None
        length = int.from_bytes(buffer[position + 2 : body], "big")
        minimal = length > 0xFFFF
    if second < MASK_BIT:
        return first, None, length, minimal, body - position
    key = bytes(buffer[body : body + 4])
    body += 4
    return (first, key, length, minimal, body - position) if body <= end else None


def pure_pack_header(first_byte: int, length: int, key: bytes | None, /) -> bytes:
    """A frame header for *length* bytes of payload; *key* masks it, None does not."""
    mask_bit = 0 if key is None else MASK_BIT
    if length < 126:
        header = _pack_short(first_byte, mask_bit | length)
    elif length <= 0xFFFF:
        header = _pack_16(first_byte, mask_bit | 126, length)
    else:
        header = _pack_64(first_byte, mask_bit | 127, length)
    return header if key is None else header + key


def pure_pack_frame(first_byte: int, payload: Buffer, key: bytes | None, /) -> bytes:
    """A frame with *payload*; *key* masks it, None does not."""
    header = pure_pack_header(first_byte, len(payload), key)
    return header + (payload if key is None else pure_apply_mask(payload, key))


MessageFields: TypeAlias = tuple[int | None, Buffer, bool, object, bool]
"""Opcode, payload, FIN, whether it is compressed, whether its end was cut off."""


def pure_pack_messages(
    messages: Iterable[MessageFields],
    max_payload: int,
    limit: int,
    keys: bytes | None,
    start: int,
    /,
) -> tuple[bytes, list[int], int]:
    """Frames for the first of *messages* that are simple: nothing has to be done to any of them.

    Those have an opcode and at most *max_payload* ``bytes``, and are neither compressed nor cut.
    None is added once there are more than *limit* bytes. *keys* are four bytes for each frame, and
    there are no more frames than keys; None does not mask.

    Returns the frames, where each of them ends, counted from *start*, and the size of their
    payloads.
    """
    frames: list[bytes] = []
    ends: list[int] = []
    size = payload_size = 0
    for opcode, payload, fin, compress, cut in messages:
        is_whole = compress is False and cut is False
        is_small = isinstance(payload, bytes) and len(payload) <= max_payload
        key = None if keys is None else keys[4 * len(ends) : 4 * len(ends) + 4]
        if opcode is None or size > limit or not is_whole or not is_small or key == b"":
            break
        frames.append(pure_pack_frame(opcode | (FIN if fin else 0), payload, key))
        size += len(frames[-1])
        payload_size += len(payload)
        ends.append(start + size)
    return b"".join(frames), ends, payload_size


def pure_apply_mask(payload: Buffer, key: bytes, offset: int = 0, /) -> bytes:
    """*payload* masked or unmasked with *key* (RFC 6455 section 5.3).

    *offset* is the position of the payload's first byte in its frame.
    """
    length = len(payload)
    rotation = offset & 3
    if rotation:
        key = key[rotation:] + key[:rotation]
    if length <= _MASKING_STEP:
        return _xor(payload, (key * ((length + 3) >> 2))[:length])
    # Integers of a few KiB stay in the cache: twice as fast as one of a MiB.
    mask = key * (_MASKING_STEP >> 2)
    with memoryview(payload) as view:
        pieces = [
            _xor(view[start : start + _MASKING_STEP], mask[: length - start])
            for start in range(0, length, _MASKING_STEP)
        ]
    return b"".join(pieces)


def pure_mask_in_place(
    buffer: bytearray | memoryview, start: int, key: bytes, offset: int = 0, /
) -> None:
    """Mask or unmask *buffer* from *start* on with *key* (RFC 6455 section 5.3).

    *offset* is the position in its frame of the byte at *start*. Raises ValueError if *start* is
    not within *buffer*.
    """
    if not 0 <= start <= len(buffer):
        raise ValueError("start must be within the buffer")
    with memoryview(buffer) as whole, whole[start:] as view:
        view[:] = pure_apply_mask(view, key, offset)


def _xor(left: Buffer, right: bytes) -> bytes:
    number = _from_bytes(left, "little") ^ _from_bytes(right, "little")
    return number.to_bytes(len(left), "little")


class MaskingKeys:
    """Fresh masking keys from the system's CSPRNG, drawn in blocks (RFC 6455 section 5.3)."""

    __slots__ = ("_block", "_position")

    def __init__(self) -> None:
        self._block = b""
        self._position = 0

    def __call__(self) -> bytes:
        """Four bytes for one frame alone, which nobody can predict."""
        return self.take(1)

    def take(self, count: int) -> bytes:
        """As many keys, one behind the other."""
        position = self._position
        end = position + 4 * count
        if end > len(self._block):
            self._block = os.urandom(max(_KEY_BLOCK, 4 * count))
            position, end = 0, 4 * count
        self._position = end
        return self._block[position:end]


def pure_validate_utf8(pending: bytes, data: Buffer, final: bool, /) -> bytes:
    """Check that *data*, after the *pending* start of a code point, goes on as UTF-8.

    Returns the start of a code point that *data* ends with, the next call's *pending*; it is empty
    if *final*. Raises UnicodeDecodeError at the first byte after which no valid text can follow.
    """
    whole = pending + data if pending else data
    _, consumed = codecs.utf_8_decode(whole, "strict", final)
    rest = bytes(whole[consumed:])
    # The codec lets a surrogate pass until its third byte.
    if len(rest) == 2 and rest[0] == 0xED and rest[1] >= 0xA0:
        raise UnicodeDecodeError("utf-8", rest, 0, 2, "surrogates not allowed")
    return rest


def pure_decode_messages(
    buffer: Buffer, position: int, end: int, masked: bool, max_size: int | None, limit: int, /
) -> tuple[list[str | bytes], int, int]:
    """The messages at *position* that are simple: a whole frame each, and nothing to object to.

    Anything else is left where it is, for those who know the rules and have the words for what is
    against them: control frames, fragments, reserved bits, a frame that is not whole before *end*,
    one that is masked though it should not be or the other way round, a length in more bytes than
    needed or above *max_size*, text that is not UTF-8.

    *limit* is a number of bytes: each message counts its payload and :data:`FRAME_COST`, and none
    is decoded once it is used up. Returns the messages, the position after them, and what is left
    of *limit*. Raises ValueError if *position* or *end* are not within *buffer*.
    """
    if not 0 <= position <= end <= len(buffer):
        raise ValueError("position and end must be within the buffer")
    messages: list[str | bytes] = []
    while limit > 0:
        header = pure_parse_header(buffer, position, end)
        if header is None:
            break
        first, key, length, minimal, size = header
        start = position + size
        stop = start + length
        is_legal = first in _WHOLE_MESSAGES and (key is not None) is masked and minimal
        if not is_legal or stop > end or (max_size is not None and length > max_size):
            break
        payload = bytes(buffer[start:stop])
        if key is not None:
            payload = pure_apply_mask(payload, key)
        try:
            messages.append(payload.decode() if first == _WHOLE_TEXT else payload)
        except UnicodeDecodeError:
            break
        position = stop
        limit -= FRAME_COST + length
    return messages, position, limit


def pure_decode_compressed(
    buffer: Buffer, position: int, end: int, masked: bool, /
) -> tuple[int, bytes, int] | None:
    """The compressed message at *position*, if it is simple: a whole frame, nothing to object to.

    Returns its opcode, its payload, unmasked, and the position after it; None, as
    :func:`pure_decode_messages` leaves it where it is, for anything else. Raises ValueError if
    *position* or *end* are not within *buffer*.
    """
    header = pure_parse_header(buffer, position, end)
    if header is None:
        return None
    first, key, length, minimal, size = header
    start = position + size
    stop = start + length
    is_legal = first in _WHOLE_COMPRESSED and (key is not None) is masked and minimal
    if not is_legal or stop > end:
        return None
    payload = bytes(buffer[start:stop])
    if key is not None:
        payload = pure_apply_mask(payload, key)
    return first & OPCODE_BITS, payload, stop


def is_valid_close_code(code: int) -> bool:
    """Whether *code* may stand in a Close frame (RFC 6455 section 7.4)."""
    return code in _REGISTERED_ON_THE_WIRE or 3000 <= code <= 4999


def pack_close(code: int | None, reason: str = "") -> bytes:
    """The payload of a Close frame; *code* None is the empty one.

    Raises ValueError for a code that may not be sent, a reason without a code, and a reason of
    more than 123 bytes of UTF-8.
    """
    if code is None:
        if reason:
            raise ValueError("a Close frame without a code can not have a reason: give a code")
        return b""
    if not is_valid_close_code(code):
        raise ValueError(
            f"close code {code} may not be sent: use 1000 to 1003, 1007 to 1014 or 3000 to 4999"
        )
    text = reason.encode()
    if len(text) > MAX_REASON_SIZE:
        raise ValueError(
            f"the reason is {len(text)} bytes of UTF-8: at most {MAX_REASON_SIZE} fit into a Close"
        )
    return _pack_code(code) + text


def truncate_reason(reason: str) -> str:
    """As much of *reason* as fits into a Close frame, cut between two code points.

    What UTF-8 has no bytes for, a lone surrogate, becomes a question mark.
    """
    return reason.encode(errors="replace")[:MAX_REASON_SIZE].decode(errors="ignore")


SPEEDUPS: bool
"""Whether the functions in C are in use.

They are if they could be built when trio_ws was installed, unless the environment variable
``TRIO_WS_SPEEDUPS`` was ``0`` when it was imported.
"""

try:
    if os.environ.get("TRIO_WS_SPEEDUPS") == "0":
        raise ImportError("turned off")
    from ._speedups import apply_mask as apply_mask
    from ._speedups import decode_compressed as decode_compressed
    from ._speedups import decode_messages as decode_messages
    from ._speedups import mask_in_place as mask_in_place
    from ._speedups import pack_frame as pack_frame
    from ._speedups import pack_header as pack_header
    from ._speedups import pack_messages as pack_messages
    from ._speedups import parse_header as parse_header
    from ._speedups import validate_utf8 as validate_utf8
except ImportError:
    SPEEDUPS = False
    apply_mask = pure_apply_mask
    decode_compressed = pure_decode_compressed
    decode_messages = pure_decode_messages
    mask_in_place = pure_mask_in_place
    pack_frame = pure_pack_frame
    pack_header = pure_pack_header
    pack_messages = pure_pack_messages
    parse_header = pure_parse_header
    validate_utf8 = pure_validate_utf8
else:
    SPEEDUPS = True
