"""What an explorer shows as one HTML page without a kernel: for a saved notebook, a colleague, or a web site."""

from __future__ import annotations

from collections.abc import Sequence

from ..._util.text import for_html
from ..results.comparison import Comparison
from ..results.ladder import Ladder
from ..results.prompt_attention import PromptAttention
from ..results.verdict import read_verdicts
from .canvases import STYLE
from .ladder import ladder_html
from .markup import LEGEND, arm_html, facts_html, folded_html, note, tokens_html
from .prompt_strip import attention_lines, prompt_html
from .verdicts import verdicts_html

_SETTINGS = ("mix", "ck", "cv", "part", "layers", "heads", "slot", "offset", "max_new_tokens")


def static_html(
    model: str, comparison: Comparison | None, ladder: Ladder | None, attention: PromptAttention | None = None
) -> str:
    """A fragment of HTML that looks as the first tab did, and the ladder if there is one.

    Args:
        model: the model's name.
        comparison: what is compared, measured or not; `None`: nothing yet.
        ladder: the strength ladder, or `None`.
        attention: what each token of the prompt gets, told where one is pointed at; `None`: nothing is told.
    """
    if comparison is None:
        return f"<p>{for_html(model)}: no texts yet.</p>"
    state = comparison.state
    known = attention_lines(comparison.prompt, attention) if attention else ()
    prompt = prompt_html(comparison.prompt, state.slot, known)
    settings = ", ".join(f"{name} = {getattr(state, name)!r}" for name in _SETTINGS if getattr(state, name) is not None)
    arms = "".join(
        arm_html(
            own.arm,
            own.generation.answer,
            body=tokens_html(own) if own.measured is not None else None,
            facts=facts_html(own) + folded_html(own),
        )
        for own in comparison.arms
    )
    parts: Sequence[str] = [
        f"<style>{STYLE}</style>",
        f'<p class="kv-heading">{for_html(model)}</p>',
        note(settings),
        f"<details><summary>The prompt, token by token</summary>{prompt}</details>",
        verdicts_html(read_verdicts(comparison)),
        f'<div class="kv-arm-grid">{arms}</div>',
        LEGEND,
        "" if ladder is None else f'<p class="kv-heading">Strength ladder</p>{ladder_html(ladder)}',
    ]
    return f'<div class="kv-explorer">{"".join(parts)}</div>'


def whole_page(title: str, fragment: str) -> str:
    """A document around a fragment; it loads nothing from elsewhere."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{for_html(title)}</title></head>'
        '<body style="max-width: 1200px; margin: 1em auto; padding: 0 1em; font-family: sans-serif">'
        f"{fragment}</body></html>\n"
    )
