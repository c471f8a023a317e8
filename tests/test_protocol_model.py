"""Two protocols talk over two wires, cut anywhere, and some rules are broken on purpose.

The model knows what each side has put on its wire, so it knows every event that the other side must
see, in order, and what both must think of how the connection ended.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_ws._frames import (
    FIN,
    FRAME_COST,
    CloseCode,
    CloseReason,
    Opcode,
    apply_mask,
    pack_close,
    pack_header,
    truncate_reason,
)
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
    Violation,
)

MAX_MESSAGE_SIZE = 400
UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Broken:
    """A violation that must be seen."""

    code: CloseCode


@dataclass
class Side:
    """One protocol, what it has sent, and what of it the other side has still to see."""

    role: Role
    protocol: Protocol = field(init=False)
    wire: bytearray = field(default_factory=bytearray)
    unseen: deque[Event | Broken] = field(default_factory=deque)
    doomed: bool = False
    """Whether nothing more that this side sends is seen: a Close or a violation is on its wire, or
    the other side has stopped listening."""
    opcode: Opcode | None = None
    """Of the message that this side is in the middle of."""
    sent: bytes = b""
    """What has been sent of it."""
    taken: str | bytes | None = None
    """What has been taken of the message that this side receives."""

    received_close: CloseReason | None = None
    sent_close: CloseReason | None = None
    failure: CloseReason | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.protocol = Protocol(self.role, MAX_MESSAGE_SIZE)

    def put(self, first_byte: int, payload: bytes) -> None:
        key = os.urandom(4) if self.role is Role.CLIENT else None
        self.wire += pack_header(first_byte, len(payload), key)
        self.wire += payload if key is None else apply_mask(payload, key)

    def must_be_seen(self, event: Event | Broken) -> None:
        if not self.doomed:
            self.unseen.append(event)
        if isinstance(event, Close | Broken):
            self.doomed = True

    def put_close(self, reason: CloseReason) -> None:
        self.sent_close = reason
        payload = b"" if reason.code == CloseCode.NO_STATUS_RECEIVED else pack_close(*reason)
        self.put(FIN | Opcode.CLOSE, payload)
        self.must_be_seen(Close(payload, reason))

    @property
    def expected_reason(self) -> CloseReason | None:
        if self.failure or self.received_close:
            return self.failure or self.received_close
        if self.ended:
            return CloseReason(CloseCode.ABNORMAL_CLOSURE, "")
        return self.sent_close

    @property
    def expected_state(self) -> State:
        if self.failure:
            return State.FAILED
        if self.received_close and self.sent_close:
            return State.CLOSED
        if self.ended:
            return State.LOST
        if self.received_close:
            return State.CLOSE_RECEIVED
        return State.CLOSE_SENT if self.sent_close else State.OPEN


Break = Callable[[Side], CloseCode]

PROTOCOL_ERROR, INVALID = CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD_DATA


def wrong_frame(first_byte: int, payload: bytes = b"", code: CloseCode = PROTOCOL_ERROR) -> Break:
    def put(side: Side) -> CloseCode:
        side.put(first_byte, payload)
        return code

    return put


def wrong_role(side: Side) -> CloseCode:
    masked = side.role is Role.SERVER
    side.wire += pack_header(FIN | Opcode.PING, 0, b"\1\2\3\4" if masked else None)
    return PROTOCOL_ERROR


def wrong_order(side: Side) -> CloseCode:
    side.put(FIN | (Opcode.CONTINUATION if side.opcode is None else Opcode.BINARY), b"data")
    return PROTOCOL_ERROR


def wrong_text(side: Side) -> CloseCode:
    if side.opcode is Opcode.BINARY:
        side.put(FIN | Opcode.CONTINUATION, b"")
        message: Event = side.sent
        side.must_be_seen(message)
        side.opcode = None
    side.put(Opcode.TEXT if side.opcode is None else Opcode.CONTINUATION, b"a\xff")
    return INVALID


def too_big(side: Side) -> CloseCode:
    opcode = Opcode.BINARY if side.opcode is None else Opcode.CONTINUATION
    side.put(opcode, bytes(MAX_MESSAGE_SIZE + 1))
    return CloseCode.MESSAGE_TOO_BIG


BREAKS: list[Break] = [
    wrong_role,
    wrong_order,
    wrong_text,
    too_big,
    wrong_frame(FIN | 0x40 | Opcode.PING),
    wrong_frame(FIN | 0x3),
    wrong_frame(FIN | 0xB),
    wrong_frame(Opcode.PING),
    wrong_frame(FIN | Opcode.PONG, bytes(126)),
    wrong_frame(FIN | Opcode.CLOSE, b"\x03"),
    wrong_frame(FIN | Opcode.CLOSE, b"\x03\xed"),
    wrong_frame(FIN | Opcode.CLOSE, b"\x03\xe8\xff", INVALID),
]

roles = st.sampled_from(Role)
texts = st.text(st.sampled_from("aé€😀"), max_size=60)
codes = st.sampled_from([1000, 1001, 1011, 3000, 4999])
max_bytes = st.none() | st.integers(1, 50)


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sides = {role: Side(role) for role in Role}
        self.peace = 0

    @initialize(peace=st.integers(0, 20))
    def keep_the_peace(self, peace: int) -> None:
        """For so many sends nothing is broken or closed, and for some more no side gives up."""
        self.peace = peace

    def may_close(self) -> bool:
        return self.peace <= 0

    def may_give_up(self) -> bool:
        return self.peace <= -10

    def sender(self, role: Role) -> Side | None:
        """The side of *role* if it may still send messages."""
        self.peace -= 1
        side = self.sides[role]
        return side if side.protocol.state is State.OPEN else None

    def peer(self, side: Side) -> Side:
        return self.sides[Role.SERVER if side.role is Role.CLIENT else Role.CLIENT]

    # Sending

    @rule(role=roles, text=texts, binary=st.booleans(), fin=st.booleans())
    def send(self, role: Role, text: str, binary: bool, fin: bool) -> None:
        """A message, or its next part; a text may be cut within a code point."""
        side = self.sender(role)
        if side is None:
            return
        first_byte = Opcode.CONTINUATION
        if side.opcode is None:
            first_byte = side.opcode = Opcode.BINARY if binary else Opcode.TEXT
            side.sent = b""
        part = text.encode()
        side.put(FIN | first_byte if fin else first_byte, part)
        side.sent += part
        if len(side.sent) > MAX_MESSAGE_SIZE:
            side.must_be_seen(Broken(CloseCode.MESSAGE_TOO_BIG))
        elif fin:
            side.must_be_seen(side.sent if side.opcode is Opcode.BINARY else side.sent.decode())
        if fin:
            side.opcode = None

    @rule(role=roles, text=texts, binary=st.booleans())
    def send_a_fragment_a_byte(self, role: Role, text: str, binary: bool) -> None:
        side = self.sender(role)
        if side is None or side.opcode is not None:
            return
        payload = text.encode()
        opcode = Opcode.BINARY if binary else Opcode.TEXT
        for index in range(len(payload)):
            side.put(opcode if index == 0 else Opcode.CONTINUATION, payload[index : index + 1])
        side.put(FIN | (Opcode.CONTINUATION if payload else opcode), b"")
        side.must_be_seen(payload if binary else text)

    @rule(role=roles, payload=st.binary(max_size=125), pong=st.booleans())
    def send_ping_or_pong(self, role: Role, payload: bytes, pong: bool) -> None:
        if side := self.sender(role):
            side.put(FIN | (Opcode.PONG if pong else Opcode.PING), payload)
            side.must_be_seen(Pong(payload) if pong else Ping(payload))

    @precondition(may_close)
    @rule(role=roles, broken=st.sampled_from(BREAKS))
    def break_a_rule(self, role: Role, broken: Break) -> None:
        if side := self.sender(role):
            side.must_be_seen(Broken(broken(side)))

    # Closing

    @precondition(may_close)
    @rule(role=roles, code=st.just(CloseCode.NO_STATUS_RECEIVED) | codes)
    def send_close(self, role: Role, code: int) -> None:
        """The first Close, or the answer to the peer's."""
        side = self.sides[role]
        if side.protocol.state in (State.OPEN, State.CLOSE_RECEIVED):
            reason = CloseReason(code, "" if code == CloseCode.NO_STATUS_RECEIVED else "tschüß")
            side.protocol.send_close(reason)
            side.put_close(reason)

    @precondition(may_give_up)
    @rule(role=roles)
    def give_up(self, role: Role) -> None:
        side = self.sides[role]
        if side.protocol.state in (State.OPEN, State.CLOSE_SENT, State.CLOSE_RECEIVED):
            side.protocol.fail(CloseCode.INTERNAL_ERROR, 200 * "x")
            self.check_failed(side, CloseReason(CloseCode.INTERNAL_ERROR, 123 * "x"))

    def check_failed(self, side: Side, failure: CloseReason) -> None:
        side.failure = failure
        if side.sent_close is None:
            side.put_close(failure)
        self.stop_listening(side)

    def stop_listening(self, side: Side) -> None:
        self.peer(side).unseen.clear()
        self.peer(side).doomed = True

    @precondition(may_give_up)
    @rule(role=roles)
    def end(self, role: Role) -> None:
        """The transport ends for *role*; what is on its way to it is lost."""
        side = self.sides[role]
        side.protocol.end()
        side.ended = True
        self.stop_listening(side)

    # Receiving

    @rule(role=roles, size=st.integers(0, 300), limit=st.sampled_from([0, 1, 65, 500, UNLIMITED]))
    def receive(self, role: Role, size: int, limit: int) -> None:
        side = self.sides[role]
        peer = self.peer(side)
        # As a stream does: nothing is read while there is something to decode.
        piece = b"" if side.protocol.stalled else peer.wire[:size]
        del peer.wire[: len(piece)]
        receiving = side.protocol.state in RECEIVING and not side.ended
        events = side.protocol.decode(piece, limit)
        assert receiving or not events
        assert len(events) <= math.ceil(limit / FRAME_COST) + 1
        for event in events:
            assert len(events) == 1 or not isinstance(event, Close | Violation)
            self.see(side, event)

    def see(self, side: Side, event: Event) -> None:
        expected = self.peer(side).unseen.popleft()
        if isinstance(event, Violation):
            assert isinstance(expected, Broken)
            assert event.code == expected.code
            assert isinstance(event, MessageTooBig | ProtocolError)
            self.check_failed(side, CloseReason(event.code, truncate_reason(str(event))))
            return
        if isinstance(event, str | bytes) and side.taken is not None:
            event = joined(side.taken, event)
            side.taken = None
        assert type(event) is type(expected)
        assert event == expected
        if isinstance(event, Close):
            side.received_close = event.reason

    @rule(role=roles, size=max_bytes)
    def take_part(self, role: Role, size: int | None) -> None:
        side = self.sides[role]
        before = side.protocol.partial_size
        part = side.protocol.take_part(size)
        if part is None:
            assert before <= 3
            return
        encoded = part.encode() if isinstance(part, str) else part
        assert encoded
        assert side.protocol.partial_size == before - len(encoded)
        assert size is None or len(encoded) <= size or (isinstance(part, str) and len(part) == 1)
        side.taken = part if side.taken is None else joined(side.taken, part)

    # What is always so

    @invariant()
    def both_know_how_they_stand(self) -> None:
        for side in self.sides.values():
            protocol = side.protocol
            assert protocol.state is side.expected_state
            assert protocol.close_reason == side.expected_reason
            assert protocol.close_sent == side.sent_close
            assert protocol.close_received == side.received_close
            assert protocol.state in RECEIVING or not protocol.stalled
            assert protocol.stalled or not protocol.is_ending

    def teardown(self) -> None:
        """Whatever is still on its way arrives."""
        while any(side.wire or side.protocol.stalled for side in self.sides.values()):
            for role in Role:
                self.receive(role, 1 << 20, UNLIMITED)
        for side in self.sides.values():
            assert not side.unseen
        self.both_know_how_they_stand()


def joined(start: str | bytes, rest: str | bytes) -> str | bytes:
    if isinstance(start, str):
        assert isinstance(rest, str)
        return start + rest
    assert isinstance(rest, bytes)
    return start + rest


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
