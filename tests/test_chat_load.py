"""The load test of the chat server."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import trio
from chat_client import running_chat
from programs import free_port, run, running
from redis_server import RedisServer

LOAD = ("-m", "examples.chat.load")
FOR_EVER = ("--clients", "6", "--rooms", "2", "--rate", "100", "--seconds", "1000000")


async def test_it_counts_what_all_have_heard() -> None:
    options = ("--clients", "6", "--rooms", "2", "--rate", "24", "--seconds", "0.5")
    async with running_chat() as chat:
        ended = await run(*LOAD, chat.url, *options)
    assert ended.code == 0
    assert "6 clients are in 2 rooms" in ended.output
    assert re.search(r"^12 messages in .*, 0 refused, 36 deliveries,", ended.output, re.MULTILINE)
    assert "server: 1 processes" in ended.output


async def test_it_finds_all_processes_that_share_the_port(tmp_path: Path) -> None:
    options = ("--clients", "12", "--rooms", "2", "--rate", "24", "--seconds", "0.5")
    with RedisServer(tmp_path) as redis:
        async with running_chat("--backplane", redis.url, "--workers", "2") as chat:
            ended = await run(*LOAD, chat.url, *options)
    assert ended.code == 0
    assert re.search(r"^12 messages in .*, 0 refused, 72 deliveries,", ended.output, re.MULTILINE)
    assert "server: 2 processes" in ended.output


async def test_what_is_refused_is_counted() -> None:
    options = ("--clients", "1", "--rooms", "1", "--rate", "20", "--seconds", "0.5")
    async with running_chat("--rate", "1") as chat:
        ended = await run(*LOAD, chat.url, *options)
    assert ended.code == 0
    found = re.search(r"10 messages in .*, (\d+) refused, (\d+) deliveries,", ended.output)
    assert found is not None
    refused, heard = int(found[1]), int(found[2])
    assert refused > 0
    assert refused + heard == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--clients", "0"), "--clients: give a number from 1"),
        (("--clients", "many"), "--clients: give a number from 1"),
        (("--rooms", "0"), "--rooms: give a number from 1"),
        (("--rooms", "3", "--clients", "2"), "3 rooms are too many for 2 clients"),
        (("--rate", "0"), "--rate: give a number above 0"),
        (("--rate", "fast"), "--rate: give a number above 0"),
        (("--seconds", "nan"), "--seconds: give a number above 0"),
        (("--seconds", "inf"), "--seconds: give a number above 0"),
        (("--rate", "0.4", "--seconds", "1"), "nothing would be said"),
        (("localhost:8000",), "give the URL of a server"),
        (("ws://localhost:8000/",), "give the URL of a server"),
        (("http:///",), "give the URL of a server"),
        (("http://localhost:port/",), "give the URL of a server"),
        (("http://localhost:8000/rooms/garden",), "give the URL of a server"),
    ],
)
async def test_what_is_wrong_with_the_command_line_is_said(
    arguments: tuple[str, ...], words: str
) -> None:
    ended = await run(*LOAD, *arguments)
    assert ended.code == 2
    assert words in ended.output.splitlines()[-1]


async def test_that_there_is_no_server_is_said_in_a_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = await run(*LOAD, url)
    assert ended.code == 1
    assert ended.output.startswith(f"there is no chat server at {url}: ")
    assert "Connection refused" in ended.output
    assert ended.output.count("\n") == 1


async def test_that_the_server_is_another_is_said_in_a_line() -> None:
    async with running("-m", "http.server", "0", "--bind", "127.0.0.1") as other:
        found = re.search(r"http://127.0.0.1:\d+", await other.read_line())
        assert found is not None
        ended = await run(*LOAD, f"{found[0]}/")
    assert ended == (1, f"there is no chat server at {found[0]}: File not found\n")


async def test_a_refusal_is_said_in_a_line_with_what_helps() -> None:
    async with running_chat("--members", "2") as chat:
        ended = await run(*LOAD, chat.url, "--clients", "5", "--rooms", "1")
    assert ended.code == 1
    words = r"client \d was refused: this room is full: \d may be in it \(use more --rooms, or"
    assert re.match(words, ended.output.splitlines()[-1])
    assert "Traceback" not in ended.output


async def test_too_few_open_files_are_said_in_a_line_with_what_helps() -> None:
    program = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "runpy.run_module('examples.chat.load', run_name='__main__')"
    )
    async with running_chat() as chat:
        ended = await run("-c", program, chat.url, "--clients", "100")
    assert ended.code == 1
    assert ended.output.startswith("100 clients need 132 open files, and 64 are allowed here: ")
    assert "ulimit -n 132" in ended.output
    assert ended.output.count("\n") == 1


async def test_ctrl_c_ends_it_and_prints_what_was_measured() -> None:
    async with (
        running_chat("--rate", "1000000") as chat,
        chat.visitor("Ann", "load-0") as ann,
        running(*LOAD, chat.url, *FOR_EVER) as load,
    ):
        for _ in range(50):  # so many that the clients have heard some of them, too
            await ann.hear_until("message")
        load.send_signal(signal.SIGINT)
        ended = await load.wait()
    assert ended.code == 130
    assert "Traceback" not in ended.output
    for words in ("messages in", "milliseconds to hear it", "server: 1 processes"):
        assert words in ended.output


async def test_ctrl_c_ends_it_when_the_server_does_not_even_answer() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener, running(*LOAD, url) as load, await listener.accept():
        load.send_signal(signal.SIGINT)
        assert await load.wait() == (130, "")


async def test_a_server_that_goes_away_ends_it_and_what_was_measured_is_printed() -> None:
    async with (
        running_chat("--rate", "1000000") as chat,
        chat.visitor("Ann", "load-0") as ann,
        running(*LOAD, chat.url, *FOR_EVER) as load,
    ):
        await ann.hear_until("message")
        chat.program.send_signal(signal.SIGKILL)
        ended = await load.wait()
    assert ended.code == 1
    assert "Traceback" not in ended.output
    for words in ("messages in", "6 clients have lost the connection", "all clients have lost"):
        assert words in ended.output
