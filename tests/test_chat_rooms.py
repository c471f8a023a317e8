"""The rooms of the chat server in the test's own process, where time is Trio's."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from chat_client import texts_of
from chat_in_process import start

import trio_ws
from examples.chat.backplane import Identity, RoomState, Unavailable
from examples.chat.limits import Limits
from examples.chat.memory_backplane import MemoryBackplane


class FarBackplane(MemoryBackplane):
    """One that can not be reached at times, which takes 3 seconds to notice.

    :ivar hung: the rooms that hang when they open or close.
    :ivar claiming: set when nicknames are decided on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reachable = True
        self.hung: set[str] = set()
        self.claiming: trio.Event | None = None

    async def open(self, room: str) -> RoomState:
        await self._get_through(room)
        return await super().open(room)

    async def close(self, room: str) -> None:
        if room in self.hung:
            await trio.sleep(3)
        await super().close(room)

    async def claim(self, room: str, who: Identity) -> bool:
        if self.claiming is not None:
            await self.claiming.wait()
        return await super().claim(room, who)

    async def rename(self, room: str, who: Identity, nick: str) -> bool:
        is_theirs = await super().rename(room, who, nick)
        if not self.reachable:
            await trio.sleep(3)
            raise Unavailable
        return is_theirs

    async def release(self, room: str, who: Identity) -> None:
        await self._get_through(room)
        await super().release(room, who)

    async def _get_through(self, room: str) -> None:
        if room in self.hung:
            await trio.sleep(1000)
        if not self.reachable:
            await trio.sleep(3)
            raise Unavailable


