"""``trio_ws.testing``: connected pairs, the budget, a faulty transport."""

from __future__ import annotations

import math
import ssl

import pytest
import trio
import trio.testing
from background import begin
from raw_peer import Streams

from trio_ws import HandshakeError, Timeouts, WebSocketStream
from trio_ws.testing import (
    NO_TIMEOUTS,
    FaultyStream,
    set_budget,
    websocket_pair,
)

# Connected pairs


async def test_a_pair_talks_in_both_directions(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    await client.send("from the client")
    await server.send(b"from the server")
    assert await server.receive() == "from the client"
    assert await client.receive() == b"from the server"
    assert "client" in repr(client)
    assert "server" in repr(server)


async def test_a_pair_over_transports_of_the_tests_own(
    nursery: trio.Nursery, streams: Streams
) -> None:
    client, server = await websocket_pair(nursery, streams)
    assert (client.transport_stream, server.transport_stream) == streams
    await client.send("hello")
    assert await server.receive() == "hello"
    await client.aclose()
    await server.aclose()


async def test_a_pair_has_no_deadline_for_an_autojump_clock_to_jump_to(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = await websocket_pair(nursery)
    assert client.options.timeouts is NO_TIMEOUTS
    assert server.options.timeouts is NO_TIMEOUTS
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


async def test_options_are_those_of_both_unless_one_has_its_own(nursery: trio.Nursery) -> None:
    timeouts = Timeouts(idle=7)
    client, server = await websocket_pair(
        nursery,
        client={"max_inbox_size": 1},
        server={"max_outbox_size": 2},
        max_inbox_size=3,
        timeouts=timeouts,
    )
    assert (client.options.max_inbox_size, server.options.max_inbox_size) == (1, 3)
    assert (client.options.max_outbox_size, server.options.max_outbox_size) == (256 * 1024, 2)
    assert client.options.timeouts == server.options.timeouts == timeouts


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_option_out_of_range_is_a_value_error_and_both_transports_are_closed(
    side: str, nursery: trio.Nursery
) -> None:
    streams = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="max_inbox_size=0"):
        if side == "client":
            await websocket_pair(nursery, streams, client={"max_inbox_size": 0})
        else:
            await websocket_pair(nursery, streams, server={"max_inbox_size": 0})
    for stream in streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


async def test_transports_that_do_not_work_are_a_handshake_error(nursery: trio.Nursery) -> None:
    client_stream, server_stream = map(FaultyStream, trio.testing.memory_stream_pair())
    client_stream.fail_after(1, trio.BrokenResourceError())
    with pytest.raises(HandshakeError):
        await websocket_pair(nursery, (client_stream, server_stream))


async def test_cancelling_a_pair_that_shakes_hands_closes_both_transports(
    nursery: trio.Nursery,
) -> None:
    client_stream, server_stream = map(FaultyStream, trio.testing.memory_stream_pair())
    server_stream.stall()
    call = await begin(nursery, websocket_pair, nursery, (client_stream, server_stream))
    assert not call.is_over
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    for stream in (client_stream, server_stream):
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


# The budget


async def test_with_a_budget_of_1_every_call_lets_others_run(nursery: trio.Nursery) -> None:
    client, server = await websocket_pair(nursery)
    set_budget(1)
    for _ in range(3):
        with trio.testing.assert_checkpoints():
            await client.send("hello")
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(3):
        with trio.testing.assert_checkpoints():
            await server.receive()


def test_a_budget_below_1_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="budget=0"):
        set_budget(0)


# The faulty transport


def faulty_pair() -> tuple[FaultyStream, trio.testing.MemoryReceiveStream]:
    """A faulty stream, and what receives the bytes that get through it."""
    ours, theirs = trio.testing.memory_stream_pair()
    return FaultyStream(ours), theirs.receive_stream


async def test_a_faulty_stream_passes_on_what_it_is_not_told_to_hold_back() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(ours)
    await stream.send_all(b"there")
    await stream.wait_send_all_might_not_block()
    assert await theirs.receive_some() == b"there"
    await theirs.send_all(b"and back")
    assert await stream.receive_some(3) == b"and"
    assert await stream.receive_some() == b" back"
    await stream.send_eof()
    assert await theirs.receive_some() == b""
    await theirs.aclose()
    assert await stream.receive_some() == b""
    await stream.aclose()


async def test_it_checkpoints_like_every_stream() -> None:
    stream = FaultyStream(trio.testing.memory_stream_pair()[0])
    with trio.testing.assert_checkpoints():
        await stream.send_all(b"")
    with trio.testing.assert_checkpoints():
        await stream.wait_send_all_might_not_block()
    stream.fail_after(0, None)
    with trio.testing.assert_checkpoints():
        await stream.receive_some()


