"""Examples in docstrings: names that each may use (`kv`, `torch`, `np`, `pd`), and a finder that sees decorated
functions.
"""

from __future__ import annotations

import doctest
import inspect
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv

collect_ignore = [] if find_spec("vllm") else ["kvsteer_lab/serving/vllm_plugin.py"]
"""`make serve-test` runs it, in an environment of its own."""

_is_from = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]


def _is_from_unwrapped(self: Any, module: Any, thing: Any) -> bool:
    """A decorated function belongs to the module that defines what is decorated, not to that of the decorator."""
    return bool(_is_from(self, module, inspect.unwrap(thing) if inspect.isfunction(thing) else thing))


doctest.DocTestFinder._from_module = _is_from_unwrapped  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(kv=kv, torch=torch, np=np, pd=pd)
