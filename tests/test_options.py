"""Options check themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator
from functools import partial

import pytest

from trio_ws._frames import Opcode
from trio_ws._options import (
    PermessageDeflate,
    StreamKeywords,
    StreamOptions,
    Timeouts,
    make_options,
)

OPTIONAL_SIZES = ["max_message_size", "max_frame_size"]
SIZES = ["max_handshake_size", "max_inbox_size", "max_outbox_size"]


def stream_options(**keywords: object) -> StreamOptions:
    return StreamOptions(**keywords)  # type: ignore[arg-type]  # names come from a table


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert Timeouts() == Timeouts(handshake=30.0, idle=60.0, keep_alive_pings=True)
    assert StreamOptions() == StreamOptions(
        timeouts=Timeouts(),
        max_message_size=16 * 2**20,
        max_frame_size=None,
        max_handshake_size=65536,
        max_inbox_size=2**18,
        max_outbox_size=2**18,
        control_callback=None,
    )


def test_suggested_timeouts_are_those_of_beast() -> None:
    client = Timeouts.suggested("client")
    server = Timeouts.suggested("server")
    assert client == Timeouts(handshake=30, idle=None, keep_alive_pings=False)
    assert server == Timeouts(handshake=30, idle=300, keep_alive_pings=True)


def test_there_are_two_roles() -> None:
    with pytest.raises(ValueError, match="role='both': give 'client' or 'server'"):
        Timeouts.suggested("both")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("name", ["handshake", "idle"])
@pytest.mark.parametrize("seconds", [0, -1, -math.inf, math.nan])
def test_a_timeout_is_positive(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{name}=.*above 0, or None"):
        Timeouts(**{name: seconds})  # type: ignore[arg-type]  # names come from a table


@pytest.mark.parametrize("name", ["handshake", "idle"])
@pytest.mark.parametrize("seconds", ["5", b"5", [5]])
def test_a_timeout_is_a_number(name: str, seconds: object) -> None:
    with pytest.raises(TypeError, match=f"{name}=.*give a number of seconds, or None"):
        Timeouts(**{name: seconds})  # type: ignore[arg-type]  # names come from a table


@pytest.mark.parametrize("seconds", [0.001, 1, math.inf])
def test_a_timeout_in_seconds(seconds: float) -> None:
    timeouts = Timeouts(handshake=seconds, idle=seconds + 1)
    assert timeouts.handshake_seconds == seconds
    assert timeouts.idle_seconds == seconds + 1


def test_no_timeout_is_infinite() -> None:
    timeouts = Timeouts(handshake=None, idle=None)
    assert timeouts.handshake_seconds == timeouts.idle_seconds == math.inf


@pytest.mark.parametrize("timeouts", [3.0, None, {"handshake": 3.0}])
def test_timeouts_that_are_none_are_told_what_to_write(timeouts: object) -> None:
    with pytest.raises(TypeError, match=r"must be a Timeouts, e\.g\. Timeouts\(handshake=3\.0\)"):
        stream_options(timeouts=timeouts)


@pytest.mark.parametrize("name", OPTIONAL_SIZES + SIZES)
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_is_positive(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={size}: give a positive number of bytes"):
        stream_options(**{name: size})


@pytest.mark.parametrize("name", OPTIONAL_SIZES + SIZES)
def test_a_size_may_be_one_byte(name: str) -> None:
    assert getattr(stream_options(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", OPTIONAL_SIZES + SIZES)
@pytest.mark.parametrize("size", [4096 / 2, 5e4, "64", b"64"])
def test_a_size_is_an_int(name: str, size: object) -> None:
    with pytest.raises(TypeError, match=f"{name}={size!r}: give a whole number, as an int"):
        stream_options(**{name: size})


@pytest.mark.parametrize("name", SIZES)
def test_some_sizes_must_be(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}=None: give a whole number"):
        stream_options(**{name: None})


@pytest.mark.parametrize(
    "name",
    ["server_max_window_bits", "client_max_window_bits", "level", "mem_level", "min_size"],
)
def test_what_compression_is_told_is_an_int(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}=9.0: give a whole number"):
        PermessageDeflate(**{name: 9.0})  # type: ignore[arg-type]  # names come from a table


@pytest.mark.parametrize("compression", [True, "deflate", 15])
def test_compression_that_is_none_is_told_what_to_write(compression: object) -> None:
    with pytest.raises(TypeError, match=r"compression must be .*PermessageDeflate\(\)"):
        stream_options(compression=compression)


async def async_callback(opcode: Opcode, payload: bytes) -> None: ...


async def generator_callback(  # noqa: ASYNC124, ASYNC900 (it is the mistake)
    opcode: Opcode, payload: bytes
) -> AsyncGenerator[None]:
    yield


class AsyncCallback:
    async def __call__(self, opcode: Opcode, payload: bytes) -> None: ...


@pytest.mark.parametrize(
    "callback", [async_callback, generator_callback, AsyncCallback(), partial(async_callback)]
)
def test_a_control_callback_is_not_async(callback: object) -> None:
    with pytest.raises(TypeError, match="control_callback must not be async"):
        stream_options(control_callback=callback)


def test_a_control_callback_can_be_called() -> None:
    with pytest.raises(TypeError, match="control_callback must be a function, not 'print'"):
        stream_options(control_callback="print")


def keywords(**options: object) -> StreamKeywords:
    return options  # type: ignore[return-value]  # the mistakes under test


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timeout", r"say timeouts=Timeouts\(...\)"),
        ("compress", "is compression meant"),
        ("max_size", "is max_.*_size meant"),
        ("tls", "there are compression, control_callback, max_"),
    ],
)
def test_an_option_that_there_is_not_is_named_and_so_is_the_right_one(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"there is no option {name}: {hint}"):
        make_options(keywords(**{name: 5}))
    with pytest.raises(TypeError, match=f"there is no option {name}: {hint}"):
        StreamOptions().replace(keywords(**{name: 5}))


@pytest.mark.parametrize("name", OPTIONAL_SIZES)
def test_a_size_without_limit(name: str) -> None:
    assert getattr(stream_options(**{name: None}), name) is None


def test_replace_changes_what_is_named_and_nothing_else() -> None:
    seen: list[tuple[Opcode, bytes]] = []

    def callback(opcode: Opcode, payload: bytes) -> None:
        seen.append((opcode, payload))

    before = StreamOptions(max_inbox_size=1)
    after = before.replace({"max_frame_size": 10, "control_callback": callback})
    assert after == StreamOptions(max_inbox_size=1, max_frame_size=10, control_callback=callback)
    assert before == StreamOptions(max_inbox_size=1)
    assert before.replace({}) == before


def test_replace_checks_again() -> None:
    with pytest.raises(ValueError, match="max_frame_size=0"):
        StreamOptions().replace({"max_frame_size": 0})


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StreamOptions().max_frame_size = 1  # type: ignore[misc]  # the mistake under test
    with pytest.raises(dataclasses.FrozenInstanceError):
        Timeouts().idle = 1  # type: ignore[misc]  # the mistake under test


def test_every_option_is_a_keyword_of_the_entry_points() -> None:
    fields = {field.name for field in dataclasses.fields(StreamOptions)}
    assert fields == StreamKeywords.__optional_keys__
