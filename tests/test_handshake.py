"""The opening handshake of both roles, with bytes alone."""

from __future__ import annotations

import dataclasses
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from hashlib import sha1
from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws._handshake import (
    MAX_REFUSAL_BODY,
    ClientHandshake,
    HandshakeError,
    ServerHandshake,
    ServerRules,
)
from trio_ws._http import Request, Response
from trio_ws._options import PermessageDeflate
from trio_ws._upgrade import is_upgrade

# The example of RFC 6455 section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

UPGRADE = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request_bytes(
    line: str = "GET /chat HTTP/1.1",
    *more: str,
    without: str = "",
    **changed: str,
) -> bytes:
    """An upgrade request; a keyword (``Sec_WebSocket_Key``) replaces the header of that name."""
    headers = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changed.items()}}
    headers.pop(without, None)
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), *more, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def parse(data: bytes, handshake: ServerHandshake) -> Request:
    handshake.receive_data(data)
    request = handshake.next_request()
    assert request is not None
    return request


def answer_to(data: bytes, handshake: ServerHandshake | None = None) -> Response:
    """What a server makes of a request: of one it refuses to parse, too."""
    handshake = handshake or ServerHandshake(ServerRules())
    try:
        parse(data, handshake)
    except HandshakeError as error:
        return refusal_in(error)
    return handshake.respond()


def refusal_in(error: HandshakeError | None) -> Response:
    """The response that an error must have."""
    assert error is not None
    assert error.response is not None
    return error.response


def without_date(response: Response) -> Response:
    """The same response without its Date, which differs from one second to the next."""
    headers = [(name, value) for name, value in response.headers if name != "Date"]
    return dataclasses.replace(response, headers=tuple(headers))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request("GET", "/", UPGRADE), True),
        (Request("GET", "/", {"Upgrade": "h2c, WebSocket", "Connection": "x, UPGRADE"}), True),
        (Request("GET", "/", UPGRADE, "1.0"), False),
        (Request("POST", "/", UPGRADE), False),
        (Request("GET", "/", {**UPGRADE, "Upgrade": "h2c"}), False),
        (Request("GET", "/", {**UPGRADE, "Connection": "keep-alive"}), False),
        (Request("GET", "/", {"Host": "example.org"}), False),
    ],
)
def test_is_upgrade(request_: Request, expected: bool) -> None:
    assert is_upgrade(request_) is expected


def test_the_answer_to_an_upgrade_is_to_the_byte_that_of_the_rfc() -> None:
    handshake = ServerHandshake(ServerRules())
    request = parse(request_bytes(), handshake)
    assert request == Request("GET", "/chat", UPGRADE)
    assert handshake.data_to_send() == b""
    response = handshake.respond()
    assert response.status == 101
    assert handshake.response is response
    assert handshake.refusal() is None
    assert handshake.data_to_send() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
        b"\r\n"
    )
    assert handshake.data_to_send() == b""
    assert handshake.trailing_data == b""
    assert handshake.subprotocol is None


@pytest.mark.parametrize(
    "data",
    [
        request_bytes(Upgrade="WebSocket", Connection="UPGRADE"),
        request_bytes(Upgrade="h2c, HTTP/2.0, websocket", Connection="keep-alive, Upgrade"),
        request_bytes("GET / HTTP/1.1", "Connection: keep-alive", "Upgrade: h2c"),
        request_bytes(Connection="keep-alive,\tupgrade ,"),
        request_bytes("GET /?q=%C3%BC HTTP/1.1"),
        request_bytes("GET http://example.org/chat HTTP/1.1"),
        request_bytes("GET / HTTP/1.2"),
        request_bytes(Host=""),
        request_bytes(Host="[::1]:8000"),
        request_bytes(Content_Length="0"),
        request_bytes(Content_Length="0, 0"),
        request_bytes(X="a\x01b\xe9"),
        request_bytes(
            Sec_WebSocket_Extensions='permessage-deflate; a="1", x', Sec_WebSocket_Protocol=""
        ),
        request_bytes().replace(b"\r\n", b"\n"),
        request_bytes("GET / HTTP/1.1", "X: a", "  folded"),
        request_bytes().upper().replace(KEY.upper().encode(), KEY.encode()),
    ],
)
def test_every_spelling_of_an_upgrade_is_accepted(data: bytes) -> None:
    response = answer_to(data)
    assert response.status == 101, response
    assert response.header("Sec-WebSocket-Accept") == ACCEPT


def test_a_folded_header_is_one_line() -> None:
    request = parse(
        request_bytes("GET / HTTP/1.1", "X: a", " \t b"), ServerHandshake(ServerRules())
    )
    assert request.header("X") == "a b"


def test_headers_come_as_received_in_latin_1() -> None:
    request = parse(
        request_bytes("GET / HTTP/1.1", "x-NAME: \xe9\x01"), ServerHandshake(ServerRules())
    )
    assert ("x-NAME", "\xe9\x01") in request.headers


def test_bytes_behind_the_request_are_kept() -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes() + b"\x81\x85frame", handshake)
    handshake.receive_data(b"more")
    assert handshake.next_request() is handshake.request
    handshake.respond()
    assert handshake.trailing_data == b"\x81\x85framemore"


def test_a_request_that_was_parsed_elsewhere_is_answered_too() -> None:
    handshake = ServerHandshake(ServerRules())
    request = Request("GET", "/", UPGRADE)
    handshake.use_request(request)
    handshake.receive_data(b"frame")
    assert handshake.next_request() is request
    assert handshake.respond().header("Sec-WebSocket-Accept") == ACCEPT
    assert handshake.trailing_data == b"frame"


def test_a_request_by_http_2_can_not_be_upgraded() -> None:
    handshake = ServerHandshake(ServerRules())
    handshake.use_request(Request("GET", "/", UPGRADE, "2.0"))
    assert handshake.respond().status == 505


