"""What a comparison comes to: where each text leaves the baseline's, how firmly, and whether random
vectors do so, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...generation.outputs import Generation
from ..state import Arm
from .comparison import Compared, Comparison

NEAR_TIE = 0.9
"""Two tokens are nearly tied where the less likely one has at least this share of the other's probability."""


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline.

    Attributes:
        arm: its name.
        step: the number, from 1, of the first token in which the texts differ; `None` if they are the same.
        tokens: the baseline's token there and the arm's; an end of text is `"[end]"`.
        before, after: the probabilities of these two tokens after the words that both texts share, under the baseline
            and under the arm; `None` where they weren't measured.
        changed, controls: how many of how many random vectors of the steering's size change the text, too; 0 of 0
            where there are none.
    """

    arm: Arm
    step: int | None
    tokens: tuple[str, str] = ("", "")
    before: tuple[float, float] | None = None
    after: tuple[float, float] | None = None
    changed: int = 0
    controls: int = 0

    @property
    def near_tie(self) -> bool:
        """Whether the baseline itself was nearly as likely to say the arm's token."""
        return self.before is not None and self.before[1] >= NEAR_TIE * self.before[0]


def read_verdicts(comparison: Comparison) -> list[Verdict]:
    """A verdict for each steered arm, as far as there is a baseline. A response prefill and other prompts make another
    text from the start, and have none.
    """
    arms = {own.arm: own for own in comparison.arms}
    baseline = arms.get("baseline")
    if baseline is None:
        return []
    control = arms.get("random control")
    texts = [] if control is None else [control.generation, *control.others]
    changed = sum(text.token_ids != baseline.generation.token_ids for text in texts)
    steered: tuple[Arm, ...] = ("cache steering", "activation steering")
    return [_read(arms[arm], baseline, changed, len(texts)) for arm in steered if arm in arms]


def _read(own: Compared, baseline: Compared, changed: int, controls: int) -> Verdict:
    step = first_difference(own.generation, baseline.generation)
    if step is None:
        return Verdict(own.arm, None, changed=changed, controls=controls)
    tokens = token_at(baseline, step), token_at(own, step)
    before = after = None
    if own.measured is not None and step <= len(own.measured.likely):
        known = {likely.id: likely for likely in own.measured.likely[step - 1]}
        theirs = known.get(baseline.generation.token_ids[step - 1])
        logprob, change = own.measured.logprobs[step - 1], own.measured.change[step - 1]
        if theirs is not None:
            before = theirs.baseline, math.exp(logprob - change)
            after = theirs.probability, math.exp(logprob)
    return Verdict(own.arm, step, tokens, before, after, changed, controls)


def first_difference(one: Generation, other: Generation) -> int | None:
    """The number, from 1, of the first token in which two texts differ; `None` if they don't."""
    ids, others = one.token_ids, other.token_ids
    differ = [i for i, (a, b) in enumerate(zip(ids, others, strict=False), 1) if a != b]
    return differ[0] if differ else None if len(ids) == len(others) else min(len(ids), len(others)) + 1


def token_at(own: Compared, step: int) -> str:
    """The text of a text's token, by its number from 1; the end of a text is `"[end]"`."""
    ids = own.generation.token_ids
    if step > len(ids) or (step == len(ids) and own.generation.finish_reason == "eos"):
        return "[end]"
    return own.measured.pieces[step - 1] if own.measured is not None else ""
