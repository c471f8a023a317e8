"""The CPython 2.7 environment that has ``wstest``.

Autobahn|Testsuite never left Python 2, so it lives in a virtual environment of its own, made once
and kept under ``$TRIO_WS_AUTOBAHN`` (by default ``~/.cache/trio_ws-autobahn``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("wstest-requirements.txt")
VIRTUALENV = "virtualenv<20.16"

_PROGRAM = """
import sys
from autobahntestsuite import case, wstest
limit = int(sys.argv.pop(1))
for each in case.Case12_X_X + case.Case13_X_X:
    each.COUNT = min(each.COUNT, max(limit // each.LEN, 1))
sys.exit(wstest.run())
"""


class NoPython27(Exception):
    """No CPython 2.7 that works was found."""


def cache_directory() -> Path:
    """Where the environment is kept."""
    return Path(os.environ.get("TRIO_WS_AUTOBAHN") or Path.home() / ".cache" / "trio_ws-autobahn")


def find_python27() -> Path:
    """Find a CPython 2.7 with TLS, on PATH or among pyenv's versions.

    :raises NoPython27: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found)] if (found := shutil.which("python2.7")) else []
    candidates += sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True)
    for candidate in candidates:
        # A pyenv shim exists for every version, and fails for those that are not switched on.
        probe = subprocess.run(
            [candidate, "-c", "import pip, ssl"], capture_output=True, env=plain_environment()
        )
        if probe.returncode == 0:
            return candidate
    raise NoPython27("no CPython 2.7 with pip and ssl, on PATH or in pyenv: wstest needs one")


def wstest(compressed_bytes: int) -> list[str]:
    """The command that starts ``wstest``; the environment is made if it is not there yet.

    :param compressed_bytes: bytes of messages after which a case of sections 12 and 13 is done,
        though it may have more.
    :raises NoPython27: the environment is not there, and can not be made.
    :raises subprocess.CalledProcessError: pip failed; it has said why.
    """
    home = cache_directory()
    python = home / "env" / "bin" / "python"
    stamp = home / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        _create(find_python27(), home)
        stamp.write_text(wanted)
    return [str(python), "-c", _PROGRAM, str(compressed_bytes)]


def _create(python: Path, home: Path) -> None:
    print(f"making an environment for wstest in {home}", flush=True)
    tool = home / "virtualenv"
    for directory in (tool, home / "env"):
        shutil.rmtree(directory, ignore_errors=True)
    environment = plain_environment()
    # Errors only: pip for Python 2.7 has much to say about its age.
    pip = ["-m", "pip", "install", "-qq"]
    subprocess.run([python, *pip, "--target", tool, VIRTUALENV], check=True, env=environment)
    subprocess.run(
        [python, "-m", "virtualenv", "--quiet", home / "env"],
        check=True,
        env=environment | {"PYTHONPATH": str(tool)},
    )
    inside = home / "env" / "bin" / "python"
    subprocess.run([inside, *pip, "-r", REQUIREMENTS], check=True, env=environment)


def plain_environment() -> dict[str, str]:
    """Our environment without what would make another Python import our packages."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
