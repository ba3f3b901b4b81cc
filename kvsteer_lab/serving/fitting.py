"""Whether vectors belong to the model that is to be served, asked before a server is started.

A server's engine checks shapes and the offset token again when it starts. What it can't check is the fingerprint: it
lays weights out in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import AutoConfig, AutoModelForCausalLM

from ..models.architectures import CacheShape, probe_cache, refuse_by_config
from ..models.fingerprint import compare_fingerprints, fingerprint
from ..models.loading_report import check_report
from ..models.lock import locked
from ..models.missing import known_names
from .catalogue import NamedVectors


@dataclass(frozen=True)
class ServedModel:
    """What vectors are compared with.

    Attributes:
        name: where the model lies.
        model_type: its architecture.
        shape: of its cache.
        vocabulary: number of token ids that it can read.
        fingerprint: of its weights and config.
    """

    name: str
    model_type: str
    shape: CacheShape
    vocabulary: int
    fingerprint: str


@locked
def read_served_model(folder: str) -> ServedModel:
    """Load a model's weights once, on the CPU and in the dtype of their files, and forget them again.

    Args:
        folder: a folder written by `save_pretrained`, or a hub id.

    Raises:
        OSError: there is no such model.
        ValueError: it can't be steered, or its checkpoint lacks weights.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OSError(f"There is no model at {folder} ({reason}). {known_names(folder)}") from error
    refuse_by_config(config)
    hf, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, and refused below
    )
    check_report(folder, report)
    vocabulary = int(hf.get_input_embeddings().num_embeddings)
    return ServedModel(folder, hf.config.model_type, probe_cache(hf), vocabulary, fingerprint(hf))


def check_fit(vectors: Mapping[str, NamedVectors], model: ServedModel, *, any_weights: bool = False) -> list[str]:
    """Refuse vectors that can't belong to a model.

    Args:
        vectors: by name.
        model: the one to be served.
        any_weights: serve vectors of other weights, too, such as those of a base model under its fine-tuned heir.

    Returns:
        What is doubtful, one sentence each.

    Raises:
        ValueError: another architecture, shape or vocabulary; other weights, unless these are allowed.
    """
    doubts = []
    for name, one in vectors.items():
        if one.card.model_type != model.model_type:
            raise ValueError(
                f"Vectors {name!r} are of a {one.card.model_type}, {model.name} is a {model.model_type}; extract"
                " vectors from this model."
            )
        one.check_shape(model.shape.n_layers, model.shape.n_kv_heads, model.shape.head_dim)
        one.check_offset(model.vocabulary)
        match compare_fingerprints(one.card.fingerprint, model.fingerprint):
            case "weights" if not any_weights:
                raise ValueError(
                    f"Vectors {name!r} were extracted from other weights ({one.card.model}) than those of"
                    f" {model.name}; extract them again, or pass --any-weights if that is meant."
                )
            case "weights":
                doubts.append(f"Vectors {name!r} were extracted from other weights ({one.card.model}).")
            case "config":
                doubts.append(
                    f"Vectors {name!r} were extracted from these weights under another config, or another release of"
                    " transformers."
                )
            case "format":
                doubts.append(
                    f"Vectors {name!r} were extracted by another version of kvsteer_lab, whose fingerprint can't be"
                    " compared."
                )
    return doubts
