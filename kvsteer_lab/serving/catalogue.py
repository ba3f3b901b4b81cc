"""The vectors that a server's owner has named, as every process of the server reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._util.json import read_json
from ..vectors.cards import KV_FORMAT, Card
from .request import LIMIT, MAX_LAYERS, SteeringRequest, check_name, read_request

VARIABLE = "KVSTEER_SERVING"
"""The environment variable with names, files and limits, as JSON; a server's processes inherit it."""
IN_PROCESS = "in this process"
"""`VARIABLE` for an engine without a server: its catalogue is empty, and filled by the process that it lives in."""
MAX_BODY_MB = 16


@dataclass(frozen=True)
class NamedVectors:
    """Vectors that requests may name.

    Attributes:
        path: their file.
        keys, values: float32 `[layers, kv_heads, head_dim]`.
        card: where they come from.
        offset_id: the token that is read from the edited cache.
        forced: what is read behind it, before the first new token.
    """

    path: str
    keys: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    values: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    card: Card
    offset_id: int
    forced: tuple[int, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> NamedVectors:
        """Read a file that `KVVectors.save` wrote.

        Raises:
            ValueError: another file, keys without position, no offset token, zeros only, NaN or infinity.
        """
        tensors, card = KV_FORMAT.read(path, None)
        keys, values = tensors["keys"].float(), tensors["values"].float()
        if keys.shape != values.shape or keys.ndim != 3 or not 0 < keys.shape[0] <= MAX_LAYERS:
            raise ValueError(f"{path} holds no keys and values of one shape [layers, kv_heads, head_dim].")
        if card.keys != "post_rope":
            raise ValueError(
                f"{path} holds {card.keys} keys, which a server can't rotate to their slot; extract them with"
                " keys='post_rope'."
            )
        if card.offset_id is None:
            raise ValueError(f"{path} says no offset token, which would read the edited cache; extract it again.")
        if not (torch.isfinite(keys).all() and torch.isfinite(values).all()):
            raise ValueError(f"{path} holds NaN or infinity; extract it again, in float32 or bfloat16.")
        if not (keys[1:].any() or values[1:].any()):
            raise ValueError(f"{path} holds zeros only, so nothing would be steered; extract it again.")
        return cls(str(path), keys, values, card, card.offset_id)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, KV heads, head width."""
        n_layers, heads, width = self.keys.shape
        return n_layers, heads, width

    def check_shape(self, n_layers: int, n_kv_heads: int, head_dim: int) -> None:
        """Refuse a model whose cache these vectors can't be added to.

        Raises:
            ValueError: another number of layers or KV heads, or another head width.
        """
        there = (n_layers, n_kv_heads, head_dim)
        if self.shape != there:
            form = "{} layers, {} KV heads of width {}"
            raise ValueError(
                f"{self.path} is for {form.format(*self.shape)}, the served model has {form.format(*there)}; extract"
                " vectors from this model."
            )

    def check_offset(self, vocabulary: int) -> None:
        """Refuse an offset token that the model doesn't have: reading it would end the engine.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        if self.offset_id >= vocabulary:
            raise ValueError(
                f"{self.path} has offset token {self.offset_id}, the served model has tokens 0 to {vocabulary - 1};"
                " extract vectors from this model."
            )


@dataclass(frozen=True)
class Catalogue:
    """All that a server knows about steering: vectors by name, and limits.

    Attributes:
        vectors: by the names that requests use.
        limit: the largest coefficient, either sign.
        body_megabytes: the largest body of a request.
        behind_middleware: whether requests come through `Admission`; only an engine without a server has none.
    """

    vectors: Mapping[str, NamedVectors]
    limit: float = LIMIT
    body_megabytes: int = MAX_BODY_MB
    behind_middleware: bool = True

    @classmethod
    def load(
        cls,
        files: Mapping[str, str | Path],
        limit: float = LIMIT,
        body_megabytes: int = MAX_BODY_MB,
        behind_middleware: bool = True,
    ) -> Catalogue:
        """Read vectors from files.

        Raises:
            ValueError: none at all, a name that is none, a limit that isn't positive, or as `NamedVectors.load`.
        """
        if not files:
            raise ValueError("No vectors are named; pass --vectors NAME=FILE.safetensors at least once.")
        if not (0 < limit < float("inf") and body_megabytes > 0):
            raise ValueError("The limits of coefficients and of bodies must be positive numbers.")
        paths = {check_name(name): str(Path(path).absolute()) for name, path in files.items()}
        found = {name: NamedVectors.load(path) for name, path in paths.items()}
        return cls(found, float(limit), body_megabytes, behind_middleware)

    def to_variable(self) -> str:
        """What `VARIABLE` is set to, for `from_environment` in other processes."""
        return json.dumps(
            {
                "vectors": {name: one.path for name, one in self.vectors.items()},
                "limit": self.limit,
                "body_megabytes": self.body_megabytes,
                "behind_middleware": self.behind_middleware,
            }
        )

    @classmethod
    def from_environment(cls) -> Catalogue:
        """The catalogue that the environment names.

        Raises:
            ValueError: `VARIABLE` isn't set, or can't be read.
        """
        text = os.environ.get(VARIABLE)
        if text == IN_PROCESS:
            return cls({}, float("inf"), behind_middleware=False)
        if text is None:
            raise ValueError(f"{VARIABLE} isn't set; start the server with the command that `kvsteer serve` prints.")
        said = read_json(text, what=VARIABLE)
        try:
            return cls.load(said["vectors"], said["limit"], said["body_megabytes"], said["behind_middleware"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{VARIABLE} can't be read; `kvsteer serve` prints how it is set.") from error

    def read(self, asked: object) -> SteeringRequest:
        """A request's field, checked against this server; raises as `read_request`."""
        return read_request(asked, {name: one.shape[0] for name, one in self.vectors.items()}, self.limit)

    def added(self, request: SteeringRequest) -> Float[Tensor, "part layers kv_heads head_dim"]:
        """What a request adds to keys and values, float32: coefficients folded in, zeros in all other layers."""
        own = self.vectors[request.vectors]
        n_layers = own.shape[0]
        mask = torch.zeros(n_layers, 1, 1)
        mask[list(range(1, n_layers) if request.layers is None else request.layers)] = 1
        return torch.stack([request.ck * (own.keys * mask), request.cv * (own.values * mask)])

    def listing(self) -> dict[str, Any]:
        """What a client may know: names, shapes and origin, no paths."""
        return {
            "object": "list",
            "limit": self.limit,
            "vectors": [
                {
                    "name": name,
                    "layers": one.shape[0],
                    "kv_heads": one.shape[1],
                    "head_dim": one.shape[2],
                    "model": one.card.model,
                    "fingerprint": one.card.fingerprint,
                    "offset_id": one.offset_id,
                    "style": one.card.recipe.get("style"),
                }
                for name, one in self.vectors.items()
            ],
        }
