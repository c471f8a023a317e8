"""What has been received and not yet taken: whole messages, of the first perhaps only the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ._frames import FRAME_COST

_EMPTY: Final[deque[str | bytes]] = deque(maxlen=0)
"""Stands for every inbox that is empty: a deque takes 760 bytes, and most connections are idle."""


class Inbox:
    """The messages of one stream that wait for ``receive``, in the order in which they arrived.

    :ivar size: their bytes (of text, its characters), and :data:`FRAME_COST` for each.
    :ivar resume_size: at this size there is room again for who fills it, and pauses meanwhile;
        negative while nobody does.
    """

    __slots__ = ("_messages", "_offset", "resume_size", "size")

    def __init__(self) -> None:
        self._messages = _EMPTY
        # Of the first message, this much has been taken in parts.
        self._offset = 0
        self.size = 0
        self.resume_size = -1

    def __bool__(self) -> bool:
        return bool(self._messages)

    def put(self, messages: Sequence[str | bytes]) -> None:
        """They have arrived; or the rest of one of which parts were taken while it arrived."""
        if self._messages is _EMPTY:
            self._messages = deque(messages)
        else:
            self._messages.extend(messages)
        self.size += FRAME_COST * len(messages) + sum(map(len, messages))

    def take(self) -> str | bytes:
        """The first message, or what is left of it; only if there is one."""
        message = self._messages.popleft()
        self.size -= FRAME_COST + len(message)
        if not self.size:
            self._messages = _EMPTY
        if self._offset:
            message = message[self._offset :]
            self._offset = 0
        return message

    def take_part(self, max_bytes: int | None) -> tuple[str | bytes, bool]:
        """At most *max_bytes* of the first message, but at least one code point; and if it ends."""
        message = self._messages[0]
        if max_bytes is None:
            part = message[self._offset :]
        else:
            part = message[self._offset : self._offset + max_bytes]
            if isinstance(part, str):
                part = _shorten(part, max_bytes)
        self._offset += len(part)
        if self._offset < len(message):
            return part, False
        self.take()
        return part, True

    def clear(self) -> None:
        """Drop everything, the room that it took included."""
        self._messages = _EMPTY
        self._offset = self.size = 0


def _shorten(text: str, max_bytes: int) -> str:
    """As much of *text* as has *max_bytes* in UTF-8, but at least one code point."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[:max_bytes].decode(errors="ignore") or text[0]
