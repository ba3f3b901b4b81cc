"""Patched runs of one prompt, computed together: a plain and an edited cache, each read by one token many times over,
once for every patch.

Where the model's attention goes through transformers' interface, the copies of the token stand side by side in one row,
at the same position, and do not read one another: so two rows hold all patches of an edit, and the cache is not copied
for each. Where it does not, each copy gets a row, and a cache, of its own; the results are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ...edits.addition import CacheDelta
from ...edits.cache import apply
from ...models.architectures import UnsteerableModelError
from ...models.attention import Attending, query_heads
from ...models.finite import check_logits
from ...models.layers import decoder_layers
from ...models.lock import locked
from ...models.model import Model
from ...models.prefill import fill, fork_rows
from ..budget import CACHE, logits_within
from ..watched_token import log_odds

Patch = tuple[str, int]
"""What is patched ("stream" or "update"), and behind which layer."""
WAYS = ("restored", "removed")
"""Patches of the plain run, of whose row they are, and of the edited one."""


@dataclass(frozen=True)
class PatchedRuns:
    """The log-odds of a token, and whether it is the likeliest, of one prompt under one edit.

    Attributes:
        odds, first: `[2, 1 + patches]`: the plain run and its patches, then the edited run and its patches.
    """

    odds: Float[Tensor, "2 runs"]
    first: Float[Tensor, "2 runs"]


class ReadPrompt:
    """A prompt's cache, computed once; any number of edits of it are read.

    Args:
        model: the model.
        ids: of the prompt.
        token: what reads the cache: the offset token.
    """

    @locked
    @torch.no_grad()
    def __init__(self, model: Model, ids: Sequence[int], token: int) -> None:
        self.model, self.token, self.length = model, token, len(ids)
        one = torch.tensor([list(ids)], device=model.device)
        self._cache = fill(model, one, torch.ones_like(one))
        self._beside = reads_side_by_side(model)

    def edits_within(self, patches: int) -> int:
        """How many edits with so many patches fit one forward pass; at least one."""
        runs = 1 + patches
        slot = sum(x.keys[0, :, :1].nbytes + x.values[0, :, :1].nbytes for x in self._cache.layers)
        caches = 2 * (1 if self._beside else runs) * (self.length + runs) * slot
        return max(1, min(CACHE // caches, logits_within(self.model.n_tokens) // (2 * runs)))

    @locked
    @torch.no_grad()
    def run(self, edits: Sequence[Sequence[CacheDelta]], patches: Sequence[Patch], watched: int) -> list[PatchedRuns]:
        """Read each edit with each patch, beside the unpatched runs, in one forward pass.

        Args:
            edits: deltas of the cache.
            patches: the same for all edits.
            watched: the token whose log-odds are returned.

        Raises:
            ValueError: logits that are NaN or infinite.
        """
        runs = 1 + len(patches)
        copies = 1 if self._beside else runs
        cache = copy.deepcopy(self._cache)
        fork_rows(cache, torch.zeros(len(edits) * 2 * copies, dtype=torch.long))
        deltas = [delta for edit in edits for delta in [()] * copies + [tuple(edit)] * copies]
        apply(cache, deltas, lengths=[self.length] * len(deltas))
        logits = self._read(cache, len(deltas), runs // copies, _Exchange(len(edits), runs, patches))
        logits = check_logits(logits).float().reshape(-1, logits.shape[-1])
        odds = log_odds(logits, watched).reshape(len(edits), 2, runs).cpu()
        first = (logits.argmax(-1) == watched).reshape(len(edits), 2, runs).cpu()
        return [PatchedRuns(o, f) for o, f in zip(odds, first, strict=True)]

    @locked
    def _read(
        self, cache: DynamicCache, rows: int, beside: int, exchange: _Exchange
    ) -> Float[Tensor, "rows beside vocab"]:
        model = self.model
        ids = torch.full((rows, beside), self.token, device=model.device)
        arguments: dict[str, Any] = {"input_ids": ids, model.cache_argument: cache, "use_cache": True}
        arguments["attention_mask"] = torch.ones(rows, self.length + beside, dtype=torch.long, device=model.device)
        if model.accepts("position_ids"):
            arguments["position_ids"] = torch.full_like(ids, self.length)
        if model.accepts("logits_to_keep"):
            arguments["logits_to_keep"] = beside
        with ExitStack() as stack:
            for index, layer in enumerate(decoder_layers(model.hf)):
                handle = layer.register_forward_hook(
                    lambda module, given, output, index=index: exchange.behind(index, output)
                )
                stack.callback(handle.remove)
            if beside > 1:
                stack.enter_context(_SideBySide(model.hf, self.length))
            return model.hf(**arguments).logits[:, -beside:]


def reads_side_by_side(model: Model) -> bool:
    """Whether copies of a token can stand in one row: attention goes through the interface, and by given positions.

    Args:
        model: the model.

    >>> import kvsteer_lab as kv
    >>> reads_side_by_side(kv.load("tiny"))
    True
    """
    try:
        query_heads(model.hf)
    except UnsteerableModelError:
        return False
    return model.accepts("position_ids")


class _SideBySide(Attending):
    """New tokens read what the first of them may read of the cache, and themselves; not one another."""

    def hide(self, layer: int, column: int, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        time = query.shape[2]
        alike = mask[:, :, :1].expand(-1, -1, time, -1).clone()
        alike[..., -time:] = torch.finfo(mask.dtype).min
        alike[..., -time:].diagonal(dim1=-2, dim2=-1).zero_()
        return alike


class _Exchange:
    """Behind each layer, the patched runs of one side get what they lack from the unpatched run of the other.

    Args:
        edits: how many are read together.
        runs: of each side.
        patches: those of runs 1 and above.
    """

    def __init__(self, edits: int, runs: int, patches: Sequence[Patch]) -> None:
        self._shape = (edits, 2, runs)
        self._places: dict[tuple[str, int], list[int]] = {}
        for place, patch in enumerate(patches, 1):
            self._places.setdefault(patch, []).append(place)
        self._before: Tensor | None = None

    def behind(self, layer: int, output: Any) -> Any:
        """What the layer is made to put out."""
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone().reshape(*self._shape, -1)
        donor = changed[:, :, 0].flip(1).clone()
        for place in self._places.get(("stream", layer), ()):
            changed[:, :, place] = donor
        for place in self._places.get(("update", layer), ()):
            apart = donor - changed[:, :, place]
            if self._before is not None:  # before the first layer all runs are alike
                apart = apart - (self._before[:, :, 0].flip(1) - self._before[:, :, place]).to(apart)
            changed[:, :, place] += apart
        self._before = changed
        changed = changed.reshape(hidden.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed
