"""The page of the chat server in a real browser."""

from __future__ import annotations

import itertools
import re
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


FIVE_TIMES_AS_FAST = """
const setPageTimeout = window.setTimeout;
window.setTimeout = (act, delay) => setPageTimeout(act, delay / 5);"""

NOTE_DELAYS = """
const delays = [];
const setPageTimeout = window.setTimeout;
window.setTimeout = (act, delay) => {
  if (act.name === "connect") delays.push(delay);
  return setPageTimeout(act, delay / 50);
};"""

NOTE_TYPES = """
window.types = [];
socket.addEventListener("message", ({ data }) => types.push(JSON.parse(data).type));"""

NOTE_ADDITIONS = """
window.additions = [];
new MutationObserver((records) => records.forEach(({ addedNodes }) => addedNodes.forEach((node) => {
  if (node.matches(".message")) additions.push(node.querySelector(".words").textContent);
}))).observe(document.querySelector("#log"), { childList: true });"""

SAY_IT_WRONG_ONCE = """
const send = socket.send;
socket.send = function (data) {
  const message = JSON.parse(data);
  if (message.type !== "say") return send.call(this, data);
  delete socket.send;
  socket.send(JSON.stringify({ ...message, text: " " }));
};"""


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


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param("sayInRoom({ type: 'say', key: randomToken(), text: 'hello' })", id="message"),
        pytest.param("window.dispatchEvent(new Event('offline'))", id="offline"),
        pytest.param("heard = 0", id="silence"),
    ],
)
def test_a_dead_connection_is_noticed(
    browser: webdriver.Chrome, server: Server, cause: str
) -> None:
    ann = Window(browser, server.url, script=FIVE_TIMES_AS_FAST).join("Ann")
    server.freeze()
    ann.run(cause)
    ann.wait(lambda: "Disconnected: the server does not answer" in ann.notices())
    ann.wait(lambda: ann.find("#state").text == "connecting")
    ann.wait(lambda: ann.find("#state").text == "reconnecting")
    ann.write("while it is dead")
    server.thaw()
    ann.wait_until_connected()
    ann.wait(lambda: ann.pending() == 0)
    assert ann.messages()[-1] == ("Ann", "while it is dead")
    assert len(ann.messages()) == 1 + ("hello" in cause)


def test_a_connection_that_lives_is_kept_whatever_the_browser_says(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    ann.run(NOTE_TYPES)
    for is_online in (False, True):
        ann.run("heard = 0")
        network = {"offline": not is_online, "latency": 0, "downloadThroughput": -1}
        network["uploadThroughput"] = -1
        ann.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
        ann.wait(lambda: ann.run("return heard > 0 && answering === null"))
        assert ann.run("return navigator.onLine") is is_online
    assert ann.find("#state").text == "connected"
    assert ann.find("#alert").text == ""
    assert [words for words in ann.notices() if "onnected" in words] == []
    heard = ann.run("return types")
    assert isinstance(heard, list)
    assert set(heard) == {"pong"}


def test_the_attempts_to_reconnect_are_ever_further_apart_and_at_random(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url, script=NOTE_DELAYS).join("Ann")
    server.stop()
    ann.wait(lambda: ann.run("return delays.length >= 10"))
    delays = ann.run("return delays")
    assert isinstance(delays, list)
    for number, delay in enumerate(delays):
        longest = min(15_000, 500 * 2**number)
        assert longest / 2 <= delay <= longest
    assert len(set(delays)) == len(delays)
    server.start()
    ann.wait_until_connected()


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
    bob.rename("Ann")
    bob.wait(lambda: "there is a Ann in this room" in bob.find("#alert").text)
    bob.find("#nick").send_keys("a")
    assert bob.find("#alert").text == ""
    bob.rename("Robert")
    ann.wait(lambda: ann.people() == ["Ann (you)", "Robert"])
    bob.wait(lambda: bob.people() == ["Ann", "Robert (you)"])
    assert "Bob is now Robert" in ann.notices()


def test_on_a_narrow_screen_it_can_be_seen_that_a_nickname_is_refused(
    browser: webdriver.Chrome, server: Server
) -> None:
    Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url, width=390).join("Bob")
    bob.find("#panel-button").click()
    bob.rename("Ann")
    bob.wait(lambda: "there is a Ann in this room" in bob.find("#alert").text)
    in_front = bob.run(
        """const place = document.querySelector("#alert").getBoundingClientRect();
        return document.elementFromPoint(place.x + 5, place.y + 5).id"""
    )
    assert in_front == "alert"
    assert bob.run("return document.activeElement.id") == "panel-button"


