"""The C twin of `_frames`: that it is in use, that it can be turned off, that it gives the same."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import trio_ws
from trio_ws import _frames

FUNCTIONS = ["apply_mask", "mask_in_place"]


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
