"""permessage-deflate (RFC 7692), without I/O: the negotiation, and the codec of each direction.

Theory of operation
-------------------

**Negotiation** is three functions: a client's :func:`make_offer`, a server's :func:`choose_offer`,
and a client's :func:`check_answer`. An offer that breaks a rule, or asks for what this side can not
do, is declined, and the next one looked at. An answer that does so fails the handshake.

zlib can not compress with a window of 8 bits: it takes 9 instead, which the peer may have no room
for. So a server declines an offer that asks it to. A client has to accept such an answer, since it
can not offer "8 excluded"; it then sends its messages uncompressed, which is always allowed.

**The codec** is a :class:`Deflater` and an :class:`Inflater`. Neither does more at a time than its
caller allows.

* What the deflater is given it flushes to the last byte, so that nothing of it is left for what
  follows; but for a piece of which is said that the next one follows at once.
* The inflater stops at a bound of its output, and at one of its input, and goes on from there.
  Input is cut up because zlib copies what it has not got to; and because a few bytes of input can
  make it work hard without any output.

A block with BFINAL ends zlib's stream. What follows it in the message begins a new stream, and an
empty window, as in the browsers.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from ._frames import Buffer
from ._headers import HeaderSyntaxError, parse_extension_list
from ._options import DEFAULT_WINDOW_BITS, MAX_WINDOW_BITS, MIN_WINDOW_BITS, PermessageDeflate

PIECE: Final = 16 * 1024
"""Bytes to give to :meth:`Deflater.deflate` at a time: it is done with them within a millisecond
or two."""

_NAME = "permessage-deflate"
_SERVER_TAKEOVER, _CLIENT_TAKEOVER = "server_no_context_takeover", "client_no_context_takeover"
_SERVER_WINDOW, _CLIENT_WINDOW = "server_max_window_bits", "client_max_window_bits"
_WINDOW_BITS = {str(bits): bits for bits in range(8, MAX_WINDOW_BITS + 1)}

_TAIL = b"\x00\x00\xff\xff"
"""The end of the empty block that a flush appends, and that is left out of a message."""
_EMPTY_MESSAGE = b"\x00"
"""The rest of that block, alone (RFC 7692 section 7.2.3.6)."""
_END = _TAIL + 32 * (_EMPTY_MESSAGE + _TAIL)
"""What a message is ended with, to see that it was whole: beside its tail, more empty blocks than a
block that lacks its end can take for the rest of its header. They cost 0.13 us."""
INPUT_STEP: Final = 16 * 1024
"""Bytes to have inflated at a time. Most take a tenth of a millisecond, the worst ones 1.2."""

_Parameters: TypeAlias = Sequence[tuple[str, str | None]]


class _Compressor(Protocol):
    def compress(self, data: Buffer, /) -> bytes: ...
    def flush(self, mode: int, /) -> bytes: ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, max_length: int, /) -> bytes: ...


class Zlib(Protocol):
    """What is used of the module ``zlib``, so that a faster one can stand in for it."""

    @property
    def error(self) -> type[Exception]: ...
    def compressobj(
        self, level: int, method: int, window_bits: int, mem_level: int, /
    ) -> _Compressor: ...
    def decompressobj(self, window_bits: int, /) -> _Decompressor: ...


ZLIB: Zlib
"""The module that codecs use unless they are told otherwise.

It is zlib-ng if the environment variable ``TRIO_WS_FASTER_ZLIB`` was ``1`` when it was imported.
"""

if os.environ.get("TRIO_WS_FASTER_ZLIB") == "1":
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        raise ImportError(
            "TRIO_WS_FASTER_ZLIB=1 needs zlib-ng: pip install 'trio-ws[faster-zlib]'"
        ) from None
    ZLIB = zlib_ng  # type: ignore[assignment]  # its stub has an instance for its error class
else:
    ZLIB = zlib


class NegotiationError(Exception):
    """What was offered or answered can not be agreed to.

    Its text goes on after "the server's answer is not a WebSocket handshake: ".
    """


class InflateError(Exception):
    """A compressed message is not deflate data; the connection fails with 1007.

    Its text names the rule.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DeflateParameters:
    """What both sides of a connection have agreed to (RFC 7692 section 7.1).

    :param server_max_window_bits: the server's messages need a window of at most this, 8 to 15.
    :param client_max_window_bits: the client's messages need a window of at most this, 8 to 15.
    :param server_no_context_takeover: whether each of the server's messages stands for itself.
    :param client_no_context_takeover: whether each of the client's messages stands for itself.
    """

    server_max_window_bits: int
    client_max_window_bits: int
    server_no_context_takeover: bool
    client_no_context_takeover: bool


