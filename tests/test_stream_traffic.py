"""Tasks that send, receive, ping and are cancelled at random: nothing is lost, torn or doubled.

The seed chooses what the tasks do; in which order Trio runs them is chance on top of that. There is
more traffic here than in the programs of ``test_stream_model.py``, which are many and short.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from transports import open_streams

from trio_ws import ConnectionClosedOK, WebSocketStream
from trio_ws.testing import set_budget, websocket_pair

SENDERS, MESSAGES, RECEIVERS = 4, 25, 3


class Traffic:
    """What was committed, what was received by whom, and the dice."""

    def __init__(self, seed: int, nursery: trio.Nursery) -> None:
        self.dice = random.Random(seed)
        self.nursery = nursery
        self.sent: list[str] = []
        self.received: list[list[str]] = []

    async def perhaps_cancelled(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Make the call; whether it has come to its end."""
        with trio.CancelScope() as scope:
            if self.dice.random() < 0.6:
                self.nursery.start_soon(self._cancel_after, self.dice.randrange(6), scope)
            await call()
        return not scope.cancelled_caught

    async def _cancel_after(self, ticks: int, scope: trio.CancelScope) -> None:
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def send(self, ws: WebSocketStream, sender: int) -> None:
        for number in range(MESSAGES):
            message = f"{sender} {number} ".ljust(self.dice.choice([0, 100, 1000]), "ä")
            way = self.dice.randrange(3)
            if way == 0:
                done = await self.perhaps_cancelled(partial(ws.send, message))
            elif way == 1:
                done = self._send_nowait(ws, message)
            else:
                done = await self._send_in_parts(ws, message.encode())
            if done:
                self.sent.append(message)

    def _send_nowait(self, ws: WebSocketStream, message: str) -> bool:
        try:
            ws.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    async def _send_in_parts(self, ws: WebSocketStream, data: bytes) -> bool:
        """A part that was cancelled is sent again, but for the first one."""
        cut = self.dice.randrange(len(data) + 1)
        begun = await self.perhaps_cancelled(lambda: ws.send_some(data[:cut], fin=False, text=True))
        while begun and not await self.perhaps_cancelled(
            lambda: ws.send_some(data[cut:], fin=True)
        ):
            pass
        return begun

    async def receive(self, ws: WebSocketStream) -> None:
        received: list[str] = []
        self.received.append(received)

        async def receive_one() -> None:
            message = await ws.receive()
            assert isinstance(message, str)
            received.append(message)

        with suppress(ConnectionClosedOK):
            while True:
                await self.perhaps_cancelled(receive_one)

    async def receive_in_parts(self, ws: WebSocketStream) -> None:
        received: list[str] = []
        self.received.append(received)
        parts: list[str] = []

        async def receive_part() -> None:
            part, fin = await ws.receive_some(self.dice.choice([None, 1, 3, 1000]))
            assert isinstance(part, str)
            parts.append(part)
            if fin:
                received.append("".join(parts))
                parts.clear()

        with suppress(ConnectionClosedOK):
            while True:
                await self.perhaps_cancelled(receive_part)
        assert not parts

    async def ping(self, ws: WebSocketStream) -> None:
        for _ in range(MESSAGES):
            await self.perhaps_cancelled(ws.ping)
            await self.perhaps_cancelled(ws.pong)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("kind", ["memory", "lockstep", "split", "socket"])
async def test_every_message_that_was_committed_is_received_once_whole_and_in_order(
    kind: str, in_parts: bool, seed: int, nursery: trio.Nursery
) -> None:
    traffic = Traffic(seed, nursery)
    dice = traffic.dice
    set_budget(dice.choice([1, 10_000, 256 * 1024]))
    client, server = await websocket_pair(
        nursery,
        await open_streams(kind, nursery),
        max_inbox_size=dice.choice([1, 3000, 64 * 1024]),
        max_outbox_size=dice.choice([1, 3000, 64 * 1024]),
        max_frame_size=dice.choice([None, 30, 1000]),
    )
    async with trio.open_nursery() as receivers:
        if in_parts:
            receivers.start_soon(traffic.receive_in_parts, server)
        else:
            for _ in range(RECEIVERS):
                receivers.start_soon(traffic.receive, server)
        async with trio.open_nursery() as senders:
            for sender in range(SENDERS):
                senders.start_soon(traffic.send, client, sender)
            senders.start_soon(traffic.ping, client)
        await client.send_close()
    await client.wait_closed()

    assert traffic.sent
    assert sorted(itertools.chain(*traffic.received)) == sorted(traffic.sent)
    for received in traffic.received:
        for sender in range(SENDERS):
            own = [message for message in received if message.startswith(f"{sender} ")]
            numbers = [int(message.split(" ")[1]) for message in own]
            assert numbers == sorted(numbers)
    assert client.statistics().messages_sent == len(traffic.sent)
    assert server.statistics().messages_received == len(traffic.sent)
