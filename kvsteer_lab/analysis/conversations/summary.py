"""Persistence summary: what conversations show of an edit in each turn. Shares with intervals, paired tests against the
plain conversations, and random vectors.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...stats.intervals import paired_bootstrap, wilson
from ...stats.significance import LEAST_NATS, control_p, holm, mcnemar

_SHARES = {"correct": "accuracy", "reasoned": "reasoned", "adopted": "adopted"}


def summarise_turns(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One row per way and turn of what `follow_conversations` returned.

    Args:
        rows: all its rows; the plain conversations are what the others are compared with.
        seed: of the bootstrap.

    Returns:
        `way`, `turn`, `n`; `tokens`, the mean length; `accuracy`, `reasoned` and `adopted` (the vectors' style), each
        with its 95% Wilson interval `..._low`, `..._high` and, but for plain, `p_...`, the exact McNemar test against
        the plain conversations at the same turn, and `p_..._holm`, corrected for all rows of the table; `change`, by
        how many nats the watched token's log-odds are above those of the plain conversations, with its 95% bootstrap
        interval `change_low`, `change_high`. With controls, for each of these four, `random_...`, their mean,
        `random_..._low`, `random_..._high`, the middle 95% of them, and `p_random_...`, the share of them (plus one)
        that have at least as much (of the change, that go as far, up to a thousandth of a nat).

    Raises:
        ValueError: a table without plain conversations.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = pd.DataFrame([(way, c, t) for way in ("plain", "kept") for c in (0, 1) for t in (1, 2)],
        ...                     columns=["way", "conversation", "turn"])
        >>> rows = rows.assign(vector=rows.way, control_of=None, tokens=4, odds=0.0, correct=True, adopted=False)
        >>> table = kv.analysis.summarise_turns(rows.assign(reasoned=rows.way == "kept"))
        >>> table[["way", "turn", "reasoned"]].values.tolist()
        [['plain', 1, 0.0], ['plain', 2, 0.0], ['kept', 1, 1.0], ['kept', 2, 1.0]]
    """
    if "way" not in rows or "plain" not in set(rows.way):
        raise ValueError(
            "The table holds no plain conversations to compare with; pass all rows that follow_conversations returned."
        )
    plain = {turn: part.set_index("conversation") for turn, part in rows[rows.way == "plain"].groupby("turn")}
    table = [
        _row(str(way), int(turn), part, plain[turn], seed)
        for (way, turn), part in rows.groupby(["way", "turn"], sort=False)
    ]
    found = pd.DataFrame(table)
    tested = found.way != "plain"
    for name in _SHARES.values() if tested.any() else ():
        found.loc[tested, f"p_{name}_holm"] = holm(found.loc[tested, f"p_{name}"].tolist())
    return found


def _row(way: str, turn: int, part: pd.DataFrame, plain: pd.DataFrame, seed: int) -> dict[str, Any]:
    own, controls = part[part.control_of.isna()].set_index("conversation"), part[part.control_of.notna()]
    other = plain.loc[own.index]
    row: dict[str, Any] = dict(way=way, turn=turn, n=len(own), tokens=own.tokens.mean())
    for column, name in _SHARES.items():
        row[name] = own[column].mean()
        row[f"{name}_low"], row[f"{name}_high"] = wilson(int(own[column].sum()), len(own))
        if way != "plain":
            row[f"p_{name}"] = mcnemar(own[column].tolist(), other[column].tolist())
        if len(controls):
            each = controls.groupby("vector")[column].mean()
            row |= _band(name, each) | {f"p_random_{name}": control_p(row[name], each.tolist())}
    if way != "plain":
        change = paired_bootstrap(own.odds.tolist(), other.odds.tolist(), n=1000, seed=seed)
        row |= dict(change=change.value, change_low=change.low, change_high=change.high)
        if len(controls):
            each = (controls.odds - controls.conversation.map(plain.odds)).groupby(controls.vector).mean()
            p = control_p(abs(change.value), each.abs().tolist(), margin=LEAST_NATS)
            row |= _band("change", each) | dict(p_random_change=p)
    return row


def _band(name: str, each: pd.Series) -> dict[str, float]:
    return {
        f"random_{name}": each.mean(),
        f"random_{name}_low": each.quantile(0.025),
        f"random_{name}_high": each.quantile(0.975),
    }