class DeflaterSettings(NamedTuple):
    """What the output of two deflaters without context takeover can differ by."""

    window_bits: int
    level: int
    mem_level: int


class Codec(NamedTuple):
    """The codec of one connection."""

    deflater: Deflater | None
    """None if the peer's window is too small to compress for: everything is sent as it is."""
    inflater: Inflater


# Negotiation


def make_offer(options: PermessageDeflate) -> str:
    """The value of a client's ``Sec-WebSocket-Extensions`` header.

    With the defaults it is what browsers send. It always says that this client can limit its own
    window, so that the server may ask for that (RFC 7692 section 7.1.2.2).
    """
    parameters = _takeover_parameters(options)
    server_bits, client_bits = options.server_max_window_bits, options.client_max_window_bits
    if server_bits not in (None, MAX_WINDOW_BITS):
        parameters.append((_SERVER_WINDOW, server_bits))
    parameters.append((_CLIENT_WINDOW, None if client_bits == MAX_WINDOW_BITS else client_bits))
    return _format(parameters)


def choose_offer(
    values: Iterable[str], options: PermessageDeflate
) -> tuple[DeflateParameters, str] | None:
    """Which of a client's offers a server accepts: the first one that it can.

    :param values: every value of the request's ``Sec-WebSocket-Extensions`` header, in order.
    :returns: what is agreed, and the value of the answer's ``Sec-WebSocket-Extensions`` header;
        None if there is no offer to accept. Then the answer has no such header.
    :raises HeaderSyntaxError: if a value breaks the grammar of the header.
    """
    for name, parameters in parse_extension_list(values):
        if name == _NAME:
            try:
                return _accept(_read(parameters, in_offer=True), options)
            except NegotiationError:
                continue
    return None


def check_answer(values: Iterable[str], options: PermessageDeflate) -> DeflateParameters | None:
    """What a server has agreed to, after :func:`make_offer` with the same *options*.

    :param values: every value of the 101's ``Sec-WebSocket-Extensions`` header, in order.
    :returns: what is agreed; None if the server declined.
    :raises NegotiationError: if that is no answer to the offer. The handshake fails.
    """
    try:
        answers = parse_extension_list(values)
    except HeaderSyntaxError as error:
        raise _complaint(f"breaks its grammar: {error}") from None
    if not answers:
        return None
    if [name for name, _ in answers] != [_NAME]:
        raise _complaint("names extensions that we did not offer, or one twice")
    return _agree(_read(answers[0][1], in_offer=False), options)


def _accept(offered: dict[str, int], options: PermessageDeflate) -> tuple[DeflateParameters, str]:
    """A server's answer to one offer (RFC 7692 sections 7.1.1 and 7.1.2)."""
    server_bits = options.server_max_window_bits or DEFAULT_WINDOW_BITS
    server_bits = min(server_bits, offered.get(_SERVER_WINDOW, MAX_WINDOW_BITS))
    if server_bits < MIN_WINDOW_BITS:
        raise _complaint("asks for a window that zlib can not compress with")
    if _CLIENT_WINDOW in offered:
        client_bits = options.client_max_window_bits or DEFAULT_WINDOW_BITS
        client_bits = min(client_bits, offered[_CLIENT_WINDOW])
    elif options.client_max_window_bits in (None, MAX_WINDOW_BITS):
        client_bits = MAX_WINDOW_BITS
    else:
        raise _complaint("does not say that the client can limit its window")
    agreed = DeflateParameters(
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        server_no_context_takeover=(
            options.server_no_context_takeover or _SERVER_TAKEOVER in offered
        ),
        client_no_context_takeover=(
            options.client_no_context_takeover or _CLIENT_TAKEOVER in offered
        ),
    )
    parameters = _takeover_parameters(agreed)
    if _SERVER_WINDOW in offered or server_bits < MAX_WINDOW_BITS:
        parameters.append((_SERVER_WINDOW, server_bits))
    if client_bits < MAX_WINDOW_BITS:
        parameters.append((_CLIENT_WINDOW, client_bits))
    return agreed, _format(parameters)


