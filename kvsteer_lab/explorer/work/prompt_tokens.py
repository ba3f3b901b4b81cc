"""The prompt as the model reads it: one text a slot of the cache, the chat template's own tokens included."""

from __future__ import annotations

from ...models.model import Model
from ...models.token_texts import text_after
from ..results.comparison import Asked

_CONTEXT = 8  # tokens: what stands far before a token doesn't change its text


def prompt_tokens(model: Model, asked: Asked) -> tuple[str, ...]:
    """The text of each token of a prompt, special tokens included.

    Args:
        model: whose tokenizer and template are used.
        asked: the prompt.

    Raises:
        ValueError: what `Model.encode` refuses.
    """
    ids = model.encode(asked.prompt)
    return tuple(
        text_after(model.tokenizer, ids[max(0, i - _CONTEXT) : i], [token], skip_special_tokens=False)
        for i, token in enumerate(ids)
    )