async def test_a_newcomer_is_told_who_is_here_and_the_others_that_they_came(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann = await chat.enter("Ann")
    bob = await chat.connect()
    welcome = await bob.join("Bob")
    assert isinstance(welcome.pop("seen"), int)
    assert welcome == {
        "type": "welcome",
        "room": "lobby",
        "nick": "Bob",
        "nicks": ["Ann", "Bob"],
        "messages": [],
        "complete": True,
    }
    assert await ann.hear() == {"type": "joined", "nick": "Bob"}
    await bob.ws.aclose()
    assert await ann.hear() == {"type": "left", "nick": "Bob"}


async def test_a_newcomer_gets_the_last_50_messages(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    ann = await chat.enter("Ann")
    for number in range(60):
        await ann.say(str(number))
    welcome = await (await chat.connect()).join("Bob")
    assert texts_of(welcome) == [str(number) for number in range(10, 60)]
    assert welcome["complete"] is True


async def test_who_comes_back_gets_what_was_missed_and_no_more(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    seen = await ann.say("both hear this")
    await bob.ws.aclose()
    await ann.say("one")
    await ann.say("two")
    welcome = await (await chat.connect()).join("Bob", seen=seen)
    assert (texts_of(welcome), welcome["complete"]) == (["one", "two"], True)
    for _ in range(50):
        await ann.say("and so on")
    welcome = await (await chat.connect()).join("Eve", seen=seen)
    assert (len(texts_of(welcome)), welcome["complete"]) == (50, False)


@pytest.mark.parametrize("missed", [49, 50, 51])
async def test_who_has_missed_more_than_there_is_and_no_other_is_told(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock, missed: int
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    ann = await chat.enter("Ann")
    seen = await ann.say("all have seen this")
    for _ in range(missed):
        await ann.say("missed")
    welcome = await (await chat.connect()).join("Bob", seen=seen)
    assert (len(texts_of(welcome)), welcome["complete"]) == (min(missed, 50), missed <= 50)


async def test_who_was_in_an_empty_room_is_told_that_more_was_missed_than_there_is(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    seen = number_of((await (await chat.connect()).join("Bob"))["seen"])
    ann = await chat.connect()
    assert (await ann.join("Ann", seen=seen))["complete"] is True
    for _ in range(51):
        await ann.say("missed")
    assert (await (await chat.connect()).join("Eve", seen=seen))["complete"] is False


async def test_who_comes_back_to_a_room_that_has_been_forgotten_is_told(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(keep=2))
    ann = await chat.enter("Ann")
    seen = await ann.say("hello")
    await ann.ws.aclose()
    await trio.sleep(10)
    welcome = await (await chat.connect()).join("Ann", seen=seen - 1000)
    assert (texts_of(welcome), welcome["complete"]) == ([], False)


async def test_the_same_key_again_is_said_once_also_on_another_connection(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    id_ = await ann.say("once", key="key-of-ann")
    assert await ann.say("once", key="key-of-ann") == id_
    await ann.ws.aclose()
    again = await chat.connect()
    await again.join("Ann", session=ann.session)
    assert await again.say("once", key="key-of-ann") == id_
    await again.say("the end")
    assert (await bob.hear_until("message"))["text"] == "once"
    assert (await bob.hear_until("message"))["text"] == "the end"


async def test_keys_are_forgotten_after_ten_minutes(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann = await chat.enter("Ann")
    id_ = await ann.say("again", key="key-of-ann")
    await trio.sleep(599)
    assert await ann.say("again", key="key-of-ann") == id_
    await trio.sleep(2)
    await ann.say("something else")
    assert await ann.say("again", key="key-of-ann") > id_


async def test_the_keys_of_the_last_2000_messages_are_remembered(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=10_000))
    ann = await chat.enter("Ann")
    first = await ann.say("again", key="key-of-the-first")
    second = await ann.say("again", key="key-of-the-second")
    for number in range(1_999):
        await ann.say("something else", key=f"key-{number:08}")
    assert await ann.say("again", key="key-of-the-second") == second
    assert await ann.say("again", key="key-of-the-first") > first


async def test_a_nickname_is_unique_in_its_room(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann = await chat.enter("Ann")
    other = await chat.connect()
    await other.send("join", room="lobby", nick="aNN", session="another-session")
    assert await other.hear() == {
        "type": "error",
        "code": "nick_taken",
        "text": "there is a aNN in this room",
        "key": None,
        "retry_after": None,
    }
    assert (await other.join("Bob"))["nick"] == "Bob"
    await other.send("rename", nick="ann")
    assert (await other.hear_until("error"))["code"] == "nick_taken"
    await chat.enter("Ann", "garden")
    await ann.ws.aclose()
    await other.hear_until("left", nick="Ann")
    await other.send("rename", nick="ann")
    await other.hear_until("renamed", old="Bob", new="ann")


async def test_all_hear_of_a_new_name_and_the_old_one_is_free(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    await bob.send("rename", nick="Robert")
    await ann.hear_until("renamed", old="Bob", new="Robert")
    await bob.say("hello")
    assert (await ann.hear_until("message"))["nick"] == "Robert"
    welcome = await (await chat.connect()).join("Bob")
    assert welcome["nicks"] == ["Ann", "Robert", "Bob"]
    await bob.send("rename", nick="ROBERT")
    await ann.hear_until("renamed", old="Robert", new="ROBERT")


async def test_who_comes_back_before_having_left_takes_the_place_over_in_silence(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    again = await chat.connect()
    assert (await again.join("Bob", session=bob.session))["nicks"] == ["Ann", "Bob"]
    assert (await bob.end()).code == 4000
    await again.say("it is me")
    assert (await ann.hear_until("joined"))["nick"] == "Bob"
    assert (await ann.hear())["text"] == "it is me"


async def test_typing_is_told_and_not_remembered(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    await ann.send("typing")
    assert await bob.hear() == {"type": "typing", "nick": "Ann"}
    assert texts_of(await (await chat.connect()).join("Eve")) == []


async def test_bad_input_is_answered_and_disturbs_nobody(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    await ann.hear_until("joined", nick="Bob")
    for data in ("", "[]", b"\x00", '{"type": "say"}', json.dumps({"type": "join"})):
        await ann.ws.send(data)
        assert (await ann.hear())["code"] == "bad_message"
    await ann.send("join", room="garden", nick="Ann", session="session-of-ann")
    assert "you have joined" in str((await ann.hear())["text"])
    await ann.send("say", key="key-of-ann", text="x" * 1001)
    error = await ann.hear()
    assert (error["code"], error["key"]) == ("too_long", "key-of-ann")
    await ann.say("hello")
    assert (await bob.hear())["text"] == "hello"


async def test_nothing_can_be_done_before_joining(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    visitor = await chat.connect()
    await visitor.send("say", key="key-of-ann", text="hello")
    assert (await visitor.hear())["text"] == "join comes first"
    await visitor.join("Ann")


async def test_who_does_not_join_is_closed_after_30_seconds(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    visitor = await chat.connect()
    before = trio.current_time()
    assert (await visitor.end()).code == 1008
    assert trio.current_time() - before == pytest.approx(30)


async def test_who_leaves_without_joining_leaves_no_trace(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(clients=1))
    visitor = await chat.connect()
    await visitor.ws.aclose()
    await chat.enter("Ann")


async def test_who_is_too_fast_is_told_when_to_try_again(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(rate=2, burst=3))
    ann = await chat.enter("Ann")  # which takes the first token
    await ann.say("one")
    await ann.say("two")
    await ann.send("say", key="key-of-ann", text="three")
    error = await ann.hear_until("error")
    assert (error["code"], error["key"], error["retry_after"]) == ("slow_down", "key-of-ann", 0.5)
    await trio.sleep(0.5)
    await ann.say("three", key="key-of-ann")


@pytest.mark.parametrize("flood", ['{"type": "typing"}', '{"type": "ping"}', "no JSON"])
async def test_who_does_not_slow_down_is_dropped(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock, flood: str
) -> None:
    chat = await start(nursery)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    async with trio.open_nursery() as sending:

        async def send_forever() -> None:
            with pytest.raises(trio_ws.ConnectionClosedError):
                while True:
                    await ann.ws.send(flood)

        sending.start_soon(send_forever)
        end = await ann.end()
    assert (end.code, end.reason) == (1008, "you were told to slow down")
    await bob.hear_until("left", nick="Ann")


async def test_a_full_room_and_a_full_server_say_so(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(members=1, rooms=2, clients=3))
    await chat.enter("Ann")
    visitor = await chat.connect()
    await visitor.send("join", room="lobby", nick="Bob", session="session-of-bob")
    assert (await visitor.hear())["code"] == "room_full"
    await visitor.join("Bob", "garden")
    other = await chat.connect()
    await other.send("join", room="cellar", nick="Eve", session="session-of-eve")
    assert (await other.hear())["code"] == "server_full"
    one_more = await chat.connect()
    assert (await one_more.hear())["code"] == "server_full"
    assert (await one_more.end()).code == 1013
    await visitor.ws.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await other.join("Eve", "garden")


async def test_who_is_in_a_full_room_can_come_back_to_it(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(members=2))
    await chat.enter("Ann")
    bob = await chat.enter("Bob")
    await (await chat.connect()).join("Bob", session=bob.session)
    assert (await bob.end()).code == 4000
    eve = await chat.connect()
    await eve.send("join", room="lobby", nick="Eve", session=eve.session)
    error = await eve.hear()
    assert (error["code"], error["text"]) == ("room_full", "this room is full: 2 may be in it")


async def test_who_tries_to_come_in_takes_no_place_for_longer(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, Limits(members=2), backplane)
    await chat.enter("Ann")
    backplane.claiming = trio.Event()
    others = [await chat.connect() for _ in range(3)]
    for number, visitor in enumerate(others):
        nick = "Bob" if number == 1 else "Ann"
        await visitor.send("join", room="lobby", nick=nick, session=visitor.session)
        await trio.testing.wait_all_tasks_blocked()
    # The first may still turn out to be the second member.
    assert [(await visitor.hear())["code"] for visitor in others[1:]] == ["room_full"] * 2
    backplane.claiming.set()
    assert (await others[0].hear())["code"] == "nick_taken"
    await others[1].join("Bob")


async def test_a_ping_is_answered_and_costs_nothing_of_the_rate_but_has_a_rate_of_its_own(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(rate=0.01, burst=3, pings=0.5))
    ann = await chat.enter("Ann")
    for _ in range(3):
        await ann.send("ping")
        assert await ann.hear() == {"type": "pong"}
    await ann.send("ping")
    error = await ann.hear()
    assert (error["code"], error["retry_after"]) == ("slow_down", 2)
    await ann.say("one")
    await ann.say("two")
    await trio.sleep(2)
    await ann.send("ping")
    await ann.hear_until("pong")
    await ann.send("typing")
    assert (await ann.hear())["code"] == "slow_down"


async def test_a_full_server_closes_the_room_that_is_empty_for_longest(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(rooms=3))
    bob = await chat.enter("Bob", "used")
    for room in ("second", "first", "second"):
        ann = await chat.enter("Ann", room)
        await ann.say(f"said in {room}")
        await ann.ws.aclose()
        await trio.sleep(1)
    await chat.enter("Eve", "new")
    assert len(chat.server.rooms) == 3
    welcome = await (await chat.connect()).join("Ann", "second")
    assert texts_of(welcome) == ["said in second", "said in second"]
    visitor = await chat.connect()
    await visitor.send("join", room="first", nick="Zoe", session="session-of-zoe")
    error = await visitor.hear()
    assert (error["code"], error["text"]) == ("server_full", "all 3 rooms are used: join one")
    await bob.say("still here")


async def test_who_fills_the_server_with_empty_rooms_keeps_nobody_out(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(rooms=5))
    for number in range(20):
        mallory = await chat.enter("Mallory", f"room-{number}")
        await mallory.ws.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert len(chat.server.rooms) == 5
    await chat.enter("Ann")


async def test_a_room_that_does_not_open_holds_up_no_other_and_says_so_in_5_seconds(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    backplane.hung.add("garden")
    chat = await start(nursery, backplane=backplane)
    before = trio.current_time()
    waiting = [await chat.connect() for _ in range(3)]
    for visitor in waiting:
        await visitor.send("join", room="garden", nick="Ann", session=visitor.session)
    await chat.enter("Bob", "lobby")
    assert trio.current_time() == before
    for visitor in waiting:
        error = await visitor.hear()
        assert (error["code"], error["retry_after"]) == ("unavailable", 1)
    assert trio.current_time() - before == pytest.approx(5)
    assert len(chat.server.rooms) == 1
    backplane.hung.clear()
    await waiting[0].join("Ann", "garden")


async def test_who_comes_while_a_room_closes_opens_it_again(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, Limits(rooms=1), backplane)
    ann = await chat.enter("Ann")
    await ann.ws.aclose()
    await trio.testing.wait_all_tasks_blocked()
    backplane.hung.add("lobby")
    other, ann = await chat.connect(), await chat.connect()
    await other.send("join", room="garden", nick="Bob", session="session-of-bob")
    await trio.testing.wait_all_tasks_blocked()
    await ann.send("join", room="lobby", nick="Ann", session=ann.session)
    await trio.testing.wait_all_tasks_blocked()
    backplane.hung.clear()
    await ann.hear_until("welcome")
    assert (await other.hear())["code"] == "server_full"
    await ann.say("still here")
    assert len(chat.server.rooms) == 1


async def test_rooms_that_are_closed_while_another_closes_are_closed_once(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, Limits(rooms=2, keep=60), backplane)
    for room in ("first", "second"):
        ann = await chat.enter("Ann", room)
        await ann.ws.aclose()
        await trio.testing.wait_all_tasks_blocked()
    backplane.hung.add("first")
    await trio.sleep(61)  # the first closes, which takes 3 seconds
    assert len(chat.server.rooms) == 2
    ann = await chat.connect()
    await ann.join("Ann", "third")
    assert len(chat.server.rooms) == 2
    await trio.sleep(100)
    await ann.say("still here")
    assert len(chat.server.rooms) == 1


async def test_who_may_have_a_new_name_without_hearing_of_it_has_it(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, backplane=backplane)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    backplane.reachable = False
    await bob.send("rename", nick="Robert")
    assert (await bob.hear_until("error"))["code"] == "unavailable"
    backplane.reachable = True
    await bob.say("hello")
    assert (await ann.hear_until("message"))["nick"] == "Robert"
    await bob.ws.aclose()
    await ann.hear_until("left", nick="Robert")


async def test_a_room_is_gone_when_it_was_empty_for_a_while(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(keep=60, rooms=1))
    ann = await chat.enter("Ann")
    await ann.say("hello")
    await trio.sleep(1000)
    await ann.ws.aclose()
    await trio.sleep(30)
    ann = await chat.connect()
    assert texts_of(await ann.join("Ann")) == ["hello"]
    await ann.ws.aclose()
    await trio.sleep(80)
    assert texts_of(await (await chat.connect()).join("Ann", "garden")) == []


async def test_a_room_that_fails_to_open_while_empty_rooms_are_closed_is_no_matter(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, Limits(keep=2), backplane)
    backplane.reachable = False
    visitor = await chat.connect()
    for _ in range(3):
        await visitor.send("join", room="lobby", nick="Ann", session="session-of-ann")
        assert (await visitor.hear())["code"] == "unavailable"
    backplane.reachable = True
    await visitor.join("Ann")
    await trio.sleep(10)
    await visitor.say("still here")


async def test_who_leaves_when_the_server_stops_does_not_wait_longer_for_the_backplane(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    backplane = FarBackplane()
    chat = await start(nursery, backplane=backplane)
    early, late = await chat.enter("Ann"), await chat.enter("Bob")
    backplane.reachable = False
    await early.ws.aclose()
    await trio.testing.wait_all_tasks_blocked()
    before = trio.current_time()
    chat.server.rooms.leave_by(before + 1)
    await late.ws.aclose()
    await chat.server_is_left()
    assert trio.current_time() - before == pytest.approx(1)


async def test_who_reads_again_in_time_has_missed_no_message(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000, patience=5))
    ann, slow = await chat.enter("Ann"), await chat.connect_slowly()
    await slow.join("Bob")
    ids = [await ann.say("x" * 1000) for _ in range(40)]
    await trio.sleep(4)
    heard = [(await slow.hear_until("message"))["id"] for _ in ids]
    assert heard == ids
    await trio.sleep(10)
    await ann.say("the end")
    assert (await slow.hear_until("message"))["text"] == "the end"


async def test_who_reads_again_in_time_knows_who_is_here(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    ann, slow = await chat.enter("Ann"), await chat.connect_slowly()
    await slow.join("Bob")
    for _ in range(40):
        await ann.say("x" * 1000)
    await ann.ws.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await slow.hear_until("nicks", nicks=["Bob"])


async def test_who_reads_again_in_time_knows_what_has_happened_meanwhile(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000))
    ann, slow = await chat.enter("Ann"), await chat.connect_slowly()
    await slow.join("Bob")
    for _ in range(40):
        await ann.say("x" * 1000)
    for _ in range(10):
        await slow.hear()
    await trio.testing.wait_all_tasks_blocked()
    await chat.enter("Eve")
    chat.server.rooms.set_online(False)
    people: list[object] = []
    online: object = True
    with trio.move_on_after(1):
        while True:
            match await slow.hear():
                case {"type": "nicks", "nicks": [*nicks]}:
                    people = nicks
                case {"type": "joined", "nick": nick}:
                    people.append(nick)
                case {"type": "status", "online": online}:
                    pass
    assert (people, online) == (["Ann", "Bob", "Eve"], False)


async def test_who_reads_not_even_refusals_does_not_get_in_and_leaves_no_trace(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery)
    slow = await chat.connect_slowly()
    # The answer to the second waits for the first to be read; then the third has no room.
    for _ in range(2):
        await slow.send("typing")
    await slow.send("join", room="lobby", nick="Bob", session=slow.session)
    await trio.testing.wait_all_tasks_blocked()
    assert (await slow.end()).code == 1013
    assert (await (await chat.connect()).join("Bob"))["nicks"] == ["Bob"]


async def test_whose_outbox_stays_full_is_dropped_with_1013(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000, patience=5))
    ann, slow = await chat.enter("Ann"), await chat.connect_slowly()
    await slow.join("Bob")
    before = trio.current_time()
    for _ in range(40):
        await ann.say("x" * 1000)
    await ann.hear_until("left", nick="Bob")
    assert trio.current_time() - before == pytest.approx(5)
    assert (await slow.end()).code == 1013


async def test_who_has_missed_more_than_there_is_comes_back_for_the_rest(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    chat = await start(nursery, Limits(burst=1000, history=10))
    ann, slow = await chat.enter("Ann"), await chat.connect_slowly()
    await slow.join("Bob")
    for _ in range(40):
        await ann.say("x" * 1000)
    assert (await slow.end()).code == 1013
    welcome = await (await chat.connect()).join("Bob", session=slow.session, seen=1)
    assert (len(texts_of(welcome)), welcome["complete"]) == (10, False)


def number_of(value: object) -> int:
    assert isinstance(value, int)
    return value
