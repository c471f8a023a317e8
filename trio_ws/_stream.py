"""``WebSocketStream``: one WebSocket connection as a Trio channel of messages.

Theory of operation
-------------------

A background task, the reader, reads the transport while the inbox has room, hands messages to the
tasks that wait in ``receive``, answers pings, resolves pongs, and drives the closing handshake. All
that happens between two of its awaits is one step that nobody sees half done. How it reads, and who
does it while it sleeps, is the business of :class:`trio_ws._reader.Reader`; what follows from what
has arrived is done here.

A ``send`` commits: it puts its message into the outbox in one synchronous step, after its last
await. Before that step it can be cancelled without a trace; after it there is nothing to cancel.
If there is no room it waits its turn, and whoever makes room commits for it in the same step that
wakes it. A ``receive`` is the mirror image: its message is handed over in the same step.

What was committed is the business of :class:`trio_ws._writer.Writer` from then on.

Who owns what: the reader alone, or who reads for it, calls ``Protocol.decode``. Its task closes the
transport, but for terminal cancellation, which must close it at once. ``_conclude`` is the one
place where waiting tasks learn that the connection is over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Unpack, overload

import trio
from trio.lowlevel import enable_ki_protection

from ._deadlines import Deadlines, Due
from ._deflate import Codec, DeflateParameters, Deflater, SharedDeflate, client_codec, server_codec
from ._errors import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, StreamClosed
from ._frames import (
    NO_REASON,
    Buffer,
    CloseCode,
    CloseReason,
    Opcode,
    pack_close,
    validate_utf8,
)
from ._http import Request, Response
from ._inbox import Inbox
from ._options import ControlCallback, StreamKeywords, StreamOptions
from ._outbox import Outbox
from ._payloads import (
    Data,
    close_payload,
    control_payload,
    encode_message,
    message_opcode,
    to_bytes,
)
from ._pings import Pings, fresh_payload
from ._poller import current_poller
from ._protocol import (
    RECEIVING,
    Close,
    Event,
    Ping,
    Pong,
    Protocol,
    Role,
    State,
    Violation,
)
from ._reader import Reader
from ._receivers import Receiver, Receivers
from ._senders import ControlSender, DataSender, Senders
from ._teardown import Teardown
from ._ticker import Timer, current_ticker
from ._tls import make_opened_transport
from ._waiting import LateEvent
from ._writer import Writer

logger = logging.getLogger("trio_ws")

# An attribute of an enum costs as much as a whole check.
_OPEN: Final = State.OPEN

_DEFLATE_PRICE: Final = 8
"""What a byte to be compressed costs of the budget of the run."""

_BYTES_FOR_ONE: Final = 4
"""Other bytes that cost as much as one of the budget: they are only copied."""

_FREE_BYTES: Final = 1024
"""A message below that is received for the price of any. To count its bytes takes 0.05 us."""

_CLEAN_CODES: Final = frozenset(
    {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}
)


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What :meth:`WebSocketStream.statistics` returns."""

    messages_sent: int
    """Messages committed whole."""
    messages_received: int
    """Messages that have arrived whole, those discarded while closing not counted."""
    bytes_sent: int
    """Bytes handed to the transport, frame headers included."""
    bytes_received: int
    """Bytes taken from the transport, frame headers included."""
    inbox_size: int
    """Bytes of received messages that wait for ``receive``, in the unit of ``max_inbox_size``."""
    outbox_size: int
    """Bytes that are committed and not written, in the unit of ``max_outbox_size``."""
    tasks_waiting_send: int
    """Tasks that wait for room, or for another task's fragmented message to end."""
    tasks_waiting_receive: int
    """Tasks that wait for a message."""


