"""How ``open_websocket`` is left: what comes out of the block, and what the peer sees.

A KeyboardInterrupt is a real signal here. Trio gives it to the main task, so those tests run Trio
themselves.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from raw_peer import CLOSE, Frame, RawPeer, Streams, make_streams

import trio_ws
from trio_ws._protocol import Role
from trio_ws.testing import NO_TIMEOUTS, FaultyStream


class Peer(RawPeer):
    """A server behind ``connect=`` that echoes, and keeps the codes of the Close frames it sees.

    :ivar answers: whether it answers a Close, and closes.
    :ivar floods: whether it sends messages for ever, ten a second.
    :ivar codes: the codes of the Close frames that came.
    :ivar gone: set when the connection is over.
    """

    def __init__(self, nursery: trio.Nursery, streams: Streams) -> None:
        self.ours, theirs = streams
        super().__init__(theirs, Role.SERVER)
        self.nursery = nursery
        self.answers = True
        self.floods = False
        self.codes: list[int] = []
        self.gone = trio.Event()

    def open(self) -> trio_ws.open_websocket:
        return trio_ws.open_websocket("ws://test/", connect=self.connect, timeouts=NO_TIMEOUTS)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        self.nursery.start_soon(self.serve)
        await trio.lowlevel.checkpoint()
        return self.ours

    async def serve(self) -> None:
        with suppress(trio.BrokenResourceError):
            await self.open_as_server()
            async with trio.open_nursery() as nursery:
                if self.floods:
                    nursery.start_soon(self.flood)
                while (frame := await self.receive()) is not None:
                    if frame.opcode != CLOSE:
                        await self.send(frame)
                        continue
                    self.codes.append(int.from_bytes(frame.payload[:2], "big"))
                    if self.answers:
                        await self.send(frame)
                        break
                nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(self.stream)
        self.gone.set()

    async def flood(self) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(0.1)
                await self.send(Frame(trio_ws.Opcode.BINARY, bytes(100)))


@pytest.fixture(params=["memory", "socket"])
async def peer(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Peer:
    return Peer(nursery, await make_streams(request.param))


async def test_a_block_that_ends_closes_with_1000(peer: Peer) -> None:
    async with peer.open() as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    assert ws.close_reason == (1000, "")
    await peer.gone.wait()
    assert peer.codes == [1000]


async def test_a_block_may_have_closed_already(peer: Peer) -> None:
    async with peer.open() as ws:
        await ws.aclose(4000, "enough")
    await peer.gone.wait()
    assert peer.codes == [4000]


GROUP = ExceptionGroup("two tasks failed", [ValueError(1), ValueError(2)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("mine"), 1011),
        (GROUP, 1011),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), 1011),
        (BaseExceptionGroup("", [KeyboardInterrupt(), SystemExit()]), 1001),
        (KeyboardInterrupt(), 1001),
        (SystemExit(3), 1001),
    ],
    ids=repr,
)
async def test_the_very_exception_of_the_block_comes_out_and_the_peer_is_told(
    peer: Peer, error: BaseException, code: int
) -> None:
    with pytest.raises(type(error)) as caught:
        async with peer.open():
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert error.__cause__ is None
    await peer.gone.wait()
    assert peer.codes == [code]


async def test_two_exceptions_in_the_users_own_nursery_stay_in_its_group(peer: Peer) -> None:
    async def fail(error: Exception) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise error

    with pytest.RaisesGroup(ValueError, KeyError):
        async with peer.open(), trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError())
            nursery.start_soon(fail, KeyError())
    await peer.gone.wait()
    assert peer.codes == [1011]


async def test_cancelled_from_outside(peer: Peer) -> None:
    seen: list[BaseException] = []
    with trio.CancelScope() as scope:
        try:
            async with peer.open() as ws:
                scope.cancel()
                try:
                    await ws.receive()
                except trio.Cancelled as cancelled:
                    seen.append(cancelled)
                    raise
        except BaseException as error:
            seen.append(error)
            raise
    assert scope.cancelled_caught
    inside, outside = seen
    assert inside is outside
    await peer.gone.wait()
    assert peer.codes == [1001]


async def test_cancelled_inside_the_block_leaves_the_stream_open(peer: Peer) -> None:
    async with peer.open() as ws:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws.receive()
        assert scope.cancelled_caught
        await ws.send("still here")
        assert await ws.receive() == "still here"
    await peer.gone.wait()
    assert peer.codes == [1000]


async def test_cleanup_in_a_shield_finds_a_live_stream(peer: Peer) -> None:
    with trio.CancelScope() as scope:
        async with peer.open() as ws:
            scope.cancel()
            try:
                await ws.receive()
            finally:
                # As long as it takes: whatever is cancelled around it, the stream lives.
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    await ws.send("goodbye")
                    assert await ws.receive() == "goodbye"
                    await ws.aclose(4001, "cleaned up")
                assert ws.close_reason == (4001, "cleaned up")
    assert scope.cancelled_caught
    await peer.gone.wait()
    assert peer.codes == [4001]


@pytest.mark.parametrize("floods", [False, True])
async def test_a_peer_that_never_answers_delays_an_exception_by_a_second(
    peer: Peer, floods: bool, autojump_clock: trio.testing.MockClock
) -> None:
    peer.answers = False
    peer.floods = floods
    error = ValueError()
    with pytest.raises(ValueError) as caught:
        async with peer.open() as ws:
            start = trio.current_time()
            raise error
    assert caught.value is error
    assert trio.current_time() - start == pytest.approx(1)
    await peer.gone.wait()
    assert peer.codes == [1011]
    with pytest.raises(trio.ClosedResourceError):
        await ws.receive()


@pytest.mark.parametrize("floods", [False, True])
async def test_a_peer_that_never_answers_delays_a_cancellation_by_a_second(
    peer: Peer, floods: bool, autojump_clock: trio.testing.MockClock
) -> None:
    peer.answers = False
    peer.floods = floods
    with trio.move_on_after(10) as scope:
        async with peer.open() as ws:
            await ws.send("hello")
            await ws.wait_closed()
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline == pytest.approx(1)
    await peer.gone.wait()
    assert peer.codes == [1001]


async def test_an_exception_while_the_outbox_can_not_drain(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await make_streams("memory")
    faulty = FaultyStream(ours)
    peer = Peer(nursery, (faulty, theirs))
    error = ValueError()
    with pytest.raises(ValueError) as caught:
        async with peer.open() as ws:
            faulty.stall(receive=False)
            await ws.send("never arrives")
            raise error
    assert caught.value is error
    await peer.gone.wait()
    assert peer.codes == []


@pytest.mark.parametrize("failure", [trio.BrokenResourceError(), OSError(), RuntimeError(), None])
async def test_an_exception_while_the_close_fails(
    nursery: trio.Nursery, failure: Exception | None
) -> None:
    ours, theirs = await make_streams("memory")
    faulty = FaultyStream(ours)
    peer = Peer(nursery, (faulty, theirs))
    error = ValueError()
    with pytest.raises(ValueError) as caught:
        async with peer.open():
            faulty.fail_after(0, failure)
            raise error
    assert caught.value is error
    assert error.__context__ is None
    await peer.gone.wait()


async def test_cancelling_the_close_of_a_block_that_ended_closes_at_once(
    peer: Peer, autojump_clock: trio.testing.MockClock
) -> None:
    peer.answers = False
    with trio.move_on_after(10) as scope:
        async with peer.open():
            pass
    assert scope.cancelled_caught
    assert trio.current_time() == scope.deadline
    await peer.gone.wait()
    assert peer.codes == [1000]


async def echo(nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
    with suppress(trio_ws.HandshakeError, trio_ws.ConnectionClosed):
        ws = await trio_ws.wrap_server_stream(nursery, stream, timeouts=NO_TIMEOUTS)
        async for message in ws:
            await ws.send(message)


async def use_cancelled_after(ticks: int) -> bool:
    """Connect, use and close; whether the cancellation came too late."""
    ours, theirs = await make_streams("memory")

    async def connect(host: str, port: int) -> trio.abc.Stream:
        nursery.start_soon(echo, nursery, theirs)
        await trio.lowlevel.checkpoint()
        return ours

    async def cancel() -> None:
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel)
            async with trio_ws.open_websocket("ws://test/", connect=connect) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()
    return not scope.cancelled_caught


async def test_cancelling_in_any_tick_leaks_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """From the first step of connecting to the last one of closing."""
    ticks = 1
    while not await use_cancelled_after(ticks):
        ticks += 1
    assert ticks > 10


# Ctrl-C


@trio.lowlevel.enable_ki_protection
def interrupt() -> None:
    """A SIGINT that Trio delivers to the main task."""
    signal.raise_signal(signal.SIGINT)


async def interrupt_when_all_wait() -> None:
    await trio.testing.wait_all_tasks_blocked()
    interrupt()


def run(test: Callable[[Peer], Awaitable[None]]) -> None:
    """Run *test* in the main task, with a peer in the background."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(Peer(nursery, await make_streams("memory")))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_ctrl_c_while_the_block_computes() -> None:
    async def main(peer: Peer) -> None:
        late = False
        with pytest.raises(KeyboardInterrupt):
            async with peer.open():
                signal.raise_signal(signal.SIGINT)
                late = True
        assert not late
        await peer.gone.wait()
        assert peer.codes == [1001]

    run(main)


