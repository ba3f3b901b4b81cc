"""Some stored replies generated anew: does the model still say what the results were computed from?"""

from __future__ import annotations

import random

import pandas as pd

from ..generation.generate import generate_all
from ..interventions.base import Intervention
from ..models.model import Model
from ..tasks.catalogue import get
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .choosing import Chosen, rebuild
from .compact import CompactReplication, hash_reply
from .methods import LAST
from .sources import with_demonstrations


def methods_of(found: CompactReplication, task: str, model: Model) -> Chosen:
    """The methods of a task, made again of the stored vectors and coefficients.

    Args:
        found: compact results.
        task: its name.
        model: the one that they are of.

    Raises:
        ValueError: no such task, or vectors of another model.

    Example:
        >>> from pathlib import Path
        >>> import kvsteer_lab as kv
        >>> nothing = pd.DataFrame()
        >>> found = CompactReplication(Path("results"), {}, nothing, nothing, {"piqa": {}}, nothing)
        >>> methods_of(found, "gsm8k", kv.load("tiny"))
        Traceback (most recent call last):
        ValueError: There are no results of task 'gsm8k'; choose one of: piqa.
    """
    if task not in found.chosen:
        raise ValueError(f"There are no results of task {task!r}; choose one of: {', '.join(found.chosen)}.")
    vectors = KVVectors.load(found.path / f"{task}.vectors.safetensors")
    vectors.check_fits(model)
    activations = ActivationVectors.load(found.path / f"{task}.activations.safetensors")
    sizes, seed = found.sizes(task), int(found.settings["seed"])
    return rebuild(model, with_demonstrations(task, None, None), vectors, activations, found.chosen[task], sizes, seed)


def recompute(model: Model, found: CompactReplication, task: str, *, questions: int = 2, seed: int = 0) -> pd.DataFrame:
    """Generate stored replies again: every method, one random vector of each kind, on a few questions.

    Args:
        model: the one that the results are of.
        found: compact results.
        task: one whose questions are at hand.
        questions: how many, drawn with `seed` from those that all of them answered.
        seed: of the draw.

    Returns:
        `question`, `intervention`, `tokens`, `tokens_now`, `same` (the whole reply, by its hash). Float32 on another
        processor may turn a near-tie, and all that follows.

    Raises:
        ValueError: no such task, or another model.

    Example:
        >>> from pathlib import Path
        >>> import kvsteer_lab as kv
        >>> nothing = pd.DataFrame()
        >>> found = CompactReplication(Path("results"), {}, nothing, nothing, {"piqa": {}}, nothing)
        >>> recompute(kv.load("tiny"), found, "gsm8k")
        Traceback (most recent call last):
        ValueError: There are no results of task 'gsm8k'; choose one of: piqa.
    """
    chosen = methods_of(found, task, model)
    own = [method for group in chosen.groups.values() for method in group if method.label != LAST]
    firsts: dict[tuple[str | None, str | None], Intervention] = {}
    for method in own:
        firsts.setdefault(
            (method.control_of, method.control_kind) if method.control_of else (method.label, None), method
        )
    rows = found.rows[found.rows.task == task].set_index(["question", "intervention"])
    answered = [set(rows.xs(method.label, level=1).index) for method in firsts.values()]
    common = sorted(set.intersection(*answered))
    asked = {q.id: q for q in get(task).questions("test", None, int(found.settings["seed"]))}
    picked = random.Random(seed).sample(common, min(questions, len(common)))
    texts = generate_all(
        model,
        [get(task).chat(asked[name]) for name in picked],
        list(firsts.values()),
        generation={"max_new_tokens": found.sizes(task).limit(task)},
    )
    table = []
    for text in texts:
        stored = rows.loc[(picked[text.prompt], text.intervention)]
        table.append(
            dict(
                question=picked[text.prompt],
                intervention=text.intervention,
                tokens=int(stored.tokens),
                tokens_now=len(text.token_ids),
                same=hash_reply(text.answer) == stored["hash"],
            )
        )
    return pd.DataFrame(table)
