"""Salts of cached blocks, and where a paged cache keeps keys and values, without an engine."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
import torch

from kvsteer_lab.serving.layout import add_to_slot, find_places, own_heads
from kvsteer_lab.serving.salting import first_own_block, salted

BLOCK = 16


def hash_blocks(tokens: list[int]):
    """A hasher as engines have one: each full block's hash is chained to the one before."""

    def hasher(request):
        made, before = [], request.block_hashes[-1] if request.block_hashes else b""
        for start in range(len(request.block_hashes) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            before = hashlib.sha256(before + bytes(tokens[start : start + BLOCK])).digest()
            made.append(before)
        return made

    return hasher


def hashes(tokens, position=None, nonce=None):
    hasher = hash_blocks(tokens)
    if position is not None:
        hasher = salted(hasher, first_own_block(position, BLOCK), nonce)
    request = SimpleNamespace(block_hashes=[])
    request.block_hashes += hasher(request)
    return request.block_hashes


@pytest.mark.parametrize("position", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK, 5 * BLOCK - 1])
def test_blocks_before_the_edited_one_are_shared_and_no_others(position):
    tokens = list(range(5 * BLOCK))
    plain, one, other = hashes(tokens), hashes(tokens, position), hashes(tokens, position)
    shared = position // BLOCK
    assert one[:shared] == other[:shared] == plain[:shared]
    assert len({*plain[shared:], *one[shared:], *other[shared:]}) == 3 * (5 - shared)


def test_blocks_that_come_later_are_salted_too():
    """A reply's blocks are hashed as they fill; they read the edit."""
    tokens = list(range(4 * BLOCK))
    hasher = salted(hash_blocks(tokens[: 2 * BLOCK]), 1, b"n")
    request = SimpleNamespace(block_hashes=[])
    request.block_hashes += hasher(request)
    later = salted(hash_blocks(tokens), 1, b"n")(request)
    assert len(later) == 2 and not set(later) & set(hashes(tokens))


def test_a_salt_that_equal_requests_share_would_be_no_salt():
    tokens = list(range(3 * BLOCK))
    assert hashes(tokens, 20, b"digest") == hashes(tokens, 20, b"digest")


LAYOUTS = {
    "tokens before heads": lambda b, t, h, d: (torch.zeros(b, 2, t, h, d), lambda c: c.unbind(1)),
    "heads before tokens": lambda b, t, h, d: (
        torch.zeros(b, 2, h, t, d),
        lambda c: [part.transpose(1, 2) for part in c.unbind(1)],
    ),
    "side by side": lambda b, t, h, d: (
        torch.zeros(b, h, t, 2 * d),
        lambda c: c.transpose(1, 2).split(d, dim=-1),
    ),
    "one after the other by head": lambda b, t, h, d: (
        torch.zeros(b, h, 2 * t, d),
        lambda c: [part.transpose(1, 2) for part in c.chunk(2, dim=2)],
    ),
    "transposed in memory": lambda b, t, h, d: (
        torch.zeros(b, h, t, 2 * d).transpose(1, 2).contiguous().transpose(1, 2),
        lambda c: c.transpose(1, 2).split(d, dim=-1),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_places_are_found_in_every_layout(name, dtype):
    blocks, tokens, heads, width = 3, 8, 3, 16
    cache, parts = LAYOUTS[name](blocks, tokens, heads, width)
    cache = cache.to(dtype)
    cache.copy_(torch.randn(cache.shape))
    before = cache.clone()

    def write(keys, values, slots):
        k, v = parts(cache)
        k[slots // tokens, slots % tokens], v[slots // tokens, slots % tokens] = keys, values

    places = find_places(write, cache, heads, width)
    assert torch.equal(cache, before)  # what was in the block is put back
    added = torch.randn(2, heads, width)
    slot = tokens + 5
    add_to_slot(cache, places, slot, added)
    for index, (now, was) in enumerate(zip(parts(cache), parts(before), strict=True)):
        expected = was.clone()
        expected[1, 5] = (expected[1, 5].float() + added[index]).to(dtype)
        assert torch.equal(now, expected)


def test_layouts_that_are_not_understood_are_refused():
    cache = torch.zeros(2, 2, 8, 3, 16)

    def forgets_values(keys, values, slots):
        cache[slots // 8, 0, slots % 8] = keys

    before = cache.clone()
    with pytest.raises(ValueError, match="can't be read"):
        find_places(forgets_values, cache, 3, 16)
    assert torch.equal(cache, before)
    with pytest.raises(ValueError, match="--kv-cache-dtype auto"):
        find_places(forgets_values, cache.to(torch.uint8), 3, 16)
    with pytest.raises(ValueError, match="keys and values of 5 heads"):
        find_places(forgets_values, cache, 5, 16)


@pytest.mark.parametrize(
    ("total", "local", "world", "expected"),
    [(4, 4, 1, [[0, 1, 2, 3]]), (4, 2, 2, [[0, 1], [2, 3]]), (2, 1, 4, [[0], [0], [1], [1]]), (3, 3, 1, [[0, 1, 2]])],
)
def test_heads_are_split_or_repeated_over_ranks(total, local, world, expected):
    added = torch.arange(float(total)).view(1, total, 1).expand(2, total, 1)
    assert [own_heads(added, local, rank, world)[0, :, 0].tolist() for rank in range(world)] == expected
