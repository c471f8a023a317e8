"""Programs that do with another WebSocket library what a test tells them: see :mod:`interop.wire`.

Each runs in a process of its own: ``python -m interop.peers.aiohttp``, or ``node ws.js``.
"""