def _agree(answered: dict[str, int], options: PermessageDeflate) -> DeflateParameters:
    """What a server's answer makes of a client's offer (RFC 7692 sections 7.1.1 and 7.1.2)."""
    if options.server_no_context_takeover and _SERVER_TAKEOVER not in answered:
        raise _complaint(f"lacks {_SERVER_TAKEOVER}, which we asked for")
    server_bits = answered.get(_SERVER_WINDOW, MAX_WINDOW_BITS)
    if server_bits > (options.server_max_window_bits or MAX_WINDOW_BITS):
        raise _complaint(f"does not limit {_SERVER_WINDOW} as we asked")
    own_limit = options.client_max_window_bits or MAX_WINDOW_BITS
    client_bits = answered.get(_CLIENT_WINDOW, own_limit)
    if client_bits > own_limit:
        raise _complaint(f"has a {_CLIENT_WINDOW} above the one that we offered")
    return DeflateParameters(
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        server_no_context_takeover=_SERVER_TAKEOVER in answered,
        client_no_context_takeover=(
            options.client_no_context_takeover or _CLIENT_TAKEOVER in answered
        ),
    )


def _read(parameters: _Parameters, *, in_offer: bool) -> dict[str, int]:
    """The parameters of an offer or an answer, checked; those without a value as their maximum."""
    found: dict[str, int] = {}
    for name, value in parameters:
        if name in found:
            raise _complaint(f"has {name} twice")
        if name in (_SERVER_TAKEOVER, _CLIENT_TAKEOVER):
            number = 1 if value is None else None
        elif name == _CLIENT_WINDOW and value is None and in_offer:
            number = MAX_WINDOW_BITS
        elif name in (_SERVER_WINDOW, _CLIENT_WINDOW):
            number = _WINDOW_BITS.get(value or "")
        else:
            raise _complaint(f"has a parameter that {_NAME} does not have")
        if number is None:
            raise _complaint(f"has {name} with a value that it can not have")
        found[name] = number
    return found


def _takeover_parameters(
    source: PermessageDeflate | DeflateParameters,
) -> list[tuple[str, int | None]]:
    return [(name, None) for name in (_SERVER_TAKEOVER, _CLIENT_TAKEOVER) if getattr(source, name)]


def _format(parameters: Iterable[tuple[str, int | None]]) -> str:
    texts = [name if value is None else f"{name}={value}" for name, value in parameters]
    return "; ".join([_NAME, *texts])


def _complaint(what: str) -> NegotiationError:
    return NegotiationError(f"its Sec-WebSocket-Extensions header {what}")


# Codec


def client_codec(
    agreed: DeflateParameters, options: PermessageDeflate, library: Zlib = ZLIB
) -> Codec:
    """The codec of a client's connection.

    :param agreed: what :func:`check_answer` returned.
    :param options: the client's own.
    :param library: the module to use.
    """
    wanted_bits = options.client_max_window_bits or DEFAULT_WINDOW_BITS
    deflater = Deflater(
        window_bits=min(agreed.client_max_window_bits, wanted_bits),
        context_takeover=not agreed.client_no_context_takeover,
        level=options.level,
        mem_level=options.mem_level,
        library=library,
    )
    inflater = Inflater(
        window_bits=agreed.server_max_window_bits,
        context_takeover=not agreed.server_no_context_takeover,
        library=library,
    )
    return Codec(deflater if deflater.window_bits >= MIN_WINDOW_BITS else None, inflater)


