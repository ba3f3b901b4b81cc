"""Cosines between controls and the vectors that they control: a control that points the same way is not a control."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from ...interventions.cache import CacheSteering


def control_cosines(steering: CacheSteering, controls: Sequence[CacheSteering]) -> pd.DataFrame:
    """Cosines of each control's vectors to the steering's, over the layers and heads that are steered.

    Label shuffles keep what single pairs differ in; where that lies along the mean itself, rescaling brings the true
    direction back, with either sign. Random directions have cosines of about 1 / sqrt(dimensions).

    Args:
        steering: what is controlled.
        controls: its controls.

    Returns:
        One row per control and steered layer: `control`, `layer`, `keys`, `values`.

    Raises:
        ValueError: no controls.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> card = kv.vectors.Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> steering = kv.CacheSteering(kv.KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card), ck=1, cv=1)
        >>> table = kv.analysis.control_cosines(steering, [kv.controls.sign_flip(steering)])
        >>> table[["layer", "values"]].values.tolist()
        [[1.0, -1.0]]
    """
    if not controls:
        raise ValueError(
            "There are no controls to compare; pass those of kv.random_controls or kv.controls.label_shuffle_controls."
        )
    own = steering.added
    rows = []
    for control in controls:
        other = control.added
        for layer in steering.edited_layers:
            pairs = {part: (getattr(own, part)[layer], getattr(other, part)[layer]) for part in ("keys", "values")}
            rows.append(
                dict(control=control.label, layer=layer, **{part: _cosine(a, b) for part, (a, b) in pairs.items()})
            )
    return pd.DataFrame(rows)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))
