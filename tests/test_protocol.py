"""RFC 6455 sections 5 to 7 with bytes alone: the rules, closing, decoding that stops anywhere."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from decoding import UNLIMITED, comparable, decode_all
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws._frames import FRAME_COST, Buffer, CloseCode, CloseReason, Opcode
from trio_ws._options import StreamOptions
from trio_ws._protocol import (
    RECEIVING,
    TRANSITIONS,
    Close,
    Event,
    MessageTooBig,
    Ping,
    Pong,
    Protocol,
    ProtocolError,
    Role,
    Signal,
    State,
    Violation,
)

CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
KEY = bytes.fromhex("37fa213d")
LENGTHS = [0, 1, 2, 124, 125, 126, 127, 128, 16383, 16384, 16385, 65534, 65535, 65536, 65537]

BOTH_ROLES = pytest.mark.parametrize("role", Role)


def frame(
    role: Role,
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    length: str | None = None,
    key: bytes = KEY,
) -> bytes:
    """A frame to *role*, straight from section 5.2; *length* is the encoded length in hex."""
    size = len(payload)
    if length is not None:
        encoded = bytearray.fromhex(length)
    elif size <= 125:
        encoded = bytearray([size])
    elif size <= 65535:
        encoded = bytearray([126]) + size.to_bytes(2, "big")
    else:
        encoded = bytearray([127]) + size.to_bytes(8, "big")
    first_byte = bytes([fin << 7 | rsv << 4 | opcode])
    if role is Role.CLIENT:
        return first_byte + encoded + payload
    encoded[0] |= 0x80
    masked = bytes(octet ^ key[index % 4] for index, octet in enumerate(payload))
    return first_byte + encoded + key + masked


def octets(data: bytes) -> Iterator[bytes]:
    for octet in data:
        yield bytes([octet])


# Messages and control frames


@BOTH_ROLES
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_message_of_any_length_arrives_whole_and_in_pieces(
    role: Role, opcode: Opcode, length: int
) -> None:
    payload = bytes(index % 127 for index in range(length))
    message = payload.decode() if opcode is TEXT else payload
    data = frame(role, opcode, payload)
    protocol = Protocol(role, None)
    assert protocol.decode(data, UNLIMITED) == [message]
    for size in (1, 14, 4096, 65535) if length < 200 else (4096, 65535):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        events = [protocol.decode(piece, UNLIMITED) for piece in pieces]
        assert events == [[]] * (len(pieces) - 1) + [[message]]
    assert not protocol.stalled
    assert protocol.partial_size == 0


@BOTH_ROLES
@pytest.mark.parametrize(
    "parts",
    [["ab", "c"], ["", "ab"], ["ab", ""], ["", "", ""], ["a", "b", "c", "d"], ["a" * 300] * 2],
)
def test_a_message_in_fragments(role: Role, parts: list[str]) -> None:
    for opcode in (TEXT, BINARY):
        data = b"".join(
            frame(
                role,
                CONTINUATION if index else opcode,
                part.encode(),
                fin=index == len(parts) - 1,
                key=bytes([index, 255, 128, 127]),
            )
            for index, part in enumerate(parts)
        )
        message = "".join(parts) if opcode is TEXT else "".join(parts).encode()
        protocol = Protocol(role, None)
        assert protocol.decode(data, UNLIMITED) == [message]
        assert protocol.decode(data, UNLIMITED) == [message]


@BOTH_ROLES
def test_control_frames_between_fragments_come_at_once_and_change_nothing(role: Role) -> None:
    protocol = Protocol(role, 4)
    assert protocol.decode(frame(role, TEXT, b"a\xe2", fin=False), UNLIMITED) == []
    assert protocol.decode(frame(role, PING, b"\xff" * 125), UNLIMITED) == [Ping(b"\xff" * 125)]
    assert protocol.decode(frame(role, CONTINUATION, b"\x82", fin=False), UNLIMITED) == []
    assert protocol.decode(frame(role, PONG), UNLIMITED) == [Pong(b"")]
    assert protocol.decode(frame(role, CONTINUATION, b"\xac"), UNLIMITED) == ["a€"]


@BOTH_ROLES
@pytest.mark.parametrize(("opcode", "event"), [(PING, Ping), (PONG, Pong)])
@pytest.mark.parametrize("length", [0, 1, 124, 125])
def test_ping_and_pong_carry_up_to_125_bytes(
    role: Role, opcode: Opcode, event: type[Ping | Pong], length: int
) -> None:
    payload = bytes(range(255, 255 - length, -1))
    data = frame(role, opcode, payload)
    protocol = Protocol(role, None)
    expected = comparable([event(payload)])
    assert comparable(protocol.decode(data, UNLIMITED)) == expected
    events = [comparable(protocol.decode(octet, UNLIMITED)) for octet in octets(data)]
    assert events == [[]] * (len(data) - 1) + [expected]


@BOTH_ROLES
def test_nothing_arrives_without_data(role: Role) -> None:
    protocol = Protocol(role, None)
    assert protocol.decode(b"", UNLIMITED) == []
    assert protocol.decode(frame(role, TEXT, b"a"), UNLIMITED) == ["a"]
    assert protocol.decode(b"", UNLIMITED) == []
    assert not protocol.stalled


# The rules: what breaks one fails the connection with this code


def overlong(opcode: Opcode, length: str, payload: bytes) -> Callable[[Role], bytes]:
    return lambda role: frame(role, opcode, payload, length=length)


def after(start: Opcode, *then: tuple[Opcode, bytes]) -> Callable[[Role], bytes]:
    """*then*, in the middle of a message that *start* has begun."""
    return lambda role: (
        frame(role, start, b"a", fin=False)
        + b"".join(frame(role, opcode, payload) for opcode, payload in then)
    )


def close_payload(payload: bytes) -> Callable[[Role], bytes]:
    return lambda role: frame(role, CLOSE, payload)


def other_role(role: Role) -> Role:
    return Role.CLIENT if role is Role.SERVER else Role.SERVER


RULES = [
    *(
        pytest.param(
            lambda role, opcode=opcode, rsv=rsv: frame(role, opcode, b"", rsv=rsv),
            1002,
            "reserved bits must be 0 without an extension (section 5.2)",
            id=f"rsv {rsv} on {opcode.name}",
        )
        for opcode in Opcode
        for rsv in (1, 2, 4, 7)
    ),
    *(
        pytest.param(
            lambda role, opcode=opcode, fin=fin: frame(role, opcode, b"", fin=fin),
            1002,
            f"opcode {opcode:#x} is reserved (section 5.2)",
            id=f"opcode {opcode:#x}, fin {fin}",
        )
        for opcode in (*range(3, 8), *range(0xB, 0x10))
        for fin in (True, False)
    ),
    *(
        pytest.param(
            overlong(BINARY, length, bytes(size)),
            1002,
            "the length must be encoded in the fewest bytes (section 5.2)",
            id=f"length {length}",
        )
        for length, size in [
            ("7e0000", 0),
            ("7e007d", 125),
            ("7f0000000000000000", 0),
            ("7f000000000000007d", 125),
            ("7f000000000000007e", 126),
            ("7f000000000000ffff", 65535),
        ]
    ),
    *(
        pytest.param(
            overlong(BINARY, length, b""),
            1002,
            "the most significant bit of the length must be 0 (section 5.2)",
            id=f"length {length}",
        )
        for length in ("7f8000000000000000", "7fffffffffffffffff")
    ),
    *(
        pytest.param(
            lambda role, opcode=opcode: frame(role, opcode, b"", fin=False),
            1002,
            "a control frame must not be fragmented (section 5.5)",
            id=f"{opcode.name} in fragments",
        )
        for opcode in (CLOSE, PING, PONG)
    ),
    *(
        pytest.param(
            lambda role, opcode=opcode, size=size: frame(role, opcode, bytes(size)),
            1002,
            "a control frame has at most 125 bytes (section 5.5)",
            id=f"{opcode.name} of {size} bytes",
        )
        for opcode in (CLOSE, PING, PONG)
        for size in (126, 65536)
    ),
    *(
        pytest.param(
            data,
            1002,
            "there is no message to continue (section 5.4)",
            id=f"continuation {name}",
        )
        for name, data in {
            "first": lambda role: frame(role, CONTINUATION),
            "first, with more to come": lambda role: frame(role, CONTINUATION, fin=False),
            "after the end": after(TEXT, (CONTINUATION, b"b"), (CONTINUATION, b"c")),
        }.items()
    ),
    *(
        pytest.param(
            after(first, (second, b"b")),
            1002,
            "a message must end before the next begins (section 5.4)",
            id=f"{second.name} within {first.name}",
        )
        for first in (TEXT, BINARY)
        for second in (TEXT, BINARY)
    ),
    *(
        pytest.param(
            data,
            1007,
            "text must be valid UTF-8 (section 8.1)",
            id=f"not UTF-8: {name}",
        )
        for name, data in {
            "in one frame": lambda role: frame(role, TEXT, b"a\xff"),
            "cut off in one frame": lambda role: frame(role, TEXT, b"a\xe2\x82"),
            "in the first fragment": lambda role: frame(role, TEXT, b"\xff", fin=False),
            "in a later fragment": after(TEXT, (CONTINUATION, b"\x80")),
            "cut off in the last fragment": after(TEXT, (CONTINUATION, b"\xe2\x82")),
            "cut off before an empty last fragment": lambda role: (
                frame(role, TEXT, b"\xe2\x82", fin=False) + frame(role, CONTINUATION)
            ),
            "a surrogate": lambda role: frame(role, TEXT, b"\xed\xa0\x80"),
            "over-long": lambda role: frame(role, TEXT, b"\xc0\x80"),
            "above U+10FFFF": lambda role: frame(role, TEXT, b"\xf4\x90\x80\x80"),
        }.items()
    ),
    pytest.param(
        close_payload(b"\x03"),
        1002,
        "a Close frame has no payload, or a code of two bytes (section 5.5.1)",
        id="Close of one byte",
    ),
    *(
        pytest.param(
            close_payload(b"\x03\xe8" + reason),
            1007,
            "the reason of a Close must be valid UTF-8 (section 5.5.1)",
            id=f"reason {reason.hex()}",
        )
        for reason in (b"\xff", b"a\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80")
    ),
    *(
        pytest.param(
            close_payload(code.to_bytes(2, "big") + b"why"),
            1002,
            f"close code {code} must not be on the wire (section 7.4)",
            id=f"close code {code}",
        )
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    ),
]
"""What is sent to a role, the close code, and the rule."""


def masked_wrongly(role: Role) -> str:
    if role is Role.CLIENT:
        return "a server must not mask its frames (section 5.1)"
    return "a client must mask its frames (section 5.1)"


@BOTH_ROLES
@pytest.mark.parametrize(("data", "code", "rule"), RULES)
def test_a_broken_rule_fails_the_connection(
    role: Role, data: Callable[[Role], bytes], code: int, rule: str
) -> None:
    check_violation(role, data(role), code, rule)


@BOTH_ROLES
@pytest.mark.parametrize("opcode", Opcode)
@pytest.mark.parametrize("payload", [b"", b"abc"])
def test_the_client_masks_and_the_server_does_not(
    role: Role, opcode: Opcode, payload: bytes
) -> None:
    data = frame(other_role(role), opcode, payload) + bytes(4)
    check_violation(role, data, 1002, masked_wrongly(role))


def check_violation(role: Role, data: bytes, code: int, rule: str) -> None:
    good = frame(role, TEXT, b"good")
    for limit in (UNLIMITED, 1):
        for pieces in ([good + data + good], octets(good + data + good)):
            protocol = Protocol(role, None)
            events: list[Event] = []
            for piece in pieces:
                events += decode_all(protocol, piece, limit)
            violation = events.pop()
            assert events in (["good"], ["good", "ab"])
            assert isinstance(violation, ProtocolError)
            assert (violation.rule, str(violation), violation.code) == (rule, rule, code)
            assert protocol.state is State.FAILED
            assert protocol.close_reason == protocol.close_sent == CloseReason(code, rule)
            assert protocol.close_received is None
            assert protocol.decode(good, UNLIMITED) == []
            assert not protocol.stalled


@BOTH_ROLES
def test_every_close_code_and_none_other_is_accepted(role: Role) -> None:
    valid = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        data = frame(role, CLOSE, code.to_bytes(2, "big"))
        (event,) = decode_all(Protocol(role, None), data)
        if code in valid:
            assert event == Close(code.to_bytes(2, "big"), CloseReason(code, ""))
        else:
            assert isinstance(event, ProtocolError)
            assert event.code == 1002


@BOTH_ROLES
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", CloseReason(1005, "")),
        (b"\x03\xe8", CloseReason(1000, "")),
        (b"\x0f\xa0" + "tschüß".encode(), CloseReason(4000, "tschüß")),
        (b"\x03\xe9" + 123 * b"a", CloseReason(1001, 123 * "a")),
    ],
)
def test_a_close_has_a_code_and_a_reason_or_nothing(
    role: Role, payload: bytes, reason: CloseReason
) -> None:
    protocol = Protocol(role, None)
    data = frame(role, CLOSE, payload)
    assert decode_all(protocol, data) == [Close(payload, reason)]
    assert protocol.close_received == protocol.close_reason == reason


@BOTH_ROLES
def test_nothing_counts_after_a_close(role: Role) -> None:
    protocol = Protocol(role, None)
    behind = frame(role, TEXT, b"late") + b"\xff\xff\xff"
    assert decode_all(protocol, frame(role, CLOSE) + behind) == [Close(b"", CloseReason(1005, ""))]
    assert protocol.decode(behind, UNLIMITED) == []
    assert not protocol.stalled


@BOTH_ROLES
@pytest.mark.parametrize(("bad", "last"), [(False, Close), (True, ProtocolError)])
@pytest.mark.parametrize("in_one_read", [True, False])
def test_a_close_or_a_violation_comes_alone_in_the_call_after_it_was_found(
    role: Role, in_one_read: bool, bad: bool, last: type[Close | ProtocolError]
) -> None:
    protocol = Protocol(role, None)
    before = frame(role, TEXT, b"a") + frame(role, PING)
    ending = frame(role, CLOSE, b"\x03\xe8", rsv=bad)
    if in_one_read:
        assert protocol.decode(before + ending, UNLIMITED) == ["a", Ping(b"")]
    else:
        assert protocol.decode(before, UNLIMITED) == ["a", Ping(b"")]
        assert not protocol.is_ending
        assert protocol.decode(ending, UNLIMITED) == []
    assert protocol.state is State.OPEN
    assert protocol.close_reason is None
    assert protocol.stalled
    assert protocol.is_ending
    (event,) = protocol.decode(frame(role, TEXT, b"late"), 1)
    assert isinstance(event, last)
    assert protocol.state is (State.FAILED if bad else State.CLOSE_RECEIVED)
    assert not protocol.stalled
    assert not protocol.is_ending


# UTF-8 as it arrives

INVALID_TEXT = [
    ("80", 0),
    ("6180", 1),
    ("c080", 0),
    ("c1bf", 0),
    ("c3c3", 1),
    ("e08080", 1),
    ("e09fbf", 1),
    ("e28228", 2),
    ("eda080", 1),
    ("edbfbf", 1),
    ("f0808080", 1),
    ("f08fbfbf", 1),
    ("f0908028", 3),
    ("f4908080", 1),
    ("f5808080", 0),
    ("fe", 0),
    ("ff", 0),
    ("cebae1bdb9cf83cebcceb5eda080656469746564", 12),
]
"""Bytes, and the place of the first after which no valid text can follow."""


@BOTH_ROLES
@pytest.mark.parametrize(("text", "place"), INVALID_TEXT)
@pytest.mark.parametrize("fin", [True, False])
def test_invalid_text_fails_at_once_in_the_middle_of_a_frame(
    role: Role, text: str, place: int, fin: bool
) -> None:
    payload = bytes.fromhex(text)
    data = frame(role, TEXT, payload + bytes(200), fin=fin)
    first = len(data) - 200 - len(payload) + place
    protocol = Protocol(role, None)
    for octet in octets(data[:first]):
        assert protocol.decode(octet, UNLIMITED) == []
    (violation,) = decode_all(protocol, data[first : first + 1])
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007
    whole = Protocol(role, None)
    assert comparable(decode_all(whole, data[: first + 1])) == comparable([violation])


@BOTH_ROLES
@pytest.mark.parametrize(("text", "place"), INVALID_TEXT)
def test_invalid_text_fails_at_once_over_fragments_of_a_byte(
    role: Role, text: str, place: int
) -> None:
    protocol = Protocol(role, None)
    opcode = TEXT
    for octet in octets(bytes.fromhex(text)[:place]):
        assert protocol.decode(frame(role, opcode, octet, fin=False), UNLIMITED) == []
        assert protocol.decode(frame(role, PING), UNLIMITED) == [Ping(b"")]
        opcode = CONTINUATION
    bad = bytes.fromhex(text)[place : place + 1]
    (violation,) = decode_all(protocol, frame(role, opcode, bad, fin=False))
    assert isinstance(violation, ProtocolError)
    assert violation.code == 1007


@BOTH_ROLES
def test_binary_is_not_text(role: Role) -> None:
    everything = bytes(range(256))
    protocol = Protocol(role, None)
    assert decode_all(protocol, frame(role, BINARY, everything)) == [everything]
    data = frame(role, BINARY, everything, fin=False) + frame(role, CONTINUATION, everything)
    assert decode_all(protocol, data) == [everything * 2]


# Limits of size


@BOTH_ROLES
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [126, 65535, 65536])
def test_a_message_too_big_fails_by_its_declared_length(
    role: Role, opcode: Opcode, length: int
) -> None:
    data = frame(role, opcode, bytes(length))
    header = data[: len(data) - length]
    protocol = Protocol(role, length)
    assert len(decode_all(protocol, data)) == 1
    protocol.max_message_size = length - 1
    (violation,) = decode_all(protocol, header)
    assert isinstance(violation, MessageTooBig)
    assert (violation.size, violation.limit, violation.code) == (length, length - 1, 1009)
    assert protocol.close_reason == protocol.close_sent == CloseReason(1009, str(violation))
    assert str(length) in str(violation)
    assert str(length - 1) in str(violation)


@BOTH_ROLES
@pytest.mark.parametrize("taken", [False, True])
def test_a_message_too_big_over_fragments(role: Role, taken: bool) -> None:
    protocol = Protocol(role, 10)
    assert decode_all(protocol, frame(role, BINARY, bytes(6), fin=False)) == []
    assert decode_all(protocol, frame(role, PING, bytes(20))) == [Ping(bytes(20))]
    assert decode_all(protocol, frame(role, CONTINUATION, bytes(4), fin=False)) == []
    if taken:
        assert protocol.take_part(None) == bytes(10)
    assert decode_all(protocol, frame(role, CONTINUATION, b"", fin=False)) == []
    (violation,) = decode_all(protocol, frame(role, CONTINUATION, b"x")[:-1])
    assert isinstance(violation, MessageTooBig)
    assert (violation.size, violation.limit, violation.code) == (11, 10, 1009)


@BOTH_ROLES
def test_each_message_has_the_whole_limit(role: Role) -> None:
    protocol = Protocol(role, 10)
    fragments = frame(role, BINARY, bytes(6), fin=False) + frame(role, CONTINUATION, bytes(4))
    assert decode_all(protocol, fragments * 3) == [bytes(10)] * 3
    assert decode_all(protocol, frame(role, BINARY, bytes(10)) * 3) == [bytes(10)] * 3


@BOTH_ROLES
def test_the_limit_may_be_changed_in_the_middle_of_a_message(role: Role) -> None:
    protocol = Protocol(role, 10)
    assert decode_all(protocol, frame(role, BINARY, bytes(10), fin=False)) == []
    protocol.max_message_size = 20
    assert decode_all(protocol, frame(role, CONTINUATION, bytes(10), fin=False)) == []
    protocol.max_message_size = None
    assert decode_all(protocol, frame(role, CONTINUATION, bytes(1000), fin=False)) == []
    protocol.max_message_size = 1019
    (violation,) = decode_all(protocol, frame(role, CONTINUATION))
    assert isinstance(violation, MessageTooBig)
    assert (violation.size, violation.limit) == (1020, 1019)


@BOTH_ROLES
def test_nothing_is_allocated_on_the_strength_of_a_declared_length(role: Role) -> None:
    header = frame(role, BINARY, b"", length="7f7fffffffffffffff", key=bytes(4))
    protocol = Protocol(role, None)
    tracemalloc.start()
    try:
        assert protocol.decode(header + b"start", UNLIMITED) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert protocol.take_part(None) == b"start"
    assert peak < 10_000


@pytest.mark.parametrize(
    "violation", [ProtocolError("a rule", CloseCode.INVALID_PAYLOAD_DATA), MessageTooBig(11, 10)]
)
def test_a_violation_can_be_copied_and_pickled(violation: Violation) -> None:
    for twin in (copy.copy(violation), pickle.loads(pickle.dumps(violation))):
        assert type(twin) is type(violation)
        assert str(twin) == str(violation)
        assert vars(twin) == vars(violation)


# Decoding that stops anywhere

WIRE_LIMIT = 300


@st.composite
def wires(draw: st.DrawFn) -> tuple[Role, bytes]:
    """Frames to one role: mostly good ones, with some bytes changed now and then."""
    role = draw(st.sampled_from(Role))
    data = bytearray()
    in_message = False
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["data", "data", "data", "control", "wrong"]))
        key = draw(st.binary(min_size=4, max_size=4))
        if kind == "data":
            fin = draw(st.booleans())
            opcode = CONTINUATION if in_message else draw(st.sampled_from([TEXT, BINARY]))
            payload = draw(st.text(st.sampled_from("aé€😀"), max_size=20)).encode()
            payload *= draw(st.sampled_from([1, 1, 1, 3, 10]))
            if draw(st.integers(0, 5)) == 0:
                payload = payload[: draw(st.integers(0, len(payload)))]
            data += frame(role, opcode, payload, fin=fin, key=key)
            in_message = not fin
        elif kind == "control":
            payload = draw(st.binary(max_size=125))
            data += frame(role, draw(st.sampled_from([PING, PONG])), payload, key=key)
        elif draw(st.integers(0, 3)) == 0:
            payload = draw(st.binary(max_size=4))
            data += frame(role, draw(st.integers(0, 15)), payload, fin=draw(st.booleans()), key=key)
    if draw(st.booleans()):
        data += frame(role, CLOSE, draw(st.sampled_from([b"", b"\x03\xe8bye", b"\x03\xe8\xff"])))
    if data and draw(st.integers(0, 3)) == 0:
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return role, bytes(data)


def final_state(protocol: Protocol) -> tuple[object, ...]:
    return (
        protocol.state,
        protocol.close_reason,
        protocol.close_sent,
        protocol.close_received,
        protocol.stalled,
        protocol.is_ending,
    )


@given(wires(), st.data())
def test_any_split_and_any_limits_give_the_same_events(
    wire: tuple[Role, bytes], data: st.DataObject
) -> None:
    role, sent = wire
    reference = Protocol(role, WIRE_LIMIT)
    expected = decode_all(reference, sent)
    protocol = Protocol(role, WIRE_LIMIT)
    events: list[Event] = []
    position = 0
    while position < len(sent) or protocol.stalled:
        size = data.draw(st.integers(0, 60)) if position < len(sent) else 0
        limit = data.draw(st.sampled_from([0, 1, 64, 65, 130, 1000, UNLIMITED]))
        before = protocol.stalled
        decoded = protocol.decode(sent[position : position + size], limit)
        assert len(decoded) <= math.ceil(limit / FRAME_COST) + 1
        assert before or size or not decoded
        events += decoded
        position += size
    assert comparable(events) == comparable(expected)
    assert final_state(protocol) == final_state(reference)
    if protocol.state in RECEIVING:
        assert protocol.partial_size == reference.partial_size
        assert protocol.take_part(None) == reference.take_part(None)


@given(st.sampled_from(Role), st.binary(max_size=300))
@example(Role.CLIENT, b"\x01\x02\xe2\x82\x80\x00")
def test_any_bytes_at_all_byte_by_byte(role: Role, sent: bytes) -> None:
    whole, single = Protocol(role, WIRE_LIMIT), Protocol(role, WIRE_LIMIT)
    expected = decode_all(whole, sent)
    events = [event for octet in octets(sent) for event in decode_all(single, octet, 1)]
    assert comparable(events) == comparable(expected)
    assert final_state(single) == final_state(whole)


@BOTH_ROLES
@pytest.mark.parametrize("opcode", [BINARY, PING])
@pytest.mark.parametrize("limit", [1, FRAME_COST, FRAME_COST + 1, 10 * FRAME_COST])
def test_a_call_costs_no_more_than_its_limit_and_one_frame(
    role: Role, opcode: Opcode, limit: int
) -> None:
    protocol = Protocol(role, None)
    calls = [protocol.decode(frame(role, opcode) * 100, limit)]
    while protocol.stalled:
        calls.append(protocol.decode(b"", limit))
    per_call = math.ceil(limit / FRAME_COST)
    sizes = [len(events) for events in calls]
    assert set(sizes[:-1]) == {per_call}
    assert sum(sizes) == 100


@BOTH_ROLES
def test_the_rest_of_a_frame_costs_its_bytes(role: Role) -> None:
    sent = frame(role, BINARY, bytes(1000))
    protocol = Protocol(role, None)
    assert protocol.decode(sent[:500], UNLIMITED) == []
    rest = len(sent) - 500
    assert protocol.decode(sent[500:] + frame(role, PING) * 2, rest) == [bytes(1000)]
    assert protocol.stalled
    assert protocol.decode(b"", 1) == [Ping(b"")]


@BOTH_ROLES
def test_empty_fragments_and_thrown_away_messages_cost_too(role: Role) -> None:
    protocol = Protocol(role, None)
    fragments = frame(role, BINARY, fin=False) + frame(role, CONTINUATION, fin=False) * 99
    calls = 1
    protocol.decode(fragments, 10 * FRAME_COST)
    while protocol.stalled:
        protocol.decode(b"", 10 * FRAME_COST)
        calls += 1
    assert calls == 10
    protocol = Protocol(role, None)
    protocol.discard(True)
    protocol.decode(frame(role, BINARY, bytes(100)) * 2, FRAME_COST + 100)
    assert protocol.stalled
    assert protocol.decode(b"", UNLIMITED) == []
    assert not protocol.stalled


@BOTH_ROLES
def test_a_limit_of_nothing_decodes_nothing_and_loses_nothing(role: Role) -> None:
    protocol = Protocol(role, None)
    for octet in octets(frame(role, TEXT, b"abc")):
        assert protocol.decode(octet, 0) == []
        assert protocol.stalled
    assert protocol.decode(b"", 1) == ["abc"]


@BOTH_ROLES
def test_what_was_kept_is_given_up_once_it_is_decoded(role: Role) -> None:
    sent = frame(role, BINARY, bytes(100)) * 10_000
    protocol = Protocol(role, None)
    tracemalloc.start()
    try:
        start, _ = tracemalloc.get_traced_memory()
        protocol.decode(memoryview(sent), 1)
        held, peak = tracemalloc.get_traced_memory()
        assert held - start < 1.2 * len(sent)
        assert peak - start < 2.2 * len(sent)
        while protocol.stalled:
            protocol.decode(b"", 10_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - start < 2_000


@BOTH_ROLES
@pytest.mark.parametrize("how", ["close", "violation", "fail", "end"])
def test_what_was_kept_is_given_up_when_nothing_counts_any_more(role: Role, how: str) -> None:
    sent = frame(role, TEXT, b"a") + frame(role, CLOSE, rsv=how == "violation") + bytes(1_000_000)
    protocol = Protocol(role, None)
    tracemalloc.start()
    try:
        assert protocol.decode(sent, 1) == ["a"]
        if how == "fail":
            protocol.fail(CloseCode.INTERNAL_ERROR, "")
        elif how == "end":
            protocol.end()
        else:
            assert len(decode_all(protocol, b"", 1)) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000


def test_a_frame_counts_as_much_as_the_options_say() -> None:
    assert FRAME_COST == 512
    assert StreamOptions.__doc__ is not None
    assert "each message counts 512 bytes more" in StreamOptions.__doc__


# Buffers are the caller's


@BOTH_ROLES
@pytest.mark.parametrize("limit", [0, 1, UNLIMITED])
@pytest.mark.parametrize(
    ("name", "opcode", "payload"),
    [
        ("text", TEXT, b"abcdefghi"),
        ("binary", BINARY, b"abcdefghi"),
        ("ping", PING, b"abcdefghi"),
        ("close", CLOSE, b"\x03\xe8abcdefg"),
    ],
)
def test_any_buffer_will_do_and_none_is_kept(
    role: Role, name: str, opcode: Opcode, payload: bytes, limit: int
) -> None:
    sent = frame(role, opcode, payload) * 2
    expected = decode_all(Protocol(role, None), sent)
    makers: list[Callable[[bytearray], Buffer]] = [bytes, lambda data: data, memoryview]
    for make in makers:
        for cut in range(len(sent)):
            protocol = Protocol(role, None)
            events: list[Event] = []
            for piece in (sent[:cut], sent[cut:]):
                owned = bytearray(piece)
                events += protocol.decode(make(owned), limit)
                owned[:] = b"\xff" * len(owned)
                owned.clear()
            events += decode_all(protocol, b"")
            assert events == expected, name


@BOTH_ROLES
@pytest.mark.parametrize(("data", "code", "rule"), RULES)
def test_a_violation_keeps_no_buffer(
    role: Role, data: Callable[[Role], bytes], code: int, rule: str
) -> None:
    sent = data(role)
    for cut in {0, 1, len(sent) - 1}:
        protocol = Protocol(role, None)
        events: list[Event] = []
        for piece in (sent[:cut], sent[cut:]):
            owned = bytearray(piece)
            events += decode_all(protocol, owned)
            owned.clear()
        violation = events[-1]
        assert isinstance(violation, ProtocolError)
        assert violation.__traceback__ is None
        assert violation.__cause__ is violation.__context__ is None


# Parts of messages


def collect_parts(
    protocol: Protocol, pieces: Iterator[bytes], max_bytes: int | None
) -> tuple[list[str | bytes], list[Event]]:
    """Take whatever can be taken after each piece."""
    parts: list[str | bytes] = []
    events: list[Event] = []
    for piece in pieces:
        events += protocol.decode(piece, UNLIMITED)
        while not events and (part := protocol.take_part(max_bytes)) is not None:
            parts.append(part)
    return parts, events


@BOTH_ROLES
@pytest.mark.parametrize("max_bytes", [1, 2, 3, 4, 5, 7, 1000, None])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("text", ["abcdefgh", "éaéé", "€€a€", "😀a😀é😀", "\0😀😀😀"])
def test_parts_of_text_are_whole_code_points(
    role: Role, text: str, chunk: int, max_bytes: int | None
) -> None:
    encoded = text.encode()
    sent = [
        frame(role, CONTINUATION if start else TEXT, encoded[start : start + chunk], fin=False)
        for start in range(0, len(encoded), chunk)
    ]
    protocol = Protocol(role, None)
    parts, events = collect_parts(protocol, iter(sent), max_bytes)
    assert events == []
    assert "".join(map(str, parts)) == text
    for part in parts:
        assert isinstance(part, str)
        assert part
        assert max_bytes is None or len(part) == 1 or len(part.encode()) <= max_bytes
    assert protocol.decode(frame(role, CONTINUATION), UNLIMITED) == [""]


@BOTH_ROLES
@pytest.mark.parametrize("max_bytes", [1, 2, 3, 4, 10, None])
def test_parts_of_binary_are_as_long_as_they_may_be(role: Role, max_bytes: int | None) -> None:
    payload = bytes(range(0x80, 0x8A))
    protocol = Protocol(role, None)
    parts, events = collect_parts(
        protocol, iter([frame(role, BINARY, payload, fin=False)]), max_bytes
    )
    assert events == []
    assert b"".join(map(bytes, parts)) == payload  # type: ignore[arg-type]  # a str would raise
    step = max_bytes or 10
    assert [len(part) for part in parts] == [min(step, 10 - start) for start in range(0, 10, step)]
    assert protocol.decode(frame(role, CONTINUATION), UNLIMITED) == [b""]


@given(
    st.sampled_from(Role),
    st.text(st.sampled_from("aé€😀"), max_size=30),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 20), st.none() | st.integers(1, 9)), min_size=1),
)
def test_parts_and_the_remainder_make_the_message(
    role: Role, text: str, binary: bool, steps: list[tuple[int, int | None]]
) -> None:
    payload = text.encode()
    sent = frame(role, BINARY if binary else TEXT, payload)
    protocol = Protocol(role, None)
    parts: list[str | bytes] = []
    position = 0
    for size, max_bytes in steps:
        parts += [
            event
            for event in protocol.decode(sent[position : position + size], UNLIMITED)
            if isinstance(event, str | bytes)
        ]
        position += size
        part = protocol.take_part(max_bytes)
        assert part is None or part
        parts += [] if part is None else [part]
    parts += [
        event
        for event in protocol.decode(sent[position:], UNLIMITED)
        if isinstance(event, str | bytes)
    ]
    whole = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    assert whole == payload
    assert {type(part) for part in parts} == {bytes if binary else str}


@BOTH_ROLES
def test_the_first_part_may_be_a_code_point_longer_than_max_bytes(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.decode(frame(role, TEXT, "😀é".encode(), fin=False), UNLIMITED)
    assert protocol.take_part(1) == "😀"
    assert protocol.take_part(1) == "é"
    assert protocol.take_part(1) is None


@BOTH_ROLES
def test_there_is_no_part_while_there_is_nothing(role: Role) -> None:
    protocol = Protocol(role, None)
    assert protocol.take_part(None) is None
    assert protocol.decode(frame(role, TEXT, b"whole"), UNLIMITED) == ["whole"]
    assert protocol.take_part(1) is None
    assert protocol.decode(frame(role, TEXT, fin=False), UNLIMITED) == []
    assert protocol.take_part(None) is None
    assert protocol.decode(frame(role, CONTINUATION, b"\xe2\x82", fin=False), UNLIMITED) == []
    assert protocol.partial_size == 2
    assert protocol.take_part(None) is None
    assert protocol.decode(frame(role, CONTINUATION, b"\xaca\xc3", fin=False), UNLIMITED) == []
    assert protocol.take_part(None) == "€a"
    assert protocol.partial_size == 1
    assert protocol.take_part(None) is None
    assert protocol.decode(frame(role, CONTINUATION, b"\xa9"), UNLIMITED) == ["é"]
    assert protocol.take_part(None) is None


@BOTH_ROLES
@pytest.mark.parametrize("last", [b"\xff", b"\x03\xe8"])
def test_a_part_that_came_before_the_end_can_still_be_taken(role: Role, last: bytes) -> None:
    protocol = Protocol(role, None)
    protocol.decode(frame(role, TEXT, b"before", fin=False), UNLIMITED)
    opcode = CLOSE if last == b"\x03\xe8" else CONTINUATION
    protocol.decode(frame(role, opcode, last), UNLIMITED)
    protocol.end()
    assert protocol.take_part(None) == "before"


# Throwing messages away


@BOTH_ROLES
def test_discarding_throws_away_messages_and_keeps_control_frames(role: Role) -> None:
    protocol = Protocol(role, 3)
    protocol.discard(True)
    assert protocol.discarding
    sent = (
        frame(role, TEXT, b"\xff")
        + frame(role, PING, b"p")
        + frame(role, BINARY, bytes(1000))
        + frame(role, TEXT, b"\xff", fin=False)
        + frame(role, PONG, b"q")
        + frame(role, CONTINUATION, bytes(1000))
        + frame(role, CLOSE)
    )
    expected = [Ping(b"p"), Pong(b"q"), Close(b"", CloseReason(1005, ""))]
    assert decode_all(protocol, sent) == expected
    protocol = Protocol(role, 3)
    protocol.discard(True)
    events: list[Event] = []
    for octet in octets(sent):
        events += decode_all(protocol, octet)
        assert protocol.partial_size == 0
        assert protocol.take_part(None) is None
    assert events == expected


@BOTH_ROLES
def test_discarding_still_knows_the_rules_of_framing(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.discard(True)
    (event,) = decode_all(protocol, frame(role, CONTINUATION))
    assert isinstance(event, ProtocolError)
    assert event.rule == "there is no message to continue (section 5.4)"


@BOTH_ROLES
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_which_a_part_was_thrown_away_is_thrown_away_whole(
    role: Role, opcode: Opcode
) -> None:
    sent = frame(role, opcode, b"ab\xe2", fin=False) + frame(role, CONTINUATION, b"\x82\xacc")
    whole: Event = "ab€c" if opcode is TEXT else "ab€c".encode()
    following = frame(role, opcode, b"next")
    after_it: Event = "next" if opcode is TEXT else b"next"
    for on in range(len(sent) + 1):
        for off in range(on, len(sent) + 1):
            protocol = Protocol(role, None)
            events = decode_all(protocol, sent[:on])
            protocol.discard(True)
            events += decode_all(protocol, sent[on:off])
            protocol.discard(False)
            events += decode_all(protocol, sent[off:])
            in_message = meets_message(role, sent, on, off)
            assert events == ([] if in_message else [whole]), (on, off)
            assert protocol.partial_size == 0
            assert decode_all(protocol, following) == [after_it]


def meets_message(role: Role, sent: bytes, on: int, off: int) -> bool:
    """Whether discarding, on after *on* bytes and off after *off*, has met the message."""
    header = 6 if role is Role.SERVER else 2
    return on < len(sent) and off >= header


@BOTH_ROLES
def test_not_to_discard_what_was_not_discarded_changes_nothing(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.decode(frame(role, TEXT, b"a\xe2", fin=False), UNLIMITED)
    protocol.discard(False)
    assert not protocol.discarding
    assert protocol.decode(frame(role, CONTINUATION, b"\x82\xac"), UNLIMITED) == ["a€"]


@BOTH_ROLES
def test_discarding_forgets_half_a_code_point(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.decode(frame(role, TEXT, b"a\xe2\x82", fin=False), UNLIMITED)
    protocol.discard(True)
    assert protocol.partial_size == 0
    assert protocol.take_part(None) is None
    protocol.discard(False)
    assert protocol.decode(frame(role, CONTINUATION, b"b"), UNLIMITED) == []
    assert protocol.decode(frame(role, TEXT, b"c"), UNLIMITED) == ["c"]


@BOTH_ROLES
def test_a_message_that_is_thrown_away_may_have_any_size(role: Role) -> None:
    protocol = Protocol(role, 3)
    protocol.decode(frame(role, BINARY, b"abc", fin=False), UNLIMITED)
    protocol.discard(True)
    protocol.discard(False)
    assert protocol.decode(frame(role, CONTINUATION, b"defg"), UNLIMITED) == []
    assert protocol.decode(frame(role, BINARY, b"abc"), UNLIMITED) == [b"abc"]
    (event,) = decode_all(protocol, frame(role, BINARY, b"abcd"))
    assert isinstance(event, MessageTooBig)


# Closing

BYE = CloseReason(1000, "bye")
WHY = CloseReason(4000, "why")
BROKEN = CloseReason(1011, "broken")

SEND, RECEIVE, FAIL, END = Signal


def signal(protocol: Protocol, what: Signal) -> None:
    if what is SEND:
        protocol.send_close(BYE)
    elif what is RECEIVE:
        decode_all(protocol, frame(protocol.role, CLOSE, b"\x0f\xa0why"))
    elif what is FAIL:
        protocol.fail(CloseCode.INTERNAL_ERROR, "broken")
    else:
        protocol.end()


HISTORIES = [
    ([], State.OPEN, None, None, None),
    ([SEND], State.CLOSE_SENT, BYE, BYE, None),
    ([RECEIVE], State.CLOSE_RECEIVED, WHY, None, WHY),
    ([SEND, RECEIVE], State.CLOSED, WHY, BYE, WHY),
    ([RECEIVE, SEND], State.CLOSED, WHY, BYE, WHY),
    ([FAIL], State.FAILED, BROKEN, BROKEN, None),
    ([SEND, FAIL], State.FAILED, BROKEN, BYE, None),
    ([RECEIVE, FAIL], State.FAILED, BROKEN, BROKEN, WHY),
    ([END], State.LOST, CloseReason(1006, ""), None, None),
    ([SEND, END], State.LOST, CloseReason(1006, ""), BYE, None),
    ([RECEIVE, END], State.LOST, WHY, None, WHY),
    ([SEND, RECEIVE, END], State.CLOSED, WHY, BYE, WHY),
    ([FAIL, END], State.FAILED, BROKEN, BROKEN, None),
    ([SEND, FAIL, END], State.FAILED, BROKEN, BYE, None),
    ([END, END], State.LOST, CloseReason(1006, ""), None, None),
    ([SEND, RECEIVE, END, END], State.CLOSED, WHY, BYE, WHY),
]
"""Signals; the state they lead to; close_reason, close_sent and close_received in it."""

NEXT = {
    State.OPEN: {SEND, RECEIVE, FAIL, END},
    State.CLOSE_SENT: {RECEIVE, FAIL, END},
    State.CLOSE_RECEIVED: {SEND, FAIL, END},
    State.CLOSED: {END},
    State.FAILED: {END},
    State.LOST: {END},
}
"""The signals that each state knows."""


@BOTH_ROLES
@pytest.mark.parametrize(("signals", "state", "reason", "sent", "received"), HISTORIES)
def test_close_reason_in_every_state(
    role: Role,
    signals: list[Signal],
    state: State,
    reason: CloseReason | None,
    sent: CloseReason | None,
    received: CloseReason | None,
) -> None:
    protocol = Protocol(role, None)
    for what in signals:
        signal(protocol, what)
    assert protocol.state is state
    assert protocol.close_reason == reason
    assert protocol.close_sent == sent
    assert protocol.close_received == received


@BOTH_ROLES
@pytest.mark.parametrize("what", Signal)
@pytest.mark.parametrize(
    ("signals", "state"), [(signals, state) for signals, state, *_ in HISTORIES]
)
def test_a_signal_that_a_state_does_not_know_changes_nothing(
    role: Role, signals: list[Signal], state: State, what: Signal
) -> None:
    protocol = Protocol(role, None)
    for earlier in signals:
        signal(protocol, earlier)
    before = final_state(protocol)
    if what in NEXT[state]:
        signal(protocol, what)
        assert (protocol.state is state) == (what is END and NEXT[state] == {END})
        return
    if what is RECEIVE:
        signal(protocol, what)
    else:
        with pytest.raises(KeyError):
            signal(protocol, what)
    assert final_state(protocol) == before


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == {(state, what) for state in State for what in NEXT[state]}
    assert {state for state, what in TRANSITIONS if what is RECEIVE} == set(RECEIVING)


@BOTH_ROLES
@pytest.mark.parametrize("what", [FAIL, END])
@pytest.mark.parametrize("ending", [False, True])
def test_failing_and_ending_forget_what_was_not_decoded(
    role: Role, what: Signal, ending: bool
) -> None:
    protocol = Protocol(role, None)
    behind = frame(role, CLOSE) if ending else frame(role, TEXT, b"b")
    assert protocol.decode(frame(role, TEXT, b"a") + behind, UNLIMITED if ending else 1) == ["a"]
    assert protocol.stalled
    signal(protocol, what)
    assert not protocol.stalled
    assert not protocol.is_ending
    assert protocol.decode(b"", UNLIMITED) == []


@BOTH_ROLES
def test_messages_are_received_while_the_own_close_is_on_its_way(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.send_close(BYE)
    assert decode_all(protocol, frame(role, TEXT, b"late")) == ["late"]
    assert decode_all(protocol, frame(role, CLOSE)) == [Close(b"", CloseReason(1005, ""))]
    assert protocol.state is State.CLOSED


@BOTH_ROLES
def test_a_violation_after_the_own_close_leaves_that_close_as_it_was(role: Role) -> None:
    protocol = Protocol(role, None)
    protocol.send_close(BYE)
    (violation,) = decode_all(protocol, frame(role, CONTINUATION))
    assert isinstance(violation, ProtocolError)
    assert protocol.state is State.FAILED
    assert protocol.close_sent == BYE
    assert protocol.close_reason == CloseReason(1002, violation.rule)


@BOTH_ROLES
def test_a_close_that_waits_in_what_was_kept_meets_the_own_close(role: Role) -> None:
    protocol = Protocol(role, None)
    assert protocol.decode(frame(role, TEXT, b"a") + frame(role, CLOSE), UNLIMITED) == ["a"]
    protocol.send_close(BYE)
    assert protocol.decode(b"", UNLIMITED) == [Close(b"", CloseReason(1005, ""))]
    assert protocol.state is State.CLOSED


def test_a_long_reason_to_fail_is_cut_to_fit() -> None:
    protocol = Protocol(Role.CLIENT, None)
    protocol.fail(CloseCode.INTERNAL_ERROR, 100 * "é")
    assert protocol.close_sent == protocol.close_reason == CloseReason(1011, 61 * "é")


def test_a_reason_to_fail_may_be_any_string() -> None:
    protocol = Protocol(Role.CLIENT, None)
    protocol.fail(CloseCode.INTERNAL_ERROR, "no file \udcff")
    assert protocol.close_sent == protocol.close_reason == CloseReason(1011, "no file ?")
