"""Extracting activation vectors: the mean difference of the residual stream after each layer, at the last token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.layers import hidden_size
from ..models.model import Model
from .activation import ActivationVectors
from .extraction import make_card, read_sides
from .pairs import ContrastiveSet
from .residuals import last_residuals


def extract_activations(
    model: Model, pairs: ContrastiveSet, *, batch_size: int = 16, progress: bool = True
) -> ActivationVectors:
    """The mean difference of the residual stream after each decoder layer, at the prompts' last token.

    The pairs, the slot and the batches are those of `kv.extract`. Memory does not grow with the number of pairs: only
    running sums are kept.

    Args:
        model: the model to extract from.
        pairs: the contrastive set.
        batch_size: prompts traced together; halved where memory runs out.
        progress: whether to show a bar.

    Raises:
        ValueError: a prompt beyond the context, or a model whose decoder layers aren't found.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> vectors = kv.extract_activations(model, pairs, progress=False)
        >>> (vectors.n_layers, vectors.card.n_pairs) == (model.n_layers, 4)
        True
    """
    total = torch.zeros(model.n_layers, hidden_size(model.hf), dtype=torch.float64)

    def read(
        ids: Int[Tensor, "prompts time"], mask: Int[Tensor, "prompts time"]
    ) -> Float[Tensor, "prompts layers hidden"]:
        return last_residuals(model, ids, mask)

    for signs, _, batch in read_sides(model, pairs, batch_size, read, progress):
        total += torch.einsum("p,plh->lh", signs.double(), batch.double())
    return ActivationVectors((total / len(pairs)).float(), make_card(model, pairs, None))
