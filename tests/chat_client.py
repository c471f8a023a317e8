"""The chat server of ``examples/chat`` as its clients see it, for the tests."""

from __future__ import annotations

import itertools
import json
import secrets
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Unpack

import pytest
import trio
from programs import Program, running
from raw_http import Answer, exchange, request_head

import trio_ws

Fields = dict[str, object]

PATIENCE: Final = 120.0
"""Seconds after which a message does not come any more, and the test fails."""

_sessions = itertools.count(1)


class Visitor:
    """Somebody who is connected to the chat."""

    def __init__(self, ws: trio_ws.WebSocketStream) -> None:
        self.ws = ws
        self.session = f"session-{next(_sessions)}-{secrets.token_hex(4)}"

    async def send(self, type_: str, **fields: object) -> None:
        await self.ws.send(json.dumps({"type": type_, **fields}))

    async def hear(self) -> Fields:
        with trio.fail_after(PATIENCE):
            message = json.loads(await self.ws.receive())
        assert isinstance(message, dict)
        return message

    async def hear_until(self, type_: str, **fields: object) -> Fields:
        """Hear what comes until it is of *type_* and has *fields*."""
        while True:
            message = await self.hear()
            if {"type": type_, **fields}.items() <= message.items():
                return message

    async def join(
        self, nick: str, room: str = "lobby", *, session: str = "", seen: int | None = None
    ) -> Fields:
        """Come in; the welcome."""
        self.session = session or self.session
        await self.send("join", room=room, nick=nick, session=self.session, seen=seen)
        message = await self.hear()
        while message["type"] != "welcome":
            # Or else the server waits for another join, until it has waited for long enough.
            assert message["type"] != "error", message
            message = await self.hear()
        return message

    async def say(self, text: str, key: str = "") -> int:
        """Say something; the id that it has got."""
        key = key or secrets.token_hex(8)
        await self.send("say", text=text, key=key)
        accepted = await self.hear_until("accepted", key=key)
        assert isinstance(accepted["id"], int)
        return accepted["id"]

    async def end(self) -> trio_ws.ConnectionClosed:
        """Hear everything, and how it ends."""
        with pytest.raises(trio_ws.ConnectionClosed) as closed, trio.fail_after(PATIENCE):
            while True:
                await self.ws.receive()
        return closed.value


class Chat:
    """A chat server that runs as a program."""

    def __init__(self, program: Program, url: str, client_tls: ssl.SSLContext | None) -> None:
        self.program = program
        self.url = url
        self.port = int(url.rstrip("/").rpartition(":")[2])
        self._websocket_url = url.replace("http", "ws", 1) + "chat"
        self._client_tls = client_tls

    @asynccontextmanager
    async def visitor(
        self, nick: str = "", room: str = "lobby", **options: Unpack[trio_ws.StreamKeywords]
    ) -> AsyncGenerator[Visitor]:
        """Somebody who is connected; and is in the room, if they have a nickname."""
        async with trio_ws.open_websocket(
            self._websocket_url, ssl_context=self._client_tls, **options
        ) as ws:
            visitor = Visitor(ws)
            if nick:
                await visitor.join(nick, room)
            yield visitor

    @asynccontextmanager
    async def deaf_visitor(self) -> AsyncGenerator[None]:
        """Somebody who is in the lobby, and reads nothing."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, trio.open_nursery() as nursery:
            ws = await trio_ws.wrap_client_stream(
                nursery, stream, host="127.0.0.1", target="/chat", max_inbox_size=1
            )
            await Visitor(ws).send("join", room="lobby", nick="Deaf", session="session-of-deaf")
            while "joined" not in await self.program.read_line():
                pass
            yield
            nursery.cancel_scope.cancel()

    async def request(self, line: str, **headers: str | None) -> Answer:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return await exchange(stream, request_head(line, headers))


@asynccontextmanager
async def running_chat(
    *arguments: str, client_tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Chat]:
    """Run ``python -m examples.chat`` on a port that is free, unless told otherwise."""
    async with running("-m", "examples.chat", "--port", "0", *arguments) as program:
        first_line = await program.read_line()
        while first_line and " info listening " not in first_line:
            first_line = await program.read_line()
        _, found, url = first_line.strip().partition(" url=")
        assert found, first_line
        yield Chat(program, url, client_tls)


def texts_of(welcome: dict[str, object]) -> list[str]:
    messages = welcome["messages"]
    assert isinstance(messages, list)
    return [message["text"] for message in messages]
