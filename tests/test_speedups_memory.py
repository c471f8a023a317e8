"""The C twin and memory: none is kept, lost or overrun, whatever the arguments, and if it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from twins import TWINS, Twin

import trio_ws

C_TWINS = pytest.mark.parametrize("twin", TWINS[1:])

KEY = b"abcd"
TEXT = "aé€😀".encode() * 1000
MASKED = TWINS[0].pack_frame(0x81, TEXT, KEY) + TWINS[0].pack_frame(0x82, b"Hello", KEY)
COMPRESSED = TWINS[0].pack_frame(0xC1, bytes(1000), KEY)
NOT_TEXT = TWINS[0].pack_frame(0x81, 5000 * b"\xff", KEY)


class NoBool:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


# The wrong arguments are meant for what is behind the annotations.
Arguments = tuple[object, ...]
CALLS: list[tuple[str, Arguments]] = [
    ("apply_mask", (bytearray(1000), KEY, 3)),
    ("decode_compressed", (bytearray(COMPRESSED), 0, len(COMPRESSED), True)),
    ("decode_messages", (bytearray(MASKED), 0, len(MASKED), True, None, 10**6)),
    ("decode_messages", (bytearray(NOT_TEXT), 0, len(NOT_TEXT), True, None, 10**6)),
    ("mask_in_place", (bytearray(1000), 1, KEY, 3)),
    ("pack_frame", (0x82, bytearray(1000), KEY)),
    ("pack_frame", (0x82, bytearray(1000), None)),
    ("pack_header", (0x82, 1000, KEY)),
    ("pack_messages", (5 * [(2, TEXT, True, False, False)], 10**6, 10**6, None, 0)),
    ("pack_messages", (3 * [(2, TEXT, True, False, False)], 10**6, 10**6, 3 * KEY, 0)),
    ("parse_header", (bytearray(COMPRESSED), 0, len(COMPRESSED))),
    ("validate_utf8", (TEXT[-4:-2], bytearray(TEXT[-2:] + TEXT), False)),
    ("validate_utf8", (b"", bytearray(TEXT), True)),
    ("validate_utf8", (b"", bytearray(b"a\xff"), False)),
    ("validate_utf8", (b"\xed", bytearray(b"\xa0"), False)),
]
WRONG_CALLS: list[tuple[str, Arguments]] = [
    ("decode_compressed", (bytearray(9), 5, 3, True)),
    ("decode_compressed", (bytearray(9), 0, 10, True)),
    ("decode_messages", (bytearray(9), 5, 3, True, None, 1)),
    ("decode_messages", (bytearray(9), 0, 10, True, None, 1)),
    ("mask_in_place", (bytearray(9), 10, KEY)),
    ("mask_in_place", (memoryview(bytes(9)), 0, KEY)),
    ("pack_frame", (256, bytearray(9), KEY)),
    ("pack_frame", (-1, bytearray(9), KEY)),
    ("pack_header", (0x82, 2**64, None)),
    ("pack_header", (0x82, -1, None)),
    ("pack_messages", ([None], 9, 9, None, 0)),
    ("pack_messages", ([()], 9, 9, None, 0)),
    ("pack_messages", ([(256, b"", True, False, False)], 9, 9, None, 0)),
    ("pack_messages", ([("", b"", True, False, False)], 9, 9, None, 0)),
    ("pack_messages", (map(NoBool.__bool__, [NoBool()]), 9, 9, None, 0)),
    ("parse_header", (bytearray(9), 5, 3)),
    ("parse_header", (bytearray(9), 0, 10)),
    ("validate_utf8", (b"\xe2", bytearray(b"\xe2"), True)),
    *((name, (*arguments, None)) for name, arguments in CALLS if len(arguments) > 2),
    *((name, arguments[:1]) for name, arguments in CALLS),
    *(
        (name, (*arguments[:place], wrong, *arguments[place + 1 :]))
        for name, arguments in CALLS
        for place in range(len(arguments))
        for wrong in (NoBool(), "a", b"abc", 2**200)
    ),
]


def ends_as(twin: Twin, name: str, arguments: Arguments) -> type[BaseException] | None:
    function: Callable[..., object] = getattr(twin, name)
    try:
        function(*arguments)
    except Exception as error:
        return type(error)
    return None


def references(arguments: Arguments) -> list[int]:
    """Those to the buffers among them; small numbers and None have users everywhere."""
    return [sys.getrefcount(each) for each in arguments if isinstance(each, bytes | bytearray)]


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage is not measured in the block: that takes memory, too."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


@C_TWINS
def test_wrong_arguments_are_errors_and_nothing_worse(twin: Twin) -> None:
    for name, arguments in WRONG_CALLS:
        error = ends_as(twin, name, arguments)
        assert error is None or issubclass(
            error, TypeError | ValueError | BufferError | OverflowError | ZeroDivisionError
        )


@C_TWINS
def test_no_buffer_stays_locked(twin: Twin) -> None:
    for name, arguments in CALLS + WRONG_CALLS:
        ends_as(twin, name, arguments)
        for argument in arguments:
            if isinstance(argument, bytearray):
                argument.append(0)
                argument.pop()


@C_TWINS
def test_no_reference_is_kept_or_lost(twin: Twin) -> None:
    for name, arguments in CALLS + WRONG_CALLS:
        counts = references(arguments)
        for _ in range(10):
            ends_as(twin, name, arguments)
        assert references(arguments) == counts, name


@C_TWINS
def test_no_memory_is_kept(twin: Twin) -> None:
    for name, arguments in CALLS + WRONG_CALLS:
        ends_as(twin, name, arguments)
        tracemalloc.start()
        try:
            ends_as(twin, name, arguments)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(50):
                ends_as(twin, name, arguments)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 1000, name


@C_TWINS
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_memory_may_end_at_any_allocation(twin: Twin, name: str, arguments: Arguments) -> None:
    hooks = pytest.importorskip("_testcapi", reason="this Python can not be told to fail")
    usually = ends_as(twin, name, arguments)
    counts = references(arguments)
    ended: list[type[BaseException] | None] = []
    for successes in range(40):
        with untraced():
            hooks.set_nomemory(successes)
            try:
                error = ends_as(twin, name, arguments)
            finally:
                hooks.remove_mem_hooks()
        ended.append(error)
    assert set(ended) <= {MemoryError, usually}
    assert MemoryError in ended or name in ("mask_in_place", "validate_utf8")
    assert ended[-1] is usually
    assert references(arguments) == counts


# With what a compiler can find


SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def address_sanitizer() -> Path:
    """What has to be loaded before Python, which is not compiled with it."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    command = ["gcc", "-print-file-name=libasan.so"]
    return Path(subprocess.check_output(command, text=True).strip())


