"""TLS over a POSIX socket, read and written without waiting.

Theory of operation
-------------------

``trio.SSLStream`` makes its engine, an ``ssl.SSLObject`` between two ``ssl.MemoryBIO``, by calling
``wrap_bio`` of its context. :func:`start_tls` gives it a context that remembers what was made. So
``SSLStream`` does the TLS handshake and carries the opening handshake, after which
:class:`TlsTransport` goes on with the same engine, but makes the system calls itself. A message
there and back takes half the time of the way through ``SSLStream``, which can only wait.

What has been encrypted can not be taken back, nor encrypted again: it counts as taken, is kept
until the kernel has taken it, and leaves before anything else. So no more is encrypted at a time
than a few records.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeAlias, cast
from weakref import WeakKeyDictionary

import trio

from ._frames import Buffer
from ._transport import SocketTransport, Transport, is_direct, make_transport, scratch

TlsStream: TypeAlias = trio.SSLStream[trio.abc.Stream]

_CIPHERTEXT: Final = 64 * 1024
"""Bytes of records that one system call reads at most. The engine never gives memory back."""

_MAX_RECORDS: Final = 256
"""Records that are decrypted in one step: be they of one byte each, they take 1 us."""

_PIECE: Final = 64 * 1024
"""Bytes that are encrypted before the kernel has taken those before them."""

_MAX_ANSWERS: Final = 64 * 1024
"""Bytes of the engine's own that wait behind those. A peer that reads nothing might ask for new
keys for ever, and each time it is answered."""


class _Engine:
    """Stands in for a context, and remembers what ``trio.SSLStream`` works with."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
    ) -> ssl.SSLObject:
        self.incoming = incoming
        self.outgoing = outgoing
        self.ssl_object = self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname
        )
        return self.ssl_object


_engines: Final[WeakKeyDictionary[trio.abc.Stream, _Engine]] = WeakKeyDictionary()
"""Those of the streams that were not opened yet."""


def start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, server_hostname: str | None = None
) -> TlsStream:
    """TLS on top of *stream*: a client's if it is given the name of the server."""
    engine = _Engine(context)
    tls_stream = trio.SSLStream(
        stream,
        cast(ssl.SSLContext, engine),  # of which trio.SSLStream calls wrap_bio, and no more
        server_side=server_hostname is None,
        server_hostname=server_hostname,
        https_compatible=True,
    )
    if is_direct(stream):
        _engines[tls_stream] = engine
    return tls_stream


def make_opened_transport(stream: trio.abc.Stream) -> Transport:
    """The transport for *stream* after the opening handshake, which has gone through its methods.

    Not before: what a server's engine has to say after the TLS handshake, ``trio.SSLStream`` keeps
    back until something is sent.
    """
    if isinstance(stream, trio.SSLStream):
        engine = _engines.pop(stream, None)
        if engine is not None:
            assert isinstance(stream.transport_stream, trio.SocketStream)
            return TlsTransport(stream.transport_stream, engine)
    return make_transport(stream)


