"""The opening handshake (RFC 6455 section 4), both roles, sans-I/O.

Theory of operation
===================

A client sends one HTTP request that asks for an upgrade, a server answers with 101, and the bytes
behind those two heads are the WebSocket's. Any other answer is an ordinary HTTP response, after
which the connection ends. So each role reads exactly one message here, and writes one.

* h11 parses every head, frames the body of a refusal, and writes the client's request.
* `_ReceivedHead` cuts a head off the received bytes before h11 sees it. The limit on its size, and
  what counts as no HTTP at all, are decided there on the bytes alone, so that the result does not
  depend on the chunks they came in; and a client that dribbles costs one search per chunk, not one
  parse. What is behind the head never enters h11.
* A server's answer is written here, not by h11: it must also be possible for a request that another
  server has parsed, and after one that could not be parsed. Names and values have been checked when
  its `Response` was made.

The server's rules are the functions named ``_require_...``, in the order of ``_RULES``. Each raises
`_Refused` with a text that names it. The two that depend on the server's options are methods.

The objects of this file are made for one handshake and thrown away.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import sha1
from http import HTTPStatus
from typing import Final, TypeAlias

import h11

from ._headers import (
    HeaderSyntaxError,
    contains_token,
    is_token,
    parse_extension_list,
    parse_token_list,
)

HeadersInput: TypeAlias = Iterable[tuple[str, str]] | Mapping[str, str]
"""Headers as they may be given: pairs of name and value, or a mapping."""

_Pairs: TypeAlias = tuple[tuple[str, str], ...]
_Fields: TypeAlias = Mapping[str, Sequence[str]]

MAX_REFUSAL_BODY: Final = 65536
"""How many bytes of a refusal's body a client keeps."""
# Chunked framing adds to a body, trailers too: this is what is read for it at most.
_MAX_RAW_BODY: Final = 2 * MAX_REFUSAL_BODY

_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCHING: Final = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
_UPGRADE: Final = {"Upgrade": "websocket"}
_HTTP_VERSION_TEXT: Final = "The WebSocket handshake needs HTTP/1.1."
_TLS_HANDSHAKE: Final = 0x16
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS: Final = {int(status): status.phrase for status in HTTPStatus}
_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_SECRET_HEADERS: Final = {"authorization", "proxy-authorization", "cookie", "set-cookie"}

_blank_line = re.compile(rb"\n\r?\n")
_value = re.compile(r"[\t -~\x80-\xff]*")
_target = re.compile(r"[!-~]+")
_http_version = re.compile(r"[0-9]\.[0-9]")
_key = re.compile(r"[A-Za-z0-9+/]{22}==")
_absolute_form = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/?]*)")
_authority = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::([0-9]{0,5}))?")
_origin = re.compile(r"([a-z][a-z0-9+.\-]*)://(.+)")

_set: Final = object.__setattr__

_CLIENT_HEADERS: Final = {
    "host": "it comes from the URL, or from host=",
    "origin": "use origin=",
    "sec-websocket-protocol": "use subprotocols=",
    "sec-websocket-extensions": "the handshake sets it",
    "upgrade": "the handshake sets it",
    "connection": "the handshake sets it",
    "content-length": "the request of a handshake has no body",
    "transfer-encoding": "the request of a handshake has no body",
}
_SERVER_HEADERS: Final = {
    "sec-websocket-protocol": "use subprotocols=",
    "sec-websocket-extensions": "the handshake sets it",
    "upgrade": "the handshake sets it",
    "connection": "the handshake sets it",
    "content-length": "a 101 response has no body",
    "transfer-encoding": "a 101 response has no body",
}
_FRAMING_HEADERS: Final = {"connection", "content-length", "transfer-encoding"}


