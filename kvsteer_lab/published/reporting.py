"""The audit as text: one page with a summary first, or every table, for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from .auditing import Audit
from .formatting import (
    cut,
    label,
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
from .overview import overview
from .sources import shown

_SHOWN = 20
_OVER = {"baseline": "the baseline", "CoT": "CoT prompting", "activation": "the best activation steering"}


def report(audit: Audit, full: bool = False) -> str:
    """An audit as text; its last line says how many files match their own metrics.

    Args:
        audit: from `audit`.
        full: every run in every table; `False`: a page with a summary and one row a cell, the rest being in the CSV
            files.

    Returns:
        Lines of at most 80 characters.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("plain.json", settings, metrics, (answer,))
        >>> found = kv.published.audit(kv.published.Release("mine", (run,), ()))
        >>> kv.published.report(found).splitlines()[-1]
        '1 of 1 files match their own metrics'
    """
    page = (_files, overview, _effects, _head_to_head, _families, _styles, _latency, _end)
    every = (
        _files,
        overview,
        _accuracy,
        _effects,
        _head_to_head,
        _gains,
        _families,
        _extractors,
        _texts,
        _styles,
        _latency,
        _end,
    )
    return "\n".join(line for part in (every if full else page) for line in part(audit))


def _files(audit: Audit) -> Iterator[str]:
    yield title(f"Files of {shown(audit.root)}, scored again by the paper's rules")
    checks = audit.checks
    if len(checks):
        by_rule, stored = int((checks.by == "rule").sum()), int((checks.by == "stored").sum())
        metrics = int(checks.matches.sum())
        yield from wrap(
            f"{len(audit.runs)} runs with {audit.runs.n.sum():,} replies; {metrics} of {len(checks)} metrics are"
            " reproduced to 1e-9."
        )
        yield from wrap(
            f"{by_rule} metrics were recomputed from the texts; {stored} from the verdicts stored in the file, because"
            f" their reader is a language model or unknown. Read again, {int(checks.changed.sum())} single verdicts"
            " differ from the stored ones."
        )
    for row in checks[~checks.matches & (checks.by != "nothing")].itertuples():
        yield from wrap(
            f"! {row.file}: {row.metric} is {row.claimed:.10g} there, {row.rescored:.10g} when scored again", "  "
        )
    for matters, heading in ((True, "Skipped or unchecked:"), (False, "Not part of the release:")):
        found = audit.problems[audit.problems.matters == matters]
        if len(found):
            yield heading
            for row in found.head(_SHOWN).itertuples():
                yield from wrap(f"- {row.file} {row.reason}", "  ")
            if len(found) > _SHOWN:
                yield f"  and {len(found) - _SHOWN} more (problems.csv)"


def _accuracy(audit: Audit) -> Iterator[str]:
    runs = audit.runs
    if len(runs):
        runs = ordered(runs[~runs.group.isin(("ablation", "search"))])
    if len(runs):
        yield title("Accuracy by the paper's main rule, with 95% Wilson intervals (%)")
        rows = []
        for r in runs.itertuples():
            measured = {"n": size(r.questions), "acc": points(r.accuracy), "95%": span(r.low, r.high)}
            rows.append({**label(r), "setting": setting_of(r, 16), **measured})
        yield from table(rows)
        yield from wrap("n: questions. †: fewer than 100 questions, too few to tell an accuracy. ~: sampled replies.")


def _effects(audit: Audit) -> Iterator[str]:
    effects = audit.effects
    if effects.empty:
        return
    yield title("Gain of cache steering in points, by model and task")
    over_cot = audit.comparisons[audit.comparisons.against == "CoT"].drop_duplicates("file").set_index("file")
    rows = []
    for r in effects.itertuples():
        cot = over_cot.loc[r.file] if r.file in over_cot.index else None
        gain = {"from": points(r.reference), "to": points(r.accuracy), "gain": signed(r.gain) + _mark(r)}
        gain |= {"95%": span(r.low, r.high, with_sign=True), "Holm": p_value(r.p_holm)}
        beside = {} if cot is None else {"CoT": signed(cot.gain), "Holm ": p_value(cot.p_holm)}
        named = {"model": model_of(r.model), "task": wave(r) + task_of(r.task), "best of": f"{r.best_of:.0f}"}
        rows.append({**named, "n": size(r.n), **gain, **beside})
    yield from table(rows)
    positive, holds = effects[effects.gain > 0], effects[(effects.p_holm < 0.05) & (effects.gain > 0)]
    yield from wrap(
        f"gain: over the baseline; CoT: over CoT prompting. {len(positive)} of {len(rows)} gains over the baseline are"
        f" positive, {(positive.p < 0.05).sum()} of these have p < 0.05, and {len(holds)} after Holm over all"
        " steered runs."
        " Of several runs the best one is shown, chosen after the fact: its gain and interval flatter it."
    )
    yield from wrap(
        "~: sampled replies, several a question. °: limits of new tokens differ. †: fewer than 100 questions."
    )


def _head_to_head(audit: Audit) -> Iterator[str]:
    tested = audit.comparisons[(audit.comparisons.against == "activation") & audit.comparisons.gain.notna()]
    if tested.empty:
        return
    yield title("Cache steering over activation steering in points, same questions")
    best = tested.loc[tested.groupby(["model", "task", "decoding", "kind"]).accuracy.idxmax()]
    rows = []
    for r in ordered(best).itertuples():
        ends = {"from": points(r.reference), "to": points(r.accuracy), "gain": signed(r.gain) + _mark(r)}
        rest = {"95%": span(r.low, r.high, with_sign=True), "p": p_value(r.p), "Holm": p_value(r.p_holm)}
        rows.append({**label(r), "n": size(r.n), **ends, **rest})
    yield from table(rows)
    yield from wrap(
        "Of both methods the most accurate run of a cell is shown, chosen after the fact; Holm counts all steered runs."
        " °: limits of new tokens differ (comparisons.csv tells both)."
    )


def _gains(audit: Audit) -> Iterator[str]:
    compared = audit.comparisons
    for against, name in _OVER.items():
        part = compared[(compared.against == against) & compared.group.isin(("steering", "prompting", "activation"))]
        tested = ordered(part[part.gain.notna()].replace({"group": {"prompting": "steering"}}))
        if len(tested):
            yield title(f"Gain over {name} in points, same questions")
            rows = []
            for r in tested.itertuples():
                holds = "*" if r.p_holm < 0.05 else " "
                gain = {"n": size(r.n), "gain": f"{signed(r.gain)}{holds}{_best(r)}{_mark(r)}"}
                rest = {"95%": span(r.low, r.high, with_sign=True), "p": p_value(r.p), "Holm": p_value(r.p_holm)}
                rows.append({**label(r), "setting": setting_of(r, 16), **gain, **rest})
            yield from table(rows)
            yield from wrap(
                "* p < 0.05 after Holm.  ^ the best of several runs of its cell: chosen after the fact, on these"
                " questions; Holm counts all of them.  ° limits of new tokens differ.  † fewer than 100 questions."
            )


def _families(audit: Audit) -> Iterator[str]:
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


def _extractors(audit: Audit) -> Iterator[str]:
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


def _texts(audit: Audit) -> Iterator[str]:
    texts = audit.texts
    texts = ordered(texts[~texts.group.isin(("ablation", "search"))])
    if len(texts):
        yield title("The replies as texts (closing words left out)")
        rows = []
        for r in texts.itertuples():
            ratio = "" if math.isnan(r.ratio) else f"{r.ratio:.1f}" + _mark(r)
            shares = {"loop%": r.loop, "half%": r.half_repeated, "cut%": r.cut, "ref%": r.refused, "sty%": r.reasoned}
            named = {**label(r), "setting": cut(r.setting, 12), "words": f"{r.words:.0f}", "ratio": ratio}
            rows.append(named | {name: points(share) for name, share in shares.items()})
        yield from table(rows)
        yield from wrap(
            "ratio: length over the baseline's (°: with another limit of new tokens). loop: ends in a block said three"
            " times; half: half of its 4-grams are repeats; cut: very long and ends in mid-sentence (an estimate: no"
            " tokenizer is used); ref: refuses; sty: opens in one of the five reasoning styles."
        )


def _styles(audit: Audit) -> Iterator[str]:
    if len(audit.styles):
        yield title("Style transfer: replies in the style that was asked for (%)")
        rows = []
        for r in audit.styles.itertuples():
            without = "" if math.isnan(r.without) else points(r.without)
            measured = {"adopted": points(r.adopted), "95%": span(r.low, r.high), "baseline": without}
            named = {"model": model_of(r.model), "task": task_of(r.task), "style": cut(r.style, 20), "n": size(r.n)}
            rows.append({**named, **measured, "half%": points(r.half_repeated)})
        yield from table(rows)


def _latency(audit: Audit) -> Iterator[str]:
    if len(audit.latency):
        yield title("Measured times (mean over runs)")
        rows = []
        for r in audit.latency.itertuples():
            ratio, answer = (("" if math.isnan(x) else f"{x:.3g}") for x in (r.ratio, r.ratio_per_answer))
            named = {"method": cut(r.method, 32), "batch": r.batch_size, "ms/token": f"{r.ms_per_token:.2f}"}
            rows.append({**named, "runs": f"{r.fastest:.2f}..{r.slowest:.2f}", "ratio": ratio, "answer": answer})
        yield from table(rows)
        yield from wrap(
            "ratio: time a token over the baseline's at the same batch size. answer: the same of the time until an"
            " answer is finished."
        )


def _end(audit: Audit) -> Iterator[str]:
    yield ""
    yield str(audit)


def _mark(row: Any) -> str:
    """° where the limits of new tokens of both sides differ."""
    note = getattr(row, "note", None)
    if isinstance(note, str):
        return "°" if "new tokens" in note else ""
    limits = getattr(row, "max_new_tokens", None), getattr(row, "reference_max_new_tokens", None)
    return "" if any(limit is None or pd.isna(limit) for limit in limits) or limits[0] == limits[1] else "°"


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
