"""Descriptions of things as plain JSON, their hashes, and what differs between two of them."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial, singledispatch
from typing import Any

import numpy as np
import torch

from .._util.later import counts
from ..vectors.cards import Card
from .code import describe_class, describe_function, describe_object, is_foreign

_SHOWN = 3  # differences that a message names


@dataclass(frozen=True)
class RunIdentity:
    """What a run is, in two parts: rows whose texts are valid can be read again when only the second has changed.

    Attributes:
        texts: whatever can change a generated text: model, prompts, interventions, settings, version.
        readings: whatever can change how a text is read: the rules' code, gold answers and choices.
    """

    texts: Mapping[str, Any]
    readings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts_hash(self) -> str:
        """SHA-256 of `texts`; runs that share it generate the same texts."""
        return hash_of(self.texts)

    @property
    def readings_hash(self) -> str:
        """SHA-256 of `readings`; runs that share it read a text alike."""
        return hash_of(self.readings)


@singledispatch
def describe(thing: Any) -> Any:
    """What a thing is, as plain JSON: equal for things that act alike, whatever file or object they come from.

    Dataclasses are described by class and fields, tensors by the hash of their bytes, functions and classes from
    outside the package by their code, a card only by the kind of its keys: where vectors come from may be told in other
    words, what they do may not.

    Args:
        thing: a dataclass of numbers, texts, tensors and functions, or one of these.

    Raises:
        ValueError: something that has no description of its own, such as an open file.

    >>> describe({"ck": 1.0, "layers": (1, 2)})
    {'ck': 1, 'layers': [1, 2]}
    """
    if is_dataclass(thing) and not isinstance(thing, type):
        kind = type(thing)
        code = {"code": describe_class(kind, describe)} if is_foreign(kind) else {}
        own = {f.name: value for f in fields(thing) if counts(f, value := getattr(thing, f.name))}
        return {"class": kind.__qualname__, **code, **{name: describe(value) for name, value in own.items()}}
    if callable(thing) and is_foreign(type(thing)):
        return describe_object(thing, describe)
    raise ValueError(
        f"A run can't be identified by a {type(thing).__qualname__}; make it a dataclass of numbers, texts and tensors"
        " to store the run."
    )


@describe.register(type(None))
@describe.register(bool)
@describe.register(str)
@describe.register(int)
def _plain(thing: Any) -> Any:
    return thing


@describe.register
def _float(thing: float) -> Any:
    if not math.isfinite(thing):
        return str(thing)
    return int(thing) if thing.is_integer() else thing  # a coefficient of 1.0 is one of 1


@describe.register
def _enum(thing: enum.Enum) -> Any:
    return describe(thing.value)


@describe.register
def _dtype(thing: torch.dtype) -> str:
    return str(thing)


@describe.register(bytes)
def _bytes(thing: bytes) -> dict[str, str]:
    return {"bytes": hashlib.sha256(thing).hexdigest()}


@describe.register(list)
@describe.register(tuple)
def _sequence(thing: Sequence[Any]) -> list[Any]:
    return [describe(part) for part in thing]


@describe.register
def _set(thing: AbstractSet) -> list[Any]:
    return sorted((describe(part) for part in thing), key=json.dumps)


@describe.register
def _mapping(thing: Mapping) -> dict[str, Any]:
    return {str(key): describe(value) for key, value in thing.items()}


@describe.register
def _tensor(thing: torch.Tensor) -> dict[str, Any]:
    data = thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {"tensor": hashlib.sha256(data).hexdigest(), "shape": list(thing.shape), "dtype": str(thing.dtype)}


@describe.register
def _array(thing: np.ndarray) -> dict[str, Any]:
    if thing.dtype.hasobject:
        return {"array": describe(thing.tolist()), "shape": list(thing.shape)}
    data = np.ascontiguousarray(thing).tobytes()
    return {"array": hashlib.sha256(data).hexdigest(), "shape": list(thing.shape), "dtype": str(thing.dtype)}


@describe.register
def _number(thing: np.number) -> Any:
    return describe(thing.item())


@describe.register
def _pattern(thing: re.Pattern) -> dict[str, Any]:
    return {"pattern": describe(thing.pattern), "flags": thing.flags}


@describe.register(types.FunctionType)
@describe.register(types.MethodType)
@describe.register(types.BuiltinFunctionType)
@describe.register(partial)
def _function(thing: Any) -> dict[str, Any]:
    return describe_function(thing, describe)


@describe.register
def _module(thing: torch.nn.Module) -> dict[str, str]:
    return {"module": type(thing).__qualname__}  # its weights are a part of the model's fingerprint


@describe.register
def _class(thing: type) -> dict[str, Any]:
    return describe_class(thing, describe)


@describe.register
def _card(thing: Card) -> dict[str, Any]:
    return {"keys": thing.keys}


def hash_of(identity: Any) -> str:
    """SHA-256 of a description, in hex; the order of a mapping's keys doesn't matter.

    >>> hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()


def differences(there: Any, here: Any) -> str:
    """What two descriptions differ in, for a message: the first few places, each with both values.

    >>> differences({"seed": 0}, {"seed": 1})
    'seed is 0 there and 1 here'
    """
    a, b = dict(_flatten(there)), dict(_flatten(here))
    paths = [path for path in [*a, *(p for p in b if p not in a)] if a.get(path, _ABSENT) != b.get(path, _ABSENT)]
    shown = [
        f"{path} is {_short(a.get(path, _ABSENT))} there and {_short(b.get(path, _ABSENT))} here"
        for path in paths[:_SHOWN]
    ]
    more = len(paths) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


_ABSENT = object()


def _flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, part in value.items() for pair in _flatten(part, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and value:
        return [pair for i, part in enumerate(value) for pair in _flatten(part, f"{path}[{i}]")]
    return [(path, value)]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}..."
