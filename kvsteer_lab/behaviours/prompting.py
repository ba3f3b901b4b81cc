"""A system message as an intervention: what every steered behaviour has to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

from ..interventions.base import Intervention
from ..models.model import Model
from ..models.prompts import render
from ..tasks.base import Chat


@dataclass(frozen=True)
class SystemPrompt(Intervention):
    """Ask for the behaviour in words: a system message before the chat, instead of any vector.

    Args:
        text: the message. One that the chat has already follows it.
        name: the label, if it isn't to be "system prompt".
        in_user_message: for templates without a system role: the text opens the user's first message.

    Raises:
        ValueError: an empty text; when it is used, a template that doesn't write system messages.

    Example:
        >>> SystemPrompt("Reply in French.").chat([{"role": "user", "content": "Why?"}])[0]
        {'role': 'system', 'content': 'Reply in French.'}
    """

    text: str
    name: str | None = None
    in_user_message: bool = False

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("The system prompt is empty; write what the model is told.")

    @property
    def label(self) -> str:
        return self.name or "system prompt"

    def check(self, model: Model) -> None:
        probe = self.chat([{"role": "user", "content": "?"}])
        if getattr(model.tokenizer, "chat_template", None) and self.text not in render(model.tokenizer, probe):
            raise ValueError(
                f"The chat template of {model.name} leaves system messages out; pass in_user_message=True."
            )

    def chat(self, chat: Chat) -> Chat:
        first = chat[0]
        if self.in_user_message:
            return [{**first, "content": f"{self.text}\n\n{first['content']}"}, *chat[1:]]
        if first["role"] == "system":
            return [{**first, "content": f"{self.text}\n\n{first['content']}"}, *chat[1:]]
        return [{"role": "system", "content": self.text}, *chat]
