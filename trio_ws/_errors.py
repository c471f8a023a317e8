"""The exceptions that are also Trio's. The rooms without I/O define their own and know no Trio."""

from __future__ import annotations

from functools import partial

import trio

from ._frames import CloseReason
from ._handshake import HandshakeError


class ConnectionClosed(Exception):
    """The WebSocket connection is closing or closed. ``__cause__`` says why, where it is known.

    Catch this one for every end of a connection, whichever side ended it and however.

    :ivar code: the close code: the peer's, or this side's if it failed the connection; 1005 if the
        peer's Close had none, 1006 if the transport ended without a Close.
    :ivar reason: the text that came with it.
    :ivar received: the peer's Close frame, or None.
    :ivar sent: this side's Close frame, or None.
    :ivar stream: the :class:`WebSocketStream` that it happened to.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        *,
        received: CloseReason | None,
        sent: CloseReason | None,
        stream: trio.abc.Channel[str | bytes],
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.received = received
        self.sent = sent
        self.stream = stream

    def __reduce__(self) -> tuple[object, ...]:
        """For ``copy``, which would not give the constructor its keywords."""
        make = partial(type(self), received=self.received, sent=self.sent, stream=self.stream)
        return make, self.args, self.__dict__

    def __str__(self) -> str:
        text = f"the WebSocket connection is closed: {self.code}"
        if self.reason:
            text += f" {self.reason!r}"
        if self.received is None and self.sent is None:
            return text + ", and no Close frame was exchanged"
        if self.received is None:
            return text + ", and the peer sent no Close frame"
        return text


class ConnectionClosedOK(ConnectionClosed, trio.EndOfChannel):
    """Receiving: the connection was closed in order, with 1000, 1001 or without a code."""


class ConnectionClosedError(ConnectionClosed, trio.BrokenResourceError):
    """Receiving: the connection did not end in order. Sending: it has ended, however."""


class HandshakeTimeout(HandshakeError, trio.TooSlowError):
    """The opening handshake took longer than ``Timeouts.handshake``."""


class StreamClosed(trio.ClosedResourceError):
    """This side has closed the stream: to everybody a ``trio.ClosedResourceError``, and a server
    can tell that of the handler's own stream from others.
    """

    def __init__(self, stream: trio.abc.Channel[str | bytes]) -> None:
        super().__init__("this side has closed the stream")
        self.stream = stream