class TlsTransport(SocketTransport):
    """A POSIX socket under TLS of which the engine is known."""

    __slots__ = (
        "_error",
        "_heard",
        "_incoming",
        "_outgoing",
        "_ssl_object",
        "_unsent",
        "can_watch",
        "has_unsent",
    )

    def __init__(self, stream: trio.SocketStream, engine: _Engine) -> None:
        super().__init__(stream)
        self._incoming = engine.incoming
        self._outgoing = engine.outgoing
        self._ssl_object = engine.ssl_object
        # What the engine holds already the kernel says nothing of.
        self.can_watch = not self._may_decrypt()
        self._error: ssl.SSLError | None = None
        self._unsent: Buffer = b""
        self.has_unsent = False
        # Set while the engine has to hear the peer before it encrypts more: TLS 1.2 renegotiates.
        self._heard: trio.Event | None = None

    # Reading

    def wait_received(self, max_bytes: int) -> Awaitable[None]:
        if self.can_watch:
            return super().wait_received(max_bytes)
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 (the caller does)

    def receive_nowait(self, max_bytes: int) -> Buffer | None:
        if not self.can_watch:
            data = self._decrypt(max_bytes)
            if data is not None:
                return data
        ciphertext = super().receive_nowait(_CIPHERTEXT)
        if not ciphertext:
            return ciphertext
        self._incoming.write(ciphertext)
        if self._heard is not None:
            self._heard.set()
            self._heard = None
        return self._decrypt(max_bytes)

    def _decrypt(self, max_bytes: int) -> Buffer | None:
        """What the engine holds, empty at the end of TLS; None if that is no whole record."""
        room = scratch.view[:max_bytes]
        try:
            count = self._read_records(room)
        finally:
            if self._outgoing.pending:
                self._send_answer()
        return None if count is None else room[:count]

    def _send_answer(self) -> None:
        """The engine answers something of TLS itself, or says what is wrong."""
        writer_knows = self.has_unsent
        with suppress(OSError):
            self._send()
        if not writer_knows:
            # If not all has left, it is for the reader to let the writer know.
            self.can_watch &= not self.has_unsent
        if self._outgoing.pending > _MAX_ANSWERS:
            raise trio.BrokenResourceError("the peer asks TLS for answers and does not read them")

    def _read_records(self, room: memoryview) -> int | None:
        self.can_watch = False
        read = self._ssl_object.read
        count = 0
        try:
            self._raise_error()
            for _ in range(_MAX_RECORDS):
                size: int = read(len(room), room[count:])  # type: ignore[assignment]  # of a buffer
                count += size
                if not size:
                    # The peer has ended TLS, and the engine says so each time.
                    break
                if not self._may_decrypt():
                    self.can_watch = True
                    break
                if count == len(room):
                    break
        except ssl.SSLWantReadError:
            self.can_watch = True
            return count or None
        except ssl.SSLError as error:
            if not count:
                raise trio.BrokenResourceError from error
            # First what came before it.
            self._error = error
        return count

    def _raise_error(self) -> None:
        """What has come after what was received last."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _may_decrypt(self) -> bool:
        return self._incoming.pending > 0 or self._ssl_object.pending() > 0

    # Writing

    def write_nowait(self, buffers: Sequence[Buffer]) -> int:
        taken = 0
        if self.has_unsent:
            self._send()
            if self.has_unsent:
                return 0
        try:
            for piece in _pieces(buffers):
                taken += self._ssl_object.write(piece)
                self._send()
                if self.has_unsent:
                    break
        except ssl.SSLWantReadError:
            self._heard = trio.Event()
            self._send()
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
        return taken

    def _send(self) -> None:
        """Hand over what is encrypted, as far as the kernel takes it."""
        while data := self._unsent or self._outgoing.read():
            count = super().write_nowait((data,))
            if count < len(data):
                self._unsent = memoryview(data)[count:]
                self.has_unsent = True
                return
            self._unsent = b""
        self.has_unsent = False

    async def write(self, buffers: Sequence[Buffer]) -> int:
        if self._heard is not None and not self.has_unsent:
            await self._heard.wait()
        else:
            await self._wait_writable()
        if self.has_unsent:
            # That alone: as soon as it has left, whoever waits for it has to hear of it.
            self._send()
            return 0
        return self.write_nowait(buffers)


def _pieces(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """The bytes of *buffers*, :data:`_PIECE` at a time."""
    parts: list[memoryview] = []
    room = _PIECE
    for buffer in buffers:
        rest = memoryview(buffer)
        while len(rest) >= room:
            parts.append(rest[:room])
            rest = rest[room:]
            yield b"".join(parts)
            parts.clear()
            room = _PIECE
        parts.append(rest)
        room -= len(rest)
    if room < _PIECE:
        yield b"".join(parts)
