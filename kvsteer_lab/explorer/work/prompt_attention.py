"""How much attention each slot of a comparison's prompt gets where the first token of the reply is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ...generation.rows import Row
from ...generation.scoring import read_rows, rows_under
from ...models.attention import Attention, Watching, query_heads
from ...models.model import Model
from ...models.token_texts import text_after
from ..results.comparison import Comparison
from ..results.prompt_attention import PromptAttention, SlotAttention
from ..state import Arm
from ..threads import Cancelled, CancelledError
from ..workspace import Workspace
from .attention import acting
from .running import holding_the_model

ARMS: tuple[Arm, ...] = ("baseline", "cache steering", "activation steering", "random control")
"""Arms that read the prompt that is shown: a CoT prompt is another one, and a response prefill is read later."""


def read_prompt_attention(
    workspace: Workspace, comparison: Comparison, cancelled: Cancelled, on_found: Callable[[PromptAttention], None]
) -> Iterator[None]:
    """Read the prompt under each arm, and the offset token after it; yields between the arms.

    Args:
        workspace: the model and what is at hand.
        comparison: whose prompt, setting and arms; where none of `ARMS` is compared, the baseline is read.
        cancelled: stops it between two arms.
        on_found: is given the numbers of all arms.

    Raises:
        UnsteerableModelError: the model's attention weights cannot be read.
        CancelledError: `cancelled` was set.
    """
    state, model = comparison.state, workspace.model
    arms = [own.arm for own in comparison.arms if own.arm in ARMS] or ["baseline"]
    found: dict[str, tuple[SlotAttention, ...]] = {}
    reader = ""
    for arm in arms:
        with holding_the_model(model, cancelled):
            method = acting(workspace.intervention(arm, state))
            (row,) = rows_under(model, method, [comparison.asked.prompt], chat=True, offset=state.offset)
            found[arm] = _by_slot(weights_on_prompt(model, row))
            reader = text_after(model.tokenizer, [], row.read[:1], skip_special_tokens=False)
        yield
        if cancelled.is_set():
            raise CancelledError
    on_found(PromptAttention(comparison, reader, found))


@torch.no_grad()
def weights_on_prompt(model: Model, row: Row) -> Float[Tensor, "layers heads slots"]:
    """Attention weights of the first token that is read after the prompt, on each slot of the prompt; 0 on slots that a
    sliding window has left behind. The lock is held by whoever calls.

    Args:
        model: the model.
        row: the prompt under an intervention.

    Raises:
        UnsteerableModelError: the model's attention weights cannot be read.
    """
    width = len(row.cached)
    weights = torch.zeros(model.n_layers, query_heads(model.hf), width)

    def look(attention: Attention) -> None:
        first = attention.slot_of(0)
        own = attention.weights[0, :, 0, max(first, 0) : width + first]
        weights[attention.layer, :, width - own.shape[-1] :] = own.float().cpu()

    with Watching(model.hf, width, look):
        read_rows(model, [row]).start()
    return weights


def _by_slot(weights: Float[Tensor, "layers heads slots"]) -> tuple[SlotAttention, ...]:
    means, heads = weights.mean((0, 1)), weights.shape[1]
    most, where = weights.flatten(0, 1).max(0)
    return tuple(
        SlotAttention(mean, at // heads, at % heads, own)
        for mean, at, own in zip(means.tolist(), where.tolist(), most.tolist(), strict=True)
    )
