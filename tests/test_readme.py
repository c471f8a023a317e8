"""What the README, the documentation and the docstrings show is run: see :mod:`code_blocks`."""

from __future__ import annotations

import inspect
import logging
import re
import signal
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from code_blocks import BLOCKS, KINDS, PAGES, CodeBlock, blocks_of, output_of, server_of
from programs import ROOT, free_port, run, running

import trio_ws
from trio_ws.testing import websocket_pair

IMPORTS = "import trio, trio.testing, trio_ws, trio_ws.testing\n"

Handler = Callable[[trio_ws.WebSocketStream], Awaitable[object]]


def each(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks_of(kind), ids=str)


def with_port(code: str, port: int) -> str:
    return code.replace("wss://example.org/", f"ws://localhost:{port}/").replace("8000", str(port))


def write_program(directory: Path, name: str, code: str) -> Path:
    script = directory / name
    script.write_text(code, encoding="utf-8")
    return script


@asynccontextmanager
async def running_server(block: CodeBlock | None, directory: Path) -> AsyncGenerator[int]:
    """Run the server of a page, if it has one; the value is the port that stands for 8000."""
    port = free_port()
    if block is None:
        yield port
        return
    async with running(
        write_program(directory, "server.py", with_port(block.code, port))
    ) as program:
        line = await program.read_line()
        assert str(port) in line, f"instead of saying where it listens: {line}"
        yield port


async def serve(nursery: trio.Nursery, handler: Handler) -> trio_ws.WebSocketServer:
    server: trio_ws.WebSocketServer = await nursery.start(
        partial(trio_ws.serve_websocket, handler, 0, host="127.0.0.1")
    )
    return server


def define(block: CodeBlock, code: str, first_line: int) -> Any:
    """The last coroutine function of the module *code*, of which that is the place on the page."""
    names: dict[str, Any] = {}
    exec(IMPORTS, names)
    exec(compile("\n" * (first_line - 1) + code, str(block.page), "exec"), names)
    return [value for value in names.values() if inspect.iscoroutinefunction(value)][-1]


def define_coroutine(block: CodeBlock, statements: str, parameters: str) -> Any:
    head = f"async def fragment({parameters}):\n"
    return define(block, head + textwrap.indent(statements, "    "), block.line - 1)


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


def test_every_python_block_is_found_and_its_kind_is_known() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = text.count("\n```python\n") + text.count(".. code-block:: python\n")
        found = [block for block in BLOCKS if block.page == page and block.kind != "output"]
        assert len(found) == shown, page
    assert {block.kind for block in BLOCKS} <= KINDS


@each("server")
async def test_a_server_serves(block: CodeBlock, tmp_path: Path) -> None:
    async with (
        running_server(block, tmp_path) as port,
        trio_ws.open_websocket(f"ws://localhost:{port}/") as ws,
    ):
        await ws.send("hello")


@each("server")
async def test_a_server_ends_in_a_line_on_ctrl_c_and_when_its_port_is_taken(
    block: CodeBlock, tmp_path: Path
) -> None:
    port = free_port()
    script = write_program(tmp_path, "server.py", with_port(block.code, port))
    async with running(script) as program:
        await program.read_line()
        second = await run(script)
        program.send_signal(signal.SIGINT)
        first = await program.wait()
    assert (first.code, first.output) == (0, "stopped\n")
    assert second.code == 1
    assert second.output.startswith("no server: ")
    assert second.output.count("\n") == 1


@each("program")
async def test_a_program_runs_and_prints_what_its_page_says(
    block: CodeBlock, tmp_path: Path, certificate_authority: trustme.CA
) -> None:
    certificate = certificate_authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate_authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    async with running_server(server_of(block.page), tmp_path) as port:
        program = write_program(tmp_path, "program.py", with_port(block.code, port))
        ended = await run(program, cwd=tmp_path)
    assert ended.code == 0, ended.output
    expected = output_of(block)
    if expected is None:
        assert "Traceback" not in ended.output
    else:
        assert ended.output == with_port(expected, port)


@each("fragment")
async def test_a_fragment_runs(
    block: CodeBlock, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    code = with_port(block.code, free_port())
    fragment = define_coroutine(block, code, "ws, room, nursery")
    async with trio.open_nursery() as echo_nursery:
        ws, peer = await websocket_pair(echo_nursery)
        echo_nursery.start_soon(echo, peer)
        with trio.fail_after(24 * 60 * 60):
            await fragment(ws, {ws}, nursery)
        await ws.aclose()
    nursery.cancel_scope.cancel()


@each("client")
async def test_a_client_runs(block: CodeBlock, nursery: trio.Nursery) -> None:
    server = await serve(nursery, echo)
    await define_coroutine(block, with_port(block.code, server.port), "nursery")(nursery)
    await server.shutdown()


@each("handler")
async def test_a_handler_serves_a_client_without_an_error(
    block: CodeBlock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    handler = define(block, block.code, block.line)
    server = await serve(nursery, handler)
    async with trio_ws.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
        await ws.send("hello")
    await server.shutdown()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_tests_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one run, since most of the time goes into starting pytest."""
    # What this run is told, to measure coverage say, is not for that one.
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    write_program(tmp_path, "pytest.ini", "[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    blocks = blocks_of("tests")
    for block in blocks:
        write_program(tmp_path, f"test_{block.page.stem}_{block.line}.py", IMPORTS + block.code)
    ended = await run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert ended.code == 0, ended.output
    assert " skipped" not in ended.output
    assert blocks


@pytest.mark.parametrize("name", trio_ws.__all__)
def test_every_public_name_has_its_place_in_the_reference(name: str) -> None:
    reference = (ROOT / "docs" / "reference.rst").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. auto\w+:: {name}\b", reference, re.MULTILINE)


@pytest.mark.parametrize("ending", ["python -m examples.chat", "python -m pytest"])
def test_the_readme_has_one_line_for_each_way_to_set_up(ending: str) -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("pip install ")]
    assert len(commands) == 2
    assert len([line for line in commands if line.endswith(f" && {ending}")]) == 1
