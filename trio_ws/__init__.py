"""WebSockets for Trio: cancel any call, lose nothing."""

from __future__ import annotations

from ._accepting import ProcessRequest
from ._broadcast import broadcast
from ._client import Connect, connect_websocket, open_websocket, wrap_client_stream
from ._deflate import DeflateParameters
from ._errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeTimeout,
)
from ._frames import SPEEDUPS, CloseCode, CloseReason, Opcode
from ._handshake import HandshakeError
from ._http import Request, Response
from ._options import ControlCallback, PermessageDeflate, StreamKeywords, StreamOptions, Timeouts
from ._protocol import MessageTooBig, ProtocolError
from ._server import Handler, WebSocketServer, serve_websocket, wrap_server_stream
from ._stream import StreamStatistics, WebSocketStream
from ._upgrade import is_upgrade

__all__ = [
    "SPEEDUPS",
    "CloseCode",
    "CloseReason",
    "Connect",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ControlCallback",
    "DeflateParameters",
    "Handler",
    "HandshakeError",
    "HandshakeTimeout",
    "MessageTooBig",
    "Opcode",
    "PermessageDeflate",
    "ProcessRequest",
    "ProtocolError",
    "Request",
    "Response",
    "StreamKeywords",
    "StreamOptions",
    "StreamStatistics",
    "Timeouts",
    "WebSocketServer",
    "WebSocketStream",
    "broadcast",
    "connect_websocket",
    "is_upgrade",
    "open_websocket",
    "serve_websocket",
    "wrap_client_stream",
    "wrap_server_stream",
]
