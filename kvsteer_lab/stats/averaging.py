"""Averages over prompts: means of a table's values with intervals, beside the means of the controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .intervals import paired_bootstrap
from .significance import control_p

KEYS = ("intervention", "way", "slot", "step", "layer", "head", "kv_head")


def over_prompts(table: pd.DataFrame, column: str, seed: int = 0) -> pd.DataFrame:
    """The mean of one column over prompts, with its interval and the controls' means beside it.

    Args:
        table: of `attention_to_slot`, `attribute_heads` or `nats_of_reading`, or some of its rows.
        column: which of its values.
        seed: of the bootstrap.

    Returns:
        A row for each intervention that is not a control, or knock-out, and each step, layer and head: these, `n`
        (prompts that have a value), the mean under the name of the column, and `low`, `high`, a 95% bootstrap interval
        over prompts. Where the table holds controls, `random_low` and `random_high`, the middle 95% of their means,
        and `p_random`, the share of them (plus one) whose mean is at least as large in size; that is one look at one
        row. `p_family` is for looking at all rows and naming the largest: the share of controls (plus one) with a mean
        as large *anywhere* in the table.

    Raises:
        ValueError: no such column, no rows, or a mean over a single prompt.

    Examples:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"intervention": "steered", "prompt": [0, 1, 2], "layer": 1, "nats": [0.2, 0.4, 0.6]})
        >>> kv.stats.over_prompts(table, "nats")[["layer", "n", "nats"]].to_numpy().round(2).tolist()
        [[1.0, 3.0, 0.4]]
    """
    if column not in table.columns or column in KEYS or "prompt" not in table.columns:
        raise ValueError(
            f"The table has no values {column!r} of single prompts; pass one of attention_to_slot, attribute_heads or"
            " nats_of_reading."
        )
    if table.empty:
        raise ValueError("The table has no rows, so there is nothing to average; keep some of them.")
    control = table.control_of if "control_of" in table.columns else pd.Series(None, index=table.index, dtype=object)
    own, others = table[control.isna()], table[control.notna()]
    keys = [key for key in KEYS if key in table.columns]
    rest = [key for key in keys if key != "intervention"]
    bands: dict[tuple, np.ndarray] = {}
    largest: dict[str, list[float]] = {}
    if len(others):
        means = others.groupby(["control_of", "intervention", *rest], sort=False, dropna=False)[column].mean()
        each = means.abs().groupby(["control_of", "intervention"], sort=False).max()
        largest = {str(label): part.tolist() for label, part in each.groupby("control_of", sort=False)}
        bands = {key: part.to_numpy() for key, part in means.groupby(["control_of", *rest], sort=False, dropna=False)}
    rows = []
    for key, part in own.groupby(keys, sort=False, dropna=False):
        values = part[column].dropna().to_numpy(float)
        if len(values) == 1:
            raise ValueError("An interval needs at least two prompts, not one; pass more of them.")
        found = (
            paired_bootstrap(values.tolist(), np.zeros_like(values).tolist(), n=1000, seed=seed)
            if len(values)
            else None
        )
        row = dict(zip(keys, key, strict=True)) | dict(n=len(values))
        row |= (
            {column: np.nan, "low": np.nan, "high": np.nan}
            if found is None
            else {column: found.value, "low": found.low, "high": found.high}
        )
        band = bands.get(key)
        if band is not None and found is not None:
            low, high = np.quantile(band, [0.025, 0.975])
            row |= dict(random_low=low, random_high=high, p_random=control_p(abs(found.value), np.abs(band).tolist()))
            row["p_family"] = control_p(abs(found.value), largest[row["intervention"]])
        rows.append(row)
    return pd.DataFrame(rows).astype({key: table.dtypes[key] for key in keys})
