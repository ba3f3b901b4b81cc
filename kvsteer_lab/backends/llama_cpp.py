"""Decoding in llama.cpp: GGUF files, one sequence at a time, the last slot edited through the sequence's state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from ..generation.backend import Finished, check_plain, ended, last_slot_addition
from ..generation.rows import Row
from ..generation.sampling import SharedNoise
from ..generation.settings import Settings
from ..models.finite import NotFiniteError
from ..models.model import Model
from ..serving.llama_engine import LlamaEngine

NAME = "llama.cpp"


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp on a GGUF file of the same model. It adds to the prompt's last slot; sampled texts see the same noise
    as elsewhere.

    The model that `kv.generate` is given renders and tokenises prompts, so it must have the file's tokens and shapes;
    its own weights aren't used (`kv.load_weightless` has none). In float32 the tokens are those of transformers; a
    quantised file is another model, and a stored run's identity holds its checksum.

    Args:
        path: the file.
        cache: how keys and values are held: `"f32"` or `"f16"`.
        threads: of the processor.

    >>> LlamaCpp("model.gguf", cache="f16")
    LlamaCpp(path='model.gguf', cache='f16', threads=1)
    """

    path: str | Path
    cache: str = "f32"
    threads: int = 1
    _engines: dict[int, LlamaEngine] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """The file's checksum and the cache's type."""
        digest = xxhash.xxh3_128()
        with open(self.path, "rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
        return {"backend": NAME, "file": digest.hexdigest(), "cache": self.cache}

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Refuse what isn't an addition to the last slot, penalties, and a file of another model."""
        check_plain(settings, NAME)
        for row in rows:
            last_slot_addition(row, NAME)
        engine = self._engine(rows, settings)
        there = (engine.n_layers, engine.n_kv_heads, engine.head_dim)
        if there != (model.n_layers, model.n_kv_heads, model.head_dim) or engine.n_tokens != model.n_tokens:
            form = "{} layers, {} KV heads of width {}, {} tokens"
            raise ValueError(
                f"{self.path} has {form.format(*there, engine.n_tokens)}; {model.name} has"
                f" {form.format(model.n_layers, model.n_kv_heads, model.head_dim, model.n_tokens)}; give the file of"
                " the same model."
            )
        texts = engine.tokens()
        known = model.tokenizer.convert_ids_to_tokens(range(min(len(model.tokenizer), len(texts))))
        for token, text in enumerate(known):
            if text is not None and text.encode() != texts[token]:
                raise ValueError(
                    f"Token {token} is {texts[token].decode(errors='replace')!r} in {self.path} and {text!r} in"
                    f" {model.name}; give the file of the same model."
                )
        order_of_keys(model, engine)

    def decode(self, model: Model, rows: Sequence[Row], settings: Settings, seed: int) -> Iterator[Finished]:
        """Decode row by row; a prompt is read once for all its rows."""
        engine, prompts = self._engine(rows, settings), defaultdict[tuple[int, ...], list[int]](list)
        order = order_of_keys(model, engine)
        for i, row in enumerate(rows):
            prompts[row.cached].append(i)
        for prompt, numbers in prompts.items():
            engine.prefill(prompt)
            state = engine.state()
            for i in numbers:
                added = last_slot_addition(rows[i], NAME)
                edited = bytearray(state) if added is None else self._edit(engine, state, len(prompt), added, order)
                engine.restore(edited, len(prompt))
                yield [(i, self._continue(engine, rows[i], settings, seed))]

    def _edit(
        self,
        engine: LlamaEngine,
        state: bytearray,
        length: int,
        added: Float[Tensor, "part layers kv_heads head_dim"],
        order: list[int],
    ) -> bytearray:
        keys, values = added.numpy()
        return engine.added(state, length, np.ascontiguousarray(keys[..., order]), values)

    def _continue(self, engine: LlamaEngine, row: Row, settings: Settings, seed: int) -> list[int]:
        noise = [*settings.warpers, SharedNoise([row.noise_key], seed)] if settings.sample else []
        read, new = list(row.read), list[int]()
        while not ended(new, settings):
            scores = torch.from_numpy(engine.read(read))[None]
            if not scores.isfinite().all():
                raise NotFiniteError(f"The logits under {row.label!r} are NaN or infinite; lower the coefficients.")
            ids = torch.tensor([[*row.prompt_ids, *row.tail, *new]])
            for processor in noise:
                scores = processor(ids, scores)
            new.append(int(scores.argmax()))
            read = new[-1:]
        return settings.stop.cut(new)

    def _engine(self, rows: Sequence[Row], settings: Settings) -> LlamaEngine:
        need = max(len(row.prompt_ids) + len(row.tail) for row in rows) + settings.max_new_tokens
        room = next((room for room in sorted(self._engines) if room >= need), None)
        if room is None:
            for small in self._engines.values():
                small.close()
            self._engines.clear()
            room = -(-need // 512) * 512
            self._engines[room] = LlamaEngine(self.path, room, self.cache, self.threads)
        return self._engines[room]


def order_of_keys(model: Model, engine: LlamaEngine) -> list[int]:
    """Where each entry of a file's key stands in transformers' key: llama.cpp rotates neighbours in some architectures
    whose pairs are the two halves in transformers.

    Args:
        model: as transformers has it.
        engine: the same model in llama.cpp.

    Returns:
        `head_dim` places.

    Raises:
        ValueError: rotations that don't correspond.
    """
    modes, width = set(model.rotary.modes), engine.head_dim
    if modes == {"half"} and engine.rotates_neighbours:
        cos, _ = model.rotary.angles(torch.tensor([1]), 0, "half")
        if cos.shape[-1] == width:
            return [half * width // 2 + pair for pair in range(width // 2) for half in (0, 1)]
    elif modes in ({"none"}, {"interleaved"} if engine.rotates_neighbours else {"half"}):
        return list(range(width))
    raise ValueError(
        f"{model.name} rotates its keys in a way that llama.cpp's layout isn't known for; run it without backend=..."
    )