def test_ctrl_c_while_the_block_receives() -> None:
    async def main(peer: Peer) -> None:
        with pytest.raises(KeyboardInterrupt):
            async with peer.open() as ws:
                peer.nursery.start_soon(interrupt_when_all_wait)
                await ws.receive()
        await peer.gone.wait()
        assert peer.codes == [1001]

    run(main)


def test_ctrl_c_while_connecting() -> None:
    async def main(peer: Peer) -> None:
        async def connect(host: str, port: int) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return peer.ours

        peer.nursery.start_soon(interrupt_when_all_wait)
        with pytest.raises(KeyboardInterrupt):
            async with trio_ws.open_websocket("ws://test/", connect=connect):
                pass
        with pytest.raises(trio.ClosedResourceError):
            await peer.ours.receive_some()

    run(main)


def test_ctrl_c_while_the_callable_that_connects_computes() -> None:
    async def main(peer: Peer) -> None:
        late = False

        async def connect(host: str, port: int) -> trio.abc.Stream:
            nonlocal late
            signal.raise_signal(signal.SIGINT)
            late = True
            await trio.lowlevel.checkpoint()
            return peer.ours

        with pytest.raises(KeyboardInterrupt):
            async with trio_ws.open_websocket("ws://test/", connect=connect):
                pass
        assert not late

    run(main)


