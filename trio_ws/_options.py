"""What the caller may choose: timeouts, limits, compression, as values that check themselves."""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, TypeAlias, TypedDict

from ._frames import Opcode

ControlCallback: TypeAlias = Callable[[Opcode, bytes], None]
"""What is called for every ping, pong and close received, with its opcode and payload."""

MIB = 1024 * 1024

MIN_WINDOW_BITS: Final = 9
"""The smallest window that zlib compresses with, where nothing but deflate data is written."""

MAX_WINDOW_BITS: Final = 15
"""The largest window of deflate: 32 KiB."""

DEFAULT_WINDOW_BITS: Final = 12
"""The window of :class:`PermessageDeflate` that nobody insists on: 4 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a stream waits for its peer (Beast's ``stream_base::timeout``).

    :param handshake: seconds for the whole opening handshake, and again for the whole close: flush,
        Close frames, TLS and TCP. Data that still arrives does not extend it. Default 30. None: no
        limit but *idle*.
    :param idle: seconds of silence after which the peer counts as gone, and seconds for which the
        kernel may take nothing of what is to be written. Default 60. None: no limit.
    :param keep_alive_pings: whether a ping is sent after half of *idle*, so that a healthy peer
        that has nothing to say stays connected; and, while a full inbox keeps this side from
        listening, a pong as often, so that the peer does not take it for gone. Default True.
    :raises ValueError: if a number is not positive.
    :raises TypeError: if it is no number.
    """

    handshake: float | None = 30.0
    idle: float | None = 60.0
    keep_alive_pings: bool = True

    def __post_init__(self) -> None:
        for name in ("handshake", "idle"):
            seconds = getattr(self, name)
            if seconds is None:
                continue
            if not isinstance(seconds, int | float):
                raise TypeError(f"{name}={seconds!r}: give a number of seconds, or None")
            if not seconds > 0:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PermessageDeflate:
    """How messages are compressed (RFC 7692; Beast's ``permessage_deflate``).

    The same object serves both roles. Compression is used if both sides want it and can agree.

    A window of *n* bits is the last ``2**n`` bytes before a byte: the compressor finds
    repetitions in them, and the receiver has to keep them. *Context takeover* means that the window
    goes on from one message to the next. Then small messages that are like each other shrink to a
    quarter, and each direction keeps its memory from its first compressed message until the end;
    without it the memory is held only during a message, and messages of a hundred bytes hardly
    shrink.

    With the defaults a connection that compresses in both directions holds 49 KiB. With windows of
    15 bits and ``mem_level=8`` it would be 301 KiB, for messages that are a quarter smaller in JSON
    and a seventh in prose. The page on compression has all the figures.

    :param server_max_window_bits: the window that the server compresses with at most, 9 to 15. A
        server keeps to it; a client demands it, and a server that can not must decline. Default
        None: 12 in a server, and a client leaves it to the server.
    :param client_max_window_bits: the window that the client compresses with at most, 9 to 15. A
        client keeps to it; a server demands it, and does without compression if the client does not
        say that it can. Default None: 12, but a server accepts any from a client that does not say
        that it can.
    :param server_no_context_takeover: whether the server begins each message with an empty window.
        A server keeps to it; a client demands it. Default False.
    :param client_no_context_takeover: whether the client begins each message with an empty window.
        A client keeps to it; a server demands it. Default False.
    :param level: how hard to look for repetitions, 0 (not at all) to 9. Default 6, which is zlib's
        own; Beast's 8 makes messages up to 5 % smaller and takes up to twice the time.
    :param mem_level: how much memory to compress with beside the window, 1 to 9:
        ``2**(mem_level + 9)`` bytes. Default 5: more hardly helps a window of 12 bits.
    :param min_size: bytes of a message below which it is sent as it is, judged on the first part of
        a message that is sent in parts. Default 64, below which the headers of a packet weigh more
        than what could be saved.
    :raises ValueError: if a number is out of range.
    :raises TypeError: if it is not an int.

    The window of 8 bits that RFC 7692 knows can not be asked for, because zlib can not compress
    with it; Beast refuses it too. From a peer it is understood.
    """

    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    level: int = 6
    mem_level: int = 5
    min_size: int = 64

    def __post_init__(self) -> None:
        for name in ("server_max_window_bits", "client_max_window_bits"):
            bits = getattr(self, name)
            if bits is not None and not MIN_WINDOW_BITS <= _whole(name, bits) <= MAX_WINDOW_BITS:
                raise ValueError(f"{name}={bits!r}: give 9 to 15, or None")
        for name in ("level", "mem_level", "min_size"):
            _whole(name, getattr(self, name))
        if not 0 <= self.level <= 9:
            raise ValueError(f"level={self.level!r}: give 0 to 9")
        if not 1 <= self.mem_level <= 9:
            raise ValueError(f"mem_level={self.mem_level!r}: give 1 to 9")
        if self.min_size < 0:
            raise ValueError(f"min_size={self.min_size!r}: give a number of bytes")


