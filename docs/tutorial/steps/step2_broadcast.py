import trio

import trio_ws

clients = set()


async def chat(ws):
    clients.add(ws)
    try:
        async for message in ws:
            trio_ws.broadcast(clients, message)
    finally:
        clients.remove(ws)


async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_ws.serve_websocket, chat, 8000)
        print("listening on port 8000")


trio.run(main)
