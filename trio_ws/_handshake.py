"""The opening handshake (RFC 6455 section 4), both roles, sans-I/O.

Theory of operation
===================

A client sends one HTTP request that asks for an upgrade, a server answers with 101, and the bytes
behind those two heads are the WebSocket's. Any other answer is an ordinary HTTP response, after
which the connection ends. So each role reads exactly one message here, and writes one.

How heads are read and written is the job of ``_heads``; what a request must be, that of
``_upgrade`` and ``_origins``. What is left is the order of things, what an answer must be, and how
each end of a handshake is told: by a `HandshakeError` whose ``response`` is the refusal.

A handshake is made for one connection and thrown away; a server's `ServerRules` serve for all.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from hashlib import sha1
from typing import Final

import h11

from ._deflate import DeflateParameters, NegotiationError, check_answer, choose_offer, make_offer
from ._frames import Buffer
from ._headers import contains_token, is_token
from ._heads import (
    HeadTooLarge,
    ReceivedHead,
    h11_reason,
    parse_request,
    parse_response,
    response_head,
    send_request,
)
from ._http import (
    REASONS,
    HeadersInput,
    Pairs,
    Request,
    Response,
    checked_headers,
    has_no_body,
    is_authority,
    unchecked_response,
)
from ._options import PermessageDeflate
from ._origins import AllowedOrigins
from ._upgrade import (
    HTTP_VERSION_TEXT,
    Fields,
    Refused,
    authority_of,
    check_upgrade,
    fields_of,
    offered_subprotocols,
)

MAX_REFUSAL_BODY: Final = 65536
"""How many bytes of a refusal's body a client keeps."""
# Chunked framing adds to a body, trailers too: this is what is read for it at most.
_MAX_RAW_BODY: Final = 2 * MAX_REFUSAL_BODY

_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCHING: Final = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
_TLS_RECORDS: Final = frozenset({0x15, 0x16})
"""Types of TLS records that may come first: an alert, a handshake."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_CLIENT_HEADERS: Final = {
    "host": "it comes from the URL, or from host=",
    "origin": "use origin=",
    "sec-websocket-protocol": "use subprotocols=",
    "sec-websocket-extensions": "use compression=",
    "upgrade": "the handshake sets it",
    "connection": "the handshake sets it",
    "content-length": "the request of a handshake has no body",
    "transfer-encoding": "the request of a handshake has no body",
}
_SERVER_HEADERS: Final = {
    "sec-websocket-protocol": "use subprotocols=",
    "sec-websocket-extensions": "use compression=",
    "upgrade": "the handshake sets it",
    "connection": "the handshake sets it",
    "content-length": "a 101 response has no body",
    "transfer-encoding": "a 101 response has no body",
}
_FRAMING_HEADERS: Final = {"connection", "content-length", "transfer-encoding"}


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
    :param compression: what to offer; None offers nothing.
    :param max_size: how many bytes the head of the answer may have, interim answers included.
    :raises ValueError: if a value is not legal, a subprotocol is offered twice, or ``headers`` has
        one that the handshake sets or that has its own parameter.
    :raises TypeError: if ``subprotocols`` is a str.
    """

    request: Request
    """The request that is sent."""
    subprotocol: str | None
    """The subprotocol that the 101 names."""
    compression: DeflateParameters | None
    """What the 101 agrees to of the compression that was offered."""

    def __init__(
        self,
        host_header: str,
        target: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: HeadersInput = (),
        origin: str | None = None,
        authorization: str | None = None,
        compression: PermessageDeflate | None = None,
        max_size: int = 65536,
    ) -> None:
        if not host_header or not is_authority(host_header):
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
        self._offered_compression = compression
        own = {
            "Host": host_header,
            **dict(_SWITCHING),
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": ", ".join(self._offered_subprotocols) or None,
            "Sec-WebSocket-Extensions": None if compression is None else make_offer(compression),
            "Origin": origin,
            "Authorization": authorization,
        }
        given = [(name, value) for name, value in own.items() if value is not None]
        self.request = Request("GET", target, [*given, *extra])
        self.subprotocol = None
        self.compression = None
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RAW_BODY)
        self._to_send = send_request(self._http, self.request)
        self._received = ReceivedHead(max_size)
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

    def receive_data(self, data: Buffer) -> None:
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
        response = unchecked_response(
            answer.status, answer.headers, bytes(self._body), answer.reason
        )
        return HandshakeError(_describe(complaint, response), response)

    def _next_final_head(self) -> Response | None:
        while (head := self._take_head()) is not None:
            try:
                answer, http_version = parse_response(self._http, head)
            except h11.RemoteProtocolError as error:
                raise HandshakeError(
                    f"the server's answer is not valid HTTP: {h11_reason(error)}"
                ) from error
            if answer.status >= 200 or answer.status == 101:
                self._judge(answer, http_version)
                return answer
        return None

    def _take_head(self) -> bytes | None:
        received = self._received
        if not b"HTTP/".startswith(bytes(received.data[:5])):
            hint = ": with TLS a URL starts with wss://" if _is_tls(received.data) else ""
            raise HandshakeError(f"the server's answer is not HTTP{hint}")
        try:
            head = received.take()
        except HeadTooLarge:
            raise HandshakeError("the head of the server's answer is too large") from None
        if head is None and received.eof:
            if received.data:
                raise HandshakeError("the server closed the connection in the middle of its answer")
            raise HandshakeError(
                "the server closed the connection before it answered "
                "(as one that expects TLS does if the URL starts with ws://)"
            )
        return head

    def _judge(self, answer: Response, http_version: str) -> None:
        if answer.status != 101:
            self._complaint = "the server refused the WebSocket handshake"
        elif (rule := self._broken_rule(answer, http_version)) is not None:
            self._complaint = f"the server's answer is not a WebSocket handshake: {rule}"
        else:
            self.subprotocol = answer.header("Sec-WebSocket-Protocol")

    def _broken_rule(self, answer: Response, http_version: str) -> str | None:
        """Name the rule of RFC 6455 section 4.1 that a 101 breaks, if it breaks one."""
        if http_version < "1.1":
            return "it is older than HTTP/1.1"
        if not contains_token(answer.header_values("Upgrade"), "websocket"):
            return "its Upgrade header does not contain websocket"
        if not contains_token(answer.header_values("Connection"), "upgrade"):
            return "its Connection header does not contain Upgrade"
        if answer.header_values("Sec-WebSocket-Accept") != [self._accept]:
            return "its Sec-WebSocket-Accept header is not the one for our key, exactly once"
        subprotocols = answer.header_values("Sec-WebSocket-Protocol")
        if len(subprotocols) > 1:
            return "it has more than one Sec-WebSocket-Protocol header"
        if subprotocols and subprotocols[0] not in self._offered_subprotocols:
            return "its Sec-WebSocket-Protocol header is not a subprotocol that we offered"
        try:
            self.compression = self._agreed_compression(answer)
        except NegotiationError as error:
            return str(error)
        return None

    def _agreed_compression(self, answer: Response) -> DeflateParameters | None:
        values = answer.header_values("Sec-WebSocket-Extensions")
        if self._offered_compression is not None:
            return check_answer(values, self._offered_compression)
        if values:
            raise NegotiationError(
                "its Sec-WebSocket-Extensions header names extensions that we did not offer"
            )
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