class StreamKeywords(TypedDict, total=False):
    """The keyword arguments that every way to open a stream takes: see :class:`StreamOptions`.

    For functions that pass them on: ``**options: Unpack[trio_ws.StreamKeywords]``.
    """

    compression: PermessageDeflate | None
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

    :param compression: how to compress, if the peer wants it too: see :class:`PermessageDeflate`.
        Default None: not at all.
    :param timeouts: see :class:`Timeouts`.
    :param max_message_size: bytes that a received message may have, all its frames together; above
        it the connection fails with 1009. Of a compressed message, what it inflates to counts.
        Default 16 MiB. None: no limit.
    :param max_frame_size: bytes of payload after which a sent message goes on in a further frame
        (Beast's ``auto_fragment`` and ``write_buffer_bytes``). Pings and pongs pass between frames.
        Default None: one frame a message.
    :param max_handshake_size: bytes that the head of the opening handshake's request or response
        may have. Default 64 KiB.
    :param max_inbox_size: bytes of received messages that wait for ``receive`` before the stream
        stops reading; each message counts 512 bytes more than its length, and text is counted in
        characters. Default 256 KiB.
    :param max_outbox_size: bytes of committed messages that wait to be written before ``send``
        waits. Default 256 KiB.
    :param control_callback: called with opcode and payload of every ping, pong and close received,
        in whichever task reads, be it one in ``receive``, with the context variables of whoever
        gave it; so it must be quick, and Ctrl-C does not interrupt it. If it raises, the connection
        fails with 1011, but what is no ``Exception``, such as SystemExit, passes through the
        nursery of the stream. Default None.
    :raises ValueError: if a size is out of range.
    :raises TypeError: if an option is of a wrong type: a size that is not an int, ``timeouts`` that
        is a number, an async ``control_callback``.
    """

    compression: PermessageDeflate | None = None
    timeouts: Timeouts = Timeouts()
    max_message_size: int | None = 16 * MIB
    max_frame_size: int | None = None
    max_handshake_size: int = 64 * 1024
    max_inbox_size: int = 256 * 1024
    max_outbox_size: int = 256 * 1024
    control_callback: ControlCallback | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.timeouts, Timeouts):
            raise TypeError("timeouts must be a Timeouts, e.g. Timeouts(handshake=3.0)")
        if self.compression is not None and not isinstance(self.compression, PermessageDeflate):
            raise TypeError("compression must be a PermessageDeflate, or None: PermessageDeflate()")
        for name in ("max_message_size", "max_frame_size"):
            size = getattr(self, name)
            if size is not None and _whole(name, size) < 1:
                raise ValueError(f"{name}={size!r}: give a positive number of bytes, or None")
        for name in ("max_handshake_size", "max_inbox_size", "max_outbox_size"):
            size = getattr(self, name)
            if _whole(name, size) < 1:
                raise ValueError(f"{name}={size!r}: give a positive number of bytes")
        if self.control_callback is not None:
            _check_synchronous("control_callback", self.control_callback)

    def replace(self, changes: StreamKeywords) -> StreamOptions:
        """These options with *changes*, checked again."""
        _check_names(changes)
        return dataclasses.replace(self, **changes)


def make_options(keywords: StreamKeywords) -> StreamOptions:
    """The options that were given as keywords of an entry point.

    :raises ValueError: as :class:`StreamOptions` has it.
    :raises TypeError: so, too; or there is no such option.
    """
    _check_names(keywords)
    return StreamOptions(**keywords)


def _check_names(keywords: Iterable[str]) -> None:
    known = sorted(StreamKeywords.__optional_keys__)
    for name in keywords:
        if name == "timeout":
            raise TypeError("there is no option timeout: say timeouts=Timeouts(...)")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"is {near[0]} meant?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"there is no option {name}: {hint}")


def _whole(name: str, number: int) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name}={number!r}: give a whole number, as an int") from None


def _check_synchronous(name: str, function: Callable[..., object]) -> None:
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {function!r}")
    for called in (function, type(function).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise TypeError(
                f"{name} must not be async, it is called in the middle of things: "
                "let it put what it is given into a memory channel, by send_nowait"
            )
