"""The last messages of a room, for who comes later or comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from .messages import Message


class History:
    """Messages in the order of their ids.

    :param size: how many; beyond that the oldest go.
    :ivar gone: there may have been messages up to this id, which are not to be had.
    """

    def __init__(self, size: int, messages: Iterable[Message] = ()) -> None:
        self._messages: deque[Message] = deque(messages, maxlen=size)
        self.gone = 0

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def last_id(self) -> int:
        """0 if there is no message."""
        return self._messages[-1].id if self._messages else 0

    @property
    def seen(self) -> int:
        """The id that who has seen everything has seen."""
        return max(self.last_id, self.gone)

    def begin_after(self, id_: int) -> None:
        """The messages up to that id are not to be had."""
        self.gone = max(self.gone, id_)

    def add(self, message: Message) -> bool:
        """Add *message*, unless it is here already.

        :returns: whether it was added.
        """
        if message.id <= self.last_id or any(each.key == message.key for each in self._messages):
            return False
        if len(self._messages) == self._messages.maxlen:
            self.begin_after(self._messages[0].id)
        self._messages.append(message)
        return True

    def since(self, seen: int | None) -> tuple[list[Message], bool]:
        """The messages after the one with the id *seen*; all, if that is None.

        :returns: the messages, and whether they are all that there were.
        """
        if seen is None:
            return list(self._messages), True
        messages = [message for message in self._messages if message.id > seen]
        return messages, seen >= self.gone
