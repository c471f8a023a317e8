"""Bounds of memory and time on one stream, with a peer or an application that behaves badly."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from raw_peer import BINARY, PING, Frame, make_streams, open_with_peer

from trio_ws import ConnectionClosedError, Timeouts, broadcast
from trio_ws._protocol import Role
from trio_ws.testing import FaultyStream, websocket_pair

MIB = 1024 * 1024


async def test_a_poller_gets_a_message_that_fits_the_inbox_but_not_its_half(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client_end, server_end = trio.testing.memory_stream_pair()
    slow = FaultyStream(server_end)
    slow.max_bytes = 8 * 1024
    client, server = await websocket_pair(nursery, (client_end, slow))
    await client.send(bytes(10_000))
    await client.send(bytes(62_000))
    for size in (10_000, 62_000):
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.receive_nowait()) == size
    nursery.cancel_scope.cancel()


async def test_the_goodbye_of_a_huge_message_is_one_step_however_fast_the_peer_reads(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await make_streams("socket")
    assert isinstance(ours, trio.SocketStream)
    ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    ws, peer = await open_with_peer(nursery, Role.CLIENT, (ours, theirs))
    sent_before = ws.statistics().bytes_sent
    with trio.CancelScope() as scope:
        scope.cancel()
        ws.send_nowait(b"first")
        ws.send_nowait(bytes(64 * MIB))
        await ws.aclose()
    assert scope.cancelled_caught
    assert ws.statistics().bytes_sent - sent_before < MIB
    await peer.stream.aclose()


async def test_after_a_failed_write_the_inbox_is_bounded_still(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await make_streams("socket")
    assert isinstance(theirs, trio.SocketStream)
    timeouts = Timeouts(handshake=30, idle=None)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs), timeouts=timeouts)
    theirs.socket.shutdown(socket.SHUT_RD)

    async def flood() -> None:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(Frame(BINARY, bytes(1000)))

    await ws.send("this write fails")
    nursery.start_soon(flood)
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().inbox_size < 513 * 1024
    await trio.sleep(31)
    assert ws.close_reason is not None
    assert ws.close_reason.code == 1006
    await peer.stream.aclose()


async def test_a_flush_after_the_connection_has_failed_is_refused_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, await make_streams("socket"))
    await ws.send(bytes(4 * MIB))
    await peer.send(Frame(0x3, b""))
    with pytest.raises(ConnectionClosedError):
        await ws.receive()
    with pytest.raises(ConnectionClosedError) as caught:
        await ws.flush()
    assert caught.value.code == 1002
    await peer.stream.aclose()
    nursery.cancel_scope.cancel()


async def test_what_is_gathered_for_the_next_tick_is_no_reason_to_block_or_to_skip(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await make_streams("socket")
    assert isinstance(ours, trio.SocketStream)
    ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    ws, peer = await open_with_peer(nursery, Role.SERVER, (ours, theirs))
    for _ in range(80):
        ws.send_nowait(bytes(1000))
    for _ in range(80):
        assert broadcast([ws], bytes(1000)) == []
    await peer.stream.aclose()
    nursery.cancel_scope.cancel()


async def test_pings_behind_a_full_inbox_wait_and_are_answered_when_there_is_room(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_with_peer(nursery, Role.SERVER, max_inbox_size=1000)
    await peer.send(*[Frame(BINARY, bytes(900))] * 4, Frame(PING, b"there?"))
    await trio.testing.wait_all_tasks_blocked()
    assert ws.statistics().bytes_sent == 0
    for _ in range(4):
        assert await ws.receive() == bytes(900)
    frame = await peer.receive()
    assert frame is not None
    assert frame.payload == b"there?"
    nursery.cancel_scope.cancel()
