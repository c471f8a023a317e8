"""The grammar of header lists: tokens, parameters, quoted strings.

A list header is one list even when it comes in several lines (RFC 9110 section 5.3), so every
function takes all the values of a header, in order. Empty elements are skipped, as RFC 9110
section 5.6.1 asks of a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

Extension: TypeAlias = tuple[str, list[tuple[str, str | None]]]
"""One element of ``Sec-WebSocket-Extensions``: its name, and its parameters in order."""

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_OWS: Final = r"[ \t]*"
_QUOTED_STRING: Final = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'

_token = re.compile(_TOKEN)
_name = re.compile(rf"({_TOKEN}){_OWS}")
_parameter = re.compile(
    rf";{_OWS}({_TOKEN})(?:{_OWS}={_OWS}(?:({_TOKEN})|({_QUOTED_STRING})))?{_OWS}"
)
_delimiters = re.compile(r"[ \t,]*")
_quoted_pair = re.compile(r"\\(.)")


class HeaderSyntaxError(ValueError):
    """A header value does not follow its grammar."""


def is_token(s: str) -> bool:
    """Tell whether ``s`` is a token (RFC 9110 section 5.6.2): a header name, a subprotocol."""
    return _token.fullmatch(s) is not None


def contains_token(values: Iterable[str], token: str) -> bool:
    """Tell whether ``token`` is an element of a list, in any case.

    This is the question asked of ``Upgrade`` and ``Connection``; elements that are no tokens
    (``HTTP/2.0``) do not matter to it.

    :param values: every value of the header, in order.
    :param token: what to look for, in lower case.
    """
    for value in values:
        lowered = value.lower()
        if lowered == token:
            return True
        if any(element.strip(" \t") == token for element in lowered.split(",")):
            return True
    return False


def parse_token_list(values: Iterable[str]) -> list[str]:
    """Parse a list of tokens, such as ``Sec-WebSocket-Protocol``.

    :param values: every value of the header, in order.
    :returns: the tokens in order, in the case they came in.
    :raises HeaderSyntaxError: if an element is not a token.
    """
    tokens = []
    for value in values:
        for element in value.split(","):
            stripped = element.strip(" \t")
            if stripped:
                if not is_token(stripped):
                    raise HeaderSyntaxError("an element of the list is not a token")
                tokens.append(stripped)
    return tokens


def parse_extension_list(values: Iterable[str]) -> list[Extension]:
    """Parse ``Sec-WebSocket-Extensions`` (RFC 6455 section 9.1).

    :param values: every value of the header, in order.
    :returns: name and parameters of each extension; a parameter's value is None if it has none,
        and is unquoted if it was quoted. Names may repeat: a client lists its fallbacks so.
    :raises HeaderSyntaxError: if a value breaks the grammar, or a quoted value is not a token
        once unquoted.
    """
    extensions: list[Extension] = []
    for value in values:
        position = _skip_delimiters(value, 0)
        while position < len(value):
            extension, position = _parse_extension(value, position)
            extensions.append(extension)
            if position < len(value) and value[position] != ",":
                raise _syntax_error("expected ';' or ','", position)
            position = _skip_delimiters(value, position)
    return extensions


def _skip_delimiters(value: str, position: int) -> int:
    match = _delimiters.match(value, position)
    assert match is not None
    return match.end()


def _parse_extension(value: str, position: int) -> tuple[Extension, int]:
    name = _name.match(value, position)
    if name is None:
        raise _syntax_error("expected the name of an extension", position)
    position = name.end()
    parameters: list[tuple[str, str | None]] = []
    while value.startswith(";", position):
        parameter = _parameter.match(value, position)
        if parameter is None:
            raise _syntax_error("expected a parameter", position)
        key, plain, quoted = parameter.groups()
        parameters.append((key, plain if quoted is None else _unquote(quoted, position)))
        position = parameter.end()
    return (name[1], parameters), position


def _unquote(quoted: str, position: int) -> str:
    unquoted = _quoted_pair.sub(r"\1", quoted[1:-1])
    if not is_token(unquoted):
        raise _syntax_error("the quoted value is not a token", position)
    return unquoted


def _syntax_error(what: str, position: int) -> HeaderSyntaxError:
    return HeaderSyntaxError(f"{what} at character {position}")
