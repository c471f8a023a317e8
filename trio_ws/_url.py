"""``ws://`` and ``wss://`` URLs (RFC 6455 section 3, RFC 3986).

The parser is strict: what two programs could read in two ways is refused, with the spelling that is
not ambiguous. Its messages never quote the URL, which may hold a password.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote, unquote_to_bytes

_DEFAULT_PORTS: Final = {False: 80, True: 443}

_url = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_authority = re.compile(r"(?:([^@]*)@)?(\[[^\[\]]*\]|[^:@\[\]]*)(?::([^:@]*))?", re.DOTALL)
_host_name = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]+")
_zone = re.compile(r"[A-Za-z0-9\-._~]+")
_port = re.compile(r"[0-9]{1,5}")
_space_or_control = re.compile(r"[\x00-\x20\x7f]")
_stray_percent = re.compile(r"%(?![0-9A-Fa-f]{2})")
_lone_surrogate = re.compile(r"[\ud800-\udfff]")

# Python knows the IDNA of 2003, which writes these as others or leaves them out, and so names
# another host than the IDNA of 2008 and browsers do: sharp s, final sigma, two zero-width joiners.
_ambiguous = re.compile(r"[\u00df\u1e9e\u03c2\u200c\u200d]")

# What RFC 3986 allows in a path or query, beside letters, digits and "-._~". Square brackets are
# not in its list, but everybody sends them in queries as they are.
_TARGET_SAFE: Final = "/:?@!$&'()*+,;=%[]"


@dataclass(frozen=True, slots=True)
class WebSocketURL:
    """The parts of a URL that a client needs, checked and encoded."""

    secure: bool
    """True for ``wss``."""
    host: str
    """A name (its A-label if it is international) or an address; IPv6 without brackets."""
    port: int
    """The port given, or 80 for ``ws`` and 443 for ``wss``."""
    target: str
    """Path and query as the request line has them; ``/`` at least."""
    authorization: str | None = field(default=None, repr=False)
    """The value of an Authorization header made from the user information, or None."""

    @property
    def host_header(self) -> str:
        """The value of the Host header: no port if it is the default one, no IPv6 zone."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.secure] else f"{host}:{self.port}"


def parse_url(url: str) -> WebSocketURL:
    """Parse a WebSocket URL.

    Characters beyond ASCII are percent-encoded as UTF-8 in path and query, and encoded by IDNA in
    the host, but for a few of which its versions make different names: those are refused.
    ``user:password@`` becomes Basic authorization (RFC 7617).

    :param url: such as ``wss://user:password@example.org:8443/chat?room=1``.
    :raises ValueError: if it is not a WebSocket URL; the message says what to change.
    :raises TypeError: if it is not a str.
    """
    if not isinstance(url, str):
        hint = ": decode() it" if isinstance(url, bytes) else ""
        raise TypeError(f"a URL is str, not {type(url).__name__}{hint}")
    _check_characters(url)
    match = _url.fullmatch(url)
    assert match is not None
    scheme, authority, path, query, fragment = match.groups()
    secure = _parse_scheme(scheme)
    if authority is None:
        raise ValueError("a WebSocket URL has two slashes after the scheme: ws://host/path")
    if fragment is not None:
        raise ValueError(
            "a WebSocket URL has no fragment (RFC 6455 section 3): "
            "remove what follows '#', or write '#' as %23"
        )
    parts = _authority.fullmatch(authority)
    if parts is None:
        raise ValueError(
            "the URL's authority is not [user:password@]host[:port]: put an IPv6 address in "
            "brackets, write '@' in user information as %40, '/' as %2F, '[' as %5B"
        )
    userinfo, host, port = parts.groups()
    target = quote(path or "/", safe=_TARGET_SAFE)
    if query is not None:
        target += "?" + quote(query, safe=_TARGET_SAFE)
    return WebSocketURL(
        secure=secure,
        host=_parse_host(host),
        port=_parse_port(port, secure),
        target=target,
        authorization=_parse_userinfo(userinfo) if userinfo else None,
    )


def _check_characters(url: str) -> None:
    if _space_or_control.search(url):
        raise ValueError(
            "a URL has no spaces and no control characters: percent-encode them (a space is %20)"
        )
    if _stray_percent.search(url):
        raise ValueError("'%' in a URL starts an encoded character: write '%' itself as %25")
    if _lone_surrogate.search(url):
        raise ValueError("the URL contains a lone surrogate: decode it as UTF-8 first")


def _parse_scheme(scheme: str | None) -> bool:
    match scheme.lower() if scheme is not None else None:
        case "ws":
            return False
        case "wss":
            return True
        case "http":
            raise ValueError("a WebSocket URL starts with ws:// where this one has http://")
        case "https":
            raise ValueError("a WebSocket URL starts with wss:// where this one has https://")
        case _:
            raise ValueError("a WebSocket URL starts with ws:// or wss://")


def _parse_host(host: str) -> str:
    if not host:
        raise ValueError("the URL has no host: write ws://host/path")
    if host.startswith("["):
        return _parse_ipv6_literal(host[1:-1])
    ambiguous = _ambiguous.search(host)
    if ambiguous is not None:
        raise ValueError(
            f"the URL's host contains {ambiguous[0]!a}, of which the versions of IDNA make "
            "different names: write the encoded name, which starts with xn--"
        )
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError(
            "the URL's host is not a domain name: each label has 1 to 63 characters that IDNA knows"
        ) from None
    # After IDNA, whose compatibility mapping can bring forth delimiters (a fullwidth "/").
    if not _host_name.fullmatch(name):
        raise ValueError(
            "the URL's host contains a character no host has: write the name itself, not encoded"
        )
    return name


def _parse_ipv6_literal(literal: str) -> str:
    address, percent, zone = literal.partition("%25")
    if not _is_ipv6_address(address) or (percent and not _zone.fullmatch(zone)):
        raise ValueError(
            "the brackets of the URL's host must hold an IPv6 address: "
            "ws://[::1]/, or with a zone ws://[fe80::1%25eth0]/"
        )
    return f"{address.lower()}%{zone}" if percent else address.lower()


def _is_ipv6_address(address: str) -> bool:
    try:
        return IPv6Address(address).scope_id is None
    except ValueError:
        return False


def _parse_port(port: str | None, secure: bool) -> int:
    if not port:
        return _DEFAULT_PORTS[secure]
    if not _port.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(
            "the URL's port must be a number from 1 to 65535 "
            "(':' and '/' in user information are written %3A and %2F)"
        )
    return int(port)


def _parse_userinfo(userinfo: str) -> str:
    user, _, password = userinfo.partition(":")
    decoded = unquote_to_bytes(user)
    if b":" in decoded:
        raise ValueError(
            "the URL's user name contains ':', which Basic authorization can not carry"
        )
    credentials = b64encode(decoded + b":" + unquote_to_bytes(password))
    return f"Basic {credentials.decode('ascii')}"
