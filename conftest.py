"""Names that every example in a docstring may use: `kv`, `torch`, `np` and `pd`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(kv=kv, torch=torch, np=np, pd=pd)
