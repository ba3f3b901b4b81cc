"""One sequence in llama.cpp, whose last cached slot can be added to through its state.

`llama_state_seq_get_data` writes a sequence's cache out, and `llama_state_seq_set_data` takes it back. The stream
between them is described nowhere but in `llama_kv_cache::state_write`; it is walked word by word, and what isn't as
expected there is refused before a single byte is changed.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .llama_library import ROPE_HALVES, ROPE_NEIGHBOURS, ROPE_NONE, llama_library

CACHES = {"f32": 0, "f16": 1}
"""Types of cache that can be added to, with ggml's numbers. A quantised one rounds whole blocks of values together."""
_NUMPY: dict[str, Any] = {"f32": np.float32, "f16": np.float16}
_BATCH = 512
_MAGIC = 0xAF143CD8  # with which llama.cpp begins a state of one sequence; it changes with the layout


class LlamaEngine:
    """A GGUF file in llama.cpp with room for one sequence.

    Args:
        path: the file.
        context: how many tokens there is room for.
        cache: how keys and values are held: `"f32"` or `"f16"`.
        threads: of the processor.

    Attributes:
        n_layers, n_kv_heads, head_dim, n_tokens: of the model.
        context: how many tokens there is room for.
        rotates_neighbours: whether a key's pairs are neighbours, and not the two halves.

    Raises:
        ImportError: xllamacpp isn't installed.
        ValueError: the file can't be loaded, an unknown type of cache, or a model with sliding windows or without keys
            and values of its own in each layer.
    """

    def __init__(self, path: str | Path, context: int, cache: str = "f32", threads: int = 1) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache={cache!r} can't be added to in llama.cpp; choose one of: {', '.join(CACHES)}.")
        self._api: Any = llama_library()
        api, self.cache, self.context = self._api, cache, context
        weights = api.llama_model_default_params()
        weights.n_gpu_layers = 0  # the processor's sums, on every machine
        self._model = api.llama_model_load_from_file(os.fsencode(path), weights)
        if not self._model:
            raise ValueError(f"llama.cpp can't load {path}; give a complete GGUF file.")
        self.n_layers = int(api.llama_model_n_layer(self._model))
        self.n_kv_heads = int(api.llama_model_n_head_kv(self._model))
        self._vocabulary = api.llama_model_get_vocab(self._model)
        self.n_tokens = int(api.llama_vocab_n_tokens(self._vocabulary))
        rope = api.llama_model_rope_type(self._model)
        if rope not in (ROPE_NONE, ROPE_NEIGHBOURS, ROPE_HALVES):
            raise ValueError(f"{path} rotates its keys in several dimensions, which can't be steered in llama.cpp.")
        if api.llama_model_n_swa(self._model) > 0:
            raise ValueError(f"{path} has sliding windows, whose cache llama.cpp keeps apart; use transformers for it.")
        self.rotates_neighbours = rope == ROPE_NEIGHBOURS
        asked = api.llama_context_default_params()
        asked.n_ctx, asked.n_batch, asked.n_seq_max = context, _BATCH, 1
        asked.n_threads = asked.n_threads_batch = threads
        asked.type_k = asked.type_v = CACHES[cache]
        asked.flash_attention = 0  # off: the same sums in the same order on every machine
        self._context = api.llama_init_from_model(self._model, asked)
        if not self._context:
            raise ValueError(f"llama.cpp has no room for {context} tokens of {path}; ask for fewer.")
        self._length = 0
        self.prefill([0])
        width = _Stream(self.state(), 1, self.n_layers, cache).width
        self.head_dim = width // self.n_kv_heads

    def tokens(self) -> list[bytes]:
        """The text of every token, as the file has it."""
        return [self._api.llama_vocab_get_text(self._vocabulary, i) or b"" for i in range(self.n_tokens)]

    def prefill(self, ids: Sequence[int]) -> None:
        """Begin anew with a prompt, which may be empty."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._length = 0
        if ids:
            self.read(ids)

    def read(self, ids: Sequence[int]) -> Float[np.ndarray, " vocabulary"]:
        """Read tokens behind what is cached; the logits of the next one.

        Raises:
            ValueError: llama.cpp can't go on.
        """
        for start in range(0, len(ids), _BATCH):
            some = list(ids[start : start + _BATCH])
            array = (ctypes.c_int32 * len(some))(*some)
            if self._api.llama_decode(self._context, self._api.llama_batch_get_one(array, len(some))) != 0:
                raise ValueError(f"llama.cpp could not read {len(some)} tokens behind {self._length}; ask for fewer.")
            self._length += len(some)
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, (self.n_tokens,)).copy()

    def state(self) -> bytearray:
        """The sequence's cache as llama.cpp writes it."""
        size = int(self._api.llama_state_seq_get_size(self._context, 0))
        buffer = (ctypes.c_uint8 * size)()
        if self._api.llama_state_seq_get_data(self._context, buffer, size, 0) != size:
            raise ValueError("llama.cpp wrote another state than it announced; use another version of it.")
        return bytearray(buffer)

    def restore(self, state: bytearray, length: int) -> None:
        """Go on from a state of `length` tokens.

        Raises:
            ValueError: llama.cpp doesn't take it.
        """
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        if self._api.llama_state_seq_set_data(self._context, buffer, len(state), 0) != len(state):
            raise ValueError("llama.cpp doesn't take back the state that it wrote; use another version of it.")
        self._length = length

    def added(
        self, state: bytearray, length: int, keys: Float[np.ndarray, "l h d"], values: Float[np.ndarray, "l h d"]
    ) -> bytearray:
        """A copy of a state with something added to its last slot, in float32, cast once.

        Args:
            state: of `length` tokens.
            length: how many tokens it has.
            keys, values: `[layers, kv_heads, head_dim]`, keys in the order of the file.

        Raises:
            ValueError: a stream that isn't understood, or a sum that is infinite in the cache's type.
        """
        edited = bytearray(state)
        stream = _Stream(edited, length, self.n_layers, self.cache)
        for layer in range(self.n_layers):
            for slot, more in ((stream.keys[layer], keys[layer]), (stream.values[layer], values[layer])):
                with np.errstate(over="ignore"):
                    slot[:] = slot.astype(np.float32) + more.reshape(-1)
                if not np.isfinite(slot).all():
                    raise ValueError(f"What is added is infinite in an {self.cache} cache; lower the coefficients.")
        return edited

    def close(self) -> None:
        """Free the model and its cache."""
        if self._context:
            self._api.llama_free(self._context)
            self._api.llama_model_free(self._model)
            self._context = self._model = None


