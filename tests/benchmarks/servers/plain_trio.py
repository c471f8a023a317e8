"""Trio and TCP, no WebSocket: the bytes come back as they are. What Trio itself allows."""

from __future__ import annotations

import os
from contextlib import suppress

import trio
from command import HOST, announce, parse_command


async def echo(stream: trio.SocketStream) -> None:
    descriptor = stream.socket.fileno()
    buffer = memoryview(bytearray(256 * 1024))
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        with suppress(BlockingIOError):
            count = os.readv(descriptor, [buffer])
            if not count:
                break
            await write(descriptor, buffer[:count])


async def write(descriptor: int, data: memoryview) -> None:
    while True:
        with suppress(BlockingIOError):
            data = data[os.write(descriptor, data) :]
        if not data:
            break
        await trio.lowlevel.wait_writable(descriptor)


async def echo_tls(stream: trio.SSLStream[trio.SocketStream]) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def main() -> None:
    context = parse_command().ssl_context
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    announce(listeners[0].socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, OSError):
            if context is None:
                await echo(stream)
            else:
                await echo_tls(trio.SSLStream(stream, context, server_side=True))
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(handle, listeners)


if __name__ == "__main__":
    trio.run(main)
