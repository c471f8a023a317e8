"""HTTP as bytes on a stream: what clients and servers send who are not trio_ws."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple

import trio

UPGRADE: Mapping[str, str | None] = {
    "Host": "test",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
    "Sec-WebSocket-Version": "13",
}


def request_head(
    line: str = "GET / HTTP/1.1", changes: Mapping[str, str | None] | None = None
) -> bytes:
    """A request for a WebSocket, with *changes* to its headers; None removes one."""
    headers = {**UPGRADE, **(changes or {})}
    lines = [line, *[f"{name}: {value}" for name, value in headers.items() if value is not None]]
    return "".join([f"{line}\r\n" for line in [*lines, ""]]).encode()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """Their names in lower case."""
    body: bytes


async def receive_to_eof(stream: trio.abc.ReceiveStream) -> bytes:
    """All there is. A reset instead of an EOF is an error."""
    data = bytearray()
    async for chunk in stream:
        data += chunk
    return bytes(data)


async def exchange(stream: trio.abc.Stream, request: bytes) -> Answer:
    """Send *request*, read to EOF, and close."""
    async with stream:
        await stream.send_all(request)
        return parse_answer(await receive_to_eof(stream))


def parse_answer(data: bytes) -> Answer:
    head, blank_line, body = data.partition(b"\r\n\r\n")
    assert blank_line, f"no whole answer: {data!r}"
    status_line, *lines = head.decode().split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(status), {name.lower(): value for name, value in headers.items()}, body)
