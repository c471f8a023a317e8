import json
import signal
from functools import partial
from pathlib import Path

import trio

import trio_ws

PAGE = Path(__file__).with_name("page.html").read_text()

rooms = {}


async def chat(ws):
    joining = await receive_object(ws)
    if joining is None or not {"room", "nick"} <= joining.keys():
        await ws.aclose(1008, "say first which room you want, and who you are")
        return
    name, nick = str(joining["room"]), str(joining["nick"])
    room = rooms.setdefault(name, {})
    with trio.CancelScope() as listening:
        room[ws] = listening
        tell(room, f"{nick} came in")
        try:
            while (said := await receive_object(ws)) is not None:
                tell(room, str(said.get("text", "")), nick)
        finally:
            del room[ws]
            tell(room, f"{nick} left")
            if not room:
                rooms.pop(name, None)
    if listening.cancelled_caught:
        await ws.aclose(1013, "you read too slowly: come back")


async def receive_object(ws):
    """The next JSON object; None if something else comes."""
    try:
        message = json.loads(await ws.receive())
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def tell(room, text, nick=None):
    for ws in trio_ws.broadcast(room, json.dumps({"nick": nick, "text": text})):
        room[ws].cancel()


async def process_request(request):
    if request.target == "/":
        return trio_ws.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    if request.target != "/chat":
        return trio_ws.Response(404, body="There is nothing here.\n")
    return None


async def main():
    serve = partial(
        trio_ws.serve_websocket,
        chat,
        8000,
        max_message_size=4096,
        process_request=process_request,
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            print("listening on http://localhost:8000/")
            await anext(signals)
            await server.shutdown(grace=5)
    print("stopped")


trio.run(main)
