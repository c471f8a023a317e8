"""HTTP heads on the wire: cut off the received bytes, read by h11, written.

h11 reads every head. `ReceivedHead` cuts it off before h11 sees it. The limit on its size, and what
counts as no HTTP at all, are decided on the bytes alone, so that the result does not depend on the
chunks they came in; and a peer that dribbles costs one search per chunk, not one parse. What is
behind the head never enters h11.

h11 writes the client's request. A server's answer is written here: it must also be possible for a
request that another server has parsed, and after one that could not be parsed.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from ._frames import Buffer
from ._http import Pairs, Request, Response, unchecked_request, unchecked_response

_blank_line = re.compile(rb"\n\r?\n")
_empty_lines = re.compile(rb"(?:\r?\n)*")


_NAMES: Final = {
    name: name
    for name in (
        "Accept-Encoding",
        "Accept-Language",
        "Authorization",
        "Cache-Control",
        "Connection",
        "Cookie",
        "Host",
        "Origin",
        "Pragma",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
        "Upgrade",
        "User-Agent",
    )
}
"""Names of headers that all requests share, and keep in memory once: about 60 bytes each."""

_HEADERS: Final = {
    (name.encode(), value.encode()): (_NAMES[name], value)
    for name, value in (
        ("Cache-Control", "no-cache"),
        ("Connection", "Upgrade"),
        ("Pragma", "no-cache"),
        ("Sec-WebSocket-Version", "13"),
        ("Upgrade", "websocket"),
    )
}
"""So whole headers: about 110 bytes each."""


class HeadTooLarge(Exception):
    """A head has more bytes than it may; ``first_line``: its first line alone has."""

    def __init__(self, first_line: bool) -> None:
        super().__init__()
        self.first_line = first_line


class ReceivedHead:
    """Received bytes, from which heads are cut at the blank line that ends them."""

    __slots__ = ("_limit", "_searched", "data", "eof")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.eof = False
        self._limit = limit
        self._searched = 0

    def feed(self, data: Buffer) -> None:
        if data:
            self.data += data
        else:
            self.eof = True

    def skip_empty_lines(self) -> None:
        """Drop what may stand before a request (RFC 9112 section 2.2). It counts for the limit."""
        match = _empty_lines.match(self.data)
        assert match is not None
        self._limit -= match.end()
        del self.data[: match.end()]

    def take(self) -> bytes | None:
        """Cut off the next head, blank line and all; None if it is not complete."""
        match = _blank_line.search(self.data, self._searched)
        end = len(self.data) if match is None else match.end()
        if end > self._limit:
            raise HeadTooLarge(first_line=b"\n" not in self.data[: self._limit])
        if match is None:
            # The end of what was searched may be the start of a blank line.
            self._searched = max(0, end - 2)
            return None
        self._searched = 0
        self._limit -= end
        return self.take_at_most(end)

    def take_at_most(self, count: int) -> bytes:
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken


def send_request(http: h11.Connection, request: Request) -> bytes:
    """Return a request that has no body as bytes."""
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in request.headers]
    data = http.send(h11.Request(method=request.method, target=request.target, headers=headers))
    http.send(h11.EndOfMessage())
    return data


def response_head(response: Response) -> bytes:
    """Return the head of a response as bytes."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in response.headers]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def parse_request(head: bytes) -> Request:
    """Return the request of which this is the head.

    :raises h11.RemoteProtocolError: if it is not valid.
    """
    http = h11.Connection(h11.SERVER)
    http.receive_data(head)
    event = http.next_event()
    assert isinstance(event, h11.Request)
    return unchecked_request(
        event.method.decode("ascii"),
        event.target.decode("ascii"),
        _decoded_headers(event),
        event.http_version.decode("ascii"),
    )


def parse_response(http: h11.Connection, head: bytes) -> tuple[Response, str]:
    """Return the response of which this is the head, without a body, and its HTTP version.

    :param http: the connection that the request was sent by.
    :raises h11.RemoteProtocolError: if it is not valid.
    """
    http.receive_data(head)
    event = http.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    headers = _decoded_headers(event)
    reason = event.reason.decode("latin-1")
    response = unchecked_response(event.status_code, headers, b"", reason)
    return response, event.http_version.decode("ascii")


def h11_reason(error: h11.RemoteProtocolError) -> str:
    """Return what h11 says is wrong, without the bytes that are."""
    return str(error).partition(": bytearray(")[0]


def _decoded_headers(event: h11.Request | h11.Response | h11.InformationalResponse) -> Pairs:
    items = event.headers.raw_items()
    return tuple([_HEADERS.get(item) or _decoded_header(*item) for item in items])


def _decoded_header(name: bytes, value: bytes) -> tuple[str, str]:
    text = name.decode("ascii")
    return _NAMES.get(text, text), value.decode("latin-1")
