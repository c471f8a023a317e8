"""The command line: a client that sends what is typed, and an echo server to try it on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial

import trio

import trio_ws

CLOSED_IN_ORDER = 0
FAILED = 1
INTERRUPTED = 130

_CHUNK = 64 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    if (given.url is None) == (given.echo is None):
        parser.error("give a URL to connect to, or --echo PORT")
    try:
        if given.echo is None:
            return trio.run(partial(talk, given.url, given.header, given.subprotocol))
        trio.run(serve_echo, given.echo)
    except ValueError as error:
        parser.error(str(error))
    except (OSError, trio_ws.HandshakeError) as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        pass
    return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_ws",
        description="Connect to a WebSocket server: each line of the input is sent as a text "
        "message, each message received is printed. The end of the input, or Ctrl-C, closes the "
        "connection with 1000; a second Ctrl-C does not wait for the server.",
        epilog="Exit code: 0 if the connection was closed in order; 1 if there was none, or it "
        "ended otherwise; 2 if the command line is wrong; 130 if Ctrl-C came before there was a "
        "connection, or twice.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="ws:// or wss://")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=parse_header,
        metavar="'NAME: VALUE'",
        help="a header for the request; may be given several times",
    )
    parser.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="a subprotocol to offer, the preferred one first; may be given several times",
    )
    parser.add_argument(
        "--echo", type=int, metavar="PORT", help="instead serve on localhost, and send all back"
    )
    return parser


def parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'NAME: VALUE'")
    return name, value


async def talk(
    url: str, headers: Sequence[tuple[str, str]], subprotocols: Sequence[str], stdin: int = 0
) -> int:
    """Be the client.

    :param stdin: the descriptor to read lines from.
    :returns: the exit code.
    """
    async with trio_ws.open_websocket(url, headers=headers, subprotocols=subprotocols) as ws:
        say(f"connected, {ws.subprotocol}" if ws.subprotocol else "connected")
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_lines, ws, stdin)
                nursery.start_soon(close_when_interrupted, ws, signals)
                exit_code = await print_messages(ws)
                nursery.cancel_scope.cancel()
        return exit_code


async def send_lines(ws: trio_ws.WebSocketStream, stdin: int) -> None:
    """Send each line, and close at the end. How the connection ends is the receiver's to say."""
    rest = b""
    try:
        # Not sys.stdin, whose lock a thread that still reads would hold when Python exits.
        while data := await trio.to_thread.run_sync(os.read, stdin, _CHUNK, abandon_on_cancel=True):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                await ws.send(line.decode(errors="replace").rstrip("\r"))
        if rest:
            await ws.send(rest.decode(errors="replace"))
        await ws.send_close()
    except trio_ws.ConnectionClosed:
        return


async def close_when_interrupted(ws: trio_ws.WebSocketStream, signals: AsyncIterator[int]) -> None:
    await anext(signals)
    await ws.send_close()
    await anext(signals)
    await trio.aclose_forcefully(ws)


async def print_messages(ws: trio_ws.WebSocketStream) -> int:
    """Print what arrives until the connection ends, and return the exit code."""
    try:
        while True:
            print(printable(await ws.receive()), flush=True)
    except trio_ws.ConnectionClosed as closed:
        say(str(closed))
        return CLOSED_IN_ORDER if isinstance(closed, trio_ws.ConnectionClosedOK) else FAILED
    except trio.ClosedResourceError:
        return INTERRUPTED


def printable(message: str | bytes) -> str:
    """The message without anything that a terminal would take for a command."""
    if isinstance(message, bytes):
        return repr(message)
    return "".join([c if c.isprintable() or c in "\t\n" else repr(c)[1:-1] for c in message])


async def serve_echo(port: int) -> None:
    """Be the server, until Ctrl-C."""
    listeners = await trio.open_tcp_listeners(port, host="localhost")
    for listener in listeners:
        say(f"echoing on ws://localhost:{listener.socket.getsockname()[1]}/")
    await trio_ws.serve_websocket(echo, listeners=listeners)


async def echo(ws: trio_ws.WebSocketStream) -> None:
    async for message in ws:
        await ws.send(message)


def say(text: str) -> None:
    """For whoever looks on; standard output is for the messages alone."""
    print(printable(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