def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path: Path) -> None:
    library = address_sanitizer()
    source = Path(trio_ws.__file__).parent
    package = tmp_path / "trio_ws"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    include = f"-I{sysconfig.get_path('include')}"
    module = package / "_speedups.abi3.so"
    options = ["-std=c11", "-g", "-O2", "-shared", "-fPIC", include, *SANITIZERS, *WARNINGS]
    subprocess.run(["gcc", *options, package / "_speedups.c", "-o", module], check=True)

    environment = os.environ | {
        "LD_PRELOAD": str(library),
        # Python itself keeps much until it ends.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        # Hypothesis makes its tables of Unicode there, once.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(".hypothesis").absolute()),
    }
    for name in ("TRIO_WS_SPEEDUPS", "PYTEST_ADDOPTS"):
        environment.pop(name, None)

    def python(*arguments: str | Path) -> str:
        command = [sys.executable, *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = ended.stdout.decode()
        assert ended.returncode == 0, output
        return output

    # The working directory is first on the path: so this is the package with the sanitizers.
    imported = "import trio_ws._speedups as speedups; print(speedups.__file__)"
    assert python("-c", imported).strip() == str(module)
    tests = [Path(__file__).with_name("test_speedups.py"), Path(__file__)]
    # What takes longest, every start of a text there is, need not be done again, nor this test.
    selected = ("-k", "not starts_of_text and not sanitizers", "-p", "no:cacheprovider")
    assert " passed" in python("-m", "pytest", "-x", *selected, *tests)
