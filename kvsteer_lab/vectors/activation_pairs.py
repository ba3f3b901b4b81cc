"""The residual stream's difference in every single pair."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.layers import hidden_size
from ..models.model import Model
from .activation import ActivationVectors
from .cards import Card
from .extraction import make_card, read_sides
from .pairs import ContrastiveSet
from .residuals import last_residuals


@dataclass(frozen=True)
class ActivationDifferences:
    """The difference of every single pair, as `PairDifferences` for keys and values.

    Attributes:
        residuals: float32 `[pairs, layers, hidden]`.
        card: as the mean's.
    """

    residuals: Float[Tensor, "pairs layers hidden"] = field(repr=False)
    card: Card

    def __len__(self) -> int:
        return self.residuals.shape[0]

    def mean(self) -> ActivationVectors:
        """The steering vectors, the same as `kv.extract_activations` gives on these pairs."""
        return ActivationVectors(self.residuals.double().mean(0).float(), self.card)


def extract_activation_pairs(
    model: Model, pairs: ContrastiveSet, *, batch_size: int = 16, progress: bool = True
) -> ActivationDifferences:
    """Every pair's own difference; arguments and errors as in `kv.extract_activations`.

    Args:
        model: the model to extract from.
        pairs: the contrastive set.
        batch_size: prompts traced together; halved where memory runs out.
        progress: whether to show a bar.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.vectors.extract_activation_pairs(kv.load("tiny"), pairs, progress=False)
        >>> len(differences), differences.mean().n_layers
        (2, 4)
    """
    found = torch.zeros(len(pairs), model.n_layers, hidden_size(model.hf))
    sides = read_sides(model, pairs, batch_size, lambda ids, mask: last_residuals(model, ids, mask), progress)
    for signs, pair, batch in sides:
        found.index_add_(0, pair, signs[:, None, None] * batch)
    return ActivationDifferences(found, make_card(model, pairs, None))
