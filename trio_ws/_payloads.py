"""What the user gives to be sent, as opcode and bytes: checked, and changed by nobody any more."""

from __future__ import annotations

from typing import TypeAlias

from ._frames import MAX_CONTROL_PAYLOAD, Buffer, Opcode, pack_close, validate_utf8

Message: TypeAlias = str | bytes
Data: TypeAlias = str | bytes | bytearray | memoryview

# An attribute of an enum costs as much as a whole check.
_TEXT, _BINARY = Opcode.TEXT, Opcode.BINARY


def encode_message(message: Data, text: bool | None) -> tuple[Opcode, bytes]:
    """Opcode and payload of *message*: see :meth:`WebSocketStream.send` for what is refused."""
    if isinstance(message, str):
        return _BINARY if text is False else _TEXT, message.encode()
    payload = message if type(message) is bytes else to_bytes(message)
    if not text:
        return _BINARY, payload
    validate_utf8(b"", payload, True)
    return _TEXT, payload


def message_opcode(data: Data, text: bool | None) -> Opcode:
    if text is None:
        text = isinstance(data, str)
    return _TEXT if text else _BINARY


def to_bytes(data: Data) -> bytes:
    """The payload to commit: what nobody can change any more."""
    if isinstance(data, str):
        return data.encode()
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"a message is str or bytes-like, not {type(data).__name__}") from None


def control_payload(payload: Buffer) -> bytes:
    if isinstance(payload, str):
        raise TypeError("the payload of a ping or pong is bytes-like, not str: encode() it")
    try:
        data = bytes(memoryview(payload))
    except TypeError:
        kind = type(payload).__name__
        raise TypeError(f"the payload of a ping or pong is bytes-like, not {kind}") from None
    if len(data) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"a payload of {len(data)} bytes: at most {MAX_CONTROL_PAYLOAD} fit into a ping or pong"
        )
    return data


def close_payload(code: int | None, reason: str) -> bytes:
    """The payload of a Close frame: see :meth:`WebSocketStream.send_close` for what is refused."""
    if not isinstance(code, int | None):
        raise TypeError(f"the code of a Close is an int, not {code!r}: a text is its reason=")
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a Close is str, not {type(reason).__name__}")
    return pack_close(code, reason)
