"""Whose web pages may connect: origins (RFC 6454), and a server's rule about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ._http import split_authority

_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}

_origin = re.compile(r"([a-z][a-z0-9+.\-]*)://(.+)")


class AllowedOrigins:
    """A server's rule about the Origin header of a request.

    :param origins: None allows the origins whose host and port are those of the server, as the
        request names it. Otherwise the origins allowed, such as ``https://example.org``; ``"*"`` is
        every one.
    :raises ValueError: if one is not an origin.
    :raises TypeError: if ``origins`` is a str.
    """

    __slots__ = ("_any", "_origins")

    def __init__(self, origins: Sequence[str] | None) -> None:
        if isinstance(origins, str):
            raise TypeError("origins must be a sequence of str, not one str")
        self._any = origins is not None and "*" in origins
        self._origins = None if origins is None or self._any else _checked(origins)

    def allow(self, values: Sequence[str], authority: str) -> bool:
        """Tell whether a request may come from there.

        :param values: the Origin headers of the request; browsers send one, others need not.
        :param authority: what the request calls the server.
        """
        if not values or self._any:
            return True
        origin = _parse(values[0]) if len(values) == 1 else None
        if self._origins is not None:
            return origin in self._origins
        return origin is not None and origin.is_of(authority)


@dataclass(frozen=True, slots=True)
class _Origin:
    """A serialised origin (RFC 6454 section 6.2); ``null`` is a scheme without a host."""

    scheme: str
    host: str
    port: int | None

    def is_of(self, authority: str) -> bool:
        """Tell whether a server that is called by ``authority`` has this origin."""
        default = _DEFAULT_PORTS.get(self.scheme)
        return default is not None and (self.host, self.port) == split_authority(authority, default)


def _checked(origins: Sequence[str]) -> frozenset[_Origin]:
    parsed = set()
    for text in origins:
        origin = _parse(text)
        if origin is None:
            raise ValueError(
                f"{text!r} is not an origin: write scheme://host[:port] without a path"
            )
        parsed.add(origin)
    return frozenset(parsed)


def _parse(text: str) -> _Origin | None:
    lowered = text.lower()
    if lowered == "null":
        return _Origin("null", "", None)
    match = _origin.fullmatch(lowered)
    if match is None:
        return None
    scheme, authority = match.groups()
    host, port = split_authority(authority, _DEFAULT_PORTS.get(scheme))
    return _Origin(scheme, host, port) if host else None
