"""Every step of the tutorial runs, and does what its page says."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from chat_browser import Window, running_browser
from programs import ROOT, Program, free_port, running
from redis_server import RedisServer

import trio_ws

TUTORIAL = ROOT / "docs" / "tutorial"
STEPS = sorted(path.stem for path in (TUTORIAL / "steps").glob("step*.py"))
WITH_ROOMS = [step for step in STEPS if step[4] >= "3"]


@asynccontextmanager
async def running_step(
    step: str, directory: Path, *arguments: str, redis: str = "", epilogue: str = ""
) -> AsyncGenerator[tuple[Program, str]]:
    """Run a step as it stands, but for its port; the second value is where its WebSocket is."""
    port = arguments[0] if arguments else str(free_port())
    code = (TUTORIAL / "steps" / f"{step}.py").read_text()
    code = code.replace("8000", port).replace("redis://localhost:6379", redis)
    program = directory / f"{step}_{port}.py"
    program.write_text(code + epilogue)
    shutil.copy(TUTORIAL / "steps" / "page.html", directory)
    async with running(program, *arguments) as process:
        line = await process.read_line()
        assert line.startswith("listening on "), line + (await process.wait()).output
        yield process, f"ws://localhost:{port}/chat"


@asynccontextmanager
async def running_any_step(step: str, directory: Path) -> AsyncGenerator[tuple[Program, str]]:
    """Run a step, with a Redis if it is the one that takes one."""
    if step != "step7_redis":
        async with running_step(step, directory) as step_runs:
            yield step_runs
    else:
        with RedisServer(directory) as redis:
            async with running_step(
                step, directory, str(free_port()), redis=redis.url
            ) as step_runs:
                yield step_runs


async def join(ws: trio_ws.WebSocketStream, nick: str, room: str = "lobby") -> None:
    await ws.send(json.dumps({"room": room, "nick": nick}))
    while await hear(ws) != (None, f"{nick} came in"):
        pass


async def hear(ws: trio_ws.WebSocketStream) -> tuple[str | None, str]:
    message = json.loads(await ws.receive())
    return message["nick"], message["text"]


async def say(ws: trio_ws.WebSocketStream, text: str) -> None:
    await ws.send(json.dumps({"text": text}))


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_shown_and_tested(step: str) -> None:
    pages = "".join(page.read_text() for page in TUTORIAL.glob("*.rst"))
    assert f".. literalinclude:: steps/{step}.py" in pages
    assert step[4] in "1234567"


async def test_step_1_echoes(tmp_path: Path) -> None:
    async with (
        running_step("step1_echo", tmp_path) as (_, url),
        trio_ws.open_websocket(url) as ws,
    ):
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_step_2_tells_everybody(tmp_path: Path) -> None:
    async with (
        running_step("step2_broadcast", tmp_path) as (_, url),
        trio_ws.open_websocket(url) as ann,
        trio_ws.open_websocket(url) as bob,
    ):
        await bob.send("from Bob")
        assert await bob.receive() == "from Bob"
        await ann.send("from Ann")
        assert [await bob.receive(), await ann.receive(), await ann.receive()] == [
            "from Ann",
            "from Bob",
            "from Ann",
        ]


@pytest.mark.parametrize("step", WITH_ROOMS)
async def test_from_step_3_on_there_are_rooms(step: str, tmp_path: Path) -> None:
    async with (
        running_any_step(step, tmp_path) as (_, url),
        trio_ws.open_websocket(url) as ann,
        trio_ws.open_websocket(url) as bob,
        trio_ws.open_websocket(url) as eve,
    ):
        await join(ann, "Ann")
        await join(bob, "Bob")
        await join(eve, "Eve", "garden")
        await say(ann, "hello")
        assert await hear(bob) == ("Ann", "hello")
        assert [await hear(ann), await hear(ann)] == [(None, "Bob came in"), ("Ann", "hello")]
        await bob.aclose()
        assert await hear(ann) == (None, "Bob left")
        await say(eve, "nobody else")
        assert await hear(eve) == ("Eve", "nobody else")
        async with trio_ws.open_websocket(url) as stranger:
            await stranger.send("no JSON")
            with pytest.raises(trio_ws.ConnectionClosedError) as closed:
                await stranger.receive()
            assert closed.value.code == 1008


@pytest.mark.parametrize("step", [step for step in WITH_ROOMS if step[4] > "3"])
async def test_from_step_4_on_who_reads_too_slowly_is_dropped(step: str, tmp_path: Path) -> None:
    async def connect(host: str, port: int) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(host, port)
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        return stream

    async with (
        running_any_step(step, tmp_path) as (_, url),
        trio_ws.open_websocket(url) as ann,
        trio_ws.open_websocket(url, connect=connect, max_inbox_size=1) as slow,
    ):
        await join(ann, "Ann")
        await slow.send(json.dumps({"room": "lobby", "nick": "Bob"}))
        assert await hear(ann) == (None, "Bob came in")
        heard = None
        while heard != (None, "Bob left"):
            await say(ann, "x" * 4000)
            heard = await hear(ann)
        with pytest.raises(trio_ws.ConnectionClosedError) as closed:
            async for _ in slow:
                pass
        assert closed.value.code == 1013


@pytest.mark.parametrize("step", [step for step in WITH_ROOMS if step[4] > "4"])
async def test_from_step_5_on_a_signal_says_goodbye(step: str, tmp_path: Path) -> None:
    async with (
        running_any_step(step, tmp_path) as (program, url),
        trio_ws.open_websocket(url) as ann,
    ):
        await join(ann, "Ann")
        program.send_signal(signal.SIGTERM)
        with pytest.raises(trio_ws.ConnectionClosedOK) as closed:
            await ann.receive()
        assert closed.value.code == 1001
        assert await program.wait() == (0, "stopped\n")


@pytest.mark.parametrize("step", [step for step in WITH_ROOMS if step[4] > "5"])
async def test_from_step_6_on_there_is_a_page(step: str, tmp_path: Path) -> None:
    async with running_any_step(step, tmp_path) as (_, url):
        page = url.replace("ws:", "http:").removesuffix("chat")
        await trio.to_thread.run_sync(use_page, page, tmp_path / "profile")


def use_page(url: str, profile: Path) -> None:
    with running_browser(profile) as driver:
        window = Window(driver, url, script="window.prompt = () => '<b>Ann</b>'")
        window.wait(lambda: window.find("#log").text == "<b>Ann</b> came in")
        window.write("<i>hello</i>")
        window.wait(lambda: "<b>Ann</b>: <i>hello</i>" in window.find("#log").text)


async def test_step_7_shares_rooms_between_processes(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        ports = [str(free_port()), str(free_port())]
        async with (
            running_step("step7_redis", tmp_path, ports[0], redis=redis.url) as (program, one),
            running_step("step7_redis", tmp_path, ports[1], redis=redis.url) as (_, other),
            trio_ws.open_websocket(one) as ann,
            trio_ws.open_websocket(other) as bob,
        ):
            await join(ann, "Ann")
            await join(bob, "Bob")
            assert await hear(ann) == (None, "Bob came in")
            await say(ann, "hello")
            assert await hear(bob) == ("Ann", "hello")
            program.send_signal(signal.SIGTERM)
            assert await hear(bob) == (None, "Ann left")
            assert (await program.wait()) == (0, "stopped\n")


async def test_step_7_leaves_nobody_in_a_room_when_redis_is_away(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        async with running_step(
            "step7_redis", tmp_path, str(free_port()), redis=redis.url, epilogue="print(rooms)\n"
        ) as (program, url):
            redis.stop()
            async with trio_ws.open_websocket(url) as ann:
                await ann.send(json.dumps({"room": "lobby", "nick": "Ann"}))
                with pytest.raises(trio_ws.ConnectionClosedError):
                    await ann.receive()
            redis.start()
            program.send_signal(signal.SIGTERM)
            assert (await program.wait()).output.endswith("stopped\n{}\n")


async def test_step_7_refuses_half_a_surrogate_pair(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        async with (
            running_step("step7_redis", tmp_path, str(free_port()), redis=redis.url) as (_, url),
            trio_ws.open_websocket(url) as ann,
        ):
            await ann.send('{"room": "\\ud800", "nick": "Ann"}')
            with pytest.raises(trio_ws.ConnectionClosedError) as closed:
                await ann.receive()
    assert closed.value.code == 1008
