"""The model that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands start without torch
    from ..models.model import Model


def load_model(name: str, template: str | None) -> Model:
    """Load a model for a command.

    Args:
        name: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written, with {q} in its place. A shell passes a line break as the
            two characters \\n, which are read as one here.

    Returns:
        The model.

    Raises:
        ValueError: as `kv.load` and `kv.PlainTemplate`.

    >>> load_model("tiny", "Question: {q}\\\\nAnswer:").tokenizer.chat_template[:5]
    '{{ ""'
    """
    import kvsteer_lab as kv

    return kv.load(name, template=None if template is None else kv.PlainTemplate(template.replace("\\n", "\n")))
