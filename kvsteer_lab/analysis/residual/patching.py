"""Activation patching between a steered and a plain run: residual streams, or what single layers add to them, are
exchanged layer by layer. It shows in which layers the edit of one layer is read and used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor

from ..._util.batching import check_batch_size, in_batches
from ...generation.rows import Row
from ...generation.scoring import rows_under
from ...interventions.cache import CacheSteering
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ...stats.intervals import paired_bootstrap
from ...stats.significance import control_p
from ..checks import check_steering
from ..watched_token import first_tokens, log_odds, token_id
from .unembedding import read_residuals

_FALSE_ALARM = 0.05
_PATCHES = tuple(product(("stream", "update"), ("restored", "removed")))


def patch_residuals(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    steering: CacheSteering,
    token: str | int | None = None,
    *,
    controls: int = 40,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 1024,
) -> pd.DataFrame:
    """Edit the cache of one layer only (and of all), and patch the token that first reads it, layer by layer (Meng et
    al. 2022; Wang et al. 2023).

    What is patched: the "stream" after decoder layer l (what enters layer l + 1), counted from 0; or the "update",
    what layer l adds to the stream, with the rest of the stream left as it is in that run. Which way: "restored" puts
    the steered run's into the plain run, whose cache is plain; "removed" puts the plain run's into the steered run,
    whose cache is edited. The effect is the change of the token's log-odds, log p / (1 - p), as the first token.

    An edit in one layer i is read by this token once, in layer i. So its stream patches are 0 before layer i and the
    whole effect from layer i on, on any model: that is a check and not a finding. Findings are the updates after layer
    i (what later layers make of it), and the edit of all layers, where streams tell a first reading from later ones.
    Shares need not add up to 1: layers can do each other's work, or undo it.

    Every patched run, both runs they are made of, and all random vectors are rows of the same forward passes, which
    read one token: for each prompt, edited layer (and all of them), and vector, 2 + 4 layers of them.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`; two or more.
        steering: what is added to the cache; its layers are edited one at a time, and together.
        token: whose log-odds are measured: a text that is one token, or an id; `None`: the commonest first token of the
            steered run.
        controls: random vectors of the same norms; 0: none.
        seed: of the random vectors and of the bootstrap.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together; halved where memory runs out.

    Returns:
        One row per edited layer (`inject`, or `"all"`), `patch` ("stream", "update"), `way` ("restored", "removed") and
        `layer`: `token`, `n`; `effect`, the mean change of the token's log-odds by the edit, in nats, with its 95%
        bootstrap interval `effect_low`, `effect_high`, and `p_effect`, the share of random vectors (plus one) that move
        it as far; `nats`, the mean change by the patch, and `share`, its ratio to the effect, with a 95% bootstrap
        interval over prompts `low`, `high`, missing where p_effect > 0.05: a share of no effect is noise; `random_low`,
        `random_high`, the middle 95% of what patching the random vectors' runs changes, in nats; `flipped`, the number
        of prompts whose likeliest first token the edit turns into `token`, and `flips`, how many of these the patch
        turns likewise (restored) or back (removed).

    Raises:
        ValueError: a single prompt, zero vectors, no layers, a token that isn't one, or what `kv.generate` refuses;
            before anything is computed. Logits that are NaN or infinite.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6, layers=[1])
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> table = kv.analysis.patch_residuals(model, prompts, steering, "Step", controls=0)
        >>> restored = table[(table.patch == "stream") & (table.way == "restored")]
        >>> restored.share.round(3).abs().tolist()  # edited in layer 1: the stream holds everything from there on
        [0.0, 1.0, 1.0, 1.0]
    """
    given = as_list(prompts)
    check_steering(model, steering, given)
    check_batch_size(batch_size)
    target = None if token is None else token_id(model.tokenizer, token)
    methods = [steering, *steering.controls(controls, seed)]
    sites: dict[str, list[int]] = {str(layer): [layer] for layer in steering.edited_layers}
    if len(sites) > 1:
        sites["all"] = list(steering.edited_layers)
    plain = rows_under(model, replace(steering, ck=0.0, cv=0.0), given, chat=chat, offset=offset)
    edited = {
        (s, m): rows_under(model, replace(methods[m], layers=sites[s]), given, chat=chat, offset=offset)
        for s in sites
        for m in range(len(methods))
    }
    if target is None:
        target = first_tokens(model, given, steering, chat, offset)[0]
    units = [(p, key) for p in range(len(given)) for key in edited]
    height = 2 + len(_PATCHES) * model.n_layers
    table: dict[tuple[int, tuple[str, int]], _Sweep] = {}
    for batch, part in in_batches(
        units,
        max(1, batch_size // height),
        lambda b: _sweep(model, [(plain[p], edited[key][p]) for p, key in b], target),
    ):
        table.update(zip(batch, part, strict=True))
    label = model.tokenizer.decode([target])
    each = {key: [table[p, key] for p in range(len(given))] for key in edited}
    return pd.DataFrame(
        list(
            chain.from_iterable(
                _rows(site, label, [each[site, m] for m in range(len(methods))], seed) for site in sites
            )
        )
    )


@dataclass(frozen=True)
class _Sweep:
    """The log-odds of the token, and whether it is the likeliest, of one prompt under one edit: plain, steered, then
    every patch in every layer.
    """

    odds: Float[np.ndarray, " runs"]
    first: Float[np.ndarray, " runs"]

    @property
    def effect(self) -> float:
        return float(self.odds[1] - self.odds[0])

    @property
    def flipped(self) -> bool:
        return bool(self.first[1] and not self.first[0])

    @property
    def nats(self) -> Float[np.ndarray, "patches layers"]:
        """How far each patch goes, counted from the run that is patched."""
        odds = self.odds[2:].reshape(len(_PATCHES), -1)
        return np.stack(
            [
                self.odds[1] - row if way == "removed" else row - self.odds[0]
                for (_, way), row in zip(_PATCHES, odds, strict=True)
            ]
        )

    @property
    def turned(self) -> Float[np.ndarray, "patches layers"]:
        """Whether each patch makes the token the likeliest (restored), or another (removed)."""
        first = self.first[2:].reshape(len(_PATCHES), -1)
        return np.stack([~row if way == "removed" else row for (_, way), row in zip(_PATCHES, first, strict=True)])


@locked
@torch.no_grad()
def _sweep(model: Model, pairs: Sequence[tuple[Row, Row]], token: int) -> list[_Sweep]:
    """All runs of some prompts and edits in one forward pass: after layer l, the runs that are patched there get what
    they lack from the plain or the steered one.
    """
    n = model.n_layers
    height = 2 + len(_PATCHES) * n
    before: list[Tensor] = []

    def patch(layer: int, hidden: Float[Tensor, "rows tokens hidden"]) -> Float[Tensor, "rows tokens hidden"]:
        changed = hidden.clone().unflatten(0, (len(pairs), height))
        last = changed[:, :, -1].clone()
        for index, (what, way) in enumerate(_PATCHES):
            donor, place = int(way == "restored"), 2 + index * n + layer
            apart = last[:, donor] - last[:, place]
            if what == "update" and before:  # before the first layer all runs are alike
                apart = apart - (before[0][:, donor] - before[0][:, place]).to(apart)
            changed[:, place, -1] = last[:, donor] if what == "stream" else last[:, place] + apart
        before[:] = [changed[:, :, -1].clone()]
        return changed.flatten(0, 1)

    rows = [row for plain, steered in pairs for row in (plain, steered, *([*[plain] * n, *[steered] * n] * 2))]
    logits = read_residuals(model, rows, patch=patch)[1][:, -1].float()
    odds = log_odds(logits, token).unflatten(0, (len(pairs), height)).cpu().numpy()
    first = (logits.argmax(-1) == token).unflatten(0, (len(pairs), height)).cpu().numpy()
    return [_Sweep(o, f) for o, f in zip(odds, first, strict=True)]


def _rows(site: str, token: str, sweeps: Sequence[Sequence[_Sweep]], seed: int) -> list[dict[str, Any]]:
    """The rows of one edited layer: the steering's sweeps first, then those of each random vector."""
    own, *random = sweeps
    effects, flipped = np.array([s.effect for s in own]), np.array([s.flipped for s in own])
    p = (
        control_p(abs(float(effects.mean())), [abs(float(np.mean([s.effect for s in each]))) for each in random])
        if random
        else None
    )
    nats, turned = np.stack([s.nats for s in own]), np.stack([s.turned for s in own])
    others = np.array([np.mean([s.nats for s in each], 0) for each in random])
    whole = paired_bootstrap(effects.tolist(), np.zeros_like(effects).tolist(), n=1000, seed=seed)
    rows = []
    for index, (what, way) in enumerate(_PATCHES):
        for layer in range(nats.shape[2]):
            part = nats[:, index, layer]
            row: dict[str, Any] = dict(inject=site, patch=what, way=way, layer=layer, token=token, n=len(own))
            row |= dict(effect=whole.value, effect_low=whole.low, effect_high=whole.high, p_effect=p, nats=part.mean())
            row |= dict(zip(("share", "low", "high"), _share(part, effects, p, seed), strict=True))
            if random:
                row |= dict(
                    zip(
                        ("random_low", "random_high"), np.quantile(others[:, index, layer], [0.025, 0.975]), strict=True
                    )
                )
            rows.append(row | dict(flipped=int(flipped.sum()), flips=int(turned[flipped, index, layer].sum())))
    return rows


def _share(part: np.ndarray, whole: np.ndarray, p: float | None, seed: int) -> tuple[float, float, float]:
    """The ratio of two means over the same prompts, with its bootstrap interval; missing where the whole is nothing."""
    if not whole.any() or (p is not None and p > _FALSE_ALARM):
        return float("nan"), float("nan"), float("nan")
    share = float(part.mean() / whole.mean())
    if not whole.all():  # a resample of prompts that the edit doesn't move has no share
        return share, float("nan"), float("nan")
    if np.ptp(part / whole) < 1e-12:  # all prompts agree
        return share, share, share
    found = bootstrap(
        (part, whole), _ratio, paired=True, n_resamples=1000, method="percentile", rng=seed
    ).confidence_interval
    return share, float(found.low), float(found.high)


def _ratio(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    return part.mean(axis=axis) / whole.mean(axis=axis)
