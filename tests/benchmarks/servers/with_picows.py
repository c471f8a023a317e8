"""picows, with uvloop. It has no messages, only frames: who uses it sees to fragments."""

from __future__ import annotations

import logging

import uvloop
from command import HOST, MAX_MESSAGE_SIZE, announce, parse_command
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

clients: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        clients.remove(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for client in clients:
            client.send(WSMsgType.TEXT, payload)


async def main() -> None:
    command = parse_command()
    listener = Echo if command.mode == "echo" else Broadcast

    def accept(_: WSUpgradeRequest) -> WSListener:
        return listener()

    server = await ws_create_server(
        accept, HOST, 0, ssl=command.ssl_context, max_frame_size=MAX_MESSAGE_SIZE
    )
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    # It logs that connections open and close.
    logging.disable()
    uvloop.run(main())
