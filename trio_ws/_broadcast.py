"""One message to many streams, encoded once."""

from __future__ import annotations

from collections.abc import Iterable

from trio.lowlevel import enable_ki_protection

from ._deflate import DeflaterSettings, SharedDeflate
from ._frames import FIN, pack_frame
from ._payloads import Data, encode_message
from ._stream import WebSocketStream


@enable_ki_protection
def broadcast(
    streams: Iterable[WebSocketStream],
    message: Data,
    *,
    text: bool | None = None,
    compress: bool | None = None,
) -> list[WebSocketStream]:
    """Send *message* to every stream that can take it now, without waiting for any.

    The message is encoded once, and each stream writes it in the next scheduler tick (hundreds of
    streams take some ticks more), together with what else is committed by then. A stream is
    skipped if it is closing or closed, if its outbox is full or other tasks wait to send, or if it
    is in the middle of a fragmented message. So one slow reader never delays the rest.

    If it is compressed, that is done once for all streams that agreed to the same parameters
    without context takeover. A stream with context takeover compresses it by itself, since what
    comes of it depends on what was sent there before: that costs as much as a ``send``.

    :param streams: where to; each at most once. What is no stream raises AttributeError in its
        turn: those before it have been sent the message.
    :param message: as for :meth:`WebSocketStream.send`.
    :param text: as for :meth:`WebSocketStream.send`.
    :param compress: as for :meth:`WebSocketStream.send`, for each stream.
    :returns: the streams that were skipped, in the order of *streams*; they were sent nothing.
    :raises ValueError: a text message is not valid Unicode or UTF-8; nobody was sent anything.
    :raises TypeError: *message* is neither ``str`` nor bytes-like; nobody was sent anything.

    This is a synchronous function: it can not be cancelled, and no other task runs before it ends.

    .. example: fragment

    .. code-block:: python

        for stream in trio_ws.broadcast(room, "hello"):
            nursery.start_soon(stream.aclose, 1013, "too slow")
    """
    opcode, payload = encode_message(message, text)
    frame = pack_frame(FIN | opcode, payload, None)
    shared: dict[DeflaterSettings, SharedDeflate] = {}
    skipped = []
    for stream in streams:
        deflates = stream._deflater is not None
        how = _compression(stream, payload, compress, shared) if deflates else False
        if not stream._offer(opcode, payload, frame, how):
            skipped.append(stream)
    return skipped


def _compression(
    stream: WebSocketStream,
    payload: bytes,
    compress: bool | None,
    shared: dict[DeflaterSettings, SharedDeflate],
) -> bool | SharedDeflate:
    """Whether *stream* compresses the message, or by what is done for others too."""
    deflater = stream._deflater_for(compress, len(payload))
    if deflater is None or deflater.context_takeover:
        return deflater is not None
    settings = deflater.settings
    if settings not in shared:
        shared[settings] = SharedDeflate(payload, deflater.twin())
    return shared[settings]
