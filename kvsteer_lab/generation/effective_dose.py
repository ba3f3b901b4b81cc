"""What an edit of the cache comes to once it is rounded to the cache's dtype.

The relative strength of a layer is the norm of what is added to a slot, relative to the norm of the slot's own keys or
values. In bfloat16 a number has 8 significant bits: a relative strength of a hundredth or less is rounded away against
the slot's own value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from .._util.batching import in_batches
from ..edits.addition import Add
from ..edits.rounding import added_to
from ..edits.slots import slot_from_end
from ..interventions.base import Intervention
from ..interventions.checks import check_intervention
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from .filling import fill_rows
from .rows import Row
from .scoring import rows_under

_COLUMNS = ["prompt", "slot", "layer", "part", "own_norm", "asked", "added", "error"]


def effective_dose(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    intervention: Intervention,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 16,
) -> pd.DataFrame:
    """The relative strength that arrives in the cache beside the one that was asked for, layer by layer.

    A relative strength of keys that were extracted as they are cached (`keys="post_rope"`, the default) is largely one
    of rotation, for the prompts of a pair differ in length; `kvsteer_lab.vectors.key_norms` gives their norms as cached
    and position-free.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        intervention: one that adds to the cache.
        chat, offset: as in `kv.generate`.
        batch_size: prompts read together; halved where memory runs out.

    Returns:
        One row a prompt, edited slot, layer and part (`"keys"`, `"values"`) that gets anything: `own_norm`, the norm of
        what the slot holds; `asked`, the norm of what is added, relative to it; `added`, the same after rounding to
        the cache's dtype; `error`, the norm of the rounding error relative to what was asked for.

    Raises:
        ValueError: what `kv.generate` refuses.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny", dtype="bfloat16")
    >>> vectors = kv.extract(kv.load("tiny"), kv.ContrastiveSet.from_texts(["Step 1."], ["So: 5."]), progress=False)
    >>> table = kv.effective_dose(model, "2 + 2?", kv.CacheSteering(vectors, 0, 0.01))
    >>> bool((table.error > 0.05).any()), bool((table.asked < 0.05).all())
    (True, True)
    """
    rows = rows_under(model, check_intervention(model, intervention), as_list(prompts), chat=chat, offset=offset)
    found = []
    for batch, part in in_batches(range(len(rows)), batch_size, lambda b: _doses(model, [rows[i] for i in b])):
        for i, doses in zip(batch, part, strict=True):
            found += [(i, *dose) for dose in doses]
    return pd.DataFrame(found, columns=_COLUMNS)


@torch.no_grad()
def _doses(model: Model, rows: Sequence[Row]) -> list[list[tuple[object, ...]]]:
    cache, _, _ = fill_rows(model, [replace(row, deltas=()) for row in rows])
    found = []
    for i, row in enumerate(rows):
        sums: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for delta in row.deltas:
            if not isinstance(delta, Add):  # other operators don't add a given amount
                continue
            back = slot_from_end(delta.slot, len(row.cached), i)
            for name, new in (("keys", delta.keys), ("values", delta.values)):
                sums[back][name] = sums[back].get(name, torch.zeros_like(new)) + new
        doses: list[tuple[object, ...]] = []
        for back, parts in sums.items():
            for index, layer in enumerate(cache.layers):
                for name, new in parts.items():
                    if not new[index].any() or back > layer.keys.shape[2]:
                        continue
                    old = getattr(layer, name)[i, :, -back]
                    wanted = new[index].to(old.device)
                    added = added_to(old, wanted)
                    own, asked = float(old.float().norm()), float(wanted.norm())
                    error = float((added - wanted).norm()) / asked
                    doses.append((-back, index, name, own, asked / own, float(added.norm()) / own, error))
        found.append(doses)
    return found