def server_codec(
    agreed: DeflateParameters, options: PermessageDeflate, library: Zlib = ZLIB
) -> Codec:
    """The codec of a server's connection.

    :param agreed: what :func:`choose_offer` returned.
    :param options: the server's own.
    :param library: the module to use.
    """
    deflater = Deflater(
        window_bits=agreed.server_max_window_bits,
        context_takeover=not agreed.server_no_context_takeover,
        level=options.level,
        mem_level=options.mem_level,
        library=library,
    )
    inflater = Inflater(
        window_bits=agreed.client_max_window_bits,
        context_takeover=not agreed.client_no_context_takeover,
        library=library,
    )
    return Codec(deflater, inflater)


class Deflater:
    """Compresses the messages of one direction, one after the other.

    Memory is taken with the first message, and kept if there is context takeover; otherwise until
    the end of each message. Two deflaters without context takeover, and with the same settings
    otherwise, make the same of the same message.

    :param window_bits: the window, 9 to 15.
    :param context_takeover: whether a message may refer to those before it.
    :param level: 0 to 9.
    :param mem_level: 1 to 9.
    :param library: the module to use.
    """

    __slots__ = ("_library", "_stream", "context_takeover", "level", "mem_level", "window_bits")

    def __init__(
        self,
        *,
        window_bits: int,
        context_takeover: bool,
        level: int,
        mem_level: int,
        library: Zlib = ZLIB,
    ) -> None:
        self.window_bits = window_bits
        self.context_takeover = context_takeover
        self.level = level
        self.mem_level = mem_level
        self._library = library
        self._stream: _Compressor | None = None

    def deflate(self, data: Buffer, final: bool, flush: bool = True) -> bytes:
        """Payload of the message's frames: of one, or of as many as the caller likes.

        The peer can inflate all of *data* with it, whether or not more follows, if it is flushed.

        :param data: the next piece of the message, at most :data:`PIECE` to be quick. It may be
            empty, but not if *flush* was false for the piece before.
        :param final: whether it is the last one. The next piece then begins a message.
        :param flush: false if it is not, and the next one is at hand: to flush takes 4 % of the
            time of a full piece.
        :returns: what to send for it. For a last piece that is at least one byte, otherwise nothing
            if *data* is empty; without *flush* it is any part of it, or of what came before.
        """
        if not data:
            output = _EMPTY_MESSAGE if final else b""
        else:
            if self._stream is None:
                self._stream = self._new_stream()
            output = self._stream.compress(data)
            if flush:
                output += self._stream.flush(zlib.Z_SYNC_FLUSH)
            if final:
                output = output[: -len(_TAIL)]
        if final and not self.context_takeover:
            self._stream = None
        return output

    def flush(self) -> bytes:
        """What has come of the pieces that were not flushed, and is still to be sent for them."""
        assert self._stream is not None
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def forget(self) -> None:
        """Give the memory back. What follows refers to nothing before."""
        self._stream = None

    @property
    def settings(self) -> DeflaterSettings:
        """What its output depends on beside its input, if there is no context takeover."""
        return DeflaterSettings(self.window_bits, self.level, self.mem_level)

    def twin(self) -> Deflater:
        """Another deflater with the same settings, at its beginning."""
        return Deflater(
            window_bits=self.window_bits,
            context_takeover=self.context_takeover,
            level=self.level,
            mem_level=self.mem_level,
            library=self._library,
        )

    def _new_stream(self) -> _Compressor:
        return self._library.compressobj(
            self.level, zlib.DEFLATED, -self.window_bits, self.mem_level
        )


class SharedDeflate:
    """A message that many streams send, deflated once: each piece when the first of them needs it.

    :param payload: the message.
    :param deflater: one without context takeover, which is used for nothing else meanwhile.
    """

    __slots__ = ("_deflater", "_payload", "_pieces")

    def __init__(self, payload: bytes, deflater: Deflater) -> None:
        self._payload = payload
        self._deflater = deflater
        self._pieces: list[bytes] = []

    def piece(self, number: int) -> bytes:
        """What :meth:`Deflater.deflate` makes of the *number*-th :data:`PIECE` of the message.

        It is flushed only at the end of the message, or if nothing would come of it.

        :param number: counted from 0; at most one beyond those that have been asked for.
        """
        if number == len(self._pieces):
            start = number * PIECE
            data = memoryview(self._payload)[start : start + PIECE]
            final = start + PIECE >= len(self._payload)
            self._pieces.append(
                self._deflater.deflate(data, final, final) or self._deflater.flush()
            )
        return self._pieces[number]


