"""The pages of `reference/` say which public names they describe; every public name is on exactly one of them.

.. public:: extract KVVectors       names of `kvsteer_lab`, in this order
.. public-module:: analysis         all names of `kvsteer_lab.analysis`
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import kvsteer_lab

from .docstrings import CLASS, plain

PAGES = Path(__file__).resolve().parent.parent / "reference"
_LISTED = re.compile(r"^\.\. public(?:-module)?::((?:\n? +\w+)+)", re.MULTILINE)


def check_pages(pages: Path = PAGES, public: tuple[str, ...] = tuple(kvsteer_lab.__all__)) -> None:
    """Refuse pages that leave out a public name, name it twice, or name what isn't public.

    Raises:
        SphinxError: one sentence with the names and the remedy.
    """
    listed = Counter(
        name
        for page in sorted(pages.glob("*.rst"))
        for names in _LISTED.findall(page.read_text(encoding="utf-8"))
        for name in names.split()
    )
    wanted = {name for name in public if not name.startswith("__")}
    if missing := sorted(wanted - set(listed)):
        raise SphinxError(
            f"No page of docs/reference/ describes {', '.join(missing)}; add each public name to the `.. public::` of"
            " one page."
        )
    if unknown := sorted(set(listed) - wanted):
        raise SphinxError(
            f"docs/reference/ describes {', '.join(unknown)}, which kvsteer_lab doesn't export; take it out, or add it"
            " to kvsteer_lab/__init__.pyi."
        )
    if twice := sorted(name for name, n in listed.items() if n > 1):
        raise SphinxError(
            f"docs/reference/ describes {', '.join(twice)} more than once; leave each name in one `.. public::`."
        )


def public_names(module: ModuleType) -> list[str]:
    """A module's `__all__` without the modules in it; where there is none, the functions and classes defined in it."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    own = {name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
    return [name for name, thing in own.items() if not name.startswith("_") and callable(thing)]


def described(module: str, names: list[str]) -> str:
    """The rst that describes public names of a module: a table of them, then each with its docstring."""
    home = importlib.import_module(module)
    texts = {name: _text(home, name) for name in names}
    table = [".. list-table::", "   :class: names", "   :widths: auto", ""]
    for name, text in texts.items():
        table += [f"   * - :py:obj:`~{module}.{name}`", f"     - {plain(first_sentence(text))}"]
    own = [_described(f"{module}.{name}", getattr(home, name), text) for name, text in texts.items()]
    theirs = [
        f".. autoclass:: {c.__module__}.{c.__qualname__}"
        for name in names
        for c in returned().get(f"{module}.{name}", [])
    ]
    return "\n\n".join(["\n".join(table), *own, *([".. rubric:: What they return", *theirs] if theirs else [])])


@functools.cache
def returned() -> dict[str, list[type]]:
    """Classes that public functions and methods return and that have no public name: by the name that is the first to
    return them.
    """
    modules = [
        kvsteer_lab,
        *(home for name in kvsteer_lab.__all__ if inspect.ismodule(home := getattr(kvsteer_lab, name))),
    ]
    public = {f"{m.__name__}.{name}": getattr(m, name) for m in modules for name in public_names(m)}
    known = {thing for thing in public.values() if inspect.isclass(thing)}
    found: dict[str, list[type]] = {}
    for name, thing in public.items():
        for function in _functions(thing):
            for word in CLASS.findall(str(function.__annotations__.get("return", ""))):
                named = vars(sys.modules[function.__module__]).get(word)
                if inspect.isclass(named) and named.__module__.startswith("kvsteer_lab") and named not in known:
                    known.add(named)
                    found.setdefault(name, []).append(named)
    return found


def _functions(thing: Any) -> list[Any]:
    if not inspect.isclass(thing):
        return [thing] if inspect.isfunction(thing) else []
    inner = [value for name, value in vars(thing).items() if not name.startswith("_")]
    # properties, class methods
    inner = [getattr(value, "fget", None) or getattr(value, "__func__", value) for value in inner]
    return [value for value in inner if inspect.isfunction(value)]


def first_sentence(text: str) -> str:
    """A docstring's first sentence, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph, maxsplit=1)[0]


def _text(home: ModuleType, name: str) -> str:
    """The docstring of a class or a function, or the string below the assignment, wherever in the package that is.

    Raises:
        SphinxError: there is none.
    """
    thing = getattr(home, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        found = inspect.getdoc(thing)
    else:
        modules = [
            other for other in sorted(sys.modules) if other == home.__name__ or other.startswith(f"{home.__name__}.")
        ]
        found = next(
            ("\n".join(d) for m in modules if (d := ModuleAnalyzer.for_module(m).find_attr_docs().get(("", name)))),
            None,
        )
    if not found:
        raise SphinxError(f"{home.__name__}.{name} has no docstring; say below its definition what it is.")
    return found


def _described(full: str, thing: Any, text: str) -> str:
    if inspect.isclass(thing):
        return f".. {'autoexception' if issubclass(thing, BaseException) else 'autoclass'}:: {full}"
    if inspect.isroutine(thing):
        return f".. autofunction:: {full}"
    module, _, name = full.rpartition(".")
    return f".. py:data:: {name}\n   :module: {module}\n   :value: {thing!r}\n\n" + textwrap.indent(plain(text), "   ")


class Public(SphinxDirective):
    """Describes names of `kvsteer_lab` itself."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(described("kvsteer_lab", self.arguments[0].split()))


class PublicModule(SphinxDirective):
    """Describes the names of a public module, but for those that `kvsteer_lab` exports itself, too."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = getattr(kvsteer_lab, self.arguments[0])
        names = [name for name in public_names(module) if name not in kvsteer_lab.__all__]
        return self.parse_text_to_nodes(described(module.__name__, names))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", lambda app: check_pages())
    app.add_directive("public", Public)
    app.add_directive("public-module", PublicModule)
    return {"version": kvsteer_lab.__version__, "parallel_read_safe": True}