class ServerRules:
    """What a server answers by: checked once, for as many handshakes as there are.

    :param subprotocols: the names the server knows, in order of preference: the first that the
        client offered is chosen. If there is none, the WebSocket opens without a subprotocol.
    :param origins: None accepts the origins whose host and port are those of the request's Host
        header. Otherwise the origins accepted, such as ``https://example.org``; ``"*"`` is every
        one. A request without an Origin header, which no browser sends, is always accepted.
    :param headers: more headers for the 101.
    :param compression: what to agree to if the client offers it; None agrees to nothing.
    :param max_size: how many bytes the head of the request may have.
    :raises ValueError: if a value is not legal, or ``headers`` has one that the handshake sets.
    :raises TypeError: if ``subprotocols`` or ``origins`` is a str.
    """

    __slots__ = ("compression", "headers", "max_size", "origins", "subprotocols")

    def __init__(
        self,
        *,
        subprotocols: Sequence[str] = (),
        origins: Sequence[str] | None = None,
        headers: HeadersInput = (),
        compression: PermessageDeflate | None = None,
        max_size: int = 65536,
    ) -> None:
        self.subprotocols: tuple[str, ...] = _checked_subprotocols(subprotocols)
        self.origins: AllowedOrigins = AllowedOrigins(origins)
        self.headers: Pairs = _checked_extra_headers(headers, _SERVER_HEADERS)
        self.compression: PermessageDeflate | None = compression
        self.max_size: int = max_size


