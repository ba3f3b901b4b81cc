"""Extracting several styles of one task: the same questions and examples, so that they differ in the style alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..models.model import Model
from ..tasks.base import Task
from .cards import KeyMode
from .extraction import PairDifferences, extract_pairs
from .pairs import ContrastiveSet


def extract_styles(
    model: Model,
    task: Task,
    styles: Sequence[str] | None = None,
    *,
    n: int = 100,
    shots: int = 5,
    seed: int = 0,
    keys: KeyMode = "post_rope",
    progress: bool = True,
) -> dict[str, PairDifferences]:
    """Every pair's own difference, for each of a task's styles: what `kv.analysis.style_pca` and its neighbours take.

    One seed draws the questions and examples of all styles; where each question has replies in every style, what
    sets two styles apart is how the examples are answered and nothing else.

    Args:
        model: the model to extract from.
        task: whose extraction split the pairs are made of.
        styles: which; `None`: all that the task has but `"direct"`, which each is held against.
        n: pairs of each style.
        shots: examples in each prompt.
        seed: fixes questions and examples.
        keys: as in `kv.extract`.
        progress: whether to show a bar for each style.

    Returns:
        By style, the differences `[pairs, layers, kv_heads, head_dim]` of keys and values.

    Raises:
        ValueError: no style, one that is named twice, or as `ContrastiveSet.few_shot` and `kv.extract`; pairs of all
            styles are made before anything is computed.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> differences = kv.extract_styles(model, task, ["stepwise", "analogical"], n=4, shots=1, progress=False)
        >>> {style: len(own) for style, own in differences.items()}
        {'stepwise': 4, 'analogical': 4}
    """
    asked = [style for style in task.styles if style != "direct"] if styles is None else list(styles)
    if not asked:
        raise ValueError(f"No style of task {task.name!r} is asked for; name some of {', '.join(task.styles)}.")
    if len(set(asked)) < len(asked):
        raise ValueError(f"A style is named twice: {', '.join(asked)}; name each once.")
    pairs = {
        style: ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=n, shots=shots, seed=seed)
        for style in asked
    }
    return {style: extract_pairs(model, own, keys=keys, progress=progress) for style, own in pairs.items()}
