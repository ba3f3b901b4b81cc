"""llama.cpp's C interface, out of the shared library that the package xllamacpp ships: the functions used here.

The package's own classes reach no cache. Its wheels are built for Linux, macOS and Windows, so nothing is compiled;
its library is opened by `ctypes` and its Python code isn't run. Structures are passed by value, so they must be those
of this very version of llama.cpp (`include/llama.h` of build 11549): another one is refused.
"""

from __future__ import annotations

import ctypes as c
import sys
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .._util.extras import import_extra

VERSION = "2026.10.11549"
"""Of xllamacpp. A newer one needs a look at its `llama.h` and at `llama_kv_cache::state_write`."""


class ModelParameters(c.Structure):
    """`llama_model_params`."""

    _fields_ = [
        *((name, c.c_void_p) for name in ("devices", "buffer_overrides")),
        *((name, c.c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, c.c_void_p) for name in ("tensor_split", "progress", "progress_data", "overrides")),
        *((name, c.c_bool) for name in ("vocab_only", "check_tensors", "extra_buffers", "no_host", "no_alloc", "mtp")),
    ]


class ContextParameters(c.Structure):
    """`llama_context_params`."""

    _fields_ = [
        *((name, c.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_snapshots")),
        *((name, c.c_uint32) for name in ("n_outputs", "n_outputs_sequence")),
        *((name, c.c_int32) for name in ("n_threads", "n_threads_batch")),
        *((name, c.c_int32) for name in ("kind", "rope_scaling", "pooling", "attention", "flash_attention")),
        *((name, c.c_float) for name in ("rope_base", "rope_scale", "yarn_ext", "yarn_attention", "yarn_fast")),
        *(("yarn_slow", c.c_float), ("yarn_context", c.c_uint32), ("defragment", c.c_float)),
        *(("on_eval", c.c_void_p), ("on_eval_data", c.c_void_p), ("type_k", c.c_int32), ("type_v", c.c_int32)),
        *(("expert_cache", c.c_size_t), ("on_abort", c.c_void_p), ("on_abort_data", c.c_void_p)),
        *((name, c.c_bool) for name in ("embeddings", "offload", "no_times", "offload_ops", "whole_window", "unified")),
        *(("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("other", c.c_void_p)),
    ]


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", c.c_int32),
        *((name, c.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


Log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
"""What llama.cpp's messages are given to."""
ROPE_NONE, ROPE_NEIGHBOURS, ROPE_HALVES = -1, 0, 2
"""`llama_rope_type` of models without rotation, and of those that rotate neighbours or halves of a key."""

_P, _I, _U8, _SIZE = c.c_void_p, c.c_int32, c.POINTER(c.c_uint8), c.c_size_t
_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "llama_log_set": (None, [Log, _P]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParameters, []),
    "llama_context_default_params": (ContextParameters, []),
    "llama_model_load_from_file": (_P, [c.c_char_p, ModelParameters]),
    "llama_model_free": (None, [_P]),
    "llama_init_from_model": (_P, [_P, ContextParameters]),
    "llama_free": (None, [_P]),
    "llama_model_n_layer": (_I, [_P]),
    "llama_model_n_head_kv": (_I, [_P]),
    "llama_model_n_swa": (_I, [_P]),
    "llama_model_n_ctx_train": (_I, [_P]),
    "llama_model_rope_type": (_I, [_P]),
    "llama_model_get_vocab": (_P, [_P]),
    "llama_vocab_n_tokens": (_I, [_P]),
    "llama_vocab_get_text": (c.c_char_p, [_P, _I]),
    "llama_get_memory": (_P, [_P]),
    "llama_memory_clear": (None, [_P, c.c_bool]),
    "llama_batch_get_one": (Batch, [c.POINTER(_I), _I]),
    "llama_decode": (_I, [_P, Batch]),
    "llama_get_logits_ith": (c.POINTER(c.c_float), [_P, _I]),
    "llama_state_seq_get_size": (_SIZE, [_P, _I]),
    "llama_state_seq_get_data": (_SIZE, [_P, _U8, _SIZE, _I]),
    "llama_state_seq_set_data": (_SIZE, [_P, _U8, _SIZE, _I]),
}


@lru_cache(maxsize=1)
def llama_library() -> c.CDLL:
    """The library, its functions declared, silent.

    Raises:
        ImportError: xllamacpp isn't installed.
        ValueError: another version of it, or a library without these functions.
    """
    spec = find_spec("xllamacpp")
    if spec is None:
        import_extra("xllamacpp", "llama-cpp")
    try:
        there = version("xllamacpp")
    except PackageNotFoundError:
        there = "of an unknown version"
    if there != VERSION:
        raise ValueError(f"xllamacpp {there} is installed, whose structures may differ; install xllamacpp=={VERSION}.")
    assert spec is not None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [folder / f"xllamacpp{suffix}" for folder in folders for suffix in (*EXTENSION_SUFFIXES, ".abi3.so")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(f"xllamacpp has no library for this Python; install xllamacpp=={VERSION} again.")
    library = c.CDLL(str(file))
    try:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise ValueError(f"xllamacpp's library exports no {name} on {sys.platform}; use another system.") from error
    _check_layout(library)
    library.llama_log_set(_SILENT, None)
    library.llama_backend_init()
    return library


_SILENT = Log(lambda level, text, data: None)


def _check_layout(library: c.CDLL) -> None:
    """Refuse structures whose defaults aren't where they should be."""
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    plain: dict[str, object] = dict(n_gpu_layers=-1, split_mode=1, extra_buffers=True, vocab_only=False)
    other: dict[str, object] = dict(
        n_ctx=512, n_seq_max=1, flash_attention=-1, yarn_slow=-1.0, type_k=1, type_v=1, offload=True
    )
    other |= dict(embeddings=False, whole_window=True, samplers=None, other=None)
    defaults = [(model, *one) for one in plain.items()] + [(context, *one) for one in other.items()]
    if any(getattr(structure, name) != value for structure, name, value in defaults):
        raise ValueError(f"llama.cpp's structures aren't laid out as expected; install xllamacpp=={VERSION}.")
