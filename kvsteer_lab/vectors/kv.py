"""Steering vectors: mean differences of cached keys and values, and the card that says where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.model import Model
from ..models.prompts import Prompt
from .card_page import describe
from .cards import KV_FORMAT, Card
from .hub import fetch_file, push_files
from .indices import Indices, check_indices
from .norms import slot_norms


@dataclass(frozen=True)
class KVVectors:
    """What cache steering adds at coefficient 1: the mean difference of keys and values (Belitsky et al. 2025).

    S_l = mean over pairs of x_l(positive)[last token] - x_l(negative)[last token], for x = K and x = V of each layer l.

    Attributes:
        keys, values: float32 `[layers, kv_heads, head_dim]`, on the CPU.
        card: provenance.

    Raises:
        ValueError: shapes that differ or aren't three-dimensional, NaN or infinity.
    """

    keys: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    values: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    card: Card

    def __post_init__(self) -> None:
        if self.keys.shape != self.values.shape or self.keys.ndim != 3:
            found = f"{tuple(self.keys.shape)} and {tuple(self.values.shape)}"
            raise ValueError(f"Vectors need keys and values of one shape [layers, kv_heads, head_dim], not {found}.")
        for name in ("keys", "values"):
            part = getattr(self, name).detach().to("cpu", torch.float32).contiguous()
            if not torch.isfinite(part).all():  # after the cast: 1e300 is a number in float64 only
                raise ValueError(
                    f"The vectors' {name} hold NaN or infinity; extract them again, in float32 or bfloat16."
                )
            object.__setattr__(self, name, part)

    @property
    def n_layers(self) -> int:
        """Layers, steered or not."""
        return self.keys.shape[0]

    @property
    def n_kv_heads(self) -> int:
        """Heads as stored in the cache."""
        return self.keys.shape[1]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.keys.shape[2]

    @property
    def is_zero(self) -> bool:
        """Whether there is nothing to add in any layer."""
        return not (self.keys.any() or self.values.any())

    # --- arithmetic -------------------------------------------------------------------------------------------

    def __add__(self, other: KVVectors) -> KVVectors:
        return self._combine(other, 1.0, "+")

    def __sub__(self, other: KVVectors) -> KVVectors:
        return self._combine(other, -1.0, "-")

    def __mul__(self, factor: float) -> KVVectors:
        return self._scaled(float(factor), f"* {factor:g}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> KVVectors:
        if divisor == 0:
            raise ValueError("Vectors can't be divided by zero.")
        return self._scaled(1 / float(divisor), f"/ {divisor:g}")

    def __neg__(self) -> KVVectors:
        return self * -1.0

    def only(self, layers: Indices | None = None, heads: Indices | None = None) -> KVVectors:
        """The same vectors with zeros outside the named layers and KV heads (`None`: all of them).

        Raises:
            ValueError: a layer or head out of range.

        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
        >>> vectors = KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card)
        >>> vectors.only([1]).norms()["values"].tolist()
        [0.0, 2.0]
        """
        mask = torch.zeros(self.n_layers, self.n_kv_heads, 1)
        chosen_layers = check_indices("layer", layers, self.n_layers)
        chosen_heads = check_indices("KV head", heads, self.n_kv_heads)
        mask[torch.tensor(chosen_layers, dtype=torch.long)[:, None], torch.tensor(chosen_heads, dtype=torch.long)] = 1
        step = (
            f"only layers={'all' if layers is None else chosen_layers} heads={'all' if heads is None else chosen_heads}"
        )
        return KVVectors(self.keys * mask, self.values * mask, self.card.after(step))

    # --- sizes ------------------------------------------------------------------------------------------------

    def norms(self) -> pd.DataFrame:
        """Euclidean norms: one row a layer and KV head, columns `layer`, `head`, `keys`, `values`.

        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
        >>> vectors = KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card)
        >>> vectors.norms()["keys"].tolist()
        [2.0, 2.0]
        """
        index = pd.MultiIndex.from_product([range(self.n_layers), range(self.n_kv_heads)], names=["layer", "head"])
        table = pd.DataFrame(
            {n: getattr(self, n).norm(dim=-1).flatten().double().numpy() for n in ("keys", "values")}, index=index
        )
        return table.reset_index()

    def relative_to(
        self, model: Model, prompts: Prompt | Sequence[Prompt], *, slot: int = -1, chat: bool = True
    ) -> pd.DataFrame:
        """The relative strength at coefficient 1: |S| over the norm of the steered slot's own keys or values, per
        layer.

        Multiply by a coefficient to get that coefficient's relative strength. Layers are compared whole (all KV heads
        at once).

        Args:
            model: the model to be steered.
            prompts: prompts whose cached slot is measured; ratios are averaged over them.
            slot: the one that is to be steered, as in `CacheSteering`.
            chat: as in `kv.generate`.

        Returns:
            A table with columns `layer`, `keys`, `values`; NaN where a layer's sliding window has dropped the slot.

        Raises:
            ValueError: vectors of another model, or a prompt without such a slot.
        """

        self.check_fits(model)
        own = slot_norms(model, prompts, slot=slot, chat=chat)
        size = {n: getattr(self, n).flatten(1).norm(dim=-1) for n in ("keys", "values")}
        ratios = {n: (size[n] / own[n].clamp_min(1e-12)).mean(0).double().numpy() for n in size}
        return pd.DataFrame({"layer": range(self.n_layers), **ratios})

    # --- fit --------------------------------------------------------------------------------------------------

    def check_fits(self, model: Model) -> None:
        """Refuse a model that these vectors can't belong to; warn where only the weights or the dtype differ.

        Raises:
            ValueError: another architecture, or another number of layers, KV heads or head width.
        """
        here = (model.model_type, model.n_layers, model.n_kv_heads, model.head_dim)
        there = (self.card.model_type, self.n_layers, self.n_kv_heads, self.head_dim)
        if here != there:
            form = "{} with {} layers, {} KV heads of width {}"
            raise ValueError(
                f"These vectors are of a {form.format(*there)}, the model is a {form.format(*here)}; extract vectors"
                " from this model."
            )
        self.card.warn_of_other_weights(model)

    # --- files ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the card in its metadata; an existing file is replaced in one step.

        Args:
            path: where to.

        Returns:
            The path.

        Raises:
            OSError: the folder can't be written or the disk is full; an old file survives.

        >>> import tempfile
        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
        >>> vectors = KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     KVVectors.load(vectors.save(f"{folder}/vectors.safetensors")).card == card
        True
        """
        return KV_FORMAT.write(path, {"keys": self.keys, "values": self.values}, self.card)

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> KVVectors:
        """Read vectors from a file, a folder with `vectors.safetensors`, or a hub repository that holds that file.

        Raises:
            ValueError: nothing there, a truncated file, or one that kvsteer_lab didn't write.
        """
        tensors, card = KV_FORMAT.read(source, revision)
        return cls(tensors["keys"], tensors["values"], card)

    def page(self, title: str, *, licence: str = "mit") -> str:
        """The card as a markdown page, as `push` writes it.

        Args:
            title: of the page; on the hub the repository's name.
            licence: of the vectors, as the hub calls it.

        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2, {"style": "brief"})
        >>> "# me/brief" in KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card).page("me/brief")
        True
        """
        shape = f"keys and values, {self.n_layers} layers x {self.n_kv_heads} KV heads x {self.head_dim}, float32"
        return describe(
            self.card, title, licence=licence, shape=shape, load=f'vectors = kv.KVVectors.from_hub("{title}")'
        )

    def push(self, name: str, *, licence: str = "mit", private: bool = False, endpoint: str | None = None) -> str:
        """Upload the vectors to a repository of the hub, with their card as its page.

        Measure what they do first (`kv.Claim.measure(...).on(vectors)`), so that the page and `kvsteer verify` can say
        it. The token is that of `hf auth login`.

        Args:
            name: of the repository, `user/name`; it is made where there is none.
            licence: as the hub calls it.
            private: whether a new repository is private.
            endpoint: another hub than huggingface.co.

        Returns:
            The commit's address.

        Raises:
            ValueError: a wrong name, no token, or what the hub refuses, with its reason.

        >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2)
        >>> KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), card).push("brief")
        Traceback (most recent call last):
        ValueError: 'brief' is no repository of the hub; write it as 'user/name'.
        """
        return push_files(
            name, KV_FORMAT.file, self.save, self.page(name, licence=licence), private=private, endpoint=endpoint
        )

    @classmethod
    def from_hub(cls, name: str, *, revision: str | None = None, endpoint: str | None = None) -> KVVectors:
        """Vectors from a repository of the hub.

        Args:
            name: of the repository, `user/name`.
            revision: branch, tag or commit; name a commit where results shall be had again.
            endpoint: another hub than huggingface.co.

        Raises:
            ValueError: a wrong name, nothing there, or a file that kvsteer_lab didn't write.

        >>> KVVectors.from_hub("brief")
        Traceback (most recent call last):
        ValueError: 'brief' is no repository of the hub; write it as 'user/name'.
        """
        return cls.load(fetch_file(name, KV_FORMAT.file, revision, endpoint))

    def _combine(self, other: KVVectors, sign: float, symbol: str) -> KVVectors:
        if self.keys.shape != other.keys.shape or self.card.model_type != other.card.model_type:
            raise ValueError("Vectors of different architectures or shapes can't be combined.")
        if self.card.keys != other.card.keys:
            raise ValueError(
                f"Vectors with {self.card.keys} and {other.card.keys} keys can't be combined; extract both the same"
                " way."
            )
        recipe = other.card.recipe
        step = f"{symbol} {recipe.get('style', 'vectors')} of {other.card.n_pairs} pairs"
        return KVVectors(self.keys + sign * other.keys, self.values + sign * other.values, self.card.after(step))

    def _scaled(self, factor: float, step: str) -> KVVectors:
        return KVVectors(self.keys * factor, self.values * factor, self.card.after(step))
