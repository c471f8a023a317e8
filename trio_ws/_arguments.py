"""Mistakes in what the caller gives to connect or to serve, found at the call and told clearly."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable

import trio


def check_stream(name: str, stream: object) -> None:
    """Find the mistakes, of which a socket is the likely one: it is closed, as a stream would be.

    :raises TypeError: it is not a ``trio.abc.Stream``.
    """
    if isinstance(stream, trio.abc.Stream):
        return
    hint = ""
    if isinstance(stream, socket.socket | trio.socket.SocketType):
        stream.close()
        hint = ": put a trio.SocketStream around it"
    raise TypeError(f"{name} must be a trio.abc.Stream, not {type(stream).__name__}{hint}")


def check_async(name: str, function: Callable[..., object]) -> None:
    """Find the mistakes that can be known before the user's code is called.

    A lambda, a partial and other objects may return an awaitable: that is seen when they do.

    :param name: that of the parameter.
    :raises TypeError: it is not a function, or one that is not async.
    """
    if inspect.iscoroutine(function):
        raise TypeError(f"{name} must be an async function: give it without calling it")
    if not callable(function):
        raise TypeError(f"{name} must be an async function, not {function!r}")
    written = inspect.unwrap(function.__func__ if inspect.ismethod(function) else function)
    if not inspect.isfunction(written) or written.__name__ == "<lambda>":
        return
    if inspect.isasyncgenfunction(written):
        raise TypeError(f"{name} must be an async function: there must be no yield in it")
    if not inspect.iscoroutinefunction(written):
        raise TypeError(f"{name} must be an async function: write async def {written.__name__}")
