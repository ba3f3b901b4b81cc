"""What must hold of every model, stated on prompts of a real one: each against plain PyTorch or transformers."""

from __future__ import annotations

from collections.abc import Sequence

import reference
import torch
from random_models import newline

import kvsteer_lab as kv


def check_nothing(model: kv.Model, ids: Sequence[int], prompt: str, new: int, *, chat: bool = True) -> None:
    """c = 0 is `model.generate` on the prompt and the offset token."""
    expected = reference.plain(model.hf, [*ids, newline(model)], new)
    (found,) = kv.generate(model, prompt, generation={"max_new_tokens": new}, chat=chat)
    assert list(found.token_ids) == expected[: len(found.token_ids)]
    assert len(found.token_ids) == new or expected[len(found.token_ids) :][:1] in ([], [model.tokenizer.eos_token_id])


def check_rows(model: kv.Model, vectors: kv.KVVectors, prompts: Sequence[str], new: int, *, chat: bool = True) -> None:
    """Batched and forked rows are the single ones, and those of the method in plain PyTorch."""
    arms = [kv.Nothing(), kv.CacheSteering(vectors, 0, 4), kv.CacheSteering(vectors, 0.2, 4)]
    together = kv.generate(model, list(prompts), arms, generation={"max_new_tokens": new}, chat=chat)
    rows = iter(together)
    for prompt in prompts:
        ids = model.encode(prompt, chat=chat)
        texts = []
        for arm, (ck, cv) in zip(arms, [(0, 0), (0, 4), (0.2, 4)], strict=True):
            row = list(next(rows).token_ids)
            (single,) = kv.generate(model, prompt, arm, generation={"max_new_tokens": new}, chat=chat)
            steered = [torch.zeros_like(vectors.keys), torch.zeros_like(vectors.values)]
            steered[0][1:], steered[1][1:] = ck * vectors.keys[1:], cv * vectors.values[1:]
            expected = reference.steered(model.hf, ids, newline(model), steered[0], steered[1], new)
            assert row == list(single.token_ids) == expected[: len(row)]
            texts.append(row)
        assert texts[0] != texts[1] or texts[0] != texts[2], "a real delta changes something"


def check_extraction(model: kv.Model, pairs: kv.ContrastiveSet) -> kv.KVVectors:
    """Vectors are the mean difference at the last slot, computed one prompt at a time."""
    vectors = kv.extract(model, pairs, batch_size=4, progress=False)
    sides = [[model.encode(text, chat=False) for text in side] for side in (pairs.positive, pairs.negative)]
    keys, values = reference.mean_difference(model.hf, *sides)
    for found, expected in ((vectors.keys, keys), (vectors.values, values)):
        assert (found - expected).norm() <= 1e-4 * expected.norm()
        assert expected[1:].norm() > 0
    return vectors
