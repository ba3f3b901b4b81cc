"""A forecast before anything is generated: how well the single pairs agree on a direction, by three measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...stats.significance import control_p
from ...vectors.extraction import PairDifferences
from ..pairs.grams import CACHE_PARTS, agreement, half_cosines, halves, pair_grams, signal_to_noise

MEASURES = ("agreement", "stability", "signal to noise")


def forecast(
    differences: PairDifferences,
    layers: Sequence[int] | None = None,
    parts: Sequence[str] = CACHE_PARTS,
    *,
    splits: int = 50,
    flips: int = 199,
    seed: int = 0,
) -> pd.DataFrame:
    """How well N pairs agree on a direction, three ways, for each layer's keys and values and for the layers together.

    * `"agreement"`: the mean cosine between two pairs' differences.
    * `"stability"`: the mean cosine between the means of two random, disjoint halves.
    * `"signal to noise"`: |mu|^2 / (tr(cov) / N), the squared length of the mean over its squared standard error. The
      mean of N pairs is longer than mu by just that error, |m|^2 = |mu|^2 + tr(cov) / N on average, so the error is
      taken off: pure noise gives about 0, and either sign.

    They are one quantity seen at 1, N/2 and N pairs, as long as pairs are alike but for independent noise in many
    directions: with r = |mu|^2 / tr(cov) they are r / (1 + r), n r / (1 + n r) for n = N/2, and N r. Where they
    disagree, the pairs are not like that.

    Beside each stands what the same pairs give with random signs, that is without a common direction. Without it a
    number can't be read: two of three pairs always agree a little. What is not measured: whether the model does
    anything with the direction.

    Args:
        differences: from `kv.extract_pairs`.
        layers: which layers; `None`: all. A layer's part in which nothing differs is left out: the values of layer 0
            see the last token alone.
        parts: of `"keys"`, `"values"`.
        splits: random halves; of an odd number, one pair is left over each time.
        flips: random choices of signs.
        seed: fixes halves and signs, which are the same for every layer and part.

    Returns:
        One row per layer, part and measure; `layer` is missing where all chosen layers are taken together, each divided
        by the size of its pairs.
        Columns: `layer`, `part`, `measure`, `n` (pairs), `value`; `flipped`, the mean under random signs, and `low`,
        `high`, the middle 95% of
        it; `p`, the share of them (plus one) that do at least as well; `p_family`, the share whose best layer and part
        does.

    Raises:
        ValueError: fewer than two pairs, or pairs that are all the same, no layers, a layer that isn't there or holds
            no differences, NaN, an unknown part, no splits or flips.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors.cards import Card
        >>> from kvsteer_lab.vectors.extraction import PairDifferences
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 8)
        >>> noise = torch.Generator().manual_seed(0)
        >>> def around(mean):  # eight pairs, two layers, one KV head of width 4
        ...     keys, values = (mean + torch.randn(8, 2, 1, 4, generator=noise) for _ in range(2))
        ...     return PairDifferences(keys, values, card)
        >>> table = kv.analysis.forecast(around(3.0), splits=5, flips=19)
        >>> agreement = table[(table.measure == "agreement") & table.layer.isna()]
        >>> bool((agreement.value > agreement.high).all())  # more than pairs with random signs
        True
    """
    if splits < 1 or flips < 1:
        raise ValueError(
            f"A forecast needs at least one split and one choice of signs, not {splits} and {flips}; take 50 and 199."
        )
    grams = pair_grams(differences, layers, parts)
    n, rng = len(differences), np.random.default_rng(seed)
    signs = np.vstack([np.ones(n), rng.choice((-1.0, 1.0), (flips, n))])
    split = halves(n, n // 2, splits, rng)
    of = {
        "agreement": [agreement(own.gram, signs) for own in grams],
        "stability": [half_cosines(own.gram, signs, split).mean(1) for own in grams],
        "signal to noise": [signal_to_noise(own.gram, signs) for own in grams],
    }
    if any(np.isinf(scores[0]) for scores in of["signal to noise"]):
        raise ValueError(
            "All pairs have the same difference in some layer, so there is no noise to compare the signal with; extract"
            " from other questions."
        )
    rows = []
    for measure in MEASURES:
        best = np.max([scores[1:] for scores in of[measure]], axis=0)
        for own, (value, *flipped) in zip(grams, of[measure], strict=True):
            low, high = np.quantile(flipped, [0.025, 0.975], method="nearest")  # never between two infinities
            tests = control_p(value, flipped), control_p(value, best.tolist())
            rows.append((own.layer, own.part, measure, n, value, np.mean(flipped), low, high, *tests))
    table = pd.DataFrame(
        rows, columns=["layer", "part", "measure", "n", "value", "flipped", "low", "high", "p", "p_family"]
    )
    return table.astype({"layer": "Int64"})


def forecast_values(
    differences: PairDifferences, layers: Sequence[int] | None, part: str, *, splits: int = 50, seed: int = 0
) -> dict[str, float]:
    """The three numbers of `forecast` for the layers together, without the random signs: `agreement`, `stability`,
    `signal_to_noise`.

    Raises:
        ValueError: as `forecast`.
    """
    gram, n = pair_grams(differences, layers, (part,))[-1].gram, len(differences)
    plain = np.ones((1, n))
    split = halves(n, n // 2, splits, np.random.default_rng(seed))
    return dict(
        agreement=float(agreement(gram, plain)[0]),
        stability=float(half_cosines(gram, plain, split).mean()),
        signal_to_noise=float(signal_to_noise(gram, plain)[0]),
    )
