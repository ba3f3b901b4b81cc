"""HTML of the top-k alternatives to one token of a reply, under every arm at that position."""

from __future__ import annotations

from ..._util.terms import label_name
from ..._util.text import for_attribute, for_html, visible
from ..results.comparison import Compared, Comparison
from .markup import note

HINT = "Click a token of a text, or walk to it with the arrow keys and press Enter, to see what else was likely there."


def alternatives_html(comparison: Comparison, arm: str, step: int) -> str:
    """A table an arm: the likeliest tokens at a position, under the arm and under the baseline, after the arm's own
    words up to there.

    Args:
        comparison: measured.
        arm: whose text was clicked; its table comes first.
        step: the token's number, from 1.
    """
    arms = sorted(comparison.arms, key=lambda own: own.arm != arm)
    tables = [_table(own, step, own.arm == arm) for own in arms if own.measured and step <= len(own.measured.likely)]
    if not tables:
        return note(HINT)
    return note(
        f"Top-k alternatives at token {step}, each after the words of its own text, with the probability under the arm"
        " and under the baseline."
    ) + (f'<div class="kv-tables">{"".join(tables)}</div>')


def _table(own: Compared, step: int, clicked: bool) -> str:
    assert own.measured is not None
    said = own.generation.token_ids[step - 1]
    against = own.reader if own.arm == "baseline" and own.reader else own.arm
    rows = "".join(
        f"<tr{' class=kv-said' if t.id == said else ''}>"
        f"<td><code>{for_html(visible(t.token, one_line=True))}</code></td>"
        f'<td class="kv-number kv-shaded" style="--kv-strength:{60 * t.probability:.0f}%">{t.probability:.3f}</td>'
        f'<td class="kv-number kv-shaded" style="--kv-strength:{60 * t.baseline:.0f}%">{t.baseline:.3f}</td></tr>'
        for t in own.measured.likely[step - 1][:6]
    )
    before = visible("".join(own.measured.pieces[: step - 1])[-40:], one_line=True)
    head = (
        f"<caption>{'▸ ' if clicked else ''}{for_html(label_name(own.arm))}: …{for_html(before)}</caption>"
        f"<tr><th>token</th><th>{for_html(label_name(against))}</th><th>baseline</th></tr>"
    )
    return f'<table class="kv-table" data-arm="{for_attribute(own.arm)}">{head}{rows}</table>'
