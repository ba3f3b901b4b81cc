"""The replies of the bundled models' corpus: six styles, each in several wordings."""

from __future__ import annotations

from .questions import Problem

WORDINGS = 3
"""How many wordings each reasoning style has. A conversation of the corpus mostly keeps to one.

The wordings of a style open alike, for the opening is what the style is told by; they part afterwards.
"""

_STRATEGY = (
    "Strategy: apply each {thing} in order. Solution:",
    "Strategy: take the {thing}s one by one. Execution:",
    "Strategy: follow the {thing}s to the end. Working:",
)
_THING = {"arithmetic": "change", "tracking": "move"}
_CAUSE = (
    ("If {e} then we reach {r}.", "Therefore {r}."),
    ("If {e} it follows that {r}.", "Thus {r}."),
    ("If {e} we get {r}.", "Consequently {r}."),
)
_DEDUCTION = (
    "[Premise] {e} -> [Inference] {r}.",
    "[Given] {e} -> [Deduction] {r}.",
    "[Fact] {e} -> [Conclusion] {r}.",
)
_ANALOGY = (
    ("Just like {image}, {e}.", "In the same way, {e}."),
    ("Just like {image}: {e}.", "Similarly, {e}."),
    ("Just like {image} we have {e}.", "Likewise, {e}."),
)
_IMAGE = {
    "arithmetic": ("counting steps on a path", "filling a jar", "climbing a ladder"),
    "tracking": ("walking around a table", "turning a wheel", "dancing in a ring"),
}
_STEP = ("Step {i}: {e}.", "Step {i}, {e}.", "Step {i} is {e}.")


def reply(problem: Problem, style: str, wording: int) -> str:
    """The assistant's reply to `problem` in `style`; `wording` counts from 0 to `WORDINGS - 1`.

    Raises:
        ValueError: an unknown style.

    >>> reply(Problem("arithmetic", "Ann has 5 eggs, buys 3.", (("5 + 3 = 8", "8"),), "8"), "stepwise", 0)
    'Step 1: 5 + 3 = 8. The answer is 8.'
    """
    steps = [{"e": e, "r": r, "i": i} for i, (e, r) in enumerate(problem.steps, 1)]
    if style == "direct":
        parts = []
    elif style == "stepwise":
        parts = [_STEP[wording].format(**step) for step in steps]
    elif style == "strategy_execution":
        parts = [_STRATEGY[wording].format(thing=_THING[problem.task])] + [f"{step['e']}." for step in steps]
    elif style == "causal_chain":
        link, close = _CAUSE[wording]
        parts = [link.format(**step) for step in steps] + [close.format(**steps[-1])]
    elif style == "annotated_deduction":
        parts = [_DEDUCTION[wording].format(**step) for step in steps]
    elif style == "analogical":
        first, later = _ANALOGY[wording]
        parts = [first.format(image=_IMAGE[problem.task][wording], **steps[0])] + [
            later.format(**step) for step in steps[1:]
        ]
    else:
        raise ValueError(f"Unknown style {style!r}.")
    return " ".join([*parts, f"The answer is {problem.answer}."])
