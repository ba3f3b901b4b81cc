"""Prompts under interventions with the texts that follow them: what is read while attention to a slot is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..._util.batching import check_batch_size
from ...edits.slots import check_slot, slot_from_end
from ...generation.generate import generate_all
from ...generation.rows import Row, check_context
from ...generation.scoring import match_continuations, rows_under
from ...interventions.base import Intervention
from ...interventions.checks import check_interventions
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ..checks import check_edits

Continuations = str | Sequence[str | Sequence[int]] | None


@dataclass(frozen=True)
class FollowedText:
    """A row and the tokens that are read after it; the last of them is said, but not read.

    Attributes:
        prompt: number of the prompt.
        intervention: label of what acts on it.
        row: what is prefilled and read first.
        target: ids of what follows the tail.
    """

    prompt: int
    intervention: str
    row: Row
    target: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """The token that is read at each step: the tail, then the text but for its last token."""
        return (*self.row.read, *self.target[:-1])


def follow(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None,
    continuations: Continuations,
    steps: int,
    slot: int,
    *,
    chat: bool,
    offset: str | int,
    batch_size: int,
) -> list[FollowedText]:
    """Each prompt under each intervention, with `steps` tokens of the given continuation, or of what the intervention
    itself says there (greedily).

    Raises:
        ValueError: no prompts or steps, an empty continuation, a slot that a prompt hasn't got, a steering that adds
            nothing, or what `kv.generate` refuses.
        KeyboardInterrupt: the texts were interrupted.
    """
    if steps < 1:
        raise ValueError(
            f"steps must be at least 1, not {steps}: step 0 is the offset token, the first that reads the slot."
        )
    check_slot(slot)
    check_batch_size(batch_size)
    given = as_list(prompts)
    methods = check_interventions(model, interventions)
    check_edits(*methods)
    rows = {method.label: rows_under(model, method, given, chat=chat, offset=offset) for method in methods}
    for each in rows.values():
        check_context(model, each, steps)
        for number, row in enumerate(each):
            slot_from_end(slot, len(row.cached), number)
    if continuations is not None:
        targets = match_continuations(model, given, continuations)[1]
        texts = {label: [target[:steps] for target in targets] for label in rows}
    else:
        said = generate_all(
            model, given, methods, chat=chat, offset=offset, generation={"max_new_tokens": steps}, batch_size=batch_size
        )
        texts = {label: [row.token_ids for row in said.of(label)] for label in rows}
    return [
        FollowedText(prompt, label, rows[label][prompt], texts[label][prompt])
        for label in rows
        for prompt in range(len(given))
    ]
