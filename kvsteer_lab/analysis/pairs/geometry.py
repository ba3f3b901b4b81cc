"""The geometry of styles: principal components of single pairs' differences, and cosines of the styles' vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.decomposition import PCA

from ...vectors.extraction import PairDifferences
from .checks import check_finite, check_layers
from .grams import CACHE_PARTS

_NOISE = 1e-5  # of the part's largest layer: less is rounding, which PCA would blow up to a picture


class Panel(NamedTuple):
    """One layer's keys or values: the differences of all styles' pairs, one style after the other."""

    layer: int
    part: str
    points: Float[np.ndarray, "points width"]  # float64, KV heads side by side


def style_pca(
    differences: Mapping[str, PairDifferences], layers: Sequence[int] | None = None, components: int = 2
) -> pd.DataFrame:
    """Principal components of single pairs' differences, all styles together, for each layer's keys and values.

    Signs are fixed by scikit-learn (the largest loading of a component is positive), whatever the order of the styles.

    Args:
        differences: by style, from `kv.extract_pairs` on one model. Build the contrastive sets with one seed, so that
            all styles have the same questions and examples and differ in nothing but the style.
        layers: which layers; `None`: all. A layer's part in which nothing differs is left out: the values of layer 0
            see the last token alone.
        components: how many.

    Returns:
        One row per layer, part, style, pair and component: `layer`, `part`, `style`, `pair`, `component` (from 1),
        `coordinate`, in the units of keys and
        values, and `explained`, the component's share of that layer's and part's variance.

    Raises:
        ValueError: fewer than two styles, a style of fewer than two pairs, differences of different models or of kinds
            of keys, NaN, a layer that isn't there or holds no differences, more components than there can be, or pairs
            that are all alike.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors.cards import Card
        >>> from kvsteer_lab.vectors.extraction import PairDifferences
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 8)
        >>> noise = torch.Generator().manual_seed(0)
        >>> def around(mean):  # eight pairs, two layers, one KV head of width 4
        ...     keys, values = (mean + torch.randn(8, 2, 1, 4, generator=noise) for _ in range(2))
        ...     return PairDifferences(keys, values, card)
        >>> pairs = {"stepwise": around(3.0), "analogical": around(-3.0)}
        >>> table = kv.analysis.style_pca(pairs, layers=[1])
        >>> first = table[(table.part == "values") & (table.component == 1)].groupby("style").coordinate
        >>> bool(first.min()["stepwise"] > first.max()["analogical"])  # the first component tells the styles apart
        True
    """
    found = panels(differences, layers)
    most = min(found[0].points.shape)
    if not 1 <= components <= most or components != int(components):
        raise ValueError(
            f"There are 1 to {most} components in {len(found[0].points)} differences of width"
            f" {found[0].points.shape[1]}, not {components}."
        )
    index = pd.DataFrame(
        [(style, pair) for style, own in differences.items() for pair in range(len(own))], columns=["style", "pair"]
    )
    tables = []
    for layer, part, points in found:
        if not np.ptp(points, axis=0).any():
            raise ValueError(
                f"All pairs have the same difference in layer {layer}'s {part}, so there are no components; vary"
                " questions or styles."
            )
        pca = PCA(components, svd_solver="full")
        for number, (coordinates, explained) in enumerate(
            zip(pca.fit_transform(points).T, pca.explained_variance_ratio_, strict=True), 1
        ):
            tables.append(
                index.assign(layer=layer, part=part, component=number, coordinate=coordinates, explained=explained)
            )
    return pd.concat(tables, ignore_index=True)[
        ["layer", "part", "style", "pair", "component", "coordinate", "explained"]
    ]


def style_cosines(differences: Mapping[str, PairDifferences], layers: Sequence[int] | None = None) -> pd.DataFrame:
    """Cosines between the styles' mean differences, which are their steering vectors, for each layer's keys and values.

    All styles are subtracted from one negative, and that alone makes their vectors alike: the differences of unrelated
    points and a common one have cosines around 0.5. So beside each cosine stands what it is when another style takes
    the negative's place: the mean over third styles t of cos(a - t, b - t). Only a cosine above that one says that
    styles share more than what they were subtracted from.

    Args:
        differences, layers: as in `style_pca`.

    Returns:
        One row per layer, part and ordered pair of styles: `layer`, `part`, `style`, `other`, `cosine`, and `low`,
        `high`, its 95% interval by the jackknife over
        pairs (over questions, where the styles share them); `third`, the cosine with third styles as negatives (NaN for
        fewer than three styles).

    Raises:
        ValueError: as `style_pca`, or a style whose mean is zero somewhere.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors.cards import Card
        >>> from kvsteer_lab.vectors.extraction import PairDifferences
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 8)
        >>> noise = torch.Generator().manual_seed(0)
        >>> def around(mean):  # eight pairs, two layers, one KV head of width 4
        ...     keys, values = (mean + torch.randn(8, 2, 1, 4, generator=noise) for _ in range(2))
        ...     return PairDifferences(keys, values, card)
        >>> table = kv.analysis.style_cosines({"stepwise": around(3.0), "analogical": around(-3.0)}, layers=[1])
        >>> other = table[(table.part == "values") & (table["style"] == "stepwise") & (table.other == "analogical")]
        >>> bool(other.cosine.iloc[0] < -0.9)
        True
    """
    found = panels(differences, layers)
    starts = np.cumsum([len(own) for own in differences.values()])[:-1]
    joint, rows = share_questions(differences), []
    for layer, part, points in found:
        groups = dict(zip(differences, np.split(points, starts), strict=True))
        for style, own in groups.items():
            if np.linalg.norm(own.mean(0)) <= _NOISE * np.linalg.norm(points, axis=1).max():
                raise ValueError(
                    f"The mean of style {style!r} is zero in layer {layer}'s {part}, so it has no direction; leave out"
                    " that layer or style."
                )
        for style, a in groups.items():
            for other, b in groups.items():
                cosine = float(_cosine(a.mean(0), b.mean(0)))
                half = 1.96 * _standard_error(a, b, joint or style == other)
                thirds = [
                    _cosine(a.mean(0) - t.mean(0), b.mean(0) - t.mean(0))
                    for third, t in groups.items()
                    if third not in (style, other)
                ]
                third = float(np.mean(thirds)) if thirds else np.nan
                rows.append(
                    (layer, part, style, other, cosine, max(-1.0, cosine - half), min(1.0, cosine + half), third)
                )
    return pd.DataFrame(rows, columns=["layer", "part", "style", "other", "cosine", "low", "high", "third"])


def share_questions(differences: Mapping[str, PairDifferences]) -> bool:
    """Whether pair i ends in the same question under every style, by the recipes of the contrastive sets."""
    asked = [own.card.recipe.get("questions") for own in differences.values()]
    return asked[0] is not None and all(
        a == asked[0] and len(a) == len(own) for a, own in zip(asked, differences.values(), strict=True)
    )


def panels(differences: Mapping[str, PairDifferences], layers: Sequence[int] | None) -> list[Panel]:
    """The layers' keys and values in which something differs.

    Raises:
        ValueError: as `style_pca`.
    """
    _check(differences)
    first = next(iter(differences.values()))
    chosen = check_layers(layers, first.keys.shape[1])
    found = []
    for part in CACHE_PARTS:
        for own in differences.values():
            check_finite(getattr(own, part), part)
        every = np.concatenate([getattr(own, part).double().flatten(2).numpy() for own in differences.values()])
        size = np.linalg.norm(every, axis=2).max(0)
        found += [Panel(layer, part, every[:, layer]) for layer in chosen if size[layer] > _NOISE * size.max()]
    empty = set(chosen) - {panel.layer for panel in found} if layers is not None else set()
    if not found or empty:
        where = f"Layer {min(empty)} holds" if empty and found else "The chosen layers hold"
        raise ValueError(
            f"{where} no differences between the sides of the pairs, in keys or values; choose layers above, or other"
            " pairs."
        )
    return sorted(found)


def _check(differences: Mapping[str, PairDifferences]) -> None:
    if not isinstance(differences, Mapping) or not all(
        isinstance(own, PairDifferences) for own in differences.values()
    ):
        raise ValueError(
            "Single pairs of each style are compared; pass {style: kv.extract_pairs(...)}, not vectors or a list."
        )
    if len(differences) < 2:
        raise ValueError(
            f"The geometry of styles compares at least two styles, not {len(differences)}; pass {{style:"
            " kv.extract_pairs(...)} for each."
        )
    (name, first), *others = differences.items()
    for style, own in differences.items():
        if len(own) < 2:
            raise ValueError(
                f"Style {style!r} has {len(own)} pair{'s' * (len(own) != 1)}; how pairs scatter takes at least two of"
                " each style."
            )
    for style, own in others:
        models = f"are of different models, {first.card.model} and {own.card.model}"
        shapes = "" if own.keys.shape[1:] == first.keys.shape[1:] else models
        if differ := first.card.tell_of_other_model(own.card) or shapes:
            raise ValueError(f"The differences of {name!r} and {style!r} {differ}; extract both from one model.")
        if own.card.keys != first.card.keys:
            raise ValueError(
                f"The differences of {name!r} have {first.card.keys} keys, those of {style!r} {own.card.keys}; extract"
                " both the same way."
            )


def _cosine(a: Float[np.ndarray, "... width"], b: Float[np.ndarray, "... width"]) -> np.ndarray:
    """0 where one of the two is zero."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.clip(np.divide((a * b).sum(-1), lengths, out=np.zeros_like(lengths), where=lengths > 0), -1.0, 1.0)


def _standard_error(a: Float[np.ndarray, "m width"], b: Float[np.ndarray, "n width"], joint: bool) -> float:
    """The jackknife's: of pairs that are left out from both means together, or from one at a time."""
    without_a, without_b = ((x.sum(0) - x) / (len(x) - 1) for x in (a, b))
    left_out = (
        [_cosine(without_a, without_b)] if joint else [_cosine(without_a, b.mean(0)), _cosine(a.mean(0), without_b)]
    )
    return float(np.sqrt(sum((len(c) - 1) * c.var() for c in left_out)))
