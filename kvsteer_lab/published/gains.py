"""The gains of an audit's report: what steering does to accuracy, over what, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .auditing import Audit
from .formatting import (
    cut,
    label,
    limit_mark,
    model_of,
    ordered,
    p_value,
    points,
    setting_of,
    signed,
    size,
    span,
    table,
    task_of,
    title,
    wave,
    wrap,
)

_OVER = {"baseline": "the baseline", "CoT": "CoT prompting", "activation": "the best activation steering"}


def effects(audit: Audit) -> Iterator[str]:
    """Gains of cache steering over the baseline, beside those of CoT prompting, one row a cell."""
    found = audit.effects
    if found.empty:
        return
    yield title("Gain of cache steering in points, by model and task")
    over_cot = audit.comparisons[audit.comparisons.against == "CoT"].drop_duplicates("file").set_index("file")
    rows = []
    for r in found.itertuples():
        cot = over_cot.loc[r.file] if r.file in over_cot.index else None
        gain = {"from": points(r.reference), "to": points(r.accuracy), "gain": signed(r.gain) + limit_mark(r)}
        gain |= {"95%": span(r.low, r.high, with_sign=True), "Holm": p_value(r.p_holm)}
        beside = {} if cot is None else {"CoT": signed(cot.gain), "Holm ": p_value(cot.p_holm)}
        named = {"model": model_of(r.model), "task": wave(r) + task_of(r.task), "best of": f"{r.best_of:.0f}"}
        rows.append({**named, "n": size(r.n), **gain, **beside})
    yield from table(rows)
    positive, holds = found[found.gain > 0], found[(found.p_holm < 0.05) & (found.gain > 0)]
    yield from wrap(
        f"gain: over the baseline; CoT: over CoT prompting. {len(positive)} of {len(rows)} gains over the baseline are"
        f" positive, {(positive.p < 0.05).sum()} of these have p < 0.05, and {len(holds)} after Holm over all"
        " steered runs."
        " Of several runs the best one is shown, chosen after the fact: its gain and interval flatter it."
    )
    yield from wrap(
        "~: sampled replies, several a question. °: limits of new tokens differ. †: fewer than 100 questions."
    )


def head_to_head(audit: Audit) -> Iterator[str]:
    """Cache steering against activation steering, the best run of each in every cell."""
    tested = audit.comparisons[(audit.comparisons.against == "activation") & audit.comparisons.gain.notna()]
    if tested.empty:
        return
    yield title("Cache steering over activation steering in points, same questions")
    best = tested.loc[tested.groupby(["model", "task", "decoding", "kind"]).accuracy.idxmax()]
    rows = []
    for r in ordered(best).itertuples():
        ends = {"from": points(r.reference), "to": points(r.accuracy), "gain": signed(r.gain) + limit_mark(r)}
        rest = {"95%": span(r.low, r.high, with_sign=True), "p": p_value(r.p), "Holm": p_value(r.p_holm)}
        rows.append({**label(r), "n": size(r.n), **ends, **rest})
    yield from table(rows)
    yield from wrap(
        "Of both methods the most accurate run of a cell is shown, chosen after the fact; Holm counts all steered runs."
        " °: limits of new tokens differ (comparisons.csv tells both)."
    )


def gains(audit: Audit) -> Iterator[str]:
    """Gains of every steered run, over the baseline, CoT prompting and activation steering."""
    compared = audit.comparisons
    for against, name in _OVER.items():
        part = compared[(compared.against == against) & compared.group.isin(("steering", "prompting", "activation"))]
        tested = ordered(part[part.gain.notna()].replace({"group": {"prompting": "steering"}}))
        if len(tested):
            yield title(f"Gain over {name} in points, same questions")
            rows = []
            for r in tested.itertuples():
                holds = "*" if r.p_holm < 0.05 else " "
                gain = {"n": size(r.n), "gain": f"{signed(r.gain)}{holds}{_best(r)}{limit_mark(r)}"}
                rest = {"95%": span(r.low, r.high, with_sign=True), "p": p_value(r.p), "Holm": p_value(r.p_holm)}
                rows.append({**label(r), "setting": setting_of(r, 16), **gain, **rest})
            yield from table(rows)
            yield from wrap(
                "* p < 0.05 after Holm.  ^ the best of several runs of its cell: chosen after the fact, on these"
                " questions; Holm counts all of them.  ° limits of new tokens differ.  † fewer than 100 questions."
            )


def families(audit: Audit) -> Iterator[str]:
    """How many gains and losses hold in each family of comparisons."""
    tested = audit.comparisons[audit.comparisons.p.notna()]
    if len(tested):
        yield title("Families of comparisons (gains / losses)")
        rows = []
        for family, part in tested.groupby("family", sort=False):
            own = part[part.same_as.isna()]
            better, worse = own[own.gain > 0], own[own.gain < 0]
            counts = [f"{(side[name] < 0.05).sum()}" for name in ("p", "p_holm") for side in (better, worse)]
            cells = own.groupby(["model", "task", "decoding"]).ngroups
            held = better[better.p_holm < 0.05].groupby(["model", "task", "decoding"]).ngroups
            uncorrected, corrected = " / ".join(counts[:2]), " / ".join(counts[2:])
            names = own.test.value_counts(sort=False)
            short = {"McNemar": "McN.", "permutation": "perm."}
            test = names.index[0] if len(names) == 1 else ", ".join(f"{short[name]} {n}" for name, n in names.items())
            row = {"family": family, "test": test, "runs": len(own), "p<.05": uncorrected, "Holm": corrected}
            rows.append({**row, "cells with a gain": f"{held} of {cells}"})
        yield from table(rows)
        yield from wrap(
            "Tests are exact: McNemar's on one reply a question; where replies were sampled, the permutation test"
            " of whole"
            " questions."
        )
        twins = tested[tested.same_as.notna()].drop_duplicates("file")
        for row in twins.itertuples():
            yield from wrap(
                f"{row.file} holds the generations of {row.same_as} once more; a family counts them once.", "  "
            )


def extractors(audit: Audit) -> Iterator[str]:
    """The same gains when answers are read by other rules."""
    found = audit.extractors
    if len(found):
        yield title("Gain in points under other rules (+ or -: p < 0.05, uncorrected)")
        for against in ("baseline", "CoT"):
            part = ordered(found[found.against == against])
            # runs that are read by the same rules, as choices or numbers are
            tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for _, run in part.groupby("file", sort=False):
                first = next(run.itertuples())
                marks = {
                    _rule(r.rule): f"{signed(r.gain)}{('+' if r.gain > 0 else '-') if r.p < 0.05 else ' '}"
                    for r in run.itertuples()
                }
                tables.setdefault(tuple(marks), []).append({**label(first), "setting": cut(first.setting, 12), **marks})
            for rows in tables.values():
                yield f"over {_OVER[against]}"
                yield from table(rows)
        yield from wrap(
            "augment, letter (digit, stated): the paper's rules. 2stage (number): our reading of the same words, with"
            " the question's own choices. strict: what the reply itself states as its answer, closing words left out;"
            " short replies often state nothing."
        )


def _best(row: Any) -> str:
    return "^" if row.is_best and row.best_of > 1 else " "


def _rule(name: str) -> str:
    known = {
        "augmented_extract": "augment",
        "last_letter": "letter",
        "last_digit": "digit",
        "strict_match": "stated",
        "two_stage": "2stage",
        "last_number": "number",
    }
    return cut(known.get(name, name), 8)
