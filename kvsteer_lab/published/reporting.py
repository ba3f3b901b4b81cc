"""The audit as text: one page with a summary first, or every table, for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .auditing import Audit
from .formatting import (
    cut,
    label,
    limit_mark,
    model_of,
    ordered,
    points,
    setting_of,
    size,
    span,
    table,
    task_of,
    title,
    wrap,
)
from .gains import effects, extractors, families, gains, head_to_head
from .overview import overview
from .sources import shown

_SHOWN = 20


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
    page = (_files, overview, effects, head_to_head, families, _styles, _latency, _end)
    every = (
        _files,
        overview,
        _accuracy,
        effects,
        head_to_head,
        gains,
        families,
        extractors,
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


def _texts(audit: Audit) -> Iterator[str]:
    texts = audit.texts
    texts = ordered(texts[~texts.group.isin(("ablation", "search"))])
    if len(texts):
        yield title("The replies as texts (closing words left out)")
        rows = []
        for r in texts.itertuples():
            ratio = "" if math.isnan(r.ratio) else f"{r.ratio:.1f}" + limit_mark(r)
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
