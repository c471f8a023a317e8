"""zlib-ng in the place of zlib: how it is chosen. What it does is in test_deflate.py."""

from __future__ import annotations

import importlib.util
import os
import sys
import zlib
from pathlib import Path

import pytest
from programs import run
from zlib_ng import zlib_ng

from trio_ws._deflate import Zlib

VARIABLE = "TRIO_WS_FASTER_ZLIB"

PROGRAM = """
import trio, trio_ws.testing
from trio_ws import PermessageDeflate, _deflate

async def main():
    async with trio.open_nursery() as nursery:
        ws, peer = await trio_ws.testing.websocket_pair(nursery, compression=PermessageDeflate())
        await ws.send("the same again " * 1000)
        assert await peer.receive() == "the same again " * 1000
        print(ws.compression is not None, _deflate.ZLIB.__name__)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def chosen_library() -> Zlib:
    """What a copy of the module chooses anew."""
    spec = importlib.util.find_spec("trio_ws._deflate")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name], original = module, sys.modules[spec.name]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules[spec.name] = original
    library: Zlib = module.ZLIB
    return library


@pytest.mark.parametrize("value", [None, "", "0"])
def test_zlib_is_in_use_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert chosen_library() is zlib


def test_the_environment_chooses_zlib_ng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    assert chosen_library() is zlib_ng  # type: ignore[comparison-overlap]  # a module is a Zlib


def test_where_zlib_ng_is_not_installed_choosing_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-ws\[faster-zlib\]'"):
        chosen_library()


async def test_messages_are_compressed_with_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    monkeypatch.setenv(VARIABLE, "1")
    ended = await run(script, cwd=tmp_path)
    assert (ended.code, ended.output) == (0, "True zlib_ng.zlib_ng\n")
    assert os.environ[VARIABLE] == "1"
