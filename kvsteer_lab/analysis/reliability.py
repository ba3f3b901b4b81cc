"""How many pairs are enough: how fast the mean difference settles."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from ..extraction import PairDifferences


def convergence(differences: PairDifferences, sizes: Sequence[int], *, repeats: int = 20, seed: int = 0) -> pd.DataFrame:
    """Cosine between the mean of n random pairs and the mean of the pairs that were held out for comparison.

    Half of the pairs are held out once, so that no pair is compared with itself.

    Args:
        differences: from `kv.extract_pairs`.
        sizes: the n to try, at most half of the pairs.
        repeats: random subsets for each n.
        seed: fixes the halves and the subsets.

    Returns:
        One row a size, repeat and part: `n`, `repeat`, `part` (`"keys"` or `"values"`, all layers together), `cosine`.

    Raises:
        ValueError: fewer than two pairs, a size beyond half of them, or differences that are zero.
    """
    total = len(differences)
    if total < 2:
        raise ValueError(f"Convergence needs at least two pairs, not {total}.")
    if not sizes or min(sizes) < 1 or max(sizes) > total // 2:
        raise ValueError(f"Sizes must lie between 1 and {total // 2}, half of the {total} pairs.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=generator)
    kept, held_out = order[: total // 2], order[total // 2 :]
    rows = []
    for part in ("keys", "values"):
        all_pairs = getattr(differences, part).flatten(1)
        reference = all_pairs[held_out].mean(0)
        if not reference.any():
            raise ValueError(f"The mean difference of the {part} is zero; the two sides of the pairs don't differ there.")
        for n in sizes:
            for repeat in range(repeats):
                chosen = kept[torch.randperm(len(kept), generator=generator)[:n]]
                cosine = torch.cosine_similarity(all_pairs[chosen].mean(0), reference, dim=0)
                rows.append((n, repeat, part, float(cosine)))
    return pd.DataFrame(rows, columns=["n", "repeat", "part", "cosine"])
