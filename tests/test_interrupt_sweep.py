"""Ctrl-C at every step: a real SIGINT, and what comes of it.

KeyboardInterrupt comes out once, in no group, for nobody here has made a nursery. A call that it
comes out of had no effect, so it can be made again. The signal comes between two steps of tasks,
when an instrument raises it; or in the middle of a step, when a function of trio_ws is called. Of
these there are many: of send, receive, aclose and the opening handshake every seventh is taken, and
every one of aclose over a socket; of the other calls every seventeenth.

The peer is a system task, which Ctrl-C is never delivered to.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, TypeAlias, TypeVar

import pytest
import trio
import trio.testing
from sweeping import CALM_RUNS, Listener, is_closed, make_streams, record

import trio_ws
from trio_ws import ConnectionClosed, ConnectionClosedOK, HandshakeError, WebSocketStream
from trio_ws._options import StreamKeywords
from trio_ws.testing import NO_TIMEOUTS, SweepResult, set_budget

T = TypeVar("T")

OPTIONS: Final[StreamKeywords] = {
    "timeouts": NO_TIMEOUTS,
    "max_inbox_size": 1,
    "max_outbox_size": 1,
}
MAX_POINTS: Final = 3000
STRIDE: Final = 7
COARSE_STRIDE: Final = 17


class Interrupter(trio.abc.Instrument):
    """Raises SIGINT at a point: between two steps of tasks, or when a function is called.

    :ivar in_steps: whether a point is the call of a function of trio_ws.
    :ivar was_raised: whether the signal was raised.
    :ivar caught: how often KeyboardInterrupt came out of a call.
    """

    def __init__(self, point: int, in_steps: bool) -> None:
        self.in_steps = in_steps
        self.was_raised = False
        self.caught = 0
        self.steps = 0
        self._points_left = point
        self._is_armed = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """The points in this block count."""
        self._is_armed = True
        if self.in_steps:
            sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._is_armed = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if not self.in_steps:
            self._see_point()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.in_steps:
            self._see_point()

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("trio_ws."):
            self._see_point()

    def _see_point(self) -> None:
        if not self._is_armed or self.was_raised:
            return
        if self._points_left == 0:
            self.was_raised = True
            signal.raise_signal(signal.SIGINT)
        self._points_left -= 1

    async def until_done(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and make it again if Ctrl-C came out of it."""
        while True:  # noqa: ASYNC913 (the call is one)
            try:
                return await call()
            except KeyboardInterrupt:
                self.caught += 1


Scenario: TypeAlias = Callable[[Interrupter], Awaitable[None]]


