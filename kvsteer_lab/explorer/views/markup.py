"""HTML of the explorer's texts and tables; whatever a model or a reader wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..._util.text import for_attribute, for_html, visible
from ..results.attention import ArmAttention
from ..results.comparison import Compared, Comparison
from ..results.dose import Dose
from ..results.sweep import Cell, Sweep, Text

FULL = 4.0
"""The change of log-probability, in nats, at which a token's colour is full."""
_NOTHING = 0.1  # nats: less isn't coloured


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="kv-note">{for_html(text)}</p>'


def status(text: str, *, error: bool = False) -> str:
    """The line that says what goes on, or what went wrong."""
    return (
        f'<p class="kv-line {"kv-error" if error else "kv-says"}"'
        f' role="{"alert" if error else "status"}">{for_html(text)}</p>'
    )


def heading(text: str) -> str:
    """The heading of some fields."""
    return f'<p class="kv-heading">{for_html(text)}</p>'


def question_html(text: str) -> str:
    """The question that is asked."""
    return f'<p class="kv-note kv-asked">{for_html(text)}</p>'


LEGEND = (
    '<p class="kv-note kv-legend">Against the unsteered model, each token has become: <span class="kv-token kv-up"'
    ' style="--kv-strength:60%">likelier</span> (underlined) or <span class="kv-token kv-down"'
    f' style="--kv-strength:60%">less likely</span> (dotted), in full colour from {FULL:g} nats. Point at a token for'
    " its numbers. The baseline's own text is coloured by how the steered model would have judged it. <span"
    ' class="kv-forced">Forced words</span> are not read by the baseline.</p>'
)


def arm_html(title: str, text: str, *, body: str | None = None, facts: str = "") -> str:
    """One arm of the comparison: its name, its text so far (or `body`, its coloured tokens), and what is known of
    it.
    """
    shown = for_html(text) if body is None else body
    return (
        f'<div class="kv-arm" data-arm="{for_attribute(title)}"><h4>{for_html(title)}</h4><div'
        f' class="kv-text">{shown}</div>{facts}</div>'
    )


def tokens_html(own: Compared) -> str:
    """A text with each token coloured by the change of its log-probability."""
    assert own.measured is not None
    forced = (
        f'<span class="kv-forced" title="forced">{for_html(own.generation.forced)}</span>'
        if own.generation.forced
        else ""
    )
    spans: list[str] = []
    for piece, logprob, change in zip(own.measured.pieces, own.measured.logprobs, own.measured.change, strict=True):
        kind = "" if abs(change) < _NOTHING else " kv-up" if change > 0 else " kv-down"
        strength = round(70 * min(1.0, abs(change) / FULL))
        end = own.generation.finish_reason == "eos" and len(spans) == len(own.measured.pieces) - 1
        said = for_html(piece) if not end else '<span class="kv-end">[end]</span>'
        title = f"{change:+.2f} nats; log p = {logprob:.2f}, unsteered {logprob - change:.2f}"
        spans.append(f'<span class="kv-token{kind}" style="--kv-strength:{strength}%" title="{title}">{said}</span>')
    return forced + "".join(spans)


def facts_html(own: Compared) -> str:
    """Style, answer, length, loops and KL of one text."""
    verdict = own.verdict
    parts = [f"style <b>{for_html(str(verdict['style']).replace('_', ' '))}</b>"]
    if "correct" in verdict:
        mark = (
            '<span class="kv-right">✓ right</span>'
            if verdict["correct"]
            else f'<span class="kv-wrong">✗ wrong</span>, gold {for_html(verdict["gold"])}'
        )
        parts.append(f"answer <b>{for_html('none' if verdict['answer'] is None else verdict['answer'])}</b> {mark}")
    parts.append(f"<b>{verdict['tokens']}</b> tokens{' (cut)' if verdict['cut'] else ''}")
    parts.append("<b>loops</b>" if verdict["loop"] else "no loop")
    if own.measured is not None and own.reader is None and own.arm != "baseline":
        parts.append(
            f"KL <b>{own.measured.nats(1):.2f}</b> nats at the first token, <b>{own.measured.nats():.2f}</b> in all"
        )
    elif own.measured is not None and own.reader is not None:
        parts.append(f"KL of {for_html(own.reader)} on this text <b>{own.measured.nats():.2f}</b> nats in all")
    return '<div class="kv-facts">' + "".join(f"<span>{part}</span>" for part in parts) + "</div>"


