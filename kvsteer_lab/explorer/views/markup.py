"""HTML of the explorer's texts and tables; whatever a model or a reader wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..._util.terms import label_name
from ..._util.text import for_attribute, for_html
from ..results.attention import ArmAttention
from ..results.comparison import Compared
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
    ' class="kv-forced">A response prefill</span> is not read by the baseline.</p>'
)


def arm_html(title: str, text: str, *, body: str | None = None, facts: str = "", arm: str = "") -> str:
    """One arm of the comparison: its title, its text so far (or `body`, its coloured tokens), and what is known of it.
    `arm`: its name, where the title says more.
    """
    shown = for_html(text) if body is None else body
    return (
        f'<div class="kv-arm" data-arm="{for_attribute(arm or title)}"><h4>{for_html(label_name(title))}</h4><div'
        f' class="kv-text">{shown}</div>{facts}</div>'
    )


def tokens_html(own: Compared) -> str:
    """A text with each token coloured by the change of its log-probability."""
    assert own.measured is not None
    forced = (
        f'<span class="kv-forced" title="response prefill">{for_html(own.generation.forced)}</span>'
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
        place = f'data-step="{len(spans) + 1}" role="button" tabindex="-1"'
        spans.append(
            f'<span class="kv-token{kind}" {place} style="--kv-strength:{strength}%" title="{title}">{said}</span>'
        )
    return forced + "".join(spans)


def facts_html(own: Compared) -> str:
    """Style, answer, length, loops and KL of one text."""
    verdict = own.verdict
    parts = [f"style <b>{for_html(str(verdict['style']).replace('_', ' '))}</b>"]
    if "correct" in verdict:
        parts.append(_answer(verdict))
    parts.append(f"<b>{verdict['tokens']}</b> tokens{' (cut)' if verdict['cut'] else ''}")
    parts.append("<b>loops</b>" if verdict["loop"] else "no loop")
    if own.measured is not None and own.reader is None and own.arm != "baseline":
        first, total = own.measured.nats(1), own.measured.nats()
        parts.append(f"KL <b>{first:.2f}</b> nats at the first token, total KL <b>{total:.2f}</b> nats")
    elif own.measured is not None and own.reader is not None:
        parts.append(f"total KL of {for_html(own.reader)} on this text <b>{own.measured.nats():.2f}</b> nats")
    return '<div class="kv-facts">' + "".join(f"<span>{part}</span>" for part in parts) + "</div>"


def _answer(verdict: Mapping[str, Any]) -> str:
    """What was answered, and whether it is right; a text that was cut before it answered is neither right nor wrong."""
    gold = f"gold {for_html(verdict['gold'])}"
    if verdict["correct"]:
        return f'answer <b>{for_html(verdict["answer"])}</b> <span class="kv-right">✓ right</span>'
    if verdict["answer"] is None:
        return f"{'<b>cut before an answer</b>' if verdict['cut'] else '<b>no answer</b>'}, {gold}"
    return f'answer <b>{for_html(verdict["answer"])}</b> <span class="kv-wrong">✗ wrong</span>, {gold}'


def mark(verdict: Mapping[str, Any]) -> str:
    """The same in a word or less, behind a text in a table; nothing where no task has asked."""
    if "correct" not in verdict:
        return ""
    if verdict["answer"] is None:
        return f' <span class="kv-note">({"cut before an answer" if verdict["cut"] else "no answer"})</span>'
    return " ✓" if verdict["correct"] else " ✗"


def folded_html(own: Compared) -> str:
    """The texts under further random vectors, folded away under the first."""
    if not own.others:
        return ""
    texts = "".join(f'<div class="kv-text">{for_html(other.answer)}</div>' for other in own.others)
    return f"<details><summary>{len(own.others)} more random vectors</summary>{texts}</details>"


def attention_html(found: Sequence[ArmAttention]) -> str:
    """Per arm a heatmap of layers and query heads: the mean attention weight on the steered position; beside it,
    what the offset token pays to it, and what other positions get.
    """
    most = max((weight for own in found for layer in own.layers for weight in layer.heads), default=0.0) or 1.0
    return note(
        "Mean attention weight on the steered position over the first tokens, by layer and query head; full colour is"
        f" {most:.3f}. Attention alone does not show what a head does with what it reads."
    ) + (f'<div class="kv-tables">{"".join(_heads_table(own, most) for own in found)}</div>')


def _heads_table(own: ArmAttention, most: float) -> str:
    rows = ""
    for layer in own.layers:
        cells = "".join(
            f'<td class="kv-head kv-shaded" style="--kv-strength:{75 * weight / most:.0f}%"'
            f' title="layer {layer.layer}, head {head}: {weight:.3f}"></td>'
            for head, weight in enumerate(layer.heads)
        )
        rows += (
            f'<tr><th scope="row">{layer.layer}</th>{cells}<td class="kv-number">{layer.first:.3f}</td>'
            f'<td class="kv-number">{layer.other:.3f}</td></tr>'
        )
    n = max((len(layer.heads) for layer in own.layers), default=0)
    head = (
        f"<caption>{for_html(label_name(own.arm))}, {own.steps} tokens</caption>"
        f'<tr><th>layer</th><th colspan="{n}">query heads 0 to {n - 1}</th><th>offset token</th>'
        "<th>other positions</th></tr>"
    )
    return f'<table class="kv-table kv-heads-table">{head}{rows}</table>'


def dose_html(dose: Dose, slot: int) -> str:
    """The relative strength beside the coefficients."""
    layers = f"layer {dose.layers[0]}" if len(dose.layers) == 1 else f"mean of {len(dose.layers)} layers"
    each = "; ".join(
        f"layer {layer}: K ×{k:.2g}, V ×{v:.2g}"
        for layer, k, v in zip(dose.layers, dose.keys, dose.values, strict=True)
    )
    said = f"keys <b>×{dose.mean_keys:.2g}</b>, values <b>×{dose.mean_values:.2g}</b>"
    return (
        f'<p class="kv-note kv-dose-line" title="{for_attribute(each)}">Relative strength (norm added / norm there)'
        f" at position {slot}: {said} ({layers})</p>"
    )


def cell_html(sweep: Sweep, cell: Cell, texts: Sequence[Text]) -> str:
    """The generations of one cell beside the baseline's."""
    own = cell.steering
    heads = "all KV heads" if own.heads is None else f"KV heads {_numbers(own.heads)}"
    setting = f"c_k = {own.ck:g}, c_v = {own.cv:g}, layers {_numbers(own.scope) or 'none'}, {heads}"
    rows = ""
    for i, text in enumerate(texts):
        asked = text.asked.question.text if text.asked.question is not None else text.asked.prompt
        said = [for_html(t.generation.answer) + mark(t.verdict) for t in (text, sweep.baseline[i])]
        rows += f"<tr><td>{for_html(asked)}</td><td>{said[0]}</td><td>{said[1]}</td></tr>"
    table = f'<table class="kv-table"><tr><th>prompt</th><th>steered</th><th>baseline</th></tr>{rows}</table>'
    waiting = "" if texts else note("This cell isn't done yet.")
    return f'<div class="kv-cell-body"><p><b>{for_html(setting)}</b></p>{waiting}{table if texts else ""}</div>'


def _numbers(numbers: Iterable[int]) -> str:
    """`0, 2, 5-9`, as the fields take them."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(
        f"{first}-{last}" if last > first + 1 else ", ".join(map(str, range(first, last + 1))) for first, last in runs
    )
