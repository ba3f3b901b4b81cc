"""Public names that are loaded on first use, as a package's `__init__.pyi` lists them, and old names that still
work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import lazy_loader

ROOT = __name__.split(".", 1)[0]


def attach(
    package: str, file: str, old: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        file: its `__file__`; the stub `__init__.pyi` lies beside it.
        old: names of an earlier release, each with the module (below `kvsteer_lab`) that holds it now, or with
            `module:name` where it is called otherwise there. They are left out of `__dir__` and `__all__`.
    """
    load, listed, names = lazy_loader.attach_stub(package, file)

    def load_or_alias(name: str) -> Any:
        if name in names:
            return load(name)
        if old is None or name not in old:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, other = old[name].partition(":")
        return getattr(importlib.import_module(f"{ROOT}.{home}"), other or name)

    return load_or_alias, listed, names