def test_headers_of_the_server_and_of_the_hook_are_added_to_the_101() -> None:
    handshake = ServerHandshake(ServerRules(headers={"Server": "x"}))
    parse(request_bytes(), handshake)
    response = handshake.respond(Response(101, [("Set-Cookie", "a"), ("Set-Cookie", "b")]))
    assert response.status == 101
    assert response.header("Server") == "x"
    assert response.header_values("Set-Cookie") == ["a", "b"]
    assert b"\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n" in handshake.data_to_send()


@pytest.mark.parametrize(
    ("known", "offered", "chosen"),
    [
        ([], ["a"], None),
        (["a"], [], None),
        (["a"], ["A"], None),
        (["a", "b"], ["b, a"], "a"),
        (["a", "b"], ["c", "b"], "b"),
    ],
)
def test_the_servers_first_subprotocol_that_is_offered_is_chosen(
    known: list[str], offered: list[str], chosen: str | None
) -> None:
    handshake = ServerHandshake(ServerRules(subprotocols=known))
    lines = [f"Sec-WebSocket-Protocol: {value}" for value in offered]
    response = answer_to(request_bytes("GET / HTTP/1.1", *lines), handshake)
    assert response.status == 101
    assert response.header("Sec-WebSocket-Protocol") == chosen
    assert handshake.subprotocol == chosen


def test_the_hook_may_choose_a_subprotocol_of_those_offered() -> None:
    handshake = ServerHandshake(ServerRules(subprotocols=["a"]))
    parse(request_bytes(Sec_WebSocket_Protocol="a, b"), handshake)
    response = handshake.respond(Response(101, {"sec-websocket-protocol": "b"}))
    assert response.header_values("Sec-WebSocket-Protocol") == ["b"]
    assert handshake.subprotocol == "b"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Response(101, {"Sec-WebSocket-Protocol": "c"}), "subprotocol the client offered"),
        (Response(101, [("Sec-WebSocket-Protocol", "a")] * 2), "subprotocol the client offered"),
        (Response(101, {"Sec-WebSocket-Accept": "x"}), "the handshake sets it"),
        (Response(101, {"Sec-WebSocket-Extensions": "x"}), "use compression="),
        (Response(101, {"upgrade": "h2c"}), "the handshake sets it"),
        (Response(101, {"Content-Length": "0"}), "has no body"),
        (Response(100), "status 100"),
    ],
)
def test_an_answer_that_can_not_be_sent_is_a_value_error_and_nothing_has_happened(
    answer: Response, message: str
) -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(Sec_WebSocket_Protocol="a"), handshake)
    with pytest.raises(ValueError, match=message):
        handshake.respond(answer)
    assert handshake.data_to_send() == b""
    assert handshake.refuse(500, "The hook failed.").status == 500
    assert handshake.data_to_send().startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


def test_a_hook_that_accepts_does_not_suspend_the_rules() -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(Sec_WebSocket_Version="12"), handshake)
    assert handshake.respond(Response(101)).status == 426


def test_an_expected_100_continue_precedes_the_101() -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(Expect="100-Continue"), handshake)
    handshake.respond()
    assert handshake.data_to_send().startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n"
    )


@pytest.mark.parametrize("line", ["GET / HTTP/1.0", "POST / HTTP/1.1"])
def test_a_refusal_needs_no_100_continue(line: str) -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(line, "Content-Length: 5", Expect="100-continue"), handshake)
    handshake.respond()
    assert b"100 Continue" not in handshake.data_to_send()


