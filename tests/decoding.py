"""Decoding to the end, and comparing what came of it."""

from __future__ import annotations

from trio_ws._frames import Buffer
from trio_ws._protocol import Event, Protocol, Violation

UNLIMITED = 1 << 62


def decode_all(protocol: Protocol, data: Buffer, limit: int = UNLIMITED) -> list[Event]:
    """All events in *data*, decoded in as many calls as *limit* takes."""
    events = protocol.decode(data, limit)
    while protocol.stalled:
        events += protocol.decode(b"", limit)
    return events


def comparable(events: list[Event]) -> list[object]:
    """For exact comparison: a violation equals no other, and a Ping equals a Pong."""
    return [
        (type(event), (str(event), event.code) if isinstance(event, Violation) else event)
        for event in events
    ]
