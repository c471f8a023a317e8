"""A chat server with its page: ``python -m examples.chat``. Each file has one job:

======================= ============================================================================
``__main__.py``         The command line: start, serve, and stop on a signal.
``options.py``          What the command line says, checked.
``arguments.py``        Numbers on a command line, checked: for the server and the load test.
``messages.py``         The schema: what clients and the server say to each other, checked.
``nicknames.py``        What may be in a nickname, and which are the same.
``limits.py``           How much is allowed, and the token bucket.
``logs.py``             The log, for people or as JSON.
``history.py``          The last messages of a room.
``backplane.py``        The contract of what decides who has which nickname, and what was said.
``memory_backplane.py`` It in the memory of a single process.
``redis_backplane.py``  It in Redis, for many; what Redis does for it is in ``lua/``.
``backplanes.py``       Which of them the command line asks for.
``room.py``             One room: fan-out by ``trio_ws.broadcast``; 1013 for who reads too slowly.
``rooms.py``            All rooms: when they open and close, and who is let in.
``session.py``          One client, from connecting to leaving: its rate, its messages, its end.
``server.py``           What is answered on the port: the page, ``/healthz``, the WebSocket.
``listening.py``        The port, which several processes can share.
``workers.py``          The processes of ``--workers``, and who looks after them.
``page.html``           The page, with ``page.css`` and ``page.js``.
``load.py``             The load test, with ``load_options.py``.
======================= ============================================================================

The Origin check is trio_ws's own: ``__main__.py`` tells it the origins.
"""