def test_the_room_is_in_the_url_and_there_are_ways_from_one_to_another(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    ann.find("#other").send_keys("garden", Keys.ENTER)
    ann.wait(lambda: ann.driver.current_url == f"{server.url}rooms/garden")
    assert ann.find("#join-nick").get_attribute("value") == "Ann"
    ann.join("Ann")
    assert ann.driver.title == "#garden"
    assert ann.find("#rooms a[aria-current=page]").text == "#garden"
    ann.driver.find_element("link text", "#lobby").click()
    ann.wait(lambda: ann.driver.current_url == server.url)
    assert ann.driver.title == "#lobby"


def test_a_nickname_that_is_wished_for_while_disconnected_is_asked_for_then(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    ann.lose_connection()
    server.stop()
    ann.write("as Ann")
    ann.rename("Anna")
    assert ann.notices()[-1] == "You will be Anna when you are connected again."
    ann.write("as Anna")
    server.start()
    ann.find_network()
    expected = [("Ann", "as Ann"), ("Anna", "as Anna")]
    wait_for_all([ann, bob], lambda window: window.messages() == expected)
    ann.wait(lambda: ann.people() == ["Anna (you)", "Bob"])
    bob.wait(lambda: bob.people() == ["Anna", "Bob (you)"])
    assert ann.run("return queue.length") == 0


def test_a_nickname_that_is_changed_too_fast_is_changed_a_little_later(
    browser: webdriver.Chrome,
) -> None:
    with Server("--rate", "0.5") as server:
        ann = Window(browser, server.url).join("Ann")
        ann.rename("Anna")
        ann.wait(lambda: ann.people() == ["Anna (you)"])
        assert ann.find("#alert").text == ""


def test_who_comes_back_to_find_the_nickname_taken_gets_another_and_is_told(
    browser: webdriver.Chrome, server: Server
) -> None:
    nick = "\N{GRINNING FACE}" * 16  # cut at 29 UTF-16 units, one of them would be cut in two
    ann = Window(browser, server.url)
    ann.run(f"document.querySelector('#join-nick').value = '{nick}'")
    ann.find("#join-nick").send_keys(Keys.ENTER)
    ann.wait_until_connected()
    ann.lose_connection()
    other = Window(browser, server.url)
    other.run(f"document.querySelector('#join-nick').value = '{nick}'")
    other.find("#join-nick").send_keys(Keys.ENTER)
    other.wait_until_connected()
    ann.find_network()
    ann.wait_until_connected()
    found = ann.find("#nick").get_attribute("value") or ""
    assert re.fullmatch(rf"{nick} \d\d", found)
    assert f"Somebody else is {nick} now: you come back as {found}" in ann.notices()
    ann.wait(lambda: set(ann.people()) == {nick, f"{found} (you)"})


def test_an_alert_is_gone_when_its_reason_is(browser: webdriver.Chrome) -> None:
    with Server("--members", "1") as server:
        ann = Window(browser, server.url).join("Ann")
        for is_stopped in (True, False):
            ann.lose_connection()
            bob = Window(browser, server.url).join("Bob")
            ann.find_network()
            ann.wait(lambda: ann.find("#alert").text == "this room is full: 1 may be in it")
            bob.run("wantsIn = false; socket.close()")
            if is_stopped:
                server.stop()
                ann.find_network()
                ann.wait(lambda: ann.find("#alert").text == "")
                server.start()
            ann.find_network()
            ann.wait_until_connected()
            assert ann.find("#alert").text == ""


def test_nobody_is_writing_who_is_not_there(browser: webdriver.Chrome, server: Server) -> None:
    ann = Window(browser, server.url).join("Ann")
    for leave in ("bob", "ann"):
        bob = Window(browser, server.url).join("Bob")
        bob.find("#text").send_keys("about to")
        ann.wait(lambda: ann.find("#typing").text == "Bob is writing …")
        if leave == "ann":
            ann.lose_connection()
        else:
            bob.run("wantsIn = false; socket.close()")
            ann.wait(lambda: ann.people() == ["Ann (you)"])
        assert ann.find("#typing").text == ""
    ann.find_network()
    ann.wait(lambda: ann.people() == ["Ann (you)", "Bob"])
    # As it comes where another server tells of it, after having told that they left.
    ann.run("receive({ type: 'typing', nick: 'Ghost' })")
    assert ann.find("#typing").text == ""
    assert ann.people() == ["Ann (you)", "Bob"]


@pytest.mark.parametrize("button", ["Send again", "Discard"])
def test_what_the_server_refuses_can_be_sent_again_or_dropped(
    browser: webdriver.Chrome, server: Server, button: str
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    ann.run(SAY_IT_WRONG_ONCE)
    ann.write("refused")
    ann.wait(lambda: ann.find(".failed .note").text.startswith("not sent: text: say something"))
    assert ann.pending() == 0
    bob.write("after that")
    ann.wait(lambda: ann.messages() == [("Ann", "refused"), ("Bob", "after that")])
    ann.driver.find_element("xpath", f"//button[text()='{button}']").send_keys(Keys.ENTER)
    assert ann.run("return document.activeElement.id") == "text"
    assert ann.run("return document.querySelectorAll('#log button').length") == 0
    ann.write("the end")
    expected = [("Bob", "after that"), ("Ann", "refused"), ("Ann", "the end")]
    if button == "Discard":
        del expected[1]
    wait_for_all([ann, bob], lambda window: window.messages() == expected)
    ann.wait(lambda: ann.run("return queue.length") == 0)


def test_every_message_is_put_in_once_so_that_it_is_read_out_once(
    browser: webdriver.Chrome, server: Server
) -> None:
    ann = Window(browser, server.url).join("Ann")
    bob = Window(browser, server.url).join("Bob")
    ann.run(NOTE_ADDITIONS)
    ann.write("one")
    ann.wait(lambda: len(ann.messages()) == 1 and ann.pending() == 0)
    ann.lose_connection()
    for text in ("four", "five"):
        ann.run(f"sayInRoom({{ type: 'say', key: randomToken(), text: '{text}' }})")
    bob.write("two")
    bob.write("three")
    bob.wait(lambda: bob.pending() == 0)
    ann.find_network()
    bob.wait(lambda: len(bob.messages()) == 5)
    ann.wait(lambda: len(ann.messages()) == 5 and ann.pending() == 0)
    assert ann.messages() == bob.messages()
    assert [text for _, text in ann.messages()] == ["one", "two", "three", "four", "five"]
    assert ann.run("return additions") == ["one", "four", "five", "two", "three"]


def test_the_log_forgets_what_is_oldest_and_what_is_read_stays_in_its_place(
    browser: webdriver.Chrome,
) -> None:
    with Server("--rate", "1000000") as server:
        ann = Window(browser, server.url).join("Ann")
        bob = Window(browser, server.url).join("Bob")
        say_from_to(bob, 0, 330)
        ann.wait(lambda: ann.messages()[-1:] == [("Bob", "329")])
        ann.run("const log = document.querySelector('#log'); log.scrollTop -= 1200; log.focus()")
        place = place_of(ann, "295")
        say_from_to(bob, 330, 450)
        ann.wait(lambda: ann.messages()[-1] == ("Bob", "449"))
        assert abs(place_of(ann, "295") - place) < 2  # pixels, which are whole each time
        assert ann.run("return document.activeElement.id") == "log"
        assert ann.run("return document.querySelector('#log .head').offsetHeight > 0")
        bob.wait(lambda: bob.messages()[-1] == ("Bob", "449") and bob.pending() == 0)
        assert bob.run(IS_AT_END)
        for window in (ann, bob):
            assert 300 <= int(str(window.run("return $('log').childElementCount"))) <= 350
            assert window.run("return shown.size") == len(window.messages())


def say_from_to(window: Window, first: int, end: int) -> None:
    window.run(
        f"""for (let number = {first}; number < {end}; number++)
        sayInRoom({{ type: "say", key: randomToken(), text: String(number) }})"""
    )


def place_of(window: Window, text: str) -> float:
    """How far down the message with *text* is."""
    place = window.run(
        f"""return Array.from(document.querySelectorAll(".words"))
        .find((words) => words.textContent === "{text}").getBoundingClientRect().top"""
    )
    assert isinstance(place, int | float)
    return place


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
    ann.run("document.hasFocus = () => false")
    ann.lose_connection()
    bob.wait(lambda: bob.people() == ["Bob (you)"])
    bob.write("one")
    bob.write("two")
    bob.wait(lambda: bob.pending() == 0)
    ann.find_network()
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
    # The browser gives the focus when it draws the page, which may be after having loaded it.
    ann.wait(lambda: ann.run("return document.activeElement.id") == "join-nick")
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
