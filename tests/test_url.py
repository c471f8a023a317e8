"""WebSocket URLs."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._url import WebSocketURL, parse_url


@pytest.mark.parametrize(
    ("url", "expected", "host_header"),
    [
        ("ws://example.org", WebSocketURL(False, "example.org", 80, "/"), "example.org"),
        ("wss://example.org/", WebSocketURL(True, "example.org", 443, "/"), "example.org"),
        ("WSS://Example.ORG/A", WebSocketURL(True, "example.org", 443, "/A"), "example.org"),
        ("ws://h:80/", WebSocketURL(False, "h", 80, "/"), "h"),
        ("ws://h:443/", WebSocketURL(False, "h", 443, "/"), "h:443"),
        ("wss://h:443/", WebSocketURL(True, "h", 443, "/"), "h"),
        ("wss://h:80/", WebSocketURL(True, "h", 80, "/"), "h:80"),
        ("ws://h:/", WebSocketURL(False, "h", 80, "/"), "h"),
        ("ws://h:65535/", WebSocketURL(False, "h", 65535, "/"), "h:65535"),
        ("ws://127.0.0.1:8000/x", WebSocketURL(False, "127.0.0.1", 8000, "/x"), "127.0.0.1:8000"),
        ("ws://my_service.local.", WebSocketURL(False, "my_service.local.", 80, "/"), None),
    ],
)
def test_scheme_host_and_port(url: str, expected: WebSocketURL, host_header: str | None) -> None:
    parsed = parse_url(url)
    assert parsed == expected
    assert parsed.host_header == (host_header or parsed.host)


@pytest.mark.parametrize(
    ("url", "host", "host_header"),
    [
        ("ws://[::1]/", "::1", "[::1]"),
        ("ws://[2001:DB8::1]:8000/", "2001:db8::1", "[2001:db8::1]:8000"),
        ("ws://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
        ("ws://[fe80::1%25eth0]:8000/", "fe80::1%eth0", "[fe80::1]:8000"),
    ],
)
def test_an_ipv6_host_has_brackets_in_the_host_header_only(
    url: str, host: str, host_header: str
) -> None:
    parsed = parse_url(url)
    assert parsed.host == host
    assert parsed.host_header == host_header


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://bücher.example/", "xn--bcher-kva.example"),
        ("ws://BÜCHER.example/", "xn--bcher-kva.example"),
        ("ws://例え。テスト/", "xn--r8jz45g.xn--zckzah"),
        ("ws://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ],
)
def test_an_international_host_is_encoded_by_idna(url: str, host: str) -> None:
    assert parse_url(url).host == host


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://h", "/"),
        ("ws://h?", "/?"),
        ("ws://h?a=1&b=/?:@", "/?a=1&b=/?:@"),
        ("ws://h/a/b;c,d=e?f[]=1", "/a/b;c,d=e?f[]=1"),
        ("ws://h//a/../b", "//a/../b"),
        ("ws://h/%41%c3%BC", "/%41%c3%BC"),
        ("ws://h/ü?ü=ü", "/%C3%BC?%C3%BC=%C3%BC"),
        ("ws://h/\N{GRINNING FACE}", "/%F0%9F%98%80"),
        ("ws://h/\x85\xa0", "/%C2%85%C2%A0"),
        ('ws://h/a"<>\\^`{|}b', "/a%22%3C%3E%5C%5E%60%7B%7C%7Db"),
    ],
)
def test_path_and_query_are_kept_and_percent_encoded_where_needed(url: str, target: str) -> None:
    assert parse_url(url).target == target


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("ws://user:secret@h/", "user:secret"),
        ("ws://user@h/", "user:"),
        ("ws://:secret@h/", ":secret"),
        ("ws://u%40x:p%3A%2Fq@h:8000/", "u@x:p:/q"),
        ("ws://u:a:b@h/", "u:a:b"),
        ("ws://Jürgen:%C3%BC@h/", "Jürgen:ü"),
    ],
)
def test_user_information_becomes_basic_authorization(url: str, credentials: str) -> None:
    expected = "Basic " + b64encode(credentials.encode()).decode()
    assert parse_url(url).authorization == expected


@pytest.mark.parametrize("url", ["ws://h/", "ws://@h/"])
def test_without_user_information_there_is_no_authorization(url: str) -> None:
    assert parse_url(url).authorization is None


def test_repr_hides_the_user_information() -> None:
    url = parse_url("ws://user:secret@h/")
    assert "user" not in repr(url)
    assert "Basic" not in repr(url)


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("http://h/", "starts with ws://"),
        ("HTTPS://h/", "starts with wss://"),
        ("ftp://h/", "starts with ws:// or wss://"),
        ("localhost:8000", "starts with ws:// or wss://"),
        ("h/path", "starts with ws:// or wss://"),
        ("//h/path", "starts with ws:// or wss://"),
        ("", "starts with ws:// or wss://"),
        ("ws:h", "two slashes"),
        ("ws:/h", "two slashes"),
        ("ws://", "no host"),
        ("ws:///path", "no host"),
        ("ws://:80/", "no host"),
        ("ws://u@/", "no host"),
        ("ws://h/#top", "%23"),
        ("ws://h#", "%23"),
        ("ws://h/a b", "%20"),
        (" ws://h/", "%20"),
        ("ws://h/\r\nX: y", "%20"),
        ("ws://h/\x00", "%20"),
        ("ws://h/\x7f", "%20"),
        ("ws://h/100%", "%25"),
        ("ws://h/%zz", "%25"),
        ("ws://h/\ud800", "surrogate"),
        ("ws://h:0/", "1 to 65535"),
        ("ws://h:65536/", "1 to 65535"),
        ("ws://h:-1/", "1 to 65535"),
        ("ws://h:http/", "1 to 65535"),
        ("ws://h:٨٠/", "1 to 65535"),
        ("ws://h:100000000000/", "1 to 65535"),
        ("ws://::1/", "in brackets"),
        ("ws://[::1/", "in brackets"),
        ("ws://[::1]x/", "in brackets"),
        ("ws://u:p@q@h/", "%40"),
        ("ws://[]/", "IPv6 address"),
        ("ws://[h]/", "IPv6 address"),
        ("ws://[v1.x]/", "IPv6 address"),
        ("ws://[127.0.0.1]/", "IPv6 address"),
        ("ws://[fe80::1%25]/", "%25eth0"),
        ("ws://[fe80::1%25a%25b]/", "%25eth0"),
        ("ws://[fe80::1%20a]/", "%25eth0"),
        ("ws://a..b/", "1 to 63"),
        (f"ws://{'a' * 64}.example/", "1 to 63"),
        ("ws://a%2Fb/", "not encoded"),
        ("ws://a\\b/", "not encoded"),
        ("ws://a\N{FULLWIDTH SOLIDUS}b/", "not encoded"),
        ("ws://a\N{FULLWIDTH COMMERCIAL AT}b/", "not encoded"),
        ("ws://us%3Aer:p@h/", "':'"),
        ("ws://stra\N{LATIN SMALL LETTER SHARP S}e.example/", r"'\xdf', of which"),
        ("ws://GRO\N{LATIN CAPITAL LETTER SHARP S}.example/", "starts with xn--"),
        (
            "ws://\u03b2\u03bf\N{GREEK SMALL LETTER FINAL SIGMA}.example/",
            "starts with xn--",
        ),
        ("ws://a\N{ZERO WIDTH JOINER}b.example/", r"'\u200d', of which"),
        ("ws://a\N{ZERO WIDTH NON-JOINER}b.example/", "starts with xn--"),
    ],
)
def test_a_bad_url_is_a_value_error_that_names_the_fix(url: str, fix: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [(b"ws://h/", r"a URL is str, not bytes: decode\(\) it"), (None, "a URL is str, not NoneType")],
)
def test_a_url_is_a_str(url: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "ws://user:secret@h:99999/",
        "ws://user:secret/x@h/",
        "ws://user:se cret@h/",
        "user:secret@h",
        "ws://user:secret@h#",
        "ws://user:secret@a..b/",
        "ws://user:secret@x@h/",
    ],
)
def test_no_message_quotes_the_user_information(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@given(st.text(), st.text())
def test_any_path_and_query_become_a_target_that_fits_a_request_line(path: str, query: str) -> None:
    try:
        url = parse_url(f"ws://h/{path}?{query}")
    except ValueError:
        return
    assert url.host == "h"
    assert url.target.startswith("/")
    assert all("!" <= character <= "~" for character in url.target)


@given(st.text())
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        url = parse_url(f"ws://{text}")
    except ValueError:
        return
    assert 0 < url.port < 65536
    assert url.host_header.isascii()
