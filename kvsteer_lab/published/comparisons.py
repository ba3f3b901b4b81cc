"""Paired comparisons of arms in declared families, and the same gains under other rules that read answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..stats.shares import paired_difference
from ..stats.significance import holm, paired_permutation
from .arms import Arm, reference, rivals
from .scored import share

REFERENCES = ("baseline", "CoT")
"""What every arm is compared with. Cache steering is compared with activation steering, too."""

SEED = 0
"""Of every interval that is resampled: those of ratios of lengths."""

_COLUMNS = (
    *("family", "against", "group", "model", "task", "decoding", "max_new_tokens", "seeds", "kind", "setting", "file"),
    *("reference_file", "reference_max_new_tokens", "n", "reference", "accuracy", "gain", "low", "high"),
    *("gained", "lost", "test", "p", "p_holm", "best_of", "is_best", "same_as", "note"),
)


def compare(among: Sequence[Arm]) -> pd.DataFrame:
    """Every arm against the baseline and against CoT prompting of its cell, on the questions that both answered; cache
    steering also against the most accurate activation steering with the same prompt, where one was released.

    A family is all runs of a group (cache steering with and without CoT; ablations; activation steering) against one
    reference, over all models and tasks; CoT prompting against the baseline is a family of its own. Generations that
    two files share count once in a family.

    Args:
        among: the arms, from `arms.arms`.

    Returns:
        A row an arm and reference. `gain` in accuracy by the paper's main rule with its 95% interval `low`, `high`
        (Newcombe's for paired shares, clustered by question where there are several samples); `gained` and `lost`
        questions; `test`, which exact test `p` is of (McNemar, or the permutation test of whole questions where there
        are several samples), and `p_holm`; `best_of`, the runs that share model, task, decoding and kind, and
        `is_best`, which of them scores highest (a choice made after the fact, on these very questions); `same_as`, an
        earlier file with the same generations; `max_new_tokens` and `reference_max_new_tokens`, the limits of both
        sides; `seeds`, how many sampled runs are pooled; `note`, why something was not compared, or what a comparison
        has to be read with: limits that differ, a reference that is the best of several.
    """
    rows = []
    for arm in among:
        if arm.group == "style" or arm.kind == "baseline":
            continue
        for kind in REFERENCES:
            if arm.kind != kind:
                rows.append(_row(arm, kind, reference(arm, kind, among)))
        if arm.group == "steering" and arm.kind.startswith("steered") and rivals(arm, among):
            rows.append(_row(arm, "activation", reference(arm, "activation", among), rivals(arm, among)))
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

    Returns:
        A row a model, task and decoding.
    """
    found = compared[compared.is_best & (compared.kind == "steered") & (compared.against == "baseline")]
    columns = ["model", "task", "decoding", "best_of", "setting", "seeds", "n", "reference", "accuracy"]
    columns += ["gain", "low", "high", "test", "p", "p_holm", "file", "note"]
    return found[columns].sort_values(["model", "task", "decoding"], kind="stable", ignore_index=True)


def sensitivity(among: Sequence[Arm]) -> pd.DataFrame:
    """The gain of each arm under each rule that both it and its reference were read by.

    Args:
        among: the arms, from `arms.arms`.

    Returns:
        A row an arm, reference and rule: columns `rule`, `reference`, `accuracy`, `gain` with its 95% interval `low`,
        `high` (as in `compare`), and `p`.
    """
    rows = []
    for arm in among:
        for kind in REFERENCES:
            other = reference(arm, kind, among)
            if arm.group != "steering" or arm.kind in REFERENCES or other is None or _why_not(arm, other):
                continue
            rules = [rule for rule in arm.runs[0].rules if all(rule in one.rules for one in (*arm.runs, *other.runs))]
            for rule in rules:
                tested = _tested(arm, other, f"by_{rule}")
                shown = {name: tested[name] for name in ("n", "reference", "accuracy", "gain", "low", "high", "p")}
                rows.append({**_names(arm), "against": kind, "rule": rule, **shown})
    names = ["group", "model", "task", "decoding", "kind", "setting", "file", "against", "rule", "n"]
    return pd.DataFrame(rows, columns=[*names, "reference", "accuracy", "gain", "low", "high", "p"])


def text_effects(among: Sequence[Arm]) -> pd.DataFrame:
    """How each arm's replies differ as texts from the baseline's to the same questions: length ratio with its 95%
    interval, loops, cuts, style.

    Args:
        among: the arms, from `arms.arms`.

    Returns:
        A row an arm: `ratio`, the mean length over the baseline's, with the percentile bootstrap's 95% interval over
        questions, `ratio_low`, `ratio_high`; the limits of new tokens of both sides, for a shorter limit cuts more
        replies; shares of replies, those of loops and of half-repeated replies with 95% intervals (`loop_low`,
        `loop_high` and so on).
    """
    rows = []
    for arm in among:
        if arm.group == "style":
            continue
        other = reference(arm, "baseline", among)
        row: dict[str, Any] = {**_names(arm), "n": len(arm.answers), "words": arm.answers.words.mean()}
        if other is not None and other is not arm and not _why_not(arm, other):
            row |= dict(zip(("ratio", "ratio_low", "ratio_high"), _ratio(*_paired(arm, other, "words")), strict=True))
            row |= dict(max_new_tokens=arm.max_new_tokens, reference_max_new_tokens=other.max_new_tokens)
        answers = arm.answers.assign(half_repeated=arm.answers.repeated >= 0.5)
        for name in ("loop", "half_repeated"):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), share(answers, name), strict=True))
        rows.append(row | {name: answers[name].mean() for name in ("refused", "blank", "cut", "reasoned")})
    names = ["group", "model", "task", "decoding", "kind", "setting", "file"]
    shares = [f"{name}{end}" for name in ("loop", "half_repeated") for end in ("", "_low", "_high")]
    shares += ["refused", "blank", "cut", "reasoned"]
    limits = ["max_new_tokens", "reference_max_new_tokens"]
    return pd.DataFrame(rows, columns=[*names, "n", "words", "ratio", "ratio_low", "ratio_high", *limits, *shares])


