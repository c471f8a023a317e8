"""What a WebSocket stream needs of the stream below it: one interface, and who has it.

:class:`SocketTransport` is a POSIX ``trio.SocketStream`` and makes the system calls itself: it can
write without waiting, and reads into a buffer that all streams of a thread share. With TLS on top
it is :class:`trio_ws._tls.TlsTransport`. :class:`StreamTransport` is any other ``trio.abc.Stream``.

No file descriptor is ever stored. Each system call asks the socket for it in its own synchronous
step, because a number that was closed may belong to another connection a moment later.
"""

from __future__ import annotations

import abc
import errno
import os
import socket
import threading
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final, TypeGuard

import trio

from ._frames import Buffer
from ._poller import Poller, Step, Watch, closed_error, descriptor_of

RECEIVE_SIZE: Final = 256 * 1024
"""Bytes that one system call reads at most."""

_SMALL_READ: Final = 64 * 1024
"""Bytes to read where less is expected: without the shared buffer a call takes 0.2 us less."""

_RECORD_SIZE: Final = 16 * 1024
"""Bytes of a TLS record that is full, which are all that one ``receive_some`` then brings."""

_MIN_SEND_SIZE: Final = _RECORD_SIZE
_MAX_SEND_SIZE: Final = 8 * _RECORD_SIZE
"""Bytes of one ``send_all``. Whether a stream takes something is known only when it returns; but
each costs some 20 us, so those that return at once become larger."""

_AT_ONCE: Final = 0.1
"""Seconds within which a ``send_all`` returns for the next one to be larger."""

_UNSENT_OPTION: Final[int] = getattr(socket, "TCP_NOTSENT_LOWAT", 0)
"""Not every system has it; no option of TCP has the number 0."""

_UNSENT: Final = 16 * 1024
"""Bytes that a ``trio.SocketStream`` lets the kernel hold unsent, and what one call adds to it."""

_LARGE_WRITE: Final = 256 * 1024
"""Bytes of a large frame, from which on the kernel may hold more."""

_LARGE_UNSENT: Final = 1024 * 1024

MAX_BUFFERS: Final = 1024
"""What POSIX lets one ``writev`` take (IOV_MAX on Linux)."""


class _Scratch(threading.local):
    """One receive buffer for all streams of a thread: what is read is decoded in the same step."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_SIZE))


scratch = _Scratch()


class Transport(abc.ABC):
    """The interface of all.

    :ivar can_write_nowait: whether :meth:`write_nowait` can ever write anything.
    :ivar can_send_eof: whether :meth:`send_eof` may be called.
    :ivar can_watch: whether :meth:`watch` may be called now.
    :ivar has_unsent: whether there is something that was taken and that the kernel has yet to take.
    :ivar more_follows: whether it looks as if what was received is a part of more.
    """

    __slots__ = ()

    can_write_nowait: bool
    can_send_eof: bool
    can_watch: bool
    has_unsent: bool
    more_follows: bool

    @abc.abstractmethod
    def wait_received(self, max_bytes: int) -> Awaitable[None]:
        """Wait until :meth:`receive_nowait` is worth a try.

        Raises what the stream raises. Cancelling it loses nothing.
        """

    @abc.abstractmethod
    def watch(self, poller: Poller, step: Step) -> Awaitable[None]:
        """Have *step* called whenever :meth:`receive_nowait` is worth a try: :class:`Poller`."""

    def watched_by(self, poller: Poller) -> Watch | None:
        """What :meth:`Poller.find` says of it.

        Raises ``trio.ClosedResourceError`` if somebody else has closed it.
        """
        return None

    @abc.abstractmethod
    def receive_nowait(self, max_bytes: int) -> Buffer | None:
        """Bytes from the peer, empty at EOF; None if it was not worth it, and more is to come.

        They are valid until the caller awaits again. Raises the socket's OSError.
        """

    async def receive(self, max_bytes: int = RECEIVE_SIZE) -> Buffer:
        """Both: wait for bytes from the peer, empty at EOF."""
        while True:
            await self.wait_received(max_bytes)
            data = self.receive_nowait(max_bytes)
            if data is not None:
                return data

    @abc.abstractmethod
    def write_nowait(self, buffers: Sequence[Buffer]) -> int:
        """How many bytes were taken at once: from 0 to all of them."""

    @abc.abstractmethod
    async def write(self, buffers: Sequence[Buffer]) -> int:
        """Wait until something can be written, and write it; how many bytes were taken.

        None may be, if it was of those that were taken before: see :attr:`has_unsent`. Cancelling
        it may tear what was being written.
        """

    @abc.abstractmethod
    async def send_eof(self) -> None:
        """Half-close: the peer reads EOF, and what it sends still arrives.

        Raises nothing but Cancelled.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close in order, as far as the stream can. Raises nothing but Cancelled."""

    @abc.abstractmethod
    def abort(self) -> bool:
        """Close now, in this very step, if that is possible; whether it was."""


class SocketTransport(Transport):
    """A POSIX socket, read and written by system calls that do not block."""

    __slots__ = ("_reads_large", "_socket", "_writes_large")

    can_write_nowait = True
    can_send_eof = True
    can_watch = True
    has_unsent = False
    more_follows = False

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._reads_large = False
        self._writes_large = False

    def wait_received(self, max_bytes: int) -> Awaitable[None]:
        # Asking first costs no more than a read that fails, and most first reads would.
        return trio.lowlevel.wait_readable(  # noqa: ASYNC105 (the caller does)
            descriptor_of(self._socket)
        )

    def watch(self, poller: Poller, step: Step) -> Awaitable[None]:
        return poller.watch(self._socket, step)

    def watched_by(self, poller: Poller) -> Watch | None:
        return poller.find(self._socket)

    def receive_nowait(self, max_bytes: int) -> Buffer | None:
        try:
            if self._reads_large:
                return self._receive_large(max_bytes)
            data = os.read(self._socket.fileno(), min(max_bytes, _SMALL_READ))
        except BlockingIOError:
            return None
        except OSError as error:
            _check_open(error)
            raise
        self._reads_large = len(data) == _SMALL_READ
        return data

    def _receive_large(self, max_bytes: int) -> Buffer:
        view = scratch.view
        if max_bytes < RECEIVE_SIZE:
            view = view[:max_bytes]
        count = os.readv(self._socket.fileno(), (view,))
        self._reads_large = count > _SMALL_READ // 2
        return view[:count]

    def write_nowait(self, buffers: Sequence[Buffer]) -> int:
        if (len(buffers[-1]) >= _LARGE_WRITE) is not self._writes_large:
            self._set_unsent(not self._writes_large)
        try:
            if len(buffers) == 1:
                # As a rule it is one frame: this takes 0.2 us less.
                return os.write(self._socket.fileno(), buffers[0])
            return os.writev(self._socket.fileno(), buffers[:MAX_BUFFERS])
        except BlockingIOError:
            return 0
        except OSError as error:
            _check_open(error)
            raise

    def _set_unsent(self, writes_large: bool) -> None:
        """How much the kernel holds that it has not sent. Trio keeps that low, so that what is
        urgent can still pass; but nothing passes within a frame, and a MiB echoed in one call takes
        a quarter less.
        """
        self._writes_large = writes_large
        with suppress(OSError):
            self._socket.setsockopt(
                socket.IPPROTO_TCP, _UNSENT_OPTION, _LARGE_UNSENT if writes_large else _UNSENT
            )

    async def _wait_writable(self) -> None:
        # It is also woken when a leader is called off; the write finds out what is so.
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_writable(descriptor_of(self._socket))

    async def write(self, buffers: Sequence[Buffer]) -> int:
        while True:
            await self._wait_writable()
            count = self.write_nowait(buffers)
            if count:
                return count

    async def send_eof(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self._socket.close()

    def abort(self) -> bool:
        self._socket.close()
        return True


def _check_open(error: OSError) -> None:
    """Say it in Trio's words if a system call has failed because the socket is closed."""
    if error.errno == errno.EBADF:
        raise closed_error() from error


