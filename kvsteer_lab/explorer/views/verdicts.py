"""HTML of what a comparison comes to: one line a steered arm, above the texts."""

from __future__ import annotations

from collections.abc import Sequence

from ..._util.text import for_html, visible
from ..results.verdict import Verdict


def verdicts_html(verdicts: Sequence[Verdict]) -> str:
    """The lines; empty where nothing is compared with the baseline."""
    return "".join(f'<p class="kv-verdict">{_line(verdict)}</p>' for verdict in verdicts)


def _line(own: Verdict) -> str:
    name = f"<b>{for_html(own.arm[0].upper() + own.arm[1:])}</b>"
    if own.step is None:
        said = "says what the baseline says"
    else:
        theirs, mine = (f"<code>{for_html(visible(token, one_line=True) or '·')}</code>" for token in own.tokens)
        if own.before is None or own.after is None:
            said = f"leaves the baseline's text at token {own.step}, for {mine} in place of {theirs}"
        else:
            said = (
                f"leaves the baseline's text at token {own.step}: {mine} (probability {own.before[1]:.3f} →"
                f" {own.after[1]:.3f}) in place of {theirs} ({own.before[0]:.3f} → {own.after[0]:.3f})"
            )
        if own.near_tie:
            said += ", <b>a near-tie</b> already without steering"
    return f"{name} {said}. {_controls(own)}"


def _controls(own: Verdict) -> str:
    if not own.controls:
        return "No random vectors were compared, so it is open whether any vector does this."
    vectors = f"random vector{'s' * (own.controls != 1)} of this size"
    return f"<b>{own.changed} of {own.controls}</b> {vectors} change{'s' * (own.controls == 1)} the text, too."
