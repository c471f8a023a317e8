"""Compression on streams: which messages, bounds of memory and time, cancellation, and closing."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import bombs
import pytest
import trio
import trio.testing
from background import begin
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    RawPeer,
    Streams,
    open_with_peer,
    receive_until_closed,
)
from steps import watching
from transports import open_streams

from trio_ws import ConnectionClosedError, MessageTooBig, PermessageDeflate, WebSocketStream
from trio_ws._frames import FRAME_COST
from trio_ws._protocol import ProtocolError, Role
from trio_ws.testing import FaultyStream, websocket_pair

KIB = 1024
MIB = 1024 * KIB
TAIL = b"\x00\x00\xff\xff"
ALL = PermessageDeflate(min_size=0)

ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


def noise(size: int) -> bytes:
    """What can not be compressed."""
    return random.Random(size).randbytes(size)


class ZlibPeer:
    """The other end in raw frames, its compression by Python's zlib."""

    def __init__(self, peer: RawPeer) -> None:
        self.raw = peer
        self.deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.inflater = zlib.decompressobj(-15)
        self.controls: list[Frame] = []

    def frames(self, opcode: int, *parts: bytes) -> list[Frame]:
        """The frames of a compressed message."""
        payloads = [
            self.deflater.compress(part) + self.deflater.flush(zlib.Z_SYNC_FLUSH) for part in parts
        ]
        payloads[-1] = payloads[-1].removesuffix(TAIL)
        last = len(parts) - 1
        return [
            Frame(CONTINUATION if at else opcode | RSV1, payload, at == last)
            for at, payload in enumerate(payloads)
        ]

    async def receive(self) -> tuple[bool, bytes]:
        """Whether the next message is compressed, and its content."""
        payload = b""
        compressed = False
        while True:  # noqa: ASYNC913 (each receive is one)
            frame = await self.raw.receive()
            assert frame is not None
            if frame.opcode & ~RSV1 >= CLOSE:
                self.controls.append(frame)
                continue
            if frame.opcode is not CONTINUATION:
                compressed = bool(frame.opcode & RSV1)
            payload += frame.payload
            if frame.fin:
                return compressed, self.inflater.decompress(
                    payload + TAIL
                ) if compressed else payload


async def open_with_zlib(
    nursery: trio.Nursery,
    role: Role,
    streams: Streams | None = None,
    *,
    compression: PermessageDeflate = ALL,
    max_message_size: int | None = 16 * MIB,
    max_frame_size: int | None = None,
) -> tuple[WebSocketStream, ZlibPeer]:
    """A stream that compresses with takeover in both directions, and its peer."""
    ws, peer = await open_with_peer(
        nursery,
        role,
        streams,
        extensions="permessage-deflate",
        compression=compression,
        max_message_size=max_message_size,
        max_frame_size=max_frame_size,
    )
    assert ws.compression is not None
    return ws, ZlibPeer(peer)


# What was agreed, and which messages it is used for


