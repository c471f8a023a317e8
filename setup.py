"""Builds the C twin of trio_ws._frames where that is possible; the rest is in pyproject.toml."""

from __future__ import annotations

import sys
import sysconfig

from setuptools import Extension, setup

# A free-threaded CPython has no stable ABI, and setuptools refuses to build a wheel for it.
if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup(
        ext_modules=[
            Extension(
                "trio_ws._speedups",
                ["trio_ws/_speedups.c"],
                # -O3 makes the compiler vectorise the loops.
                extra_compile_args=["-std=c11", "-O3"],
                py_limited_api=True,
                optional=True,
            )
        ],
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
else:
    setup()
