"""Tokenizers of GGUF files: the split into words that goes before byte-pair merges.

A GGUF file names this split (`tokenizer.ggml.pre`), and transformers knows some of the names. For the others it takes
GPT-2's, silently; where that is wrong, `"\\n\\n1."` becomes other tokens than those that the model was trained on.
"""

from __future__ import annotations

import warnings
from typing import Any

from tokenizers import pre_tokenizers

from .gguf_header import GGUFHeader

DIGITS = frozenset("smollm starcoder refact command-r codeshell exaone minerva-7b".split())
"""Each digit stands alone, then GPT-2's split."""
LIKE_GPT2 = frozenset("gpt-2 phi-2 mpt olmo jais roberta-bpe gigachat granite-docling jina-v2-code".split())


def split_as_trained(tokenizer: Any, header: GGUFHeader) -> None:
    """Give a tokenizer that transformers made of a GGUF file the split that the file names.

    Args:
        tokenizer: it is changed.
        header: of the file.

    Warns:
        UserWarning: nobody here knows the split of that name, so GPT-2's is used.

    >>> import kvsteer_lab as kv
    >>> import tempfile
    >>> header = GGUFHeader("x", {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}, {}, 0, {})
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> split_as_trained(copied := type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer), header)
    >>> [text for text, _ in copied.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]
    ['a', 'ĠĠ', '1', '2']
    """
    if header.fields.get("tokenizer.ggml.model") != "gpt2":
        return
    name = str(header.fields.get("tokenizer.ggml.pre", "default"))
    if name in DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif name not in LIKE_GPT2 and name not in _known_to_transformers():
        warnings.warn(
            f"{header.path} splits texts into words by the rule {name!r}, which isn't known here: GPT-2's is used, and"
            " some texts become other tokens than in the model's training; pass tokenizer=, the original one, to be"
            " sure.",
            stacklevel=5,
        )


def _known_to_transformers() -> frozenset[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # older than 5.23
        return frozenset()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)
