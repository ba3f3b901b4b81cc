"""The paper's table: every method beside the baseline, with intervals, paired tests, side effects and random
vectors.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..evaluation.bands import band
from ..evaluation.outcomes.built_in import connectives, enumerates
from ..evaluation.outcomes.outcome import Reply
from ..stats.intervals import paired_bootstrap
from ..stats.shares import paired_difference, wilson
from ..stats.significance import holm, mcnemar
from ..stats.texts import is_loop
from ..tasks.base import Question
from ..tasks.styles import REASONING_STYLES, detect_style
from .styles import GROUP

_ANY = Question("", "", "")  # these outcomes look at the reply alone

OUTCOMES = ("tokens", "accuracy", "reasoned", "connectives")
"""What is held against the random vectors."""


def read_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with what is read from their texts now, whatever detectors were in use when they were generated: `style`,
    `reasoned`, `connectives`, `enumerates`, `loop`, `cut`; and `accuracy`, 1 where the answer is right.

    Args:
        rows: of a replication; compact ones, which have no texts, keep what was read.
    """
    rows = rows.assign(accuracy=rows.correct.astype(float))
    if "text" not in rows or "connectives" in rows:
        return rows
    whole = rows.forced + rows.text
    styles = whole.map(detect_style)
    return rows.assign(
        style=styles,
        reasoned=styles.isin(REASONING_STYLES),
        connectives=[connectives(_ANY, Reply(text)) for text in whole],
        enumerates=[enumerates(_ANY, Reply(text)) for text in whole],
        loop=whole.map(is_loop),
        cut=rows.finish_reason == "length",
    )