class StreamTransport(Transport):
    """Any Trio stream: memory, pipes, TLS over those, a user's own."""

    __slots__ = (
        "_half_closeable",
        "_received",
        "_send_size",
        "_stream",
        "_was_full",
        "can_send_eof",
        "more_follows",
    )

    can_write_nowait = False
    can_watch = False
    has_unsent = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._send_size = _MIN_SEND_SIZE
        self.more_follows = False
        self._was_full = False
        # TLS can not half-close, but the stream below it can, and that is what keeps TCP from
        # answering late input with a reset.
        below = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._half_closeable = below if isinstance(below, trio.abc.HalfCloseableStream) else None
        self.can_send_eof = self._half_closeable is not None
        self._received: Buffer | None = None

    async def wait_received(self, max_bytes: int) -> None:
        received = await self._stream.receive_some(max_bytes)
        # A frame that does not fit into one record is followed by a small one.
        is_full = len(received) == _RECORD_SIZE
        self.more_follows = is_full or self._was_full
        self._was_full = is_full
        self._received = received

    def watch(self, poller: Poller, step: Step) -> Awaitable[None]:
        raise NotImplementedError("only a socket can be watched")

    def receive_nowait(self, max_bytes: int) -> Buffer | None:
        received, self._received = self._received, None
        return received

    def write_nowait(self, buffers: Sequence[Buffer]) -> int:
        return 0

    async def write(self, buffers: Sequence[Buffer]) -> int:
        data = _join(buffers, self._send_size)
        began_at = trio.current_time()
        await self._stream.send_all(data)
        self._adapt(len(data), trio.current_time() - began_at)
        return len(data)

    def _adapt(self, size: int, seconds: float) -> None:
        """To a ``send_all`` of *size* bytes that took so long."""
        if seconds > _AT_ONCE:
            self._send_size = _MIN_SEND_SIZE
        elif size == self._send_size:
            self._send_size = min(2 * size, _MAX_SEND_SIZE)

    async def send_eof(self) -> None:
        assert self._half_closeable is not None
        with suppress(Exception):
            await self._half_closeable.send_eof()

    async def aclose(self) -> None:
        with suppress(Exception):
            await self._stream.aclose()

    def abort(self) -> bool:
        return False


def _join(buffers: Sequence[Buffer], limit: int) -> bytes:
    """The first *limit* bytes of *buffers*."""
    pieces: list[memoryview] = []
    for buffer in buffers:
        pieces.append(memoryview(buffer)[:limit])
        limit -= len(pieces[-1])
        if not limit:
            break
    return b"".join(pieces)


def is_direct(stream: trio.abc.Stream) -> TypeGuard[trio.SocketStream]:
    """Whether it is exactly a ``trio.SocketStream``, and this library may make the system calls."""
    return type(stream) is trio.SocketStream and os.name == "posix"


def make_transport(stream: trio.abc.Stream) -> Transport:
    """The transport for *stream*: the fast one for a socket."""
    if is_direct(stream):
        return SocketTransport(stream)
    return StreamTransport(stream)