class WebSocketStream(trio.abc.Channel[str | bytes]):
    """One open WebSocket connection: Beast's ``websocket::stream``, as a Trio channel.

    Made by :func:`open_websocket`, :func:`connect_websocket`, :func:`wrap_client_stream`,
    :func:`wrap_server_stream` and :func:`serve_websocket`; the constructor is not public.

    Messages are ``str`` (text) or ``bytes`` (binary). Several tasks may send and receive at the
    same time: messages leave in the order of the commits, and each one that arrives goes to exactly
    one receiver, first come first served.

    **Cancellation.** A cancel scope around a call is *total*: the call had no effect and the stream
    is as good as before. A cancel scope around :meth:`aclose`, or around the nursery that the
    stream lives in, is *terminal*: the transport is closed at once, and only closing succeeds
    afterwards.

    **Errors.** Once the connection has ended, receiving raises :class:`ConnectionClosedOK` or
    :class:`ConnectionClosedError` when everything that had arrived has been taken, and all that
    sends raises :class:`ConnectionClosedError`. After this side's own :meth:`aclose`, or after
    terminal cancellation, everything raises ``trio.ClosedResourceError``.
    """

    # With as many attributes CPython looks each of them up in a dict, unless they have slots; those
    # that the application adds are in a dict as everywhere.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_cause",
        "_closed",
        "_compression",
        "_concluded",
        "_control_callback",
        "_deadlines",
        "_deflater",
        "_discarders",
        "_inbox",
        "_messages_received",
        "_options",
        "_outbox",
        "_pings",
        "_poller",
        "_protocol",
        "_reader",
        "_reader_scope",
        "_receivers",
        "_released",
        "_request",
        "_response",
        "_senders",
        "_stream",
        "_subprotocol",
        "_teardown",
        "_ticker",
        "_timer",
        "_transport",
        "_writer",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        role: Role,
        options: StreamOptions,
        *,
        request: Request,
        response: Response,
        subprotocol: str | None,
        compression: DeflateParameters | None,
        buffered: bytes,
    ) -> None:
        self._stream = stream
        self._transport = make_opened_transport(stream)
        self._options = options
        self._request = request
        self._response = response
        self._subprotocol = subprotocol
        self._compression = compression
        codec = _make_codec(role, compression, options)
        self._deflater = None if codec is None else codec.deflater
        inflater = None if codec is None else codec.inflater
        self._protocol = Protocol(role, options.max_message_size, inflater)
        self._protocol.decode(buffered, 0)
        self._outbox = Outbox(
            masked=role is Role.CLIENT,
            max_frame_size=options.max_frame_size,
            deflater=self._deflater,
        )
        # Waiting tasks
        self._inbox = Inbox()
        self._receivers = Receivers(self._inbox, self._protocol, on_waiting=self._resume_reading)
        self._discarders = 0
        # Sending
        self._pings = Pings()
        self._senders = Senders(self._outbox, options.max_outbox_size, self._pings.sent)
        # Receiving
        self._reader_scope = trio.CancelScope()
        # The end
        self._released = False
        self._concluded = False
        self._cause: BaseException | None = None
        self._closed = LateEvent()
        # Time
        self._ticker = current_ticker()
        self._poller = current_poller()
        self._control_callback = _in_this_context(options.control_callback)
        self._timer = Timer(self._ticker, self._deadline_passed)
        self._deadlines = Deadlines(options.timeouts, trio.current_time())
        self._messages_received = 0

    def _start(self, nursery: trio.Nursery, *, shield: bool) -> None:
        """Begin to read, in *nursery*; *shield* if an owner ends the stream: see :meth:`_end`."""
        self._writer = Writer(
            self._transport,
            self._outbox,
            self._ticker,
            nursery,
            shield=shield,
            on_written=self._admit_senders,
            on_blocked=self._set_timer,
            on_failed=self._stop_sending,
        )
        self._reader = Reader(
            self._protocol,
            self._transport,
            self._inbox,
            self._receivers,
            self._writer,
            self._deadlines,
            self._poller,
            self._options.max_inbox_size,
            handle=self._handle,
            on_lost=self._lose,
            on_resumed=self._set_timer,
        )
        self._teardown = Teardown(
            self._stream,
            self._transport,
            self._protocol,
            self._writer,
            self._deadlines,
        )
        self._reader_scope.shield = shield
        nursery.start_soon(self._read_in_background, name="trio_ws reader")
        self._poller.join()
        self._set_timer()

    def _end(self) -> None:
        """Terminal cancellation, by the owner of the background tasks."""
        self._reader_scope.cancel()

    def __repr__(self) -> str:
        return f"<WebSocketStream {self._protocol.role.value} {self._protocol.state.value}>"

    # What is known of the connection

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: no Close has been sent or received, and nothing has failed.

        Beast's ``is_open``.
        """
        is_open = self._protocol.state is State.OPEN and not self._released
        return is_open and self._writer.error is None

    @property
    def close_reason(self) -> CloseReason | None:
        """Code and text with which the connection is closing or was closed; None while it is open.

        Beast's ``reason``. The peer's Close counts if there is one, be it only the answer to this
        side's, unless this side has failed the connection. 1006 if the transport ended without one.
        """
        return self._protocol.close_reason

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the opening handshake agreed on (RFC 6455 section 1.9), or None."""
        return self._subprotocol

    @property
    def compression(self) -> DeflateParameters | None:
        """How messages may be compressed, as the opening handshake agreed; None if not at all."""
        return self._compression

    @property
    def request(self) -> Request:
        """The opening handshake's request, as sent by the client or received by the server."""
        return self._request

    @property
    def response(self) -> Response:
        """The opening handshake's 101 response, as received by the client or sent by the server."""
        return self._response

    @property
    def transport_stream(self) -> trio.abc.Stream:
        """The stream below (Beast's ``next_layer``): for its addresses or certificates.

        Do not read, write or close it.
        """
        return self._stream

    @property
    def latency(self) -> float | None:
        """Seconds from the last ping that was answered to its pong, keep-alive pings included.

        None before the first pong.
        """
        return self._pings.latency

    @property
    def options(self) -> StreamOptions:
        """The options in force: timeouts and limits. :meth:`configure` changes them."""
        return self._options

    @enable_ki_protection
    def configure(self, **changes: Unpack[StreamKeywords]) -> None:
        """Change options of the open stream, say the limit of the message size after a login.

        :param changes: any of the fields of :class:`StreamOptions`. ``max_handshake_size`` has no
            effect any more, nor has anything of ``compression`` but its ``min_size``; and a close
            that has begun keeps its deadline.
        :raises ValueError: if a value is out of range; then nothing has changed.
        """
        options = self._options.replace(changes)
        self._options = options
        if "control_callback" in changes:
            self._control_callback = _in_this_context(options.control_callback)
        self._protocol.max_message_size = options.max_message_size
        self._outbox.max_frame_size = options.max_frame_size
        self._senders.set_max_size(options.max_outbox_size)
        self._deadlines.timeouts = options.timeouts
        self._reader.max_inbox_size = options.max_inbox_size
        self._set_timer()
        self._reader.resume_if_room()
        self._admit_senders()
        self._write_committed()

    def statistics(self) -> StreamStatistics:
        """A snapshot of what has gone through the stream and what waits in it."""
        return StreamStatistics(
            messages_sent=self._outbox.messages,
            messages_received=self._messages_received,
            bytes_sent=self._writer.bytes_sent,
            bytes_received=self._protocol.bytes_received + self._teardown.bytes_discarded,
            inbox_size=self._inbox.size + self._protocol.partial_size,
            outbox_size=self._outbox.size,
            tasks_waiting_send=len(self._senders),
            tasks_waiting_receive=len(self._receivers.waiting),
        )

    # Receiving

    @overload
    async def receive(self, *, decode: None = None) -> str | bytes: ...

    @overload
    async def receive(self, *, decode: Literal[False]) -> bytes: ...

    @enable_ki_protection
    async def receive(self, *, decode: bool | None = None) -> str | bytes:
        """Wait for the next whole message (Beast's ``read``).

        After :meth:`receive_some` has taken a part of a message, this returns what is left of it.
        ``async for message in stream`` receives until the connection is closed in order.

        :param decode: None (the default) gives ``str`` for text and ``bytes`` for binary messages;
            False gives ``bytes`` for both, text as its UTF-8, which has been validated.
        :raises ConnectionClosedOK: the connection was closed with 1000, 1001 or without a code, and
            every message has been taken.
        :raises ConnectionClosedError: it ended otherwise, and every message has been taken.
        :raises trio.ClosedResourceError: this side has closed the stream.

        Cancellation is total: no message is lost, the next call gets it.
        """
        if decode:
            raise ValueError("decode=True: give None for str or bytes by message type, or False")
        message = None
        if self._inbox.size:
            # Else this waits, which is a checkpoint by itself: another one took 0.3 us.
            await self._ticker.turn(0)
            message = self._take_message()
        if message is None:
            receiver = Receiver(True, None)
            await self._wait_to_receive(receiver)
            message = receiver.message
        if decode is False and isinstance(message, str):
            return message.encode()
        return message

    @enable_ki_protection
    async def __anext__(self) -> str | bytes:
        # Not Trio's, which is a coroutine around receive(): that took 0.15 us more.
        if self._inbox.size:
            await self._ticker.turn(0)
            message = self._take_message()
            if message is not None:
                return message
        receiver = Receiver(True, None)
        try:
            await self._wait_to_receive(receiver)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return receiver.message

    @enable_ki_protection
    def receive_nowait(self) -> str | bytes:
        """:meth:`receive` that does not wait, as ``trio.MemoryReceiveChannel`` has it.

        A message above ``max_inbox_size`` is received only while a task waits in :meth:`receive` or
        takes it in parts.

        :raises trio.WouldBlock: no whole message is there, or other tasks wait for it.
        """
        message = self._take_message()
        if message is None:
            self._check_receiving()
            raise trio.WouldBlock
        return message

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> tuple[str | bytes, bool]:
        """Wait for a part of a message (Beast's ``read_some``), whole or not yet.

        :param max_bytes: bytes to take at most; of text, its UTF-8 bytes, but at least one code
            point. None (the default): whatever is there.
        :returns: ``(data, fin)``: ``str`` of a text message, ``bytes`` of a binary one, and whether
            it ends the message. An empty part comes only with the end. A code point that has
            arrived in part waits for its rest.
        :raises ValueError: *max_bytes* is less than 1.
        :raises ConnectionClosedOK: as for :meth:`receive`; so all the others.

        A message of any size can be received this way in bounded memory, as long as
        ``max_message_size`` allows it. Cancellation is total, as for :meth:`receive`.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes={max_bytes}: give 1 or more, or None")
        await self._ticker.turn(0)
        part = self._receivers.take_part(max_bytes)
        if part is not None:
            self._ticker.charge(len(part[0]) // _BYTES_FOR_ONE)
            self._reader.resume_if_room()
            return part
        receiver = Receiver(False, max_bytes)
        await self._wait_to_receive(receiver)
        return receiver.message, receiver.fin

    def _take_message(self) -> str | bytes | None:
        """The first message that nobody has taken; None if there is none."""
        inbox = self._inbox
        if not inbox.size:
            return None
        message = inbox.take()
        if len(message) >= _FREE_BYTES:
            self._ticker.charge(len(message) // _BYTES_FOR_ONE)
        if inbox.size <= inbox.resume_size:
            self._reader.resume_if_room()
        return message

    def _wait_to_receive(self, receiver: Receiver) -> Awaitable[None]:
        """Wait in turn; who is the first does the reading itself, if that pays."""
        if self._released or self._protocol.state not in RECEIVING:
            return self._raise_end()
        if not (self._receivers.waiting or self._poller.is_crowded):
            try:
                watch = self._transport.watched_by(self._poller)
            except trio.ClosedResourceError as error:
                # Its traceback would hold this stream, which would be garbage that has to be found.
                self._give_up(error.with_traceback(None))
            else:
                if watch is not None:
                    return self._receivers.lead(receiver, self._poller, watch)
        return self._receivers.wait(receiver)

    async def _raise_end(self) -> None:
        await self._ticker.turn(0)
        raise self._end_error(sending=False)

    def _resume_reading(self) -> None:
        self._reader.resume_if_room()

    def _check_receiving(self) -> None:
        if self._released or self._protocol.state not in RECEIVING:
            raise self._end_error(sending=False)

    # Sending

    @enable_ki_protection
    async def send(  # pyright: ignore[reportIncompatibleMethodOverride]  # "message" says more
        self, message: Data, *, text: bool | None = None, compress: bool | None = None
    ) -> None:
        """Send one message (Beast's ``write``).

        It returns once the message is committed: it will leave whole and in order unless the
        connection ends. While ``max_outbox_size`` bytes wait to be written, it waits its turn.

        :param message: ``str`` is sent as text, bytes-like data as binary. A buffer that can change
            is copied; ``bytes`` are not.
        :param text: True or False forces a text or a binary message, None (the default) goes by the
            type of *message*.
        :param compress: whether to compress it, if that was agreed: see :attr:`compression`. None
            (the default) does if it has ``PermessageDeflate.min_size`` bytes.
        :raises ConnectionClosedError: the connection is closing or closed.
        :raises trio.ClosedResourceError: this side has closed the stream.
        :raises RuntimeError: this task has begun a message with :meth:`send_some` and not ended it.
        :raises ValueError: a text message is not valid Unicode or UTF-8.
        :raises TypeError: *message* is neither ``str`` nor bytes-like.

        Cancellation is total: of a call that raises ``Cancelled`` no byte was or will be sent.
        """
        opcode, payload = encode_message(message, text)
        size = len(payload)
        compressed = self._deflater is not None and self._compresses(compress, size)
        await self._ticker.turn(size * _DEFLATE_PRICE if compressed else size // _BYTES_FOR_ONE)
        if self._protocol.state is _OPEN and self._outbox.size < self._senders.limit:
            self._commit(opcode, payload, compressed)
            return
        self._check_sending()
        if self._senders.own_message() is not None:
            raise RuntimeError(
                "this task has begun a message with send_some: end it with fin=True first"
            )
        await self._senders.wait(DataSender(opcode, payload, compressed, True, b""))

    @enable_ki_protection
    def send_nowait(
        self, message: Data, *, text: bool | None = None, compress: bool | None = None
    ) -> None:
        """:meth:`send` that does not wait, as ``trio.MemorySendChannel`` has it.

        :raises trio.WouldBlock: the outbox is full, other tasks wait, or a fragmented message has
            not ended; nothing was sent.
        """
        opcode, payload = encode_message(message, text)
        compressed = self._compresses(compress, len(payload))
        self._check_sending()
        if not self._has_turn():
            raise trio.WouldBlock
        self._commit(opcode, payload, compressed)

    @enable_ki_protection
    async def send_some(
        self,
        data: Data,
        *,
        fin: bool,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Send a part of a message, in a frame of its own (Beast's ``write_some``).

        The first call begins the message, and only the task that made it may continue it. Until its
        last part, other tasks' :meth:`send` waits, and this task's raises RuntimeError. Control
        frames and the Close pass. A message that is never ended blocks the others until the close.

        :param data: ``str``, or bytes-like data, which in a text message must continue its UTF-8; a
            code point may be split between two parts.
        :param fin: whether this part ends the message.
        :param text: as for :meth:`send`; it counts on the first part.
        :param compress: as for :meth:`send`; it counts on the first part, and so does the size of
            that. A part that is compressed is whole frames, of at most 64 KiB of it each.
        :raises TypeError: a ``str`` for a binary message.
        :raises ValueError: text that is not valid UTF-8, or that ends within a code point.
        :raises ConnectionClosedError: as for :meth:`send`; so ``trio.ClosedResourceError``.

        Cancellation is total: the part was not sent, and may be sent again.
        """
        try:
            opcode, payload, utf8_pending = self._encode_part(data, fin, text)
        except UnicodeError:
            # The message that this continues may have ended with the connection.
            self._check_sending()
            raise
        size = len(payload)
        compressed = self._compresses_part(compress, size)
        await self._ticker.turn(size * _DEFLATE_PRICE if compressed else size // _BYTES_FOR_ONE)
        self._check_sending()
        sender = DataSender(opcode, payload, compressed, fin, utf8_pending)
        if self._senders.try_part(sender):
            # Its end may be what others wait for.
            self._admit_senders()
            self._write_committed()
        else:
            await self._senders.wait(sender)

    @enable_ki_protection
    async def flush(self) -> None:
        """Wait until all that was committed before this call has been handed to the transport.

        :raises ConnectionClosedError: the connection is closed.
        :raises trio.ClosedResourceError: this side has closed the stream.

        Cancellation is total, and what was committed still goes out.
        """
        await self._ticker.turn(0)
        self._check_released()
        if self._concluded or self._protocol.state in (State.FAILED, State.LOST):
            raise self._end_error(sending=True)
        await self._writer.flush()

    def _encode_part(self, data: Data, fin: bool, text: bool | None) -> tuple[Opcode, bytes, bytes]:
        """Opcode, payload, and the start of a code point that the message will end with."""
        message = self._senders.own_message()
        if message is None:
            opcode = message_opcode(data, text)
            pending = b""
        else:
            opcode = message.opcode
            pending = message.utf8_pending
            if opcode is Opcode.BINARY and isinstance(data, str):
                raise TypeError("this message is binary: give bytes")
        payload = to_bytes(data)
        if opcode is Opcode.TEXT and not (isinstance(data, str) and not pending):
            pending = validate_utf8(pending, payload, fin)
        return opcode, payload, pending

    def _compresses(self, compress: bool | None, size: int) -> bool:
        """Whether a message of that many bytes is compressed, the caller wishing *compress*."""
        return self._deflater_for(compress, size) is not None

    def _compresses_part(self, compress: bool | None, size: int) -> bool:
        message = self._senders.own_message()
        return self._compresses(compress, size) if message is None else message.compress

    def _deflater_for(self, compress: bool | None, size: int) -> Deflater | None:
        options = self._options.compression
        if compress is None:
            compress = options is not None and size >= options.min_size
        return self._deflater if compress else None

    def _has_turn(self) -> bool:
        """Whether a message may be committed without waiting; what was gathered may make room."""
        if self._senders.has_turn():
            return True
        self._writer.flush_gathered()
        return self._senders.has_turn()

    def _commit(self, opcode: Opcode, payload: bytes, compressed: bool) -> None:
        """A whole message, of a task that has the turn."""
        if self._writer.is_gathering:
            self._outbox.commit_data(opcode, payload, True, compressed)
            return
        gather = self._inbox.size > 0
        if gather or compressed or not self._writer.write_at_once(opcode, payload):
            self._outbox.commit_data(opcode, payload, True, compressed)
            self._writer.committed(gather=gather)

    def _check_sending(self) -> None:
        if self._released or self._protocol.state is not State.OPEN:
            raise self._end_error(sending=True)

    def _offer(
        self, opcode: Opcode, payload: bytes, frame: bytes, compress: bool | SharedDeflate
    ) -> bool:
        """For ``broadcast``: commit *payload*, or *frame* which is the same for a server to send.

        It waits for the ticker to write it. False, and nothing has happened, if there is no room.
        """
        protocol, outbox = self._protocol, self._outbox
        if self._released or protocol.state is not State.OPEN:
            return False
        if outbox.size >= self._senders.limit and not self._has_turn():
            return False
        limit = outbox.max_frame_size
        is_whole = limit is None or len(payload) <= limit
        if is_whole and not compress and protocol.role is Role.SERVER:
            outbox.commit_frame(frame)
        else:
            outbox.commit_data(opcode, payload, True, compress)
        if not self._writer.is_gathering:
            self._writer.committed(gather=True)
        return True

    # Pings and pongs

    @enable_ki_protection
    async def ping(self, payload: Buffer | None = None) -> float:
        """Send a ping and wait for its pong, or a later one's (RFC 6455 section 5.5.2).

        :param payload: at most 125 bytes for the peer to send back. None (the default): a fresh
            one, which no other ping of this stream has.
        :returns: the round trip in seconds.
        :raises ValueError: *payload* is too long.
        :raises TypeError: *payload* is not bytes-like.
        :raises ConnectionClosedError: the connection is closing or closed, or closes meanwhile.
        :raises trio.ClosedResourceError: this side has closed the stream.

        The pong is read in its turn: while the inbox is full, and nobody receives, it is not.

        Cancellation is total. If the ping has left, its pong is ignored, unless a later ping has
        the same payload: then nobody can tell which of them it answers.
        """
        data = fresh_payload() if payload is None else control_payload(payload)
        await self._ticker.turn(len(data))
        self._check_sending()
        sender = ControlSender(Opcode.PING, data)
        if self._senders.send_control(sender):
            self._write_committed()
        await sender.wait(self._forget_ping)
        return sender.round_trip

    @enable_ki_protection
    async def pong(self, payload: Buffer = b"") -> None:
        """Send a pong that nobody asked for (Beast's ``pong``): a sign of life in one direction.

        :param payload: at most 125 bytes. Default: empty.
        :raises ValueError: *payload* is too long.
        :raises TypeError: *payload* is not bytes-like.
        :raises ConnectionClosedError: as for :meth:`send`; so ``trio.ClosedResourceError``.

        Pings are answered without it. Cancellation is total.
        """
        data = control_payload(payload)
        await self._ticker.turn(len(data))
        self._check_sending()
        sender = ControlSender(Opcode.PONG, data)
        if self._senders.send_control(sender):
            self._write_committed()
        else:
            await sender.wait(self._senders.forget_control)

    def _forget_ping(self, task: trio.lowlevel.Task, default: None) -> None:
        self._senders.forget_control(task, default)
        self._pings.forget(task)

    # Closing

    @enable_ki_protection
    async def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        """Commit a Close frame and nothing else (RFC 6455 section 7.1.2, Beast's ``close``).

        Nothing can be sent afterwards. Keep receiving until :class:`ConnectionClosed`: what the
        peer had under way still arrives, and the stream closes itself once the peer has answered.
        If the connection is closing or closed already, this does nothing.

        :param code: 1000 to 1003, 1007 to 1014, or 3000 to 4999; None sends an empty Close. Default
            1000.
        :param reason: at most 123 bytes of UTF-8. Default: none.
        :raises ValueError: *code* or *reason* may not be sent; then nothing has changed.
        :raises trio.ClosedResourceError: this side has closed the stream.

        Cancellation is total: the stream is not closing.
        """
        payload = close_payload(code, reason)
        await self._ticker.turn(len(payload))
        self._check_released()
        if self._protocol.state is State.OPEN:
            self._commit_close(payload, _sent_reason(code, reason))

    @enable_ki_protection
    async def aclose(self, code: int | None = 1000, reason: str = "") -> None:
        """Close: the whole closing handshake, then the transport (RFC 6455 section 7.1.2).

        What was committed still leaves, what arrives or waits for ``receive`` is dropped. The peer
        has ``Timeouts.handshake`` seconds for all of it. A stream that is closing or closed is only
        waited for. Other tasks' calls end with ``trio.ClosedResourceError``. Nothing that the peer
        does makes this raise.

        :param code: as for :meth:`send_close`.
        :param reason: as for :meth:`send_close`.
        :raises ValueError: *code* or *reason* may not be sent; then nothing has changed.

        Cancellation is terminal: the transport is closed at once, without a wait.
        """
        payload = close_payload(code, reason)
        self._released = True
        self._discard_messages()
        if self._protocol.state is State.OPEN:
            self._commit_close(payload, _sent_reason(code, reason))
        self._settle()
        self._reader.resume_if_room()
        try:
            await self._closed.wait()
        except BaseException:
            await self._close_at_once()  # noqa: ASYNC102 (it shields itself)
            raise

    @enable_ki_protection
    async def wait_closed(self) -> None:
        """Wait until the connection is closed and discard the messages that arrive meanwhile.

        For a task that only sends: something must keep reading, or the peer's Close is not seen
        once the inbox is full. It returns however the connection ends; ``close_reason`` says how.

        Cancellation is total, but what was discarded is gone.
        """
        await self._ticker.turn(0)
        self._discarders += 1
        self._discard_messages()
        self._reader.resume_if_room()
        try:
            await self._closed.wait()
        finally:
            self._discarders -= 1
            if not self._discarders and not self._released:
                self._protocol.discard(False)

    def _discard_messages(self) -> None:
        self._inbox.clear()
        self._protocol.discard(True)

    def _commit_close(self, payload: bytes, reason: CloseReason) -> None:
        self._protocol.send_close(reason)
        self._outbox.commit_close(payload)
        self._begin_closing()

    def _begin_closing(self) -> None:
        """No more sends; from now on one deadline counts, and nothing extends it."""
        self._settle()
        self._write_committed()
        self._begin_close_deadline()

    def _begin_close_deadline(self) -> None:
        self._deadlines.begin_close(trio.current_time())
        self._set_timer()

    def _fail(self, code: CloseCode, reason: str, cause: Exception) -> None:
        """Give the connection up (RFC 6455 section 7.1.7)."""
        self._cause = cause
        self._protocol.fail(code, reason)
        self._say_why_failed()

    def _say_why_failed(self) -> None:
        """The Close of a failed connection; what is committed and can not leave is dropped."""
        self._writer.flush_now()
        self._outbox.drop_unsent()
        failure = self._protocol.failure
        if failure is not None and failure is self._protocol.close_sent:
            self._outbox.commit_close(pack_close(*failure))
        self._begin_closing()

    def _check_released(self) -> None:
        if self._released:
            raise StreamClosed(self)

    def _closed_error(self, *, sending: bool) -> ConnectionClosed:
        reason = self._protocol.close_reason
        assert reason is not None
        clean = not sending and reason.code in _CLEAN_CODES
        error = (ConnectionClosedOK if clean else ConnectionClosedError)(
            reason.code,
            reason.reason,
            received=self._protocol.close_received,
            sent=self._protocol.close_sent,
            stream=self,
        )
        error.__cause__ = self._cause
        return error

    def _settle(self) -> None:
        """Wake the tasks whose calls can not succeed any more, now that the stream is not open."""
        state = self._protocol.state
        sending_error = partial(self._end_error, sending=True)
        self._senders.refuse(sending_error)
        if state not in RECEIVING or self._released:
            self._receivers.serve()
            self._receivers.refuse(partial(self._end_error, sending=False))
            self._pings.refuse(sending_error)
        if state is State.FAILED or self._concluded or self._released:
            self._writer.refuse_flushers(sending_error)

    def _end_error(self, *, sending: bool) -> Exception:
        if self._released:
            return StreamClosed(self)
        return self._closed_error(sending=sending)

    # The reader

    @enable_ki_protection
    async def _read_in_background(self) -> None:
        with self._reader_scope:
            in_order = False
            try:
                await self._read_until_closed()
                await self._teardown.linger(self._set_timer)
                in_order = True
            finally:
                await self._close_transport(in_order)  # noqa: ASYNC102 (bounded by its deadline)

    async def _read_until_closed(self) -> None:
        while self._protocol.state in RECEIVING:
            try:
                await self._reader.read()
            except Exception as fault:
                logger.exception("internal error in %r", self)
                self._fail(CloseCode.INTERNAL_ERROR, "internal error", fault)

    def _handle(self, events: list[Event]) -> None:
        if self._protocol.only_messages:
            # As they come with nearly every read: one by one took 0.3 us each.
            self._messages_received += len(events)
            self._receivers.deliver(events)  # type: ignore[arg-type]  # as only_messages says
            return
        for event in events:
            if isinstance(event, (str, bytes)):
                self._messages_received += 1
                self._receivers.deliver([event])
            elif isinstance(event, Violation):
                self._cause = event
                self._say_why_failed()
            elif not self._handle_control(event):
                break
        self._receivers.serve()

    def _handle_control(self, event: Ping | Pong | Close) -> bool:
        """False if the connection has failed over it."""
        if isinstance(event, Ping):
            opcode = Opcode.PING
        elif isinstance(event, Pong):
            opcode = Opcode.PONG
        else:
            opcode = Opcode.CLOSE
        if not self._call_back(opcode, event.payload):
            return False
        if isinstance(event, Close):
            self._answer_close(event.reason)
        elif isinstance(event, Pong):
            self._pings.receive_pong(event.payload)
        elif self._protocol.state is State.OPEN:
            self._answer_ping(event.payload)
        return True

    def _call_back(self, opcode: Opcode, payload: bytes) -> bool:
        callback = self._control_callback
        if callback is None:
            return True
        try:
            callback(opcode, payload)
        except Exception as error:
            logger.exception("control_callback of %r raised", self)
            if self._protocol.state is not State.CLOSED:
                self._fail(CloseCode.INTERNAL_ERROR, "internal error", error)
                return False
        return True

    def _answer_ping(self, payload: bytes) -> None:
        if self._writer.is_blocked or not self._senders.has_control_room():
            self._outbox.commit_reply(payload)
        else:
            self._outbox.commit_control(Opcode.PONG, payload)
        self._write_committed()

    def _answer_close(self, reason: CloseReason) -> None:
        """Answer with the code that came (RFC 6455 section 5.5.1), unless our Close came first."""
        if self._protocol.state is State.CLOSE_RECEIVED:
            code = reason.code
            if code == CloseCode.NO_STATUS_RECEIVED:
                code = CloseCode.NORMAL_CLOSURE
            self._commit_close(pack_close(code), CloseReason(code, ""))
        else:
            self._settle()

    # Writing

    def _write_committed(self) -> None:
        self._writer.committed(gather=self._inbox.size > 0)

    def _admit_senders(self) -> None:
        """Something was written: commit for those who waited for room."""
        if self._senders.are_waiting and self._protocol.state is State.OPEN:
            self._senders.admit()

    def _stop_sending(self) -> None:
        """A write failed: the reader has to find out what that means, and has not for ever."""
        self._senders.stop()
        error = self._writer.error
        if isinstance(error, trio.ClosedResourceError):
            # Somebody else has closed the transport, of which a poller hears nothing.
            self._give_up(error)
            return
        self._begin_close_deadline()
        self._reader.resume_if_room()

    # The end of the transport

    def _lose(self, cause: Exception | None) -> None:
        """The transport has ended before the Close frames were exchanged."""
        self._cause = cause
        self._protocol.end()
        self._begin_close_deadline()

    async def _close_transport(self, in_order: bool) -> None:
        try:
            if not in_order:
                self._say_goodbye()
            self._conclude()
            if in_order:
                await self._teardown.close()
        finally:
            await self._teardown.abort()  # noqa: ASYNC102 (it shields itself)
            self._closed.set()

    async def _close_at_once(self) -> None:
        """Terminal cancellation, in this very step as far as the transport can."""
        if not self._closed.is_set():
            self._say_goodbye()
            self._conclude()
            self._reader_scope.cancel()
            await self._teardown.abort()

    def _say_goodbye(self) -> None:
        """Write what is committed and a Close, if that costs no wait."""
        if self._protocol.state is State.OPEN:
            reason = CloseReason(CloseCode.GOING_AWAY, "")
            self._protocol.send_close(reason)
            self._outbox.commit_close(pack_close(*reason))
        self._writer.write_last()

    def _conclude(self) -> None:
        """Nothing more arrives and nothing more leaves: tell everybody who waits."""
        if self._concluded:
            return
        self._concluded = True
        self._poller.leave()
        if self._protocol.state in (State.OPEN, State.CLOSE_SENT, State.CLOSE_RECEIVED):
            self._released = True
            self._discard_messages()
        self._protocol.end()
        self._timer.close()
        self._writer.stop()
        self._reader.stop()
        if self._deflater is not None:
            self._deflater.forget()
        self._settle()

    # Time

    def _set_timer(self) -> None:
        """Ask the ticker for the earliest time at which there may be something to do."""
        self._timer.set(self._deadlines.next(self._writer.blocked_since))

    def _deadline_passed(self) -> None:
        """See what has become of the time that :meth:`_set_timer` asked for."""
        due = self._deadlines.due(trio.current_time(), self._writer.blocked_since)
        if due is Due.PING:
            payload = fresh_payload()
            self._outbox.commit_control(Opcode.PING, payload)
            self._pings.sent_keep_alive(payload)
            self._write_committed()
        elif due is Due.PONG:
            self._outbox.commit_control(Opcode.PONG, b"")
            self._write_committed()
        elif due is not Due.NOTHING:
            self._expire(due.value)
            return
        self._set_timer()

    def _expire(self, what: str) -> None:
        """Too slow: tear the transport down. Once both Closes are exchanged that is no fault."""
        self._timer.close()
        error = trio.TooSlowError(what)
        error.__cause__ = self._writer.error
        self._give_up(error)

    def _give_up(self, cause: Exception) -> None:
        """The transport is of no use any more."""
        if self._protocol.state in RECEIVING:
            self._lose(cause)
        self._reader_scope.cancel()


def _make_codec(
    role: Role, agreed: DeflateParameters | None, options: StreamOptions
) -> Codec | None:
    if agreed is None:
        return None
    assert options.compression is not None
    make = client_codec if role is Role.CLIENT else server_codec
    return make(agreed, options.compression)


def _in_this_context(callback: ControlCallback | None) -> ControlCallback | None:
    """*callback*, with the context variables of this task, whichever task calls it."""
    if callback is None:
        return None
    context, function = copy_context(), callback
    return lambda opcode, payload: context.run(function, opcode, payload)


def _sent_reason(code: int | None, reason: str) -> CloseReason:
    return NO_REASON if code is None else CloseReason(code, reason)
