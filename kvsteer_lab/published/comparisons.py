"""Paired comparisons between arms, in declared families, and what they look like under other rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from ..stats.intervals import paired_bootstrap
from ..stats.significance import holm, mcnemar
from .arms import Arm, reference
from .scored import share

REFERENCES = ("baseline", "CoT")
SEED = 0
"""Of every interval that is resampled."""

_RESAMPLES = 2000
_COLUMNS = (
    *(
        "family",
        "against",
        "group",
        "model",
        "task",
        "decoding",
        "kind",
        "setting",
        "file",
        "reference_file",
        "n",
        "reference",
        "accuracy",
    ),
    *("gain", "low", "high", "gained", "lost", "p", "p_holm", "best_of", "is_best", "same_as", "note"),
)


def compare(among: Sequence[Arm]) -> pd.DataFrame:
    """Every arm against the baseline and against CoT prompting of its cell, on the questions that both answered.

    A family is all runs of a group (cache steering with and without CoT; ablations; activation steering) against one
    reference, over all models and tasks; CoT prompting against the baseline is a family of its own. Generations that
    two files share count once in a family.

    Columns: `gain` in accuracy by the paper's main rule with its 95% paired bootstrap interval `low`, `high`; `gained`
    and `lost` questions; `p`, exact McNemar (with several samples a question: a sign-flip test of the questions'
    means), and `p_holm`; `best_of`, the runs that share model, task and kind, and `is_best`, which of them scores
    highest (a choice made after the fact, on these very questions); `same_as`, an earlier file with the same
    generations; `note`, why something was not compared.
    """
    rows = []
    for arm in among:
        if arm.group == "style" or arm.kind == "baseline":
            continue
        for kind in REFERENCES:
            if arm.kind != kind:
                rows.append(_row(arm, kind, reference(arm, kind, among)))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["p_holm"] = table.p_holm.astype(float)
    for _, family in table[table.p.notna() & table.same_as.isna()].groupby("family"):
        table.loc[family.index, "p_holm"] = holm(family.p.tolist())
    for i in table.index[table.same_as.notna()]:
        twin = table[
            (table.file == table.same_as[i]) & (table.against == table.against[i]) & (table.family == table.family[i])
        ]
        table.loc[i, "p_holm"] = twin.p_holm.iloc[0] if len(twin) else np.nan
    return _mark_best(table)


def effect_table(compared: pd.DataFrame) -> pd.DataFrame:
    """The table that articles about the paper show: the gain of cache steering over the baseline by model and task, one
    row each.

    Where several runs of a model and task were released it is the best one's: `best_of` says of how many. That choice
    was made after the fact, on the questions that are tested here; `p_holm` corrects for all of them, the interval for
    none.

    Args:
        compared: what `compare` gives.
    """
    found = compared[compared.is_best & (compared.kind == "steered") & (compared.against == "baseline")]
    columns = [
        "model",
        "task",
        "decoding",
        "best_of",
        "setting",
        "n",
        "reference",
        "accuracy",
        "gain",
        "low",
        "high",
        "p",
        "p_holm",
        "file",
    ]
    return found[columns].sort_values(["model", "task", "decoding"], kind="stable", ignore_index=True)


def sensitivity(among: Sequence[Arm]) -> pd.DataFrame:
    """The gain of each arm under each rule that both it and its reference were read by: columns `rule`, `reference`,
    `accuracy`, `gain` with
    its 95% paired bootstrap interval `low`, `high`, and `p`.
    """
    rows = []
    for arm in among:
        for kind in REFERENCES:
            other = reference(arm, kind, among)
            if arm.group != "steering" or arm.kind in REFERENCES or other is None or _why_not(arm, other):
                continue
            rules = [rule for rule in arm.runs[0].rules if all(rule in one.rules for one in (*arm.runs, *other.runs))]
            for rule in rules:
                ours, theirs = _paired(arm, other, f"by_{rule}")
                low, high = _interval(ours, theirs)
                tested = dict(
                    reference=theirs.mean(),
                    accuracy=ours.mean(),
                    gain=(ours - theirs).mean(),
                    low=low,
                    high=high,
                    p=paired_p(ours, theirs),
                )
                rows.append({**_names(arm), "against": kind, "rule": rule, "n": len(ours), **tested})
    names = ["group", "model", "task", "decoding", "kind", "setting", "file", "against", "rule", "n"]
    return pd.DataFrame(rows, columns=[*names, "reference", "accuracy", "gain", "low", "high", "p"])


def text_effects(among: Sequence[Arm]) -> pd.DataFrame:
    """How each arm's replies differ as texts from the baseline's to the same questions: length ratio with its 95%
    interval, loops, cuts, style.

    Shares of loops and of half-repeated replies have 95% intervals, too: `loop_low`, `loop_high` and so on.
    """
    rows = []
    for arm in among:
        if arm.group == "style":
            continue
        other = reference(arm, "baseline", among)
        row: dict[str, Any] = {**_names(arm), "n": len(arm.answers), "words": arm.answers.words.mean()}
        if other is not None and other is not arm and not _why_not(arm, other):
            row |= dict(zip(("ratio", "ratio_low", "ratio_high"), _ratio(*_paired(arm, other, "words")), strict=True))
        answers = arm.answers.assign(half_repeated=arm.answers.repeated >= 0.5)
        for name in ("loop", "half_repeated"):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), share(answers, name), strict=True))
        rows.append(row | {name: answers[name].mean() for name in ("refused", "blank", "cut", "reasoned")})
    names = ["group", "model", "task", "decoding", "kind", "setting", "file"]
    shares = [f"{name}{end}" for name in ("loop", "half_repeated") for end in ("", "_low", "_high")] + [
        "refused",
        "blank",
        "cut",
        "reasoned",
    ]
    return pd.DataFrame(rows, columns=[*names, "n", "words", "ratio", "ratio_low", "ratio_high", *shares])


def paired_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Exact McNemar for one verdict a question; for means of several samples, a sign-flip test with 9,999 draws."""
    if np.isin(np.concatenate([ours, theirs]), (0, 1)).all():
        return mcnemar(ours.tolist(), theirs.tolist())
    if not (ours != theirs).any():
        return 1.0
    drawn = permutation_test((ours - theirs,), np.mean, permutation_type="samples", n_resamples=9999, rng=0, batch=500)
    return float(drawn.pvalue)


