"""HTTP requests and responses as values, and the parts of HTTP's grammar that they are checked by.

What the user makes is checked in full, so that whatever is written later is legal as it is. What
h11 or the handshake has checked is not checked again: see :func:`unchecked_request`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias, overload

from ._headers import is_token

HeadersInput: TypeAlias = Iterable[tuple[str, str]] | Mapping[str, str]
"""Headers as they may be given: pairs of name and value, or a mapping."""

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""Headers as they are kept."""

REASONS: Final = {int(status): status.phrase for status in HTTPStatus}
"""The standard reason phrases."""

_SECRET_HEADERS: Final = {"authorization", "proxy-authorization", "cookie", "set-cookie"}

_value = re.compile(r"[\t -~\x80-\xff]*")
_target = re.compile(r"[!-~]+")
_http_version = re.compile(r"[0-9]\.[0-9]")
_absolute_form = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/?]*)")
_authority = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::([0-9]{0,5}))?")

_set: Final = object.__setattr__


class _Message:
    """What a request and a response have in common: headers."""

    __slots__ = ()

    headers: tuple[tuple[str, str], ...]

    @overload
    def header(self, name: str, default: None = None) -> str | None: ...

    @overload
    def header(self, name: str, default: str) -> str: ...

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a header: the first one, if there are several.

        :param name: its name, in any case.
        :param default: what to return if there is no such header. Default None.
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

    def _printable_headers(self) -> Pairs:
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
        _set(self, "headers", checked_headers(headers))
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
    :raises TypeError: if the body is neither str nor bytes-like, or the headers are not pairs.

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
        content = _content(body)
        if content and has_no_body(status):
            raise ValueError(f"a response with status {status} has no body")
        pairs = checked_headers(headers)
        if content and not any(name.lower() == "content-type" for name, _ in pairs):
            pairs = (*pairs, ("Content-Type", "text/plain; charset=utf-8"))
        _set(self, "status", int(status))
        _set(self, "headers", pairs)
        _set(self, "body", content)
        _set(self, "reason", reason or REASONS.get(status, ""))

    def __repr__(self) -> str:
        return (
            f"Response(status={self.status!r}, headers={self._printable_headers()!r}, "
            f"body={self.body!r}, reason={self.reason!r})"
        )


def checked_headers(headers: HeadersInput) -> Pairs:
    """Return headers as pairs, without white space around the values.

    :raises ValueError: if a name or a value is not legal.
    :raises TypeError: if they are not pairs of str.
    """
    pairs: Iterable[object] = headers.items() if isinstance(headers, Mapping) else headers
    return tuple([_checked_header(*_checked_pair(pair)) for pair in pairs])


def _checked_pair(pair: object) -> tuple[str, str]:
    match pair:
        case (str(name), str(value)):
            return name, value
        case (name, value):
            kind = type(value if isinstance(name, str) else name).__name__
            raise TypeError(f"the names and values of headers must be str, not {kind}")
    raise TypeError('headers must be a mapping, or pairs, such as [("X-Name", "value")]')


def _checked_header(name: str, value: str) -> tuple[str, str]:
    if not is_token(name):
        raise ValueError(f"the header name {name!r} is not a token")
    if not _value.fullmatch(value):
        raise ValueError(f"the value of the header {name} contains an illegal character")
    return name, value.strip(" \t")


def _content(body: bytes | str) -> bytes:
    if isinstance(body, str):
        return body.encode()
    try:
        return bytes(memoryview(body))
    except TypeError:
        kind = type(body).__name__
        raise TypeError(f"the body of a response is str or bytes, not {kind}") from None


def has_no_body(status: int) -> bool:
    """Tell whether a status says that there is no body (RFC 9110 section 6.4.1)."""
    return status < 200 or status in (204, 304)


def unchecked_request(method: str, target: str, headers: Pairs, http_version: str) -> Request:
    """Make a Request of one that h11 has checked: by its rules, which forgive more than ours."""
    request = object.__new__(Request)
    _set(request, "method", method)
    _set(request, "target", target)
    _set(request, "headers", headers)
    _set(request, "http_version", http_version)
    return request


def unchecked_response(status: int, headers: Pairs, body: bytes, reason: str) -> Response:
    """Make a Response of parts that were checked, or that h11 let through."""
    response = object.__new__(Response)
    _set(response, "status", status)
    _set(response, "headers", headers)
    _set(response, "body", body)
    _set(response, "reason", reason)
    return response


def is_authority(text: str) -> bool:
    """Tell whether this is ``host`` or ``host:port``, as in a Host header; a host may be empty."""
    return _authority.fullmatch(text) is not None


def split_authority(authority: str, default_port: int | None) -> tuple[str, int | None]:
    """Split ``host:port``; the host is empty if it is not that."""
    match = _authority.fullmatch(authority)
    if match is None:
        return "", None
    return match[1].lower(), int(match[2]) if match[2] else default_port


def absolute_authority(target: str) -> str | None:
    """Return the authority in a request target that is an absolute URL; None if it is not one."""
    match = _absolute_form.match(target)
    return None if match is None else match[1]
