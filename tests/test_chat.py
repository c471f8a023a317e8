"""The chat server as a process of its own, and those who come by."""

from __future__ import annotations

import json
import signal
import ssl
from pathlib import Path

import pytest
import trio
import trustme
from chat_client import Visitor, running_chat
from programs import run, running

import trio_ws

PAGES = {
    "/": ("text/html", b"<!doctype html>"),
    "/?from=here": ("text/html", b"<!doctype html>"),
    "/rooms/garden": ("text/html", b"<!doctype html>"),
    "/page.css": ("text/css", b":root"),
    "/page.js": ("text/javascript", b'"use strict"'),
}


async def test_the_page_is_served_on_the_port_of_the_websocket() -> None:
    async with running_chat() as chat:
        for path, (content_type, start) in PAGES.items():
            page = await chat.request(f"GET {path} HTTP/1.1")
            assert page.status == 200
            assert page.headers["content-type"] == f"{content_type}; charset=utf-8"
            assert "script-src 'self'" in page.headers["content-security-policy"]
            assert page.body.startswith(start)
            head = await chat.request(f"HEAD {path} HTTP/1.1")
            assert (head.status, head.body) == (200, b"")


async def test_other_requests_are_refused() -> None:
    async with running_chat() as chat:
        statuses = [
            (await chat.request(f"{line} HTTP/1.1")).status
            for line in ("GET /nothing", "GET /rooms/No", "GET /../logs.py", "POST /", "POST /chat")
        ]
    assert statuses == [404, 404, 404, 405, 405]


async def test_healthz_says_that_the_server_is_well_and_how_busy() -> None:
    async with running_chat() as chat, chat.visitor("Ann"), chat.visitor("Bob", "garden"):
        answer = await chat.request("GET /healthz HTTP/1.1")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    health = json.loads(answer.body)
    assert health.pop("pid") > 0
    assert health == {
        "status": "ok",
        "clients": 2,
        "rooms": 2,
        "backplane": "online",
    }


async def test_a_page_from_elsewhere_may_not_join_unless_it_is_named() -> None:
    elsewhere = "http://elsewhere.example"
    async with running_chat() as chat:
        assert (await chat.request("GET /chat HTTP/1.1", Origin=elsewhere)).status == 403
    async with running_chat("--origin", elsewhere) as chat:
        stream = await trio.open_tcp_stream("127.0.0.1", chat.port)
        async with trio.open_nursery() as nursery:
            ws = await trio_ws.wrap_client_stream(
                nursery, stream, host="127.0.0.1", target="/chat", origin=elsewhere
            )
            await Visitor(ws).join("Ann")
            await ws.aclose()


async def test_what_one_says_all_in_the_room_hear_in_the_same_order() -> None:
    async with (
        running_chat() as chat,
        chat.visitor("Ann") as ann,
        chat.visitor("Bob") as bob,
        chat.visitor("Eve", "garden") as eve,
    ):
        await ann.send("say", key="key-of-ann", text="hello")
        await bob.send("say", key="key-of-bob", text="<b>Grüße</b> 🎉")
        heard = [await ann.hear_until("message"), await ann.hear_until("message")]
        assert sorted((str(each["nick"]), each["text"], each["key"]) for each in heard) == [
            ("Ann", "hello", "key-of-ann"),
            ("Bob", "<b>Grüße</b> 🎉", "key-of-bob"),
        ]
        assert [await bob.hear_until("message"), await bob.hear_until("message")] == heard
        await eve.say("a cat")
        assert (await ann.say("still here")) > max(int(str(each["id"])) for each in heard)


async def test_over_tls(
    certificate_authority: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    certificate = certificate_authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "certificate.pem", append=True)
    files = ("--certificate", str(tmp_path / "certificate.pem"), "--key", str(tmp_path / "key.pem"))
    async with running_chat(*files, client_tls=client_ssl_context) as chat:
        assert chat.url.startswith("https://")
        async with chat.visitor("Ann") as ann:
            await ann.say("secret")


async def test_who_stops_reading_is_dropped_with_1013_and_the_others_go_on() -> None:
    async def connect(host: str, port: int) -> trio.SocketStream:
        socket = trio.socket.socket()
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await socket.connect((host, port))
        return trio.SocketStream(socket)

    async with (
        running_chat("--rate", "1000000", "--patience", "0.1") as chat,
        chat.visitor("Ann") as ann,
        chat.visitor("Bob") as bob,
        trio_ws.open_websocket(
            chat.url.replace("http", "ws") + "chat", connect=connect, max_inbox_size=1
        ) as ws,
    ):
        stalled = Visitor(ws)
        await stalled.send("join", room="lobby", nick="Eve", session="session-of-eve")
        await ann.hear_until("joined", nick="Eve")
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                while True:
                    await ann.say("\N{UMBRELLA}" * 1000)

            nursery.start_soon(talk)
            await bob.hear_until("left", nick="Eve")
            nursery.cancel_scope.cancel()
        await bob.say("still here")
        end = await stalled.end()
        assert (end.code, end.reason) == (1013, "you read too slowly: come back")


