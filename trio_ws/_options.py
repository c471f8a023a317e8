"""What the caller may choose: timeouts and limits, as values that check themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from ._frames import Opcode

ControlCallback: TypeAlias = Callable[[Opcode, bytes], None]
"""What is called for every ping, pong and close received, with its opcode and payload."""

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a stream waits for its peer (Beast's ``stream_base::timeout``).

    :param handshake: seconds for the whole opening handshake, and again for the whole close: flush,
        Close frames, TLS and TCP. Data that still arrives does not extend it. Default 30. None: no
        limit.
    :param idle: seconds of silence after which the peer counts as gone, and seconds for which the
        kernel may take nothing of what is to be written. Default 60. None: no limit.
    :param keep_alive_pings: whether a ping is sent after half of *idle*, so that a healthy peer
        that has nothing to say stays connected. Default True.
    :raises ValueError: if a number is not positive.
    """

    handshake: float | None = 30.0
    idle: float | None = 60.0
    keep_alive_pings: bool = True

    def __post_init__(self) -> None:
        for name in ("handshake", "idle"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name}={seconds!r}: give seconds above 0, or None for no limit")

    @classmethod
    def suggested(cls, role: Literal["client", "server"]) -> Timeouts:
        """Beast's ``timeout::suggested``: 30 s and no idle limit for a client; 30 s, 300 s and
        pings for a server.
        """
        if role == "client":
            return cls(handshake=30.0, idle=None, keep_alive_pings=False)
        if role == "server":
            return cls(handshake=30.0, idle=300.0, keep_alive_pings=True)
        raise ValueError(f"role={role!r}: give 'client' or 'server'")

    @property
    def handshake_seconds(self) -> float:
        """*handshake*, infinity for None."""
        return math.inf if self.handshake is None else self.handshake

    @property
    def idle_seconds(self) -> float:
        """*idle*, infinity for None."""
        return math.inf if self.idle is None else self.idle


class StreamKeywords(TypedDict, total=False):
    """The keyword arguments that every way to open a stream takes: see :class:`StreamOptions`."""

    timeouts: Timeouts
    max_message_size: int | None
    max_frame_size: int | None
    max_handshake_size: int
    max_inbox_size: int
    max_outbox_size: int
    control_callback: ControlCallback | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The options of one stream, whichever way it is opened.

    :param timeouts: see :class:`Timeouts`.
    :param max_message_size: bytes that a received message may have, all its frames together; above
        it the connection fails with 1009. Default 16 MiB. None: no limit.
    :param max_frame_size: bytes of payload after which a sent message goes on in a further frame
        (Beast's ``auto_fragment`` and ``write_buffer_bytes``). Pings and pongs pass between frames.
        Default None: one frame a message.
    :param max_handshake_size: bytes that the head of the opening handshake's request or response
        may have. Default 64 KiB.
    :param max_inbox_size: bytes of received messages that wait for ``receive`` before the stream
        stops reading; each message counts 64 bytes more than its length. Default 64 KiB.
    :param max_outbox_size: bytes of committed messages that wait to be written before ``send``
        waits. Default 64 KiB.
    :param control_callback: called with opcode and payload of every ping, pong and close received,
        in the reader, so it must be quick; if it raises, the connection fails with 1011. Default
        None.
    :raises ValueError: if a size is out of range.
    """

    timeouts: Timeouts = Timeouts()
    max_message_size: int | None = 16 * MIB
    max_frame_size: int | None = None
    max_handshake_size: int = 64 * 1024
    max_inbox_size: int = 64 * 1024
    max_outbox_size: int = 64 * 1024
    control_callback: ControlCallback | None = None

    def __post_init__(self) -> None:
        for name in ("max_message_size", "max_frame_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name}={size!r}: give a positive number of bytes, or None")
        for name in ("max_handshake_size", "max_inbox_size", "max_outbox_size"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"{name}={size!r}: give a positive number of bytes")

    def replace(self, changes: StreamKeywords) -> StreamOptions:
        """These options with *changes*, checked again."""
        return dataclasses.replace(self, **changes)
