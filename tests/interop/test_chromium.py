"""permessage-deflate with Chromium, which offers it always: a page that sends everything back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import pytest
import trio
from chat_browser import running_browser
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import trio_ws
from trio_ws import PermessageDeflate

PAGE = """<!DOCTYPE html>
<title>open</title>
<script>
const ws = new WebSocket(`ws://${location.host}/`);
ws.binaryType = "arraybuffer";
ws.onopen = () => ws.send(ws.extensions);
ws.onmessage = (event) => ws.send(event.data);
ws.onclose = (event) => document.title = `closed with ${event.code}`;
</script>
"""

AGREED = {
    "defaults": (
        PermessageDeflate(),
        "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    ),
    "no takeover": (
        PermessageDeflate(server_no_context_takeover=True, client_no_context_takeover=True),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=12; client_max_window_bits=12",
    ),
    "smallest windows": (
        PermessageDeflate(server_max_window_bits=9, client_max_window_bits=9),
        "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9",
    ),
    "largest windows": (
        PermessageDeflate(server_max_window_bits=15, client_max_window_bits=15),
        "permessage-deflate",
    ),
}

TEXT = "Zwölf Boxkämpfer jagen Виктор quer über den 大きな Sylter Deich \U0001f94a\n\0" * 4
NOISE = random.Random(7692).randbytes(100_000)
LARGE = "é" * (512 * 1024)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


async def show_page(request: trio_ws.Request) -> trio_ws.Response | None:
    await trio.lowlevel.checkpoint()
    if request.header("upgrade") is not None:
        return None
    return trio_ws.Response(200, {"Content-Type": "text/html"}, PAGE)


def visit(driver: webdriver.Chrome, url: str) -> str:
    """Open the page, and wait until its WebSocket has closed; what it says then."""
    driver.get(url)
    WebDriverWait(driver, 30, 0.05).until(lambda _: driver.title.startswith("closed"))
    return driver.title


async def exchange_everything(ws: trio_ws.WebSocketStream) -> None:
    for message in (TEXT, TEXT, b"", TEXT.encode(), "", NOISE, TEXT, LARGE, TEXT):
        await ws.send(message)
        assert await ws.receive() == message
    for part in (TEXT, "", LARGE):
        await ws.send_some(part, fin=False)
        assert await ws.ping() > 0
    await ws.send_some(TEXT, fin=True)
    assert await ws.receive() == TEXT + LARGE + TEXT
    await ws.send(TEXT, compress=False)
    assert await ws.receive() == TEXT


@pytest.mark.parametrize(("options", "extensions"), AGREED.values(), ids=AGREED)
async def test_chromium_and_we_understand_each_other(
    browser: webdriver.Chrome, options: PermessageDeflate, extensions: str, nursery: trio.Nursery
) -> None:
    finished = []

    async def handler(ws: trio_ws.WebSocketStream) -> None:
        assert await ws.receive() == extensions
        assert ws.compression is not None
        await exchange_everything(ws)
        finished.append(ws.statistics())

    server: trio_ws.WebSocketServer = await nursery.start(
        partial(
            trio_ws.serve_websocket,
            handler,
            0,
            host="127.0.0.1",
            compression=options,
            process_request=show_page,
        )
    )
    url = f"http://127.0.0.1:{server.port}/"
    assert await trio.to_thread.run_sync(visit, browser, url) == "closed with 1000"
    await server.shutdown()
    [statistics] = finished
    assert statistics.bytes_sent < 130_000
    assert statistics.bytes_received < 130_000
