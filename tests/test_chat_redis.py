"""Several processes of the chat server, with a real Redis between them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from chat_client import Chat, Visitor, running_chat, texts_of
from chat_in_process import start
from programs import free_port, run, running
from redis_server import RedisServer

from examples.chat.backplane import Identity, LocalRoom, RoomState, Unavailable
from examples.chat.listening import open_listeners, reserve_port
from examples.chat.redis_backplane import RedisBackplane


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def two_servers(redis: RedisServer, *arguments: str) -> AsyncGenerator[tuple[Chat, Chat]]:
    async with (
        running_chat("--backplane", redis.url, *arguments) as one,
        running_chat("--backplane", redis.url, *arguments) as other,
    ):
        yield one, other


class OutdatedRoom(LocalRoom):
    """A room whose members are those it had, and the next time those it has."""

    def __init__(self, room: LocalRoom) -> None:
        self._room = room
        self._outdated = [room.identities()]

    def identities(self) -> Sequence[Identity]:
        return self._outdated.pop() if self._outdated else self._room.identities()

    def state(self) -> RoomState:
        return self._room.state()


async def test_a_room_is_the_same_on_every_server(redis: RedisServer) -> None:
    async with (
        two_servers(redis) as (one, other),
        one.visitor("Ann") as ann,
        other.visitor() as bob,
    ):
        welcome = await bob.join("Bob")
        assert welcome["nicks"] == ["Ann", "Bob"]
        await ann.hear_until("joined", nick="Bob")
        id_ = await ann.say("<b>Grüße</b> 🎉", key="key-of-ann")
        assert await bob.hear_until("message") == {
            "type": "message",
            "id": id_,
            "nick": "Ann",
            "text": "<b>Grüße</b> 🎉",
            "key": "key-of-ann",
        }
        await bob.send("typing")
        await ann.hear_until("typing", nick="Bob")
        await bob.send("rename", nick="ANN")
        assert (await bob.hear_until("error"))["code"] == "nick_taken"
        await bob.send("rename", nick="Robert")
        await ann.hear_until("renamed", old="Bob", new="Robert")
        async with one.visitor() as bob_again:
            welcome = await bob_again.join("Bob")
            assert sorted(names_of(welcome)) == ["Ann", "Bob", "Robert"]
            assert texts_of(welcome) == ["<b>Grüße</b> 🎉"]
        await bob.hear_until("left", nick="Bob")
        await ann.ws.aclose()
        await bob.hear_until("left", nick="Ann")


async def test_all_hear_the_same_in_the_same_order(redis: RedisServer) -> None:
    heard: dict[str, list[object]] = {}

    async def talk_and_listen(visitor: Visitor) -> None:
        for number in range(4):
            await visitor.send("say", key=f"{visitor.session}-{number}", text=str(number))
        heard[visitor.session] = [(await visitor.hear_until("message"))["id"] for _ in range(8)]

    async with (
        two_servers(redis) as (one, other),
        one.visitor("Ann") as ann,
        other.visitor("Bob") as bob,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(talk_and_listen, ann)
        nursery.start_soon(talk_and_listen, bob)
    assert heard[ann.session] == heard[bob.session]
    assert heard[ann.session] == sorted({int(str(id_)) for id_ in heard[ann.session]})


async def test_who_comes_back_to_another_server_has_missed_nothing_and_says_nothing_twice(
    redis: RedisServer,
) -> None:
    async with (
        two_servers(redis) as (one, other),
        one.visitor("Ann") as ann,
        one.visitor("Bob") as bob,
        other.visitor("Eve") as eve,
    ):
        seen = await bob.say("once", key="key-of-bob")
        await bob.ws.aclose()
        await ann.say("meanwhile")
        async with other.visitor() as again:
            welcome = await again.join("Bob", session=bob.session, seen=seen)
            assert (texts_of(welcome), welcome["complete"]) == (["meanwhile"], True)
            assert await again.say("once", key="key-of-bob") == seen
            await again.say("and on")
        heard = [(await eve.hear_until("message"))["text"] for _ in range(3)]
        assert heard == ["once", "meanwhile", "and on"]


async def test_redis_goes_away_and_comes_back_without_its_data_and_nobody_loses_anything(
    redis: RedisServer,
) -> None:
    async with (
        two_servers(redis) as (one, other),
        one.visitor("Ann") as ann,
        other.visitor("Bob") as bob,
    ):
        await ann.say("before")
        redis.stop()
        await ann.hear_until("status", online=False)
        await bob.hear_until("status", online=False)
        await ann.send("say", key="key-of-ann", text="meanwhile")
        error = await ann.hear_until("error")
        assert (error["code"], error["key"]) == ("unavailable", "key-of-ann")
        async with one.visitor() as eve:
            await eve.send("join", room="lobby", nick="Eve", session="session-of-eve")
            assert (await eve.hear())["code"] == "unavailable"
        health = json.loads((await one.request("GET /healthz HTTP/1.1")).body)
        assert (health["status"], health["backplane"]) == ("ok", "offline")
        redis.start()
        for visitor in (ann, bob):
            heard = await visitor.hear()
            while heard != {"type": "status", "online": True}:
                assert heard["type"] != "missed"
                heard = await visitor.hear()
        await ann.say("meanwhile", key="key-of-ann")
        assert (await bob.hear_until("message"))["text"] == "meanwhile"
        async with other.visitor() as eve:
            welcome = await eve.join("Eve")
        assert sorted(names_of(welcome)) == ["Ann", "Bob", "Eve"]
        assert texts_of(welcome) == ["before", "meanwhile"]


async def test_redis_that_answers_nothing_any_more_is_noticed_though_nobody_says_anything(
    redis: RedisServer, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.chat.redis_backplane._PULSE", 0.1)  # of 2 seconds
    monkeypatch.setattr("examples.chat.redis_backplane._SILENCE", 0.5)  # of 5
    chat = await start(nursery, backplane=RedisBackplane(redis.url, history=50, keep=300))
    ann = await chat.enter("Ann")
    redis.freeze()
    assert (await ann.hear_until("status"))["online"] is False
    redis.thaw()
    await ann.hear_until("status", online=True)
    await ann.say("still here")
    await ann.ws.aclose()
    await chat.server_is_left()


async def test_what_a_server_missed_without_its_connection_it_gets_when_it_has_one(
    redis: RedisServer,
) -> None:
    async with running_chat("--backplane", redis.url) as chat, chat.visitor("Ann") as ann:
        await ann.say("before")
        # What others have said in the moment before this server was connected again.
        said = '{"type":"message","id":%d,"nick":"Bob","text":"missed","key":"key-of-bob"}'
        redis.run("RPUSH", "chat:{lobby}:log", said % (await ann.say("last") + 1))
        redis.run("CLIENT", "KILL", "TYPE", "pubsub")
        await ann.hear_until("status", online=False)
        assert (await ann.hear_until("message"))["text"] == "missed"
        await ann.hear_until("status", online=True)


async def test_who_has_missed_more_than_can_be_got_is_told(redis: RedisServer) -> None:
    async with running_chat("--backplane", redis.url) as chat, chat.visitor("Ann") as ann:
        id_ = await ann.say("before")
        said = '{"type":"message","id":%d,"nick":"Bob","text":"missed","key":"key-%d"}'
        messages = [said % (id_ + number, number) for number in range(2, 53)]
        redis.run("DEL", "chat:{lobby}:log")
        redis.run("RPUSH", "chat:{lobby}:log", *messages)
        redis.run("CLIENT", "KILL", "TYPE", "pubsub")
        await ann.hear_until("missed")
        assert (await ann.hear_until("message"))["id"] == id_ + 2


async def test_whose_nickname_was_taken_while_the_servers_were_apart_comes_in_again(
    redis: RedisServer,
) -> None:
    async with running_chat("--backplane", redis.url) as chat, chat.visitor("Ann") as ann:
        redis.run("HSET", "chat:{lobby}:nicks", "ann", "session-of-another member-of-another Ann")
        redis.run("CLIENT", "KILL", "TYPE", "pubsub")
        end = await ann.end()
        assert (end.code, "your nickname was taken" in end.reason) == (1013, True)


async def test_who_was_on_a_server_that_died_has_left_when_the_lease_is_over(
    redis: RedisServer,
) -> None:
    async with (
        two_servers(redis) as (one, other),
        one.visitor("Ann") as ann,
        other.visitor("Bob") as bob,
    ):
        one.program.send_signal(signal.SIGKILL)
        assert (await ann.end()).code == 1006
        # In 30 seconds, but for this.
        redis.run("ZADD", "chat:{lobby}:leases", "0", "ann")
        async with other.visitor("Eve"):
            await bob.hear_until("left", nick="Ann")


async def test_a_renewal_brings_nobody_back_who_left_or_changed_the_nickname_meanwhile(
    redis: RedisServer, nursery: trio.Nursery
) -> None:
    backplane = RedisBackplane(redis.url, history=50, keep=300)
    chat = await start(nursery, backplane=backplane)
    eve, ann, bob = [await chat.enter(nick) for nick in ("Eve", "Ann", "Bob")]
    before = OutdatedRoom(chat.server.rooms.local_rooms()["lobby"])
    await ann.ws.aclose()
    await eve.hear_until("left", nick="Ann")
    await bob.send("rename", nick="Robert")
    await eve.hear_until("renamed", old="Bob", new="Robert")
    await backplane.renew({"lobby": before})
    assert sorted(redis.run("HKEYS", "chat:{lobby}:nicks").split()) == ["eve", "robert"]
    assert redis.run("ZCARD", "chat:{lobby}:leases") == "2"
    await bob.say("still here")
    again = await chat.connect()
    assert sorted(names_of(await again.join("Ann"))) == ["Ann", "Eve", "Robert"]
    for visitor in (eve, bob, again):
        await visitor.ws.aclose()
    await chat.server_is_left()


async def test_a_renewal_takes_back_what_redis_has_lost_but_not_for_who_left_meanwhile(
    redis: RedisServer, nursery: trio.Nursery
) -> None:
    backplane = RedisBackplane(redis.url, history=50, keep=300)
    chat = await start(nursery, backplane=backplane)
    ann, bob = await chat.enter("Ann"), await chat.enter("Bob")
    before = OutdatedRoom(chat.server.rooms.local_rooms()["lobby"])
    await ann.ws.aclose()
    await bob.hear_until("left", nick="Ann")
    redis.run("DEL", "chat:{lobby}:nicks", "chat:{lobby}:leases")
    await bob.send("rename", nick="Robert")
    assert (await bob.hear_until("error"))["code"] == "unavailable"
    await backplane.renew({"lobby": before})
    assert redis.run("HKEYS", "chat:{lobby}:nicks") == "bob"
    await bob.send("rename", nick="Robert")
    await bob.hear_until("renamed", old="Bob", new="Robert")
    await bob.ws.aclose()
    await chat.server_is_left()


async def test_who_has_left_does_not_come_back_by_a_change_of_nickname(
    redis: RedisServer, nursery: trio.Nursery
) -> None:
    backplane = RedisBackplane(redis.url, history=50, keep=300)
    chat = await start(nursery, backplane=backplane)
    ann = await chat.enter("Ann")
    (who,) = chat.server.rooms.local_rooms()["lobby"].identities()
    await backplane.release("lobby", who)
    with pytest.raises(Unavailable):
        await backplane.rename("lobby", who, "Zoe")
    assert redis.run("HKEYS", "chat:{lobby}:nicks") == ""
    await ann.ws.aclose()
    await chat.server_is_left()


async def test_a_renewal_makes_the_leases_longer(redis: RedisServer, nursery: trio.Nursery) -> None:
    backplane = RedisBackplane(redis.url, history=50, keep=300)
    chat = await start(nursery, backplane=backplane)
    ann = await chat.enter("Ann")
    redis.run("ZADD", "chat:{lobby}:leases", "0", "ann")
    await backplane.renew(chat.server.rooms.local_rooms())
    assert float(redis.run("ZSCORE", "chat:{lobby}:leases", "ann")) > 0
    await ann.ws.aclose()
    await chat.server_is_left()


async def test_who_may_have_come_in_without_hearing_of_it_leaves_again(
    redis: RedisServer, nursery: trio.Nursery
) -> None:
    backplane = RedisBackplane(redis.url, history=50, keep=300)
    chat = await start(nursery, backplane=backplane)
    bob = await chat.enter("Bob")
    redis.run("CLIENT", "PAUSE", "100000", "WRITE")
    with trio.CancelScope() as coming_in:
        nursery.start_soon(cancel_when_blocked, coming_in)
        await backplane.claim("lobby", Identity("member", "session", "Ann"))
    assert coming_in.cancelled_caught
    redis.run("CLIENT", "UNPAUSE")
    await bob.hear_until("joined", nick="Ann")
    await backplane.renew({})
    await bob.hear_until("left", nick="Ann")
    await bob.ws.aclose()
    await chat.server_is_left()


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    scope.cancel()


async def test_who_leaves_while_redis_is_away_is_not_there_when_it_is_back(
    redis: RedisServer,
) -> None:
    async with (
        running_chat("--backplane", redis.url) as chat,
        chat.visitor("Ann") as ann,
        chat.visitor("Bob") as bob,
    ):
        redis.run("CONFIG", "SET", "requirepass", "secret")
        redis.run("-a", "secret", "CLIENT", "KILL", "TYPE", "pubsub")
        await ann.hear_until("status", online=False)
        await bob.ws.aclose()
        while "left room=lobby nick=Bob" not in await chat.program.read_line():
            pass
        redis.run("-a", "secret", "CONFIG", "SET", "requirepass", "")
        await ann.hear_until("left", nick="Bob")


@pytest.mark.parametrize("missed", [49, 50, 51])
async def test_who_comes_back_to_any_server_is_told_truly_whether_something_was_missed(
    redis: RedisServer, missed: int
) -> None:
    async with (
        two_servers(redis, "--rate", "1000000") as servers,
        servers[0].visitor("Ann") as ann,
    ):
        seen = await ann.say("all have seen this")
        for _ in range(missed):
            await ann.say("missed")
        # The other server opens the room only now.
        for server in servers:
            async with server.visitor() as bob:
                # In one session his name is his, though the first server may not have let go of it.
                welcome = await bob.join("Bob", session="session-of-bob", seen=seen)
                assert len(texts_of(welcome)) == min(missed, 50)
                assert welcome["complete"] is (missed <= 50)


async def test_who_comes_back_to_a_room_that_redis_has_forgotten_is_told(
    redis: RedisServer,
) -> None:
    async with two_servers(redis) as (one, other):
        async with one.visitor("Ann") as ann:
            seen = await ann.say("all have seen this")
            await ann.say("missed")
        redis.run("FLUSHALL")  # as when it was empty for too long
        async with other.visitor() as bob:
            welcome = await bob.join("Bob", seen=seen)
            assert (texts_of(welcome), welcome["complete"]) == ([], False)
            now = welcome["seen"]
            session = bob.session
        async with other.visitor() as bob:
            assert isinstance(now, int)
            assert (await bob.join("Bob", session=session, seen=now))["complete"] is True


async def test_what_is_not_understood_is_in_the_log_and_disturbs_nobody(
    redis: RedisServer,
) -> None:
    async with running_chat("--backplane", redis.url) as chat, chat.visitor("Ann") as ann:
        for garbage in ("", "[]", "{}", '{"type": "poll"}', '{"type": "joined"}'):
            redis.run("PUBLISH", "chat:{lobby}:events", garbage)
        await ann.say("still here")
        lines = [await chat.program.read_line() for _ in range(7)]
        assert sum("error not understood room=lobby" in line for line in lines) == 5


async def test_a_room_that_was_closed_to_make_space_is_had_again_from_redis(
    redis: RedisServer,
) -> None:
    one_room = ("--rooms", "1", "--rate", "1000000")
    async with running_chat("--backplane", redis.url, *one_room) as chat:
        async with chat.visitor("Ann") as ann:
            seen = await ann.say("hello")
        async with chat.visitor() as ann:
            await join_at_last(ann, "Ann", "garden")
        async with chat.visitor() as ann, chat.visitor() as bob:
            welcome = await join_at_last(ann, "Ann", seen=seen - 1)
            assert (texts_of(welcome), welcome["complete"]) == (["hello"], True)
            await bob.join("Bob")
            await ann.say("still here")
            assert (await bob.hear_until("message"))["text"] == "still here"


async def test_a_redis_with_older_data_gets_what_was_said_since(redis: RedisServer) -> None:
    async with (
        two_servers(redis, "--rate", "1000000") as (one, other),
        one.visitor("Ann") as ann,
    ):
        last = await ann.say("in the older data")
        log = redis.run("LRANGE", "chat:{lobby}:log", "0", "-1")
        await ann.say("said since")
        redis.run("SET", "chat:{lobby}:last", str(last))
        redis.run("DEL", "chat:{lobby}:log")
        redis.run("RPUSH", "chat:{lobby}:log", log)
        redis.run("CLIENT", "KILL", "TYPE", "pubsub")
        await ann.hear_until("status", online=True)
        async with other.visitor() as bob:
            # This server may be without its connection still.
            welcome = await join_at_last(bob, "Bob", seen=last)
            assert (texts_of(welcome), welcome["complete"]) == (["said since"], True)


async def test_the_keys_of_the_last_2000_messages_are_remembered(redis: RedisServer) -> None:
    async with running_chat("--backplane", redis.url) as chat, chat.visitor("Ann") as ann:
        first = await ann.say("again", key="key-of-the-first")
        second = await ann.say("again", key="key-of-the-second")
        fill = (
            "for n = 1, 1998 do redis.call('ZADD', KEYS[1], ARGV[1] + n, 'session key-' .. n) end"
        )
        redis.run("EVAL", fill, "1", "chat:{lobby}:said", str(second))
        assert await ann.say("again", key="key-of-the-first") == first
        await ann.say("one more", key="key-of-the-last")
        assert redis.run("ZCARD", "chat:{lobby}:said") == "2000"
        assert await ann.say("again", key="key-of-the-second") == second
        assert await ann.say("again", key="key-of-the-first") > first


async def test_a_server_that_starts_before_redis_waits_for_it(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    async with running("-m", "examples.chat", "--port", "0", "--backplane", redis.url) as program:
        assert "warning no Redis error=" in await program.read_line()
        assert "listening" in await program.read_line()
        program.send_signal(signal.SIGTERM)
        assert (await program.wait()).output.count("no Redis") == 0
    async with running_chat("--backplane", redis.url, "--rate", "1000000") as chat:
        with redis:
            async with chat.visitor() as ann:
                await join_at_last(ann, "Ann")


async def test_workers_share_a_port_and_are_replaced_and_stop_together(redis: RedisServer) -> None:
    async with running_chat("--backplane", redis.url, "--workers", "2") as chat:
        pids = await find_workers(chat, 2)
        os.kill(min(pids), signal.SIGKILL)
        while "worker ended" not in await chat.program.read_line():
            pass
        pids = {max(pids), *(await find_workers(chat, 2) - pids)}
        async with chat.visitor("Ann") as ann:
            chat.program.send_signal(signal.SIGTERM)
            assert (await ann.end()).code == 1001
        ended = await chat.program.wait()
    assert ended.code == 0
    assert "Traceback" not in ended.output


async def test_a_worker_that_does_not_end_is_killed(redis: RedisServer) -> None:
    async with running_chat("--backplane", redis.url, "--workers", "2", "--grace", "0.1") as chat:
        os.kill(min(await find_workers(chat, 2)), signal.SIGSTOP)
        chat.program.send_signal(signal.SIGTERM)
        assert (await chat.program.wait()).code == 0


async def test_a_second_signal_hurries_the_workers(redis: RedisServer) -> None:
    async with (
        running_chat("--backplane", redis.url, "--workers", "2", "--grace", "600") as chat,
        chat.deaf_visitor(),
    ):
        for _ in range(2):
            chat.program.send_signal(signal.SIGINT)
            await chat.program.read_line()
        ended = await chat.program.wait()
    assert ended.code == 0
    assert "Traceback" not in ended.output


async def test_the_port_of_workers_is_not_shared_with_another_server(redis: RedisServer) -> None:
    backplane = ("--backplane", redis.url)
    async with running_chat(*backplane, "--workers", "2") as chat:
        for workers in ("1", "2"):
            port = ("--port", str(chat.port))
            ended = await run("-m", "examples.chat", *port, *backplane, "--workers", workers)
            assert ended.code == 1
            assert ended.output.startswith(f"can not listen on 127.0.0.1 port {chat.port}:")
            assert "ddress already in use" in ended.output
            assert ended.output.count("\n") == 1
        assert len(await find_workers(chat, 2)) == 2


async def test_a_port_is_reserved_for_those_who_share_it_though_nobody_listens_yet() -> None:
    with await reserve_port("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        with pytest.raises(OSError, match="ddress already in use"):
            await reserve_port("127.0.0.1", port)
        with pytest.raises(OSError, match="ddress already in use"):
            await open_listeners("127.0.0.1", port)
        for _ in range(2):
            (listener,) = await open_listeners("127.0.0.1", port, shared=True)
            async with listener, await trio.open_tcp_stream("127.0.0.1", port):
                await (await listener.accept()).aclose()  # the kernel keeps it for a minute
    with await reserve_port("127.0.0.1", port):
        pass


async def find_workers(chat: Chat, count: int) -> set[int]:
    """Ask until *count* of them have answered."""
    pids: set[int] = set()
    while len(pids) < count:
        pids.add(json.loads((await chat.request("GET /healthz HTTP/1.1")).body)["pid"])
    return pids


async def test_workers_that_do_not_start_end_the_program_with_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coredis.py").write_text("raise ModuleNotFoundError(name='coredis')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    backplane = ("--backplane", "redis://127.0.0.1:1")
    ended = await run("-m", "examples.chat", "--port", "0", "--workers", "2", *backplane)
    assert ended == (1, "--backplane needs coredis: pip install '.[chat]'\n")


async def test_workers_do_not_outlive_who_started_them(redis: RedisServer) -> None:
    async with (
        running_chat("--backplane", redis.url, "--workers", "2") as chat,
        chat.visitor("Ann") as ann,
        chat.visitor("Bob") as bob,
    ):
        chat.program.send_signal(signal.SIGKILL)
        assert (await ann.end()).code == 1001
        assert (await bob.end()).code == 1001


async def test_workers_without_a_backplane_are_refused() -> None:
    ended = await run("-m", "examples.chat", "--workers", "2")
    assert ended.code == 2
    assert "--workers needs a --backplane" in ended.output


async def test_without_the_client_of_redis_it_is_said_what_to_install() -> None:
    program = "import runpy, sys; sys.modules['coredis'] = None; runpy.run_module('examples.chat')"
    program = program.replace("chat')", "chat', run_name='__main__')")
    port = str(free_port())
    ended = await run("-c", program, "--port", port, "--backplane", "redis://127.0.0.1:1")
    assert ended.code == 1
    assert ended.output == "--backplane needs coredis: pip install '.[chat]'\n"


async def join_at_last(
    visitor: Visitor, nick: str, room: str = "lobby", seen: int | None = None
) -> dict[str, object]:
    """Ask to come in until the server can do that."""
    answer: dict[str, object] = {}
    while answer.get("type") != "welcome":
        await visitor.send("join", room=room, nick=nick, session=visitor.session, seen=seen)
        answer = await visitor.hear()
        assert answer["type"] == "welcome" or answer["code"] in ("unavailable", "server_full")
    return answer


def names_of(welcome: dict[str, object]) -> list[str]:
    nicks = welcome["nicks"]
    assert isinstance(nicks, list)
    return nicks
