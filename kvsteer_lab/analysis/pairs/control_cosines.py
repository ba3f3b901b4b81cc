"""How far controls point along the vectors that they control: a control that does is none."""

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
    """
    if not controls:
        raise ValueError(
            "There are no controls to compare; pass those of kv.random_controls or kv.controls.label_shuffle_controls."
        )
    own = steering.vectors.only(steering.scope, steering.heads)
    rows = []
    for control in controls:
        other = control.vectors.only(control.scope, control.heads)
        for layer in steering.scope:
            pairs = {part: (getattr(own, part)[layer], getattr(other, part)[layer]) for part in ("keys", "values")}
            rows.append(
                dict(control=control.label, layer=layer, **{part: _cosine(a, b) for part, (a, b) in pairs.items()})
            )
    return pd.DataFrame(rows)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))
