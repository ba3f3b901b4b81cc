"""How far labels that a rule gives agree with labels that were given by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from .shares import wilson

_IMAGINED = 0.5
"""Imaginary replies in each of the four cells of agreement, for the interval of kappa: it keeps a width at 0 and 1."""
_DRAWS = 4000


def agreement(labels: Sequence[str], found: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Precision, recall and Cohen's kappa of a rule that labels texts, label by label.

    Each label is taken against all others. Intervals of precision and recall are Wilson's; those of kappa are quantiles
    of its distribution under Jeffreys' prior for the four cells (both, neither, one only), so that they keep a width
    where all agree.

    Args:
        labels: given by hand.
        found: given by the rule, in the same order.
        confidence: of the intervals.

    Returns:
        One row a label that occurs: `label`, how often it was `given` and `found`, and `precision`, `recall` and
        `kappa` with `_low` and `_high`; NaN where a label was never found (precision) or given (recall). The last
        row, `"all"`, has the share that agrees as both precision and recall, and the kappa of all labels together.

    Raises:
        ValueError: no labels, or not as many of one as of the other.

    Examples:
        >>> import kvsteer_lab as kv
        >>> table = kv.stats.agreement(["a", "a", "b", "b"], ["a", "b", "b", "b"])
        >>> table.set_index("label").loc["b", ["precision", "recall", "kappa"]].round(2).to_dict()
        {'precision': 0.67, 'recall': 1.0, 'kappa': 0.5}
    """
    if not labels or len(labels) != len(found):
        raise ValueError(
            f"There are {len(labels)} labels and {len(found)} found; pass as many of both, and one at least."
        )
    given, seen = np.array(labels, dtype=object), np.array(found, dtype=object)
    names = sorted({*labels, *found})
    rows = [_row(name, given == name, seen == name, confidence) for name in names]
    agreed = int((given == seen).sum())
    low, high = wilson(agreed, len(given), confidence)
    cells = np.array([[((given == a) & (seen == b)).sum() for b in names] for a in names], dtype=float)
    every = dict(label="all", given=len(given), found=len(given))
    every |= {f"{name}{end}": v for name in ("precision", "recall") for end, v in _ends(agreed / len(given), low, high)}
    return pd.DataFrame([*rows, every | _kappa(cells, confidence)])


def _row(name: str, given: np.ndarray, seen: np.ndarray, confidence: float) -> dict[str, object]:
    both = int((given & seen).sum())
    row: dict[str, object] = dict(label=name, given=int(given.sum()), found=int(seen.sum()))
    for measure, of in (("precision", int(seen.sum())), ("recall", int(given.sum()))):
        share, low, high = (both / of, *wilson(both, of, confidence)) if of else (float("nan"),) * 3
        row |= {f"{measure}{end}": value for end, value in _ends(share, low, high)}
    cells = np.array([[both, (given & ~seen).sum()], [(~given & seen).sum(), (~given & ~seen).sum()]], dtype=float)
    return row | _kappa(cells, confidence)


def _ends(value: float, low: float, high: float) -> list[tuple[str, float]]:
    return [("", value), ("_low", low), ("_high", high)]


def _kappa(cells: Float[np.ndarray, "given found"], confidence: float) -> dict[str, float]:
    weights = np.full(cells.size, 4 * _IMAGINED / cells.size) + cells.ravel()
    drawn = np.random.default_rng(0).dirichlet(weights, _DRAWS).reshape(_DRAWS, *cells.shape)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile([_cohen(one) for one in drawn], [tail, 1 - tail])
    value = _cohen(cells / cells.sum())
    return {f"kappa{end}": float(v) for end, v in _ends(value, np.fmin(low, value), np.fmax(high, value))}


def _cohen(shares: Float[np.ndarray, "given found"]) -> float:
    by_chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")
