"""The audit as text: tables that fit a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import pandas as pd

from .auditing import Audit
from .runs import KINDS, short_model, short_task
from .sources import shown

WIDTH = 80
_SHOWN = 20
_KINDS = {"steered": "steer", "steered + CoT": "steer+CoT", "activation": "act", "activation + CoT": "act+CoT"}


def report(audit: Audit) -> str:
    """All tables as one text; its last line says how many files match their own metrics."""
    return "\n".join(
        line
        for part in (_files, _accuracy, _effects, _gains, _families, _extractors, _texts, _styles, _latency, _end)
        for line in part(audit)
    )


def _files(audit: Audit) -> Iterator[str]:
    yield _title(f"Files of {shown(audit.root)}, scored again by the paper's rules")
    checks = audit.checks
    if len(checks):
        by_rule, stored = int((checks.by == "rule").sum()), int((checks.by == "stored").sum())
        metrics = int(checks.matches.sum())
        yield from _wrap(
            f"{len(audit.runs)} runs with {audit.runs.n.sum():,} replies; {metrics} of {len(checks)} metrics are"
            " reproduced to 1e-9."
        )
        yield from _wrap(
            f"{by_rule} metrics were recomputed from the texts; {stored} from the verdicts stored in the file, because"
            f" their reader is a language model or unknown. Read again, {int(checks.changed.sum())} single verdicts"
            " differ from the stored ones."
        )
    for row in checks[~checks.matches & (checks.by != "nothing")].itertuples():
        yield from _wrap(
            f"! {row.file}: {row.metric} is {row.claimed:.10g} there, {row.rescored:.10g} when scored again", "  "
        )
    for matters, title in ((True, "Skipped or unchecked:"), (False, "Not part of the release:")):
        found = audit.problems[audit.problems.matters == matters]
        if len(found):
            yield title
            for row in found.head(_SHOWN).itertuples():
                yield from _wrap(f"- {row.file} {row.reason}", "  ")
            if len(found) > _SHOWN:
                yield f"  and {len(found) - _SHOWN} more (problems.csv)"


def _accuracy(audit: Audit) -> Iterator[str]:
    runs = audit.runs
    if len(runs):
        runs = _ordered(runs[~runs.group.isin(("ablation", "search"))])
    if len(runs):
        yield _title("Accuracy by the paper's main rule, with 95% Wilson intervals (%)")
        rows = []
        for r in runs.itertuples():
            setting = _cut(r.style if isinstance(r.style, str) else r.setting, 16)
            rows.append(
                {**_label(r), "setting": setting, "n": r.n, "acc": _points(r.accuracy), "95%": _range(r.low, r.high)}
            )
        yield from _table(rows)
        for task, share in runs[runs.unreachable > 0].groupby("task").unreachable.max().items():
            lost = f"{100 * share:.1f}% of the questions of {_task(str(task))} can never count as right by it"
            yield from _wrap(f"{lost}: their labels are none of the letters A to E that the paper's rules know.")


def _gains(audit: Audit) -> Iterator[str]:
    table = audit.comparisons
    for against in ("baseline", "CoT"):
        part = table[(table.against == against) & table.group.isin(("steering", "prompting", "activation"))]
        tested = _ordered(part[part.gain.notna()].replace({"group": {"prompting": "steering"}}))
        if len(tested):
            yield _title(
                f"Gain over {'the baseline' if against == 'baseline' else 'CoT prompting'} in points, same questions"
            )
            rows = [
                {
                    **_label(r),
                    "setting": _cut(r.setting, 16),
                    "n": f"{r.n:.0f}",
                    "gain": f"{_signed(r.gain)}{'*' if r.p_holm < 0.05 else ' '}{_best(r)}",
                }
                | {"95%": _range(r.low, r.high, signed=True), "p": _p(r.p), "Holm": _p(r.p_holm)}
                for r in tested.itertuples()
            ]
            yield from _table(rows)
            yield from _wrap(
                "* p < 0.05 after Holm.  ^ the best of several runs of its cell: chosen after the fact, on these"
                " questions; Holm counts all of them."
            )
        for row in part[part.gain.isna()].itertuples():
            yield from _wrap(f"Not compared: {row.file}: {row.note}.", "  ")


def _effects(audit: Audit) -> Iterator[str]:
    if len(audit.effects):
        yield _title("Gain of cache steering over the baseline in points, by model and task")
        rows = []
        for r in audit.effects.itertuples():
            sampled = "~" if r.decoding.startswith("sampled") else ""
            gain = {
                "from": _points(r.reference),
                "to": _points(r.accuracy),
                "gain": _signed(r.gain),
                "95%": _range(r.low, r.high, signed=True),
            }
            rows.append(
                {
                    "model": _model(r.model),
                    "task": sampled + _task(r.task),
                    "best of": f"{r.best_of:.0f}",
                    **gain,
                    "p": _p(r.p),
                    "Holm": _p(r.p_holm),
                }
            )
        yield from _table(rows)
        yield from _wrap(
            f"{(audit.effects.gain > 0).sum()} of {len(rows)} gains are positive,"
            f" {((audit.effects.p < 0.05) & (audit.effects.gain > 0)).sum()} of these have p < 0.05, and"
            f" {((audit.effects.p_holm < 0.05) & (audit.effects.gain > 0)).sum()} after Holm over all steered runs. Of"
            " several runs the best one is shown, chosen after the fact: its gain and interval flatter it. ~: sampled"
            " replies, several a question."
        )


def _families(audit: Audit) -> Iterator[str]:
    tested = audit.comparisons[audit.comparisons.p.notna()]
    if len(tested):
        yield _title("Families of comparisons (exact McNemar; gains / losses)")
        rows = []
        for family, part in tested.groupby("family", sort=False):
            own = part[part.same_as.isna()]
            better, worse = own[own.gain > 0], own[own.gain < 0]
            counts = [f"{(side[name] < 0.05).sum()}" for name in ("p", "p_holm") for side in (better, worse)]
            cells = own.groupby(["model", "task", "decoding"]).ngroups
            held = better[better.p_holm < 0.05].groupby(["model", "task", "decoding"]).ngroups
            uncorrected, corrected = " / ".join(counts[:2]), " / ".join(counts[2:])
            rows.append(
                {
                    "family": family,
                    "runs": len(own),
                    "p<.05": uncorrected,
                    "Holm": corrected,
                    "cells with a gain": f"{held} of {cells}",
                }
            )
        yield from _table(rows)
        twins = tested[tested.same_as.notna()].drop_duplicates("file")
        for row in twins.itertuples():
            yield from _wrap(
                f"{row.file} holds the generations of {row.same_as} once more; a family counts them once.", "  "
            )


def _extractors(audit: Audit) -> Iterator[str]:
    table = audit.extractors
    if len(table):
        yield _title("Gain in points under other rules (+ or -: p < 0.05, uncorrected)")
        for against in ("baseline", "CoT"):
            part = _ordered(table[table.against == against])
            # runs that are read by the same rules, as choices or numbers are
            tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for _, run in part.groupby("file", sort=False):
                first = next(run.itertuples())
                marks = {
                    _rule(r.rule): f"{_signed(r.gain)}{('+' if r.gain > 0 else '-') if r.p < 0.05 else ' '}"
                    for r in run.itertuples()
                }
                tables.setdefault(tuple(marks), []).append(
                    {**_label(first), "setting": _cut(first.setting, 12), **marks}
                )
            for rows in tables.values():
                yield f"over {'the baseline' if against == 'baseline' else 'CoT prompting'}"
                yield from _table(rows)
        yield from _wrap(
            "augment, letter (digit, stated): the paper's rules. 2stage (number): our reading of the same words, with"
            " the question's own choices. strict: what the reply itself states as its answer, closing words left out;"
            " short replies often state nothing."
        )


def _texts(audit: Audit) -> Iterator[str]:
    table = audit.texts
    table = _ordered(table[~table.group.isin(("ablation", "search"))])
    if len(table):
        yield _title("The replies as texts (closing words left out)")
        rows = []
        for r in table.itertuples():
            ratio = "" if math.isnan(r.ratio) else f"{r.ratio:.1f}"
            shares = {
                "loop%": _points(r.loop),
                "half%": _points(r.half_repeated),
                "cut%": _points(r.cut),
                "ref%": _points(r.refused),
            }
            rows.append(
                {
                    **_label(r),
                    "setting": _cut(r.setting, 12),
                    "words": f"{r.words:.0f}",
                    "ratio": ratio,
                    **shares,
                    "sty%": _points(r.reasoned),
                }
            )
        yield from _table(rows)
        yield from _wrap(
            "ratio: length over the baseline's. loop: ends in a block said three times; half: half of its 4-grams are"
            " repeats; cut: very long and ends in mid-sentence (an estimate: no tokenizer is used); ref: refuses;"
            " style: opens in one of the five reasoning styles."
        )


def _styles(audit: Audit) -> Iterator[str]:
    if len(audit.styles):
        yield _title("Style transfer: replies in the style that was asked for (%)")
        rows = []
        for r in audit.styles.itertuples():
            without = "" if math.isnan(r.without) else _points(r.without)
            measured = {
                "adopted": _points(r.adopted),
                "95%": _range(r.low, r.high),
                "baseline": without,
                "half%": _points(r.half_repeated),
            }
            rows.append(
                {"model": _model(r.model), "task": _task(r.task), "style": _cut(r.style, 20), "n": r.n, **measured}
            )
        yield from _table(rows)


def _latency(audit: Audit) -> Iterator[str]:
    if len(audit.latency):
        yield _title("Measured times (mean over runs)")
        rows = []
        for r in audit.latency.itertuples():
            span = f"{r.fastest:.2f}..{r.slowest:.2f}"
            ratio, answer = (("" if math.isnan(x) else f"{x:.3g}") for x in (r.ratio, r.ratio_per_answer))
            rows.append(
                {
                    "method": _cut(r.method, 32),
                    "batch": r.batch_size,
                    "ms/token": f"{r.ms_per_token:.2f}",
                    "runs": span,
                    "ratio": ratio,
                    "answer": answer,
                }
            )
        yield from _table(rows)
        yield from _wrap(
            "ratio: time a token over the baseline's at the same batch size. answer: the same of the time until an"
            " answer is finished."
        )


def _end(audit: Audit) -> Iterator[str]:
    yield ""
    yield str(audit)


def _label(row: Any) -> dict[str, str]:
    sampled = "~" if str(row.decoding).startswith("sampled") else ""
    return {"model": _model(row.model), "task": _task(row.task), "kind": sampled + _KINDS.get(row.kind, row.kind)}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By model, task and decoding; within them the baseline first."""
    rank = {name: i for i, name in enumerate(KINDS)}
    by = ["model", "task", "decoding", "kind"]
    return table.sort_values(
        by, key=lambda column: column.map(rank) if column.name == "kind" else column, kind="stable"
    )