def comparison_table(rows: pd.DataFrame, latency: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a task and method, and two for the random vectors of each task.

    Every comparison is made on the questions that both sides answered. Holm's correction covers all tests of the table.

    Args:
        rows: of a replication, texts or compact.
        latency: `task`, `intervention`, `ratio`.

    Returns:
        `task`, `intervention`, `n`; `accuracy` with Wilson's interval `low`, `high`; `gain` over the baseline with
        Newcombe's interval `gain_low`, `gain_high`, the questions `gained` and `lost`, `p` (exact McNemar), `p_holm`;
        `tokens`, and `longer` with its bootstrap interval `longer_low`, `longer_high`: the paired difference in tokens;
        the shares `cut` at the limit, `loops`, `direct` (answered without any reasoning), `reasoned` and `enumerates`;
        `connectives`, inferential words a reply; `repetition`, the mean share of repeated 4-grams; `kl_32`, nats over
        the first 32 tokens of the baseline's replies, on `kl_n` questions; `time`, a token's time over the baseline's.
        Rows of random vectors average over vectors, and their `low`, `high`, `tokens_low` and `tokens_high` hold the
        middle 95% of the vectors; the steering that they control has the middle 95% of their means
        (`random_accuracy_low` and so on) and the share of them that reach it, `p_random_accuracy` and so on; those at
        equal divergence have the same with `equal_kl`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = dict(task="t", question=["a", "b"] * 2, intervention=["baseline"] * 2 + ["CoT prompt"] * 2, text="4")
        >>> rows |= dict(forced="", control_of=None, control_kind=None, finish_reason="eos", tokens=[4, 6, 9, 9])
        >>> rows |= dict(correct=[True, False, True, True], style="direct", reasoned=False, repetition=0.0, kl_32=0.5)
        >>> table = kv.replication.comparison_table(pd.DataFrame(rows))
        >>> table[["intervention", "accuracy", "gained", "longer"]].values.tolist()[1]
        ['CoT prompt', 1.0, 1.0, 4.0]
    """
    rows = read_texts(rows)
    rows = rows[rows.group != GROUP] if "group" in rows else rows
    table: list[dict[str, Any]] = []
    for task, here in rows.groupby("task", sort=False):
        own, controls = here[here.control_of.isna()], here[here.control_of.notna()]
        base = own[own.intervention == "baseline"].set_index("question")
        for label, part in own.groupby("intervention", sort=False):
            row = dict(task=task, intervention=label) | _measure(part)
            if label != "baseline" and set(part.question) & set(base.index):
                row |= _against(part.set_index("question"), base)
            for kind, drawn in controls[controls.control_of == label].groupby("control_kind", sort=False):
                row |= _beside(part, drawn, "random" if kind == "random" else "equal_kl")
            table.append(row)
        for (steered, kind), drawn in controls.groupby(["control_of", "control_kind"], sort=False):
            called = f"{drawn.intervention.nunique()} {kind.replace('random', 'random vectors')} for {steered}"
            table.append(dict(task=task, intervention=called) | _measure(drawn))
    found = pd.DataFrame(table)
    tested = found.p.notna() if "p" in found else pd.Series(dtype=bool)
    if tested.any():
        found.loc[tested, "p_holm"] = holm(found.p[tested].tolist())
    if latency is not None and len(latency):
        times = latency.rename(columns={"ratio": "time"})[["task", "intervention", "time"]]
        found = found.merge(times, on=["task", "intervention"], how="left")
    return found


def _measure(part: pd.DataFrame) -> dict[str, Any]:
    n = part.question.nunique()
    vectors = part.intervention.nunique()
    low, high = wilson(int(part.correct.sum()), len(part)) if vectors == 1 else _range(part)
    known = part.kl_32.notna()
    lengths = part.groupby("intervention").tokens.mean()
    spread = (float(lengths.quantile(0.025)), float(lengths.quantile(0.975))) if vectors > 1 else (math.nan, math.nan)
    return dict(
        n=n,
        accuracy=part.correct.mean(),
        low=low,
        high=high,
        tokens=part.tokens.mean(),
        tokens_low=spread[0],
        tokens_high=spread[1],
        cut=part.cut.mean(),
        loops=part.loop.mean(),
        repetition=part.repetition.mean(),
        direct=(part["style"] == "direct").mean(),
        reasoned=part.reasoned.mean(),
        connectives=part.connectives.mean(),
        enumerates=part.enumerates.mean(),
        kl_32=part.kl_32.mean() if known.any() else math.nan,
        kl_n=int(part.question[known].nunique()),
    )


def _range(part: pd.DataFrame) -> tuple[float, float]:
    """The middle 95% of the vectors' own accuracies."""
    each = part.groupby("intervention").correct.mean()
    return float(each.quantile(0.025)), float(each.quantile(0.975))


def _against(part: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    """The paired comparison with the baseline on the questions that both answered."""
    both = part.index.intersection(base.index)
    ours, theirs = part.loc[both], base.loc[both]
    gain = paired_difference(ours.correct.tolist(), theirs.correct.tolist())
    longer = paired_bootstrap(ours.tokens.tolist(), theirs.tokens.tolist(), n=2000) if len(both) > 1 else None
    gained = int((ours.correct & ~theirs.correct).sum())
    lost = int((~ours.correct & theirs.correct).sum())
    row = dict(gain=gain.value, gain_low=gain.low, gain_high=gain.high, gained=gained, lost=lost)
    row |= dict(p=mcnemar(ours.correct.tolist(), theirs.correct.tolist()))
    return row | ({} if longer is None else dict(longer=longer.value, longer_low=longer.low, longer_high=longer.high))


def _beside(part: pd.DataFrame, drawn: pd.DataFrame, name: str) -> dict[str, Any]:
    """Where a steering stands among random vectors, on the questions that they answered."""
    shared = part[part.question.isin(set(drawn.question))]
    drawn = drawn[drawn.question.isin(set(shared.question))]
    row: dict[str, Any] = {f"{name}_n": int(shared.question.nunique())}
    if shared.empty:
        return {}
    for outcome in OUTCOMES:
        each = drawn.groupby("intervention")[outcome].mean().tolist()
        found = band(float(shared[outcome].mean()), each)
        row |= {
            f"{name}_{outcome}_low": found["random_low"],
            f"{name}_{outcome}_high": found["random_high"],
            f"p_{name}_{outcome}": found["p_random"],
        }
    return row
