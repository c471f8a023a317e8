"""What may be in a nickname, and which nicknames are the same."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_blank_names = re.compile(
    r"\b(BLANK$|FILLER\b|JOINER$|NULL NOTEHEAD$|VARIATION SELECTOR\b|VOWEL INHERENT\b)"
)
"""Names of characters that Unicode takes for letters, marks or symbols, and that nobody sees."""

_EMOJI_STYLE: Final = "\N{VARIATION SELECTOR-16}"
_JOINER: Final = "\N{ZERO WIDTH JOINER}"

_joined = re.compile(r"[\ufe0f\U0001f3fb-\U0001f3ff]")
"""What there may be between an emoji and its joiner: its style, or the colour of its skin."""

_stray_marks = re.compile(r"(^|Z)M|M{5}")
"""In the categories of a nickname's characters: accents on nothing, or so many on one that they
cover the lines above."""


def find_fault(nick: str) -> str | None:
    """What is wrong with *nick*; None if it is a name that can be seen."""
    for index, character in enumerate(nick):
        if character != " " and not is_visible(character) and not _is_in_emoji(nick, index):
            return f"U+{ord(character):04X} can not be seen here"
    if _stray_marks.search("".join([unicodedata.category(character)[0] for character in nick])):
        return "accents go on a character, and no more than 4 on one"
    return None


def is_visible(character: str) -> bool:
    """Whether somebody who looks at it sees anything."""
    if character.isspace() or not character.isprintable():
        return False
    return not _blank_names.search(unicodedata.name(character, ""))


def _is_in_emoji(value: str, index: int) -> bool:
    """Whether what is there makes an emoji colourful, or joins two into one."""
    before, after = value[:index][-1:], value[index + 1 :][:1]
    if value[index] == _EMOJI_STYLE:
        return _is_emoji(before)
    is_joined = _is_emoji(before) or _joined.fullmatch(before) is not None
    return value[index] == _JOINER and is_joined and _is_emoji(after)


def _is_emoji(character: str) -> bool:
    """Roughly: all but a few are symbols of this category."""
    return character != "" and unicodedata.category(character) == "So" and is_visible(character)


def fold(nick: str) -> str:
    """What nicknames have in common that differ only in case, or in variants of a character.

    This is how Unicode compares without regard to case and compatibility (D146), and to what is
    not seen where there is no font for it.
    """
    nick = nick.replace(_EMOJI_STYLE, "").replace(_JOINER, "")
    for form in ("NFD", "NFKD"):
        nick = unicodedata.normalize(form, nick).casefold()
    return unicodedata.normalize("NFKD", nick)
