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
from ..models.gguf import find_gguf
from ..models.model import Model
from ..serving.llama_engine import LlamaEngine
from ..serving.llama_fitting import check_same_model, order_of_keys

NAME = "llama.cpp"


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp on a GGUF file of the same model. It adds to the prompt's last slot; sampled texts see the same noise
    as elsewhere.

    The model that `kv.generate` is given renders and tokenises prompts, so it must have the file's tokens and shapes;
    its own weights aren't used (`kv.load_weightless` has none). In float32 the tokens are those of transformers; a
    quantised file is another model, and a stored run's identity holds its checksum.

    Args:
        path: the file, or a folder with one.
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
        with self._file.open("rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
        return {"backend": NAME, "file": digest.hexdigest(), "cache": self.cache}

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Refuse what isn't an addition to the last slot, penalties, and a file of another model."""
        check_plain(settings, NAME)
        for row in rows:
            last_slot_addition(row, NAME)
        engine = self._engine(rows, settings)
        check_same_model(model, engine, self._file)

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

    @cached_property
    def _file(self) -> Path:
        file = find_gguf(Path(self.path).expanduser())
        if file is None:
            raise ValueError(f"There is no GGUF file at {self.path}; give a .gguf file, or a folder with one.")
        return file

    def _engine(self, rows: Sequence[Row], settings: Settings) -> LlamaEngine:
        need = max(len(row.prompt_ids) + len(row.tail) for row in rows) + settings.max_new_tokens
        room = next((room for room in sorted(self._engines) if room >= need), None)
        if room is None:
            for small in self._engines.values():
                small.close()
            self._engines.clear()
            room = -(-need // 512) * 512
            self._engines[room] = LlamaEngine(self._file, room, self.cache, self.threads)
        return self._engines[room]
