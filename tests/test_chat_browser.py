"""The page of the chat server in a real browser."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_browser import Server, Window, running_browser, wait_for_all
from redis_server import RedisServer
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

IS_AT_END = """const log = document.querySelector("#log");
return log.scrollTop > 0 && log.scrollHeight - log.scrollTop - log.clientHeight < 2"""

SAY_MORE_WHEN_REFUSED = """
const send = WebSocket.prototype.send;
let sent = 0;
WebSocket.prototype.send = function (data) { sent += 1; send.call(this, data); };
socket.addEventListener("message", (event) => {
  const { code, key } = JSON.parse(event.data);
  if (code !== "slow_down" || key === null) return;
  const before = sent;
  document.querySelector("#text").value = "more";
  document.querySelector("#composer").requestSubmit();
  window.sentAfterRefusal = sent - before;
});"""


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with running_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def browser(shared_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A browser without windows of an earlier test, and without an error in its console."""
    (first,) = shared_browser.window_handles
    yield shared_browser
    errors = [
        entry
        for entry in shared_browser.get_log("browser")  # type: ignore[no-untyped-call]  # Selenium
        # That the server can not be reached is what some tests are about.
        if entry["level"] == "SEVERE" and "WebSocket connection to" not in entry["message"]
    ]
    for handle in shared_browser.window_handles:
        if handle != first:
            shared_browser.switch_to.window(handle)
            shared_browser.close()
    shared_browser.switch_to.window(first)
    assert errors == []


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_two_windows_in_a_room_hear_each_other_and_a_third_in_another_does_not(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    eve = Window(browser, f"{server.url}rooms/garden").join("Eve")
    ann.write("Hello, Bob")
    bob.wait(lambda: ("Ann", "Hello, Bob") in bob.messages())
    bob.write("Hello, Ann")
    ann.wait(lambda: ann.messages() == [("Ann", "Hello, Bob"), ("Bob", "Hello, Ann")])
    eve.write("Only a cat")
    eve.wait(lambda: eve.messages() == [("Eve", "Only a cat")] and eve.pending() == 0)
    assert eve.people() == ["Eve (you)"]
    assert ann.people() == ["Ann (you)", "Bob"]
    assert "Bob came in" in ann.notices()
    assert ("Eve", "Only a cat") not in ann.messages()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_restarts_and_all_reconnect_with_nothing_lost_and_nothing_twice(
    browser: webdriver.Chrome, server: Server, number: signal.Signals
) -> None:
    windows = [Window(browser, server.url).join(nick) for nick in ("Ann", "Bob", "Eve")]
    ann, bob, eve = windows
    ann.write("before")
    wait_for_all(windows, lambda window: window.messages() == [("Ann", "before")])
    server.stop(number)
    wait_for_all(windows, lambda window: window.find("#state").text != "connected")
    ann.write("while it is away")
    ann.write("and another")
    bob.write("I write too")
    assert (ann.pending(), bob.pending()) == (2, 1)
    server.start()
    wait_for_all(windows, lambda window: window.find("#state").text == "connected")
    wait_for_all(windows, lambda window: len(window.messages()) == 4)
    eve.write("after")
    expected = {
        ("Ann", "before"),
        ("Ann", "while it is away"),
        ("Ann", "and another"),
        ("Bob", "I write too"),
        ("Eve", "after"),
    }
    wait_for_all(windows, lambda window: ("Eve", "after") in window.messages())
    for window in windows:
        assert len(window.messages()) == 5
        assert set(window.messages()) == expected
        assert window.pending() == 0
        assert window.messages() == eve.messages()
    said = [text for nick, text in eve.messages() if nick == "Ann"]
    assert said == ["before", "while it is away", "and another"]


def test_windows_on_two_servers_with_redis_are_in_the_same_room(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    with (
        RedisServer(tmp_path) as redis,
        Server("--backplane", redis.url) as one,
        Server("--backplane", redis.url) as other,
    ):
        ann = Window(browser, one.url).join("Ann")
        bob = Window(browser, other.url).join("Bob")
        ann.wait(lambda: ann.people() == ["Ann (you)", "Bob"])
        ann.write("Hello, Bob")
        bob.wait(lambda: bob.messages() == [("Ann", "Hello, Bob")])
        ann.wait(lambda: ann.pending() == 0)
        redis.stop()
        wait_for_all([ann, bob], lambda window: "waiting" in window.find("#state").text)
        ann.write("while Redis is away")
        bob.write("I write too")
        assert (ann.pending(), bob.pending()) == (1, 1)
        redis.start()
        wait_for_all([ann, bob], lambda window: window.find("#state").text == "connected")
        wait_for_all([ann, bob], lambda window: len(window.messages()) == 3)
        wait_for_all([ann, bob], lambda window: window.pending() == 0)
        assert ann.messages() == bob.messages()
        assert "Disconnected" not in " ".join(ann.notices() + bob.notices())


def test_html_is_shown_and_not_interpreted(browser: webdriver.Chrome, server: Server) -> None:
    nick = "<script>hacked=1</script><img>"
    text = "<img src=x onerror='hacked=1'></li><script>hacked=1</script>"
    ann = Window(browser, server.url).join("Ann")
    mallory = Window(browser, server.url).join(nick)
    mallory.write(text)
    mallory.find("#text").send_keys("about to")
    ann.wait(lambda: ann.find("#typing").text == f"{nick} is writing …")
    ann.wait(lambda: ann.messages() == [(nick, text)])
    ann.wait(lambda: f"{nick} came in" in ann.notices())
    for window in (ann, mallory):
        assert nick in " ".join(window.people())
        assert window.run("return typeof hacked") == "undefined"
        assert window.run('return document.querySelectorAll("body script, img").length') == 0


def test_what_is_too_fast_for_the_server_is_said_in_order_all_the_same(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    expected = [("Ann", str(number)) for number in range(15)]
    ann.driver.execute_script(
        """for (let number = 0; number < 15; number++) {
          document.querySelector("#text").value = number;
          document.querySelector("#composer").requestSubmit();
        }"""
    )
    bob.wait(lambda: bob.messages() == expected)
    ann.wait(lambda: ann.messages() == expected and ann.pending() == 0)


def test_a_nickname_that_is_taken_is_asked_for_again_and_can_be_changed(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url)
    bob.ask_to_join("ann")
    bob.wait(lambda: "there is a ann in this room" in bob.find("#join-words").text)
    bob.join("Bob")
    field = bob.find("#nick")
    field.clear()
    field.send_keys("Ann", Keys.ENTER)
    bob.wait(lambda: "there is a Ann in this room" in bob.find("#alert").text)
    field.clear()
    field.send_keys("Robert", Keys.ENTER)
    ann.wait(lambda: ann.people() == ["Ann (you)", "Robert"])
    bob.wait(lambda: bob.people() == ["Ann", "Robert (you)"])
    assert "Bob is now Robert" in ann.notices()


def test_who_comes_later_sees_what_was_said(browser: webdriver.Chrome, server: Server) -> None:
    ann = Window(browser, server.url).join("Ann")
    ann.write("first")
    ann.wait(lambda: ann.pending() == 0)
    bob = Window(browser, server.url).join("Bob")
    assert bob.messages() == [("Ann", "first")]


def test_the_title_counts_what_is_unread_until_the_window_is_looked_at(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    assert ann.driver.title == "#lobby"
    # What the browser says when another window is in front.
    ann.run("document.hasFocus = () => false")
    bob.write("one")
    bob.write("two")
    ann.wait(lambda: ann.driver.title == "(2) #lobby")
    ann.run("delete document.hasFocus; window.dispatchEvent(new Event('focus'))")
    assert ann.driver.title == "#lobby"


def test_the_title_counts_what_was_missed_before_a_reconnect(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    bob.write("read")
    ann.wait(lambda: len(ann.messages()) == 1)
    # So many attempts that it does not come back by itself before Bob has written.
    ann.run("document.hasFocus = () => false; attempts = 9; socket.close()")
    bob.wait(lambda: bob.people() == ["Bob (you)"])
    bob.write("one")
    bob.write("two")
    bob.wait(lambda: bob.pending() == 0)
    ann.run("window.dispatchEvent(new Event('online'))")
    ann.wait(lambda: len(ann.messages()) == 3)
    assert ann.driver.title == "(2) #lobby"


def test_who_is_told_to_slow_down_sends_nothing_until_then(browser: webdriver.Chrome) -> None:
    with Server("--rate", "0.5") as server:
        ann = Window(browser, server.url).join("Ann")
        ann.run(SAY_MORE_WHEN_REFUSED)
        ann.write("one")
        ann.write("two")
        ann.wait(lambda: ann.run("return window.sentAfterRefusal") is not None)
        assert ann.run("return window.sentAfterRefusal") == 0


def test_all_can_be_done_by_keyboard_and_is_named_for_screen_readers(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url, width=390)
    assert ann.run("return document.activeElement.id") == "join-nick"
    ann.join("Ann")
    assert ann.run("return document.activeElement.id") == "text"
    ann.find("#text").send_keys("two", Keys.SHIFT, Keys.ENTER, Keys.SHIFT, "lines", Keys.ENTER)
    ann.wait(lambda: ann.messages() == [("Ann", "two\nlines")])
    button = ann.find("#panel-button")
    assert (button.accessible_name, button.get_attribute("aria-expanded")) == ("1 here", "false")
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    assert ann.find("#nick").accessible_name == "Your nickname"
    ann.find("#nick").send_keys(Keys.ESCAPE)
    assert button.get_attribute("aria-expanded") == "false"
    assert ann.run("return document.activeElement.id") == "panel-button"
    assert ann.find("#text").accessible_name == "Message"
    assert (ann.find("#log").aria_role, ann.find("#log").accessible_name) == ("log", "Messages")
    assert ann.find("#state").aria_role == "status"
    assert ann.find("#alert").aria_role == "alert"


def test_everything_has_its_place(
    browser: webdriver.Chrome, server: Server, tmp_path: Path
) -> None:
    window = Window(browser, server.url).join("Ann")
    window.write("wide " + "w" * 900)
    for number in range(8):
        window.write(f"{number} is a message of some words, as people write them all day long")
    window.wait(lambda: len(window.messages()) == 9 and window.pending() == 0)
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        window.resize(width, 800)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        window.wait(lambda: window.run(IS_AT_END))
        window.driver.save_screenshot(str(tmp_path / f"chat-{width}-{scheme}.png"))
        assert window.run(
            "const page = document.scrollingElement; return [page.scrollWidth, page.scrollHeight]"
        ) == [width, 800]
        for selector in ("#state", "#log", "#text", "#send"):
            place = window.find(selector).rect
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= width
            assert place["y"] + place["height"] <= 800
        color = window.run(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert isinstance(color, list)
        assert (sum(color) / 3 > 128) == (scheme == "light")


def test_who_reads_further_up_is_not_torn_away_but_told(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url, height=400).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    bob.write("long " * 190)
    ann.wait(lambda: ann.run('return document.querySelector("#log").scrollTop > 0'))
    ann.run('document.querySelector("#log").scrollTop = 0')
    bob.write("the latest")
    ann.wait(lambda: ann.find("#latest").is_displayed())
    assert ann.run('return document.querySelector("#log").scrollTop') == 0
    ann.find("#latest").click()
    ann.wait(lambda: not ann.find("#latest").is_displayed())
    assert ann.run('return document.querySelector("#log").scrollTop > 0') is True
