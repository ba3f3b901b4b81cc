"""Runs after scoring: verdicts and measures of each reply; the texts themselves are dropped."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..stats.shares import clustered_share
from ..stats.texts import is_loop, is_refusal, repetition
from ..tasks.paper import LETTERS
from ..tasks.styles import REASONING_STYLES, detect_style
from .rescoring import Check, answer_kind, check_metrics, main_metric, read, read_by_our_rules, reply_of
from .runs import Answer, ReleasedRun

CHARACTERS_A_TOKEN = 2.5
"""Below any usual ratio for English: a reply that is this long for its limit of tokens, and ends in mid-sentence, was
probably cut.
"""

LOOP_TAIL = 3000
"""Words at a reply's end in which a loop is looked for."""


@dataclass(frozen=True)
class Scored:
    """What the audit keeps of a run.

    Attributes:
        run: file, arguments and metrics; its answers are dropped.
        checks: the file's metrics, recomputed.
        rules: the rules that `answers` has a verdict for, the paper's main one first.
        answers: one row a reply: `question`, `target`, a column `by_RULE` of verdicts for each of `rules`, `style`,
            `reasoned`, `words`, `characters`, `repeated`, `loop`, `refused`, `blank`, `cut`; `unreachable`, whether the
            gold label is none of the letters that the paper's rules know.
        fingerprint: of questions and replies; two runs that share it hold the same generations.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("plain.json", settings, metrics, (answer,))
        >>> kv.published.score_run(run).rules[0]
        'augmented_extract'
    """

    run: ReleasedRun
    checks: tuple[Check, ...]
    rules: tuple[str, ...]
    answers: pd.DataFrame = field(repr=False)
    fingerprint: str

    @property
    def matches(self) -> bool:
        """Whether every metric that can be recomputed is the file's own, and at least one can."""
        possible = [check for check in self.checks if check.by != "nothing"]
        return bool(possible) and all(check.matches for check in possible)

    def summary(self) -> dict[str, Any]:
        """One row of the table of runs; `low`, `high`: 95% interval of the accuracy, Wilson's, or clustered by question
        where there are several replies.
        """
        n, run = len(self.answers), self.run
        right, low, high = self._accuracy()
        return {
            **dict(
                file=run.file,
                group=run.group,
                model=run.model,
                task=run.task,
                kind=run.kind,
                setting=run.setting,
                decoding=run.decoding,
            ),
            **dict(max_new_tokens=run.max_new_tokens, seed=run.seed, style=run.style),
            **dict(questions=self.answers.question.nunique(), n=n, accuracy=right, low=low, high=high),
            **{f"accuracy_{rule}": self.answers[f"by_{rule}"].mean() for rule in self.rules},
            **{
                name: self.answers[name].mean()
                for name in ("words", "characters", "repeated", "loop", "refused", "blank", "cut", "unreachable")
            },
            "half_repeated": (self.answers.repeated >= 0.5).mean(),
            "reasoned": self.answers.reasoned.mean(),
            "matches": self.matches,
        }

    def _accuracy(self) -> tuple[float, float, float]:
        if not self.rules:
            return (math.nan,) * 3
        return share(self.answers, f"by_{self.rules[0]}")


def share(answers: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """A share of replies with its 95% interval: Wilson's, clustered by question where there are several samples.

    Args:
        answers: of `Scored`.
        column: of verdicts.

    Returns:
        The share and the ends of its interval.
    """
    found = clustered_share(answers[column].tolist(), answers.question.tolist())
    return found.value, found.low, found.high


def score_run(run: ReleasedRun) -> Scored:
    """Recompute a run's metrics, read its replies by this library's rules, and measure them as texts.

    Args:
        run: from `read_release`.

    Returns:
        Verdicts and measures of each reply.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("a.json", settings, metrics, (answer,))
        >>> scored = kv.published.score_run(run)
        >>> scored.matches, bool(scored.answers.by_augmented_extract[0])
        (True, True)
    """
    verdicts: dict[str, list[bool]] = {}
    main = main_metric(run)
    for metric in [main, *(name for name in run.metrics if name != main)]:
        found = read(run, metric)
        if found is not None:
            verdicts[metric] = [value == answer.target for value, answer in zip(found, run.answers, strict=True)]
    for rule, values in read_by_our_rules(run).items():
        verdicts[rule if rule not in verdicts else f"our_{rule}"] = values
    choice = answer_kind(run) == "choice"
    texts = pd.DataFrame([_measure(answer, run.max_new_tokens, choice) for answer in run.answers])
    head = {"question": [answer.id for answer in run.answers], "target": [answer.target for answer in run.answers]}
    columns = {f"by_{rule}": values for rule, values in verdicts.items()}
    answers = pd.concat([pd.DataFrame({**head, **columns}), texts], axis=1)
    print_of = hashlib.sha256(
        "\0".join(f"{a.id}\0{a.text}" for a in run.answers).encode(errors="surrogatepass")
    ).hexdigest()
    light = ReleasedRun(run.file, run.arguments, run.metrics, ())
    return Scored(light, tuple(check_metrics(run)), tuple(verdicts), answers, print_of)


def _measure(answer: Answer, limit: int | None, choice: bool) -> dict[str, Any]:
    reply = reply_of(answer)
    words = reply.split()
    # A reply in one stage that ended by itself ends with an end mark; of two stages the first one's mark is gone.
    ended = reply[-1:] in ".!?)\"”'*]" or (not choice and answer.text.rstrip().endswith(("|>", "</s>")))
    style = detect_style(reply)
    return dict(
        style=style,
        reasoned=style in REASONING_STYLES,
        words=len(words),
        characters=len(reply),
        repeated=repetition(words),  # type: ignore[arg-type]  # words serve as well as token ids
        loop=is_loop(" ".join(words[-LOOP_TAIL:])),
        refused=is_refusal(reply),
        blank=not reply,
        unreachable=choice and answer.target not in tuple(LETTERS),
        cut=limit is not None and len(reply) >= CHARACTERS_A_TOKEN * limit and not ended,
    )
