"""The chat in a real browser: Debian's Chromium, without a screen and without a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pytest
from child import Child
from programs import ROOT
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

PATIENCE: Final = 120.0
"""Seconds after which the page does not become what it should, and the test fails."""

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,800",
)


class Server(Child):
    """A chat server that can be stopped, and started again on the same port."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._port = "0"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = ["-m", "examples.chat", "--port", self._port, *self._arguments]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            text=True,
        )
        assert self._process.stderr is not None
        log = ""
        while " listening " not in log:
            line = self._process.stderr.readline()
            if not line:
                pytest.fail(f"the server has not started: {log}{self.stop()}")
            log += line
        self.url = log.strip().partition("url=")[2]
        self._port = self.url.rstrip("/").rpartition(":")[2]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it; what it has written to its log."""
        assert self._process is not None
        self._process.send_signal(number)
        _, log = self._process.communicate(timeout=PATIENCE)
        self._process = None
        return log

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)


@contextmanager
def running_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with the empty *profile*; the test is skipped where there is none."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("there is no Chromium: Debian has it in chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


class Window:
    """A new window with the page of the chat."""

    def __init__(
        self,
        driver: webdriver.Chrome,
        url: str,
        *,
        width: int = 1280,
        height: int = 800,
        script: str = "",
    ) -> None:
        self._driver = driver
        driver.switch_to.new_window("window")
        self._handle = driver.current_window_handle
        self.resize(width, height)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        driver.get(url)

    @property
    def driver(self) -> webdriver.Chrome:
        """The browser, with this window in front."""
        self._driver.switch_to.window(self._handle)
        return self._driver

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str) -> object:
        """What the function body *script* returns in the page."""
        result: object = self.driver.execute_script(script)
        return result

    def wait(self, condition: Callable[[], T]) -> T:
        """Wait until *condition* is true, of this window or of another; its value."""
        return WebDriverWait(self._driver, PATIENCE, 0.05).until(lambda _: condition())

    def join(self, nick: str) -> Window:
        """Come in, and wait until the server says so."""
        self.ask_to_join(nick)
        self.wait_until_connected()
        return self

    def ask_to_join(self, nick: str) -> None:
        field = self.find("#join-nick")
        field.clear()
        field.send_keys(nick, Keys.ENTER)

    def rename(self, nick: str) -> None:
        """Ask for another nickname."""
        field = self.find("#nick")
        field.clear()
        field.send_keys(nick, Keys.ENTER)

    def lose_connection(self) -> None:
        """Be disconnected until :meth:`find_network`, and not come back before."""
        self.run("attempts = 9; socket.close()")
        self.wait(lambda: self.find("#state").text == "reconnecting")

    def find_network(self) -> None:
        """What the browser says when there is a network again."""
        self.run("window.dispatchEvent(new Event('online'))")

    def wait_until_connected(self) -> None:
        self.wait(lambda: self.find("#state").text == "connected")

    def write(self, text: str) -> None:
        """Say something, or try to."""
        self.find("#text").send_keys(text, Keys.ENTER)

    def messages(self) -> list[tuple[str, str]]:
        """Who said what, as it is to be seen, what was not sent yet included."""
        found = self.run(
            """return Array.from(document.querySelectorAll("#log .message"), (item) =>
            [item.querySelector(".nick").textContent, item.querySelector(".words").textContent])"""
        )
        assert isinstance(found, list)
        return [(nick, text) for nick, text in found]

    def pending(self) -> int:
        """Messages that were not sent yet."""
        found = self.run('return document.querySelectorAll("#log .pending").length')
        assert isinstance(found, int)
        return found

    def people(self) -> list[str]:
        found = self.run(
            'return Array.from(document.querySelectorAll("#people li"), (each) => each.textContent)'
        )
        assert isinstance(found, list)
        return found

    def notices(self) -> list[str]:
        found = self.run(
            'return Array.from(document.querySelectorAll(".notice"), (each) => each.textContent)'
        )
        assert isinstance(found, list)
        return found


def wait_for_all(windows: list[Window], condition: Callable[[Window], object]) -> None:
    """Wait until *condition* is true of each of *windows*."""
    for window in windows:
        window.wait(partial(condition, window))
