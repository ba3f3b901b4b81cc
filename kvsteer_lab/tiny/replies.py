"""The replies of the bundled models' corpus: six styles, each in several wordings."""

from __future__ import annotations

from kvsteer_lab.tiny.questions import Problem

WORDINGS = 3
"""How many wordings each style has. A conversation of the corpus mostly keeps to one."""

_ANSWER = ("The answer is {a}.", "So the answer is {a}.", "Hence the answer is {a}.")
_STRATEGY = (
    ("Strategy: {plan}. Solution:", "Plan: {plan}. Execution:", "Approach: {plan}. Working:"),
    {"arithmetic": "apply each change in order", "tracking": "follow each move in order"},
)
_CAUSE = (
    ("If {e} then we reach {r}.", "Therefore {r}."),
    ("Because {e} we get {r}.", "Thus {r}."),
    ("Since {e} it leads to {r}.", "Consequently {r}."),
)
_DEDUCTION = (
    "[Premise] {e} -> [Inference] {r}.",
    "[Given] {e} -> [Deduction] {r}.",
    "[Fact] {e} -> [Conclusion] {r}.",
)
_ANALOGY = (
    ("Just like {image}, {e}.", "In the same way, {e}."),
    ("This is similar to {image}: {e}.", "Similarly, {e}."),
    ("Think of {image}: {e}.", "Likewise, {e}."),
)
_IMAGE = {"arithmetic": "counting steps on a path", "tracking": "walking around a table"}
_STEP = ("Step {i}: {e}.", "Step {i}, {e}.", "({i}) {e}.")


def reply(problem: Problem, style: str, wording: int) -> str:
    """The assistant's reply to `problem` in `style`; `wording` counts from 0 to `WORDINGS - 1`.

    Raises:
        ValueError: an unknown style.
    """
    steps = [{"e": e, "r": r, "i": i} for i, (e, r) in enumerate(problem.steps, 1)]
    if style == "direct":
        parts = []
    elif style == "stepwise":
        parts = [_STEP[wording].format(**step) for step in steps]
    elif style == "strategy_execution":
        heads, plans = _STRATEGY
        parts = [heads[wording].format(plan=plans[problem.task])] + [f"{step['e']}." for step in steps]
    elif style == "causal_chain":
        link, close = _CAUSE[wording]
        parts = [link.format(**step) for step in steps] + [close.format(**steps[-1])]
    elif style == "annotated_deduction":
        parts = [_DEDUCTION[wording].format(**step) for step in steps]
    elif style == "analogical":
        first, later = _ANALOGY[wording]
        parts = [first.format(image=_IMAGE[problem.task], **steps[0])] + [later.format(**step) for step in steps[1:]]
    else:
        raise ValueError(f"Unknown style {style!r}.")
    return " ".join([*parts, _ANSWER[wording].format(a=problem.answer)])
