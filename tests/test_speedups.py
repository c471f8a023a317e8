"""The C twin of `_frames`: that it is in use, that it can be turned off, that it gives the same."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sys
import sysconfig
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import TWINS, Twin

import trio_ws
from trio_ws import _frames

FUNCTIONS = [
    "apply_mask",
    "decode_compressed",
    "decode_messages",
    "mask_in_place",
    "pack_frame",
    "pack_header",
    "pack_messages",
    "parse_header",
    "validate_utf8",
]


def fresh_frames() -> ModuleType:
    """A copy of the module that picks its functions anew."""
    spec = importlib.util.find_spec("trio_ws._frames")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def can_compile() -> bool:
    """Whether there is what it takes to build the module: a compiler and Python's headers."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(compiler) is not None and header.exists()


# Which twin is in use


def test_the_functions_in_c_are_in_use_where_they_can_be() -> None:
    if os.environ.get("TRIO_WS_SPEEDUPS") == "0":
        assert not trio_ws.SPEEDUPS
    elif can_compile():
        assert trio_ws.SPEEDUPS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_of_the_twin_that_is_said_to_be_in_use(name: str) -> None:
    is_pure = getattr(_frames, name) is getattr(_frames, f"pure_{name}")
    assert is_pure is not trio_ws.SPEEDUPS


def uses_pure_functions(frames: ModuleType) -> bool:
    pure = [getattr(frames, name) is getattr(frames, f"pure_{name}") for name in FUNCTIONS]
    assert all(pure) or not any(pure)
    assert frames.SPEEDUPS is not all(pure)
    return all(pure)


def test_the_environment_turns_the_functions_in_c_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_SPEEDUPS", "0")
    assert uses_pure_functions(fresh_frames())


@pytest.mark.parametrize("value", [None, "", "1"])
def test_they_are_on_otherwise(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("TRIO_WS_SPEEDUPS", raising=False)
    if value is not None:
        monkeypatch.setenv("TRIO_WS_SPEEDUPS", value)
    assert uses_pure_functions(fresh_frames()) is not can_compile()


def test_without_the_functions_in_c_all_works_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_WS_SPEEDUPS", raising=False)
    monkeypatch.setitem(sys.modules, "trio_ws._speedups", None)
    assert uses_pure_functions(fresh_frames())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_take_the_same_parameters(name: str) -> None:
    def parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
        signature = inspect.signature(function)
        return [(each.name, each.kind, each.default) for each in signature.parameters.values()]

    assert parameters(getattr(_frames, name)) == parameters(getattr(_frames, f"pure_{name}"))


# The same answers


Outcome = tuple[object, ...]
Call = Callable[[Twin], object]

KEYS = st.binary(min_size=4, max_size=4)
FIRST_BYTES = st.integers(0, 255)
LENGTHS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2**17), st.integers(120, 130))
OFFSETS = st.integers(0, 2**64)
TEXT_PIECES = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.text(st.sampled_from("aé€😀"), max_size=80).map(str.encode),
    st.integers(0, 100).map(lambda size: size * b"a"),
    st.binary(max_size=3),
    st.lists(st.sampled_from(b"\x7f\x80\xbf\xc2\xe0\x9f\xa0\xed\xf0\x8f\x90\xf4"), max_size=4).map(
        bytes
    ),
)
ALMOST_TEXT = st.lists(TEXT_PIECES, max_size=5).map(b"".join)


def outcome(call: Call, twin: Twin) -> Outcome:
    try:
        returned = call(twin)
    except Exception as error:
        return type(error), error.args
    # Not what was returned itself: 1 == True, b"" == bytearray().
    return type(returned), repr(returned)


def exact(data: bytes) -> memoryview:
    """A buffer without the zero that follows bytes: a sanitizer sees what is read behind it."""
    return memoryview(array("B", data))


def assert_same(call: Call) -> None:
    first, *others = [outcome(call, twin) for twin in TWINS]
    for other in others:
        assert other == first


@given(st.binary(max_size=300), KEYS, OFFSETS)
def test_the_same_bytes_are_masked(payload: bytes, key: bytes, offset: int) -> None:
    assert_same(lambda twin: twin.apply_mask(exact(payload), key, offset))


@given(st.binary(max_size=300), st.integers(-1, 301), KEYS, OFFSETS)
def test_the_same_bytes_are_masked_in_place(
    payload: bytes, start: int, key: bytes, offset: int
) -> None:
    def call(twin: Twin) -> bytes:
        buffer = exact(payload)
        twin.mask_in_place(buffer, start, key, offset)
        return bytes(buffer)

    assert_same(call)


MESSAGE_FIELDS = st.tuples(
    st.sampled_from([1, 2, 1, 2, 0, None]),
    st.binary(max_size=200) | st.sampled_from([bytes(70000), b"a" * 125, b"b" * 126]),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, True]),
)


@given(
    st.lists(MESSAGE_FIELDS, max_size=20),
    st.sampled_from([70000, 125, 124]),
    st.integers(-1, 1000) | st.just(sys.maxsize),
    st.none() | st.integers(0, 20).map(lambda count: bytes(range(4 * count))),
    st.integers(0, 1 << 40),
)
def test_the_same_messages_are_packed(
    messages: list[_frames.MessageFields],
    max_payload: int,
    limit: int,
    keys: bytes | None,
    start: int,
) -> None:
    assert_same(lambda twin: twin.pack_messages(messages, max_payload, limit, keys, start))


