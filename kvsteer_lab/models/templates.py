"""Chat templates that are set when a model is loaded: plain text for base models, and arguments of a model's own.

Both become part of the tokenizer's `chat_template`, so that everything that renders a chat (contrastive pairs, few-shot
prompts, evaluation, tuning) uses them, and so that their hash is part of a run's identity.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlainTemplate:
    """Prompts as plain text, for base models, which have no chat template.

    A question is written into `text`, a reply follows after a space, and after a reply comes an empty line. A system
    message stands first, with an empty line after it. The tokenizer's BOS token stands before everything if the
    tokenizer itself would put it there.

    Attributes:
        text: how a question is written, with `{q}` in its place.
        between: what follows a reply, or the system message.

    Raises:
        ValueError: `text` doesn't hold `{q}` exactly once.

    >>> import kvsteer_lab as kv
    >>> tokenizer = PlainTemplate("Question: {q}\\nAnswer:").on(kv.load("tiny").tokenizer)
    >>> tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2?"}], tokenize=False)
    'Question: 2 + 2?\\nAnswer:'
    """

    text: str = "Question: {q}\nAnswer:"
    between: str = "\n\n"

    def __post_init__(self) -> None:
        if self.text.count("{q}") != 1:
            raise ValueError(f"The template {self.text!r} needs {{q}} exactly once, where the question stands.")

    def jinja(self, bos: str = "") -> str:
        """The template as Jinja, the language of chat templates.

        Args:
            bos: what stands before everything.

        Returns:
            A text for `tokenizer.chat_template`.

        >>> "Question: " in PlainTemplate().jinja()
        True
        """
        before, after = self.text.split("{q}")
        space = "" if not after or after[-1].isspace() else " "
        quoted = {name: json.dumps(part) for name, part in dict(b=before, a=after, n=self.between, s=space).items()}
        return (
            f"{{{{ {json.dumps(bos)} }}}}"
            "{% for m in messages %}"
            f"{{% if m['role'] == 'assistant' %}}{{{{ {quoted['s']} + m['content'] + {quoted['n']} }}}}"
            f"{{% elif m['role'] == 'system' %}}{{{{ m['content'] + {quoted['n']} }}}}"
            f"{{% else %}}{{{{ {quoted['b']} + m['content'] + {quoted['a']} }}}}{{% endif %}}"
            "{% endfor %}"
        )

    def on(self, tokenizer: Any) -> Any:
        """A copy of the tokenizer that writes chats this way.

        Args:
            tokenizer: the model's; it stays as it is.

        Returns:
            The copy.

        >>> import kvsteer_lab as kv
        >>> PlainTemplate().on(kv.load("tiny").tokenizer).chat_template is not None
        True
        """
        bos = getattr(tokenizer, "bos_token_id", None)
        adds = bos is not None and list(tokenizer("a").input_ids[:1]) == [bos]
        return with_template(tokenizer, self.jinja(str(tokenizer.bos_token) if adds else ""))


def with_template(
    tokenizer: Any, template: str | PlainTemplate | None, arguments: Mapping[str, Any] | None = None
) -> Any:
    """A tokenizer with another chat template, or with arguments of its template set.

    Args:
        tokenizer: the model's; it stays as it is.
        template: Jinja, a `PlainTemplate`, or `None` for the tokenizer's own.
        arguments: variables that the template reads, `{"enable_thinking": False}` say.

    Returns:
        A copy, or the same tokenizer where nothing is asked for.

    Raises:
        ValueError: arguments without a template, for a name that the template doesn't use, or of a kind that can't be
            written into it.

    >>> import kvsteer_lab as kv
    >>> template = "{{ greeting }}{{ messages[0].content }}"
    >>> tokenizer = with_template(kv.load("tiny").tokenizer, template, {"greeting": "Hi! "})
    >>> tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2?"}], tokenize=False)
    'Hi! 2 + 2?'
    """
    if template is None and not arguments:
        return tokenizer
    if isinstance(template, PlainTemplate):
        return with_template(template.on(tokenizer), None, arguments)
    changed = copy.deepcopy(tokenizer)
    text = getattr(tokenizer, "chat_template", None) if template is None else template
    if isinstance(text, dict):
        text = text.get("default")
    if text is None:
        raise ValueError("The tokenizer has no chat template that could take arguments; pass template=..., too.")
    lines = ""
    for name, value in (arguments or {}).items():
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ValueError(f"The chat template doesn't use {name!r}, so this argument would change nothing.")
        try:
            written = _jinja_value(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The template argument {name} is {value!r}; it must be text, a number, True, False, None, or a list"
                " or dict of these."
            ) from error
        lines += f"{{% set {name} = {written} %}}"
    changed.chat_template = lines + text
    return changed


def _jinja_value(value: Any) -> str:
    """A value as Jinja writes it, which is as Python does. Errors are those of `json.dumps`."""
    return repr(json.loads(json.dumps(value, allow_nan=False)))
