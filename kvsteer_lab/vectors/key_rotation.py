"""How much of key vectors is rotation: the same pairs' keys as they are cached, and with their rotation undone."""

from __future__ import annotations

import pandas as pd

from ..models.model import Model
from .cards import KeyMode
from .extraction import extract
from .pairs import ContrastiveSet


def key_norms(model: Model, pairs: ContrastiveSet, *, batch_size: int = 16, progress: bool = True) -> pd.DataFrame:
    """Norms of the mean difference in keys, as cached and position-free, layer by layer.

    The two prompts of a pair differ in length, and a key at another position is rotated by another angle. So where the
    norm as cached is much the larger one, most of such a vector is rotation, not content, and a relative strength of it
    is mostly one of rotation; `kv.extract(..., keys="position_free")` leaves it out.

    Args:
        model: the model to extract from.
        pairs: the contrastive set.
        batch_size, progress: as in `kv.extract`.

    Returns:
        One row a layer: `layer`, `as_cached` and `position_free`, Euclidean norms over all KV heads, and
        `content_share`, the second over the first.

    Raises:
        ValueError: as `kv.extract`, or a rotation that can't be undone.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Step 2, and so on. Sum?"], ["Sum?"])
        >>> table = key_norms(model, pairs, progress=False)
        >>> bool((table.as_cached > table.position_free).all())
        True
    """
    modes: dict[str, KeyMode] = {"as_cached": "post_rope", "position_free": "position_free"}
    norms = {
        name: extract(model, pairs, batch_size=batch_size, keys=mode, progress=progress).keys.flatten(1).norm(dim=-1)
        for name, mode in modes.items()
    }
    table = pd.DataFrame({"layer": range(model.n_layers), **{name: n.double().numpy() for name, n in norms.items()}})
    return table.assign(content_share=table.position_free / table.as_cached)
