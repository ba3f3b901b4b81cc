"""The card that says where vectors come from, and the safetensors files that carry both."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._util.files import write_atomically
from .._util.json import first_fault, read_json
from ..models.fingerprint import UNREAD, compare_fingerprints
from ..models.model import Model

KeyMode = Literal["post_rope", "position_free"]


@dataclass(frozen=True)
class Card:
    """Where vectors come from, and so which models they fit.

    Attributes:
        model, model_type, fingerprint, dtype: the model they were extracted from.
        keys: `"post_rope"` (as cached, the paper's) or `"position_free"` (un-rotated before averaging); `None` for
            vectors of the residual stream.
        offset_id: the token to place between the steered slot and the answer.
        template_hash: of the chat template that rendered the pairs.
        n_pairs: how many pairs were averaged.
        recipe: how the pairs were made.
        history: arithmetic done since.
        note: what else a reader should know.
        version: of kvsteer_lab.

    >>> Card("tiny", "llama", "2-0123456789abcdef-01234567", "torch.float32", "post_rope", 3, None, 100).n_pairs
    100
    """

    model: str
    model_type: str
    fingerprint: str
    dtype: str
    keys: KeyMode | None
    offset_id: Annotated[int, Field(ge=0)] | None
    template_hash: str | None
    n_pairs: Annotated[int, Field(ge=0)]
    recipe: dict[str, Any] = field(default_factory=dict, repr=False)
    history: tuple[str, ...] = ()
    note: str = ""
    version: str = ""

    @classmethod
    def from_json(cls, text: str, *, what: str = "The card") -> Card:
        """A card from the text that lies in a file; fields that this version doesn't know are left out.

        Args:
            text: a JSON object.
            what: what the text is, for messages.

        Raises:
            ValueError: no JSON object, a field that is missing, or one of another type or range.

        >>> Card.from_json('{"keys": "rotated"}')
        Traceback (most recent call last):
        ValueError: The card can't be read: model: Field required, and 7 more; save or download it again.
        """
        try:
            read_json(text, what=what)
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; save or download it again.") from error
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(f"{what} can't be read: {first_fault(error)}; save or download it again.") from error

    def after(self, step: str) -> Card:
        """The card of vectors to which something more has been done.

        Args:
            step: what, in a few words; it is put at the end of the history.

        >>> card = Card("m", "llama", "2-0123456789abcdef-01234567", "torch.float32", "post_rope", 1, None, 2)
        >>> card.after("* 2").after("- 1").history
        ('* 2', '- 1')
        """
        return replace(self, history=(*self.history, step))

    def tell_of_other_model(self, other: Card) -> str:
        """How another card's model differs from this one's, as a part of a sentence; empty if it is the same.

        >>> card = Card("m", "llama", "2-0123456789abcdef-01234567", "torch.float32", "post_rope", 1, None, 2)
        >>> card.tell_of_other_model(Card("o", "llama", "2-ffff456789abcdef-01234567", "d", None, 1, None, 2))
        'are of different models, m and o'
        """
        match compare_fingerprints(self.fingerprint, other.fingerprint):
            case "same":
                return ""
            case "format":
                return "were extracted by different versions of kvsteer_lab, whose fingerprints can't be compared"
        return f"are of different models, {self.model} and {other.model}"

    def warn_of_other_weights(self, model: Model) -> None:
        """Warn where only the weights, the config or the dtype differ from those of the extraction."""
        if said := self.tell_of_other_weights(model):
            warnings.warn(said, stacklevel=4)

    def tell_of_other_weights(self, model: Model) -> str:
        """What `warn_of_other_weights` warns of; empty if there is nothing."""
        dtypes = f"in {self.dtype}, the model runs in {model.dtype}"
        if any(mark.startswith(UNREAD) for mark in (self.fingerprint, model.fingerprint)):
            return ""  # of a model that was loaded without its weights
        match compare_fingerprints(self.fingerprint, model.fingerprint):
            case "format":
                return (
                    f"The fingerprint of these vectors (extracted from {self.model}) was written by another version of"
                    f" kvsteer_lab and can't be compared with that of {model.name}; extract them again to be sure."
                )
            case "config":
                return f"These vectors were extracted from the weights of {model.name} under another config."
            case "weights":
                rounded = (
                    "" if self.dtype == str(model.dtype) else f", or from the same ones rounded: extracted {dtypes}"
                )
                return (
                    f"These vectors were extracted from other weights ({self.model}, or another adapter) than those of"
                    f" {model.name}{rounded}."
                )
        return "" if self.dtype == str(model.dtype) else f"These vectors were extracted {dtypes}."


@dataclass(frozen=True)
class Format:
    """How one kind of vectors lies in a safetensors file.

    Attributes:
        name: written into the file's metadata.
        tensors: names of the tensors.
        file: the file's name in a folder or a hub repository.
        writer: what writes such files.
    """

    name: str
    tensors: Sequence[str]
    file: str
    writer: str

    def write(self, path: str | Path, tensors: Mapping[str, Tensor], card: Card) -> Path:
        """Write tensors and card; an existing file is replaced in one step."""
        text = json.dumps(asdict(card), sort_keys=True)
        metadata = {"format": self.name, "card": text, "check": _check(tensors, text)}
        return write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, metadata=metadata))

    def read(self, source: str | Path, revision: str | None) -> tuple[dict[str, Tensor], Card]:
        """Tensors and card from a file, a folder or a hub repository.

        Raises:
            ValueError: nothing there, a truncated or damaged file, one of another kind, or a card with wrong fields.
        """
        path = self._find(source, revision)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != self.name:
                    raise ValueError(f"{path} holds no steering vectors: it was not written by {self.writer}.")
                written = metadata["card"]
                tensors = {name: file.get_tensor(name) for name in self.tensors}
        except (SafetensorError, OSError, KeyError) as error:
            raise ValueError(
                f"{path} is not a complete safetensors file ({error}); save or download it again."
            ) from error
        if "check" in metadata and metadata["check"] != _check(tensors, written):  # missing in files of version 0.1
            raise ValueError(f"{path} is damaged: it holds other vectors than were saved; save or download it again.")
        return tensors, Card.from_json(written, what=f"The card in {path}")

    def _find(self, source: str | Path, revision: str | None) -> Path:
        """A local file, the file in a folder, or one downloaded from the hub."""
        path = Path(source)
        if path.is_dir():
            path = path / self.file
        if path.is_file():
            return path
        name = str(source)
        if path.suffix == ".safetensors" or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ValueError(
                f"There are no vectors at {path}; give a file, a folder with {self.file}, or a hub repository."
            )
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return Path(hf_hub_download(name, self.file, revision=revision))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"There are no vectors at {path}, and the hub gives no {self.file} in {name!r}: {reason}"
            ) from error


KV_FORMAT = Format("kvsteer_lab.vectors.1", ("keys", "values"), "vectors.safetensors", "KVVectors.save")
"""How `KVVectors` lie in a file; it stands here, for servers read such files without a model of their own."""


def _check(tensors: Mapping[str, Tensor], card: str) -> str:
    """SHA-256 of a card and of the vectors: their names, types, shapes and values."""
    digest = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
