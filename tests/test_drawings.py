"""The drawings of the docs are those that their scripts make."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree

from programs import ROOT

DOCS = ROOT / "docs"


def test_the_timeline_of_a_cancelled_send_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(DOCS / "draw_cancellation.py"))
    drawing = script["draw"]()
    assert script["FILE"].read_text(encoding="utf-8") == drawing
    assert xml.etree.ElementTree.fromstring(drawing).tag.endswith("svg")
