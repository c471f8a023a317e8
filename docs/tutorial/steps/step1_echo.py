import trio

import trio_ws


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_ws.serve_websocket, echo, 8000)
        print("listening on port 8000")


trio.run(main)
