"""The README's words on these pages: `{include}` takes them from there, and its links are made to start from this
folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import kvsteer_lab

_LINK = re.compile(r"\]\((?!\w+:|#)")


def relink(app: Sphinx, path: Path, document: str, content: list[str]) -> None:
    """Links of the README, which lies one folder above the pages that include it."""
    if path == Path("README.md"):
        content[0] = _LINK.sub("](../", content[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("include-read", relink)
    return {"version": kvsteer_lab.__version__, "parallel_read_safe": True}
