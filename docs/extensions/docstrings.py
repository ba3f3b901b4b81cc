"""How the library's docstrings become pages: what stands in single backticks, annotations as they are written, and the
little that rst would misread.
"""

from __future__ import annotations

import inspect
import re
import sys
from itertools import takewhile
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from sphinx.util.inspect import stringify_signature

import kvsteer_lab

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
_SECTION = re.compile(r"[A-Z]\w+:")
CLASS = re.compile(r"(?<![\w.])[A-Z]\w*")


class Code(SphinxRole):
    """What stands in single backticks is code, and a link if it names something of the library."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        text = self.rawtext[self.rawtext.index("`") + 1 : -1]  # with its backslashes
        literal = nodes.literal(self.rawtext, text, classes=["py", "py-obj"])
        if not _NAME.fullmatch(text):
            return [literal], []
        target = text.removesuffix("()")
        first, _, rest = target.partition(".")
        if first == "kv":
            target = f"kvsteer_lab.{rest}"
        elif first in kvsteer_lab.__all__ and (rest or first[0].isupper()):  # a small word by itself may be a column
            target = f"kvsteer_lab.{target}"
        link = addnodes.pending_xref(
            self.rawtext,
            literal,
            refdomain="py",
            reftype="obj",
            reftarget=target,
            refdoc=self.env.docname,
            refwarn=False,
            **{key: self.env.ref_context.get(key) for key in ("py:module", "py:class")},
        )
        return [link], []


def signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str, str] | None:
    """Annotations as they are written: `Float[Tensor, "layers kv_heads head_dim"]` says more than the class that it
    makes.
    """
    if what not in ("class", "exception", "function", "method") or arguments is None:
        return None
    found = inspect.signature(thing)
    parameters = [p for p in found.parameters.values() if not (what == "method" and p.name in ("self", "cls"))]
    shown = [p.replace(annotation=_linked(p.annotation, thing), default=_shown(p.default)) for p in parameters]
    written = stringify_signature(found.replace(parameters=shown), show_return_annotation=False)
    gives = _linked(found.return_annotation, thing)
    return written, "" if gives is inspect.Signature.empty or what in ("class", "exception") else str(gives)


def _linked(annotation: Any, thing: Any) -> Any:
    """The annotation with the library's classes under their full names, shown short: two classes are called Run."""
    known = vars(sys.modules[thing.__module__])

    def full(match: re.Match[str]) -> str:
        named = known.get(match[0])
        if not inspect.isclass(named) or not named.__module__.startswith("kvsteer_lab"):
            return match[0]
        return f"~{named.__module__}.{named.__qualname__}"

    return CLASS.sub(full, annotation) if isinstance(annotation, str) else annotation


class _Written(str):
    """Shown as it is, without quotes."""

    __repr__ = str.__str__


def _shown(default: Any) -> Any:
    """Defaults that are no Python when printed (a dataclass's factory, an object with its address) are left open."""
    return _Written("...") if repr(default).startswith("<") and default is not inspect.Parameter.empty else default


def plain(text: str) -> str:
    """Outside backticks a bar is a bar: |S| is a norm, no substitution."""
    parts = text.split("`")
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    return "`".join(parts)


def prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape bars, keep napoleon from taking words before a colon for a type, and show what is set in from the text (a
    formula, say) as it is.
    """
    text = list(takewhile(lambda line: not _SECTION.fullmatch(line), lines))
    prepared: list[str] = []
    for i, line in enumerate(lines):
        before = lines[i - 1] if i else ""
        if i < len(text) and line.startswith("    "):
            prepared += [line] if before.startswith("    ") else [".. code-block:: text", "", line]
        elif ":" in line and (before.strip() == "Returns:" if i else what in ("attribute", "property")):
            indent = len(line) - len(line.lstrip())
            prepared.append(f"{line[:indent]}: {plain(line[indent:])}")  # nothing before the colon: no type
        else:
            prepared.append(plain(line))
    lines[:] = prepared


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_role("written", Code())
    app.config.default_role = "written"
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", prepare, priority=400)  # before napoleon
    return {"version": kvsteer_lab.__version__, "parallel_read_safe": True}
