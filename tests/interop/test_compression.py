"""permessage-deflate with the libraries that have it: ``trio-websocket`` and ``picows`` do not.

Every test runs with each of them, as client and as server, with the parameters that trio_ws asks
for. They do what they are asked, whatever they do by default.
"""

from __future__ import annotations

import random

import pytest

import trio_ws
from trio_ws import PermessageDeflate

from .meeting import Meeting, exchange_many
from .puppeteer import Puppet

COMPRESSING = ["websockets_asyncio", "websockets_trio", "aiohttp", "ws"]

PARAMETERS = {
    "defaults": PermessageDeflate(),
    "no takeover": PermessageDeflate(
        server_no_context_takeover=True, client_no_context_takeover=True, min_size=0
    ),
    "smallest windows": PermessageDeflate(server_max_window_bits=9, client_max_window_bits=9),
    "largest windows": PermessageDeflate(
        server_max_window_bits=15, client_max_window_bits=15, level=9, mem_level=9
    ),
}

TEXT = "Zwölf Boxkämpfer jagen Виктор quer über den 大きな Sylter Deich \U0001f94a\n\0" * 4
BINARY = bytes(range(50)) * 8
NOISE = random.Random(7692).randbytes(100_000)
MIB = 1024 * 1024
LARGE: dict[str, str | bytes] = {
    "text": "é" * (MIB // 2),
    "bin": BINARY * (MIB // len(BINARY)),
    "noise": NOISE,
}


@pytest.fixture(params=COMPRESSING)
def peer_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    """What is below does not matter to compression."""
    name: str = request.param
    return name


@pytest.fixture(params=PARAMETERS)
def options(request: pytest.FixtureRequest) -> PermessageDeflate:
    return PARAMETERS[request.param]


@pytest.fixture
async def pair(meet: Meeting, options: PermessageDeflate) -> tuple[trio_ws.WebSocketStream, Puppet]:
    """Both have agreed to compress."""
    ws, peer = await meet({"compression": True, "max_size": 2 * MIB}, compression=options)
    agreed = ws.compression
    assert agreed is not None
    assert agreed.server_no_context_takeover >= options.server_no_context_takeover
    assert agreed.client_no_context_takeover >= options.client_no_context_takeover
    assert agreed.server_max_window_bits <= (options.server_max_window_bits or 15)
    assert agreed.client_max_window_bits <= (options.client_max_window_bits or 15)
    return ws, peer


Pair = tuple[trio_ws.WebSocketStream, Puppet]


async def exchange(ws: trio_ws.WebSocketStream, peer: Puppet, message: str | bytes) -> None:
    """Send a message both ways."""
    await ws.send(message)
    assert await peer.message() == message
    await peer.send(message)
    assert await ws.receive() == message


async def test_compressed_text_and_binary_arrive_as_sent(pair: Pair) -> None:
    ws, peer = pair
    for message in (TEXT, BINARY, TEXT, BINARY, "", TEXT, b"", BINARY):
        await exchange(ws, peer, message)


@pytest.mark.parametrize("kind", LARGE)
async def test_large_messages_arrive_compressed(pair: Pair, kind: str) -> None:
    ws, peer = pair
    message = LARGE[kind]
    await exchange(ws, peer, message)
    await exchange(ws, peer, TEXT)
    statistics = ws.statistics()
    limit = 21 * len(NOISE) // 20 if kind == "noise" else MIB // 4
    assert statistics.bytes_sent < limit
    assert statistics.bytes_received < limit


async def test_our_compressed_fragments_make_one_message(pair: Pair) -> None:
    ws, peer = pair
    data = TEXT.encode()
    split = data.index("大".encode()) + 1
    for _ in range(2):
        await ws.send_some(data[:split], fin=False, text=True)
        assert await ws.ping() > 0
        await ws.send_some(b"", fin=False)
        await ws.send_some(data[split:], fin=True)
        assert await peer.message() == TEXT
        await ws.send_some(BINARY, fin=False)
        await ws.send_some(NOISE, fin=False)
        await ws.send_some(b"", fin=True)
        assert await peer.message() == BINARY + NOISE
    await exchange(ws, peer, TEXT)


async def test_our_compressed_automatic_fragments_make_one_message(pair: Pair) -> None:
    ws, peer = pair
    ws.configure(max_frame_size=7)
    for message in (TEXT, BINARY, TEXT):
        await exchange(ws, peer, message)


@pytest.mark.parametrize("peer_name", [name for name in COMPRESSING if name != "aiohttp"])
async def test_the_peers_compressed_fragments_make_one_message(pair: Pair) -> None:
    ws, peer = pair
    for _ in range(2):
        await peer.send_fragments([TEXT[:10], "", TEXT[10:], TEXT])
        assert await ws.receive() == TEXT * 2
        await peer.send_fragments([BINARY, b"", NOISE])
        assert await ws.receive() == BINARY + NOISE
    await exchange(ws, peer, TEXT)


async def test_compressed_and_plain_messages_may_be_mixed(pair: Pair) -> None:
    ws, peer = pair
    for number in range(20):
        message = f"{number} {TEXT}"
        await ws.send(message, compress=number % 3 == 0)
        await peer.send(message)
    for number in range(20):
        message = f"{number} {TEXT}"
        assert await ws.receive() == message
        assert await peer.message() == message


async def test_many_compressed_messages_in_flight_arrive_in_order(pair: Pair) -> None:
    ws, peer = pair
    messages = [f"{number}:" + "x" * (number * number % 9973) for number in range(200)]
    await exchange_many(ws, peer, messages)


async def test_a_compressed_message_too_big_for_us_closes_with_1009(pair: Pair) -> None:
    ws, peer = pair
    ws.configure(max_message_size=1000)
    await peer.send("x" * 1000)
    await peer.send("x" * MIB)
    assert await ws.receive() == "x" * 1000
    with pytest.raises(trio_ws.ConnectionClosedError) as caught:
        await ws.receive()
    assert caught.value.code == 1009
