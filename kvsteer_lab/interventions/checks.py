"""What may be given as an intervention, its vectors and its coefficient: checked before anything is computed."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..models.model import Model
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .base import Intervention, Nothing
from .scaled import Scaled


def check_interventions(
    model: Model, interventions: Intervention | Sequence[Intervention] | None
) -> list[Intervention]:
    """The interventions as a list, each checked against the model.

    Raises:
        ValueError: none, two with one label, something that is not an intervention, or one that doesn't fit.
    """
    single = isinstance(interventions, Intervention | str) or not isinstance(interventions, Iterable)
    methods: list[Any] = [Nothing() if interventions is None else interventions] if single else list(interventions)  # type: ignore[arg-type]
    if not methods:
        raise ValueError("The list of interventions is empty; leave it out for the baseline.")
    for method in methods:
        if not isinstance(method, Intervention):
            raise ValueError(_no_intervention(method))
        method.check(model)
    labels = [method.label for method in methods]
    double = next((label for label in labels if labels.count(label) > 1), None)
    if double is not None:
        raise ValueError(f"Two interventions are called {double!r}; tell them apart with name=...")
    return methods


def _no_intervention(given: object) -> str:
    if isinstance(given, type) and issubclass(given, Intervention):
        return f"{given.__name__} is a class, not an intervention; call it: kv.{given.__name__}(...)."
    if isinstance(given, KVVectors | ActivationVectors):
        steering = "CacheSteering" if isinstance(given, KVVectors) else "ActivationSteering"
        return f"Vectors are not an intervention; say how much of them is added, with kv.{steering}(vectors, ...)."
    return f"{given!r} is not an intervention; use kv.CacheSteering, kv.Nothing and the like."


def check_intervention(model: Model, intervention: Intervention | None) -> Intervention:
    """One intervention, checked against the model.

    Raises:
        ValueError: several, something that is not an intervention, or one that doesn't fit.
    """
    methods = check_interventions(model, intervention)
    if len(methods) > 1:
        raise ValueError(f"Only one intervention can be taken here, not {len(methods)}; call once for each.")
    return methods[0]


def check_coefficient(value: Any, name: str = "") -> float:
    """A coefficient as a Python number.

    Args:
        value: a number of Python, NumPy or PyTorch.
        name: what a message calls it: `"cv"`.

    Raises:
        ValueError: something that isn't a finite number.

    Example:
        >>> import numpy as np
        >>> check_coefficient(np.float32(1.5)), check_coefficient(2)
        (1.5, 2)
    """
    number = value.item() if isinstance(value, np.generic | torch.Tensor) and _is_single(value) else value
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not real or not abs(number) <= sys.float_info.max:
        called = f"The coefficient {name}".rstrip()
        raise ValueError(f"{called} is {number!r}; it must be a finite number.")
    return number if isinstance(number, int | float) else float(number)


def _is_single(value: np.generic | torch.Tensor) -> bool:
    return (value.numel() if isinstance(value, torch.Tensor) else value.size) == 1


def check_number_of_controls(n: int) -> None:
    """Refuse to draw no controls.

    Args:
        n: how many are asked for.

    Raises:
        ValueError: fewer than one.

    Example:
        >>> check_number_of_controls(40)
    """
    if n < 1:
        raise ValueError(f"The number of controls must be at least 1, not {n}.")


def check_vectors(vectors: object, kind: type, remedy: str) -> None:
    """Refuse vectors of another kind than a steering adds.

    Args:
        vectors: what was given.
        kind: `KVVectors` or `ActivationVectors`.
        remedy: where such vectors come from.

    Raises:
        ValueError: something else.

    Example:
        >>> import kvsteer_lab as kv
        >>> check_vectors("vectors.safetensors", kv.KVVectors, "load them with kv.KVVectors.load")
        Traceback (most recent call last):
        ValueError: The vectors are of type str, not KVVectors; load them with kv.KVVectors.load.
    """
    if not isinstance(vectors, kind):
        raise ValueError(f"The vectors are of type {type(vectors).__name__}, not {kind.__name__}; {remedy}.")


def check_adds(steering: object) -> None:
    """Refuse what has no coefficient to scale, or what adds nothing at any.

    Raises:
        ValueError: another intervention, no layers or KV heads to edit, or vectors that are zero there.

    Example:
        >>> import kvsteer_lab as kv
        >>> check_adds(kv.CoTPrompt())
        Traceback (most recent call last):
        ValueError: A steering is asked for, a kv.CacheSteering or kv.ActivationSteering, not CoTPrompt.
    """
    if not isinstance(steering, Scaled):
        raise ValueError(
            f"A steering is asked for, a kv.CacheSteering or kv.ActivationSteering, not {type(steering).__name__}."
        )
    steering.check_adds()
