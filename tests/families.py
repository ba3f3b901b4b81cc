"""Chat templates and special tokens of some model families, written anew for tests."""

from __future__ import annotations

from dataclasses import dataclass

_HEADER = "{% for m in messages %}"
LLAMA_3 = (
    _HEADER
    + "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    + "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    + _HEADER
    + "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{%"
    " endfor %}" + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN = (
    _HEADER + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt"
    " %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A tokenizer's special tokens, its template, and the end tokens of its model's generation config."""

    special: tuple[str, ...]
    named: dict[str, str]
    template: str | None
    own_ends: tuple[str, ...] | str
    ends: tuple[str, ...]


FAMILIES = {
    "llama-3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        LLAMA_3,
        ("<|end_of_text|>", "<|eot_id|>"),
        ("<|end_of_text|>", "<|eot_id|>"),
    ),
    "llama-3 base": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        LLAMA_3,
        "<|end_of_text|>",
        ("<|end_of_text|>", "<|eot_id|>"),
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
        GEMMA,
        "<eos>",
        ("<eos>", "<end_of_turn>"),
    ),
    "gpt-2": Family(
        ("<|endoftext|>",),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        None,
        "<|endoftext|>",
        ("<|endoftext|>",),
    ),
    "gpt-2, pad is eos": Family(
        ("<|endoftext|>",),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        None,
        "<|endoftext|>",
        ("<|endoftext|>",),
    ),
    "qwen": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        QWEN,
        ("<|im_end|>", "<|endoftext|>"),
        ("<|im_end|>", "<|endoftext|>"),
    ),
}
