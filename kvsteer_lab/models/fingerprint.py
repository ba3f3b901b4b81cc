"""The fingerprint of a model: a checksum of every weight, of the active adapters and of the config.

**What is hashed.** All bits of all parameters and buffers, as 128-bit xxh3 checksums; of PEFT layers only the adapters
that are active, with their scaling; and what the config sets beside names, paths and token ids. Values count, not the
dtype that holds them: float16 and bfloat16 are exact in float32, so a bfloat16 checkpoint has one fingerprint in
both. Float32 weights that are rounded to bfloat16 are other weights, and have another one. Buffers that are computed at
load (the frequencies of RoPE) are rounded to bfloat16 first, because GPUs and CPUs differ in their last bits.

**When.** A checksum is remembered with its tensor's identity, address and version counter, which PyTorch increments at
every in-place operation; `Model.fingerprint` reads a tensor again when one of these has changed. Writing through
`tensor.data` or NumPy doesn't count versions, so `Model.read_fingerprint`, which everything uses that is stored (runs,
cards, figure stamps), forgets what is remembered and reads all weights again: some 8 GB a second on one core, so 0.07 s
for 135 million float32 parameters and 2 s for 8 billion in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import xxhash
from torch import Tensor, nn
from transformers import PreTrainedModel

FORMAT = "2"
"""The first part of every fingerprint; files of earlier releases have 16 hex digits without it."""

UNREAD = "unread-"
"""How the fingerprint of a model begins whose weights lie elsewhere."""

_MARKS = frozenset(
    "_name_or_path name_or_path transformers_version architectures dtype torch_dtype use_cache auto_map model_type"
    " bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id quantization_config"
    " output_attentions output_hidden_states return_dict id2label label2id problem_type _attn_implementation"
    " _attn_implementation_internal attn_implementation".split()
)
"""What a config says that changes no logit."""
_FLAGS = ("clean_up_tokenization_spaces", "split_special_tokens", "eos_token", "bos_token", "unk_token")


class Checksums:
    """Checksums of tensors, remembered until a tensor changes.

    >>> import torch
    >>> known, weight = Checksums(), torch.ones(3)
    >>> before = known.of("weight", weight)
    >>> weight[1] = 2
    >>> known.of("weight", weight) == before
    False
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Any, str]] = {}

    def of(self, name: str, tensor: Tensor) -> str:
        """The checksum of a tensor, read anew if it was never read, or changed in place or exchanged since."""
        state = _state(tensor)
        if state is not None and (known := self._known.get(name)) and known[0]() is tensor and known[1] == state:
            return known[2]
        found = checksum(tensor)
        if state is not None:
            self._known[name] = (weakref.ref(tensor), state, found)
        return found

    def forget(self) -> None:
        """Read every tensor again the next time."""
        self._known.clear()


def fingerprint(hf: PreTrainedModel, known: Checksums | None = None) -> str:
    """What identifies a model: `2-`, 16 hex digits of the weights and adapters, `-`, and 8 of the config.

    Args:
        hf: the model.
        known: checksums of before; `None`: every weight is read.

    >>> import kvsteer_lab as kv
    >>> fingerprint(kv.load("tiny").hf) == kv.load("tiny").fingerprint
    True
    """
    known = Checksums() if known is None else known
    places, scales = _adapters(hf)
    found = [(place, *named) for named in _tensors(hf) if (place := _name(named[0], places)) is not None]
    digest = hashlib.sha256(json.dumps(scales).encode())
    for place, name, tensor, is_computed in sorted(found, key=lambda one: one[0]):
        digest.update(f"{place} {tuple(tensor.shape)} ".encode())
        digest.update((checksum(_rounded(tensor)) if is_computed else known.of(name, tensor)).encode())
    return f"{FORMAT}-{digest.hexdigest()[:16]}-{config_hash(hf)[:8]}"


def config_hash(hf: PreTrainedModel) -> str:
    """SHA-256 of what a model's config sets beside its class's defaults: RoPE, epsilons, windows, soft caps."""

    def kept(part: Any) -> Any:
        return {k: kept(v) for k, v in part.items() if k not in _MARKS} if isinstance(part, dict) else part

    found = kept(json.loads(json.dumps(hf.config.to_diff_dict(), default=str)))
    return hashlib.sha256(json.dumps([hf.config.model_type, found], sort_keys=True).encode()).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str | None:
    """A short hash of how a tokenizer splits text and puts it together again; its padding doesn't count.

    >>> import kvsteer_lab as kv
    >>> tokenizer_hash(kv.load("tiny").tokenizer) == tokenizer_hash(kv.load("tiny-control").tokenizer)
    True
    """
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = sorted(tokenizer.get_vocab().items())
    else:
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    special = sorted(int(token) for token in getattr(tokenizer, "all_special_ids", ()))
    own = [type(tokenizer).__name__, special, *(getattr(tokenizer, flag, None) for flag in _FLAGS)]
    return hashlib.sha256(json.dumps([rules, own], sort_keys=True, default=str).encode()).hexdigest()[:16]


