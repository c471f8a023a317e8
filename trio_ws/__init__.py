"""WebSockets for Trio: cancel any call, lose nothing."""

from __future__ import annotations