async def test_it_splits_what_is_sent_and_what_is_received() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    stream = FaultyStream(ours)
    stream.max_bytes = 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"12345")
        assert [await theirs.receive_some() for _ in range(3)] == [b"12", b"34", b"5"]
        nursery.start_soon(theirs.send_all, b"123")
        assert await stream.receive_some() == b"12"
        assert await stream.receive_some(1) == b"3"


async def test_it_delays_every_operation(autojump_clock: trio.testing.MockClock) -> None:
    stream, receiver = faulty_pair()
    stream.delay = 3
    start = trio.current_time()
    await stream.send_all(b"x")
    assert trio.current_time() - start == 3
    stream.max_bytes = 1
    await stream.send_all(b"yz")
    assert trio.current_time() - start == 9
    assert await receiver.receive_some() == b"xyz"


async def test_it_counts_the_operations_that_have_begun(nursery: trio.Nursery) -> None:
    stream, _ = faulty_pair()
    await begin(nursery, stream.receive_some)
    await stream.send_all(b"whole")
    stream.max_bytes = 1
    await stream.send_all(b"123")
    assert stream.operations == 5


async def test_what_is_stalled_waits_until_it_is_resumed(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(ours)
    await theirs.send_all(b"in")
    stream.stall()
    stream.stall()
    receiving = await begin(nursery, stream.receive_some)
    sending = await begin(nursery, stream.send_all, b"out")
    assert not receiving.is_over
    assert not sending.is_over
    stream.resume()
    assert await receiving.result() == b"in"
    await sending.result()
    assert await theirs.receive_some() == b"out"
    stream.resume()


async def test_waiting_for_room_to_send_is_stalled_like_sending(nursery: trio.Nursery) -> None:
    stream, _ = faulty_pair()
    stream.stall()
    call = await begin(nursery, stream.wait_send_all_might_not_block)
    assert not call.is_over
    stream.resume()
    await call.result()


@pytest.mark.parametrize("receive", [True, False])
async def test_one_direction_can_be_stalled_alone(receive: bool, nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(ours)
    await theirs.send_all(b"in")
    stream.stall(receive=receive, send=not receive)
    receiving = await begin(nursery, stream.receive_some)
    sending = await begin(nursery, stream.send_all, b"out")
    assert receiving.is_over is not receive
    assert sending.is_over is receive


async def test_a_receive_that_waits_already_is_stalled_too(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(ours)
    call = await begin(nursery, stream.receive_some)
    stream.stall()
    await theirs.send_all(b"1234")
    await trio.testing.wait_all_tasks_blocked()
    assert not call.is_over
    call.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert call.was_cancelled
    stream.resume()
    assert await stream.receive_some(3) == b"123"
    assert await stream.receive_some() == b"4"


async def test_after_some_operations_every_one_fails() -> None:
    stream, receiver = faulty_pair()
    await stream.send_all(b"1")
    stream.fail_after(2, trio.BrokenResourceError("told to"))
    await stream.send_all(b"2")
    await stream.send_all(b"3")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="told to"):
            await stream.send_all(b"4")
        with pytest.raises(trio.BrokenResourceError, match="told to"):
            await stream.receive_some()
    assert await receiver.receive_some() == b"123"


async def test_without_an_error_it_fails_as_at_eof() -> None:
    stream, receiver = faulty_pair()
    stream.fail_after(0, None)
    await stream.send_all(b"lost")
    assert await stream.receive_some() == b""
    await stream.stream.aclose()
    assert await receiver.receive_some() == b""


async def test_send_eof_closes_a_stream_that_can_not_half_close(
    client_ssl_context: ssl.SSLContext,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(trio.SSLStream(ours, client_ssl_context, https_compatible=True))
    await stream.send_eof()
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_closing_ends_what_is_stalled(nursery: trio.Nursery) -> None:
    stream, _ = faulty_pair()
    stream.stall()
    receiving = await begin(nursery, stream.receive_some)
    sending = await begin(nursery, stream.send_all, b"x")
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await receiving.result()
    with pytest.raises(trio.ClosedResourceError):
        await sending.result()


@pytest.mark.parametrize("max_bytes", [1, 2, 7])
async def test_a_pair_works_over_transports_that_split_everything(
    max_bytes: int, nursery: trio.Nursery
) -> None:
    client_stream, server_stream = map(FaultyStream, trio.testing.memory_stream_pair())
    client_stream.max_bytes = server_stream.max_bytes = max_bytes
    client, server = await websocket_pair(nursery, (client_stream, server_stream))
    await exchange(client, server)
    await exchange(server, client)


async def exchange(sender: WebSocketStream, receiver: WebSocketStream) -> None:
    await sender.send("häßlich")
    await sender.send(bytes(300))
    assert await receiver.receive() == "häßlich"
    assert await receiver.receive() == bytes(300)
