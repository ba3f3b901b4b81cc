"""Extracting vectors: the mean difference of keys and values at the last token of contrastive pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._util.batching import in_batches
from .._util.progress import bar
from .._version import __version__
from ..models.footprint import memory_budget, rows_of_like_length, rows_that_fit
from ..models.lock import LOCK
from ..models.model import Model
from ..models.prefill import last_slots
from ..models.prompts import template_hash
from ..models.remote import Remote, check_remote, read_last_slots
from ..models.shared_prefix import beginning_alike
from ..models.tokens import encode, offset_token, pad_left
from .cards import Card, KeyMode
from .kv import KVVectors
from .pairs import ContrastiveSet

Result = TypeVar("Result")


_BLOCK = 8  # batches that are tokenised together, and sorted by their beginning and their length


@dataclass(frozen=True)
class PairDifferences:
    """The difference of every single pair, for analyses of how they vary.

    Attributes:
        keys, values: float32 `[pairs, layers, kv_heads, head_dim]`.
        card: as the mean's, with `n_pairs` the number of pairs.
    """

    keys: Float[Tensor, "pairs layers kv_heads head_dim"] = field(repr=False)
    values: Float[Tensor, "pairs layers kv_heads head_dim"] = field(repr=False)
    card: Card

    def __len__(self) -> int:
        return self.keys.shape[0]

    def mean(self) -> KVVectors:
        """The steering vectors, the same as `kv.extract` gives on these pairs."""
        return KVVectors(self.keys.double().mean(0).float(), self.values.double().mean(0).float(), self.card)

    def take(self, indices: Sequence[int]) -> PairDifferences:
        """Only these pairs."""
        from dataclasses import replace

        return PairDifferences(
            self.keys[list(indices)], self.values[list(indices)], replace(self.card, n_pairs=len(indices))
        )


def extract(
    model: Model,
    pairs: ContrastiveSet,
    *,
    batch_size: int = 16,
    keys: KeyMode = "post_rope",
    remote: Remote | None = None,
    progress: bool = True,
) -> KVVectors:
    """The mean difference of keys and values at the prompts' last token (Belitsky et al. 2025).

    Memory does not grow with the number of pairs: only running sums are kept.

    Args:
        model: the model to extract from.
        pairs: the contrastive set.
        batch_size: prompts traced together at most: of like length, and no more than fit into half of the free memory
            (or into `KVSTEER_MEMORY` gigabytes); halved where memory runs out. A long beginning that they share is
            computed once.
        keys: `"post_rope"` takes keys as they are cached (the paper's way); `"position_free"` un-rotates each before
            averaging, so that prompts of different length don't mix rotation into the difference. Such vectors are
            rotated to the slot where they are added.
        remote: where traces run, as in nnsight: `"local"` simulates a server in this process, `True` is NDIF; `None`:
            here. Only the last slots come back.
        progress: whether to show a bar.

    Raises:
        ValueError: an empty set, a prompt beyond the context, an unknown `keys`, or a rotation that can't be undone.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> tuple(kv.extract(model, pairs, progress=False).values.shape)
        (4, 2, 32)
    """
    sums = [torch.zeros(model.n_layers, model.n_kv_heads, model.head_dim, dtype=torch.float64) for _ in range(2)]
    for batch in _slots(model, pairs, batch_size, keys, progress, remote):
        for total, part in zip(sums, (batch.keys, batch.values), strict=True):
            total += torch.einsum("p,plhd->lhd", batch.signs.double(), part.double())
    mean_keys, mean_values = (total / len(pairs) for total in sums)
    return KVVectors(mean_keys.float(), mean_values.float(), make_card(model, pairs, keys))


def extract_pairs(
    model: Model,
    pairs: ContrastiveSet,
    *,
    batch_size: int = 16,
    keys: KeyMode = "post_rope",
    remote: Remote | None = None,
    progress: bool = True,
) -> PairDifferences:
    """Every pair's own difference, for analyses; arguments and errors as in `kv.extract`.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(model, pairs, progress=False)
        >>> len(differences), tuple(differences.keys.shape)
        (2, (2, 4, 2, 32))
    """
    shape = (len(pairs), model.n_layers, model.n_kv_heads, model.head_dim)
    differences = [torch.zeros(shape) for _ in range(2)]
    for batch in _slots(model, pairs, batch_size, keys, progress, remote):
        for total, part in zip(differences, (batch.keys, batch.values), strict=True):
            total.index_add_(0, batch.pair, batch.signs[:, None, None, None] * part)
    return PairDifferences(differences[0], differences[1], make_card(model, pairs, keys))


def make_card(model: Model, pairs: ContrastiveSet, keys: KeyMode | None) -> Card:
    """The card of vectors extracted from `pairs` now."""
    try:
        offset = offset_token(model.tokenizer, "\n")
    except ValueError:
        offset = None
    note = ""
    if keys is not None and not _rotates(model):
        note = "This model doesn't rotate its keys: post_rope and position_free are the same."
    if model.quantised is not None:
        note = f"{note} The model's weights were quantised before they were loaded ({model.quantised}).".strip()
    return Card(
        model=model.name,
        model_type=model.model_type,
        fingerprint=model.read_fingerprint(),
        dtype=str(model.dtype),
        keys=keys,
        offset_id=offset,
        template_hash=pairs.template_hash or template_hash(model.tokenizer),
        n_pairs=len(pairs),
        recipe=dict(pairs.recipe),
        note=note,
        version=__version__,
    )


def _rotates(model: Model) -> bool:
    try:
        return model.rotary.rotates
    except ValueError:  # rotated, in a way that can't be undone
        return True


class _Slots(NamedTuple):
    keys: Tensor  # [prompts, layers, kv_heads, head_dim], un-rotated if asked for
    values: Tensor
    signs: Tensor  # +1 for the positive side, -1 for the negative
    pair: Tensor  # which pair a prompt belongs to


def _slots(
    model: Model, pairs: ContrastiveSet, batch_size: int, keys: KeyMode, progress: bool, remote: Remote | None
) -> Iterator[_Slots]:
    if keys not in get_args(KeyMode):
        raise ValueError(f"keys={keys!r} is unknown; choose one of: {', '.join(get_args(KeyMode))}.")
    if remote is not None:
        check_remote(model, remote)
    rotary = model.rotary if keys == "position_free" else None

    def read(ids: Int[Tensor, "prompts time"], mask: Int[Tensor, "prompts time"]) -> tuple[Tensor, Tensor]:
        k, v = last_slots(model, ids, mask) if remote is None else read_last_slots(model, ids, mask, remote)
        return (k if rotary is None else rotary.unrotate(k, mask.sum(-1).cpu() - 1)), v

    for signs, pair, (k, v) in read_sides(model, pairs, batch_size, read, progress):
        yield _Slots(k, v, signs, pair)


def read_sides(
    model: Model, pairs: ContrastiveSet, batch_size: int, read: Callable[[Tensor, Tensor], Result], progress: bool
) -> Iterator[tuple[Float[Tensor, " prompts"], Int[Tensor, " prompts"], Result]]:
    """Batch by batch over both sides of all pairs, each prompt's sign (+1 positive, -1 negative), its pair, and what
    `read` makes of the batch.

    Args:
        model: the model.
        pairs: the contrastive set.
        batch_size: prompts taken together at most; halved where memory runs out.
        read: is given left-padded ids and their mask, with the lock held.
        progress: whether to show a bar.
    """

    pad = model.pad_id

    def run(batch: Sequence[tuple[int, float, list[int]]]) -> Result:
        ids, mask = pad_left([row for _, _, row in batch], pad, model.device)
        with LOCK:
            return read(ids, mask)

    def fitting(rows: Sequence[tuple[int, float, list[int]]]) -> int:
        lengths = [len(row) for _, _, row in rows]
        return min(rows_of_like_length(model, lengths), rows_that_fit(model, lengths, budget=budget))

    budget, size = memory_budget(model.device), max(1, batch_size) * _BLOCK

    with bar(2 * len(pairs), "extract", "prompt", progress) as shown:
        for start in range(0, 2 * len(pairs), size):
            block = [_row(model, pairs, i) for i in range(start, min(start + size, 2 * len(pairs)))]
            for group in beginning_alike([row for _, _, row in block]):
                for batch, result in in_batches([block[i] for i in group], batch_size, run, fitting):
                    shown.update(len(batch))
                    signs, pair = [sign for _, sign, _ in batch], [number for number, _, _ in batch]
                    yield torch.tensor(signs), torch.tensor(pair), result


def _row(model: Model, pairs: ContrastiveSet, index: int) -> tuple[int, float, list[int]]:
    pair, negative = divmod(index, 2)
    text = (pairs.negative if negative else pairs.positive)[pair]
    ids = encode(model.tokenizer, text)
    if model.context is not None and len(ids) > model.context:
        side = "negative" if negative else "positive"
        raise ValueError(
            f"The {side} prompt of pair {pair} has {len(ids)} tokens, but the context of {model.name} is"
            f" {model.context}; use fewer shots."
        )
    return pair, -1.0 if negative else 1.0, ids
