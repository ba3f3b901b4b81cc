"""The token whose probability an analysis watches: given by the caller, or the commonest first token of the steered
replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..generation.generate import generate_all
from ..interventions.base import Nothing
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.tokens import encode


def token_id(tokenizer: Any, token: str | int) -> int:
    """The id of one token, given as text or as an id.

    Args:
        tokenizer: the model's.
        token: a text that is exactly one token, or an id.

    Raises:
        ValueError: neither text nor id, a text that is not exactly one token, or an id outside the vocabulary.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> tokenizer.decode([token_id(tokenizer, "Step")])
    'Step'
    """
    if isinstance(token, bool) or not isinstance(token, (int, str)):
        raise ValueError(f"{token!r} is not a token; pass a text that is one token, or a token id.")
    if isinstance(token, int):
        if not 0 <= token < len(tokenizer):
            raise ValueError(
                f"Token {token} is outside the vocabulary of {len(tokenizer)} tokens; pass an id below that, or the"
                " token's text."
            )
        return token
    ids = encode(tokenizer, token)
    if len(ids) != 1:
        raise ValueError(
            f"{token!r} is {len(ids)} tokens for this tokenizer, not one; pass a text that is one token, or a token id."
        )
    return int(ids[0])


def first_tokens(
    model: Model, prompts: Sequence[Prompt], steering: CacheSteering, chat: bool, offset: str | int
) -> tuple[int, int]:
    """The commonest first token of the steered replies, and that of the plain ones.

    Args:
        model, prompts, chat, offset: as in `kv.generate`.
        steering: what acts on the steered replies.
    """
    texts = generate_all(
        model, prompts, [steering, Nothing()], chat=chat, offset=offset, generation={"max_new_tokens": 1}
    )
    steered, plain = (
        Counter(row.token_ids[0] for row in texts if (row.intervention == steering.label) == own).most_common(1)[0][0]
        for own in (True, False)
    )
    return steered, plain


def log_odds(logits: Float[Tensor, "rows vocab"], token: int) -> Float[Tensor, " rows"]:
    """log p / (1 - p) of a token, in nats, without the loss of precision that p itself has near 0 and 1.

    Args:
        logits: of next tokens.
        token: an id.

    >>> import torch
    >>> log_odds(torch.tensor([[2.0, 0.0]]), 0)
    tensor([2.])
    """
    chosen, others = logits[:, token], logits.clone()
    others[:, token] = -torch.inf
    return chosen - others.logsumexp(-1)
