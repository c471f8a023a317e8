import json
import signal
import sys
from functools import partial
from pathlib import Path

import coredis
import trio

import trio_ws

PAGE = Path(__file__).with_name("page.html").read_text()

rooms = {}


async def chat(redis, ws):
    joining = await receive_object(ws)
    if joining is None or not {"room", "nick"} <= joining.keys():
        await ws.aclose(1008, "say first which room you want, and who you are")
        return
    name, nick = str(joining["room"]), str(joining["nick"])
    room = rooms.setdefault(name, {})
    with trio.CancelScope() as listening:
        room[ws] = listening
        try:
            await tell(redis, name, f"{nick} came in")
            while (said := await receive_object(ws)) is not None:
                await tell(redis, name, str(said.get("text", "")), nick)
        finally:
            del room[ws]
            if not room:
                rooms.pop(name, None)
            with trio.move_on_after(1, shield=True):
                await tell(redis, name, f"{nick} left")
    if listening.cancelled_caught:
        await ws.aclose(1013, "you read too slowly: come back")


async def receive_object(ws):
    """The next JSON object; None if something else comes."""
    try:
        message = json.loads(await ws.receive())
        json.dumps(message, ensure_ascii=False).encode()  # half a surrogate pair can not be
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


async def tell(redis, name, text, nick=None):
    """Let all servers know, this one included."""
    await redis.publish(f"room:{name}", json.dumps({"nick": nick, "text": text}))


async def relay(redis, *, task_status):
    """Pass on what any server has published to those of the room who are here."""
    async with redis.pubsub(patterns=["room:*"], ignore_subscribe_messages=True) as events:
        task_status.started()
        async for event in events:
            room = rooms.get(event["channel"].removeprefix("room:"), {})
            for ws in trio_ws.broadcast(room, event["data"]):
                room[ws].cancel()


async def process_request(request):
    if request.target == "/":
        return trio_ws.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    if request.target != "/chat":
        return trio_ws.Response(404, body="There is nothing here.\n")
    return None


async def main():
    port = int(sys.argv[1])
    redis = coredis.Redis.from_url("redis://localhost:6379", decode_responses=True)
    serve = partial(
        trio_ws.serve_websocket,
        partial(chat, redis),
        port,
        max_message_size=4096,
        process_request=process_request,
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with redis, trio.open_nursery() as nursery:
            await nursery.start(relay, redis)
            server = await nursery.start(serve)
            print(f"listening on http://localhost:{port}/")
            await anext(signals)
            await server.shutdown(grace=5)
            nursery.cancel_scope.cancel()
    print("stopped")


trio.run(main)
