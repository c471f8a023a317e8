"""The inbox: messages in order, and the parts that are taken of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._frames import FRAME_COST
from trio_ws._inbox import Inbox

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def inbox_of(*messages: str | bytes) -> Inbox:
    inbox = Inbox()
    for message in messages:
        inbox.put([message])
    return inbox


def utf8(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def take_all_parts(inbox: Inbox, max_bytes: int) -> list[str | bytes]:
    parts = []
    fin = False
    while not fin:
        part, fin = inbox.take_part(max_bytes)
        parts.append(part)
    return parts


def test_messages_come_out_in_the_order_in_which_they_arrived() -> None:
    inbox = inbox_of("one", b"two", "")

    assert [inbox.take(), inbox.take(), inbox.take()] == ["one", b"two", ""]
    assert not inbox


def test_it_is_true_while_there_is_a_message_even_an_empty_one() -> None:
    assert not Inbox()
    assert inbox_of(b"")


def test_size_counts_what_each_message_costs_so_that_empty_ones_are_not_free() -> None:
    inbox = inbox_of(b"", "four", b"12345")
    assert inbox.size == 3 * FRAME_COST + 9

    inbox.take()
    inbox.take()
    assert inbox.size == FRAME_COST + 5
    inbox.take()
    assert inbox.size == 0


def test_without_a_limit_a_part_is_the_whole_message() -> None:
    inbox = inbox_of("text", b"")

    assert inbox.take_part(None) == ("text", True)
    assert inbox.take_part(None) == (b"", True)


def test_the_last_part_is_the_one_that_says_so() -> None:
    inbox = inbox_of(b"12345")

    assert inbox.take_part(2) == (b"12", False)
    assert inbox.take_part(2) == (b"34", False)
    assert inbox.take_part(2) == (b"5", True)
    assert not inbox


def test_an_empty_message_is_one_empty_part() -> None:
    assert inbox_of("").take_part(1) == ("", True)
    assert inbox_of(b"").take_part(1) == (b"", True)


def test_a_part_that_takes_just_all_of_a_message_ends_it() -> None:
    assert inbox_of(b"12345").take_part(5) == (b"12345", True)


def test_take_after_a_part_gives_the_remainder_and_then_the_next_message_whole() -> None:
    inbox = inbox_of("one", "two")

    assert inbox.take_part(1) == ("o", False)
    assert inbox.take() == "ne"
    assert inbox.take() == "two"


def test_a_part_without_a_limit_gives_the_remainder_too() -> None:
    inbox = inbox_of(b"12345")

    inbox.take_part(2)
    assert inbox.take_part(None) == (b"345", True)


def test_a_message_occupies_its_room_until_its_last_part_is_taken() -> None:
    inbox = inbox_of(b"12345")

    inbox.take_part(4)
    assert inbox.size == FRAME_COST + 5
    inbox.take_part(4)
    assert inbox.size == 0


@pytest.mark.parametrize(
    ("max_bytes", "part"), [(1, "é"), (2, "é"), (3, "é"), (5, "é€"), (8, "é€"), (9, "é€😀")]
)
def test_max_bytes_of_text_are_utf8_bytes_and_at_least_one_code_point(
    max_bytes: int, part: str
) -> None:
    inbox = inbox_of("é€😀x")

    assert inbox.take_part(max_bytes) == (part, False)


def test_clear_forgets_the_messages_and_what_was_taken_of_the_first() -> None:
    inbox = inbox_of("one", "two")
    inbox.take_part(2)

    inbox.clear()
    assert not inbox
    assert inbox.size == 0
    inbox.put(["three"])
    assert inbox.take() == "three"


@given(message=TEXT | st.binary(), max_bytes=st.integers(1, 12))
def test_the_parts_of_a_message_are_the_message(message: str | bytes, max_bytes: int) -> None:
    parts = take_all_parts(inbox_of(message), max_bytes)

    assert b"".join(map(utf8, parts)) == utf8(message)
    assert {type(part) for part in parts} == {type(message)}
    assert all(parts) or len(parts) == 1
    assert all(len(utf8(part)) <= max_bytes or len(part) == 1 for part in parts)
