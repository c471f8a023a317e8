"""The code in README.md, in docs/ and in docstrings, as blocks that tests can run.

A Python block is a complete program unless the comment right above it says what else it is:
``<!-- example: server -->`` in Markdown, ``.. example: server`` in reStructuredText.

``server``
    a program that serves on port 8000 and prints a line once it listens. It runs while the page's
    other programs run, and they find it on port 8000.
``fragment``
    statements inside of a coroutine. They find ``ws``, whose peer sends everything back; a
    ``nursery``; and ``room``, a set of streams. Their time is Trio's: nothing waits for real.
``client``
    statements inside of a coroutine, too, that connect to port 8000 or to example.org, where an
    echo server is.
``handler``
    functions, the last of which is a handler: a server runs it, and a client says hello to it.
``tests``
    a module for pytest with pytest-trio; like the three before it, it finds ``trio``, ``trio_ws``
    and their ``testing`` imported.
``output``
    no Python: what the program above it prints.

Programs find ``certificate.pem`` and ``key.pem``, which are for ``127.0.0.1``, and the certificate
of their authority in ``authority.pem``. For port 8000 and example.org the tests put what they have.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from programs import ROOT

KINDS: Final = frozenset({"program", "server", "fragment", "client", "handler", "tests", "output"})

PAGES: Final = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.rst")),
    *sorted((ROOT / "trio_ws").glob("*.py")),
)

_markdown_block = re.compile(
    r"^(?:<!-- example: (?P<kind>.*) -->\n)?"
    r"(?P<indent>)```(?P<language>\w*)\n"
    r"(?P<code>(?:(?!```).*\n)*)```$",
    re.MULTILINE,
)
_rest_block = re.compile(
    r"^(?: *\.\. example: (?P<kind>.*)\n\n)?"
    r"(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n\n"
    r"(?P<code>(?:(?P=indent) +.*\n|\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class CodeBlock:
    """A block of code on a page.

    :ivar page: the file.
    :ivar line: where in the file the code begins, from 1.
    :ivar kind: one of :data:`KINDS`.
    """

    page: Path
    line: int
    kind: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_blocks(page: Path) -> list[CodeBlock]:
    """The blocks of *page* that are Python, or the output of Python."""
    return list(_find_blocks(page, page.read_text(encoding="utf-8")))


def _find_blocks(page: Path, text: str) -> Iterator[CodeBlock]:
    pattern = _markdown_block if page.suffix == ".md" else _rest_block
    for match in pattern.finditer(text):
        kind = match["kind"]
        if match["language"] == "python" or kind is not None:
            line = text.count("\n", 0, match.start("code")) + 1
            code = textwrap.dedent(match["code"]).rstrip() + "\n"
            yield CodeBlock(page, line, kind or "program", code)


BLOCKS: Final = [block for page in PAGES for block in find_blocks(page)]


def blocks_of(kind: str) -> list[CodeBlock]:
    return [block for block in BLOCKS if block.kind == kind]


def server_of(page: Path) -> CodeBlock | None:
    """The server that the programs of *page* talk to."""
    servers = [block for block in blocks_of("server") if block.page == page]
    assert len(servers) <= 1, f"{page} has several servers"
    return servers[0] if servers else None


def output_of(program: CodeBlock) -> str | None:
    """What *program* prints, if the page says so."""
    following = BLOCKS[BLOCKS.index(program) + 1 :][:1]
    return following[0].code if following and following[0].kind == "output" else None