def _model(name: str) -> str:
    return _cut(short_model(name), 14)


def _task(name: str) -> str:
    return _cut(short_task(name), 8)


def _rule(name: str) -> str:
    known = {
        "augmented_extract": "augment",
        "last_letter": "letter",
        "last_digit": "digit",
        "strict_match": "stated",
        "two_stage": "2stage",
        "last_number": "number",
    }
    return _cut(known.get(name, name), 8)


def _cut(text: str, width: int) -> str:
    text = shown(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _points(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _range(low: float, high: float, signed: bool = False) -> str:
    if math.isnan(low):
        return ""
    return f"{_signed(low)}..{_signed(high)}" if signed else f"{_points(low)}..{_points(high)}"


def _p(p: float) -> str:
    return "" if math.isnan(p) else "<.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _best(row: Any) -> str:
    return "^" if row.is_best and row.best_of > 1 else " "


def _title(text: str) -> str:
    return f"\n{text}\n{'-' * min(len(text), WIDTH)}"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    frame = pd.DataFrame(rows).fillna("").astype(str)
    widths = {name: max(len(name), *frame[name].map(len)) for name in frame}
    words = ("model", "task", "kind", "setting", "style", "method", "family")
    for name in ("setting", "model", "style", "method"):  # the widest table gives way in its names, not in its numbers
        excess = sum(widths.values()) + len(widths) - 1 - WIDTH
        if name in widths and excess > 0:
            widths[name] = max(8, widths[name] - excess)
            frame[name] = [_cut(value, widths[name]) for value in frame[name]]
    lines = [frame.columns.tolist(), *frame.to_numpy().tolist()]
    return [
        " ".join(
            c.ljust(widths[n]) if n in words else c.rjust(widths[n]) for n, c in zip(frame, line, strict=True)
        ).rstrip()
        for line in lines
    ]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
