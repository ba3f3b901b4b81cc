"""Room behind a cache's last slot: the same contents as transformers' own cache, without its copies."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

import kvsteer_lab as kv
from kvsteer_lab.models.growing import GrowingLayer, room_to_grow


def filled(rows: int = 3, slots: int = 5) -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.randn(rows, 2, slots, 4), torch.randn(rows, 2, slots, 4), 0)
    return cache


def copied(cache: DynamicCache) -> DynamicCache:
    twin = DynamicCache()
    twin.update(cache.layers[0].keys.clone(), cache.layers[0].values.clone(), 0)
    return twin


def read(cache: DynamicCache, seed: int, new: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = cache.layers[0].keys.shape[0]
    keys, values = torch.randn(2, rows, 2, new, 4, generator=generator)
    return cache.update(keys, values, 0)


def same(cache: DynamicCache, other: DynamicCache) -> bool:
    mine, theirs = cache.layers[0], other.layers[0]
    return torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)


def test_contents_are_those_of_the_plain_cache_beyond_every_room() -> None:
    plain, roomy = (cache := filled()), copied(cache)
    with room_to_grow(roomy, tokens=200):
        for step in range(80):  # over the end of two rooms
            ours, theirs = read(roomy, step, 1 + step % 3), read(plain, step, 1 + step % 3)
            assert all(map(torch.equal, ours, theirs))
            assert roomy.get_seq_length() == plain.get_seq_length()
    assert same(roomy, plain) and type(roomy.layers[0]) is DynamicLayer
    read(roomy, 99), read(plain, 99)  # and it is a plain cache again
    assert same(roomy, plain)


def test_most_steps_copy_nothing() -> None:
    cache = filled()
    with room_to_grow(cache, tokens=64):
        at = []
        for step in range(64):
            read(cache, step)
            at.append(cache.layers[0].keys.data_ptr())
    assert len(set(at)) == 2


def test_no_room_is_made_for_more_tokens_than_will_come() -> None:
    cache = filled(slots=5)
    with room_to_grow(cache, tokens=3):
        read(cache, 0)
        assert cache.layers[0].keys.stride()[1] == 8 * 4
        read(cache, 1, new=9)  # more than was said: they are held all the same
        assert cache.get_seq_length() == 15


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.reorder_cache(torch.tensor([2, 0, 1])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.crop(-2),
        lambda cache: cache.layers[0].keys[:, :, 1].add_(3.0),
    ],
    ids=["reordered", "chosen", "repeated", "cropped", "edited in place"],
)
def test_changes_between_steps_are_kept(change) -> None:
    plain, roomy = (cache := filled()), copied(cache)
    with room_to_grow(roomy, tokens=40):
        for cache in (plain, roomy):
            read(cache, 0)
            change(cache)
            read(cache, 1)
            read(cache, 2)
        assert same(roomy, plain)


def test_other_layers_and_no_cache_are_left_alone() -> None:
    window = DynamicCache()
    window.layers.append(DynamicSlidingWindowLayer(sliding_window=4))
    empty = DynamicCache()
    empty.layers.append(DynamicLayer())
    with room_to_grow(window, 8), room_to_grow(empty, 8), room_to_grow(None, 8):
        assert type(window.layers[0]) is DynamicSlidingWindowLayer and type(empty.layers[0]) is DynamicLayer


def test_an_error_leaves_a_plain_cache() -> None:
    cache = filled()
    with pytest.raises(KeyError), room_to_grow(cache, tokens=8):
        raise KeyError
    assert type(cache.layers[0]) is DynamicLayer and not hasattr(cache.layers[0], "rooms")


def test_texts_are_decoded_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = GrowingLayer.update
    monkeypatch.setattr(
        GrowingLayer, "update", lambda layer, *given, **more: used.append(1) or original(layer, *given, **more)
    )
    kv.generate(kv.load("tiny"), "How many?", generation={"max_new_tokens": 4})
    assert used
