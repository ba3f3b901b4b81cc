"""HTML of the prompt as a strip of tokens, the steered slot framed; and what is said of the attention to each."""

from __future__ import annotations

from collections.abc import Sequence

from ..._util.text import for_attribute, for_html, visible
from ..results.prompt_attention import PromptAttention
from .markup import note

HINT = (
    "Point at a token for the attention that it gets (or go there by Tab and the arrow keys); click it, or press Enter,"
    " to steer there. On a touch screen the first tap tells, a second one steers."
)
WAIT = "The attention is being read."


def prompt_html(tokens: Sequence[str], slot: int, found: Sequence[str] = ()) -> str:
    """The prompt's tokens, one span a slot of the cache.

    Args:
        tokens: their texts, the chat template's included.
        slot: the steered slot; negative counts from the end.
        found: what is said of each token, for a page without a kernel.
    """
    n = len(tokens)
    spans = []
    for i, token in enumerate(tokens):
        chosen = i in (slot, slot + n)
        title = f"position {i} ({i - n}){': steered' if chosen else ': click to steer here'}"
        title = found[i] if found else title
        mark = ' kv-here" aria-pressed="true' if chosen else '" aria-pressed="false'
        spans.append(
            f'<span class="kv-prompt-token{mark}" data-slot="{i - n}" role="button" tabindex="{0 if chosen else -1}"'
            f' title="{for_attribute(title)}">{for_html(visible(token, one_line=True) or "·")}</span>'
        )
    return f'<div class="kv-prompt-strip" aria-label="the prompt, token by token">{"".join(spans)}</div>'


def legend_html() -> str:
    """What the numbers are and how to get at them; and the line in which the page writes those of one token."""
    return (
        note(HINT)
        + note(
            "Attention is the weight that a position gets from the offset token, which is read right after the prompt:"
            " there the reply's first token is decided. Mean over all layers and query heads. It does not show what a"
            " head does with what it reads."
        )
        + '<p class="kv-line kv-prompt-reading" aria-live="polite"></p>'
    )


def attention_lines(tokens: Sequence[str], found: PromptAttention) -> list[str]:
    """What is said of each token: the attention that it gets under each arm, and the head that gives most.

    Args:
        tokens: the prompt's tokens.
        found: their attention.
    """
    reader, n = visible(found.reader, one_line=True), len(tokens)
    lines = []
    for i, token in enumerate(tokens):
        arms = "; ".join(
            f"{arm} {own[i].mean:.3f} (most {own[i].most:.3f}, in layer {own[i].layer}, head {own[i].head})"
            for arm, own in found.arms.items()
        )
        said = visible(token, one_line=True)
        lines.append(f"Position {i} ({i - n}), “{said}”. Attention from the offset token “{reader}”: {arms}.")
    return lines
