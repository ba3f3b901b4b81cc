"""Optional dependencies: imported when they are used, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """A module of an optional dependency.

    Args:
        module: its name.
        extra: of this package, which installs it.

    Returns:
        The module.

    Raises:
        ImportError: it isn't installed; the message says how to get it.

    >>> import_extra("no_such_framework", "lm-eval")
    Traceback (most recent call last):
    ImportError: no_such_framework isn't installed; get it with `pip install "kvsteer-lab[lm-eval]"`.
    """
    root = module.partition(".")[0]
    if find_spec(root) is None:
        raise ImportError(f'{root} isn\'t installed; get it with `pip install "kvsteer-lab[{extra}]"`.')
    return import_module(module)