def _row(arm: Arm, kind: str, other: Arm | None, of: int = 1) -> dict[str, Any]:
    group = "prompting" if arm.kind == "CoT" else arm.group
    row: dict[str, Any] = {"family": f"{group} against {kind}", "against": kind, **_names(arm), "group": group}
    row |= dict(max_new_tokens=arm.max_new_tokens, seeds=len(arm.seeds) or None, same_as=arm.same_as)
    why = (
        f"there is no {kind} with the same model, task, prompt and decoding" if other is None else _why_not(arm, other)
    )
    if why or other is None:
        return {**row, "note": why}
    limits = dict(reference_file=other.runs[0].run.file, reference_max_new_tokens=other.max_new_tokens)
    return {**row, **_tested(arm, other, f"by_{arm.rule}"), **limits, "note": _caution(arm, other, of)}


def _caution(arm: Arm, other: Arm, of: int) -> str | None:
    """What a comparison has to be read with."""
    notes = []
    if arm.max_new_tokens != other.max_new_tokens:
        limits = ["an unknown number of" if one.max_new_tokens is None else one.max_new_tokens for one in (arm, other)]
        notes.append(f"replies could have {limits[0]} new tokens here and {limits[1]} in the reference")
    if of > 1:
        notes.append(f"the reference is the most accurate of {of} activation steerings, chosen on these questions")
    return "; ".join(notes) or None


def _tested(arm: Arm, other: Arm, column: str) -> dict[str, Any]:
    """Accuracies, gain, interval and exact test on the questions that both arms answered."""
    asked = [set(side.answers.question) for side in (arm, other)]
    common = asked[0] & asked[1]
    ours, theirs = (
        side.answers if questions == common else side.answers[side.answers.question.isin(common)]
        for side, questions in zip((arm, other), asked, strict=True)
    )
    verdicts = ours[column].tolist(), theirs[column].tolist()
    clusters = dict(clusters=ours.question.tolist(), their_clusters=theirs.question.tolist())
    gain = paired_difference(*verdicts, **clusters)
    each, their_each = _paired(arm, other, column)
    several = max(len(ours), len(theirs)) > len(common)
    return dict(
        n=len(common),
        reference=their_each.mean(),
        accuracy=each.mean(),
        gain=gain.value,
        low=gain.low,
        high=gain.high,
        gained=int((each > their_each).sum()),
        lost=int((each < their_each).sum()),
        test="permutation" if several else "McNemar",
        p=paired_permutation(*verdicts, **clusters),
    )


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
