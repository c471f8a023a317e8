"""The chat server as a process of its own, and those who come by."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from programs import Program, run, running
from raw_http import Answer, exchange, request_head

import trio_ws

Line = tuple[str | None, str]
"""Who says something, None for the room itself; and what."""


class Chat:
    """A chat server that runs."""

    def __init__(self, program: Program, url: str) -> None:
        self.program = program
        self.url = url
        self.port = int(url.rstrip("/").rpartition(":")[2])
        self.websocket_url = url.replace("http:", "ws:") + "chat"

    @asynccontextmanager
    async def visitor(self) -> AsyncGenerator[trio_ws.WebSocketStream]:
        """Somebody who is in the room, and has heard so."""
        async with trio_ws.open_websocket(self.websocket_url) as ws:
            _, greeting = await hear(ws)
            name = greeting.removeprefix("You are ").rstrip(".")
            await hear_until(ws, f"{name} came in")
            yield ws

    async def request(self, line: str, **headers: str | None) -> Answer:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return await exchange(stream, request_head(line, headers))


@asynccontextmanager
async def running_chat(*arguments: str) -> AsyncGenerator[Chat]:
    async with running("-m", "examples.chat", "--port", "0", *arguments) as program:
        first_line = await program.read_line()
        yield Chat(program, first_line.split()[-1])


async def hear(ws: trio_ws.WebSocketStream) -> Line:
    line = json.loads(await ws.receive())
    assert line.keys() == {"name", "text"}
    return line["name"], line["text"]


async def hear_until(ws: trio_ws.WebSocketStream, notice: str) -> None:
    """Hear what is said until the room says something that begins with *notice*."""
    while True:
        name, text = await hear(ws)
        if name is None and text.startswith(notice):
            return


async def code_at_the_end(ws: trio_ws.WebSocketStream) -> int:
    """Hear everything, and how it ends."""
    with pytest.raises(trio_ws.ConnectionClosed) as closed:
        while True:
            await ws.receive()
    return closed.value.code


async def test_the_page_is_served_on_the_port_of_the_websocket() -> None:
    async with running_chat() as chat:
        page = await chat.request("GET / HTTP/1.1")
        query = await chat.request("GET /?from=here HTTP/1.1")
        head = await chat.request("HEAD / HTTP/1.1")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.body.startswith(b"<!doctype html>")
    assert (query.status, query.body) == (200, page.body)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param("GET /nothing HTTP/1.1", 404, id="another path"),
        pytest.param("POST / HTTP/1.1", 405, id="another method"),
        pytest.param("POST /chat HTTP/1.1", 405, id="another method for the WebSocket"),
    ],
)
async def test_other_requests_are_refused(line: str, status: int) -> None:
    async with running_chat() as chat:
        assert (await chat.request(line)).status == status


async def test_a_page_from_elsewhere_may_not_join() -> None:
    async with running_chat() as chat:
        answer = await chat.request("GET /chat HTTP/1.1", Origin="http://elsewhere.example")
    assert answer.status == 403


async def test_what_one_writes_all_see_in_the_same_order() -> None:
    async with running_chat() as chat, chat.visitor() as first, chat.visitor() as second:
        await hear_until(first, "Guest 2 came in, 2 here.")
        await first.send("hello")
        await second.send("<b>Grüße</b>")
        heard = [await hear(first), await hear(first)]
        assert sorted(heard) == [("Guest 1", "hello"), ("Guest 2", "<b>Grüße</b>")]
        assert [await hear(second), await hear(second)] == heard


async def test_the_others_are_told_who_leaves() -> None:
    async with running_chat() as chat, chat.visitor() as first:
        async with chat.visitor():
            pass
        await hear_until(first, "Guest 2 left, 1 here.")


async def test_who_stops_reading_is_dropped_with_1013_and_the_others_go_on() -> None:
    async def connect(host: str, port: int) -> trio.SocketStream:
        socket = trio.socket.socket()
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await socket.connect((host, port))
        return trio.SocketStream(socket)

    async with (
        running_chat() as chat,
        chat.visitor() as speaker,
        chat.visitor() as listener,
        trio_ws.open_websocket(chat.websocket_url, connect=connect, max_inbox_size=1) as stalled,
    ):
        await hear_until(speaker, "Guest 3 came in")
        for _ in range(10_000):
            await speaker.send("x" * 4000)
            if await hear(speaker) == (None, "Guest 3 left, 2 here."):
                break
        await hear_until(listener, "Guest 3 left, 2 here.")
        await listener.send("still here")
        while await hear(speaker) != ("Guest 2", "still here"):
            pass
        assert await code_at_the_end(stalled) == 1013


async def test_only_text_may_be_sent() -> None:
    async with running_chat() as chat, chat.visitor() as ws:
        await ws.send(b"\x00")
        assert await code_at_the_end(ws) == 1003


async def test_a_line_of_more_than_4096_bytes_is_too_big() -> None:
    async with running_chat() as chat, chat.visitor() as ws:
        await ws.send("x" * 4097)
        assert await code_at_the_end(ws) == 1009


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_says_1001_to_all_and_the_server_exits_with_0(
    number: signal.Signals,
) -> None:
    async with running_chat() as chat, chat.visitor() as first, chat.visitor() as second:
        chat.program.send_signal(number)
        assert await code_at_the_end(first) == 1001
        assert await code_at_the_end(second) == 1001
        ended = await chat.program.wait()
    assert ended.code == 0
    assert f"{number.name}: closing" in ended.output
    assert "Traceback" not in ended.output


async def test_who_comes_and_who_goes_is_in_the_log() -> None:
    async with running_chat() as chat:
        async with chat.visitor():
            assert "Guest 1 came in" in await chat.program.read_line()
        assert "Guest 1 left" in await chat.program.read_line()


async def test_a_port_in_use_is_said_in_a_line() -> None:
    async with running_chat() as chat:
        ended = await run("-m", "examples.chat", "--port", str(chat.port))
    assert ended.code == 1
    assert ended.output.startswith(f"can not listen on 127.0.0.1 port {chat.port}: ")
    assert ended.output.count("\n") == 1


async def test_the_url_in_the_log_is_right_for_ipv6() -> None:
    async with running_chat("--host", "::1") as chat:
        assert chat.url == f"http://[::1]:{chat.port}/"
        async with chat.visitor():
            pass


async def test_help_names_the_options_and_their_defaults() -> None:
    ended = await run("-m", "examples.chat", "--help")
    assert ended.code == 0
    for words in ("--host", "127.0.0.1", "--port", "8000"):
        assert words in ended.output


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
async def test_what_is_no_port_is_refused_with_the_usage(port: str) -> None:
    ended = await run("-m", "examples.chat", "--port", port)
    assert ended.code == 2
    assert "a port is a number from 0 to 65535" in ended.output
