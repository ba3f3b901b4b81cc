"""From a chat to token ids: rendering, verbatim tokenising, the offset token, left padding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..tasks.base import Chat

Prompt = str | Chat
"""A user's message, or a whole chat as a list of `{"role": ..., "content": ...}`."""

DATE = "26 Jul 2024"
"""Llama-3's template prints today's date unless one is given; a fixed one keeps runs comparable."""


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt, or several, as a list.

    Raises:
        ValueError: there is none, one is empty, or one is neither text nor a chat.
    """
    single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], dict))
    rows: list[Any] = [prompts] if single else list(prompts)
    if not rows:
        raise ValueError("There are no prompts; pass at least one string or chat.")
    for index, row in enumerate(rows):
        if isinstance(row, str):
            if not row:
                raise ValueError(f"Prompt {index} is an empty string; every prompt needs some text.")
        elif not (
            isinstance(row, list) and row and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in row)
        ):
            raise ValueError(f"Prompt {index} is neither text nor a chat (a list of dicts with 'role' and 'content').")
    return rows


def as_chat(prompt: Prompt) -> Chat:
    """A plain string is the user's message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def render(tokenizer: Any, chat: Chat) -> str:
    """The chat as the model's template writes it, generation prompt included.

    Raises:
        ValueError: no chat template, or a role (often "system") that the template doesn't know.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "The tokenizer has no chat template; pass chat=False (or rendered texts), or set tokenizer.chat_template."
        )
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, date_string=DATE)
    except Exception as error:
        if type(error).__module__.split(".")[0] != "jinja2":
            raise
        remedy = (
            "put the system message's text into the first user message"
            if chat[0]["role"] == "system"
            else "check the order and names of the roles"
        )
        raise ValueError(f"The chat template refuses this chat ({error}); {remedy}.") from error


def template_hash(tokenizer: Any) -> str | None:
    """A short hash of the chat template (with the date it prints), or `None` without one."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(f"{template}{DATE}".encode()).hexdigest()[:16]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` as it stands: no BOS or other special token is added."""
    return tokenizer(text, add_special_tokens=False).input_ids


def offset_token(tokenizer: Any, offset: str | int | None) -> int | None:
    """The id of the offset token, the one that stands between the steered slot and the answer.

    It is an id and never joined to the prompt as text, where BPE would merge it into another token.

    Args:
        tokenizer: the model's.
        offset: a text that is one token, an id, or `None` for no offset.

    Raises:
        ValueError: the text is not exactly one token, or the id is outside the vocabulary.
    """
    if offset is None:
        return None
    if isinstance(offset, int):
        if not 0 <= offset < len(tokenizer):
            raise ValueError(f"Offset id {offset} is outside the vocabulary of {len(tokenizer)} tokens.")
        return offset
    ids = encode(tokenizer, offset)
    if len(ids) != 1:
        # SentencePiece puts a space before a lone newline; after a word it is the one token we want.
        stem = encode(tokenizer, "a")
        after = encode(tokenizer, "a" + offset)
        ids = after[len(stem) :] if after[: len(stem)] == stem else ids
    if len(ids) != 1:
        raise ValueError(
            f"The offset {offset!r} is {len(ids)} tokens for this tokenizer, not one; choose another text or pass a"
            " token id."
        )
    return ids[0]


def pad_token(tokenizer: Any) -> int:
    """An id to pad with; masked everywhere, so any id does where the tokenizer names none."""
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    return 0


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Left-padded ids and their mask (1 = a real token)."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def positions(mask: Int[Tensor, "rows time"]) -> Int[Tensor, "rows time"]:
    """Positions counted from each row's first real token. Without them left-padded keys are wrong."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