class ServerHandshake:
    """A server's side of the opening handshake (RFC 6455 section 4.2).

    Alternate `receive_data` and `next_request` until there is a request (or hand over one with
    `use_request`), `respond` to it, and send `data_to_send`. The answer is a refusal unless its
    status is 101; every refusal ends the connection.

    ``Expect: 100-continue`` gets its ``100 Continue`` before a 101 (RFC 9110 section 7.8). Before a
    refusal it gets none (section 10.1.1). The body of a request is never read.

    :param rules: what it answers by.
    """

    request: Request | None
    """The request, once there is one."""
    response: Response | None
    """What the request was answered with, once it was."""
    subprotocol: str | None
    """The subprotocol chosen, after `respond` returned a 101."""
    compression: DeflateParameters | None
    """What was agreed to of the client's offers of compression, after `respond` returned a 101."""
    refused_origin: str | None
    """The Origin for which the request was refused."""

    def __init__(self, rules: ServerRules) -> None:
        self.request = None
        self.response = None
        self.subprotocol = None
        self.compression = None
        self.refused_origin = None
        self._rules = rules
        self._received = ReceivedHead(rules.max_size)
        self._to_send = b""

    @property
    def trailing_data(self) -> bytes:
        """The bytes received behind the request: after a 101, the stream's first."""
        return bytes(self._received.data)

    def data_to_send(self) -> bytes:
        """Return the answer, once; before that and after it nothing."""
        data, self._to_send = self._to_send, b""
        return data

    def receive_data(self, data: Buffer) -> None:
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
        fields = fields_of(self.request)
        try:
            check_upgrade(self.request, fields)
            self._require_allowed_origin(self.request, fields)
            offered = offered_subprotocols(fields)
        except Refused as refused:
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
        received.skip_empty_lines()
        # One CR may be the start of an empty line.
        if received.data and received.data != b"\r" and not 0x20 < received.data[0] < 0x7F:
            hint = " It looks like TLS." if _is_tls(received.data) else ""
            raise self._reject(400, f"The request is not HTTP.{hint}")
        try:
            head = received.take()
        except HeadTooLarge as error:
            if error.first_line:
                raise self._reject(414, "The request line is too long.") from None
            raise self._reject(431, "The headers of the request are too large.") from None
        if head is None and received.eof:
            when = "in the middle of its request" if received.data else "before it sent a request"
            raise HandshakeError(f"the client closed the connection {when}")
        return head

    def _parse_request(self, head: bytes) -> Request:
        try:
            request = parse_request(head)
        except h11.RemoteProtocolError as error:
            text = f"The request is not valid HTTP: {h11_reason(error)}."
            raise self._reject(error.error_status_hint, text) from error
        if not request.http_version.startswith("1."):
            raise self._reject(505, HTTP_VERSION_TEXT)
        return request

    def _reject(self, status: int, text: str) -> HandshakeError:
        return _refusal_of(self.refuse(status, text))

    def _require_allowed_origin(self, request: Request, fields: Fields) -> None:
        origins = fields.get("origin", ())
        if not self._rules.origins.allow(origins, authority_of(request, fields)):
            self.refused_origin = ", ".join(origins)
            raise Refused(403, "The Origin of the request is not allowed here.")

    def _accept(self, fields: Fields, offered: Sequence[str], added: Pairs) -> Response:
        subprotocol = self._choose_subprotocol(offered, added)
        others = tuple([pair for pair in added if pair[0].lower() != "sec-websocket-protocol"])
        _check_extra_headers(others, _SERVER_HEADERS)
        accept = ("Sec-WebSocket-Accept", _accept_value(fields["sec-websocket-key"][0]))
        chosen = () if subprotocol is None else (("Sec-WebSocket-Protocol", subprotocol),)
        compression, answer = self._agree_on_compression(fields)
        extensions = () if compression is None else (("Sec-WebSocket-Extensions", answer),)
        headers = (*_SWITCHING, accept, *chosen, *extensions, *self._rules.headers, *others)
        response = unchecked_response(101, headers, b"", REASONS[101])
        self._send(response)
        self.subprotocol = subprotocol
        self.compression = compression
        if contains_token(fields.get("expect", ()), "100-continue"):
            self._to_send = _CONTINUE + self._to_send
        return response

    def _agree_on_compression(self, fields: Fields) -> tuple[DeflateParameters | None, str]:
        """What is agreed, and the value of the header that says so."""
        agreed = None
        if self._rules.compression is not None:
            offers = fields.get("sec-websocket-extensions", ())
            agreed = choose_offer(offers, self._rules.compression)
        return (None, "") if agreed is None else agreed

    def _choose_subprotocol(self, offered: Sequence[str], added: Pairs) -> str | None:
        chosen = [value for name, value in added if name.lower() == "sec-websocket-protocol"]
        if not chosen:
            return next((name for name in self._rules.subprotocols if name in offered), None)
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
        if not has_no_body(answer.status):
            headers.append(("Content-Length", str(len(answer.body))))
        if answer.header("Date") is None:
            headers.append(("Date", formatdate(usegmt=True)))
        response = unchecked_response(answer.status, tuple(headers), answer.body, answer.reason)
        self._send(response)
        return response

    def _send(self, response: Response) -> None:
        if self.response is not None:
            raise RuntimeError("the request has been answered")
        self.response = response
        self._to_send = response_head(response)
        if self.request is None or self.request.method != "HEAD":
            self._to_send += response.body


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


def _checked_extra_headers(headers: HeadersInput, reserved: Mapping[str, str]) -> Pairs:
    pairs = checked_headers(headers)
    _check_extra_headers(pairs, reserved)
    return pairs


def _check_extra_headers(pairs: Pairs, reserved: Mapping[str, str]) -> None:
    for name, _ in pairs:
        lowered = name.lower()
        if lowered in reserved:
            raise ValueError(f"{name} can not be among the headers: {reserved[lowered]}")
        if lowered.startswith("sec-websocket-"):
            raise ValueError(f"{name} can not be among the headers: the handshake sets it")


def _is_tls(data: bytearray) -> bool:
    return data[0] in _TLS_RECORDS


def _accept_value(key: str) -> str:
    return b64encode(sha1(key.encode("ascii") + _ACCEPT_GUID).digest()).decode("ascii")


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
