"""Gates: what decides, from a prompt's last cached slot, whether a row is edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.model import Model
from ..models.prefill import last_slots
from ..models.prompts import Prompt
from ..models.tokens import pad_left
from .given import finite_number, float_array, whole_number

_TOGETHER = 16  # prompts that are read at a time


@dataclass(frozen=True, eq=False)
class LastSlot:
    """What a gate is shown: a prompt's last cached slot before any edit, float32 on the CPU.

    Attributes:
        keys, values: `[layers, kv_heads, head_dim]`.

    >>> import torch
    >>> LastSlot(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)).values.shape
    torch.Size([4, 2, 32])
    """

    keys: Float[Tensor, "layers kv_heads head_dim"]
    values: Float[Tensor, "layers kv_heads head_dim"]


Gate = Callable[[LastSlot], bool]


@dataclass(frozen=True)
class Similar:
    """A gate that opens where the last slot's values point along a direction (conditional steering as in CAST, Lee et
    al. 2024, on the cache): cosine at one layer, all KV heads together.

    Args:
        values: `[layers, kv_heads, head_dim]`, the direction; `kv.KVVectors.values`, say.
        layer: where it is compared.
        at_least: the cosine from which on the gate is open.

    Raises:
        ValueError: a direction of another shape, NaN or infinity, or a layer that it hasn't got; when it is used: a
            direction of another model.

    >>> import torch
    >>> here = torch.ones(4, 2, 32)
    >>> Similar(here, layer=1, at_least=0.9)(LastSlot(here, 2 * here))
    True
    """

    values: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    layer: int
    at_least: float

    def __post_init__(self) -> None:
        values = float_array("The gate's direction", self.values, "an array [layers, kv_heads, head_dim]")
        if values.ndim != 3 or not values.isfinite().all():
            raise ValueError(
                f"The gate's direction is {tuple(values.shape)}; it must be [layers, kv_heads, head_dim], without NaN"
                " and infinity."
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "layer", whole_number("The gate's layer", self.layer))
        finite_number("The cosine from which on the gate is open", self.at_least)
        if not -len(values) <= self.layer < len(values):
            raise ValueError(f"The gate compares at layer {self.layer}, but its direction has {len(values)} layers.")

    def __call__(self, last: LastSlot) -> bool:
        here, wanted = last.values[self.layer].flatten(), self.values[self.layer].flatten()
        return bool(torch.nn.functional.cosine_similarity(here, wanted, dim=0) >= self.at_least)


def check_gate(when: Gate | None) -> None:
    """Refuse a gate that can't be asked.

    Args:
        when: what was given as a gate; `None`: none.

    Raises:
        ValueError: it isn't callable.

    >>> check_gate(None), check_gate(Similar(torch.ones(4, 2, 32), layer=1, at_least=0.9))
    (None, None)
    """
    if when is not None and not callable(when):
        raise ValueError(f"The gate is {when!r}; when= takes a function of a LastSlot that gives True or False.")


def check_gate_fits(when: Gate | None, shape: tuple[int, ...], name: str) -> None:
    """Refuse a gate that was fitted to another model.

    Args:
        when: a gate; `None`, or one of another kind than `Similar`: nothing is known about it.
        shape: layers, KV heads and head width of what is edited.
        name: whose they are, for the error.

    Raises:
        ValueError: another shape.

    >>> check_gate_fits(Similar(torch.ones(4, 2, 32), layer=1, at_least=0.9), (4, 2, 32), "tiny")
    """
    if isinstance(when, Similar) and tuple(when.values.shape) != shape:
        raise ValueError(
            f"The gate's direction is {tuple(when.values.shape)}, but {name} has {shape} (layers, KV heads, head"
            " width); fit a gate to this model."
        )


def opens(gate: Gate, last: LastSlot, row: int) -> bool:
    """What a gate says of one row.

    Args:
        gate: the gate.
        last: the prompt's last slot.
        row: its number, for the error.

    Raises:
        ValueError: a gate that raises or gives no truth value.

    >>> import torch
    >>> opens(lambda last: bool(last.values.sum() > 0), LastSlot(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)), 0)
    True
    """
    called = gate if isinstance(gate, Similar) else getattr(gate, "__name__", type(gate).__name__)
    try:
        said = gate(last)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"The gate {called} failed on row {row}: {reason}; nothing was edited.") from error
    if isinstance(said, np.bool_) or (isinstance(said, Tensor) and said.numel() == 1):
        said = said.item()
    if not isinstance(said, bool):
        found = f"a {type(said).__name__}" if isinstance(said, np.ndarray | Tensor) else repr(said)
        raise ValueError(f"The gate {called} gave {found}; it must give True or False.")
    return said


def show(model: Model, prompts: Sequence[Sequence[int]]) -> list[LastSlot]:
    """What gates are shown of prompts by themselves.

    Args:
        model: which reads them.
        prompts: token ids.

    >>> import kvsteer_lab as kv
    >>> [last.keys.shape for last in show(kv.load("tiny"), [[5, 6, 7]])]
    [torch.Size([4, 2, 32])]
    """
    found: list[LastSlot] = []
    for start in range(0, len(prompts), _TOGETHER):
        read = last_slots(model, *pad_left(prompts[start : start + _TOGETHER], model.pad_id, model.device))
        found += [LastSlot(keys, values) for keys, values in zip(*read, strict=True)]
    return found


def opens_on(gate: Gate, model: Model, prompts: Sequence[Prompt]) -> list[bool]:
    """On which prompts a gate is open; try a fitted one on prompts that it wasn't fitted to. Cost: one prefill of each.

    Args:
        gate: the gate.
        model: which reads the prompts.
        prompts: texts or chats.

    Raises:
        ValueError: a gate that raises or gives no truth value.

    >>> import kvsteer_lab as kv
    >>> opens_on(lambda last: bool(last.values.any()), kv.load("tiny"), ["2 + 3?", "4 + 5?"])
    [True, True]
    """
    shown = show(model, [model.encode(prompt) for prompt in prompts])
    return [opens(gate, last, row) for row, last in enumerate(shown)]
