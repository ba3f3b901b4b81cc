"""Asking: what each intervention makes of the prompts, and all rows that follow, in the order of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..interventions.base import Intervention
from ..models.model import Model
from ..models.prompts import Prompt, as_chat, prompt_hash
from .rows import Row, make_rows
from .sampling import noise_key


def asked_under(intervention: Intervention, prompt: Prompt, *, chat: bool) -> Prompt:
    """What is asked under an intervention: its own chat, or the text as it stands.

    Args:
        intervention: the method.
        prompt: what was given.
        chat: whether prompts are chats.

    Returns:
        What the model encodes.

    Raises:
        ValueError: the prompt is taken verbatim, and the method would change the chat.

    >>> import kvsteer_lab as kv
    >>> asked_under(kv.CoTPrompt("Think."), "2 + 2?", chat=True)
    [{'role': 'user', 'content': '2 + 2?\\nThink.'}]
    """
    given = as_chat(prompt)
    changed = intervention.chat(given)
    if chat:
        return changed
    if changed != as_chat(prompt):
        raise ValueError(
            f"{intervention.label!r} changes the chat, and with chat=False there is none: the text is taken as it"
            " stands; write the words into the prompts, or load the model with template=kv.PlainTemplate(...)."
        )
    return prompt


def ask_all(
    model: Model,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention],
    *,
    chat: bool,
    offset: int | None,
    samples: int,
) -> tuple[list[Row], list[tuple[int, str, int]]]:
    """Every prompt under every intervention, sample by sample.

    Args:
        model: the model that runs.
        prompts: what is asked.
        interventions: the methods, checked.
        chat: whether prompts are chats.
        offset: the id of the run's offset token; `None`: none.
        samples: rows for each prompt and intervention.

    Returns:
        The rows in the order prompt, intervention, sample, and of each the prompt's number, the label and the sample's
        number.

    Raises:
        ValueError: as `asked_under` and `make_rows`.

    >>> import kvsteer_lab as kv
    >>> rows, index = ask_all(kv.load("tiny"), ["2 + 2?"], [kv.Nothing()], chat=True, offset=None, samples=2)
    >>> index
    [(0, 'baseline', 0), (0, 'baseline', 1)]
    """
    keys = [[noise_key(prompt, sample) for sample in range(samples)] for prompt in prompts]
    table: dict[tuple[int, int], list[Row]] = {}
    known: dict[str, list[int]] = {}  # most methods ask the same thing, and rendering is slow
    for m, method in enumerate(interventions):
        asked = [asked_under(method, p, chat=chat) for p in prompts]
        known.update({key: model.encode(p, chat=chat) for p in asked if (key := prompt_hash(p)) not in known})
        ids = [known[prompt_hash(p)] for p in asked]
        for p, row in enumerate(make_rows(model, method, ids, offset, chats=asked)):
            table[p, m] = [replace(row, noise_key=key) for key in keys[p]]
    each = [(p, m) for p in range(len(prompts)) for m in range(len(interventions))]
    index = [(p, interventions[m].label, s) for p, m in each for s in range(samples)]
    return [row for place in each for row in table[place]], index
