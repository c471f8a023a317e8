"""The grammar of header lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._headers import (
    Extension,
    HeaderSyntaxError,
    contains_token,
    is_token,
    parse_extension_list,
    parse_token_list,
)

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~09azAZ"
tokens = st.text(TOKEN_CHARACTERS, min_size=1, max_size=8)


@pytest.mark.parametrize("text", ["chat", "v1.chat", TOKEN_CHARACTERS])
def test_is_token_accepts_token_characters(text: str) -> None:
    assert is_token(text)


@pytest.mark.parametrize("text", ["", "a b", "a\n", "a,b", 'a"', "a/b", "\xe9", "a\x00", "a:"])
def test_is_token_refuses_everything_else(text: str) -> None:
    assert not is_token(text)


@pytest.mark.parametrize(
    "values",
    [
        ["websocket"],
        ["WebSocket"],
        ["h2c, websocket"],
        ["HTTP/2.0 ,\twebsocket\t,"],
        ["h2c", "websocket"],
        [",,websocket"],
    ],
)
def test_contains_token_finds_an_element_of_any_line_in_any_case(values: list[str]) -> None:
    assert contains_token(values, "websocket")


@pytest.mark.parametrize(
    "values", [[], [""], ["websockets"], ["web socket"], ["websocket/13"], ["a, b", "c"]]
)
def test_contains_token_looks_at_whole_elements(values: list[str]) -> None:
    assert not contains_token(values, "websocket")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([""], []),
        (["chat"], ["chat"]),
        (["Chat, superchat"], ["Chat", "superchat"]),
        (["a ,\tb", "c"], ["a", "b", "c"]),
        ([", a,, b ,"], ["a", "b"]),
    ],
)
def test_a_token_list_is_all_its_lines_without_empty_elements(
    values: list[str], expected: list[str]
) -> None:
    assert parse_token_list(values) == expected


@pytest.mark.parametrize("values", [["a b"], ["a;b"], ['"a"'], ["a", "b\xe9"], ["a=b"]])
def test_a_token_list_has_nothing_but_tokens(values: list[str]) -> None:
    with pytest.raises(HeaderSyntaxError, match="not a token"):
        parse_token_list(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["foo"], [("foo", [])]),
        (["foo, bar;baz"], [("foo", []), ("bar", [("baz", None)])]),
        (["foo", "bar"], [("foo", []), ("bar", [])]),
        (
            ["foo; a; b=1 ; c = 2, foo"],
            [("foo", [("a", None), ("b", "1"), ("c", "2")]), ("foo", [])],
        ),
        (['foo; a="10"'], [("foo", [("a", "10")])]),
        ([r'foo; a="1\0"'], [("foo", [("a", "10")])]),
        (["foo;a=1;a=2"], [("foo", [("a", "1"), ("a", "2")])]),
        ([",foo ,, bar,"], [("foo", []), ("bar", [])]),
        (
            ["permessage-deflate; client_max_window_bits, permessage-deflate"],
            [
                ("permessage-deflate", [("client_max_window_bits", None)]),
                ("permessage-deflate", []),
            ],
        ),
    ],
)
def test_extensions_have_names_and_parameters(values: list[str], expected: list[Extension]) -> None:
    assert parse_extension_list(values) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("foo bar", "expected ';' or ',' at character 4"),
        ("foo; a=1 b", "expected ';' or ',' at character 9"),
        ("foo=1", "expected ';' or ',' at character 3"),
        (";a", "expected the name of an extension at character 0"),
        ("foo, ?", "expected the name of an extension at character 5"),
        ("foo;", "expected a parameter at character 3"),
        ("foo;;a", "expected a parameter at character 3"),
        ("foo;=1", "expected a parameter at character 3"),
        ("foo; a=", "expected ';' or ',' at character 6"),
        ('foo; a="1', "expected ';' or ',' at character 6"),
        ('foo; a="1" x', "expected ';' or ',' at character 11"),
        ('foo; a=""', "the quoted value is not a token at character 3"),
        ('foo; a="1 0"', "the quoted value is not a token at character 3"),
        (r'foo; a="\""', "the quoted value is not a token at character 3"),
    ],
)
def test_an_extension_list_that_breaks_the_grammar_says_where(value: str, message: str) -> None:
    with pytest.raises(HeaderSyntaxError) as caught:
        parse_extension_list([value])
    assert str(caught.value) == message


def test_a_quoted_string_does_not_go_on_in_the_next_line() -> None:
    with pytest.raises(HeaderSyntaxError):
        parse_extension_list(['foo; a="1', '0"'])


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_parsed_or_refused_with_a_syntax_error(values: list[str]) -> None:
    try:
        extensions = parse_extension_list(values)
    except HeaderSyntaxError:
        return
    for name, parameters in extensions:
        assert is_token(name)
        for key, value in parameters:
            assert is_token(key)
            assert value is None or is_token(value)


extensions_and_where_to_break_lines = st.lists(
    st.tuples(
        tokens,
        st.lists(st.tuples(tokens, st.none() | tokens), max_size=3),
        st.booleans(),
        st.booleans(),
    ),
    max_size=4,
)


@given(extensions_and_where_to_break_lines)
def test_a_list_means_the_same_quoted_or_not_in_one_line_or_several(
    elements: list[tuple[str, list[tuple[str, str | None]], bool, bool]],
) -> None:
    lines = [""]
    for name, parameters, quoted, new_line in elements:
        text = name
        for key, value in parameters:
            text += f"; {key}"
            if value is not None:
                text += f'="{value}"' if quoted else f"={value}"
        if new_line:
            lines.append(text)
        else:
            lines[-1] += f", {text}"
    assert parse_extension_list(lines) == [(name, params) for name, params, _, _ in elements]
