"""The schema of the chat's messages, the token bucket and the history: with values alone."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.chat.history import History
from examples.chat.limits import TokenBucket
from examples.chat.messages import (
    Code,
    Event,
    Join,
    Joined,
    Left,
    Message,
    Refused,
    Rename,
    Renamed,
    Say,
    StartTyping,
    Typing,
    decode_event,
    encode_event,
    encode_welcome,
    fold,
    make_message,
    parse,
)

KEY = "0123456789abcdef"
JOIN = {"type": "join", "room": "lobby", "nick": "Ann", "session": KEY}


@pytest.mark.parametrize(
    ("fields", "parsed"),
    [
        (JOIN, Join("lobby", "Ann", KEY, None)),
        ({**JOIN, "seen": 17}, Join("lobby", "Ann", KEY, 17)),
        ({**JOIN, "nick": "  Ann \t B "}, Join("lobby", "Ann B", KEY, None)),
        ({**JOIN, "nick": "Ame\u0301lie"}, Join("lobby", "Am\u00e9lie", KEY, None)),
        ({"type": "say", "key": KEY, "text": " hi\n"}, Say(KEY, " hi\n")),
        ({"type": "say", "key": KEY, "text": "x" * 1000}, Say(KEY, "x" * 1000)),
        ({"type": "rename", "nick": "x" * 32, "more": 1}, Rename("x" * 32)),
        ({"type": "typing"}, StartTyping()),
    ],
)
def test_what_is_in_order_is_understood(fields: object, parsed: object) -> None:
    assert parse(json.dumps(fields)) == parsed


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"{}", Code.BAD_MESSAGE, "only text frames"),
        ("", Code.BAD_MESSAGE, "this is no JSON"),
        ("{", Code.BAD_MESSAGE, "this is no JSON"),
        ("[" * 16_000, Code.BAD_MESSAGE, "this is no JSON"),
        ("1" * 16_000, Code.BAD_MESSAGE, "this is no JSON"),
        ("[]", Code.BAD_MESSAGE, "no JSON object"),
        ("{}", Code.BAD_MESSAGE, "type: give join"),
        ('{"type": []}', Code.BAD_MESSAGE, "type: give join"),
        ('{"type": "rename"}', Code.BAD_MESSAGE, "nick: give a string"),
        ('{"type": "rename", "nick": 1}', Code.BAD_MESSAGE, "nick: give a string"),
        ('{"type": "rename", "nick": " "}', Code.BAD_MESSAGE, "nick: give a name"),
        ('{"type": "rename", "nick": "\\u202eAnn"}', Code.BAD_MESSAGE, "nick: only characters"),
        ('{"type": "rename", "nick": "\\ud800"}', Code.BAD_MESSAGE, "nick: half a surrogate"),
        (json.dumps({"type": "rename", "nick": "x" * 33}), Code.TOO_LONG, "nick: at most 32"),
        (json.dumps({**JOIN, "room": "No"}), Code.BAD_MESSAGE, "room: give"),
        (json.dumps({**JOIN, "room": "x" * 33}), Code.BAD_MESSAGE, "room: give"),
        (json.dumps({**JOIN, "session": "short"}), Code.BAD_MESSAGE, "session: give"),
        (json.dumps({**JOIN, "seen": -1}), Code.BAD_MESSAGE, "seen: give"),
        (json.dumps({**JOIN, "seen": 2**53}), Code.BAD_MESSAGE, "seen: give"),
        (json.dumps({**JOIN, "seen": True}), Code.BAD_MESSAGE, "seen: give"),
        (json.dumps({**JOIN, "seen": "1"}), Code.BAD_MESSAGE, "seen: give"),
        ('{"type": "say", "text": "hi"}', Code.BAD_MESSAGE, "key: give a string"),
    ],
)
def test_what_is_not_in_order_is_refused_with_a_reason(
    data: str | bytes, code: Code, text: str
) -> None:
    with pytest.raises(Refused) as refused:
        parse(data)
    assert refused.value.code == code
    assert text in refused.value.text


@pytest.mark.parametrize("text", [1, "", " \n", "x" * 1001, "\ud83d"])
def test_of_what_was_to_be_said_the_refusal_names_the_key(text: object) -> None:
    with pytest.raises(Refused) as refused:
        parse(json.dumps({"type": "say", "key": KEY, "text": text}))
    assert refused.value.key == KEY


@given(st.text() | st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_nothing_makes_the_parser_fail_in_another_way(data: str | bytes) -> None:
    with suppress(Refused):
        parse(data)


@given(
    st.builds(make_message, st.integers(1, 2**53 - 1), st.text(), st.text(), st.text())
    | st.builds(Joined, st.text())
    | st.builds(Left, st.text())
    | st.builds(Renamed, st.text(), st.text())
    | st.builds(Typing, st.text())
)
def test_an_event_is_what_was_encoded(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


def test_an_event_of_another_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="no event of this version: 'poll'"):
        decode_event('{"type": "poll"}')


@given(st.lists(st.builds(make_message, st.integers(1), st.text(), st.text(), st.just("k"))))
def test_a_welcome_holds_the_messages(messages: list[Message]) -> None:
    welcome = json.loads(encode_welcome("lobby", "Ann", ["Ann"], messages, seen=7, complete=True))
    assert welcome["messages"] == [json.loads(message.wire) for message in messages]
    assert (welcome["type"], welcome["nicks"], welcome["seen"]) == ("welcome", ["Ann"], 7)


@pytest.mark.parametrize("other", ["ANN", "\uff21nn", "ann"])
def test_names_that_look_alike_are_the_same(other: str) -> None:
    assert fold(other) == fold("Ann")
    assert fold("Bob") != fold("Ann")


def test_the_bucket_gives_a_burst_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(100.25) == 0.25
    assert bucket.take(100.5) == 0
    assert bucket.take(100.5) == 0.5
    assert [bucket.take(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def message(id_: int) -> Message:
    return make_message(id_, "Ann", "hi", f"key-{id_}")


def test_the_history_has_the_last_messages() -> None:
    history = History(3)
    for id_ in (1, 2, 3, 5):
        assert history.add(message(id_))
    assert list(history) == [message(2), message(3), message(5)]
    assert history.last_id == 5
    assert history.since(None) == ([message(2), message(3), message(5)], True)
    assert history.since(2) == ([message(3), message(5)], True)
    assert history.since(5) == ([], True)
    assert history.since(1) == ([message(2), message(3), message(5)], True)
    assert history.since(0) == ([message(2), message(3), message(5)], False)


def test_the_history_takes_no_message_twice() -> None:
    history = History(3)
    assert history.add(message(5))
    assert not history.add(message(5))
    assert not history.add(message(4))
    assert not history.add(make_message(6, "Ann", "hi", "key-5"))
    assert list(history) == [message(5)]