def compare_fingerprints(there: str, here: str) -> Literal["same", "config", "weights", "format"]:
    """What two fingerprints differ in; `"format"` where one of them is of another version, so that nobody knows.

    >>> compare_fingerprints("2-0123456789abcdef-01234567", "2-0123456789abcdef-89abcdef")
    'config'
    >>> compare_fingerprints("0123456789abcdef", "2-0123456789abcdef-89abcdef")
    'format'
    """
    if there == here:
        return "same"
    a, b = (found if len(found := mark.split("-")) == 3 else ["1", mark, ""] for mark in (there, here))
    if a[0] != b[0]:
        return "format"
    return "config" if a[1] == b[1] else "weights"


def checksum(tensor: Tensor) -> str:
    """32 hex digits of a tensor's values: of all bits, the same on every device, and in every dtype that loses none.

    >>> import torch
    >>> checksum(torch.ones(4)) == checksum(torch.ones(4, dtype=torch.bfloat16))
    True
    """
    if (inner := _inner(tensor)) is not None:
        return xxhash.xxh3_128_hexdigest("".join(map(checksum, inner)).encode())
    if tensor.device.type == "meta":
        return "meta"
    flat = tensor.detach().reshape(-1)
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return _hash(str(tensor.dtype), (piece.contiguous().view(torch.uint8) for piece in _pieces(flat)))
    if tensor.dtype == torch.bfloat16:
        return _hash("bfloat16", (piece.view(torch.int16) for piece in _pieces(flat)))
    if not any(_halves(piece)[:, 0].any() for piece in _pieces(flat)):  # bfloat16 would hold it, too
        return _hash("bfloat16", (_halves(piece)[:, 1].contiguous() for piece in _pieces(flat)))
    return _hash("float32", map(_halves, _pieces(flat)))


def _pieces(flat: Tensor) -> Sequence[Tensor]:
    """Parts that stay in a CPU's cache, or that are worth a copy from a GPU."""
    return flat.split(1 << 16 if flat.device.type == "cpu" else 1 << 24)


def _halves(piece: Tensor) -> Tensor:
    """The bits of values as float32: `[values, 2]`, the lower halves first."""
    return piece.to(torch.float32).view(torch.int16).view(-1, 2)


def _hash(kind: str, pieces: Iterable[Tensor]) -> str:
    digest = xxhash.xxh3_128(kind.encode())
    for piece in pieces:
        digest.update(piece.cpu().numpy().data)
    return digest.hexdigest()


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _state(tensor: Tensor) -> tuple[Any, ...] | None:
    """What changes when a tensor is changed in place; `None` where that isn't known."""
    if _inner(tensor) is not None:
        return None
    try:
        return tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype, tensor.device
    except RuntimeError:  # a tensor of inference mode counts no versions
        return None


def _inner(tensor: Tensor) -> list[Tensor] | None:
    """The tensors that a quantised one is made of."""
    if type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    state = getattr(tensor, "quant_state", None)  # bitsandbytes keeps it beside the values
    return None if state is None else [tensor.detach(), *state.as_dict(packed=True).values()]


def _tensors(hf: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Every parameter and buffer once: its name, its values, and whether it is computed at load."""
    seen: set[int] = set()
    for prefix, module in hf.named_modules():
        offloaded = getattr(getattr(module, "_hf_hook", None), "weights_map", None)  # by accelerate: to disk or CPU
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is None or id(tensor) in seen or _moves(module, name):
                    continue
                seen.add(id(tensor))
                if tensor.device.type == "meta" and offloaded is not None:
                    tensor = offloaded[name]
                yield f"{prefix}.{name}", tensor, own is module._buffers and name in module._non_persistent_buffers_set


def _moves(module: nn.Module, buffer: str) -> bool:
    """Whether a buffer is computed anew for longer prompts, as RoPE's frequencies are under some kinds of scaling."""
    kinds = getattr(module, "rope_type", "")
    return "inv_freq" in buffer and any(kind in str(kinds) for kind in ("dynamic", "longrope"))


def _adapters(hf: nn.Module) -> tuple[dict[str, str | None], list[Any]]:
    """PEFT's layers: what each adapter's tensors are called here (`None`: the adapter isn't active), and scalings."""
    places: dict[str, str | None] = {}
    scales: list[Any] = []
    for prefix, module in hf.named_modules():
        if not hasattr(module, "adapter_layer_names") or not hasattr(module, "active_adapters"):
            continue
        parts = [*module.adapter_layer_names, *getattr(module, "other_param_names", ())]
        own = {part: list(getattr(module, part).keys()) for part in parts if hasattr(getattr(module, part), "keys")}
        active = [] if module.disable_adapters or module.merged else list(module.active_adapters)
        active = [adapter for adapter in active if any(adapter in names for names in own.values())]
        for part, names in own.items():
            for adapter in names:
                place = f"{prefix}.{part}.{active.index(adapter)}" if adapter in active else None
                places[f"{prefix}.{part}.{adapter}"] = place
        scaling = getattr(module, "scaling", {})
        if active and isinstance(scaling, dict):
            scales.append([prefix, [scaling.get(adapter) for adapter in active]])
    return places, scales


def _name(name: str, places: dict[str, str | None]) -> str | None:
    """A tensor's name without its adapter's and without PEFT's mark of a wrapped layer; `None` if it isn't active."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        start = ".".join(parts[:end])
        if start in places:
            place = places[start]
            return None if place is None else place + name[len(start) :]
    return name.replace(".base_layer.", ".")
