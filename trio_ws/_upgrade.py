"""What a request for a WebSocket has to be (RFC 6455 section 4.2.1).

The rules are the functions named ``_require_...``, in the order of ``_RULES``. Each raises
`Refused` with a text that names it. What depends on a server's options is left to the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from ._headers import HeaderSyntaxError, contains_token, parse_extension_list, parse_token_list
from ._http import HeadersInput, Request, absolute_authority, is_authority

Fields: TypeAlias = Mapping[str, Sequence[str]]
"""All the values of each header, by its name in lower case."""

HTTP_VERSION_TEXT: Final = "The WebSocket handshake needs HTTP/1.1."
_UPGRADE: Final = {"Upgrade": "websocket"}

_key = re.compile(r"[A-Za-z0-9+/]{22}==")


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


class Refused(Exception):
    """A rule of the handshake is broken: the answer to give."""

    def __init__(self, status: int, text: str, headers: HeadersInput = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


def _require_http_1_1(request: Request, fields: Fields) -> None:
    if not "1.1" <= request.http_version < "2":
        raise Refused(505, HTTP_VERSION_TEXT)


def _require_get(request: Request, fields: Fields) -> None:
    if request.method != "GET":
        raise Refused(405, "The method must be GET.", {"Allow": "GET"})


def _require_target(request: Request, fields: Fields) -> None:
    if not request.target.startswith("/") and absolute_authority(request.target) is None:
        raise Refused(400, "The request target must be a path or an absolute URL.")


def _require_one_host(request: Request, fields: Fields) -> None:
    hosts = fields.get("host", ())
    if len(hosts) != 1 or not is_authority(hosts[0]):
        raise Refused(400, "There must be exactly one Host header, with host or host:port.")


def _require_upgrade(request: Request, fields: Fields) -> None:
    if not contains_token(fields.get("upgrade", ()), "websocket"):
        raise Refused(
            426, "This is a WebSocket: the Upgrade header must contain websocket.", _UPGRADE
        )


def _require_connection_upgrade(request: Request, fields: Fields) -> None:
    if not contains_token(fields.get("connection", ()), "upgrade"):
        raise Refused(
            426, "This is a WebSocket: the Connection header must contain Upgrade.", _UPGRADE
        )


def _require_version_13(request: Request, fields: Fields) -> None:
    if fields.get("sec-websocket-version") != ["13"]:
        raise Refused(
            426,
            "There must be exactly one Sec-WebSocket-Version header, with 13.",
            {**_UPGRADE, "Sec-WebSocket-Version": "13"},
        )


def _require_one_key(request: Request, fields: Fields) -> None:
    keys = fields.get("sec-websocket-key", ())
    if len(keys) != 1 or not _key.fullmatch(keys[0]):
        raise Refused(
            400, "There must be exactly one Sec-WebSocket-Key header, with 16 bytes in base64."
        )


def _require_no_body(request: Request, fields: Fields) -> None:
    lengths = fields.get("content-length", ())
    if "transfer-encoding" in fields or any(length.strip("0") for length in lengths):
        raise Refused(400, "The request must not announce a body.")


def _require_extension_grammar(request: Request, fields: Fields) -> None:
    try:
        parse_extension_list(fields.get("sec-websocket-extensions", ()))
    except HeaderSyntaxError as error:
        raise Refused(
            400, f"The Sec-WebSocket-Extensions header breaks its grammar: {error}."
        ) from None


_RULES: Final[tuple[Callable[[Request, Fields], None], ...]] = (
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


def check_upgrade(request: Request, fields: Fields) -> None:
    """Check a request by every rule.

    :param fields: what `fields_of` says of the request.
    :raises Refused: if it breaks one.
    """
    for require in _RULES:
        require(request, fields)


def fields_of(request: Request) -> Fields:
    """Return the headers of a request by name."""
    fields: dict[str, list[str]] = {}
    for name, value in request.headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def offered_subprotocols(fields: Fields) -> list[str]:
    """Return the names in Sec-WebSocket-Protocol.

    :raises Refused: if it is not a list of names.
    """
    try:
        return parse_token_list(fields.get("sec-websocket-protocol", ()))
    except HeaderSyntaxError:
        raise Refused(400, "The Sec-WebSocket-Protocol header must be a list of tokens.") from None


def authority_of(request: Request, fields: Fields) -> str:
    """Return what a request calls the server: an absolute target outdoes Host (RFC 9112 3.2.2)."""
    authority = absolute_authority(request.target)
    return fields["host"][0] if authority is None else authority