@pytest.mark.parametrize(
    ("client", "server", "agreed"),
    [
        (None, None, None),
        (PermessageDeflate(), None, None),
        (None, PermessageDeflate(), None),
        (PermessageDeflate(), PermessageDeflate(), (12, 12, False, False)),
        (
            PermessageDeflate(server_max_window_bits=10, client_no_context_takeover=True),
            PermessageDeflate(client_max_window_bits=9),
            (10, 9, False, True),
        ),
        (
            PermessageDeflate(client_max_window_bits=15),
            PermessageDeflate(
                server_max_window_bits=15,
                client_max_window_bits=15,
                server_no_context_takeover=True,
            ),
            (15, 15, True, False),
        ),
    ],
)
async def test_what_was_agreed_is_readable_on_both_ends_and_works(
    client: PermessageDeflate | None,
    server: PermessageDeflate | None,
    agreed: tuple[int, int, bool, bool] | None,
    nursery: trio.Nursery,
) -> None:
    pair = await websocket_pair(
        nursery, client={"compression": client}, server={"compression": server}
    )
    for ws in pair:
        parameters = ws.compression
        assert agreed == (
            parameters
            and (
                parameters.server_max_window_bits,
                parameters.client_max_window_bits,
                parameters.server_no_context_takeover,
                parameters.client_no_context_takeover,
            )
        )
    for _ in range(3):
        for sender, receiver in (pair, pair[::-1]):
            for message in ("hello " * 100, b"\0" * 70_000, noise(100)):
                before = sender.statistics().bytes_sent
                await sender.send(message)
                assert await receiver.receive() == message
                sent = sender.statistics().bytes_sent - before
                assert (sent < len(message) // 2) is (agreed is not None) or len(message) == 100


WAYS = ["send", "send_nowait", "send_some"]


async def say(
    ws: WebSocketStream, way: str, message: str | bytes, compress: bool | None = None
) -> None:
    if way == "send":
        await ws.send(message, compress=compress)
    elif way == "send_nowait":
        ws.send_nowait(message, compress=compress)
    else:
        await ws.send_some(message, fin=True, compress=compress)


@ROLES
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("size", "compress", "compressed"),
    [
        (63, None, False),
        (64, None, True),
        (0, None, False),
        (0, True, True),
        (1, True, True),
        (63, True, True),
        (64, False, False),
        (100_000, False, False),
        (100_000, None, True),
    ],
)
async def test_the_caller_or_min_size_decides_for_each_message(
    role: Role,
    way: str,
    size: int,
    compress: bool | None,
    compressed: bool,
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_zlib(nursery, role, compression=PermessageDeflate())
    for _ in range(2):
        await say(ws, way, bytes(size), compress)
        assert await peer.receive() == (compressed, bytes(size))


@ROLES
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_compressed_unless_that_was_agreed(
    role: Role, way: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await say(ws, way, bytes(100), True)
    assert await peer.receive() == Frame(BINARY, bytes(100))
    ws.configure(compression=PermessageDeflate(min_size=0))
    await say(ws, way, bytes(100))
    assert await peer.receive() == Frame(BINARY, bytes(100))
    assert ws.compression is None


@ROLES
@pytest.mark.parametrize(
    ("parts", "wishes", "compressed"),
    [
        ([63, 1000, 1000], [None, None, None], False),
        ([64, 0, 1], [None, None, None], True),
        ([1, 1000], [True, False], True),
        ([1000, 1000], [False, True], False),
        ([0, 1000], [None, True], False),
        ([0, 1000, 0], [True, None, None], True),
        ([70_000, 0], [None, None], True),
    ],
)
async def test_what_is_decided_of_the_first_part_holds_for_the_message(
    role: Role,
    parts: list[int],
    wishes: list[bool | None],
    compressed: bool,
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_zlib(nursery, role, compression=PermessageDeflate())
    for at, (size, wish) in enumerate(zip(parts, wishes, strict=True)):
        await ws.send_some(bytes(size), fin=at == len(parts) - 1, compress=wish)
    assert await peer.receive() == (compressed, bytes(sum(parts)))
    await ws.send("x" * 64)
    assert await peer.receive() == (True, b"x" * 64)


@ROLES
async def test_a_part_has_left_when_it_is_flushed(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_zlib(nursery, role)
    await ws.send_some("one", fin=False)
    await ws.flush()
    frame = await peer.raw.receive()
    assert frame is not None
    assert (frame.opcode, frame.fin) == (TEXT | RSV1, False)
    assert peer.inflater.decompress(frame.payload) == b"one"


async def test_configure_changes_min_size_and_nothing_else(nursery: trio.Nursery) -> None:
    ws, peer = await open_with_zlib(nursery, Role.SERVER)
    agreed = ws.compression
    await ws.send(noise(1000))
    assert await peer.receive() == (True, noise(1000))
    other = PermessageDeflate(
        min_size=500, level=0, server_max_window_bits=9, server_no_context_takeover=True
    )
    ws.configure(compression=other)
    assert ws.compression is agreed
    assert ws.options.compression is other
    await ws.send("x" * 499)
    assert await peer.receive() == (False, b"x" * 499)
    for _ in range(2):
        before = ws.statistics().bytes_sent
        await ws.send(noise(1000))
        assert ws.statistics().bytes_sent - before < 100, "it refers to what was sent before"
        assert await peer.receive() == (True, noise(1000))
    ws.configure(compression=None)
    await ws.send("x" * 1000)
    assert await peer.receive() == (False, b"x" * 1000)
    await ws.send("x" * 1000, compress=True)
    assert await peer.receive() == (True, b"x" * 1000)


@ROLES
async def test_max_frame_size_cuts_compressed_messages(role: Role, nursery: trio.Nursery) -> None:
    ws, peer = await open_with_zlib(nursery, role, max_frame_size=1000)
    await ws.send(noise(50_000))
    await ws.flush()
    ws.configure(max_frame_size=20)
    await ws.send(bytes(300_000))
    sizes = []
    for content in (noise(50_000), bytes(300_000)):
        payload, fin, first = b"", False, True
        while not fin:
            frame = await peer.raw.receive()
            assert frame is not None
            assert frame.opcode == (BINARY | RSV1 if first else CONTINUATION)
            payload, fin, first = payload + frame.payload, frame.fin, False
            sizes.append(len(frame.payload))
        assert peer.inflater.decompress(payload + TAIL) == content
        assert max(sizes) == (20 if content == bytes(300_000) else 1000)
        sizes.clear()


async def test_a_client_that_may_not_use_a_window_of_9_bits_sends_its_messages_as_they_are(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(
        nursery,
        Role.CLIENT,
        extensions="permessage-deflate; client_max_window_bits=8",
        compression=ALL,
    )
    assert ws.compression is not None
    assert ws.compression.client_max_window_bits == 8
    await ws.send("x" * 100, compress=True)
    assert await peer.receive() == Frame(TEXT, b"x" * 100)
    await peer.send(*ZlibPeer(peer).frames(TEXT, b"compressed"))
    assert await ws.receive() == "compressed"


# Traffic


@pytest.mark.parametrize("kind", ["memory", "lockstep", "split", "socket"])
@pytest.mark.parametrize("takeover", [False, True])
async def test_anything_arrives_as_it_was_sent_in_both_directions(
    kind: str, takeover: bool, nursery: trio.Nursery
) -> None:
    streams = await open_streams(kind, nursery)
    compression = PermessageDeflate(
        server_no_context_takeover=not takeover, client_no_context_takeover=not takeover
    )
    pair = await websocket_pair(nursery, streams, compression=compression)
    chance = random.Random(kind)
    messages: list[str | bytes] = []
    for _ in range(60):
        size = chance.choice([0, 1, 63, 64, 500, 20_000])
        texts: list[str | bytes] = ["€uro " * (size // 5) + "x" * (size % 5)]
        messages.append(chance.choice([*texts, bytes(size), noise(size)]))

    async def send_all(ws: WebSocketStream) -> None:
        for number, message in enumerate(messages):
            compress = [None, True, False][number % 3]
            cut = len(message) // 3
            if number % 5:
                await ws.send(message, compress=compress)
            else:
                await ws.send_some(message[:cut], fin=False, compress=compress)
                await ws.pong()
                await ws.send_some(message[cut:], fin=True)

    async def receive_all(ws: WebSocketStream) -> None:
        for number, message in enumerate(messages):
            if number % 7:
                assert await ws.receive() == message
                continue
            parts, fin = [], False
            while not fin:
                part, fin = await ws.receive_some(301)
                parts.append(part.encode() if isinstance(part, str) else part)
            assert b"".join(parts) == (message.encode() if isinstance(message, str) else message)

    async with trio.open_nursery() as inner:
        for ws in pair:
            inner.start_soon(send_all, ws)
            inner.start_soon(receive_all, ws)
    await trio.testing.wait_all_tasks_blocked()
    assert [ws.statistics().outbox_size for ws in pair] == [0, 0]


@ROLES
async def test_parts_of_a_compressed_message_come_before_its_end(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role)
    euro = "€".encode()
    first, second, third = peer.frames(TEXT, b"ab" + euro[:1], euro[1:2], euro[2:] + b"c")
    await peer.raw.send(first)
    assert await ws.receive_some() == ("ab", False)
    await peer.raw.send(second, Frame(PING, b"between"))
    part = await begin(nursery, ws.receive_some)
    assert not part.is_over
    assert await peer.raw.receive() == Frame(PONG, b"between")
    await peer.raw.send(third)
    assert await part.result() == ("€c", True)


@ROLES
async def test_pings_pass_a_large_compressed_message_and_the_close_follows_it(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role, await open_streams("socket", nursery))
    content = noise(2 * MIB)
    await ws.send(content)
    ping = await begin(nursery, ws.ping, b"passes")
    await ws.send_close()
    received = 0
    while not peer.controls:
        frame = await peer.raw.receive()
        assert frame is not None
        if frame.opcode is PING:
            break
        received += len(frame.payload)
    assert received < MIB
    await peer.raw.send(Frame(PONG, b"passes"))
    await ping.result()
    frames = await peer.raw.answer_close()
    assert received + sum(len(frame.payload) for frame in frames[:-1]) > 2 * MIB
    assert frames[-1].opcode is CLOSE
    assert frames[-2].fin


# Cancellation


@ROLES
async def test_a_cancelled_send_leaves_both_ends_in_step(
    role: Role, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_zlib(nursery, role, await open_streams("socket", nursery))
    await ws.send(noise(3 * MIB), compress=False)
    calls = [
        await begin(nursery, lambda at=at: ws.send(noise(200 + at), compress=True))  # type: ignore[misc]  # a default
        for at in range(4)
    ]
    parts = await begin(nursery, lambda: ws.send_some(noise(300), fin=False, compress=True))
    for call in (calls[0], calls[2], parts):
        call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert await peer.receive() == (False, noise(3 * MIB))
    assert await peer.receive() == (True, noise(201))
    assert await peer.receive() == (True, noise(203))
    assert [call.was_cancelled for call in (*calls, parts)] == [True, False, True, False, True]
    for size in (200, 202, 300):
        await ws.send(noise(size))
        assert await peer.receive() == (True, noise(size))


@ROLES
async def test_a_part_that_is_cancelled_may_be_sent_again(
    role: Role, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_zlib(nursery, role, await open_streams("socket", nursery))
    await ws.send_some(noise(3 * MIB), fin=False)
    with trio.move_on_after(1) as scope:
        await ws.send_some(noise(100), fin=True)
    assert scope.cancelled_caught
    received = await begin(nursery, peer.receive)
    await ws.send_some(noise(100), fin=True)
    assert await received.result() == (True, noise(3 * MIB) + noise(100))
    await ws.send(noise(100))
    assert await peer.receive() == (True, noise(100))


async def test_receiving_again_after_a_cancelled_receive_goes_on_in_the_message(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_zlib(nursery, Role.SERVER)
    first, second = peer.frames(BINARY, noise(200_000), b"end")
    await peer.raw.send(first)
    for method in (ws.receive, ws.receive):
        with trio.move_on_after(1) as scope:
            await method()
        assert scope.cancelled_caught
    await peer.raw.send(second)
    assert await ws.receive() == noise(200_000) + b"end"


# Discarding, failing, closing


@ROLES
async def test_what_wait_closed_discards_keeps_the_context_in_step(
    role: Role, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_zlib(nursery, role)
    await peer.raw.send(*peer.frames(BINARY, noise(1000)))
    with trio.move_on_after(1):
        await ws.wait_closed()
    waiting = await begin(nursery, ws.wait_closed)
    first, second = peer.frames(BINARY, noise(1001), bytes(MIB))
    await peer.raw.send(*peer.frames(TEXT, b"dropped"), first)
    await trio.testing.wait_all_tasks_blocked()
    waiting.cancel()
    await trio.testing.wait_all_tasks_blocked()
    await peer.raw.send(second, *peer.frames(BINARY, noise(1000) + noise(1001)))
    assert await ws.receive() == noise(1000) + noise(1001)


@ROLES
async def test_aclose_discards_compressed_messages_until_the_close(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role, max_message_size=100)
    await peer.raw.send(*peer.frames(TEXT, b"not taken"))
    closing = await begin(nursery, ws.aclose)
    for _ in range(3):
        await peer.raw.send(*peer.frames(TEXT, b"x" * 50, bytes(MIB), b"\xff"))
    await peer.raw.answer_close()
    await closing.result()
    assert ws.close_reason is not None
    assert ws.close_reason.code == 1000


@ROLES
@pytest.mark.parametrize(
    ("frame", "code", "why"),
    [
        (Frame(TEXT | RSV1, b"\x06"), 1007, "deflate data"),
        (Frame(TEXT | RSV1, b"\x06", False), 1007, "deflate data"),
        (Frame(TEXT | RSV1, b"\x62\x00"[:1] + b"\xff" * 9), 1007, "RFC 7692|section 8.1"),
        (Frame(TEXT | 0x20, b"x"), 1002, "reserved bits"),
        (Frame(TEXT | RSV1 | 0x10, b"x"), 1002, "reserved bits"),
        (Frame(PING | RSV1, b""), 1002, "RSV1"),
        (Frame(CONTINUATION | RSV1, b""), 1002, "RSV1"),
    ],
)
async def test_broken_rules_fail_the_connection_after_what_came_before(
    role: Role, frame: Frame, code: int, why: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role)
    await peer.raw.send(*peer.frames(TEXT, b"before"), frame, *peer.frames(TEXT, b"after"))
    messages, closed = await receive_until_closed(ws)
    assert messages == ["before"]
    assert isinstance(closed, ConnectionClosedError)
    assert closed.code == code
    assert isinstance(closed.__cause__, ProtocolError)
    with pytest.raises(ProtocolError, match=why):
        raise closed.__cause__


@ROLES
async def test_rsv1_without_an_agreement_fails_the_connection(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_peer(nursery, role)
    await peer.send(Frame(TEXT | RSV1, b"\x00"))
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive()
    assert caught.value.code == 1002
    assert isinstance(caught.value.__cause__, ProtocolError)


@ROLES
async def test_failing_drops_the_rest_of_a_large_compressed_message(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role, await open_streams("socket", nursery))
    await ws.send(noise(3 * MIB))
    await peer.raw.send(Frame(TEXT | RSV1, b"\x06"))
    with pytest.raises(ConnectionClosedError):
        await ws.receive()
    frames = await peer.raw.receive_all()
    assert sum(len(frame.payload) for frame in frames) < 2 * MIB
    assert (frames[-1].opcode, frames[-1].payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))


# Memory and time


@ROLES
async def test_a_message_is_too_big_when_it_inflates_to_too_much(
    role: Role, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role, max_message_size=100_000)
    await peer.raw.send(*peer.frames(BINARY, noise(100_000)), *peer.frames(BINARY, bytes(100_001)))
    assert await ws.receive() == noise(100_000)
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.receive()
    assert caught.value.code == 1009
    cause = caught.value.__cause__
    assert isinstance(cause, MessageTooBig)
    assert (cause.size, cause.limit) == (100_001, 100_000)


BOMB = """
import zlib
import trio, trio_ws
from raw_peer import make_streams, open_with_peer
from trio_ws._protocol import Role

MIB = 1024 * 1024

def resident_peak():
    # What getrusage() says has the peak of the process that started this one in it.
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
fuse = deflater.compress(bytes(32768)) + deflater.flush(zlib.Z_SYNC_FLUSH)
charge = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_SYNC_FLUSH)
size = len(fuse) + len(charge) * 10 * 1024

async def explode(stream):
    try:
        await stream.send_all(b"\\xc2\\x7f" + size.to_bytes(8, "big") + fuse)
        for _ in range(10 * 1024):
            await stream.send_all(charge)
    except trio.BrokenResourceError:
        pass

async def main():
    async with trio.open_nursery() as nursery:
        ws, peer = await open_with_peer(
            nursery, Role.CLIENT, await make_streams("socket"),
            extensions="permessage-deflate", compression=trio_ws.PermessageDeflate(),
        )
        before = resident_peak()
        nursery.start_soon(explode, peer.stream)
        try:
            await ws.receive()
        except trio_ws.ConnectionClosedError as closed:
            print(size, closed.code, resident_peak() - before)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is taken from /proc")
def test_a_bomb_of_10_gib_takes_no_more_memory_of_the_process_than_the_limit_and_a_little() -> None:
    result = subprocess.run(
        [sys.executable, "-c", BOMB],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    size, code, grown = map(int, result.stdout.split())
    assert 10 * MIB < size < 11 * MIB
    assert code == 1009
    limit = 16 * MIB
    # A buffer that grows has an eighth to spare.
    allowed = limit + limit // 8 + 3 * MIB
    assert limit // 2 < grown < allowed
    bombs.measured["one message, max_message_size 16 MiB, the whole process"] = bombs.Bomb(
        size, 10 * KIB * MIB, allowed, grown
    )


@ROLES
@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_one_read_full_of_small_bombs_fills_the_inbox_and_no_more(
    role: Role, kind: str, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(nursery, role, await open_streams(kind, nursery))
    frames = [frame for _ in range(300) for frame in peer.frames(BINARY, bytes(60_000))]
    with watching(lambda: ws.statistics().inbox_size) as steps:
        nursery.start_soon(peer.raw.send, *frames)
        await trio.testing.wait_all_tasks_blocked()
        assert steps.largest <= 5 * 64 * KIB
    assert 240_000 <= ws.statistics().inbox_size <= 5 * 64 * KIB
    for _ in range(300):
        assert await ws.receive() == bytes(60_000)


class Ticks(trio.abc.Instrument):
    """How much is deflated between two looks at the other tasks."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.number = number
        self.largest = 0
        self._before = number()

    def after_io_wait(self, timeout: float) -> None:
        now = self.number()
        self.largest = max(self.largest, now - self._before)
        self._before = now


@pytest.mark.parametrize("kind", ["memory", "socket"])
@pytest.mark.parametrize(
    "content", [bytes(100 * MIB), noise(6 * MIB)], ids=["100 MiB of zeros", "noise"]
)
async def test_a_message_of_any_size_is_deflated_and_inflated_in_bounded_steps(
    kind: str, content: bytes, nursery: trio.Nursery
) -> None:
    client, server = await websocket_pair(
        nursery,
        await open_streams(kind, nursery),
        compression=PermessageDeflate(level=1),
        max_message_size=None,
    )

    async def receive_all() -> None:
        size, fin = 0, False
        while not fin:
            part, fin = await server.receive_some()
            size += len(part)
        assert size == len(content)

    ticks = Ticks(lambda: client._outbox.deflated)
    trio.lowlevel.add_instrument(ticks)
    with (
        watching(lambda: client._outbox.deflated) as deflated,
        watching(lambda: server._protocol.partial_size) as inflated,
    ):
        async with trio.open_nursery() as inner:
            inner.start_soon(receive_all)
            await client.send(content)
    trio.lowlevel.remove_instrument(ticks)
    assert client._outbox.deflated >= len(content)
    assert deflated.largest <= 68 * KIB
    assert ticks.largest <= 68 * KIB
    assert inflated.largest <= 260 * KIB


class PassingClock(trio.abc.Clock):
    """Whoever looks at it finds that a millisecond has gone by."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now += 0.001
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0


@pytest.mark.parametrize("kind", ["memory", "socket"])
def test_what_takes_long_to_deflate_is_deflated_in_smaller_steps(kind: str) -> None:
    async def send_and_receive() -> None:
        async with trio.open_nursery() as nursery:
            pair = await websocket_pair(
                nursery, await open_streams(kind, nursery), compression=PermessageDeflate()
            )
            with watching(lambda: pair[0]._outbox.deflated) as deflated:
                await pair[0].send(noise(400_000))
                assert await pair[1].receive() == noise(400_000)
            assert 16 * KIB <= deflated.largest <= 17 * KIB
            nursery.cancel_scope.cancel()

    trio.run(send_and_receive, clock=PassingClock())


@ROLES
@pytest.mark.parametrize("compress", [False, True])
async def test_a_message_in_frames_of_a_byte_is_sent_in_bounded_steps(
    role: Role, compress: bool, nursery: trio.Nursery
) -> None:
    ws, peer = await open_with_zlib(
        nursery, role, await open_streams("socket", nursery), max_frame_size=1
    )
    await ws.send("warm")
    assert await peer.receive() == (True, b"warm")
    ticks = Ticks(lambda: ws._outbox.deflated)
    trio.lowlevel.add_instrument(ticks)
    await ws.send(noise(9000), compress=compress)
    assert await peer.receive() == (compress, noise(9000))
    trio.lowlevel.remove_instrument(ticks)
    assert ws._outbox.deflated >= 9000 * 64
    assert ticks.largest <= 3 * 32 * KIB


async def test_a_slow_transport_does_not_make_it_hold_what_was_deflated(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    slow = FaultyStream(ours)
    slow.max_bytes = 100
    ws, peer = await open_with_zlib(nursery, Role.CLIENT, (slow, theirs))
    await ws.send(bytes(200_000))
    assert ws.statistics().outbox_size <= 200_000 + FRAME_COST
    assert await peer.receive() == (True, bytes(200_000))
    await ws.flush()
    assert ws.statistics().outbox_size == 0


@pytest.mark.parametrize("end", ["aclose", "terminal"])
async def test_a_stream_that_is_closed_holds_no_window_any_more(end: str) -> None:
    tracemalloc.start()
    try:
        async with trio.open_nursery() as nursery:
            ours, theirs = await websocket_pair(nursery, compression=PermessageDeflate(mem_level=9))
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                await sender.send("some text " * 10)
                await receiver.receive()
            before = tracemalloc.get_traced_memory()[0]
            if end == "aclose":
                nursery.start_soon(theirs.aclose)
                await ours.aclose()
            else:
                nursery.cancel_scope.cancel()
        gc.collect()
        freed = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert freed > 2 * 250 * KIB, "of each direction, the window and what finds repetitions in it"