def _row(arm: Arm, kind: str, other: Arm | None) -> dict[str, Any]:
    group = "prompting" if arm.kind == "CoT" else arm.group
    row: dict[str, Any] = {
        "family": f"{group} against {kind}",
        "against": kind,
        **_names(arm),
        "group": group,
        "same_as": arm.same_as,
    }
    why = (
        f"there is no {kind} with the same model, task, prompt and decoding" if other is None else _why_not(arm, other)
    )
    if why or other is None:
        return {**row, "note": why}
    ours, theirs = _paired(arm, other, f"by_{arm.rule}")
    row |= dict(zip(("low", "high"), _interval(ours, theirs), strict=True))
    counts = dict(n=len(ours), gained=int((ours > theirs).sum()), lost=int((ours < theirs).sum()))
    means = dict(reference=theirs.mean(), accuracy=ours.mean(), gain=(ours - theirs).mean(), p=paired_p(ours, theirs))
    return {**row, **counts, **means, "reference_file": other.runs[0].run.file}


def _interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Of the mean difference: 95%, paired bootstrap; missing with a single question."""
    if len(ours) < 2:
        return np.nan, np.nan
    found = paired_bootstrap(ours.tolist(), theirs.tolist(), n=_RESAMPLES, seed=SEED)
    return found.low, found.high


def _names(arm: Arm) -> dict[str, Any]:
    run = arm.runs[0].run
    return dict(
        group=arm.group,
        model=run.model,
        task=run.task,
        decoding=run.decoding,
        kind=arm.kind,
        setting=arm.label,
        file=run.file,
    )


def _why_not(arm: Arm, other: Arm) -> str | None:
    """Why two arms can't be paired."""
    if arm.rule not in other.runs[0].rules:
        return f"only one of the two files has the metric {arm.rule}"
    targets = [one.answers.groupby("question").target.first() for one in (arm, other)]
    ours, theirs = targets[0].align(targets[1], join="inner")
    if ours.empty:
        return "the two files have no question in common"
    return "the two files give one question different answers" if (ours != theirs).any() else None


def _paired(arm: Arm, other: Arm, column: str) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = arm.by_question(column).align(other.by_question(column), join="inner")
    return ours.to_numpy(float), theirs.to_numpy(float)


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The ratio of the means with its 95% percentile bootstrap interval over questions."""
    if theirs.sum() == 0:
        return (np.nan,) * 3
    drawn = np.random.default_rng(SEED).integers(len(ours), size=(1000, len(ours)))
    below = theirs[drawn].sum(1)
    ratios = ours[drawn].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours.sum() / theirs.sum()), float(low), float(high)


def _mark_best(table: pd.DataFrame) -> pd.DataFrame:
    shared = table[table.group.eq("steering") & table.gain.notna()].groupby(
        ["model", "task", "decoding", "kind", "against"]
    )
    table["best_of"] = shared.gain.transform("size").reindex(table.index)
    table["is_best"] = table.index.isin(shared.accuracy.idxmax()) if len(shared) else False
    return table