REFUSALS = {
    # Rules about the request, in the order in which they are checked.
    "HTTP/1.0": (request_bytes("GET / HTTP/1.0"), 505, "HTTP/1.1"),
    "method": (request_bytes("POST / HTTP/1.1"), 405, "method must be GET"),
    "HEAD": (request_bytes("HEAD / HTTP/1.1"), 405, "method must be GET"),
    "asterisk target": (request_bytes("GET * HTTP/1.1"), 400, "request target"),
    "authority target": (request_bytes("GET example.org:80 HTTP/1.1"), 400, "request target"),
    "Host": (request_bytes("GET / HTTP/1.2", without="Host"), 400, "exactly one Host"),
    "bad Host": (request_bytes(Host="a b"), 400, "exactly one Host"),
    "Host with user": (request_bytes(Host="a@b"), 400, "exactly one Host"),
    "plain GET": (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 426, "Upgrade header"),
    "Upgrade": (request_bytes(Upgrade="websockets"), 426, "Upgrade header"),
    "Connection": (request_bytes(Connection="keep-alive"), 426, "Connection header"),
    "no Connection": (request_bytes(without="Connection"), 426, "Connection header"),
    "version": (request_bytes(Sec_WebSocket_Version="8"), 426, "Sec-WebSocket-Version"),
    "versions": (request_bytes(Sec_WebSocket_Version="13, 8"), 426, "Sec-WebSocket-Version"),
    "no version": (request_bytes(without="Sec-WebSocket-Version"), 426, "Sec-WebSocket-Version"),
    "two versions": (
        request_bytes("GET / HTTP/1.1", "Sec-WebSocket-Version: 13"),
        426,
        "Sec-WebSocket-Version",
    ),
    "no key": (request_bytes(without="Sec-WebSocket-Key"), 400, "Sec-WebSocket-Key"),
    "two keys": (
        request_bytes("GET / HTTP/1.1", f"Sec-WebSocket-Key: {KEY}"),
        400,
        "Sec-WebSocket-Key",
    ),
    "empty key": (request_bytes(Sec_WebSocket_Key=""), 400, "Sec-WebSocket-Key"),
    "15 bytes": (request_bytes(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA"), 400, "16 bytes"),
    "17 bytes": (request_bytes(Sec_WebSocket_Key="A" * 23 + "="), 400, "16 bytes"),
    "no base64": (request_bytes(Sec_WebSocket_Key="!" * 22 + "=="), 400, "base64"),
    "Content-Length": (request_bytes(Content_Length="5"), 400, "announce a body"),
    "chunked": (request_bytes(Transfer_Encoding="chunked"), 400, "announce a body"),
    "extensions": (request_bytes(Sec_WebSocket_Extensions="x;"), 400, "character 1"),
    "Origin": (request_bytes(Origin="http://evil.example"), 403, "Origin"),
    "subprotocols": (request_bytes(Sec_WebSocket_Protocol="a b"), 400, "Sec-WebSocket-Protocol"),
    # No HTTP that h11 would take.
    "TLS": (b"\x16\x03\x01\x02\x00", 400, "looks like TLS"),
    "binary": (b"\x80\x00", 400, "not HTTP"),
    "space first": (b" GET / HTTP/1.1\r\n\r\n", 400, "not HTTP"),
    "no version in line": (b"GET /\r\n\r\n", 400, "illegal request line"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "illegal request line"),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400, "illegal header line"),
    "NUL": (b"GET / HTTP/1.1\r\nHost: h\x00\r\n\r\n", 400, "illegal header line"),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400, "illegal header line"),
    "no colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400, "illegal header line"),
    "fold first": (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, "continuation line"),
    "bytes in target": (b"GET /\xc3\xbc HTTP/1.1\r\nHost: h\r\n\r\n", 400, "illegal request line"),
    "no Host": (request_bytes(without="Host"), 400, "Host"),
    "two Hosts": (request_bytes("GET / HTTP/1.1", "Host: other.example"), 400, "Host"),
    "two lengths": (request_bytes("GET / HTTP/1.1", "Content-Length: 1, 2"), 400, "Content-Length"),
    "bad length": (request_bytes("GET / HTTP/1.1", "Content-Length: -1"), 400, "Content-Length"),
    "gzip": (request_bytes(Transfer_Encoding="gzip"), 501, "Transfer-Encoding"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", 505, "HTTP/1.1"),
    # Sizes.
    "request line": (b"GET /" + b"a" * 65536, 414, "request line"),
    "headers": (request_bytes(X="a" * 65536), 431, "headers"),
}


@pytest.mark.parametrize("rule", REFUSALS)
def test_each_rule_has_its_status_and_a_text_that_names_it(rule: str) -> None:
    data, status, text = REFUSALS[rule]
    response = answer_to(data)
    assert response.status == status
    assert text in response.body.decode()
    assert response.body.endswith(b".\n")
    assert response.header("Content-Type") == "text/plain; charset=utf-8"
    assert response.header("Content-Length") == str(len(response.body))
    assert "close" in response.header_values("Connection")[0]


@pytest.mark.parametrize("rule", REFUSALS)
def test_each_refusal_is_sent_and_has_its_error(rule: str) -> None:
    data, status, text = REFUSALS[rule]
    handshake = ServerHandshake(ServerRules())
    response = answer_to(data, handshake)
    sent = handshake.data_to_send()
    assert sent.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
    assert sent.endswith(b"\r\n\r\n" if rule == "HEAD" else b"\r\n\r\n" + response.body)
    error = handshake.refusal()
    assert refusal_in(error) is response
    assert str(error).startswith(f"the WebSocket handshake was refused: {status} ")
    assert text in str(error)
    assert handshake.subprotocol is None


@pytest.mark.parametrize(
    ("rule", "headers"),
    [
        ("method", {"Allow": "GET", "Connection": "close"}),
        ("plain GET", {"Upgrade": "websocket", "Connection": "close, Upgrade"}),
        ("Connection", {"Upgrade": "websocket", "Connection": "close, Upgrade"}),
        ("version", {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}),
    ],
)
def test_a_refusal_says_what_would_be_right(rule: str, headers: dict[str, str]) -> None:
    response = answer_to(REFUSALS[rule][0])
    assert {name: response.header(name) for name in headers} == headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_well_formed_request_reaches_the_hook_which_may_answer_it(
    method: str, version: str
) -> None:
    handshake = ServerHandshake(ServerRules())
    request = parse(f"{method} /health HTTP/{version}\r\nHost: h\r\n\r\n".encode(), handshake)
    assert (request.method, request.target, request.http_version) == (method, "/health", version)
    response = handshake.respond(Response(200, {"X": "1", "Connection": "keep-alive"}, "fine"))
    head, _, body = handshake.data_to_send().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nX: 1\r\n")
    assert body == (b"" if method == "HEAD" else b"fine")
    assert response.header_values("Connection") == ["close"]
    assert response.header_values("Content-Length") == ["4"]
    date = response.header("Date")
    assert date is not None
    assert parsedate_to_datetime(date).tzinfo is not None


def test_a_hooks_answer_keeps_its_date_and_names_upgrade_in_connection() -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(), handshake)
    response = handshake.respond(
        Response(426, {"Date": "today", "Upgrade": "x", "Content-Length": "9"})
    )
    assert response.header_values("Date") == ["today"]
    assert response.header_values("Connection") == ["close, Upgrade"]
    assert response.header_values("Content-Length") == ["0"]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_by_nature_has_no_length(status: int) -> None:
    handshake = ServerHandshake(ServerRules())
    parse(request_bytes(), handshake)
    assert handshake.respond(Response(status)).header("Content-Length") is None
    assert handshake.data_to_send().endswith(b"\r\n\r\n")


def test_a_server_may_refuse_before_there_is_a_request() -> None:
    handshake = ServerHandshake(ServerRules())
    handshake.receive_data(b"GET / HT")
    response = handshake.refuse(503, "The server is shutting down.", {"Retry-After": "1"})
    assert response.header("Retry-After") == "1"
    assert handshake.data_to_send().endswith(b"\r\n\r\nThe server is shutting down.\n")