def test_ctrl_c_while_the_close_waits_for_the_peer() -> None:
    async def main(peer: Peer) -> None:
        peer.answers = False
        with pytest.raises(KeyboardInterrupt):
            async with peer.open():
                peer.nursery.start_soon(interrupt_when_all_wait)
        await peer.gone.wait()
        assert peer.codes == [1000]

    run(main)


def test_ctrl_c_while_a_failed_block_closes_shows_both() -> None:
    async def main(peer: Peer) -> None:
        peer.answers = False
        error = ValueError()
        with pytest.raises(KeyboardInterrupt) as caught:
            async with peer.open():
                peer.nursery.start_soon(interrupt_when_all_wait)
                raise error
        assert error in contexts(caught.value)
        await peer.gone.wait()
        assert peer.codes == [1011]

    run(main)


class InterruptedWhenClosed(FaultyStream):
    """A stream that takes a while to close for the second time, and Ctrl-C comes then."""

    closes = 0

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        self.closes += 1
        if self.closes == 2:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            interrupt()
        await super().aclose()


def test_ctrl_c_while_the_nursery_closes_comes_out_bare() -> None:
    async def main(peer: Peer) -> None:
        peer.answers = False
        peer.ours = stream = InterruptedWhenClosed(peer.ours)
        error = ValueError()
        with pytest.raises(KeyboardInterrupt) as caught:
            async with peer.open():
                raise error
        assert stream.closes == 2
        assert error in contexts(caught.value)

    run(main)


def contexts(error: BaseException) -> list[BaseException]:
    """What was being handled when *error* was raised, and so on."""
    if error.__context__ is None:
        return []
    return [error.__context__, *contexts(error.__context__)]
