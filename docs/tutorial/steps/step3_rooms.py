import json

import trio

import trio_ws

rooms = {}


async def chat(ws):
    joining = await receive_object(ws)
    if joining is None or not {"room", "nick"} <= joining.keys():
        await ws.aclose(1008, "say first which room you want, and who you are")
        return
    name, nick = str(joining["room"]), str(joining["nick"])
    room = rooms.setdefault(name, set())
    room.add(ws)
    tell(room, f"{nick} came in")
    try:
        while (said := await receive_object(ws)) is not None:
            tell(room, str(said.get("text", "")), nick)
    finally:
        room.remove(ws)
        tell(room, f"{nick} left")
        if not room:
            del rooms[name]


async def receive_object(ws):
    """The next JSON object; None if something else comes."""
    try:
        message = json.loads(await ws.receive())
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def tell(room, text, nick=None):
    trio_ws.broadcast(room, json.dumps({"nick": nick, "text": text}))


async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_ws.serve_websocket, chat, 8000)
        print("listening on port 8000")


trio.run(main)