class _Message:
    """What a request and a response have in common: headers."""

    __slots__ = ()

    headers: tuple[tuple[str, str], ...]

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a header: the first one, if there are several.

        :param name: its name, in any case.
        :param default: what to return if there is no such header.
        """
        lowered = name.lower()
        for key, value in self.headers:
            if key.lower() == lowered:
                return value
        return default

    def header_values(self, name: str) -> list[str]:
        """Return every value of a header, in order.

        :param name: its name, in any case.
        """
        lowered = name.lower()
        return [value for key, value in self.headers if key.lower() == lowered]

    def _printable_headers(self) -> _Pairs:
        return tuple(
            (name, "***" if name.lower() in _SECRET_HEADERS else value)
            for name, value in self.headers
        )


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Request(_Message):
    """The head of an HTTP request: what a client asked for.

    ``repr()`` hides the values of Authorization and Cookie.

    :param method: such as ``GET``.
    :param target: the request target as it stands in the request line: path and query, or an
        absolute URL.
    :param headers: pairs or a mapping. White space around a value is removed.
    :param http_version: such as ``1.1``.
    :raises ValueError: if a part is not legal in HTTP (RFC 9110): a line break or another control
        character, a name that is not a token, a value beyond Latin-1, a target beyond ASCII.

    A request that came from the network has its headers as received, decoded as Latin-1.
    """

    method: str
    """The method, such as ``GET``; methods are case-sensitive."""
    target: str
    """The request target: path and query, or an absolute URL."""
    headers: tuple[tuple[str, str], ...]
    """Names and values, in order."""
    http_version: str
    """``1.1``, or ``1.0``."""

    def __init__(
        self, method: str, target: str, headers: HeadersInput = (), http_version: str = "1.1"
    ) -> None:
        if not is_token(method):
            raise ValueError("the method of a request must be a token, such as GET")
        if not _target.fullmatch(target):
            raise ValueError(
                "the target of a request must be visible ASCII characters: percent-encode the rest"
            )
        if not _http_version.fullmatch(http_version):
            raise ValueError("the HTTP version of a request must be such as 1.1")
        _set(self, "method", method)
        _set(self, "target", target)
        _set(self, "headers", _checked_headers(headers))
        _set(self, "http_version", http_version)

    def __repr__(self) -> str:
        return (
            f"Request(method={self.method!r}, target={self.target!r}, "
            f"headers={self._printable_headers()!r}, http_version={self.http_version!r})"
        )


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Response(_Message):
    """An HTTP response: a server's answer to a request.

    ``repr()`` hides the values of Set-Cookie.

    :param status: the status code, 100 to 999.
    :param headers: pairs or a mapping. White space around a value is removed.
    :param body: a str is encoded as UTF-8. With a body and no Content-Type among the headers,
        ``Content-Type: text/plain; charset=utf-8`` is added.
    :param reason: the reason phrase; by default the standard one of the status.
    :raises ValueError: if a part is not legal in HTTP (RFC 9110): a line break or another control
        character, a name that is not a token, a value beyond Latin-1, a body with a status that
        has none (1xx, 204, 304).

    A response that came from the network has its headers as received, decoded as Latin-1.

    A plain page:

    .. example: fragment

    .. code-block:: python

        trio_ws.Response(200, {"Content-Type": "text/html"}, "<h1>Hello</h1>")
    """

    status: int
    """The status code."""
    headers: tuple[tuple[str, str], ...]
    """Names and values, in order."""
    body: bytes
    """The body; of a refusal that a client received, its first 64 KiB at most."""
    reason: str
    """The reason phrase."""

    def __init__(
        self, status: int, headers: HeadersInput = (), body: bytes | str = b"", reason: str = ""
    ) -> None:
        if not 100 <= status <= 999:
            raise ValueError("the status of a response must be from 100 to 999")
        if not _value.fullmatch(reason):
            raise ValueError("the reason phrase of a response contains an illegal character")
        if body and _has_no_body(status):
            raise ValueError(f"a response with status {status} has no body")
        pairs = _checked_headers(headers)
        if body and not any(name.lower() == "content-type" for name, _ in pairs):
            pairs = (*pairs, ("Content-Type", "text/plain; charset=utf-8"))
        _set(self, "status", int(status))
        _set(self, "headers", pairs)
        _set(self, "body", body.encode() if isinstance(body, str) else bytes(body))
        _set(self, "reason", reason or _REASONS.get(status, ""))

    def __repr__(self) -> str:
        return (
            f"Response(status={self.status!r}, headers={self._printable_headers()!r}, "
            f"body={self.body!r}, reason={self.reason!r})"
        )


class HandshakeError(Exception):
    """The opening handshake failed.

    In a client: the server refused, broke a rule of the handshake, or went away. In a server: the
    request was refused, or the client went away.
    """

    response: Response | None
    """The refusal: as a client received it, or as a server sent it. None if there was none, because
    the peer went away, or sent no HTTP."""

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response


def is_upgrade(request: Request) -> bool:
    """Tell whether a request asks for a WebSocket (Beast's ``websocket::is_upgrade``).

    It does if it is a GET by HTTP/1.1 or later whose ``Upgrade`` contains ``websocket`` and whose
    ``Connection`` contains ``upgrade``. Whether its version and key are right is not part of this.

    :param request: the request, as any HTTP server has read it.
    """
    return (
        request.method == "GET"
        and request.http_version >= "1.1"
        and contains_token(request.header_values("Upgrade"), "websocket")
        and contains_token(request.header_values("Connection"), "upgrade")
    )


class ClientHandshake:
    """A client's side of the opening handshake (RFC 6455 section 4.1).

    Send `data_to_send`, then alternate `receive_data` and `next_response`. While `next_response`
    returns None and `refusal` returns an error, only the rest of a refusal's body is missing: raise
    that error when you do not want to wait for it any longer.

    :param host_header: the value of the Host header: ``host`` or ``host:port``.
    :param target: path and query, percent-encoded.
    :param subprotocols: names to offer, in order of preference.
    :param headers: more headers for the request.
    :param origin: the value of the Origin header, which browsers send.
    :param authorization: the value of the Authorization header.
    :param extensions: the value of the Sec-WebSocket-Extensions header. With it, the caller has to
        check `extensions` afterwards; without it, an answer with extensions fails.
    :param max_size: how many bytes the head of the answer may have, interim answers included.
    :raises ValueError: if a value is not legal, a subprotocol is offered twice, or ``headers`` has
        one that the handshake sets or that has its own parameter.
    :raises TypeError: if ``subprotocols`` is a str.
    """

    request: Request
    """The request that is sent."""
    subprotocol: str | None
    """The subprotocol that the 101 names."""
    extensions: list[str]
    """The values of Sec-WebSocket-Extensions in the 101."""

    def __init__(
        self,
        host_header: str,
        target: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: HeadersInput = (),
        origin: str | None = None,
        authorization: str | None = None,
        extensions: str | None = None,
        max_size: int = 65536,
    ) -> None:
        if not host_header or not _authority.fullmatch(host_header):
            raise ValueError(
                "the host must be host or host:port in ASCII, an IPv6 address in brackets"
            )
        if not target.startswith("/"):
            raise ValueError("the target must be a path that starts with '/'")
        extra = _checked_extra_headers(headers, _CLIENT_HEADERS)
        if authorization is not None and any(name.lower() == "authorization" for name, _ in extra):
            raise ValueError("Authorization is given twice: among headers=, and by the URL")
        key = b64encode(secrets.token_bytes(16)).decode("ascii")
        self._accept = _accept_value(key)
        self._offered_subprotocols = _checked_subprotocols(subprotocols)
        self._offered_extensions = extensions is not None
        own = {
            "Host": host_header,
            **dict(_SWITCHING),
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": ", ".join(self._offered_subprotocols) or None,
            "Sec-WebSocket-Extensions": extensions,
            "Origin": origin,
            "Authorization": authorization,
        }
        given = [(name, value) for name, value in own.items() if value is not None]
        self.request = Request("GET", target, [*given, *extra])
        self.subprotocol = None
        self.extensions = []
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RAW_BODY)
        self._to_send = _send_request(self._http, self.request)
        self._received = _ReceivedHead(max_size)
        self._answer: Response | None = None
        self._complaint: str | None = None
        self._body = bytearray()
        self._raw_body_left = _MAX_RAW_BODY

    @property
    def trailing_data(self) -> bytes:
        """After the 101: the bytes received behind it, which are the stream's first."""
        return bytes(self._received.data)

    def data_to_send(self) -> bytes:
        """Return the request, once; after that nothing."""
        data, self._to_send = self._to_send, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the transport; ``b""`` says that there will be no more."""
        self._received.feed(data)

    def next_response(self) -> Response | None:
        """Return the 101 that opened the WebSocket, or None if more bytes are needed.

        Interim answers (1xx) are skipped.

        :raises HandshakeError: if the server refused, once the body has arrived until its length,
            EOF or 64 KiB; if its 101 breaks a rule; if its answer is not HTTP, or its head larger
            than ``max_size``; if it closed the connection before.
        """
        if self._answer is None:
            self._answer = self._next_final_head()
        if self._answer is None:
            return None
        if self._complaint is None:
            return self._answer
        if self._answer.status != 101 and not self._body_is_over():
            return None
        raise self._refusal(self._answer, self._complaint)

    def refusal(self) -> HandshakeError | None:
        """Return the error for what is known of a refusal, or None if its head has not arrived.

        Its ``response`` has the status, the headers, and as much of the body as has arrived.
        """
        if self._answer is None or self._complaint is None:
            return None
        return self._refusal(self._answer, self._complaint)

    def _refusal(self, answer: Response, complaint: str) -> HandshakeError:
        response = _unchecked_response(
            answer.status, answer.headers, bytes(self._body), answer.reason
        )
        return HandshakeError(_describe(complaint, response), response)

    def _next_final_head(self) -> Response | None:
        while (head := self._take_head()) is not None:
            event = _parse_answer(self._http, head)
            if event.status_code < 200 and event.status_code != 101:
                continue
            answer = _unchecked_response(
                event.status_code,
                _decoded_headers(event),
                b"",
                event.reason.decode("latin-1"),
            )
            self._judge(answer, event.http_version)
            return answer
        return None

    def _take_head(self) -> bytes | None:
        received = self._received
        if not b"HTTP/".startswith(bytes(received.data[:5])):
            raise HandshakeError("the server's answer is not HTTP")
        try:
            head = received.take()
        except _HeadTooLarge:
            raise HandshakeError("the head of the server's answer is too large") from None
        if head is None and received.eof:
            when = "in the middle of its answer" if received.data else "before it answered"
            raise HandshakeError(f"the server closed the connection {when}")
        return head

    def _judge(self, answer: Response, http_version: bytes) -> None:
        if answer.status != 101:
            self._complaint = "the server refused the WebSocket handshake"
        elif (rule := self._broken_rule(answer, http_version)) is not None:
            self._complaint = f"the server's answer is not a WebSocket handshake: {rule}"
        else:
            self.subprotocol = answer.header("Sec-WebSocket-Protocol")
            self.extensions = answer.header_values("Sec-WebSocket-Extensions")

    def _broken_rule(self, answer: Response, http_version: bytes) -> str | None:
        """Name the rule of RFC 6455 section 4.1 that a 101 breaks, if it breaks one."""
        if http_version < b"1.1":
            return "it is older than HTTP/1.1"
        if not contains_token(answer.header_values("Upgrade"), "websocket"):
            return "its Upgrade header does not contain websocket"
        if not contains_token(answer.header_values("Connection"), "upgrade"):
            return "its Connection header does not contain Upgrade"
        if answer.header_values("Sec-WebSocket-Accept") != [self._accept]:
            return "its Sec-WebSocket-Accept header is not the one for our key, exactly once"
        if not self._offered_extensions and answer.header_values("Sec-WebSocket-Extensions"):
            return "its Sec-WebSocket-Extensions header names extensions that we did not offer"
        subprotocols = answer.header_values("Sec-WebSocket-Protocol")
        if len(subprotocols) > 1:
            return "it has more than one Sec-WebSocket-Protocol header"
        if subprotocols and subprotocols[0] not in self._offered_subprotocols:
            return "its Sec-WebSocket-Protocol header is not a subprotocol that we offered"
        return None

    def _body_is_over(self) -> bool:
        """Take what has arrived of a refusal's body; tell whether that is all we want of it."""
        raw = self._received.take_at_most(self._raw_body_left)
        self._raw_body_left -= len(raw)
        if raw:
            self._http.receive_data(raw)
        if self._received.eof:
            self._http.receive_data(b"")
        try:
            while isinstance(event := self._http.next_event(), h11.Data):
                self._body += event.data
        except h11.RemoteProtocolError:
            # The body breaks off, or is wrong: what came before is worth showing all the same.
            return True
        finally:
            del self._body[MAX_REFUSAL_BODY:]
        full = len(self._body) == MAX_REFUSAL_BODY or self._raw_body_left == 0
        return full or event is not h11.NEED_DATA


class ServerHandshake:
    """A server's side of the opening handshake (RFC 6455 section 4.2).

    Alternate `receive_data` and `next_request` until there is a request (or hand over one with
    `use_request`), `respond` to it, and send `data_to_send`. The answer is a refusal unless its
    status is 101; every refusal ends the connection.

    ``Expect: 100-continue`` gets its ``100 Continue`` before a 101 (RFC 9110 section 7.8). Before a
    refusal it gets none (section 10.1.1). The body of a request is never read.

    :param subprotocols: the names the server knows, in order of preference: the first that the
        client offered is chosen. If there is none, the WebSocket opens without a subprotocol.
    :param origins: None accepts the origins whose host and port are those of the request's Host
        header. Otherwise the origins accepted, such as ``https://example.org``; ``"*"`` is every
        one. A request without an Origin header, which no browser sends, is always accepted.
    :param headers: more headers for the 101.
    :param max_size: how many bytes the head of the request may have.
    :raises ValueError: if a value is not legal, or ``headers`` has one that the handshake sets.
    :raises TypeError: if ``subprotocols`` or ``origins`` is a str.
    """

    request: Request | None
    """The request, once there is one."""
    response: Response | None
    """What the request was answered with, once it was."""
    subprotocol: str | None
    """The subprotocol chosen, after `respond` returned a 101."""

    def __init__(
        self,
        *,
        subprotocols: Sequence[str] = (),
        origins: Sequence[str] | None = None,
        headers: HeadersInput = (),
        max_size: int = 65536,
    ) -> None:
        self.request = None
        self.response = None
        self.subprotocol = None
        self._known_subprotocols = _checked_subprotocols(subprotocols)
        self._origins = None if origins is None else _checked_origins(origins)
        self._headers = _checked_extra_headers(headers, _SERVER_HEADERS)
        self._received = _ReceivedHead(max_size)
        self._to_send = b""

    @property
    def trailing_data(self) -> bytes:
        """The bytes received behind the request: after a 101, the stream's first."""
        return bytes(self._received.data)

    def data_to_send(self) -> bytes:
        """Return the answer, once; before that and after it nothing."""
        data, self._to_send = self._to_send, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the transport; ``b""`` says that there will be no more."""
        self._received.feed(data)

    def use_request(self, request: Request) -> None:
        """Answer a request that was read already (Beast's ``accept(request)``).

        What `receive_data` takes from then on is `trailing_data`.

        :param request: as any HTTP server has read it; `respond` checks it as it checks others.
        """
        self.request = request

    def next_request(self) -> Request | None:
        """Return the request, or None if more bytes are needed.

        It is well-formed HTTP/1.x, and may ask for anything; `respond` checks the rest.

        :raises HandshakeError: if it is not HTTP (400, 501 or 505) or too large (414, 431): then
            ``response`` and `data_to_send` have the refusal. If the client closed the connection
            before: then ``response`` is None.
        """
        if self.request is None:
            head = self._take_head()
            if head is not None:
                self.request = self._parse_request(head)
        return self.request

    def respond(self, answer: Response | None = None) -> Response:
        """Answer the request, and return the answer as it will be sent.

        :param answer: None to accept the request if it keeps every rule of the handshake, and to
            refuse it otherwise. A 101 to do the same, with its headers added to the 101; if
            Sec-WebSocket-Protocol is among them, that is the subprotocol. Any other response is
            sent as it is, whatever the request; Connection, Content-Length and Date are seen to,
            and the body is left out for HEAD.
        :raises ValueError: if the answer is a 1xx other than 101, or a 101 with a header that the
            handshake sets, or with a subprotocol that the client did not offer. Nothing has been
            answered then.
        :raises RuntimeError: if there is no request, or it has been answered.
        """
        if self.request is None:
            raise RuntimeError("there is no request to respond to")
        if answer is not None and answer.status != 101:
            return self._answer_plainly(answer)
        fields = _fields(self.request)
        try:
            for require in _RULES:
                require(self.request, fields)
            self._require_allowed_origin(self.request, fields)
            offered = _offered_subprotocols(fields)
        except _Refused as refused:
            return self.refuse(refused.status, refused.text, refused.headers)
        return self._accept(fields, offered, () if answer is None else answer.headers)

    def refuse(self, status: int, text: str, headers: HeadersInput = ()) -> Response:
        """Answer with an error, and return the answer as it will be sent.

        This is possible before there is a request, too.

        :param status: such as 503.
        :param text: a line for the body that says why.
        :param headers: more headers for the response.
        :raises RuntimeError: if an answer has been given.
        """
        return self._answer_plainly(Response(status, headers, f"{text}\n"))

    def refusal(self) -> HandshakeError | None:
        """Return the error that stands for the answer, or None if there is none or it is a 101."""
        if self.response is None or self.response.status == 101:
            return None
        return _refusal_of(self.response)

    def _take_head(self) -> bytes | None:
        received = self._received
        if received.data and not 0x20 < received.data[0] < 0x7F:
            hint = " It looks like TLS." if received.data[0] == _TLS_HANDSHAKE else ""
            raise self._reject(400, f"The request is not HTTP.{hint}")
        try:
            head = received.take()
        except _HeadTooLarge as error:
            if error.first_line:
                raise self._reject(414, "The request line is too long.") from None
            raise self._reject(431, "The headers of the request are too large.") from None
        if head is None and received.eof:
            when = "in the middle of its request" if received.data else "before it sent a request"
            raise HandshakeError(f"the client closed the connection {when}")
        return head

    def _parse_request(self, head: bytes) -> Request:
        http = h11.Connection(h11.SERVER)
        http.receive_data(head)
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            text = f"The request is not valid HTTP: {_h11_reason(error)}."
            raise self._reject(error.error_status_hint, text) from error
        assert isinstance(event, h11.Request)
        if not event.http_version.startswith(b"1."):
            raise self._reject(505, _HTTP_VERSION_TEXT)
        return _unchecked_request(event)

    def _reject(self, status: int, text: str) -> HandshakeError:
        return _refusal_of(self.refuse(status, text))

    def _require_allowed_origin(self, request: Request, fields: _Fields) -> None:
        values = fields.get("origin")
        if values is None or self._origins is _ANY_ORIGIN:
            return
        origin = _parse_origin(values[0]) if len(values) == 1 else None
        if self._origins is not None:
            allowed = origin in self._origins
        else:
            allowed = origin is not None and origin.is_of(_authority_of(request, fields))
        if not allowed:
            raise _Refused(403, "The Origin of the request is not allowed here.")

    def _accept(self, fields: _Fields, offered: Sequence[str], added: _Pairs) -> Response:
        subprotocol = self._choose_subprotocol(offered, added)
        others = tuple([pair for pair in added if pair[0].lower() != "sec-websocket-protocol"])
        _check_extra_headers(others, _SERVER_HEADERS)
        accept = ("Sec-WebSocket-Accept", _accept_value(fields["sec-websocket-key"][0]))
        chosen = () if subprotocol is None else (("Sec-WebSocket-Protocol", subprotocol),)
        headers = (*_SWITCHING, accept, *chosen, *self._headers, *others)
        response = _unchecked_response(101, headers, b"", _REASONS[101])
        self._send(response)
        self.subprotocol = subprotocol
        if contains_token(fields.get("expect", ()), "100-continue"):
            self._to_send = _CONTINUE + self._to_send
        return response

    def _choose_subprotocol(self, offered: Sequence[str], added: _Pairs) -> str | None:
        chosen = [value for name, value in added if name.lower() == "sec-websocket-protocol"]
        if not chosen:
            return next((name for name in self._known_subprotocols if name in offered), None)
        if len(chosen) > 1 or chosen[0] not in offered:
            raise ValueError(
                "Sec-WebSocket-Protocol of an answer must be one subprotocol the client offered"
            )
        return chosen[0]

    def _answer_plainly(self, answer: Response) -> Response:
        if answer.status < 200:
            raise ValueError(f"a request can not be answered with status {answer.status}")
        headers = [pair for pair in answer.headers if pair[0].lower() not in _FRAMING_HEADERS]
        # Upgrade is hop-by-hop, so that Connection has to name it (RFC 9110 section 7.8).
        upgrade = ", Upgrade" if answer.header("Upgrade") is not None else ""
        headers.append(("Connection", f"close{upgrade}"))
        if not _has_no_body(answer.status):
            headers.append(("Content-Length", str(len(answer.body))))
        if answer.header("Date") is None:
            headers.append(("Date", formatdate(usegmt=True)))
        response = _unchecked_response(answer.status, tuple(headers), answer.body, answer.reason)
        self._send(response)
        return response

    def _send(self, response: Response) -> None:
        if self.response is not None:
            raise RuntimeError("the request has been answered")
        self.response = response
        lines = [f"HTTP/1.1 {response.status} {response.reason}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in response.headers]
        lines.append("\r\n")
        self._to_send = "".join(lines).encode("latin-1")
        if self.request is None or self.request.method != "HEAD":
            self._to_send += response.body


class _HeadTooLarge(Exception):
    """A head has more bytes than it may; ``first_line``: its first line alone has."""

    def __init__(self, first_line: bool) -> None:
        super().__init__()
        self.first_line = first_line


class _ReceivedHead:
    """Received bytes, from which heads are cut at the blank line that ends them."""

    __slots__ = ("_limit", "_searched", "data", "eof")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.eof = False
        self._limit = limit
        self._searched = 0

    def feed(self, data: bytes) -> None:
        if data:
            self.data += data
        else:
            self.eof = True

    def take(self) -> bytes | None:
        """Cut off the next head, blank line and all; None if it is not complete."""
        match = _blank_line.search(self.data, self._searched)
        end = len(self.data) if match is None else match.end()
        if end > self._limit:
            raise _HeadTooLarge(first_line=b"\n" not in self.data[: self._limit])
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


class _Refused(Exception):
    """A rule of the handshake is broken: the answer to give."""

    def __init__(self, status: int, text: str, headers: HeadersInput = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


def _require_http_1_1(request: Request, fields: _Fields) -> None:
    if not "1.1" <= request.http_version < "2":
        raise _Refused(505, _HTTP_VERSION_TEXT)


def _require_get(request: Request, fields: _Fields) -> None:
    if request.method != "GET":
        raise _Refused(405, "The method must be GET.", {"Allow": "GET"})


def _require_target(request: Request, fields: _Fields) -> None:
    if not request.target.startswith("/") and not _absolute_form.match(request.target):
        raise _Refused(400, "The request target must be a path or an absolute URL.")


def _require_one_host(request: Request, fields: _Fields) -> None:
    hosts = fields.get("host", ())
    if len(hosts) != 1 or not _authority.fullmatch(hosts[0]):
        raise _Refused(400, "There must be exactly one Host header, with host or host:port.")


def _require_upgrade(request: Request, fields: _Fields) -> None:
    if not contains_token(fields.get("upgrade", ()), "websocket"):
        raise _Refused(
            426, "This is a WebSocket: the Upgrade header must contain websocket.", _UPGRADE
        )


def _require_connection_upgrade(request: Request, fields: _Fields) -> None:
    if not contains_token(fields.get("connection", ()), "upgrade"):
        raise _Refused(
            426, "This is a WebSocket: the Connection header must contain Upgrade.", _UPGRADE
        )


def _require_version_13(request: Request, fields: _Fields) -> None:
    if fields.get("sec-websocket-version") != ["13"]:
        raise _Refused(
            426,
            "There must be exactly one Sec-WebSocket-Version header, with 13.",
            {**_UPGRADE, "Sec-WebSocket-Version": "13"},
        )


def _require_one_key(request: Request, fields: _Fields) -> None:
    keys = fields.get("sec-websocket-key", ())
    if len(keys) != 1 or not _key.fullmatch(keys[0]):
        raise _Refused(
            400, "There must be exactly one Sec-WebSocket-Key header, with 16 bytes in base64."
        )


def _require_no_body(request: Request, fields: _Fields) -> None:
    lengths = fields.get("content-length", ())
    if "transfer-encoding" in fields or any(length.strip("0") for length in lengths):
        raise _Refused(400, "The request must not announce a body.")


def _require_extension_grammar(request: Request, fields: _Fields) -> None:
    try:
        parse_extension_list(fields.get("sec-websocket-extensions", ()))
    except HeaderSyntaxError as error:
        raise _Refused(
            400, f"The Sec-WebSocket-Extensions header breaks its grammar: {error}."
        ) from None


def _offered_subprotocols(fields: _Fields) -> list[str]:
    try:
        return parse_token_list(fields.get("sec-websocket-protocol", ()))
    except HeaderSyntaxError:
        raise _Refused(400, "The Sec-WebSocket-Protocol header must be a list of tokens.") from None


_RULES: Final[tuple[Callable[[Request, _Fields], None], ...]] = (
    _require_http_1_1,
    _require_get,
    _require_target,
    _require_one_host,
    _require_upgrade,
    _require_connection_upgrade,
    _require_version_13,
    _require_one_key,
    _require_no_body,
    _require_extension_grammar,
)


@dataclass(frozen=True, slots=True)
class _Origin:
    """A serialised origin (RFC 6454 section 6.2); ``null`` is a scheme without a host."""

    scheme: str
    host: str
    port: int | None

    def is_of(self, authority: str) -> bool:
        """Tell whether a server that is called by ``authority`` has this origin."""
        default = _DEFAULT_PORTS.get(self.scheme)
        return default is not None and (self.host, self.port) == _split(authority, default)


_ANY_ORIGIN: Final[frozenset[_Origin]] = frozenset({_Origin("*", "", None)})


def _parse_origin(origin: str) -> _Origin | None:
    if origin.lower() == "null":
        return _Origin("null", "", None)
    match = _origin.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, authority = match.groups()
    host, port = _split(authority, _DEFAULT_PORTS.get(scheme))
    return _Origin(scheme, host, port) if host else None


def _split(authority: str, default_port: int | None) -> tuple[str, int | None]:
    """Split ``host:port``; the host is empty if it is not that."""
    match = _authority.fullmatch(authority)
    if match is None:
        return "", None
    return match[1].lower(), int(match[2]) if match[2] else default_port


def _authority_of(request: Request, fields: _Fields) -> str:
    """Return the authority a request is for: an absolute target outdoes Host (RFC 9112 3.2.2)."""
    absolute = _absolute_form.match(request.target)
    return fields["host"][0] if absolute is None else absolute[1]


def _checked_origins(origins: Sequence[str]) -> frozenset[_Origin]:
    if isinstance(origins, str):
        raise TypeError("origins must be a sequence of str, not one str")
    if "*" in origins:
        return _ANY_ORIGIN
    parsed = set()
    for text in origins:
        origin = _parse_origin(text)
        if origin is None:
            raise ValueError(
                f"{text!r} is not an origin: write scheme://host[:port] without a path"
            )
        parsed.add(origin)
    return frozenset(parsed)


def _checked_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of str, not one str")
    names = tuple(subprotocols)
    for name in names:
        if not is_token(name):
            raise ValueError(f"the subprotocol {name!r} is not a token")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is given twice")
    return names


def _checked_headers(headers: HeadersInput) -> _Pairs:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple(
        # pyright thinks of an iterable of pairs that is a Mapping of pairs as well
        [_checked_header(name, value) for name, value in pairs]  # pyright: ignore[reportArgumentType]
    )


def _checked_header(name: str, value: str) -> tuple[str, str]:
    if not is_token(name):
        raise ValueError(f"the header name {name!r} is not a token")
    if not _value.fullmatch(value):
        raise ValueError(f"the value of the header {name} contains an illegal character")
    return name, value.strip(" \t")


def _checked_extra_headers(headers: HeadersInput, reserved: Mapping[str, str]) -> _Pairs:
    pairs = _checked_headers(headers)
    _check_extra_headers(pairs, reserved)
    return pairs


def _check_extra_headers(pairs: _Pairs, reserved: Mapping[str, str]) -> None:
    for name, _ in pairs:
        lowered = name.lower()
        if lowered in reserved:
            raise ValueError(f"{name} can not be among the headers: {reserved[lowered]}")
        if lowered.startswith("sec-websocket-"):
            raise ValueError(f"{name} can not be among the headers: the handshake sets it")


def _has_no_body(status: int) -> bool:
    return status < 200 or status in (204, 304)


def _fields(request: Request) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in request.headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def _accept_value(key: str) -> str:
    return b64encode(sha1(key.encode("ascii") + _ACCEPT_GUID).digest()).decode("ascii")


def _send_request(http: h11.Connection, request: Request) -> bytes:
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in request.headers]
    data = http.send(h11.Request(method=request.method, target=request.target, headers=headers))
    http.send(h11.EndOfMessage())
    return data


def _parse_answer(http: h11.Connection, head: bytes) -> h11.Response | h11.InformationalResponse:
    http.receive_data(head)
    try:
        event = http.next_event()
    except h11.RemoteProtocolError as error:
        raise HandshakeError(
            f"the server's answer is not valid HTTP: {_h11_reason(error)}"
        ) from error
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return event


def _h11_reason(error: h11.RemoteProtocolError) -> str:
    """Return what h11 says is wrong, without the bytes that are."""
    return str(error).partition(": bytearray(")[0]


def _decoded_headers(
    event: h11.Request | h11.Response | h11.InformationalResponse,
) -> _Pairs:
    items = event.headers.raw_items()
    return tuple([(name.decode("ascii"), value.decode("latin-1")) for name, value in items])


def _unchecked_request(event: h11.Request) -> Request:
    """Make a Request of one that h11 has checked: by its rules, which forgive more than ours."""
    request = object.__new__(Request)
    _set(request, "method", event.method.decode("ascii"))
    _set(request, "target", event.target.decode("ascii"))
    _set(request, "headers", _decoded_headers(event))
    _set(request, "http_version", event.http_version.decode("ascii"))
    return request


def _unchecked_response(status: int, headers: _Pairs, body: bytes, reason: str) -> Response:
    """Make a Response of parts that were checked, or that h11 let through."""
    response = object.__new__(Response)
    _set(response, "status", status)
    _set(response, "headers", headers)
    _set(response, "body", body)
    _set(response, "reason", reason)
    return response


def _refusal_of(response: Response) -> HandshakeError:
    return HandshakeError(_describe("the WebSocket handshake was refused", response), response)


def _describe(what: str, response: Response) -> str:
    """Return the message of an error about a refusal: its status, and its body's first line."""
    parts = [what]
    if response.status != 101:
        parts.append(f"{response.status} {response.reason}".rstrip())
    line = response.body[:256].decode("utf-8", "replace").strip().partition("\n")[0].rstrip()
    if line and not line.startswith("<"):
        parts.append("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line))
    return ": ".join(parts)