def next_tokens_html(comparison: Comparison) -> str:
    """For each arm that isn't the baseline, the likeliest tokens of the first steps, under the arm and under the
    baseline.
    """
    tables = []
    for own in comparison.arms:
        if own.measured is None or own.arm == "baseline":
            continue
        for step, likely in enumerate(own.measured.likely, 1):
            rows = "".join(
                f'<tr><td><code>{for_html(visible(t.token, one_line=True))}</code></td><td class="kv-number kv-shaded"'
                f' style="--kv-strength:{60 * t.probability:.0f}%">{t.probability:.3f}</td><td class="kv-number'
                f' kv-shaded" style="--kv-strength:{60 * t.baseline:.0f}%">{t.baseline:.3f}</td></tr>'
                for t in likely[:6]
            )
            head = f"<tr><th>{for_html(own.arm)}, token {step}</th><th>p</th><th>baseline</th></tr>"
            tables.append(f'<table class="kv-table" data-arm="{for_attribute(own.arm)}">{head}{rows}</table>')
    return (
        f'<div class="kv-tables">{"".join(tables)}</div>'
        if tables
        else note("Compare something with the baseline to see which other tokens were likely.")
    )


def attention_html(found: Sequence[ArmAttention]) -> str:
    """Per arm and layer, the attention to the slot: from the offset token, on average over the steps, and of the head
    with most.
    """
    tables = []
    for own in found:
        rows = ""
        for layer in own.layers:
            rows += f'<tr><td class="kv-number">{layer.layer}</td>'
            rows += "".join(_shaded(weight) for weight in (layer.first, layer.slot, layer.other))
            rows += f'<td class="kv-number">{layer.head}: {layer.head_slot:.3f}</td></tr>'
        head = (
            f"<tr><th>{for_html(own.arm)}, layer</th><th>offset token</th><th>{own.steps} steps</th>"
            "<th>other slots</th><th>head with most</th></tr>"
        )
        tables.append(f'<table class="kv-table">{head}{rows}</table>')
    return note(
        "Mean attention weight of the query heads on the steered slot. Attention alone does not show what a head does"
        " with what it reads."
    ) + (f'<div class="kv-tables">{"".join(tables)}</div>')


def _shaded(weight: float) -> str:
    strength = 60 * min(1.0, weight)
    return f'<td class="kv-number kv-shaded" style="--kv-strength:{strength:.0f}%">{weight:.3f}</td>'


def dose_html(dose: Dose, slot: int) -> str:
    """The relative dose beside the coefficients."""
    layers = f"layer {dose.layers[0]}" if len(dose.layers) == 1 else f"mean of {len(dose.layers)} layers"
    each = "; ".join(
        f"layer {layer}: K ×{k:.2g}, V ×{v:.2g}"
        for layer, k, v in zip(dose.layers, dose.keys, dose.values, strict=True)
    )
    said = f"keys <b>×{dose.mean_keys:.2g}</b>, values <b>×{dose.mean_values:.2g}</b>"
    return (
        f'<p class="kv-note kv-dose-line" title="{for_attribute(each)}">Dose, relative to slot {slot}\'s own norm:'
        f" {said} ({layers})</p>"
    )


def cell_html(sweep: Sweep, cell: Cell, texts: Sequence[Text]) -> str:
    """The generations of one cell beside the baseline's."""
    own = cell.steering
    heads = "all KV heads" if own.heads is None else f"KV heads {_numbers(own.heads)}"
    setting = f"c_k = {own.ck:g}, c_v = {own.cv:g}, layers {_numbers(own.scope) or 'none'}, {heads}"
    rows = ""
    for i, text in enumerate(texts):
        marks = [
            "" if "correct" not in t.verdict else " ✓" if t.verdict["correct"] else " ✗"
            for t in (text, sweep.baseline[i])
        ]
        asked = text.asked.question.text if text.asked.question is not None else text.asked.prompt
        said = [for_html(t.generation.answer) + mark for t, mark in zip((text, sweep.baseline[i]), marks, strict=True)]
        rows += f"<tr><td>{for_html(asked)}</td><td>{said[0]}</td><td>{said[1]}</td></tr>"
    table = f'<table class="kv-table"><tr><th>prompt</th><th>steered</th><th>baseline</th></tr>{rows}</table>'
    waiting = "" if texts else note("This cell isn't done yet.")
    return f'<div class="kv-cell-body"><p><b>{for_html(setting)}</b></p>{waiting}{table if texts else ""}</div>'


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
