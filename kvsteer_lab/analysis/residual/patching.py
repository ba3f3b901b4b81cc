"""Activation patching between a steered and a plain run: residual streams, or what single layers add to them, are
exchanged layer by layer. It shows in which layers the edit of one layer is read and used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import bootstrap

from ..._util.batching import check_batch_size, in_batches
from ..._util.progress import counted
from ...generation.rows import make_rows
from ...generation.scoring import rows_under
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ...models.tokens import offset_token
from ...stats.intervals import paired_bootstrap
from ...stats.significance import LEAST_NATS, control_p
from ...vectors.indices import check_indices
from ..checks import check_steering
from ..watched_token import first_tokens, token_id
from .patched_runs import WAYS, Patch, PatchedRuns, ReadPrompt

_FALSE_ALARM = 0.05
_FEWEST = 19  # random vectors that can show an effect at that level
_PATCHES = tuple(product(("stream", "update"), WAYS))


def patch_residuals(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    steering: CacheSteering,
    token: str | int | None = None,
    *,
    layers: Sequence[int] | None = None,
    controls: int = 40,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 1024,
    progress: bool = True,
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

    Each prompt is prefilled once. Every patched run, and both runs they are made of, read one token each, side by side
    in the same forward passes: for each prompt, edited layer (and all of them), and vector, 2 + 4 for each layer from
    the edited one on. Of a random vector in layer i only the updates after layer i are computed: the rest is known. So
    the cost grows with the square of the number of layers; `layers=range(1, 30, 5)` looks at some of them.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`; two or more.
        steering: what is added to the cache; its layers are edited one at a time, and together.
        token: whose log-odds are measured: a text that is one token, or an id; `None`: the commonest first token of the
            steered run.
        layers: those that are patched, and, as far as the steering edits them, edited one at a time; `None`: all. The
            edit of all layers is always that of the whole steering.
        controls: random vectors of the same norms; 0: none. Fewer than 19 can't tell an effect, so no shares are given.
        seed: of the random vectors and of the bootstrap.
        chat, offset: as in `kv.generate`.
        batch_size: runs read together at most; fewer where their caches or logits would exceed 1 GiB or 256 MB.
        progress: whether to show a bar.

    Returns:
        One row per edited layer (`inject`, or `"all"`), `patch` ("stream", "update"), `way` ("restored", "removed") and
        `layer`: `token`, `n`; `effect`, the mean change of the token's log-odds by the edit, in nats, with its 95%
        bootstrap interval `effect_low`, `effect_high`, and `p_effect`, the share of random vectors (plus one) that move
        it as far, up to a thousandth of a nat; `nats`, the mean change by the patch, and `share`, its ratio to the
        effect, with a 95% bootstrap interval over prompts `low`, `high`, missing where p_effect > 0.05: a share of no
        effect is noise; `random_low`, `random_high`, the middle 95% of what patching the random vectors' runs changes,
        in nats; `flipped`, the number of prompts whose likeliest first token the edit turns into `token`, and `flips`,
        how many of these the patch turns likewise (restored) or back (removed).

    Raises:
        ValueError: a single prompt, zero vectors, no layers, a token that isn't one, or what `kv.generate` refuses;
            before anything is computed. Logits that are NaN or infinite.
        KeyboardInterrupt: it was interrupted.

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
    patched = check_indices("layer", layers, model.n_layers)
    alone = [layer for layer in steering.edited_layers if layer in patched]
    if not alone:
        raise ValueError(
            f"{steering.label!r} edits none of the layers {patched}; name some of {list(steering.edited_layers)}."
        )
    methods = [steering, *steering.controls(controls, seed)]
    if 0 < controls < _FEWEST:
        warnings.warn(
            f"With {controls} random vectors no p-value is below {1 / (1 + controls):.2g}, so no share will be given;"
            f" take {_FEWEST} of them or more, or controls=0.",
            stacklevel=2,
        )
    sites: dict[str, list[int]] = {str(layer): [layer] for layer in alone}
    if len(steering.edited_layers) > 1:
        sites["all"] = list(steering.edited_layers)
    plain = rows_under(model, replace(steering, ck=0.0, cv=0.0), given, chat=chat, offset=offset)
    ids, tail = [row.prompt_ids for row in plain], offset_token(model.tokenizer, offset)
    edited = {
        (s, m): make_rows(model, replace(methods[m], layers=sites[s]), ids, tail)
        for s in sites
        for m in range(len(methods))
    }
    if target is None:
        target = first_tokens(model, given, steering, chat, offset)[0]
    each: dict[tuple[str, int], list[_Sweep]] = {key: [] for key in edited}
    with counted(len(given) * len(edited), "patch_residuals", "edit", progress) as done:
        for p, row in enumerate(plain):
            reading = ReadPrompt(model, row.cached, row.read[-1])
            for keys, patches in _kinds(sites, len(methods), patched):
                most = min(reading.edits_within(len(patches)), batch_size // (2 + 2 * len(patches)))
                run = partial(reading.run, patches=patches, watched=target)
                deltas = [edited[key][p].deltas for key in keys]
                runs: list[PatchedRuns] = []
                for some, found in in_batches(deltas, max(1, most), run):
                    runs += found
                    done(len(some))
                for key, one in zip(keys, runs, strict=True):
                    each[key].append(_sweep(one, patches, patched, sites[key[0]]))
    label = model.tokenizer.decode([target])
    return pd.DataFrame(
        list(
            chain.from_iterable(
                _rows(site, label, patched, [each[site, m] for m in range(len(methods))], seed) for site in sites
            )
        )
    )


def _kinds(
    sites: Mapping[str, Sequence[int]], methods: int, layers: Sequence[int]
) -> Iterator[tuple[list[tuple[str, int]], list[Patch]]]:
    """Edits that get the same patches: none before the first edited layer, where no run differs from another. Of a
    random vector in one layer only the updates of later layers are computed: its other patches change nothing, or
    everything, on any model.
    """
    for site, edited in sites.items():
        every = [(what, layer) for what in ("stream", "update") for layer in layers if layer >= edited[0]]
        later = every if len(edited) > 1 else [("update", layer) for layer in layers if layer > edited[0]]
        yield [(site, 0)], every
        if methods > 1:
            yield [(site, m) for m in range(1, methods)], later


@dataclass(frozen=True)
class _Sweep:
    """Of one prompt under one edit: how far the edit, and each patch, moves the token's log-odds; whether the edit
    turns the likeliest token into it, and whether each patch does likewise (restored), or turns it back (removed).
    """

    effect: float
    flipped: bool
    nats: Float[np.ndarray, "patches layers"]
    turned: Float[np.ndarray, "patches layers"]


def _sweep(runs: PatchedRuns, patches: Sequence[Patch], layers: Sequence[int], edited: Sequence[int]) -> _Sweep:
    odds, first = runs.odds.numpy(), runs.first.numpy()
    effect, flipped = float(odds[1, 0] - odds[0, 0]), bool(first[1, 0] and not first[0, 0])
    nats = np.zeros((len(_PATCHES), len(layers)))
    turned = np.zeros((len(_PATCHES), len(layers)), dtype=bool)
    place = {patch: at for at, patch in enumerate(patches, 1)}
    for index, (what, way) in enumerate(_PATCHES):
        side = WAYS.index(way)
        for column, layer in enumerate(layers):
            if (at := place.get((what, layer))) is not None:
                moved = odds[side, at] - odds[side, 0]
                nats[index, column] = moved if way == "restored" else -moved
                turned[index, column] = first[side, at] ^ bool(side)
            elif layer == edited[0] or (what == "stream" and layer > edited[0]):
                nats[index, column], turned[index, column] = effect, first[1 - side, 0] ^ bool(side)
    return _Sweep(effect, flipped, nats, turned)


def _rows(
    site: str, token: str, layers: Sequence[int], sweeps: Sequence[Sequence[_Sweep]], seed: int
) -> list[dict[str, Any]]:
    """The rows of one edited layer: the steering's sweeps first, then those of each random vector."""
    own, *random = sweeps
    effects, flipped = np.array([s.effect for s in own]), np.array([s.flipped for s in own])
    moved = [abs(float(np.mean([s.effect for s in each]))) for each in random]
    p = control_p(abs(float(effects.mean())), moved, LEAST_NATS) if random else None
    nats, turned = np.stack([s.nats for s in own]), np.stack([s.turned for s in own])
    others = np.array([np.mean([s.nats for s in each], 0) for each in random])
    whole = paired_bootstrap(effects.tolist(), np.zeros_like(effects).tolist(), n=1000, seed=seed)
    rows = []
    for index, (what, way) in enumerate(_PATCHES):
        for column, layer in enumerate(layers):
            part = nats[:, index, column]
            row: dict[str, Any] = dict(inject=site, patch=what, way=way, layer=layer, token=token, n=len(own))
            row |= dict(effect=whole.value, effect_low=whole.low, effect_high=whole.high, p_effect=p, nats=part.mean())
            row |= dict(zip(("share", "low", "high"), _share(part, effects, p, seed), strict=True))
            if random:
                row |= dict(
                    zip(
                        ("random_low", "random_high"),
                        np.quantile(others[:, index, column], [0.025, 0.975]),
                        strict=True,
                    )
                )
            rows.append(row | dict(flipped=int(flipped.sum()), flips=int(turned[flipped, index, column].sum())))
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
