"""The other end of a connection in raw frames: a peer that does what no library would.

Transports by name, so that a test can run over each: ``memory`` is Trio's, ``socket`` a Unix
socket pair (the kernel's, but as deterministic as memory, so fit for an autojump clock), ``tcp``
the real thing on the loopback interface.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple, Unpack

import trio
import trio.testing

from trio_ws._client import wrap_client_stream
from trio_ws._errors import ConnectionClosed
from trio_ws._frames import Opcode
from trio_ws._options import StreamKeywords
from trio_ws._poller import current_poller
from trio_ws._protocol import Role
from trio_ws._server import wrap_server_stream
from trio_ws._stream import WebSocketStream
from trio_ws.testing import NO_TIMEOUTS

CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

Streams = tuple[trio.abc.Stream, trio.abc.Stream]

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = b"\x9a\x02\xf1\x40"


RSV1 = 0x40
_OPCODES = frozenset(Opcode)


class Frame(NamedTuple):
    """One frame, its payload unmasked."""

    opcode: int
    """With the reserved bits: ``TEXT | RSV1`` begins a compressed message."""
    payload: bytes
    fin: bool = True


def close_frame(code: int, reason: str = "") -> Frame:
    return Frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


EMPTY_CLOSE = Frame(CLOSE, b"")


class RawPeer:
    """What a :class:`WebSocketStream` is connected to.

    :param stream: its end of the transport.
    :param role: its role: a client masks.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role) -> None:
        self.stream = stream
        self.masks = role is Role.CLIENT
        self.buffer = bytearray()

    def encode(self, frame: Frame) -> bytes:
        first_byte = frame.opcode | (0x80 if frame.fin else 0)
        mask_bit = 0x80 if self.masks else 0
        length = len(frame.payload)
        if length < 126:
            header = struct.pack("!BB", first_byte, mask_bit | length)
        elif length < 1 << 16:
            header = struct.pack("!BBH", first_byte, mask_bit | 126, length)
        else:
            header = struct.pack("!BBQ", first_byte, mask_bit | 127, length)
        return header + (_KEY + _masked(frame.payload, _KEY) if self.masks else frame.payload)

    async def send(self, *frames: Frame) -> None:
        """Send them in one piece."""
        await self.stream.send_all(b"".join(map(self.encode, frames)))

    async def receive(self) -> Frame | None:
        """The next frame; None at EOF, which must not come within a frame."""
        while (frame := self.decode()) is None:
            data = await self.stream.receive_some()
            if not data:
                assert not self.buffer, f"EOF after {bytes(self.buffer[:20])!r} of a frame"
                return None
            self.buffer += data
        return frame

    async def receive_all(self) -> list[Frame]:
        """Every frame until EOF."""
        frames = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames

    async def half_close(self) -> None:
        """Say that nothing more comes; the other direction stays."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def answer_close(self) -> list[Frame]:
        """Read up to the Close frame, answer it and end; the frames, the Close included."""
        frames = [await self.receive()]
        while frames[-1] is not None and frames[-1].opcode is not CLOSE:
            frames.append(await self.receive())
        assert frames[-1] is not None, "EOF without a Close"
        await self.send(frames[-1])
        await self.stream.aclose()
        return [frame for frame in frames if frame is not None]

    def decode(self) -> Frame | None:
        """The next frame of what has been received, if all of it is there."""
        buffer = self.buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        key = b"\0\0\0\0"
        if not self.masks:
            key = bytes(buffer[start : start + 4])
            start += 4
        if len(buffer) < start + length:
            return None
        assert bool(buffer[1] & 0x80) is not self.masks, "a client masks, a server does not"
        payload = _masked(bytes(buffer[start : start + length]), key)
        bits = buffer[0] & 0x7F
        opcode = Opcode(bits) if bits in _OPCODES else bits
        frame = Frame(opcode, payload, bool(buffer[0] & 0x80))
        del buffer[: start + length]
        return frame

    async def open_as_client(self, extensions: str | None = None) -> None:
        await self.stream.send_all(
            b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n"
            b"Sec-WebSocket-Version: 13\r\n" + _extensions(extensions) + b"\r\n"
        )
        await self.receive_head()

    async def open_as_server(self, extensions: str | None = None) -> None:
        head = await self.receive_head()
        _, _, after = head.partition(b"Sec-WebSocket-Key: ")
        key, _, _ = after.partition(b"\r\n")
        accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID).digest())
        await self.stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + _extensions(extensions) + b"\r\n"
        )

    async def receive_head(self) -> bytes:
        """The peer's part of the opening handshake."""
        while b"\r\n\r\n" not in self.buffer:
            data = await self.stream.receive_some()
            assert data, "EOF within the opening handshake"
            self.buffer += data
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer[:] = rest
        return head + b"\r\n"


