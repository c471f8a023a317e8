"""The schema of the chat's messages, the token bucket and the history: with values alone."""

from __future__ import annotations

import json
import unicodedata
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
    Ping,
    Refused,
    Rename,
    Renamed,
    Say,
    StartTyping,
    Typing,
    decode_event,
    encode_event,
    encode_welcome,
    make_message,
    parse,
)
from examples.chat.nicknames import fold

KEY = "0123456789abcdef"
JOIN = {"type": "join", "room": "lobby", "nick": "Ann", "session": KEY}


@pytest.mark.parametrize(
    ("fields", "parsed"),
    [
        (JOIN, Join("lobby", "Ann", KEY, None)),
        ({**JOIN, "seen": 17}, Join("lobby", "Ann", KEY, 17)),
        ({**JOIN, "nick": "  Ann \t B "}, Join("lobby", "Ann B", KEY, None)),
        ({**JOIN, "nick": "Ame\u0301lie"}, Join("lobby", "Am\u00e9lie", KEY, None)),
        ({**JOIN, "nick": "\u3000Ann\u00a0\u2003B\u2028"}, Join("lobby", "Ann B", KEY, None)),
        ({"type": "say", "key": KEY, "text": " hi\n"}, Say(KEY, " hi\n")),
        ({"type": "say", "key": KEY, "text": "x" * 1000}, Say(KEY, "x" * 1000)),
        ({"type": "rename", "nick": "x" * 32, "more": 1}, Rename("x" * 32)),
        ({"type": "typing"}, StartTyping()),
        ({"type": "ping"}, Ping()),
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


@pytest.mark.parametrize(
    "character",
    [
        "\u0007",
        "\u007f",
        "\u00ad",  # soft hyphen
        "\u034f",  # combining grapheme joiner
        "\u061c",  # marks, embeddings, overrides and isolates of direction
        "\u200e",
        "\u202a",
        "\u202e",
        "\u2066",
        "\u115f",  # fillers
        "\u1160",
        "\u3164",
        "\uffa0",
        "\u17b4",  # inherent vowel
        "\u180b",  # variation selectors
        "\ufe0f",
        "\U000e0100",
        "\u180e",  # vowel separator
        "\u200b",  # of no width
        "\u200c",
        "\u200d",
        "\u2060",
        "\ufeff",
        "\u2800",  # blank Braille pattern
        "\u0378",  # not assigned
        "\ue000",  # private
        "\ufff9",  # annotation
        "\U0001d159",  # null notehead
        "\U000e0041",  # tag
    ],
)
@pytest.mark.parametrize("nick", ["{}", "Ann{}", "{}Ann", "A{}nn", "A {} B"])
def test_a_nickname_has_no_character_that_can_not_be_seen(nick: str, character: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(json.dumps({"type": "rename", "nick": nick.format(character)}))
    assert refused.value.code == Code.BAD_MESSAGE
    assert refused.value.text == f"nick: U+{ord(character):04X} can not be seen here"


@pytest.mark.parametrize(
    "nick",
    ["\u0301", "\u0301Ann", "Ann \u0301B", "A\u20dd\u0301\u0302\u0303\u0304", "Z" + "\u0334" * 31],
)
def test_accents_alone_and_heaps_of_them_are_no_nickname(nick: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(json.dumps({"type": "rename", "nick": nick}))
    assert refused.value.text == "nick: accents go on a character, and no more than 4 on one"


@pytest.mark.parametrize(
    "nick",
    [
        "Jos\u00e9",
        "\u0e19\u0e49\u0e33",
        "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
        "\u0928\u0940\u0932",
        "\u674e",
        "\U0001f98a",
        "\u2764\ufe0f",  # a red heart
        "Ann \U0001f469\U0001f3fd\u200d\U0001f680",  # with the colour of her skin
        "\U0001f3f3\ufe0f\u200d\U0001f308 Ann",  # a flag of the rainbow
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",  # a family
        "\U0001f1eb\U0001f1f7",
        "42",
        "<b>",
    ],
)
def test_names_of_all_languages_can_be_nicknames(nick: str) -> None:
    assert parse(json.dumps({"type": "rename", "nick": nick})) == Rename(
        unicodedata.normalize("NFC", nick)
    )


@pytest.mark.parametrize(
    "nick",
    [
        "A\ufe0f",
        "1\ufe0f\u20e3",
        "\u2800\ufe0f",
        "\u2764\ufe0f\ufe0f",
        "\U0001f469\u200d",
        "\u200d\U0001f469",
        "\U0001f469\u200d\u200d\U0001f680",
        "\U0001f469\u200dA",
        "A\u200d\U0001f680",
        "\U0001f469 \u200d\U0001f680",
    ],
)
def test_what_joins_emoji_joins_nothing_else(nick: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(json.dumps({"type": "rename", "nick": nick}))
    assert refused.value.text.endswith(" can not be seen here")


@pytest.mark.parametrize("text", [1, "", " \n", "\u200b\u3164 \u2800", "x" * 1001, "\ud83d"])
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ANN"),
        ("Ann", "\uff21nn"),
        ("Ann", "\U0001d400\U0001d427\U0001d427"),
        ("Stra\u00dfe", "STRASSE"),
        ("\ufb01ve", "FIVE"),
        ("Am\u00e9lie", "AME\u0301LIE"),
        ("\u03a3", "\u03c2"),
        ("\u1fb3", "\u0391\u0399"),
        ("\u212bsa", "\u00e5sa"),
        ("\u2764\ufe0f", "\u2764"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\U0001f680"),
    ],
)
def test_variants_of_a_name_are_the_same_name(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_other_names_are_other_names() -> None:
    assert len({fold(nick) for nick in ("Ann", "Anne", "Bob", "Jose", "Jos\u00e9", "A nn")}) == 6


@given(st.text())
def test_variants_of_variants_are_no_more(nick: str) -> None:
    assert fold(fold(nick)) == fold(nick)


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
