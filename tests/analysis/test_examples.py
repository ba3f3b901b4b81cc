"""Every public analysis and figure shows how it is called; pytest runs the examples themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

import kvsteer_lab as kv

RESULTS = ("Lens",)  # made by a function, which has the example


def callables(package: ModuleType) -> list[Callable[..., object]]:
    named = [getattr(package, name) for name in package.__all__ if name not in RESULTS]
    return [thing for thing in named if callable(thing)]


@pytest.mark.parametrize("package", [kv.analysis, kv.figures])
def test_every_public_callable_has_an_example(package: ModuleType) -> None:
    without = [thing.__name__ for thing in callables(package) if ">>>" not in (thing.__doc__ or "")]
    assert not without
