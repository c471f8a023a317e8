"""The small examples, each as a program that a newcomer has started."""

from __future__ import annotations

import signal

import pytest
import trio
from programs import ROOT, Program, free_port, run, running

import trio_ws


async def url_of(echo_server: Program) -> str:
    """Where the server says that it is, once it listens."""
    words = (await echo_server.read_line()).replace(",", " ").split()
    return next(word for word in words if word.startswith("ws://"))


async def test_the_client_gets_every_message_back_from_the_echo_server() -> None:
    async with running("examples/echo_server.py", str(free_port())) as echo_server:
        ended = await run("examples/client.py", await url_of(echo_server))
    assert ended.code == 0
    assert ended.output.splitlines() == [
        "sent 'hello', received 'hello'",
        "sent 'Grüße', received 'Grüße'",
        r"sent b'\x00\x01\x02', received b'\x00\x01\x02'",
    ]


async def test_ctrl_c_stops_the_echo_server_and_its_clients_see_1001() -> None:
    async with running("examples/echo_server.py", str(free_port())) as echo_server:
        async with trio_ws.open_websocket(await url_of(echo_server)) as ws:
            echo_server.send_signal(signal.SIGINT)
            with pytest.raises(trio_ws.ConnectionClosedOK) as closed:
                await ws.receive()
        ended = await echo_server.wait()
    assert closed.value.code == 1001
    assert (ended.code, ended.output) == (0, "stopped\n")


@pytest.mark.parametrize("port", ["abc", "99999"])
async def test_the_echo_server_says_in_a_line_that_this_is_no_port(port: str) -> None:
    ended = await run("examples/echo_server.py", port)
    assert ended.code == 1
    assert ended.output.startswith("no server: ")
    assert ended.output.count("\n") == 1


async def test_the_echo_server_says_in_a_line_that_its_port_is_taken() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ended = await run("examples/echo_server.py", str(listener.socket.getsockname()[1]))
    assert ended.code == 1
    assert ended.output.startswith("no server: ")
    assert ended.output.count("\n") == 1


@pytest.mark.parametrize("url", [f"ws://localhost:{free_port()}/", "localhost:80"])
async def test_the_client_says_in_a_line_that_there_is_no_server(url: str) -> None:
    ended = await run("examples/client.py", url)
    assert ended.code == 1
    assert ended.output.startswith("no connection: ")
    assert ended.output.count("\n") == 1


async def test_the_unix_socket_example_prints_the_answer() -> None:
    ended = await run("examples/unix_socket.py")
    assert (ended.code, ended.output) == (0, "HELLO OVER A UNIX SOCKET\n")


@pytest.mark.parametrize("name", ["echo_server.py", "client.py"])
def test_what_a_newcomer_copies_fits_on_a_screen(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text().splitlines()) < 40