class _Stream:
    """Views of the last slot in a state: `keys[layer]` and `values[layer]`, each of the model's KV width."""

    def __init__(self, state: bytearray, length: int, n_layers: int, cache: str) -> None:
        dtype = np.dtype(_NUMPY[cache])
        self.at = 0
        self.state = state
        self._expect(self._take("<Ii") == (_MAGIC, 0))
        self._expect(self._take("<II") == (1, length))
        for position in range(length):
            self._expect(self._take("<iIi") == (position, 1, 0))
        transposed, layers = self._take("<II")
        self._expect(transposed in (0, 1) and layers == n_layers)
        self._expect(
            self._take("<II") == (0, 0)
        )  # keys and values that aren't rotated once more, as quantised ones are
        self.keys = [self._row(length, dtype, cache) for _ in range(n_layers)]
        self.values = [(self._column if transposed else self._row)(length, dtype, cache) for _ in range(n_layers)]
        self._expect(self.at == len(state) and len({part.size for part in (*self.keys, *self.values)}) == 1)
        self.width = self.keys[0].size

    def _row(self, length: int, dtype: np.dtype, cache: str) -> Any:
        kind, size = self._take("<iQ")
        self._expect(kind == CACHES[cache] and size % dtype.itemsize == 0)
        return self._array(length, size // dtype.itemsize, dtype)[-1]

    def _column(self, length: int, dtype: np.dtype, cache: str) -> Any:
        kind, size, width = self._take("<iII")
        self._expect(kind == CACHES[cache] and size == dtype.itemsize)
        return self._array(width, length, dtype)[:, -1]

    def _array(self, rows: int, columns: int, dtype: np.dtype) -> Any:
        count = rows * columns
        self._expect(self.at + count * dtype.itemsize <= len(self.state))
        found = np.frombuffer(self.state, dtype, count, self.at).reshape(rows, columns)
        self.at += count * dtype.itemsize
        return found

    def _take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        self._expect(self.at + size <= len(self.state))
        found = struct.unpack_from(form, self.state, self.at)
        self.at += size
        return found

    def _expect(self, holds: bool) -> None:
        if not holds:
            raise ValueError(
                f"llama.cpp's state isn't laid out as expected (at byte {self.at}); use the version of xllamacpp that"
                " kvsteer-lab[llama-cpp] installs."
            )
