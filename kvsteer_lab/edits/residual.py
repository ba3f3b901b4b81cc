"""Add vectors to the residual stream of single rows: at one slot, from a slot on at every later one, or at whichever
position is the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ..models.finite import NotFiniteError
from ..models.layers import decoder_layers, hidden_size
from ..models.lock import LOCK
from ..models.model import Model


@dataclass(frozen=True, eq=False)
class ResidualDelta:
    """What is added to the residual stream of one row: the coefficient and the choice of layers are already folded in.

    Attributes:
        vectors: float32 `[layers, hidden]`; row l is added to the output of decoder layer l, counted from 0.
        slot: index into the prompt's ids; negative counts from the end.
        onward: whether every later slot gets it as well, the generated tokens' among them.
        newest: add it to the last position of each forward pass instead, wherever that is. It takes decoding without a
            cache to differ from `onward`: then a position that was the newest is computed anew, without the vectors.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> kv.ResidualDelta(torch.ones(4, 128)).check(kv.load("tiny"))
    """

    vectors: Float[Tensor, "layers hidden"]
    slot: int = -1
    onward: bool = False
    newest: bool = False

    def check(self, model: Model) -> None:
        """Refuse a delta that doesn't fit.

        Raises:
            ValueError: another number of layers or hidden width than the model's, NaN or infinity, or a model whose
                layers aren't found.

        >>> import kvsteer_lab as kv
        >>> import torch
        >>> kv.ResidualDelta(torch.ones(4, 128)).check(kv.load("tiny"))
        """
        decoder_layers(model.hf)
        wanted, shape = (model.n_layers, hidden_size(model.hf)), tuple(self.vectors.shape)
        if shape != wanted:
            raise ValueError(
                f"A residual delta is {shape}, but {model.name} has {wanted} (layers, hidden width); use vectors of"
                " this model."
            )
        if not self.vectors.to(model.dtype).isfinite().all():
            dtype = str(model.dtype).removeprefix("torch.")
            raise NotFiniteError(
                f"A residual delta holds NaN or infinity, or is infinite in {dtype}; check the coefficient and the"
                " vectors."
            )


@dataclass(frozen=True)
class Placed:
    """A delta put into a batch: its row, and the padded column of its slot."""

    row: int
    column: int
    delta: ResidualDelta


class LayerEdit:
    """What one decoder layer's output gets added. The sum is made in float32 and cast once."""

    def __init__(self, layer: int, placed: Sequence[Placed]) -> None:
        self.vectors = torch.stack([p.delta.vectors[layer].float() for p in placed])
        self.rows = torch.tensor([p.row for p in placed])
        self.columns = torch.tensor([p.column for p in placed])
        self.onward = torch.tensor([p.delta.onward for p in placed])
        self.newest = torch.tensor([p.delta.newest for p in placed])
        fixed = self.columns[~self.newest].tolist()
        self.first, self.last = min(fixed, default=None), max(fixed, default=-1)
        self.ends = not bool(self.onward.any() or self.newest.any())
        self._steady: Tensor | None = None

    def __call__(self, output: Any, start: int) -> Any:
        """A decoder layer's output for the columns from `start` on, with what belongs there added; the output itself is
        left as it is.
        """
        if isinstance(output, tuple):
            return (self._add(output[0], start), *output[1:])
        return self._add(output, start)

    def _add(self, hidden: Float[Tensor, "rows time hidden"], start: int) -> Float[Tensor, "rows time hidden"]:
        end = start + hidden.shape[1]
        begin = max(start, end - 1 if self.first is None else self.first)
        if self.ends:
            end = min(end, self.last + 1)
        if begin >= end:
            return hidden
        if start > self.last and hidden.shape[1] == 1:  # from here on every step adds the same
            if self._steady is None:
                self._steady = self._sum(hidden, start, start + 1)
            return (hidden.float() + self._steady).to(hidden.dtype)
        changed = hidden.clone()
        part = changed[:, begin - start : end - start]
        part.copy_(part.float() + self._sum(hidden, begin, end))
        return changed

    def _sum(self, hidden: Tensor, begin: int, end: int) -> Float[Tensor, "rows time hidden"]:
        """The sum of all vectors that belong to each row and column, where the layer runs."""
        if self.vectors.device != hidden.device:
            self.vectors, self.rows, self.columns, self.onward, self.newest = (
                x.to(hidden.device) for x in (self.vectors, self.rows, self.columns, self.onward, self.newest)
            )
        at = torch.arange(begin, end, device=hidden.device)
        columns = torch.where(self.newest, end - 1, self.columns)[:, None]
        here = (at == columns) | (self.onward[:, None] & (at > columns))
        empty = torch.zeros(hidden.shape[0], end - begin, hidden.shape[2], dtype=torch.float32, device=hidden.device)
        return empty.index_add_(0, self.rows, here[..., None] * self.vectors[:, None])


def layer_edits(placed: Sequence[Placed]) -> dict[int, LayerEdit]:
    """What is added to which decoder layer, in the order of the layers; layers that get nothing are left out."""
    if not placed:
        return {}
    active = torch.stack([p.delta.vectors.any(-1) for p in placed])
    return {
        layer: LayerEdit(layer, [p for p, on in zip(placed, active[:, layer].tolist(), strict=True) if on])
        for layer in range(active.shape[1])
        if active[:, layer].any()
    }


class Editing:
    """A context in which forward passes of a plain model are edited. Without edits nothing is installed, and nothing is
    paid.

    It may be entered again and again: the columns that earlier passes read are counted on, so that single passes can be
    wrapped as well as a whole `generate`. On leaving, also through an error or Ctrl-C, the hooks are gone. The lock of
    all models is held while it is entered.

    Args:
        hf: the model that runs.
        edits: from `layer_edits`.
        start: the first column that is read.
        cached: whether each pass goes on where the last one ended; otherwise each begins at `start`.
    """

    def __init__(self, hf: PreTrainedModel, edits: Mapping[int, LayerEdit], start: int, *, cached: bool = True) -> None:
        self.edits = edits
        self.cached = cached
        self._layers = decoder_layers(hf) if edits else nn.ModuleList()
        self._next = dict.fromkeys(edits, start)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Editing:
        LOCK.__enter__()
        for layer in self.edits:
            self._handles.append(
                self._layers[layer].register_forward_hook(
                    lambda module, given, output, layer=layer: self._edit(layer, output)
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        LOCK.__exit__(kind, error, trace)

    def _edit(self, layer: int, output: Any) -> Any:
        start = self._next[layer]
        hidden = output[0] if isinstance(output, tuple) else output
        if self.cached:
            self._next[layer] += hidden.shape[1]
        return self.edits[layer](output, start)
