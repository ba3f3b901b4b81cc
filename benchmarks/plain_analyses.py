"""Plain references for benchmarks/analyses.py: the same numbers, computed as one would write them down first.

* the logit lens: one trace for each layer and step, and both distributions of each KL computed anew;
* patching: a row, and a copy of the edited cache, for each patched run of each prompt, edit and random vector;
* attribution: one vector after another, each with prompts of its own to prefill;
* unembedded values: one trace a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import kvsteer_lab as kv
from kvsteer_lab.analysis.residual.unembedding import read_residuals, unembed
from kvsteer_lab.analysis.watched_token import log_odds
from kvsteer_lab.generation.divergence import kl
from kvsteer_lab.generation.filling import fill_rows
from kvsteer_lab.generation.rows import Row
from kvsteer_lab.generation.scoring import rows_under
from kvsteer_lab.models.attention import query_heads
from kvsteer_lab.models.heads import head_writes
from kvsteer_lab.models.layers import decoder_layers
from kvsteer_lab.models.lock import LOCK
from kvsteer_lab.models.tokens import positions

_PATCHES = tuple(product(("stream", "update"), ("restored", "removed")))


@torch.no_grad()
def lens_divergence(
    model: kv.Model,
    prompts: Sequence[Any],
    steering: kv.CacheSteering,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    controls: int,
) -> list[float]:
    """The mean KL(steered || plain) at each step and layer."""
    methods = [kv.Nothing(), steering, *steering.controls(controls, 0)]
    rows = [rows_under(model, method, prompts, chat=True, offset="\n") for method in methods]
    following = torch.tensor([text for text in texts for _ in methods])
    hidden, _ = read_residuals(model, [each[i] for i in range(len(prompts)) for each in rows], following)
    found = []
    for step in range(hidden.shape[2]):
        for layer in layers:
            logits = unembed(model, hidden[:, layer, step][:, None])[:, 0].unflatten(0, (len(prompts), len(methods)))
            plain = logits[:, :1].expand_as(logits)
            moved = kl(logits.flatten(0, 1), plain.flatten(0, 1)).unflatten(0, logits.shape[:2])
            found.append(float(moved[:, 1].mean()))
    return found


def patched_effects(
    model: kv.Model,
    prompts: Sequence[Any],
    steering: kv.CacheSteering,
    token: int,
    layers: Sequence[int],
    controls: int,
    batch: int,
) -> list[float]:
    """The mean change of the token's log-odds by each patch of each edit of the steering itself."""
    methods = [steering, *steering.controls(controls, 0)]
    sites = [[layer] for layer in steering.edited_layers if layer in layers] + [list(steering.edited_layers)]
    plain = rows_under(model, replace(steering, ck=0.0, cv=0.0), prompts, chat=True, offset="\n")
    units = []
    for number, site in enumerate(sites):
        for m, method in enumerate(methods):
            rows = rows_under(model, replace(method, layers=site), prompts, chat=True, offset="\n")
            units += [((number, m, p), (plain[p], row)) for p, row in enumerate(rows)]
    found: dict[tuple[int, int, int], Tensor] = {}
    size = max(1, batch // (2 + 4 * len(layers)))
    for start in range(0, len(units), size):
        some = units[start : start + size]
        moved = _sweep(model, [pair for _, pair in some], token, layers)
        found.update(zip((key for key, _ in some), moved, strict=True))
    own = [torch.stack([found[site, 0, p] for p in range(len(prompts))]).mean(0) for site in range(len(sites))]
    return torch.cat(own).tolist()


@torch.no_grad()
def _sweep(
    model: kv.Model, pairs: Sequence[tuple[Row, Row]], token: int, layers: Sequence[int]
) -> Float[Tensor, "pairs patches"]:
    n, height = len(layers), 2 + 4 * len(layers)
    rows = [row for plain, steered in pairs for row in (plain, steered, *([*[plain] * n, *[steered] * n] * 2))]
    before: list[Tensor] = []

    def patch(layer: int, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone().unflatten(0, (len(pairs), height))
        if layer in layers:
            for index, (what, way) in enumerate(_PATCHES):
                donor, place = int(way == "restored"), 2 + index * n + layers.index(layer)
                apart = changed[:, donor] - changed[:, place]
                if what == "update" and before:
                    apart = apart - (before[0][:, donor] - before[0][:, place])
                changed[:, place] = changed[:, place] + apart
        before[:] = [changed.clone()]
        changed = changed.flatten(0, 1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with LOCK:
        cache, ids, mask = fill_rows(model, rows)
        arguments: dict[str, Any] = {model.cache_argument: cache, "attention_mask": mask, "use_cache": True}
        start = cache.get_seq_length()
        handles = [
            layer.register_forward_hook(lambda module, given, output, index=index: patch(index, output))
            for index, layer in enumerate(decoder_layers(model.hf))
        ]
        try:
            logits = model.hf(input_ids=ids[:, start:], position_ids=positions(mask)[:, start:], **arguments).logits
        finally:
            for handle in handles:
                handle.remove()
    odds = log_odds(logits[:, -1].float(), token).unflatten(0, (len(pairs), height))
    parts = odds[:, 2:].unflatten(1, (len(_PATCHES), n))
    restored = torch.tensor([way == "restored" for _, way in _PATCHES])[None, :, None]
    return torch.where(restored, parts - odds[:, :1, None], odds[:, 1:2, None] - parts).flatten(1)


def attributed_changes(
    model: kv.Model,
    prompts: Sequence[Any],
    steering: kv.CacheSteering,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    controls: int,
) -> list[float]:
    """The change of each head's output under each vector."""
    found: list[float] = []
    for method in (steering, *steering.controls(controls, 0)):
        table = kv.analysis.attribute_heads(model, prompts, method, texts, layers=layers, batch_size=32, progress=False)
        found += table.change.tolist()
    return found


@torch.no_grad()
def unembedded_values(model: kv.Model, steering: kv.CacheSteering, layers: Sequence[int], controls: int) -> list[float]:
    """The likeliest token's logit at each head of these layers."""
    vectors = [each.cv * each.added.values for each in (steering, *steering.controls(controls, 0))]
    heads = query_heads(model.hf)
    found = []
    for layer, head in product((x for x in layers if x in steering.edited_layers), range(heads)):
        own = torch.stack([each[layer, head // (heads // model.n_kv_heads)] for each in vectors])
        logits = unembed(model, head_writes(model.hf, layer, head, own)[:, None])[:, 0].float()
        found.append(float((logits - logits.mean(1, keepdim=True))[0].max()))
    return found