def validation(data: bytes, final: bool) -> Call:
    return lambda twin: twin.validate_utf8(b"", exact(data), final)


@pytest.mark.parametrize("final", [False, True])
def test_the_same_starts_of_text_are_valid_and_the_same_bytes_are_the_errors(final: bool) -> None:
    for lead in range(0x7F, 0x100):
        for second in range(0x100):
            for rest in (b"", b"\x80", b"\x7f", b"\xbf\xc0", b"\xbf\x80", b"\x80\x80a"):
                data = bytes([lead, second]) + rest
                assert_same(validation(data, final))


@given(FIRST_BYTES, LENGTHS, st.none() | KEYS)
def test_the_same_header_is_packed(first_byte: int, length: int, key: bytes | None) -> None:
    assert_same(lambda twin: twin.pack_header(first_byte, length, key))


@given(FIRST_BYTES, st.binary(max_size=300), st.none() | KEYS)
def test_the_same_frame_is_packed(first_byte: int, payload: bytes, key: bytes | None) -> None:
    assert_same(lambda twin: twin.pack_frame(first_byte, exact(payload), key))


@given(st.one_of(st.just(b""), ALMOST_TEXT), ALMOST_TEXT, st.booleans())
def test_the_same_is_text_and_the_same_byte_is_the_error(
    pending: bytes, data: bytes, final: bool
) -> None:
    assert_same(lambda twin: twin.validate_utf8(pending, exact(data), final))


# Sizes at which something changes: the form of the length, or where text is unmasked.
EDGES = [0, 1, 124, 125, 126, 127, 4095, 4096, 4097, 65535, 65536, 70000]
WIDTHS = {0: 125, 2: 2**16 - 1, 8: 2**64 - 1}


@st.composite
def any_frame(draw: st.DrawFn, size: int) -> bytes:
    """A frame of about *size* bytes whose header may say anything, true or not."""
    first_byte = draw(st.sampled_from([0x81, 0x82, 0xC1, 0xC2]) | FIRST_BYTES)
    length = max(0, size + draw(st.integers(-1, 1)))
    width = draw(st.sampled_from([each for each, most in WIDTHS.items() if length <= most]))
    key = draw(st.sampled_from([b"", b"\0\0\0\0", b"abcd"]))
    mask_bit = 0x80 if key else 0
    second = {0: length, 2: 126, 8: 127}[width] | mask_bit
    header = bytes([first_byte, second]) + (length.to_bytes(width, "big") if width else b"") + key
    return header + size * draw(st.sampled_from([b"a", b"\xff"]))


@given(
    st.data(),
    st.booleans(),
    st.sampled_from(EDGES),
    st.integers(0, 3),
    st.integers(-1, 300) | st.just(sys.maxsize),
)
@settings(max_examples=300)
def test_the_same_messages_are_decoded(
    data: st.DataObject, masked: bool, size: int, skipped: int, limit: int
) -> None:
    keys = KEYS if masked else st.none()
    simple = st.builds(_frames.pack_frame, st.sampled_from([0x81, 0x82]), ALMOST_TEXT, keys)
    pieces = [bytes(skipped), *data.draw(st.lists(simple, max_size=4)), data.draw(any_frame(size))]
    wire = b"".join(pieces)
    end = len(wire) - data.draw(st.sampled_from([0, 1, size + 2]))
    max_size = data.draw(st.sampled_from([None, 2**70, size - 1, size, size + 1, 10]))

    def call(twin: Twin) -> object:
        return twin.decode_messages(exact(wire), skipped, end, masked, max_size, limit)

    assert_same(call)


@given(st.data(), st.booleans(), st.sampled_from(EDGES), st.integers(0, 3))
@settings(max_examples=300)
def test_the_same_compressed_message_is_decoded(
    data: st.DataObject, masked: bool, size: int, skipped: int
) -> None:
    wire = bytes(skipped) + data.draw(any_frame(size)) + bytes(skipped)
    end = len(wire) - data.draw(st.integers(0, min(len(wire) - skipped, size + 2)))
    assert_same(lambda twin: twin.decode_compressed(exact(wire), skipped, end, masked))


@given(st.data(), st.sampled_from(EDGES), st.integers(0, 3))
def test_the_same_header_is_parsed(data: st.DataObject, size: int, skipped: int) -> None:
    wire = bytes(skipped) + data.draw(any_frame(size)) + bytes(skipped)
    end = skipped + data.draw(st.integers(0, min(len(wire) - skipped, 20)))
    assert_same(lambda twin: twin.parse_header(exact(wire), skipped, end))


@given(st.binary(max_size=20))
def test_the_same_header_is_parsed_of_anything(wire: bytes) -> None:
    assert_same(lambda twin: twin.parse_header(exact(wire), 0, len(wire)))


@given(st.integers(-2, 9), st.integers(-2, 9))
def test_the_same_bounds_are_refused(position: int, end: int) -> None:
    wire = _frames.pack_frame(0x81, b"Hello", None)
    assert_same(lambda twin: twin.decode_messages(wire, position, end, False, None, 1))
    wire = _frames.pack_frame(0xC1, b"Hello", None)
    assert_same(lambda twin: twin.decode_compressed(wire, position, end, False))
    assert_same(lambda twin: twin.parse_header(wire, position, end))
