"""Decoding in vLLM's engine in this process: many rows at a time, the last slot edited between the engine's steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from .._util.extras import import_extra
from ..generation.backend import Finished, check_greedy, last_slot_addition
from ..generation.rows import Row
from ..generation.settings import Settings
from ..models.fingerprint import compare_fingerprints
from ..models.model import Model
from ..serving.fitting import ServedModel, read_served_model
from ..serving.launch import PLUGIN, locate_model

NAME = "vLLM"


@dataclass(frozen=True)
class VLLM:
    """vLLM's engine in this process, on the same model. It adds to the prompt's last slot and decodes greedily.

    It needs an environment with vLLM. The engine starts when texts are first asked for and stays for the next ones;
    another `VLLM` ends it, for a process has one. The model that `kv.generate` is given renders and tokenises prompts;
    its own weights aren't used (`kv.load_weightless` has none), but must be the same. In float32 the tokens are those
    of transformers. Logits that overflow aren't noticed: try large coefficients without it first.

    Args:
        path: a name, folder or hub id as in `kv.load`, no GGUF file.
        dtype: of weights and cache, as vLLM names it: `"float32"`, `"bfloat16"`; `None`: the given model's.
        context: how many tokens a prompt and its reply may have.
        cache_gb: GiB for the cache of all rows.
        rows: how many are decoded at a time.
        eager: whether the engine starts faster and decodes without compiled code and CUDA graphs.

    >>> VLLM("smollm2-135m", context=1024)
    VLLM(path='smollm2-135m', dtype=None, context=1024, cache_gb=1.0, rows=64, eager=False)
    """

    path: str | Path
    dtype: str | None = None
    context: int = 2048
    cache_gb: float = 1.0
    rows: int = 64
    eager: bool = False

    @property
    def about(self) -> Mapping[str, Any]:
        """The fingerprint of the weights that vLLM reads, and their dtype if it is chosen here."""
        return {"backend": "vllm", "weights": self._served.fingerprint, "dtype": self.dtype}

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Refuse what isn't an addition to the last slot, sampling, another model, and what vLLM can't run."""
        check_greedy(settings, NAME)
        for row in rows:
            last_slot_addition(row, NAME)
        need = max((len(row.prompt_ids) + len(row.tail) for row in rows), default=0) + settings.max_new_tokens
        if need > self.context:
            raise ValueError(
                f"The longest prompt and its reply need {need} tokens, and {NAME} has a context of {self.context};"
                f" lower max_new_tokens, or make the backend with context={need}."
            )
        import_extra("vllm", "vllm")
        served = self._served
        here = (model.n_layers, model.n_kv_heads, model.head_dim)
        if (served.shape.n_layers, served.shape.n_kv_heads, served.shape.head_dim) != here or (
            compare_fingerprints(served.fingerprint, model.fingerprint) == "weights"
        ):
            raise ValueError(f"{self.path} has other weights than {model.name}; give the backend the same model.")
        self._engine(model)

    def decode(self, model: Model, rows: Sequence[Row], settings: Settings, seed: int) -> Iterator[Finished]:
        """Decode all rows together."""
        engine = self._engine(model)
        asked = [(list(row.prompt_ids), list(row.tail), last_slot_addition(row, NAME)) for row in rows]
        found = engine.decode(asked, settings.max_new_tokens, sorted(settings.eos))
        yield [(i, settings.reply_of(new)) for i, new in enumerate(found)]

    def _engine(self, model: Model) -> Any:
        dtype = self.dtype or str(model.dtype).removeprefix("torch.")
        return import_module(PLUGIN).OfflineEngine.of(
            self._folder, dtype, self.context, self.cache_gb, self.rows, self.eager
        )

    @cached_property
    def _folder(self) -> str:
        return locate_model(str(self.path))

    @cached_property
    def _served(self) -> ServedModel:
        return read_served_model(self._folder)