def test_a_request_is_answered_once() -> None:
    handshake = ServerHandshake(ServerRules())
    with pytest.raises(RuntimeError, match="no request"):
        handshake.respond()
    assert handshake.refusal() is None
    parse(request_bytes(), handshake)
    handshake.respond()
    with pytest.raises(RuntimeError, match="has been answered"):
        handshake.respond()
    with pytest.raises(RuntimeError, match="has been answered"):
        handshake.refuse(500, "Late.")


@pytest.mark.parametrize(
    ("data", "when"), [(b"", "before it sent a request"), (b"GET", "in the middle of its request")]
)
def test_a_client_that_goes_away_gets_no_answer(data: bytes, when: str) -> None:
    handshake = ServerHandshake(ServerRules())
    if data:
        handshake.receive_data(data)
        assert handshake.next_request() is None
    handshake.receive_data(b"")
    with pytest.raises(HandshakeError, match=when) as caught:
        handshake.next_request()
    assert caught.value.response is None
    assert handshake.data_to_send() == b""


def test_a_client_that_only_stops_sending_is_answered() -> None:
    handshake = ServerHandshake(ServerRules())
    handshake.receive_data(request_bytes())
    handshake.receive_data(b"")
    assert handshake.next_request() is not None


def test_a_request_may_have_the_size_of_the_limit_and_no_byte_more() -> None:
    data = request_bytes()
    assert (
        answer_to(data + b"frames", ServerHandshake(ServerRules(max_size=len(data)))).status == 101
    )
    assert answer_to(data, ServerHandshake(ServerRules(max_size=len(data) - 1))).status == 431
    assert answer_to(data, ServerHandshake(ServerRules(max_size=10))).status == 414


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("example.org", "http://example.org", True),
        ("example.org", "https://example.org", True),
        ("Example.org", "HTTP://EXAMPLE.ORG", True),
        ("example.org", "http://example.org:80", True),
        ("example.org:443", "https://example.org", True),
        ("example.org:8000", "http://example.org:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("example.org", "http://example.org:8000", False),
        ("example.org:8000", "http://example.org", False),
        ("example.org:443", "http://example.org", False),
        ("example.org", "http://www.example.org", False),
        ("example.org", "http://example.org.evil.example", False),
        ("example.org", "http://example.org/", False),
        ("example.org", "http://user@example.org", False),
        ("example.org", "app://example.org", False),
        ("example.org", "null", False),
        ("example.org", "example.org", False),
        ("example.org", "", False),
        ("", "http://", False),
    ],
)
def test_by_default_the_origin_is_that_of_the_host(host: str, origin: str, allowed: bool) -> None:
    response = answer_to(request_bytes(Host=host, Origin=origin))
    assert response.status == (101 if allowed else 403)


def test_the_authority_of_an_absolute_target_outdoes_the_host() -> None:
    line = "GET http://public.example/chat HTTP/1.1"
    assert answer_to(request_bytes(line, Origin="http://public.example")).status == 101
    assert answer_to(request_bytes(line, Origin="http://example.org")).status == 403


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (["https://a.example"], "https://a.example", True),
        (["https://A.example:443"], "HTTPS://a.EXAMPLE", True),
        (["https://a.example"], "http://a.example", False),
        (["https://a.example"], "https://a.example:8443", False),
        (["https://a.example"], "http://example.org", False),
        (["https://a.example"], "null", False),
        (["app://x", "null"], "null", True),
        (["app://x", "null"], "app://x", True),
        (["*"], "https://anything.example", True),
        (["*"], "nonsense", True),
        ([], "http://example.org", False),
    ],
)
def test_given_origins_are_compared_as_origins(
    origins: list[str], origin: str, allowed: bool
) -> None:
    response = answer_to(
        request_bytes(Origin=origin), ServerHandshake(ServerRules(origins=origins))
    )
    assert response.status == (101 if allowed else 403)


def test_two_origins_are_none() -> None:
    data = request_bytes("GET / HTTP/1.1", *["Origin: http://example.org"] * 2)
    assert answer_to(data).status == 403