def interrupt_everywhere(name: str, scenario: Scenario, in_steps: bool, stride: int) -> SweepResult:
    """Run it until its point does not come; each time KeyboardInterrupt comes out once."""

    def sweep() -> SweepResult:
        effective = steps = calm_runs = 0
        for point in range(0, MAX_POINTS, stride):
            interrupter = Interrupter(point, in_steps)
            came_out = _run(scenario, interrupter)
            assert came_out + interrupter.caught == interrupter.was_raised, f"at {point}"
            effective += interrupter.was_raised
            steps += interrupter.steps
            calm_runs = 0 if interrupter.was_raised else calm_runs + 1
            if calm_runs == CALM_RUNS:
                return SweepResult(point // stride + 1, effective, steps)
        raise AssertionError(f"more than {MAX_POINTS} points")

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        return record(f"SIGINT {name}", sweep)
    finally:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _run(scenario: Scenario, interrupter: Interrupter) -> bool:
    """Whether KeyboardInterrupt came out, which nothing else may."""

    async def main() -> None:
        with trio.fail_after(100):
            await scenario(interrupter)

    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        trio.run(main, clock=clock, instruments=[interrupter])
    except KeyboardInterrupt:
        return True
    return False


class Connection:
    """A client's transport, and a peer that lives in a system task until the end of it.

    :ivar peer_saw: the messages that the peer has received.
    """

    def __init__(self, kind: str, to_send: int = 0) -> None:
        self.peer_saw: list[str | bytes] = []
        self.stream: trio.abc.Stream | None = None
        self._kind = kind
        self._to_send = to_send

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        self.stream, theirs = await make_streams(self._kind)
        trio.lowlevel.spawn_system_task(self._be_the_peer, theirs)
        return self.stream

    async def _be_the_peer(self, stream: trio.abc.Stream) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                with suppress(HandshakeError, ConnectionClosed):
                    ws = await trio_ws.wrap_server_stream(nursery, stream, **OPTIONS)
                    nursery.start_soon(self._send, ws)
                    while True:
                        self.peer_saw.append(await ws.receive())
            assert await is_closed(stream)

    async def _send(self, ws: WebSocketStream) -> None:
        with suppress(ConnectionClosed):
            for number in range(self._to_send):
                await ws.send(str(number))

    def open(self) -> trio_ws.open_websocket:
        return trio_ws.open_websocket("ws://test/", connect=self.connect, **OPTIONS)

    async def check_closed(self) -> None:
        if self.stream is not None:
            with trio.CancelScope(shield=True):
                assert await is_closed(self.stream)


PLACES = pytest.mark.parametrize("in_steps", [False, True], ids=["between steps", "in steps"])
KINDS = pytest.mark.parametrize("kind", ["lockstep", "socket", "watched"])


async def send(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind)
    returned: list[str] = []
    set_budget(1)
    try:
        async with connection.open() as ws:
            with interrupter.armed():
                for number in range(2):
                    name = str(number).ljust(3000)
                    await interrupter.until_done(functools.partial(ws.send, name))
                    returned.append(name)
        assert connection.peer_saw == returned
    finally:
        # What came out of the block interrupted its aclose, and so was terminal.
        assert connection.peer_saw == returned[: len(connection.peer_saw)]
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def receive(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind, to_send=2)
    set_budget(1)
    async with connection.open() as ws:
        with interrupter.armed():
            received = [await interrupter.until_done(ws.receive) for _ in range(2)]
    assert received == ["0", "1"]
    await connection.check_closed()


async def send_some(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind)
    parts = [str(number).ljust(1500) for number in range(3)]
    set_budget(1)
    try:
        async with connection.open() as ws:
            with interrupter.armed():
                for part in parts:
                    send_part = functools.partial(ws.send_some, part, fin=part is parts[-1])
                    await interrupter.until_done(send_part)
            await ws.send("next")
        assert connection.peer_saw == ["".join(parts), "next"]
    finally:
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def receive_some(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind, to_send=3)
    received: list[str | bytes] = []
    set_budget(1)
    async with connection.open() as ws:
        with interrupter.armed():
            while len(received) < 3:
                receive_part = functools.partial(ws.receive_some, 1)
                part, fin = await interrupter.until_done(receive_part)
                assert fin
                received.append(part)
    assert received == ["0", "1", "2"]
    await connection.check_closed()


async def ping(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind)
    set_budget(1)
    try:
        async with connection.open() as ws:
            with interrupter.armed():
                for _ in range(2):
                    assert await interrupter.until_done(ws.ping) >= 0
            assert not ws._pings._sent
            await ws.send("next")
        assert connection.peer_saw == ["next"]
    finally:
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def flush(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind)
    message = "x" * 9000
    set_budget(1)
    try:
        async with connection.open() as ws:
            await ws.send(message)
            with interrupter.armed():
                await interrupter.until_done(ws.flush)
            assert ws.statistics().bytes_sent > len(message)
        assert connection.peer_saw == [message]
    finally:
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def send_close(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind, to_send=2)
    received: list[str | bytes] = []
    set_budget(1)
    try:
        async with connection.open() as ws:
            await ws.send("hello")
            with interrupter.armed():
                await interrupter.until_done(ws.send_close)
                with suppress(ConnectionClosedOK):
                    while True:
                        received.append(await interrupter.until_done(ws.receive))
            assert ws.close_reason == (1000, "")
        assert connection.peer_saw == ["hello"]
    finally:
        assert received == ["0", "1"][: len(received)]
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def wait_closed(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind, to_send=2)
    try:
        async with connection.open() as ws:
            await ws.send("hello")
            await ws.send_close()
            with interrupter.armed():
                await interrupter.until_done(ws.wait_closed)
            assert ws.close_reason == (1000, "")
        assert connection.peer_saw == ["hello"]
    finally:
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def aclose(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind, to_send=2)
    try:
        async with connection.open() as ws:
            await ws.send("hello")
            with interrupter.armed():
                await ws.aclose()
    finally:
        assert connection.peer_saw in ([], ["hello"])
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


async def opening(kind: str, interrupter: Interrupter) -> None:
    connection = Connection(kind)
    opened = False
    try:
        with interrupter.armed():
            async with connection.open():
                opened = True
    finally:
        assert opened or interrupter.was_raised
        await connection.check_closed()  # noqa: ASYNC102 (it shields itself)


@pytest.mark.parametrize("call", [send, receive, aclose, opening])
@PLACES
@KINDS
def test_ctrl_c_in_a_call_comes_out_once_and_bare_and_tears_nothing(
    call: Callable[[str, Interrupter], Awaitable[None]], in_steps: bool, kind: str
) -> None:
    name = f"{call.__name__} {kind} {'in' if in_steps else 'between'} steps"
    has_few_steps = call in (send, receive) or (call is aclose and kind == "socket")
    stride = 1 if has_few_steps or not in_steps else STRIDE
    result = interrupt_everywhere(name, functools.partial(call, kind), in_steps, stride)
    assert result.effective > 5


@pytest.mark.parametrize("call", [send_some, receive_some, ping, flush, send_close, wait_closed])
@pytest.mark.parametrize(
    ("kind", "in_steps"),
    [("lockstep", False), ("socket", False), ("socket", True)],
    ids=["lockstep-between steps", "socket-between steps", "socket-in steps"],
)
def test_ctrl_c_in_any_other_call_comes_out_once_and_the_call_can_be_made_again(
    call: Callable[[str, Interrupter], Awaitable[None]], in_steps: bool, kind: str
) -> None:
    name = f"{call.__name__} {kind} {'in' if in_steps else 'between'} steps"
    stride = COARSE_STRIDE if in_steps else 1
    result = interrupt_everywhere(name, functools.partial(call, kind), in_steps, stride)
    assert result.effective > 2


async def serving(interrupter: Interrupter) -> None:
    """A server is all that there is; its client is a system task."""
    listener = Listener("lockstep")
    echoed: list[str | bytes] = []

    async def echo(ws: WebSocketStream) -> None:
        async for message in ws:
            await ws.send(message)

    async def be_the_client() -> None:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912 (a handshake is one)
            async with trio.open_nursery() as nursery:
                with suppress(ConnectionRefusedError, HandshakeError, ConnectionClosed):
                    stream = await listener.dial()
                    ws = await trio_ws.wrap_client_stream(
                        nursery, stream, host="test", timeouts=NO_TIMEOUTS
                    )
                    for number in range(2):
                        await ws.send(str(number))
                        echoed.append(await ws.receive())
                    await ws.aclose()
        server_scope.cancel()

    trio.lowlevel.spawn_system_task(be_the_client)
    try:
        with interrupter.armed(), trio.CancelScope() as server_scope:
            await trio_ws.serve_websocket(echo, listeners=[listener], timeouts=NO_TIMEOUTS)
    finally:
        assert echoed == ["0", "1"][: len(echoed)]
        assert listener.closed
        for stream in listener.accepted:
            with trio.CancelScope(shield=True):
                assert await is_closed(stream)


@PLACES
def test_ctrl_c_ends_a_server_and_comes_out_once_and_bare(in_steps: bool) -> None:
    name = f"serve_websocket {'in' if in_steps else 'between'} steps"
    stride = STRIDE if in_steps else 1
    assert interrupt_everywhere(name, serving, in_steps, stride).effective > 20
