"""How the documentation is built; nothing is fetched from anywhere."""

from __future__ import annotations

import ast
import inspect
import warnings
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import cpplug
from cpplug.api import records

project = "cpplug"
author = "cpplug developers"
copyright = "cpplug developers"
version = release = cpplug.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_design",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
numpydoc_show_class_members = False

# Records name their types under TYPE_CHECKING, so that plugins start quickly; signatures need them.
for _block in ast.parse(inspect.getsource(records)).body:
    if isinstance(_block, ast.If) and ast.unparse(_block.test) == "TYPE_CHECKING":
        exec(ast.unparse(_block.body), vars(records))
# msgspec's own docstrings have a section that numpydoc does not know.
warnings.filterwarnings("ignore", "Unknown section", UserWarning)

html_theme = "pydata_sphinx_theme"
html_title = "cpplug"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

html_math_renderer = "mathml"


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f"<p>{tex2mathml(node.astext(), as_block=True)}</p>")
    raise SkipNode


def setup(app: Any) -> None:
    """Write formulas as MathML, which browsers show without fetching a script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
