"""Requests and responses as values."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, assert_type

import pytest

from trio_ws._http import HeadersInput, Request, Response


def test_headers_are_looked_up_in_any_case() -> None:
    request = Request("GET", "/", [("X-A", "1"), ("x-a", "2"), ("B", "3")])
    assert request.header("x-A") == "1"
    assert request.header_values("X-a") == ["1", "2"]
    assert request.header("c") is None
    assert request.header("c", "4") == "4"
    assert request.header_values("c") == []


def test_a_header_with_a_default_is_never_none() -> None:
    request = Request("GET", "/", {"A": "1"})
    assert assert_type(request.header("A", ""), str).isdecimal()
    assert assert_type(request.header("Age", "0"), str) == "0"
    assert assert_type(request.header("Age"), str | None) is None


@pytest.mark.parametrize("headers", [{"A": " 1\t"}, [("A", "1")], iter([("A", "1")])])
def test_headers_may_be_a_mapping_or_pairs(headers: HeadersInput) -> None:
    assert Response(200, headers).headers == (("A", "1"),)


def test_a_request_and_a_response_are_values() -> None:
    request = Request("GET", "/", {"A": "1"})
    response = Response(200, {"A": "1"}, "x")
    assert request == Request("GET", "/", [("A", "1")], "1.1")
    assert hash(response) == hash(Response(200, {"A": "1"}, b"x"))
    assert pickle.loads(pickle.dumps((request, response))) == (request, response)
    assert dataclasses.replace(request, target="/x").target == "/x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.target = "/y"  # type: ignore[misc]  # that it is refused is the point


def test_a_response_has_the_standard_reason_unless_one_is_given() -> None:
    assert Response(404).reason == "Not Found"
    assert Response(HTTPStatus.NOT_FOUND) == Response(404)
    assert Response(404, reason="Nope").reason == "Nope"
    assert Response(599).reason == ""


def test_a_text_body_is_utf_8_and_says_so() -> None:
    response = Response(200, body="grüß")
    assert response.body == "grüß".encode()
    assert response.header("Content-Type") == "text/plain; charset=utf-8"


def test_a_content_type_that_is_given_stays() -> None:
    assert Response(200, {"content-type": "text/html"}, "x").headers == (
        ("content-type", "text/html"),
    )
    assert Response(200).headers == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Request("GET", "/", {"A": "1\r\nB: 2"}),
        lambda: Request("GET", "/", {"A": "1\n"}),
        lambda: Request("GET", "/", {"A": "\x00"}),
        lambda: Request("GET", "/", {"A": "\x7f"}),
        lambda: Request("GET", "/", {"A": "\u20ac"}),
        lambda: Request("GET", "/", {"A\r\nB": "1"}),
        lambda: Request("GET", "/", {"A:": "1"}),
        lambda: Request("GET", "/", {"": "1"}),
        lambda: Request("GET", "/", {"\xe4": "1"}),
        lambda: Request("GET ", "/"),
        lambda: Request("", "/"),
        lambda: Request("GET", ""),
        lambda: Request("GET", "/ HTTP/1.1\r\nA: 1"),
        lambda: Request("GET", "/\xe4"),
        lambda: Request("GET", "/", http_version="11"),
        lambda: Request("GET", "/", http_version="1.1\r\n"),
        lambda: Response(200, {"A": "1\r\n\r\nbody"}),
        lambda: Response(200, reason="OK\r\nA: 1"),
        lambda: Response(99),
        lambda: Response(1000),
        lambda: Response(101, body="x"),
        lambda: Response(204, body="x"),
        lambda: Response(304, body="x"),
    ],
)
def test_what_is_not_legal_in_http_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must|not|illegal|no body"):
        make()


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (["A: b"], r"must be a mapping, or pairs, such as \[\("),
        (["ab"], "must be a mapping, or pairs"),
        ("A: b", "must be a mapping, or pairs"),
        ([("A", "b", "c")], "must be a mapping, or pairs"),
        ({"A": 5}, "names and values of headers must be str, not int"),
        ([(b"A", "b")], "names and values of headers must be str, not bytes"),
    ],
)
def test_headers_that_are_no_pairs_of_str_are_a_type_error(headers: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Request("GET", "/", headers)


@pytest.mark.parametrize("body", [5, None, ["x"]])
def test_a_body_that_is_no_text_and_no_bytes_is_a_type_error(body: Any) -> None:
    with pytest.raises(TypeError, match="body of a response is str or bytes, not"):
        Response(200, body=body)


def test_an_illegal_value_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        Request("GET", "/", {"Authorization": "secret\n"})
    assert "secret" not in str(caught.value)


def test_repr_shows_everything_but_credentials() -> None:
    request = Request("GET", "/x", {"Authorization": "secret", "COOKIE": "secret", "A": "shown"})
    response = Response(200, {"Set-Cookie": "secret", "A": "shown"}, "body")
    for message in (request, response):
        assert "secret" not in repr(message)
        assert "shown" in repr(message)
    assert "'/x'" in repr(request)
    assert "b'body'" in repr(response)
