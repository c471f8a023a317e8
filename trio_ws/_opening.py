"""What clients and servers share: the deadline of the handshake, and who owns what.

:class:`StreamOwner` is around the body of ``open_websocket``. Its nursery holds the stream's
background tasks and nothing else. The nursery never sees the body's exception, so that the
exception comes out as it is; and the background tasks are shielded, so that they work until their
owner ends them, whatever is cancelled around it. A server does the same for its handlers, but in
one nursery for all.

All this runs within public coroutines and tasks that are protected from KeyboardInterrupt, and so
is protected, too. :func:`call_unprotected` is the way out of that, for the user's code.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self, TypeVar, TypeVarTuple

import trio
from trio.lowlevel import disable_ki_protection

from ._errors import HandshakeTimeout
from ._frames import Buffer, CloseCode
from ._handshake import ClientHandshake, HandshakeError, ServerHandshake
from ._options import StreamOptions
from ._stream import WebSocketStream
from ._transport import Transport

_GOODBYE: Final = 1.0
"""Seconds for the closing handshake after a body that raised."""

_RECEIVE_SIZE: Final = 64 * 1024
"""Bytes of a handshake that are read at a time."""

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""How a stream says that the connection has broken, or that another task has closed it."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def deadline_of(options: StreamOptions) -> float:
    """When a handshake that begins now must have ended."""
    return trio.current_time() + options.timeouts.handshake_seconds


@contextmanager
def handshake_deadline(
    handshake: ClientHandshake | ServerHandshake, options: StreamOptions, deadline: float
) -> Iterator[None]:
    """Give the block until *deadline*, which is that of *options*.

    :raises HandshakeTimeout: it took longer.
    :raises HandshakeError: it took longer, but its outcome was known: the handshake was refused.
    """
    with trio.CancelScope(deadline=deadline):
        yield
        return
    raise handshake.refusal() or handshake_timeout(options)


def handshake_timeout(options: StreamOptions) -> HandshakeTimeout:
    """The error for a handshake that has not ended in time."""
    return HandshakeTimeout(
        f"the opening handshake took longer than {options.timeouts.handshake} s"
    )


async def receive_some(transport: Transport) -> Buffer:
    """Bytes of the peer's handshake, empty at EOF. They are valid until the caller awaits again.

    :raises HandshakeError: the connection broke.
    """
    try:
        return await transport.receive(_RECEIVE_SIZE)
    except GONE as error:
        raise HandshakeError("the connection broke during the opening handshake") from error


class closing_on_failure:
    """An async context manager: if its block raises, these are closed at once."""

    def __init__(self, *resources: trio.abc.AsyncResource) -> None:
        self._resources = resources

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            for resource in self._resources:
                # Shielded, or a Cancelled would take the place of the exception.
                with trio.CancelScope(shield=True), suppress(Exception):
                    await trio.aclose_forcefully(resource)


class StreamOwner:
    """An async context manager that starts a stream, and ends it after the block.

    After a block that raised, the peer has a second to answer the Close: 1011 for an Exception,
    1001 for anything else. The exception passes as it is.
    """

    def __init__(self, stream: WebSocketStream) -> None:
        self._stream = stream
        self._nursery = trio.open_nursery()

    async def __aenter__(self) -> WebSocketStream:
        self._stream._start(await self._nursery.__aenter__(), shield=True)
        return self._stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None:
                await self._stream.aclose()
            else:
                await close_after(self._stream, exc)  # noqa: ASYNC102 (it shields itself)
        finally:
            self._stream._end()
            await self._close_nursery()  # noqa: ASYNC102 (a nursery is shielded while it closes)

    async def _close_nursery(self) -> None:
        """Wait for the background tasks. What comes out is a KeyboardInterrupt that came now."""
        error = None
        try:
            await self._nursery.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            error = unwrap(group)
        if error is not None:
            raise error


async def close_after(stream: WebSocketStream, error: BaseException) -> None:
    """Close the stream because of what a body or a handler has raised."""
    with trio.move_on_after(_GOODBYE, shield=True):
        await stream.aclose(_goodbye_code(error))


def _goodbye_code(error: BaseException) -> CloseCode:
    if isinstance(error, BaseExceptionGroup):
        failed = error.subgroup(Exception) is not None
    else:
        failed = isinstance(error, Exception)
    return CloseCode.INTERNAL_ERROR if failed else CloseCode.GOING_AWAY


def unwrap(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that a nursery's group is about; the group itself if there are several.

    A Cancelled beside another exception does not count: it came of it.
    """
    leaves = _leaves(group)
    errors = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    return group if len(errors) > 1 else (errors or leaves)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]


@disable_ki_protection
async def call_unprotected(function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call the user's code, which Ctrl-C may interrupt anywhere, as it may in any task.

    :raises TypeError: it is not async.
    """
    result = function(*args)
    if not inspect.isawaitable(result):
        returned = type(result).__name__
        raise TypeError(f"{function!r} must be an async function: it returned {returned}")
    return await result
