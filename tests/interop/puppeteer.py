"""The tests' side of the conversation with a peer: see :mod:`interop.wire`."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections import defaultdict
from pathlib import Path
from typing import Self

import trio

import trio_ws

from .lines import LineReader
from .wire import HOST, Command, Event, Hello, Opening, from_wire, line, to_wire

TESTS = Path(__file__).parent.parent
NODE_PEER = Path(__file__).parent / "peers" / "ws.js"
HOW_TO_GET_WS = (
    "copy tests/interop/package.json to an empty directory, run `npm install` there, and set "
    "NODE_PATH to its node_modules"
)


class PeerNotHere(Exception):
    """What a peer needs is not installed."""


class PeerFailed(Exception):
    """Something went wrong in the peer; the text is its traceback."""


def peer_command(name: str) -> list[str]:
    """The command that starts a peer.

    :raises PeerNotHere: it can not be started; the text says what to do.
    """
    if name != "ws":
        return [sys.executable, "-m", f"interop.peers.{name}"]
    node = shutil.which("node")
    if node is None:
        raise PeerNotHere(
            f"Node's ws: there is no `node` on PATH. Install Node.js; {HOW_TO_GET_WS}"
        )
    probe = subprocess.run([node, "--eval", "require('ws')"], capture_output=True)
    if probe.returncode != 0:
        raise PeerNotHere(f"Node's ws: {HOW_TO_GET_WS}")
    return [node, str(NODE_PEER)]


class PeerProcess:
    """A peer that runs. It ends when its standard input is closed."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            peer_command(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TESTS,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )
        assert self._process.stdout is not None
        hello: Hello = json.loads(self._process.stdout.readline())
        self.port = hello["port"]
        self.version = hello["version"]

    def stop(self) -> None:
        """Let it end."""
        self._process.communicate()


class Puppet:
    """One WebSocket of a peer: tells it what to do, and waits for what it reports."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._events: defaultdict[str, _Queue] = defaultdict(_Queue)
        self.subprotocol: str | None = None
        self.headers: dict[str, str] = {}

    @classmethod
    async def start(cls, nursery: trio.Nursery, port: int) -> Self:
        """Begin the conversation with a peer; an error that it reports is raised in *nursery*."""
        puppet = cls(await trio.open_tcp_stream(HOST, port))
        nursery.start_soon(puppet._listen_to_it)
        return puppet

    async def _listen_to_it(self) -> None:
        async with self._stream:
            reader = LineReader(self._stream)
            while (text := await reader.next_line()) is not None:
                event: Event = json.loads(text)
                if event["event"] == "error":
                    raise PeerFailed(event["trace"])
                self._events[event["event"]].put(event)
            raise PeerFailed("the peer has ended")

    async def _tell(self, command: Command) -> None:
        await self._stream.send_all(line(command))

    async def listen(self, opening: Opening) -> int:
        """Make it a server; returns its port."""
        await self._tell({"do": "listen", "opening": opening})
        return (await self._events["listening"].get())["port"]

    async def connect(self, url: str, opening: Opening) -> None:
        """Make it a client."""
        await self._tell({"do": "connect", "url": url, "opening": opening})

    async def opened(self) -> None:
        """Wait until the opening handshake is over; then subprotocol and headers are known."""
        event = await self._events["open"].get()
        self.subprotocol = event["subprotocol"]
        self.headers = event["headers"]

    async def refused(self) -> tuple[int, str | None]:
        """Wait until it is refused: status and body, which is None if its library hides it."""
        event = await self._events["refused"].get()
        return event["status"], event["body"]

    async def send(self, message: str | bytes) -> None:
        """Let it send a message."""
        await self._tell({"do": "send", "messages": [to_wire(message)]})

    async def send_fragments(self, parts: list[str] | list[bytes]) -> None:
        """Let it send a message of several frames."""
        await self._tell({"do": "fragments", "messages": [to_wire(part) for part in parts]})

    async def message(self) -> str | bytes:
        """Wait for the next message that it receives."""
        return from_wire((await self._events["message"].get())["message"])

    async def ping(self, payload: bytes) -> None:
        """Let it send a ping."""
        await self._tell({"do": "ping", "payload": b64encode(payload).decode("ascii")})

    async def pong(self) -> bytes:
        """Wait for the pong to a ping of its."""
        return b64decode((await self._events["pong"].get())["payload"])

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Let it start the closing handshake; None: with an empty Close."""
        await self._tell({"do": "close", "code": code, "reason": reason})

    async def closed(self) -> trio_ws.CloseReason | None:
        """Wait until it is closed: what our Close said, as far as its library knows."""
        event = await self._events["closed"].get()
        if event["code"] is None:
            return None
        return trio_ws.CloseReason(event["code"], event["reason"])

    async def sync(self) -> None:
        """Wait until it has done everything that it was told."""
        await self._tell({"do": "sync"})
        await self._events["synced"].get()


class _Queue:
    """Events of one kind."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](math.inf)

    def put(self, event: Event) -> None:
        self._send.send_nowait(event)

    async def get(self) -> Event:
        return await self._receive.receive()