def test_a_request_without_an_origin_is_always_allowed() -> None:
    assert answer_to(request_bytes(), ServerHandshake(ServerRules(origins=[]))).status == 101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subprotocols": ["a b"]}, "'a b' is not a token"),
        ({"subprotocols": ["a", "a"]}, "given twice"),
        ({"origins": ["example.org"]}, "write scheme://host"),
        ({"origins": ["https://example.org/"]}, "without a path"),
        ({"headers": {"Connection": "x"}}, "the handshake sets it"),
        ({"headers": {"Sec-WebSocket-Accept": "x"}}, "the handshake sets it"),
        ({"headers": {"Sec-WebSocket-Protocol": "x"}}, "use subprotocols="),
        ({"headers": {"X": "a\r\nb"}}, "illegal character"),
    ],
)
def test_options_of_a_server_that_can_not_be(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerRules(**options)  # type: ignore[arg-type]  # a table of different options


def test_a_str_is_not_a_sequence_of_names() -> None:
    with pytest.raises(TypeError, match="subprotocols"):
        ServerRules(subprotocols="chat")
    with pytest.raises(TypeError, match="origins"):
        ServerRules(origins="*")
    with pytest.raises(TypeError, match="subprotocols"):
        ClientHandshake("h", subprotocols="chat")


def client(compression: PermessageDeflate | None = None) -> ClientHandshake:
    """A client that offers the subprotocols a and b."""
    return ClientHandshake("example.org", subprotocols=["a", "b"], compression=compression)


def accept_for(handshake: ClientHandshake) -> str:
    key = handshake.request.header("Sec-WebSocket-Key")
    assert key is not None
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return b64encode(sha1((key + guid).encode()).digest()).decode()


def switching(handshake: ClientHandshake, *more: str, **changed: str) -> bytes:
    """A 101 for a client; an empty value leaves a header out."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_for(handshake),
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, *more, "", ""]).encode(
        "latin-1"
    )


def refused(handshake: ClientHandshake, data: bytes, eof: bool = True) -> HandshakeError:
    handshake.receive_data(data)
    if eof:
        handshake.receive_data(b"")
    with pytest.raises(HandshakeError) as caught:
        handshake.next_response()
    return caught.value


def test_the_request_of_a_client() -> None:
    handshake = ClientHandshake(
        "example.org:8000",
        "/chat?x=1",
        subprotocols=("a", "b"),
        headers=[("X", "1"), ("X", "\xe9")],
        origin="https://example.org",
        authorization="Basic xyz",
        compression=PermessageDeflate(client_no_context_takeover=True),
    )
    key = handshake.request.header("Sec-WebSocket-Key")
    assert key is not None
    assert len(b64decode(key, validate=True)) == 16
    assert handshake.data_to_send() == (
        "GET /chat?x=1 HTTP/1.1\r\n"
        "Host: example.org:8000\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: a, b\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; "
        "client_max_window_bits\r\n"
        "Origin: https://example.org\r\n"
        "Authorization: Basic xyz\r\n"
        "X: 1\r\n"
        "X: \xe9\r\n"
        "\r\n"
    ).encode("latin-1")
    assert handshake.data_to_send() == b""


def test_a_bare_request_has_nothing_optional_and_a_fresh_key() -> None:
    first, second = ClientHandshake("h"), ClientHandshake("h")
    assert [name for name, _ in first.request.headers] == list(UPGRADE)
    assert first.request.header("Sec-WebSocket-Key") != second.request.header("Sec-WebSocket-Key")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Host", "from host="),
        ("origin", "use origin="),
        ("Upgrade", "the handshake sets it"),
        ("Connection", "the handshake sets it"),
        ("Sec-WebSocket-Key", "the handshake sets it"),
        ("Sec-WebSocket-Version", "the handshake sets it"),
        ("sec-websocket-protocol", "use subprotocols="),
        ("Sec-WebSocket-Extensions", "use compression="),
        ("Content-Length", "no body"),
        ("Transfer-Encoding", "no body"),
    ],
)
def test_headers_of_the_handshake_are_not_for_the_user(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ClientHandshake("h", headers={name: "x"})
    assert name in str(caught.value)


def test_authorization_comes_from_one_side_only() -> None:
    authorization = {"authorization": "Bearer x"}
    assert ClientHandshake("h", headers=authorization).request.header("Authorization") == "Bearer x"
    with pytest.raises(ValueError, match="twice"):
        ClientHandshake("h", headers=authorization, authorization="Basic x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClientHandshake(""),
        lambda: ClientHandshake("h\r\nX: y"),
        lambda: ClientHandshake("user@h"),
        lambda: ClientHandshake("h/x"),
        lambda: ClientHandshake("h\xfc"),
        lambda: ClientHandshake("::1"),
        lambda: ClientHandshake("h", "x"),
        lambda: ClientHandshake("h", "http://h/"),
        lambda: ClientHandshake("h", "/ü"),
        lambda: ClientHandshake("h", "/ HTTP/1.1\r\nX: y"),
        lambda: ClientHandshake("h", headers={"X": "a\r\nY: b"}),
        lambda: ClientHandshake("h", headers={"X\r\nY": "b"}),
        lambda: ClientHandshake("h", origin="null\r\n"),
        lambda: ClientHandshake("h", authorization="x\n"),
        lambda: ClientHandshake("h", subprotocols=["a", "a"]),
        lambda: ClientHandshake("h", subprotocols=["a,b"]),
        lambda: ClientHandshake("h", subprotocols=[""]),
    ],
)
def test_a_client_refuses_what_would_not_be_legal(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must|token|illegal|twice"):
        make()


def test_a_101_opens_the_websocket() -> None:
    handshake = client()
    assert handshake.next_response() is None
    handshake.receive_data(switching(handshake, "X: \xe9") + b"\x81\x01")
    response = handshake.next_response()
    assert response is not None
    assert (response.status, response.reason, response.body) == (101, "Switching Protocols", b"")
    assert response.header("x") == "\xe9"
    assert handshake.next_response() is response
    assert handshake.refusal() is None
    handshake.receive_data(b"a")
    assert handshake.trailing_data == b"\x81\x01a"
    assert handshake.subprotocol is None
    assert handshake.compression is None


@pytest.mark.parametrize(
    "changed",
    [
        {"Upgrade": "WebSocket", "Connection": "UPGRADE"},
        {"Connection": "keep-alive, upgrade"},
        {"Sec_WebSocket_Protocol": "b"},
    ],
)
def test_every_spelling_of_a_101_is_accepted(changed: dict[str, str]) -> None:
    handshake = client()
    handshake.receive_data(switching(handshake, **changed))
    assert handshake.next_response() is not None
    assert handshake.subprotocol == changed.get("Sec_WebSocket_Protocol")


def test_compression_that_the_server_agrees_to() -> None:
    handshake = client(compression=PermessageDeflate())
    answer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10"
    handshake.receive_data(switching(handshake, answer))
    assert handshake.next_response() is not None
    assert handshake.compression is not None
    assert handshake.compression.server_max_window_bits == 10


def test_compression_that_the_server_does_not_want() -> None:
    handshake = client(compression=PermessageDeflate())
    handshake.receive_data(switching(handshake))
    assert handshake.next_response() is not None
    assert handshake.compression is None


def test_an_answer_that_agrees_to_another_compression_fails() -> None:
    handshake = client(compression=PermessageDeflate())
    handshake.receive_data(switching(handshake, "Sec-WebSocket-Extensions: x-deflate"))
    with pytest.raises(HandshakeError, match="is not a WebSocket handshake: its Sec-WebSocket-Ext"):
        handshake.next_response()
    assert handshake.compression is None


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate;",
    ],
)
def test_an_answer_that_is_none_to_the_offer_fails_and_agrees_to_nothing(answer: str) -> None:
    handshake = client(compression=PermessageDeflate())
    handshake.receive_data(switching(handshake, f"Sec-WebSocket-Extensions: {answer}"))
    with pytest.raises(HandshakeError, match="its Sec-WebSocket-Extensions header"):
        handshake.next_response()
    assert handshake.compression is None


def test_an_answer_may_be_split_over_lines() -> None:
    handshake = client(compression=PermessageDeflate())
    lines = "Sec-WebSocket-Extensions:", "Sec-WebSocket-Extensions: permessage-deflate"
    handshake.receive_data(switching(handshake, *lines))
    assert handshake.next_response() is not None
    assert handshake.compression is not None


def server_agrees(
    *lines: str, compression: PermessageDeflate | None
) -> tuple[str | None, ServerHandshake]:
    """What a server answers to a request with these header lines."""
    handshake = ServerHandshake(ServerRules(compression=compression))
    handshake.receive_data(request_bytes("GET / HTTP/1.1", *lines))
    assert handshake.next_request() is not None
    response = handshake.respond()
    assert response.status == 101
    values = response.header_values("Sec-WebSocket-Extensions")
    assert len(values) <= 1
    return (values[0] if values else None), handshake


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        ([], None),
        (["permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
        (["x-deflate; a=b"], None),
        (
            ["x-deflate", 'permessage-deflate; server_max_window_bits="10"'],
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            [
                "permessage-deflate; unknown",
                "permessage-deflate; server_max_window_bits=8",
                "",
                "p",
            ],
            None,
        ),
        (
            ["permessage-deflate; a, permessage-deflate; client_max_window_bits"],
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
    ],
)
def test_a_server_agrees_to_the_first_offer_that_it_can(
    lines: list[str], answer: str | None
) -> None:
    headers = [f"Sec-WebSocket-Extensions: {line}" for line in lines]
    agreed, handshake = server_agrees(*headers, compression=PermessageDeflate())
    assert agreed == answer
    assert (handshake.compression is None) is (answer is None)
    agreed, handshake = server_agrees(*headers, compression=None)
    assert agreed is None
    assert handshake.compression is None


def test_what_a_server_answers_is_what_its_client_agrees_to() -> None:
    ours = ClientHandshake("h", compression=PermessageDeflate(server_no_context_takeover=True))
    theirs = ServerHandshake(ServerRules(compression=PermessageDeflate(client_max_window_bits=9)))
    theirs.receive_data(ours.data_to_send())
    assert theirs.next_request() is not None
    theirs.respond()
    ours.receive_data(theirs.data_to_send())
    assert ours.next_response() is not None
    assert ours.compression is not None
    assert ours.compression == theirs.compression
    assert ours.compression.server_no_context_takeover
    assert ours.compression.client_max_window_bits == 9


def test_interim_responses_are_skipped() -> None:
    handshake = client()
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    handshake.receive_data(interim)
    assert handshake.next_response() is None
    handshake.receive_data(interim + switching(handshake))
    assert handshake.next_response() is not None


def test_a_long_interim_response_may_end_in_the_chunk_of_the_101() -> None:
    handshake = client()
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"
    handshake.receive_data(interim[:-1])
    assert handshake.next_response() is None
    handshake.receive_data(interim[-1:] + switching(handshake))
    assert handshake.next_response() is not None


@pytest.mark.parametrize(
    ("more", "changed", "rule"),
    [
        ([], {"Upgrade": ""}, "Upgrade"),
        ([], {"Upgrade": "h2c"}, "Upgrade"),
        ([], {"Connection": ""}, "Connection"),
        ([], {"Connection": "close"}, "Connection"),
        ([], {"Sec_WebSocket_Accept": ""}, "Sec-WebSocket-Accept"),
        ([], {"Sec_WebSocket_Accept": ACCEPT}, "Sec-WebSocket-Accept"),
        (["Sec-WebSocket-Accept: x"], {}, "Sec-WebSocket-Accept"),
        ([], {"Sec_WebSocket_Extensions": "permessage-deflate"}, "Sec-WebSocket-Extensions"),
        (["Sec-WebSocket-Extensions:"], {}, "Sec-WebSocket-Extensions"),
        ([], {"Sec_WebSocket_Protocol": "c"}, "Sec-WebSocket-Protocol"),
        ([], {"Sec_WebSocket_Protocol": "a, b"}, "Sec-WebSocket-Protocol"),
        (["Sec-WebSocket-Protocol: a"], {"Sec_WebSocket_Protocol": "a"}, "more than one"),
    ],
)
def test_a_101_that_breaks_a_rule_fails_with_its_name(
    more: list[str], changed: dict[str, str], rule: str
) -> None:
    handshake = client()
    error = refused(handshake, switching(handshake, *more, **changed) + b"frames", eof=False)
    assert str(error).startswith("the server's answer is not a WebSocket handshake: ")
    assert rule in str(error)
    assert (refusal_in(error).status, refusal_in(error).body) == (101, b"")
    assert handshake.subprotocol is None


def test_a_101_by_http_1_0_is_none() -> None:
    handshake = client()
    data = switching(handshake).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert "older than HTTP/1.1" in str(refused(handshake, data))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nNot\nyou!",
            "the server refused the WebSocket handshake: 403 Forbidden: Not",
        ),
        (
            b"HTTP/1.1 404\r\nContent-Length: 15\r\n\r\n<html>no</html>",
            "the server refused the WebSocket handshake: 404",
        ),
        (
            b"HTTP/1.0 200 OK\r\n\r\n\n a\x1b[31m\xff\n",
            "the server refused the WebSocket handshake: 200 OK: a\ufffd[31m\ufffd",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
            "the server refused the WebSocket handshake: 302 Found",
        ),
    ],
)
def test_the_error_tells_status_and_first_line(answer: bytes, message: str) -> None:
    assert str(refused(client(), answer)) == message


@pytest.mark.parametrize(
    ("framing", "raw", "body"),
    [
        ("Content-Length: 5", b"hello", b"hello"),
        ("Content-Length: 5", b"hello, ignored", b"hello"),
        ("Content-Length: 0", b"ignored", b""),
        ("Transfer-Encoding: chunked", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        ("Transfer-Encoding: chunked", b"3;x=y\r\nhel\r\n0\r\nTrailer: x\r\n\r\nmore", b"hel"),
        # Wrong framing ends the body: what came before is kept.
        ("Transfer-Encoding: chunked", b"3\r\nhelXX2\r\nlo\r\n", b"hel"),
        ("Transfer-Encoding: chunked", b"3\r\nhel\r\nxyz\r\n", b"hel"),
        ("Content-Length: 100000", b"x" * 100000, b"x" * MAX_REFUSAL_BODY),
        ("Content-Length: 65536", b"x" * 65536, b"x" * MAX_REFUSAL_BODY),
        ("X: until-eof", b"x" * 70000, b"x" * MAX_REFUSAL_BODY),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 70000, b"x" * (2 * MAX_REFUSAL_BODY // 6)),
    ],
)
def test_a_refusal_is_complete_at_the_end_of_its_body(
    framing: str, raw: bytes, body: bytes
) -> None:
    data = f"HTTP/1.1 400 x\r\n{framing}\r\n\r\n".encode() + raw
    response = refusal_in(refused(client(), data, eof=False))
    assert (response.status, response.reason) == (400, "x")
    assert response.headers == (tuple(framing.split(": ")),)
    assert response.body == body


@pytest.mark.parametrize(
    "framing", ["Content-Length: 10", "Transfer-Encoding: chunked", "X: until-eof"]
)
def test_a_refusal_is_known_before_its_body_has_arrived(framing: str) -> None:
    handshake = client()
    raw = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
    assert handshake.refusal() is None
    handshake.receive_data(f"HTTP/1.1 503 x\r\n{framing}\r\n".encode())
    assert handshake.next_response() is None
    assert handshake.refusal() is None
    bodies = []
    for data in (b"\r\n", raw):
        handshake.receive_data(data)
        assert handshake.next_response() is None
        bodies.append(refusal_in(handshake.refusal()).body)
    assert bodies == [b"", b"hello"]
    assert str(handshake.refusal()).endswith("503 x: hello")
    assert refusal_in(refused(handshake, b"")).body == b"hello"


def test_a_refusal_has_only_its_headers_if_the_method_or_status_says_so() -> None:
    error = refused(client(), b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", eof=False)
    assert refusal_in(error).body == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 101 Sw", "closed the connection in the middle of its answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n", "in the middle"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection before it answered"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP"),
        (b"HTX", "is not HTTP"),
        (b"HTTP 200", "is not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "is not HTTP: with TLS a URL starts with wss://"),
        (b"HTTP/1.1 100 Continue\r\n\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 1o1 x\r\n\r\n", "is not valid HTTP: illegal status line"),
        (b"HTTP/1.1 099 x\r\n\r\n", "is not valid HTTP"),
        (b"HTTP/1.1 200 x\r\nX : y\r\n\r\n", "is not valid HTTP: illegal header line"),
        (b"HTTP/1.1 200 x\r\nContent-Length: x\r\n\r\n", "is not valid HTTP: bad Content-Length"),
        (b"HTTP/1.1 200 " + b"x" * 70000, "head of the server's answer is too large"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 5000, "head of the server's answer is too large"),
    ],
)
def test_an_answer_that_is_none(data: bytes, message: str) -> None:
    handshake = client()
    error = refused(handshake, data, eof=bool(data))
    assert message in str(error)
    assert error.response is None
    assert handshake.refusal() is None


def test_an_answer_may_have_the_size_of_the_limit_and_no_byte_more() -> None:
    size = len(switching(client()))
    exact = ClientHandshake("h", max_size=size)
    exact.receive_data(switching(exact) + b"frames")
    assert exact.next_response() is not None
    short = ClientHandshake("h", max_size=size - 1)
    assert "too large" in str(refused(short, switching(short), eof=False))


def chunks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut data at the given places (modulo its length), without empty pieces."""
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    for start, end in pairwise(edges):
        yield data[start:end]


def server_outcome(pieces: list[bytes]) -> object:
    """All that can be seen of a server that got these pieces, then EOF."""
    handshake = ServerHandshake(ServerRules(subprotocols=["a"], max_size=512))
    result: object = None
    for piece in [*pieces, b""]:
        handshake.receive_data(piece)
        if result is None:
            try:
                result = handshake.next_request()
            except HandshakeError as error:
                result = str(error)
    if isinstance(result, Request):
        handshake.respond()
    response = handshake.response and without_date(handshake.response)
    trailing = handshake.trailing_data if handshake.subprotocol else b""
    return result, response, handshake.subprotocol, trailing, str(handshake.refusal())


def client_outcome(answer: bytes, cuts: list[int]) -> object:
    """All that can be seen of a client that got this answer in these pieces, then EOF."""
    handshake = ClientHandshake("h", subprotocols=["a"], max_size=512)
    result: Response | str | None = None
    data = answer.replace(ACCEPT.encode(), accept_for(handshake).encode())
    for piece in [*chunks(data, cuts), b""]:
        handshake.receive_data(piece)
        if result is None:
            try:
                result = handshake.next_response()
            except HandshakeError as error:
                result = str(error)
                refusal = error.response
                if refusal is not None and refusal.status != 101:
                    return result, refusal
    if isinstance(result, Response):
        pairs = [(name, value) for name, value in result.headers if "Accept" not in name]
        return result.status, pairs, handshake.subprotocol, handshake.trailing_data
    return result, None


request_streams = st.sampled_from(
    [
        request_bytes(Sec_WebSocket_Protocol="a") + b"\x81\x05hello",
        request_bytes(Sec_WebSocket_Protocol="a").replace(b"\r\n", b"\n") + b"\n\n",
        request_bytes("POST / HTTP/1.1", "Content-Length: 5") + b"hello",
        *(data[:2000] for data, _, _ in REFUSALS.values()),
    ]
)
answer_streams = st.sampled_from(
    [
        switching(client(), Sec_WebSocket_Protocol="a", Sec_WebSocket_Accept=ACCEPT) + b"\x81\x01a",
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + switching(client(), Sec_WebSocket_Accept=ACCEPT).replace(b"\r\n", b"\n"),
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello, ignored",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\nT: x\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"hello" * 20,
        b"HTTP/1.1 200 " + b"x" * 600,
        b"SSH-2.0-OpenSSH\r\n",
    ]
)
places = st.lists(st.integers(0, 4000), max_size=12)
damages = st.none() | st.tuples(st.integers(0, 4000), st.integers(0, 3), st.binary(max_size=3))


def damaged(data: bytes, damage: tuple[int, int, bytes] | None) -> bytes:
    """Data with a few bytes replaced by others."""
    if damage is None:
        return data
    place, length, replacement = damage
    start = place % len(data)
    return data[:start] + replacement + data[start + length :] or b"x"


@given(request_streams, damages, places)
@example(request_bytes(), None, list(range(len(request_bytes()))))
def test_a_server_does_not_see_how_a_request_was_cut(
    data: bytes, damage: tuple[int, int, bytes] | None, cuts: list[int]
) -> None:
    data = damaged(data, damage)
    assert server_outcome(list(chunks(data, cuts))) == server_outcome([data])


@given(answer_streams, damages, places)
@example(switching(client(), Sec_WebSocket_Accept=ACCEPT), None, list(range(400)))
def test_a_client_does_not_see_how_an_answer_was_cut(
    data: bytes, damage: tuple[int, int, bytes] | None, cuts: list[int]
) -> None:
    data = damaged(data, damage)
    assert client_outcome(data, cuts) == client_outcome(data, [])


@pytest.mark.parametrize("size", [3, 64, 1000])
def test_a_long_body_is_cut_at_the_same_byte_however_it_comes(size: int) -> None:
    head = b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"5\r\nhello\r\n" * 20000
    whole = refusal_in(refused(client(), data))
    handshake = client()
    for start in range(0, len(data), size):
        handshake.receive_data(data[start : start + size])
        try:
            assert handshake.next_response() is None
        except HandshakeError as error:
            early = refusal_in(error)
            break
    assert early == whole


tokens = st.text("abcABC019!#$%&'*+-.^_`|~", min_size=1, max_size=6)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=10)
token_lists = st.lists(tokens, max_size=4, unique=True)


