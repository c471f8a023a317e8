"""How Sphinx builds these pages; no network is needed, and no warning is allowed (-W -n)."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import version as installed_version

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer

project = "trio_ws"
author = "The trio_ws developers"
copyright = f"2026, {author}"
release = installed_version("trio-ws")
version = release

extensions = ["sphinx.ext.autodoc", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"trio_ws {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

# Names of other projects become links where their inventories can be fetched; elsewhere they are
# plain text, and all the rest must resolve.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "h11": ("https://h11.readthedocs.io/en/stable", None),
    }
nitpick_ignore_regex = [
    ("py:.*", r"(trio|h11|ssl|socket|logging|collections\.abc|contextlib|types)\..*"),
]


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Signatures name a class by the room it lives in; its page knows it by its public name."""
    room, _, name = node["reftarget"].rpartition(".")
    if not room.startswith("trio_ws._"):
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], f"trio_ws.{name}", node, contnode
    )


def describe_data(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """A value has no docstring of its own: what is said of it is in the room that defines it."""
    if what != "data":
        return
    for room in [room for room in sys.modules if room.startswith("trio_ws._")]:
        with suppress(PycodeError):  # what is in C has no source to look into
            found = ModuleAnalyzer.for_module(room).find_attr_docs()
            lines[:] = found.get(("", name.rpartition(".")[2]), lines)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", describe_data)
    app.connect("missing-reference", resolve_public_name)
