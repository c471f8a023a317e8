"""What a test and a peer say to each other: JSON objects, one a line, over a TCP connection.

A peer is a program that uses another WebSocket library. It prints a :class:`Hello`, and it ends
when its standard input does. Each test opens a connection of its own to ``Hello.port``; its first
:class:`Command` makes the peer listen for one WebSocket, or connect one; the others say what to do
with it. They are performed in order and not answered; what happens is reported in :class:`Event`.
When the test's connection ends, so does the WebSocket.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Literal, Required, TypedDict

HOST = "127.0.0.1"


class Hello(TypedDict):
    """What a peer prints when it is ready."""

    port: int
    version: str


class WireMessage(TypedDict, total=False):
    """A text message, or a binary one in base64."""

    text: str
    binary: str


class Refusal(TypedDict):
    """The answer of a server that does not want the WebSocket."""

    status: int
    body: str


class Opening(TypedDict):
    """How the peer opens its side."""

    certificate: str | None
    """A server's file with key and certificate; None: without TLS."""
    authority: str | None
    """A client's file with the certificate authority; None: without TLS."""
    subprotocols: list[str]
    headers: dict[str, str]
    refusal: Refusal | None
    max_size: int | None
    """The longest message it takes; None: whatever its library's default is."""
    compression: bool
    """Whether it offers permessage-deflate, or accepts it, and compresses all that it sends; if
    not, it does as its library does by default."""


class Command(TypedDict, total=False):
    """From the test to the peer."""

    do: Required[Literal["listen", "connect", "send", "fragments", "ping", "close", "sync"]]
    opening: Opening
    url: str
    messages: list[WireMessage]
    """One to send, or the fragments of one."""
    payload: str
    code: int | None
    reason: str


class Event(TypedDict, total=False):
    """From the peer to the test."""

    event: Required[
        Literal["listening", "open", "refused", "message", "pong", "closed", "synced", "error"]
    ]
    port: int
    subprotocol: str | None
    headers: dict[str, str]
    """Of our side's request or response, with names in lower case."""
    status: int
    body: str | None
    """Of our side's refusal; None: the library does not tell."""
    message: WireMessage
    payload: str
    code: int | None
    """The code that our side sent, 1005 for none; None: the library does not tell."""
    reason: str
    trace: str


def to_wire(message: str | bytes) -> WireMessage:
    """Put a message into JSON."""
    if isinstance(message, str):
        return {"text": message}
    return {"binary": b64encode(message).decode("ascii")}


def from_wire(message: WireMessage) -> str | bytes:
    """Take a message out of JSON."""
    if "text" in message:
        return message["text"]
    return b64decode(message["binary"])


def line(what: Hello | Command | Event) -> bytes:
    """One line of the conversation."""
    return json.dumps(what).encode() + b"\n"
