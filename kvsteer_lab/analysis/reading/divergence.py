"""The divergence that hiding a slot causes: how far, in nats, the next-token distributions move when some heads, layers
or steps cannot read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...edits.hiding import HiddenSlot
from ...generation.rows import Row, group_rows
from ...generation.scoring import logits_along
from ...interventions.base import Intervention
from ...interventions.checks import check_intervention
from ...models.finite import check_logits
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt
from ..budget import rows_within
from .followed_text import Continuations, FollowedText, follow
from .kl_in_groups import kl_of_first
from .knock_outs import DEFAULT_STEPS, KnockOut, knock_outs


def nats_of_reading(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    intervention: Intervention | None = None,
    ways: str | Sequence[str] = (
        "everything",
        "one layer",
        "all but one layer",
        "one head",
        "all but one head",
        "other slot",
    ),
    continuations: Continuations = None,
    *,
    steps: int = 16,
    from_steps: Sequence[int] = DEFAULT_STEPS,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    others: int | None = None,
    slot: int = -1,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """KL(slot read || slot hidden) of the next-token distributions along a text, for exhaustive knock-outs of reading.

    Both sides have the same prompt, edits and text; they differ in which heads read the slot at which steps. What is
    hidden is hidden from every later token that is computed, so a knock-out from step t on changes what later tokens
    hand on, too. All knock-outs of a prompt are rows of one forked batch, as far as `batch_size` allows.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        intervention: what acts on both sides: a steering, few-shot examples; `None`: nothing.
        ways: which knock-outs: `"everything"`; `"one layer"`, `"one head"`; `"all but one layer"`, `"all but one head"`
            (only that one still reads); `"from step"`, `"only at step"`; `"other slot"`: another slot of the prompt
            hidden from everything, a control.
        continuations: texts or token ids, one a prompt; `None`: what the model says under `intervention` with the slot
            read, greedily.
        steps: how many distributions along the text are compared, beginning with that of the first new token.
        from_steps: the steps of `"from step"` and `"only at step"`.
        layers, heads: which layers, and which query heads of them, the ways of one layer or head are about,
            `range(0, 30, 5)` say; `None`: all. "All but one" hides the slot from all others of the model.
        others: how many slots `"other slot"` draws; `None`: 20, or all where the shortest prompt has fewer.
        slot: which slot is hidden; negative counts from the prompt's end.
        seed: of the draw.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together at most; fewer where their caches would exceed 1 GiB.
        progress: whether to show a bar.

    Returns:
        One row per knock-out and prompt: `way`, `layer`, `head`, `step`, `slot`, `prompt`, `first`, the nats of the
        first new token's distribution, and `nats`, summed over the text.

    Raises:
        ValueError: no prompts, steps or ways, an unknown way, a slot that isn't there, a steering that adds nothing, or
            what `kv.generate` refuses; before anything is computed. Logits that are NaN or infinite.
        KeyboardInterrupt: it was interrupted.
        UnsteerableModelError: a model that computes attention in code of its own.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> table = kv.analysis.nats_of_reading(model, prompts, steering, ["everything", "one layer"], steps=2)
        >>> table.groupby("way", sort=False).size().to_dict()
        {'everything': 2, 'one layer': 8}
    """
    method = check_intervention(model, intervention)
    whole = follow(model, prompts, method, continuations, steps, slot, chat=chat, offset=offset, batch_size=batch_size)
    outs = knock_outs(
        model, ways, from_steps, slot, others, [len(each.row.cached) for each in whole], seed, layers, heads
    )
    with counted(len(outs) * len(whole), "nats_of_reading", "row", progress) as done:
        moved = knock_out_divergences(model, whole, outs, batch_size, done)
    rows = [
        (out.way, out.layer, out.head, out.step, out.hide.slot, each.prompt, float(found[0]), float(found.sum()))
        for out, of_prompts in zip(outs, moved, strict=True)
        for each, found in zip(whole, of_prompts, strict=True)
    ]
    columns = ["way", "layer", "head", "step", "slot", "prompt", "first", "nats"]
    return pd.DataFrame(rows, columns=columns).astype({c: "Int64" for c in ("layer", "head", "step")})


def knock_out_divergences(
    model: Model,
    whole: Sequence[FollowedText],
    outs: Sequence[KnockOut],
    batch_size: int,
    done: Callable[[int], None],
) -> list[list[Float[Tensor, " steps"]]]:
    """For each knock-out and prompt, KL(read || hidden) at each step of the prompt's text, float32 on the CPU; `done`
    is told how many rows each batch had.
    """
    hidden = [out.hide.hidden(model, [0])[0] for out in outs]
    found: dict[int, list[Tensor]] = {i: [] for i in range(len(whole))}
    # knock-outs of one prompt that fit a batch, beside the run that reads
    most = rows_within(model, [each.row for each in whole], max(len(each.target) for each in whole), batch_size)
    width = min(len(hidden), max(1, most - 1))
    for group in group_rows(model, [each.row for each in whole]):
        for start in range(0, len(hidden), width):
            some = hidden[start : start + width]
            for batch, part in in_batches(
                group,
                max(1, most // (width + 1)),
                lambda b, some=some: _of_batch(model, [whole[i] for i in b], some),  # type: ignore[misc]
            ):
                for i, steps in zip(batch, part, strict=True):
                    found[i].append(steps)
                done(len(batch) * len(some))
    joined = [torch.cat(found[i])[:, : len(each.target)] for i, each in enumerate(whole)]
    return [[steps[o] for steps in joined] for o in range(len(outs))]


@locked
@torch.no_grad()
def _of_batch(
    model: Model, whole: Sequence[FollowedText], hidden: Sequence[tuple[HiddenSlot, ...]]
) -> list[Float[Tensor, "outs steps"]]:
    rows: list[Row] = [
        row for each in whole for row in (each.row, *(replace(each.row, hidden=(*each.row.hidden, *h)) for h in hidden))
    ]
    targets = [each.target for each in whole for _ in range(len(hidden) + 1)]
    steps = []
    for logits, _ in logits_along(model, rows, targets):
        for at in check_logits(logits).unbind(1):
            steps.append(kl_of_first(at.unflatten(0, (len(whole), len(hidden) + 1))).cpu())
    return list(torch.stack(steps, -1).unbind(0))
