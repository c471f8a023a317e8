"""Makes the pictures of the tutorial: ``python tests/chat_screenshots.py``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from chat_browser import Server, Window, running_browser, wait_for_all
from programs import ROOT, free_port
from selenium import webdriver

PICTURES = ROOT / "docs" / "tutorial" / "pictures"


@contextmanager
def running_step_6(directory: Path) -> Iterator[str]:
    port = str(free_port())
    steps = ROOT / "docs" / "tutorial" / "steps"
    program = directory / "step6_page.py"
    program.write_text((steps / program.name).read_text().replace("8000", port))
    shutil.copy(steps / "page.html", directory)
    with subprocess.Popen(
        [sys.executable, "-u", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"http://localhost:{port}/"
        process.terminate()
        process.communicate()


def has_messages(count: int, window: Window) -> bool:
    return window.run("return document.querySelectorAll('.message').length") == count


def talk(windows: list[Window]) -> None:
    """A conversation, which ends up in every window."""
    ann, bob, *_ = windows
    lines = [
        (ann, "Has anybody seen the new scheduler?"),
        (bob, "Yes. Cancel what you like, it loses nothing."),
        (ann, "Even in the middle of a send?"),
        (bob, "There is no middle of a send."),
    ]
    for count, (window, text) in enumerate(lines, 1):
        window.write(text)
        wait_for_all(windows, partial(has_messages, count))


def picture_of_step_6(driver: webdriver.Chrome, directory: Path) -> None:
    with running_step_6(directory) as url:
        windows = []
        for nick in ("Ann", "Bob"):
            script = f"window.prompt = () => '{nick}'"
            window = Window(driver, url, width=640, height=480, script=script)
            wait_for_all([window], lambda window: "came in" in window.find("#log").text)
            windows.append(window)
        talk(windows)
        windows[0].driver.save_screenshot(str(PICTURES / "step6.png"))


def pictures_of_the_application(driver: webdriver.Chrome) -> None:
    with Server() as server:
        ann = Window(driver, server.url, width=1280, height=720).join("Ann")
        bob = Window(driver, server.url, width=390, height=720).join("Bob")
        talk([ann, bob])
        ann.driver.save_screenshot(str(PICTURES / "chat-1280.png"))
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        bob.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        bob.driver.save_screenshot(str(PICTURES / "chat-390-dark.png"))


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        running_browser(Path(name) / "profile") as driver,
    ):
        picture_of_step_6(driver, Path(name))
        pictures_of_the_application(driver)


if __name__ == "__main__":
    main()
