"""Vectors for activation steering: mean differences of the residual stream, or vectors that other packages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.layers import hidden_size
from ..models.model import Model
from ..models.prompts import Prompt
from .cards import Card, Format
from .indices import Indices, check_indices
from .residuals import residual_norms

_FORMAT = Format("kvsteer_lab.activations.1", ("residuals",), "activations.safetensors", "ActivationVectors.save")


@dataclass(frozen=True)
class ActivationVectors:
    """What activation steering adds at coefficient 1, a vector for each layer (difference of means; Turner et al. 2023,
    Rimsky et al. 2024).

    S_l = mean over pairs of h_l(positive)[last token] - h_l(negative)[last token], where h_l is the residual stream
    after decoder layer l.

    Attributes:
        residuals: float32 `[layers, hidden]`, on the CPU; row l belongs to the output of decoder layer l, counted from
            0.
        card: provenance.

    Raises:
        ValueError: a tensor that isn't two-dimensional, NaN or infinity.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
        >>> vectors = kv.ActivationVectors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), card)
        >>> vectors.n_layers, vectors.hidden_size
        (2, 2)
    """

    residuals: Float[Tensor, "layers hidden"] = field(repr=False)
    card: Card

    def __post_init__(self) -> None:
        if self.residuals.ndim != 2:
            raise ValueError(f"Activation vectors need the shape [layers, hidden], not {tuple(self.residuals.shape)}.")
        residuals = self.residuals.detach().to("cpu", torch.float32).contiguous()
        if not torch.isfinite(residuals).all():  # after the cast: 1e300 is a number in float64 only
            raise ValueError("The activation vectors hold NaN or infinity; extract them again, in float32 or bfloat16.")
        object.__setattr__(self, "residuals", residuals)

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return self.residuals.shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.residuals.shape[1]

    @property
    def is_zero(self) -> bool:
        """Whether there is nothing to add in any layer."""
        return not self.residuals.any()

    def only(self, layers: Indices | None = None) -> ActivationVectors:
        """The same vectors with zeros outside the named layers (`None`: all of them).

        Args:
            layers: those that are kept.

        Raises:
            ValueError: a layer out of range.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
            >>> vectors = kv.ActivationVectors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), card)
            >>> vectors.only([1]).residuals.tolist()
            [[0.0, 0.0], [0.0, 1.0]]
        """
        chosen = check_indices("layer", layers, self.n_layers)
        residuals = torch.zeros_like(self.residuals)
        residuals[chosen] = self.residuals[chosen]
        step = f"only layers={'all' if layers is None else chosen}"
        return ActivationVectors(residuals, self.card.after(step))

    # --- sizes ------------------------------------------------------------------------------------------------

    def norms(self) -> pd.DataFrame:
        """Euclidean norms: one row a layer, columns `layer`, `residuals`.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
            >>> vectors = kv.ActivationVectors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), card)
            >>> vectors.norms().residuals.tolist()
            [5.0, 1.0]
        """
        return pd.DataFrame({"layer": range(self.n_layers), "residuals": self.residuals.norm(dim=-1).double().numpy()})

    def relative_to(self, model: Model, prompts: Prompt | Sequence[Prompt], *, chat: bool = True) -> pd.DataFrame:
        """The relative strength at coefficient 1: |S_l| over the norm of the residual stream at the steered slot, per
        layer.

        Args:
            model: the model to be steered.
            prompts: prompts whose last token is measured; ratios are averaged over them.
            chat: as in `kv.generate`.

        Returns:
            A table with columns `layer`, `residuals`.

        Raises:
            ValueError: vectors that don't fit the model, or what `Model.encode` refuses.

        Example:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
            >>> vectors = kv.extract_activations(model, pairs, progress=False)
            >>> list(vectors.relative_to(model, "What is 2 + 3?").columns)
            ['layer', 'residuals']
        """
        self.check_fits(model)
        own = residual_norms(model, prompts, chat=chat)
        ratio = (self.residuals.norm(dim=-1) / own.clamp_min(1e-12)).mean(0)
        return pd.DataFrame({"layer": range(self.n_layers), "residuals": ratio.double().numpy()})

    # --- fit --------------------------------------------------------------------------------------------------

    def check_fits(self, model: Model) -> None:
        """Refuse a model that these vectors can't belong to; warn where only the weights or the dtype differ.

        Args:
            model: the model to be steered.

        Raises:
            ValueError: another architecture, or another number of layers or hidden width.

        Example:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
            >>> vectors = kv.extract_activations(model, pairs, progress=False)
            >>> vectors.check_fits(model)
        """
        here = (model.model_type, model.n_layers, hidden_size(model.hf))
        there = (self.card.model_type, self.n_layers, self.hidden_size)
        if here != there:
            form = "{} with {} layers of width {}"
            raise ValueError(
                f"These vectors are of a {form.format(*there)}, the model is a {form.format(*here)}; extract vectors"
                " from this model."
            )
        self.card.warn_of_other_weights(model)

    # --- files ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the card in its metadata; an existing file is replaced in one step.

        Args:
            path: where.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
            >>> vectors = kv.ActivationVectors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), card)
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> with TemporaryDirectory() as folder:
            ...     path = vectors.save(Path(folder) / "activations.safetensors")
            ...     bool((kv.ActivationVectors.load(path).residuals == vectors.residuals).all())
            True
        """
        return _FORMAT.write(path, {"residuals": self.residuals}, self.card)

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> ActivationVectors:
        """Read vectors from a file, a folder with `activations.safetensors`, or a hub repository that holds that file.

        Args:
            source: the file, the folder or the repository's name.
            revision: branch, tag or commit of the repository.

        Raises:
            ValueError: nothing there, a truncated file, or one that kvsteer_lab didn't write.
        """
        tensors, card = _FORMAT.read(source, revision)
        return cls(tensors["residuals"], card)

    @classmethod
    def from_repeng(cls, source: Any, model: Model) -> ActivationVectors:
        """Vectors of the repeng package: a GGUF file that its `export_gguf` wrote (or llama.cpp's), or a
        `ControlVector` in memory.

        `direction.N`, as `directions[N]`, belongs to the output of decoder layer N counted from 0. Layers without a
        direction (layer 0 as a rule) get zeros. repeng's directions are unit vectors of a principal component unless
        they were scaled. repeng adds them to every token: its texts are those of `kv.ActivationSteering(...,
        scope="all tokens", offset="")`, and not those of the other scopes.

        Args:
            source: a path ending in `.gguf` (needs the gguf package), or an object with `.directions`, layer -> vector.
            model: the model to be steered, which tells how many layers there are.

        Raises:
            ValueError: no such file, another kind of file or model, layers or widths that the model doesn't have.

        Example:
            >>> from types import SimpleNamespace
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> control = SimpleNamespace(model_type="llama", directions={2: torch.ones(128)})  # a repeng.ControlVector
            >>> kv.ActivationVectors.from_repeng(control, kv.load("tiny")).norms().residuals.gt(0).tolist()
            [False, False, True, False]
        """
        from .foreign import from_repeng

        return from_repeng(source, model)

    @classmethod
    def from_steering_vectors(cls, source: Any, model: Model) -> ActivationVectors:
        """Vectors of the steering-vectors package: a `SteeringVector` in memory, or a safetensors file with a tensor
        `layer.N` for each layer.

        `layer_activations[N]` belongs to the output of decoder layer N counted from 0 (negative N from the end). Layers
        without one get zeros. The package adds them to every token by default: its texts are those of
        `kv.ActivationSteering(..., scope="all tokens", offset="")`. With `min_token_index=-1` they are those of scope
        `"onward"` where it generates with a cache, and of `"last position"` where it doesn't. The package has no file
        format of its own, and pickles run code: write `save_file({f"layer.{n}": v.contiguous() for n, v in
        vector.layer_activations.items()}, path)` with safetensors.torch where it was trained.

        Args:
            source: a path ending in `.safetensors`, or an object with `.layer_activations`, layer -> tensor.
            model: the model to be steered, which tells how many layers there are.

        Raises:
            ValueError: no such file, another kind of file, vectors of another place than the decoder layers' output, or
                layers and widths that the model doesn't have.

        Example:
            >>> from types import SimpleNamespace
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> vector = SimpleNamespace(layer_activations={-1: torch.ones(128)})  # a steering_vectors.SteeringVector
            >>> kv.ActivationVectors.from_steering_vectors(vector, kv.load("tiny")).norms().residuals.gt(0).tolist()
            [False, False, False, True]
        """
        from .foreign import from_steering_vectors

        return from_steering_vectors(source, model)

    @classmethod
    def from_steering_lite(cls, source: Any, model: Model) -> ActivationVectors:
        """Vectors of the steering-lite package: a safetensors file that its `vector.save` wrote, of the methods that
        add one vector a layer (`mean_diff`, `pca`).

        `layerN.v` belongs to the output of decoder layer N counted from 0. The package adds them to every token, times
        the coefficient that it calibrated, which the card's note repeats: its texts are those of
        `kv.ActivationSteering(..., scope="all tokens", offset="")` at that coefficient.

        Args:
            source: a path ending in `.safetensors`.
            model: the model to be steered, which tells how many layers there are.

        Raises:
            ValueError: no such file, another kind of file or method, or layers and widths that the model doesn't have.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from safetensors.torch import save_file
            >>> import kvsteer_lab as kv
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = f"{folder}/honest.safetensors"
            ...     config = {"cfg": '{"method": "mean_diff", "coeff": 2.5}'}
            ...     save_file({"layer2.v": torch.ones(128)}, path, metadata=config)
            ...     vectors = kv.ActivationVectors.from_steering_lite(path, kv.load("tiny"))
            >>> vectors.norms().residuals.gt(0).tolist(), vectors.card.note[-4:]
            ([False, False, True, False], '2.5.')
        """
        from .foreign import from_steering_lite

        return from_steering_lite(source, model)