def _extensions(value: str | None) -> bytes:
    return b"" if value is None else f"Sec-WebSocket-Extensions: {value}\r\n".encode()


def _masked(payload: bytes, key: bytes) -> bytes:
    length = len(payload)
    mask = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")


async def open_with_peer(
    nursery: trio.Nursery,
    role: Role,
    streams: Streams | None = None,
    *,
    extensions: str | None = None,
    **options: Unpack[StreamKeywords],
) -> tuple[WebSocketStream, RawPeer]:
    """A stream in *role* that lives in *nursery*, without timeouts by default, and its peer.

    *streams* are the transports of the two, in this order; *extensions* is what the peer says of
    them in the opening handshake.
    """
    ours, theirs = streams or trio.testing.memory_stream_pair()
    options = {"timeouts": NO_TIMEOUTS, **options}
    if role is Role.SERVER:
        peer = RawPeer(theirs, Role.CLIENT)
        async with trio.open_nursery() as handshake:
            handshake.start_soon(peer.open_as_client, extensions)
            ws = await wrap_server_stream(nursery, ours, **options)
    else:
        peer = RawPeer(theirs, Role.SERVER)
        async with trio.open_nursery() as handshake:
            handshake.start_soon(peer.open_as_server, extensions)
            ws = await wrap_client_stream(nursery, ours, host="test", **options)
    return ws, peer


async def make_streams(kind: str) -> Streams:
    """The two ends of a transport: ``memory``, ``socket``, ``watched``, ``alone`` or ``tcp``."""
    if kind == "memory":
        return trio.testing.memory_stream_pair()
    if kind == "watched":
        make_crowd()
        return await make_streams("socket")
    if kind == "alone":
        make_alone()
        return await make_streams("socket")
    if kind == "socket":
        left, right = socket.socketpair()
        return (
            trio.SocketStream(trio.socket.from_stdlib_socket(left)),
            trio.SocketStream(trio.socket.from_stdlib_socket(right)),
        )
    assert kind == "tcp"
    return await tcp_pair()


def make_crowd() -> None:
    """Have the sockets of this run read by the poller, as those of many streams are."""
    for _ in range(100):
        current_poller().join()


def make_alone() -> None:
    """Have the sockets of this run read by their streams' own tasks: not all systems have epoll."""
    current_poller().can_watch = False


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        left = await trio.open_tcp_stream(*listener.socket.getsockname())
        right = await listener.accept()
    return left, right


async def reset(stream: trio.abc.Stream) -> None:
    """Close a TCP socket so that the other end is sent a reset."""
    assert isinstance(stream, trio.SocketStream)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def receive_until_closed(
    ws: WebSocketStream,
) -> tuple[Sequence[str | bytes], ConnectionClosed]:
    """The messages that still come, and how it ended."""
    messages = []
    while True:  # noqa: ASYNC913 (each receive is one)
        try:
            messages.append(await ws.receive())
        except ConnectionClosed as closed:
            return messages, closed
