"""What clients and the server say to each other: the schema, and what checks it.

Each message is a JSON object in a text frame of WebSocket. Its ``type`` says which of these it is;
fields that are not named here are ignored.

From a client; ``join`` comes first, and once:

=========== ========================================== ==========================================
``join``    ``room``, ``nick``, ``session``, ``seen``  Come in. ``session`` is a random secret of
                                                       this client: with it, it may come back
                                                       under its nickname before the server has
                                                       noticed that it was gone. ``seen`` is the
                                                       id of the last message that it has, or what
                                                       the last welcome gave, or null.
``say``     ``key``, ``text``                          Say something. ``key`` is a random string
                                                       of the client's: the same key again is the
                                                       same message again, and not said twice. Keys
                                                       are remembered for ten minutes, as long as
                                                       2,000 others do not follow in the room.
``typing``                                             Say that one is writing.
``ping``                                               Ask for a sign of life, which costs
                                                       nothing of what a client may do in a
                                                       second; ten at once, and then one a second.
``rename``  ``nick``                                   Take another nickname. It has at most 32
                                                       characters, all of which can be seen;
                                                       or join emoji, or make them colourful.
=========== ========================================== ==========================================

From the server:

============ =========================================== ========================================
``welcome``  ``room``, ``nick``, ``nicks``,              The answer to ``join``: who is here, and
             ``messages``, ``seen``, ``complete``        the messages after ``seen``, or the last
                                                         ones. ``complete`` is false if more may
                                                         have been missed than the server has.
                                                         This ``seen`` is for the next ``join``, if
                                                         nothing is said until then.
``message``  ``id``, ``nick``, ``text``, ``key``         What somebody said. Ids grow within a
                                                         room: an id is the time in milliseconds
                                                         since 1970, or one more than the last.
``accepted`` ``key``, ``id``                             To who said it: it was said, now or
                                                         before.
``joined``   ``nick``                                    Somebody came in.
``left``     ``nick``                                    Somebody left.
``renamed``  ``old``, ``new``                            Somebody has another nickname.
``typing``   ``nick``                                    Somebody is writing.
``pong``                                                 The answer to ``ping``.
``nicks``    ``nicks``                                   Who is here, after some of that was
                                                         missed.
``missed``                                               More was said than the server could get
                                                         when the servers had each other again:
                                                         some messages are missing here.
``status``   ``online``                                  Whether the servers have each other. If
                                                         not, nothing can be said for now.
``error``    ``code``, ``text``, ``key``,                Something was refused; ``code`` is one
             ``retry_after``                             of ``Code``. ``key`` is that of what was
                                                         to be said, or null;
                                                         ``retry_after`` the seconds until it may
                                                         be tried again, or null: it may not.
============ =========================================== ========================================
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from .nicknames import find_fault, is_visible

Fields: TypeAlias = dict[str, object]
"""The fields of a JSON object that nobody has checked yet."""

MAX_TEXT: Final = 1000
"""Characters that can be said at once."""

MAX_NICK: Final = 32
"""Characters of a nickname."""

MAX_FRAME: Final = 16 * 1024
"""Bytes of a message from a client; a longer one fails the connection with 1009."""

_room = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_token = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


class Code(StrEnum):
    """Why something was refused."""

    BAD_MESSAGE = "bad_message"
    TOO_LONG = "too_long"
    SLOW_DOWN = "slow_down"
    NICK_TAKEN = "nick_taken"
    ROOM_FULL = "room_full"
    SERVER_FULL = "server_full"
    UNAVAILABLE = "unavailable"


class Refused(Exception):
    """Something was refused; it is for the client to know, and nothing has changed.

    :param key: that of what was said.
    :param retry_after: seconds.
    """

    def __init__(
        self, code: Code, text: str, *, key: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.key = key
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Join:
    room: str
    nick: str
    session: str
    seen: int | None


@dataclass(frozen=True, slots=True)
class Say:
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Rename:
    nick: str


@dataclass(frozen=True, slots=True)
class StartTyping:
    pass


@dataclass(frozen=True, slots=True)
class Ping:
    pass


ClientMessage: TypeAlias = Join | Say | Rename | StartTyping | Ping


def parse(data: str | bytes) -> ClientMessage:
    """Check what a client has sent.

    :raises Refused: it is none of the messages above.
    """
    fields = _parse_object(data)
    match fields.get("type"):
        case "join":
            return Join(
                _room_of(fields), _nick_of(fields), _token_of(fields, "session"), _seen_of(fields)
            )
        case "say":
            key = _token_of(fields, "key")
            return Say(key, _text_of(fields, key))
        case "rename":
            return Rename(_nick_of(fields))
        case "typing":
            return StartTyping()
        case "ping":
            return Ping()
        case _:
            raise _bad("type: give join, say, rename, typing or ping")


def _parse_object(data: str | bytes) -> Fields:
    if isinstance(data, bytes):
        raise _bad("only text frames are understood")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad("this is no JSON") from None
    if not isinstance(fields, dict):
        raise _bad("this is no JSON object")
    return fields


def _bad(text: str) -> Refused:
    return Refused(Code.BAD_MESSAGE, text)


def _string_of(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _bad(f"{name}: give a string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _bad(f"{name}: half a surrogate pair is no character")
    return value


def _token_of(fields: Fields, name: str) -> str:
    value = _string_of(fields, name)
    if not _token.fullmatch(value):
        raise _bad(f"{name}: give 8 to 64 ASCII letters, digits, hyphens and underscores")
    return value


def _room_of(fields: Fields) -> str:
    value = _string_of(fields, "room")
    if not _room.fullmatch(value):
        raise _bad("room: give 1 to 32 small ASCII letters, digits, hyphens and underscores")
    return value


def _nick_of(fields: Fields) -> str:
    value = unicodedata.normalize("NFC", " ".join(_string_of(fields, "nick").split()))
    if not value:
        raise _bad("nick: give a name that can be seen")
    if len(value) > MAX_NICK:
        raise Refused(Code.TOO_LONG, f"nick: at most {MAX_NICK} characters")
    fault = find_fault(value)
    if fault is not None:
        raise _bad(f"nick: {fault}")
    return value


def _text_of(fields: Fields, key: str) -> str:
    try:
        value = _string_of(fields, "text")
    except Refused as refused:
        refused.key = key
        raise
    if len(value) > MAX_TEXT:
        raise Refused(Code.TOO_LONG, f"text: at most {MAX_TEXT} characters", key=key)
    if not any(is_visible(character) for character in value):
        raise Refused(Code.BAD_MESSAGE, "text: say something", key=key)
    return value


def _seen_of(fields: Fields) -> int | None:
    value = fields.get("seen")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise _bad("seen: give the id of a message")
    return value


@dataclass(frozen=True, slots=True)
class Message:
    """Something that was said.

    :ivar wire: how it goes to clients, encoded once.
    """

    id: int
    key: str
    wire: str


@dataclass(frozen=True, slots=True)
class Joined:
    nick: str


@dataclass(frozen=True, slots=True)
class Left:
    nick: str


@dataclass(frozen=True, slots=True)
class Renamed:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Typing:
    nick: str


Event: TypeAlias = Message | Joined | Left | Renamed | Typing
"""What happens in a room, for everybody in it to know."""


def encode(type_: str, **fields: object) -> str:
    return json.dumps({"type": type_, **fields}, ensure_ascii=False, separators=(",", ":"))


def make_message(id_: int, nick: str, text: str, key: str) -> Message:
    return Message(id_, key, encode("message", id=id_, nick=nick, text=text, key=key))


def encode_event(event: Event) -> str:
    match event:
        case Message():
            return event.wire
        case Joined():
            return encode("joined", nick=event.nick)
        case Left():
            return encode("left", nick=event.nick)
        case Renamed():
            return encode("renamed", old=event.old, new=event.new)
        case Typing():
            return encode("typing", nick=event.nick)


def decode_event(wire: str) -> Event:
    """What :func:`encode_event` has encoded, on this server or on another."""
    fields = json.loads(wire)
    match fields["type"]:
        case "message":
            return Message(fields["id"], fields["key"], wire)
        case "joined":
            return Joined(fields["nick"])
        case "left":
            return Left(fields["nick"])
        case "renamed":
            return Renamed(fields["old"], fields["new"])
        case "typing":
            return Typing(fields["nick"])
        case other:
            raise ValueError(f"no event of this version: {other!r}")


def encode_welcome(
    room: str, nick: str, nicks: list[str], messages: list[Message], *, seen: int, complete: bool
) -> str:
    head = encode("welcome", room=room, nick=nick, nicks=nicks, seen=seen, complete=complete)
    # The messages are encoded already: they are put in as they are.
    return f'{head[:-1]},"messages":[{",".join([message.wire for message in messages])}]}}'


def encode_refusal(refused: Refused) -> str:
    return encode(
        "error",
        code=refused.code,
        text=refused.text,
        key=refused.key,
        retry_after=refused.retry_after,
    )
