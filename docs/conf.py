"""Sphinx configuration: `make docs` builds the site with every warning an error."""

import re
from pathlib import Path
from typing import Any

from gazelit import __version__

ROOT = Path(__file__).resolve().parents[1]

project = "gazelit"
author = "The gazelit developers"
project_copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "gazelit"
html_show_copyright = False
# As long as a telephone is wide.
html_theme_options = {"announcement": "Not a medical device. Synthetic data."}

# Anchors of headings as code hosts make them, so that a link works there and here.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# The tutorial has no outputs in git; they are computed when the site is built.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# `Attributes:` of dataclasses repeat what autodoc finds by itself.
napoleon_use_ivar = True

# Pages whose text is a file at the root, where people look for it.
ROOT_FILES = {
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "conduct": "CODE_OF_CONDUCT.md",
    "changes": "CHANGELOG.md",
}


def read_root_file(app: Any, docname: str, source: list[str]) -> None:
    """Takes a page's text from the root, with links as they are from here."""
    if docname not in ROOT_FILES:
        return
    text = (ROOT / ROOT_FILES[docname]).read_text()
    for page, file in ROOT_FILES.items():
        text = text.replace(f"]({file}", f"]({page}.md")
    source[0] = re.sub(r"\]\(docs/", "](", text).replace("[licence](LICENSE)", "licence")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_root_file)