@given(
    offered=token_lists,
    known=token_lists,
    sent=st.lists(st.tuples(tokens.map("X-{}".format), values), max_size=4),
    added=st.lists(st.tuples(tokens.map("X-{}".format), values), max_size=4),
    expect=st.booleans(),
)
def test_client_and_server_understand_each_other(
    offered: list[str],
    known: list[str],
    sent: list[tuple[str, str]],
    added: list[tuple[str, str]],
    expect: bool,
) -> None:
    expectation = [("Expect", "100-continue")] if expect else []
    client = ClientHandshake("h:8000", "/x?y", subprotocols=offered, headers=[*sent, *expectation])
    server = ServerHandshake(ServerRules(subprotocols=known, headers=added))
    assert parse(client.data_to_send() + b"from client", server) == client.request
    response = server.respond()
    client.receive_data(server.data_to_send() + b"from server")
    assert client.next_response() == response
    assert client.subprotocol == server.subprotocol
    assert client.subprotocol == next((name for name in known if name in offered), None)
    assert client.trailing_data == b"from server"
    assert server.trailing_data == b"from client"


@pytest.mark.parametrize("rule", [rule for rule in REFUSALS if rule != "HEAD"])
def test_a_client_reads_every_refusal_of_a_server_whole(rule: str) -> None:
    server, client = ServerHandshake(ServerRules()), ClientHandshake("h")
    response = answer_to(REFUSALS[rule][0], server)
    error = refused(client, server.data_to_send(), eof=False)
    assert error.response == response
    assert str(error).endswith(
        f"{response.status} {response.reason}: {response.body.decode().strip()}"
    )


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n"])
@pytest.mark.parametrize("size", [1, 1000])
def test_empty_lines_before_a_request_are_skipped(empty: bytes, size: int) -> None:
    handshake = ServerHandshake(ServerRules())
    data = empty + request_bytes()
    for start in range(0, len(data), size):
        assert handshake.next_request() is None
        handshake.receive_data(data[start : start + size])
    request = handshake.next_request()
    assert request is not None
    assert request.target == "/chat"
    assert handshake.trailing_data == b""


def test_empty_lines_count_for_the_size_of_the_head() -> None:
    handshake = ServerHandshake(ServerRules(max_size=1000))
    handshake.receive_data(b"\r\n" * 501)
    with pytest.raises(HandshakeError) as caught:
        handshake.next_request()
    assert caught.value.response is not None
    assert caught.value.response.status == 414


def test_a_carriage_return_is_no_empty_line() -> None:
    handshake = ServerHandshake(ServerRules())
    handshake.receive_data(b"\r")
    assert handshake.next_request() is None
    handshake.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HandshakeError, match="400 Bad Request: The request is not HTTP"):
        handshake.next_request()


def test_a_client_that_goes_away_in_an_empty_line() -> None:
    handshake = ServerHandshake(ServerRules())
    handshake.receive_data(b"\r")
    handshake.receive_data(b"")
    with pytest.raises(HandshakeError, match="closed the connection in the middle"):
        handshake.next_request()