class Inflater:
    """Decompresses the messages of one direction, one after the other.

    Alternate :meth:`feed` and, until ``needs_input``, :meth:`produce`. A message is complete when
    all has been produced of what was fed as its last piece.

    Memory is taken with the first message, and kept if there is context takeover; otherwise until
    the end of each message.

    :param window_bits: the window, 8 to 15.
    :param context_takeover: whether a message may refer to those before it. A message that is not
        wanted must be inflated all the same then.
    :param library: the module to use.
    """

    __slots__ = (
        "_final",
        "_input",
        "_library",
        "_stream",
        "_unended",
        "context_takeover",
        "input_left",
        "needs_input",
        "window_bits",
    )

    def __init__(self, *, window_bits: int, context_takeover: bool, library: Zlib = ZLIB) -> None:
        self.window_bits = window_bits
        self.context_takeover = context_takeover
        self.needs_input = True
        """Whether everything has been produced of what was fed."""
        self._library = library
        self._stream: _Decompressor | None = None
        self._input = b""
        self.input_left = 0
        """Bytes of what was fed that are not used up."""
        self._final = False
        # Whether a block may be open: the payload goes beyond the last BFINAL, if there was one.
        self._unended = False

    def feed(self, data: Buffer, final: bool) -> None:
        """Take the next piece of the message's payload, unmasked.

        :param data: the piece, which may be empty. It is held until it is used up.
        :param final: whether it is the last one.
        :raises InflateError: if nothing follows, and the message is cut off.
        :raises RuntimeError: if the piece before it is not used up.
        """
        if not self.needs_input:
            raise RuntimeError("there is input that has not been used up")
        self._final = final
        if data:
            self._unended = True
        self._input = bytes(data)
        self.input_left = len(self._input)
        self.needs_input = False
        if not self._input:
            self._end_input()

    def produce(self, max_bytes: int, max_input: int = INPUT_STEP) -> bytes:
        """The next part of the message.

        It may be empty or short though more follows: ``needs_input`` says whether it does.

        :param max_bytes: how long it may be, at least 1.
        :param max_input: bytes of what was fed to use for it, at least 1.
        :raises InflateError: if the message is not deflate data. The inflater is of no use then.
        :raises ValueError: if *max_bytes* is less than 1.
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self.needs_input:
            return b""
        stream = self._stream
        if stream is None:
            stream = self._stream = self._library.decompressobj(-self.window_bits)
        left = self.input_left
        start = len(self._input) - left
        step = self._input[start : start + max_input]
        try:
            output = stream.decompress(step, max_bytes)
        except self._library.error as error:
            raise InflateError(_broken_rule(str(error).rpartition(": ")[2])) from None
        if stream.eof:
            self.input_left = left - len(step) + len(stream.unused_data)
            self._end_stream()
        else:
            self.input_left = left = left - len(step) + len(stream.unconsumed_tail)
            # zlib may hold back more if it was stopped by the bound.
            if not left and len(output) < max_bytes:
                self._end_input()
        return output

    def _end_stream(self) -> None:
        """A block with BFINAL has ended: what follows, if anything, is a stream of its own."""
        self._stream = None
        if not self.input_left:
            # Nothing follows: the tail belongs to an empty block that was not begun.
            self._unended = False
            self._end_input()

    def _end_input(self) -> None:
        self._input = b""
        self.needs_input = True
        if self._final:
            if self._unended and self._stream is not None:
                self._end_block(self._stream)
            self._unended = False
            if not self.context_takeover:
                self._stream = None

    def _end_block(self, stream: _Decompressor) -> None:
        """The end of a message: the tail of its empty block, which was left out of it.

        It is given alone, because nothing can come of it: if something does, or it makes no sense,
        it was taken for a part of a block that lacks its end.
        """
        try:
            is_whole = not stream.decompress(_END, 1)
        except self._library.error:
            is_whole = False
        if not is_whole:
            raise InflateError(_broken_rule("it is cut off"))
        if stream.eof:
            self._stream = None


def _broken_rule(why: str) -> str:
    return f"a compressed message must be deflate data (RFC 7692 section 7.2.2): {why}"