async def test_a_message_of_more_than_16_kib_is_too_big() -> None:
    async with running_chat() as chat, chat.visitor("Ann") as ann:
        await ann.ws.send("x" * (16 * 1024 + 1))
        assert (await ann.end()).code == 1009


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_says_1001_to_all_and_the_server_exits_with_0(
    number: signal.Signals,
) -> None:
    async with running_chat() as chat, chat.visitor("Ann") as ann, chat.visitor("Bob") as bob:
        chat.program.send_signal(number)
        assert (await ann.end()).code == 1001
        assert (await bob.end()).code == 1001
        ended = await chat.program.wait()
    assert ended.code == 0
    assert f"closing signal={number.name}" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("grace", "signals"),
    [("0.1", [signal.SIGTERM]), ("600", [signal.SIGINT, signal.SIGINT])],
    ids=["grace", "second signal"],
)
async def test_who_does_not_answer_the_close_is_waited_for_until_the_grace_or_a_second_signal(
    grace: str, signals: list[signal.Signals]
) -> None:
    async with running_chat("--grace", grace) as chat, chat.deaf_visitor():
        for number in signals:
            chat.program.send_signal(number)
            await chat.program.read_line()  # closing, so that the next is another
        ended = await chat.program.wait()
    assert ended.code == 0
    assert "Traceback" not in ended.output
    assert ended.output.endswith("closed\n")


async def test_the_log_says_who_came_and_went() -> None:
    async with running_chat() as chat:
        async with chat.visitor("Ann B"):
            assert "room opened room=lobby" in await chat.program.read_line()
            assert 'info joined room=lobby nick="Ann B"' in await chat.program.read_line()
        assert 'info left room=lobby nick="Ann B" code=1000' in await chat.program.read_line()


async def test_the_log_can_be_read_by_programs() -> None:
    async with running("-m", "examples.chat", "--port", "0", "--log", "json") as program:
        line = json.loads(await program.read_line())
    assert line["event"] == "listening"
    assert line["level"] == "info"
    assert line["pid"] > 0
    assert line["url"].startswith("http://127.0.0.1:")


async def test_a_port_in_use_is_said_in_a_line() -> None:
    async with running_chat() as chat:
        ended = await run("-m", "examples.chat", "--port", str(chat.port))
    assert ended.code == 1
    assert ended.output.startswith(f"can not listen on 127.0.0.1 port {chat.port}: ")
    assert ended.output.count("\n") == 1


async def test_the_url_in_the_log_is_right_for_ipv6() -> None:
    async with running_chat("--host", "::1") as chat:
        assert chat.url == f"http://[::1]:{chat.port}/"
        async with chat.visitor("Ann"):
            pass


async def test_help_names_the_options_and_their_defaults() -> None:
    ended = await run("-m", "examples.chat", "--help")
    assert ended.code == 0
    for words in ("--host", "127.0.0.1", "--port", "8000", "--certificate", "--grace", "(5.0)"):
        assert words in ended.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "x"), "a port is a number from 0 to 65535"),
        (("--port", "65536"), "a port is a number from 0 to 65535"),
        (("--rate", "0"), "give a number above 0"),
        (("--origin", "example.org"), "give a URL without a path, such as https://example.org"),
        (("--origin", "https://example.org/"), "give a URL without a path"),
        (("--origin", "https://example.org:99999"), "give a URL without a path"),
        (("--grace", "inf"), "give a number above 0"),
        (("--clients", "-1"), "give a number from 1"),
        (("--backplane", "localhost:6379"), "give a URL such as redis://localhost:6379"),
        (("--backplane", "http://localhost:6379"), "give a URL such as redis://localhost:6379"),
        (("--backplane", "redis://localhost:x"), "give a URL such as redis://localhost:6379"),
        (("--key", "key.pem"), "give both --certificate and --key, or neither"),
    ],
)
async def test_what_is_wrong_with_the_command_line_is_said(
    arguments: tuple[str, ...], words: str
) -> None:
    ended = await run("-m", "examples.chat", *arguments)
    assert ended.code == 2
    assert words in ended.output


async def test_a_certificate_that_is_none_is_said_in_a_line() -> None:
    ended = await run("-m", "examples.chat", "--certificate", "nowhere.pem", "--key", "nowhere.pem")
    assert ended.code == 1
    assert ended.output.startswith("can not use the certificate nowhere.pem")
    assert ended.output.count("\n") == 1
