"""What a framework's command line says about model and steering: numbers arrive as text, and everything is checked
before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .._version import __version__
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import CacheSteering
from ..interventions.checks import check_intervention
from ..models.loading import load
from ..models.model import Model
from ..models.tokens import offset_token
from ..vectors.kv import KVVectors

MAX_NEW_TOKENS = 256
"""Where neither the task nor the user says how long a reply may be; it is what lm-evaluation-harness takes, too."""


@dataclass(frozen=True)
class SteeredModel:
    """A model with the one intervention under which it answers.

    Attributes:
        model: as `kv.load` gives it.
        intervention: cache steering, a control of it, or nothing.
        offset: the token that is read from the steered cache.
    """

    model: Model
    intervention: Intervention
    offset: str | None

    @property
    def about(self) -> dict[str, Any]:
        """What a log has to say of it, so that its rows can be told apart and compared."""
        own = self.intervention
        return dict(
            model=self.model.name,
            fingerprint=self.model.fingerprint,
            intervention="no offset" if self.offset is None else own.label,
            control_of=own.control_of,
            control_kind=own.control_kind,
            offset=self.offset,
            version=__version__,
        )


def read_arguments(
    pretrained: str,
    *,
    vectors: str | None,
    ck: Any,
    cv: Any,
    layers: Any,
    slot: Any,
    offset: str | None,
    name: str | None,
    control: Any,
    device: str | None,
    dtype: str | None,
) -> SteeredModel:
    """Load model and vectors as a framework's arguments name them.

    Args:
        pretrained: "tiny", a folder, a hub id, as in `kv.load`.
        vectors: a file of `KVVectors`; `None`: the baseline.
        ck, cv: coefficients, as numbers or text.
        layers: a number, several, or text: `"2"`, `"1-3"`, `"1+4"`.
        slot, name: as in `kv.CacheSteering`.
        offset: as in `kv.generate`; `None` only without vectors.
        control: the seed of a random control, which stands in for the steering.
        device, dtype: as in `kv.load`; `"auto"` is its default, and a GPU that isn't there counts as not asked for.

    Returns:
        The model and what acts on it.

    Raises:
        ValueError: vectors without `cv`, coefficients without vectors, one that is no finite number, vectors of another
            model, or what `kv.load` refuses.

    >>> options = dict(layers=None, slot=-1, offset="\\n", name=None, control=None, device=None, dtype=None)
    >>> read_arguments("tiny", vectors=None, ck=None, cv=None, **options).about["intervention"]
    'baseline'
    """
    offset = None if offset in ("none", "None") else offset  # Inspect reads it as text
    if vectors is None:
        for key, value in dict(ck=ck, cv=cv, layers=layers, name=name, control=control).items():
            if value is not None:
                raise ValueError(f"{key}={value} needs vectors; add vectors=FILE.safetensors.")
        steering = None
    else:
        if cv is None:
            raise ValueError("cv is missing, the coefficient of the value vectors; add cv=4, say (0 for keys alone).")
        if offset is None:
            raise ValueError("offset=none is for runs without vectors: steering needs a token that reads the cache.")
        coefficients = dict(ck=_number(0 if ck is None else ck, "ck"), cv=_number(cv, "cv"))
        steering = CacheSteering(
            KVVectors.load(vectors), **coefficients, layers=_layers(layers), slot=_whole(slot, "slot"), name=name
        )
        steering.check_adds()
        if control is not None:
            steering = steering.random_control(_whole(control, "control"))
    there = None if device == "auto" or (str(device).startswith("cuda") and not torch.cuda.is_available()) else device
    model = load(pretrained, device_map=there, dtype=None if dtype == "auto" else dtype)
    offset_token(model.tokenizer, offset)
    return SteeredModel(model, check_intervention(model, steering or Nothing()), offset)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that would otherwise be dropped.

    Raises:
        ValueError: one that isn't known.

    >>> refuse_unknown(["cv", "strength"], ["ck", "cv"])
    Traceback (most recent call last):
    ValueError: kvsteer has no argument strength; it takes ck, cv.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"kvsteer has no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}.")


def _number(value: Any, name: str) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # CacheSteering refuses what isn't finite
    except ValueError:
        raise ValueError(f"{name} is {value!r}; it must be a finite number.") from None


def _whole(value: Any, name: str) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} is {value!r}; it must be a whole number.") from None


def _layers(value: Any) -> list[int] | None:
    """Layers as a number, several, or a text of numbers and ranges joined by `+`: commas part arguments."""
    if value is None:
        return None
    parts = value.split("+") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    found: list[int] = []
    for part in parts:
        low, dash, high = part.partition("-") if isinstance(part, str) else (part, "", part)
        first = _whole(low, "layers")
        found += range(first, _whole(high, "layers") + 1) if dash else [first]
    return found
