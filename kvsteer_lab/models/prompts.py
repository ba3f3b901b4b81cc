"""From a chat to token ids: rendering, verbatim tokenising, the offset token, left padding.

What users hand over is brought into one form first (`as_list`, `as_chat`): a chat is a list of messages whose contents
are text. Text is tokenised as it stands; special tokens are those that the chat template writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..tasks.base import Chat

Prompt = str | Chat
"""A user's message, or a whole chat as a list of `{"role": ..., "content": ...}`."""

DATE = "26 Jul 2024"
"""Llama-3's template prints today's date unless one is given; a fixed one keeps runs comparable."""


def as_list(prompts: Prompt | Mapping[str, Any] | Iterable[Prompt]) -> list[Prompt]:
    """One prompt, or several, as a list.

    Args:
        prompts: a text, a chat, a single message, or a list, Series, array or dataset column of texts and chats.

    Returns:
        Texts and chats, checked.

    Raises:
        ValueError: there are none, one is empty, or one is neither text nor a chat.

    >>> as_list("How many?")
    ['How many?']
    >>> as_list([{"role": "user", "content": [{"type": "text", "text": "How many?"}]}])
    [[{'role': 'user', 'content': 'How many?'}]]
    """
    if isinstance(prompts, str | Mapping):
        given: list[Any] = [prompts]
    elif isinstance(prompts, Iterable):
        given = list(prompts)
        if given and all(isinstance(item, Mapping) for item in given):
            given = [given]
    else:
        raise ValueError(f"Prompts must be text, a chat or a list of these, not {type(prompts).__name__}.")
    if not given:
        raise ValueError("There are no prompts; pass at least one string or chat.")
    return [_checked(item, f"Prompt {index}") for index, item in enumerate(given)]


def as_chat(prompt: Prompt | Mapping[str, Any]) -> Chat:
    """A prompt as a chat: a plain string is the user's message.

    Args:
        prompt: a text, a chat, or a single message.

    Returns:
        A new list of messages; contents that are lists of text parts are joined.

    Raises:
        ValueError: something else, a message without text, or text that can't be encoded.

    >>> as_chat("How many?")
    [{'role': 'user', 'content': 'How many?'}]
    """
    checked = _checked(prompt, "The prompt")
    return [{"role": "user", "content": checked}] if isinstance(checked, str) else checked


def _checked(prompt: Any, name: str) -> Prompt:
    """A text or a chat in the one form that the library works with."""
    if isinstance(prompt, str):
        if not prompt:
            raise ValueError(f"{name} is an empty string; every prompt needs some text.")
        return check_text(str(prompt), name)
    messages = [prompt] if isinstance(prompt, Mapping) else prompt
    if not (
        isinstance(messages, list | tuple)
        and messages
        and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages)
    ):
        raise ValueError(f"{name} is neither text nor a chat (a list of dicts with 'role' and 'content').")
    return [{**m, "content": _content(m["content"], f"Message {i} of {name.lower()}")} for i, m in enumerate(messages)]


def _content(content: Any, name: str) -> str:
    """A message's text; the text parts of a list are joined."""
    if isinstance(content, str):
        return check_text(content, name)
    if isinstance(content, list | tuple) and content:
        kinds = {part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__ for part in content}
        if kinds == {"text"} and all(isinstance(part.get("text"), str) for part in content):
            return check_text("".join(part["text"] for part in content), name)
        raise ValueError(
            f"{name} has parts of the kinds {', '.join(sorted(map(str, kinds)))}; only text can be read here."
        )
    raise ValueError(f"{name} has {content!r} for its content; give it text.")


