"""Every public callable has an example in its docstring; `--doctest-modules` runs them."""

from __future__ import annotations

import inspect
from typing import Any

import kvsteer_lab as kv

MADE_ELSEWHERE = {"Lens", "Search", "Tuning", "UnsteerableModelError"}
"""What a user never makes: results of a function that has an example, a base class, an error."""


def public() -> dict[str, Any]:
    """Public functions and classes of the package and of its public modules."""
    modules = [kv, *(home for name in kv.__all__ if inspect.ismodule(home := getattr(kv, name)))]
    found = {}
    for module in modules:
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in names:
            thing = getattr(module, name)
            if callable(thing) and str(getattr(thing, "__module__", "")).startswith("kvsteer_lab"):
                found[f"{module.__name__}.{name}"] = thing
    return found


def has_example(thing: Any) -> bool:
    """Whether its docstring, or for a class one of its methods', has an example."""
    own = [thing, *(getattr(thing, name) for name in vars(thing) if not name.startswith("_"))]
    return any(">>>" in (inspect.getdoc(part) or "") for part in (own if inspect.isclass(thing) else [thing]))


def test_every_public_callable_has_an_example() -> None:
    found = public()
    assert len(found) > 150
    without = {name for name, thing in found.items() if not has_example(thing)}
    assert {name.rpartition(".")[2] for name in without} == MADE_ELSEWHERE, without
