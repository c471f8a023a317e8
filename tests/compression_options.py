"""Options of compression, and what is agreed to, as tests write them down."""

from __future__ import annotations

from hypothesis import strategies as st

from trio_ws._deflate import DeflateParameters
from trio_ws._options import PermessageDeflate

window_options = st.none() | st.integers(9, 15)
any_options = st.builds(
    PermessageDeflate,
    server_max_window_bits=window_options,
    client_max_window_bits=window_options,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)
"""Options of either role, as far as they matter to what is agreed."""


def agreed(
    server_bits: int, client_bits: int, no_takeover: tuple[bool, bool] = (False, False)
) -> DeflateParameters:
    """Parameters; the last two say who begins each message with an empty window."""
    return DeflateParameters(
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        server_no_context_takeover=no_takeover[0],
        client_no_context_takeover=no_takeover[1],
    )
