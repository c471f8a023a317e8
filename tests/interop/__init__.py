"""trio_ws talking to other WebSocket implementations."""
