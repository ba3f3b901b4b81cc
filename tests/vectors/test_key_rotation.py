"""Keys as cached and position-free."""

import numpy as np

import kvsteer_lab as kv
from kvsteer_lab.vectors import key_norms


def test_norms_as_cached_and_position_free_are_those_of_both_extractions(tiny):
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=6, shots=2)
    table = key_norms(tiny, pairs, progress=False)
    for column, keys in (("as_cached", "post_rope"), ("position_free", "position_free")):
        own = kv.extract(tiny, pairs, keys=keys, progress=False).keys.flatten(1).norm(dim=-1)
        np.testing.assert_allclose(table[column], own, rtol=1e-5)
    assert (table.content_share < 1).any() and table.layer.tolist() == [0, 1, 2, 3]