def check_text(text: str, name: str) -> str:
    """The text, if it can be encoded.

    Args:
        text: what is checked.
        name: what an error calls it.

    Returns:
        The same text.

    Raises:
        ValueError: it holds a lone surrogate, half of a character that was cut in two.

    >>> check_text("How many?", "The prompt")
    'How many?'
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds a lone surrogate, {text[error.start]!r} at character {error.start}: half of a character that"
            " was cut in two; read the text anew as UTF-8, or take the character out."
        ) from error
    return text


def render(tokenizer: Any, chat: Chat) -> str:
    """The chat as the model's template writes it, generation prompt included.

    Where the last message is the assistant's, it is left open, to be continued: nothing follows its text.

    Args:
        tokenizer: with a chat template.
        chat: the conversation.

    Returns:
        The text that is tokenised.

    Raises:
        ValueError: no chat template, a role (often "system") that the template doesn't know, or a last message that
            it doesn't write as it stands.

    >>> import kvsteer_lab as kv
    >>> render(kv.load("tiny").tokenizer, [{"role": "user", "content": "How many?"}])
    '<|im_start|>user\\nHow many?<|im_end|>\\n<|im_start|>assistant\\n'
    """
    chat = as_chat(chat)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "The tokenizer has no chat template, as is usual for a base model; load the model with"
            " template=kv.PlainTemplate('Question: {q}\\nAnswer:'), or set tokenizer.chat_template."
        )
    continued = chat[-1]["role"] == "assistant"
    if continued and not chat[-1]["content"].strip():
        raise ValueError("The chat ends with an empty message of the assistant; leave it out.")
    try:
        text = tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            date_string=DATE,
        )
    except Exception as error:
        if continued and isinstance(error, ValueError):
            raise ValueError(
                "The chat ends with the assistant, and its template doesn't write the last message as it stands, so it"
                " can't be continued; end with the user's message."
            ) from error
        if type(error).__module__.split(".")[0] != "jinja2":
            raise
        remedy = (
            "put the system message's text into the first user message"
            if chat[0]["role"] == "system"
            else "check the order and names of the roles"
        )
        raise ValueError(f"The chat template refuses this chat ({error}); {remedy}.") from error
    return str(text)


def template_hash(tokenizer: Any) -> str | None:
    """A short hash of the chat template (with the date it prints), or `None` without one.

    Args:
        tokenizer: the model's.

    Returns:
        16 hex digits. Template arguments given to `kv.load` are part of the template, and so of the hash.

    >>> import kvsteer_lab as kv
    >>> len(template_hash(kv.load("tiny").tokenizer))
    16
    """
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(f"{template}{DATE}".encode()).hexdigest()[:16]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` as it stands: no BOS or other special token is added.

    Args:
        tokenizer: the model's.
        text: what is tokenised.

    Returns:
        Its ids.

    Raises:
        ValueError: text that can't be encoded.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> tokenizer.decode(encode(tokenizer, "How many?"))
    'How many?'
    """
    return list(tokenizer(check_text(text, "The text"), add_special_tokens=False).input_ids)


def missing_bos(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """The token that the tokenizer itself puts at the beginning of a text, where `ids` don't begin with it.

    Args:
        tokenizer: the model's.
        ids: of a whole prompt.

    Returns:
        The token's text; `None`: it is there, or the tokenizer puts none.

    >>> import kvsteer_lab as kv
    >>> missing_bos(kv.load("tiny").tokenizer, [5, 6]) is None
    True
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or (ids and ids[0] == bos) or list(tokenizer("a").input_ids[:1]) != [bos]:
        return None
    return str(tokenizer.bos_token)


def offset_token(tokenizer: Any, offset: str | int | None) -> int | None:
    """The id of the offset token, the one that stands between the steered slot and the answer.

    It is an id and never joined to the prompt as text, where BPE would merge it into another token.

    Args:
        tokenizer: the model's.
        offset: a text that is one token, an id, or `None` for no offset.

    Returns:
        The id, or `None`.

    Raises:
        ValueError: the text is not exactly one token, or the id is outside the vocabulary.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> tokenizer.decode([offset_token(tokenizer, "\\n")])
    '\\n'
    """
    if offset is None:
        return None
    if isinstance(offset, Integral) and not isinstance(offset, bool):
        offset = int(offset)
        if not 0 <= offset < len(tokenizer):
            raise ValueError(f"Offset id {offset} is outside the vocabulary of {len(tokenizer)} tokens.")
        return offset
    if not isinstance(offset, str):
        raise ValueError(f"The offset is {offset!r}; give a text that is one token, a token id, or None.")
    ids = encode(tokenizer, check_text(offset, "The offset"))
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


def pad_token(tokenizer: Any, rows: int | None = None) -> int:
    """An id to pad with; masked everywhere, so any id does where the tokenizer names none that the model has.

    Args:
        tokenizer: the model's.
        rows: how many tokens the model's embedding has; a pad token that was added to the tokenizer alone lies beyond.

    Returns:
        The id.

    >>> import kvsteer_lab as kv
    >>> pad_token(kv.load("tiny").tokenizer)
    0
    """
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None and (rows is None or int(token) < rows):
            return int(token)
    return 0


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Left-padded ids and their mask (1 = a real token).

    Args:
        rows: token ids, a row each.
        pad: the id that fills.
        device: where both are put.

    Returns:
        Two tensors `[rows, time]`.

    >>> import torch
    >>> pad_left([[5], [6, 7]], 0, torch.device("cpu"))[0].tolist()
    [[0, 5], [6, 7]]
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def positions(mask: Int[Tensor, "rows time"]) -> Int[Tensor, "rows time"]:
    """Positions counted from each row's first real token. Without them left-padded keys are wrong.

    Args:
        mask: `[rows, time]`, 1 where a token is real.

    Returns:
        `[rows, time]`.

    >>> import torch
    >>> positions(torch.tensor([[0, 1, 1]])).tolist()
    [[0, 0, 1]]
    """
    return (mask.cumsum(-1) - 1).clamp(min=0)
