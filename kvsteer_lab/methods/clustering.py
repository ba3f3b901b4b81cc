"""Several vectors in place of one: k-means of the pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.cluster.vq import kmeans2

from ..edits.given import whole_number
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from .differences import check_differences


def clustered(differences: PairDifferences, clusters: int = 2, *, layer: int = -1, seed: int = 0) -> list[KVVectors]:
    """The mean difference of each cluster of pairs; pairs are grouped by k-means of their values' differences at one
    layer (the paper's code, `cluster_kv_vectors`, which groups by the residual stream, keys or values of one layer):
    v_j = mean of d_i, i in cluster j. Cost: k-means, O(n k d) a round.

    Args:
        differences: of each pair.
        clusters: how many.
        layer: where pairs are compared.
        seed: of the start (k-means++).

    Returns:
        A vector for each cluster, the largest cluster first; clusters that came out empty are left out.

    Raises:
        ValueError: more clusters than pairs, or none; a layer that isn't there.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> [each.card.n_pairs for each in kv.methods.clustered(differences, 2)]
        [1, 1]
    """
    check_differences(differences, PairDifferences)
    if not 1 <= whole_number("The number of clusters", clusters) <= len(differences):
        raise ValueError(f"clusters={clusters!r} must be 1 to {len(differences)}, the number of pairs.")
    n_layers = differences.values.shape[1]
    if not -n_layers <= whole_number("The layer", layer) < n_layers:
        raise ValueError(f"There is no layer {layer}; choose {-n_layers} to {n_layers - 1}.")
    points = differences.values[:, layer].flatten(1).double().numpy()
    labels = kmeans2(points, clusters, minit="++", rng=np.random.default_rng(seed), missing="warn")[1]
    groups = sorted((np.flatnonzero(labels == j).tolist() for j in range(clusters)), key=len, reverse=True)
    found = []
    for group in filter(len, groups):
        mean = differences.take(group).mean()
        step = f"cluster of {len(group)} of {len(differences)} pairs"
        found.append(replace(mean, card=mean.card.after(step)))
    return found
