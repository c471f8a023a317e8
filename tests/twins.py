"""The functions of `_frames` that are written twice, in Python and in C, to be tested alike."""

from __future__ import annotations

import pytest

from trio_ws import _frames


class Pure:
    """Those in Python."""

    apply_mask = staticmethod(_frames.pure_apply_mask)
    decode_compressed = staticmethod(_frames.pure_decode_compressed)
    decode_messages = staticmethod(_frames.pure_decode_messages)
    mask_in_place = staticmethod(_frames.pure_mask_in_place)
    pack_frame = staticmethod(_frames.pure_pack_frame)
    pack_header = staticmethod(_frames.pure_pack_header)
    pack_messages = staticmethod(_frames.pure_pack_messages)
    parse_header = staticmethod(_frames.pure_parse_header)
    validate_utf8 = staticmethod(_frames.pure_validate_utf8)


try:
    from trio_ws import _speedups
except ImportError:
    TWINS: list[Twin] = [Pure]
else:

    class Compiled:
        """Those in C, whether or not they are turned off."""

        apply_mask = staticmethod(_speedups.apply_mask)
        decode_compressed = staticmethod(_speedups.decode_compressed)
        decode_messages = staticmethod(_speedups.decode_messages)
        mask_in_place = staticmethod(_speedups.mask_in_place)
        pack_frame = staticmethod(_speedups.pack_frame)
        pack_header = staticmethod(_speedups.pack_header)
        pack_messages = staticmethod(_speedups.pack_messages)
        parse_header = staticmethod(_speedups.parse_header)
        validate_utf8 = staticmethod(_speedups.validate_utf8)

    TWINS = [Pure, Compiled]

Twin = type[Pure] | type["Compiled"]
EACH_TWIN = pytest.mark.parametrize("twin", TWINS)
