"""The first page of an audit's report: what matches, what holds after correction, and what was not compared."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .auditing import Audit
from .formatting import SMALL, model_of, task_of, title, wave, wrap

_NAMES = {"baseline": "the baseline", "CoT": "CoT prompting", "activation": "activation steering"}
_CELL = ["model", "task", "decoding"]
_NAMED = 2
"""Files that are named; more are counted."""


def overview(audit: Audit) -> Iterator[str]:
    """The summary's lines."""
    compared = audit.comparisons
    if audit.runs.empty:
        return
    yield title("Summary")
    for against in _NAMES:
        part = compared[compared.group.eq("steering") & compared.against.eq(against) & compared.p.notna()]
        if len(part):
            yield from wrap(_verdict("Cache steering", part, against), "  ")
    for group, name in (("activation", "Activation steering"), ("prompting", "CoT prompting")):
        part = compared[compared.group.eq(group) & compared.against.eq("baseline") & compared.p.notna()]
        if len(part):
            yield from wrap(_verdict(name, part, "baseline"), "  ")
    for text in (*_texts(audit), *_rules(audit), *_cautions(audit)):
        yield from wrap(text, "  ")
    yield from wrap("These are counts of the files given here, which may be a part of what was released.")


def _verdict(name: str, part: pd.DataFrame, against: str) -> str:
    """How many runs and cells differ from a reference after Holm's correction, and which."""
    own = part[part.same_as.isna()]
    cells = own.groupby(_CELL).ngroups
    better, worse = own[(own.p_holm < 0.05) & (own.gain > 0)], own[(own.p_holm < 0.05) & (own.gain < 0)]
    text = (
        f"{name} against {_NAMES[against]}: {_count(len(own), 'run')} in {_count(cells, 'cell')} (a model, task and"
        f" decoding). After Holm {_count(better.groupby(_CELL).ngroups, 'cell')} gain{_listed(better)} and"
        f" {worse.groupby(_CELL).ngroups} lose{_listed(worse)}."
    )
    return text.replace("1 cell gain", "1 cell gains").replace("and 1 lose", "and 1 loses")


def _listed(part: pd.DataFrame) -> str:
    """The cells of a part in brackets."""
    cells = part.drop_duplicates(_CELL)
    named = [f"{model_of(row.model)} {task_of(row.task)}{wave(row) and ', sampled'}" for row in cells.itertuples()]
    return f" ({'; '.join(named)})" if named else ""


def _texts(audit: Audit) -> Iterator[str]:
    texts = audit.texts[audit.texts.group.eq("steering") & audit.texts.kind.str.startswith("steered")]
    ratios = texts.ratio.dropna()
    if len(ratios):
        yield (
            f"Steered replies have {ratios.min():.1f} to {ratios.max():.1f} times as many words as the baseline's"
            " (median"
            f" {ratios.median():.1f}); in {int((texts.loop >= 0.05).sum())} of {_count(len(texts), 'run')} at least"
            " 5% end in"
            " a loop."
        )


def _rules(audit: Audit) -> Iterator[str]:
    """Whether the sign of a gain depends on the rule that reads the answers."""
    table = audit.extractors[audit.extractors.against == "baseline"]
    turned = [part for _, part in table.groupby("file") if (part.gain > 0).any() and (part.gain < 0).any()]
    if len(table):
        runs = _count(table.file.nunique(), "steered run")
        yield f"In {len(turned)} of {runs} the gain over the baseline changes sign with the rule that reads answers."


def _cautions(audit: Audit) -> Iterator[str]:
    compared = audit.comparisons
    limits = compared[compared.gain.notna() & compared.note.astype(str).str.contains("new tokens")]
    if len(limits):
        yield (
            f"{_count(len(limits), 'comparison')} (marked °) {'is' if len(limits) == 1 else 'are'} between"
            " different limits"
            " of new tokens: a shorter limit cuts more replies before they answer."
        )
    missing = compared[compared.gain.isna()]
    for (against, note), part in missing.groupby(["against", "note"], sort=False):
        which = ", ".join(part.file) if len(part) <= _NAMED else _count(len(part), "run")
        yield f"Not compared with {_NAMES[against]}: {which} ({note}; see comparisons.csv)."
    small = audit.runs[audit.runs.questions < SMALL] if len(audit.runs) else audit.runs
    if len(small):
        sizes = " to ".join(str(n) for n in sorted({small.questions.min(), small.questions.max()}))
        styles = int((small.group == "style").sum())
        what = f", {styles} of them for style transfer" if styles else ""
        yield f"{_count(len(small), 'run')} (marked †) {'has' if len(small) == 1 else 'have'} {sizes} questions{what}."
    if len(audit.runs):
        for task, share in audit.runs[audit.runs.unreachable > 0].groupby("task").unreachable.max().items():
            yield (
                f"{100 * share:.1f}% of the questions of {task_of(str(task))} can never count as right by the"
                " paper's main"
                " rule: their labels are none of the letters A to E that it knows."
            )
    sampled = compared[compared.seeds.notna() & compared.gain.notna()].drop_duplicates("file")
    if len(sampled):
        seeds = " to ".join(f"{n:.0f}" for n in sorted({sampled.seeds.min(), sampled.seeds.max()}))
        rows = f"{_count(len(sampled), 'row')} (marked ~) {'is' if len(sampled) == 1 else 'are'}"
        yield f"{rows} of sampled replies, over {seeds} seeds each."


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
