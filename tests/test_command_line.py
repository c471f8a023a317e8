"""``python -m trio_ws``: what it sends and prints, and its exit codes."""

from __future__ import annotations

import io
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio
from raw_peer import TEXT, Frame, RawPeer, close_frame

import trio_ws
import trio_ws.__main__
from trio_ws.__main__ import main, send_lines, serve_echo, talk
from trio_ws._protocol import Role
from trio_ws.testing import websocket_pair


class Pipe:
    """Standard input of a client that runs in this process."""

    def __init__(self) -> None:
        self.receiver, self._sender = os.pipe()

    def write(self, data: bytes) -> None:
        os.write(self._sender, data)

    def end(self) -> None:
        os.close(self._sender)
        self._sender = -1

    def close(self) -> None:
        # The receiver stays open: a thread that was left behind, and is yet to read, would find the
        # next test's input under its number.
        if self._sender >= 0:
            self.end()


@pytest.fixture
def stdin() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


async def serve(
    nursery: trio.Nursery, handler: Callable[[trio_ws.WebSocketStream], Awaitable[None]]
) -> str:
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(trio_ws.serve_websocket, handler, 0, host="127.0.0.1", subprotocols=["chat"])
    )
    return f"ws://127.0.0.1:{server.port}/"


async def test_lines_are_sent_and_answers_printed(
    nursery: trio.Nursery, stdin: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    url = await serve(nursery, echo)
    stdin.write("hello\r\nGrüße\n\nlast".encode())
    stdin.end()
    assert await talk(url, [], [], stdin.receiver) == 0
    output, said = capsys.readouterr()
    assert output == "hello\nGrüße\n\nlast\n"
    assert said == "connected\nthe WebSocket connection is closed: 1000\n"


async def test_input_that_ends_with_a_line_sends_nothing_more(
    nursery: trio.Nursery, stdin: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    url = await serve(nursery, echo)
    stdin.write(b"hello\n")
    stdin.end()
    assert await talk(url, [], [], stdin.receiver) == 0
    assert capsys.readouterr().out == "hello\n"


async def test_headers_and_subprotocols(
    nursery: trio.Nursery, stdin: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.send(f"{ws.request.header('X-Trace')} {ws.subprotocol}")

    url = await serve(nursery, handler)
    assert await talk(url, [("X-Trace", "17")], ["v1", "chat"], stdin.receiver) == 0
    output, said = capsys.readouterr()
    assert output == "17 chat\n"
    assert said.startswith("connected, chat\n")


async def test_nothing_that_a_server_sends_reaches_the_terminal_as_a_command(
    nursery: trio.Nursery, stdin: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.send("a\tb\nc\x1b[2Jd\x07é")
        await ws.send(b"\x00\x1b")

    url = await serve(nursery, handler)
    assert await talk(url, [], [], stdin.receiver) == 0
    assert capsys.readouterr().out == "a\tb\nc\\x1b[2Jd\\x07é\nb'\\x00\\x1b'\n"


async def test_a_close_that_is_an_error_is_exit_code_1(
    nursery: trio.Nursery, stdin: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.aclose(4000, "no \x1b more")

    url = await serve(nursery, handler)
    assert await talk(url, [], [], stdin.receiver) == 1
    assert "4000 'no \\x1b more'" in capsys.readouterr().err


async def test_ctrl_c_closes_with_1000(nursery: trio.Nursery, stdin: Pipe) -> None:
    reasons = []
    over = trio.Event()

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        await ws.receive()
        signal.raise_signal(signal.SIGINT)
        await ws.wait_closed()
        reasons.append(ws.close_reason)
        over.set()

    url = await serve(nursery, handler)
    stdin.write(b"ready\n")
    assert await talk(url, [], [], stdin.receiver) == 0
    await over.wait()
    assert reasons == [(1000, "")]


async def test_a_second_ctrl_c_does_not_wait_for_the_server(
    nursery: trio.Nursery, stdin: Pipe
) -> None:
    async def never_answer(stream: trio.SocketStream) -> None:
        peer = RawPeer(stream, Role.SERVER)
        await peer.open_as_server()
        assert await peer.receive() == Frame(TEXT, b"ready")
        signal.raise_signal(signal.SIGINT)
        assert await peer.receive() == close_frame(1000)
        signal.raise_signal(signal.SIGINT)
        assert await peer.receive() is None

    (listener,) = await nursery.start(partial(trio.serve_tcp, never_answer, 0, host="127.0.0.1"))
    stdin.write(b"ready\n")
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
    with trio.CancelScope() as scope:
        assert await talk(url, [], [], stdin.receiver) == 130
        scope.cancel()


async def test_lines_that_come_too_late_are_for_the_receiver_to_report(
    nursery: trio.Nursery, stdin: Pipe
) -> None:
    client, _ = await websocket_pair(nursery)
    await client.send_close()
    stdin.write(b"more\n")
    await send_lines(client, stdin.receiver)


class Announcements(io.StringIO):
    """Standard error, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.said = trio.Event()

    def flush(self) -> None:
        self.said.set()


async def test_the_echo_server(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    announcements = Announcements()
    monkeypatch.setattr(sys, "stderr", announcements)
    nursery.start_soon(serve_echo, 0)
    await announcements.said.wait()
    url = announcements.getvalue().split()[-1]
    async with trio_ws.open_websocket(url) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


# The exit codes of the whole


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give a URL to connect to, or --echo PORT"),
        (["ws://test/", "--echo", "8000"], "give a URL to connect to, or --echo PORT"),
        (["http://test/"], "starts with ws://"),
        (["ws://test/", "--header", "nonsense"], "is not 'NAME: VALUE'"),
        (["ws://test/", "--header", "Host: other"], "Host can not be among the headers"),
        (["ws://test/", "--subprotocol", "a b"], "not a token"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trio_ws", "--help"])
    path = trio_ws.__main__.__file__
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(path, run_name="__main__")
    assert caught.value.code == 0
    assert "python -m trio_ws" in capsys.readouterr().out


def test_no_connection_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert main([f"ws://127.0.0.1:{port}/"]) == 1
    assert f"connect to 127.0.0.1:{port} failed" in capsys.readouterr().err


def test_a_port_that_is_taken_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("localhost", 0)) as listening:
        assert main(["--echo", str(listening.getsockname()[1])]) == 1
    assert "in use" in capsys.readouterr().err


def test_a_refusal_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse)
        thread.start()
        assert main([f"ws://127.0.0.1:{listening.getsockname()[1]}/"]) == 1
        thread.join()
    assert "403 Forbidden" in capsys.readouterr().err


def test_ctrl_c_while_connecting_is_exit_code_130() -> None:
    def interrupt() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            os.kill(os.getpid(), signal.SIGINT)
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert main([f"ws://127.0.0.1:{listening.getsockname()[1]}/"]) == 130
        thread.join()


def test_the_two_commands_as_they_are_typed() -> None:
    """A client that waits for its input ends cleanly, too; so does the server."""
    command = [sys.executable, "-m", "trio_ws"]
    server = subprocess.Popen([*command, "--echo", "0"], stderr=subprocess.PIPE, text=True)
    with server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1]
        client = subprocess.Popen(
            [*command, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with client:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stderr is not None
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"hello\n"
            client.send_signal(signal.SIGINT)
            assert client.wait() == 0
            assert client.stderr.read().splitlines() == [
                b"connected",
                b"the WebSocket connection is closed: 1000",
            ]
        server.send_signal(signal.SIGINT)
        assert server.wait() == 130
        assert "Traceback" not in server.stderr.read()
