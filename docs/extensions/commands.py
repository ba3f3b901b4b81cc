"""The command line's own help, on a page: `{commands}` asks the real parser."""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import kvsteer_lab
from kvsteer_lab.cli.commands import COMMANDS
from kvsteer_lab.cli.main import main

WIDTH = 92


def help_of(*command: str) -> str:
    """What `kvsteer COMMAND --help` prints, lines folded and rules left out."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    said, *boxes = re.split(r"\n (?=[a-z ]+\n -+\n)", re.sub(r" +$", "", printed.getvalue(), flags=re.MULTILINE))
    folded = "\n".join(textwrap.fill(line, WIDTH) for line in said.splitlines())
    return "\n".join([folded, *(re.sub(r"\n -+\n", ":\n", box) for box in boxes)]).strip()


class Commands(SphinxDirective):
    """A section for each command of `kvsteer`, in the order of `kvsteer --help`."""

    def run(self) -> list[nodes.Node]:
        return [self._section(name) for name in COMMANDS]

    def _section(self, name: str) -> nodes.section:
        title = f"kvsteer {name}"
        section = nodes.section(
            "", nodes.title(title, title), ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)]
        )
        text = help_of(name)
        section += nodes.literal_block(text, text, language="text")
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("commands", Commands)
    return {"version": kvsteer_lab.__version__, "parallel_read_safe": True}
