"""From a chat to token ids: rendering, verbatim tokenising, the offset token, left padding.

What users hand over is brought into one form first (`as_list`, `as_chat`): a chat is a list of messages whose contents
are text. Text is tokenised as it stands; special tokens are those that the chat template writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..tasks.base import Chat, Question

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
    if hasattr(prompts, "columns") and hasattr(prompts, "iloc"):
        raise ValueError("Prompts are a whole table; pass the column that holds them, frame['question'] say.")
    if isinstance(prompts, str | Mapping | Question):
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
    if isinstance(prompt, Question):
        raise ValueError(f"{name} is a Question; pass its text, question.text, or task.chat(question).")
    messages = [prompt] if isinstance(prompt, Mapping) else prompt
    if not (
        isinstance(messages, list | tuple)
        and messages
        and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages)
    ):
        raise ValueError(f"{name} is neither text nor a chat (a list of dicts with 'role' and 'content').")
    for index, message in enumerate(messages):
        _check_role(message["role"], f"Message {index} of {name.lower()}")
    return [{**m, "content": _content(m["content"], f"Message {i} of {name.lower()}")} for i, m in enumerate(messages)]


_ROLES = ("system", "user", "assistant", "developer", "tool", "function")


def _check_role(role: Any, name: str) -> None:
    """Refuse a misspelt role, which most templates would write as it is; roles of a template's own may pass."""
    if not isinstance(role, str) or not role:
        raise ValueError(f"{name} has {role!r} for its role; roles are texts such as 'user'.")
    near = get_close_matches(role.lower(), _ROLES, n=1, cutoff=0.75)
    if role not in _ROLES and near:
        raise ValueError(f"{name} has the role {role!r}, which is not {near[0]!r}; correct it.")


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
    if hasattr(tokenizer, "tokenizer"):
        raise ValueError("A tokenizer is asked for, not a whole model; pass model.tokenizer.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "The tokenizer has no chat template, as is usual for a base model; load the model with"
            " template=kv.PlainTemplate('Question: {q}\\nAnswer:') (a command's --template), or set"
            " tokenizer.chat_template."
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


def prompt_hash(prompt: Prompt) -> str:
    """SHA-256 of a prompt as a chat, in hex; a text and the chat of that one message have the same.

    Args:
        prompt: a text or a chat.

    Raises:
        ValueError: as `as_chat`.

    >>> prompt_hash("2 + 2?") == prompt_hash([{"role": "user", "content": "2 + 2?"}])
    True
    """
    return hashlib.sha256(json.dumps(as_chat(prompt), sort_keys=True).encode()).hexdigest()


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
