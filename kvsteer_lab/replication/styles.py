"""Adoption of style: vectors of each style that a task can write, and the share of replies that have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.bands import band
from ..interventions.base import Intervention
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..stats.shares import wilson
from ..stats.significance import holm, mcnemar
from ..tasks.base import Task
from ..tasks.styles import REASONING_STYLES
from ..vectors.extraction import extract
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .sizes import Sizes

GROUP = "styles"
"""The name of these methods' blocks."""
CV = 4.0
"""The coefficient of the values, that of `methods.RELEASED`; keys are left alone."""


def style_methods(
    model: Model, task: Task, folder: Path, sizes: Sizes, seed: int, progress: bool
) -> tuple[Intervention, ...]:
    """Steering towards each style, and random vectors of the same sizes; nothing for a task of one reasoning style.

    Styles come from the task's own templates, or from traces in them (`kvsteer traces`).

    Args:
        model, task: who is asked what.
        folder: of the task; holds `STYLE.vectors.safetensors`.
        sizes: of the replication; a fifth of `controls` is drawn for each style.
        seed: of pairs and controls.
        progress: whether to show bars.
    """
    styles = [style for style in task.styles if style in REASONING_STYLES]
    if len(styles) < 2:
        return ()
    made: list[Intervention] = []
    for style in styles:
        file = folder / f"{style}.vectors.safetensors"
        if not file.is_file():
            pairs = ContrastiveSet.few_shot(
                task, model.tokenizer, style=style, n=sizes.pairs, shots=sizes.shots, seed=seed
            )
            extract(model, pairs, batch_size=4, progress=progress).save(file)
        steering = CacheSteering(KVVectors.load(file), 0, CV, name=f"style {style}, ck=0 cv={CV:g}")
        made += [steering, *steering.controls(-(-sizes.controls // 5), seed)]
    return tuple(made)


def adoption_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a task and style: how many replies adopt it under its own vectors, and without or with others.

    Args:
        rows: of a replication, texts or compact.

    Returns:
        `task`, `style`, `n`; `adopted` with Wilson's interval `low`, `high`; `baseline`, the style's share in the
        baseline's replies to the same questions; `p` (exact McNemar against the baseline) and `p_holm` over the table;
        `elsewhere`, its share under the other styles' vectors; `random_low`, `random_high`, the middle 95% of its share
        under the random vectors of all styles, and `p_random`; `tokens`. No rows where no styles were asked for.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = dict(task="t", group=["arms", "styles"], intervention=["baseline", "style stepwise, ck=0 cv=4"])
        >>> rows |= dict(question="q", control_of=None, style=["direct", "stepwise"], tokens=[4, 9])
        >>> kv.replication.adoption_table(pd.DataFrame(rows))[["style", "adopted", "baseline"]].values.tolist()
        [['stepwise', 1.0, 0.0]]
    """
    table: list[dict[str, Any]] = []
    for task, here in rows.groupby("task", sort=False):
        asked = here[here.group == GROUP]
        own, drawn = asked[asked.control_of.isna()], asked[asked.control_of.notna()]
        base = here[here.intervention == "baseline"].set_index("question")["style"]
        for label, part in own.groupby("intervention", sort=False):
            style = str(label).removeprefix("style ").partition(",")[0]
            shown = part.set_index("question")["style"]
            hits = shown.loc[shown.index.isin(base.index)] == style
            plain = base.loc[hits.index] == style
            low, high = wilson(int(hits.sum()), len(hits))
            row = dict(task=task, style=style, n=len(hits), adopted=float(hits.mean()), low=low, high=high)
            row |= dict(baseline=float(plain.mean()), p=mcnemar(hits.tolist(), plain.tolist()))
            others = own[own.intervention != label]
            row |= dict(elsewhere=float((others["style"] == style).mean()) if len(others) else float("nan"))
            shares = (drawn["style"] == style).groupby(drawn.intervention).mean().tolist()
            table.append(row | band(row["adopted"], shares) | dict(tokens=float(part.tokens.mean())))
    found = pd.DataFrame(table)
    return found.assign(p_holm=holm(found.p.tolist())) if len(found) else found
