"""HTML of the prompt as a strip of tokens, the steered slot framed."""

from __future__ import annotations

from collections.abc import Sequence

from ..._util.text import for_attribute, for_html, visible


def prompt_html(tokens: Sequence[str], slot: int) -> str:
    """The prompt's tokens, one span a slot of the cache.

    Args:
        tokens: their texts, the chat template's included.
        slot: the steered slot; negative counts from the end.
    """
    n = len(tokens)
    spans = []
    for i, token in enumerate(tokens):
        chosen = i in (slot, slot + n)
        title = f"position {i}, slot {i - n}{': steered' if chosen else ': click to steer here'}"
        mark = ' kv-here" aria-pressed="true' if chosen else '" aria-pressed="false'
        spans.append(
            f'<span class="kv-prompt-token{mark}" data-slot="{i - n}" role="button" tabindex="{0 if chosen else -1}"'
            f' title="{for_attribute(title)}">{for_html(visible(token, one_line=True) or "·")}</span>'
        )
    return f'<div class="kv-prompt-strip" aria-label="the prompt, token by token">{"".join(spans)}</div>'
