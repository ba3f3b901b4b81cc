"""Results of an evaluation: one tidy row a question, intervention and sample, and the tables that summarise them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .._util.html import table_html
from ..stats.tables import readable
from ..tasks.base import Question, Task
from .outcomes.built_in import BUILT_IN
from .outcomes.measuring import PREFIX, measure_rows
from .outcomes.outcome import Outcome, as_outcomes
from .outcomes.table import length_table, tabulate
from .results_file import read_results, write_results
from .runs import Run
from .summary import summarise
from .verdicts import check_measured, warn_of_interruption

COLUMNS = (
    *(
        "question",
        "intervention",
        "sample",
        "control_of",
        "control_kind",
        "text",
        "forced",
        "closing",
        "finish_reason",
        "tokens",
    ),
    *("gold", "read_answer", "choice_forced", "correct", "style", "reasoned", "repetition"),
)
"""Of every row. After them comes a column `by_RULE` for each of the task's rules, with the answer that it reads."""


@dataclass(frozen=True)
class Results:
    """Rows of an evaluation; the raw text is kept, so that any score can be recomputed.

    Attributes:
        rows: a table with the columns `COLUMNS` and one `by_RULE` a rule. `control_of` names the intervention that a
            control row controls, `closing` is the second stage of a multiple-choice question, `choice_forced` says that
            no rule read its letter.
        settings: what was run: model, fingerprint, task, rule, split, seed, package version.
        complete: `False` if the run was interrupted; then only questions that every intervention answered are here.
    """

    rows: pd.DataFrame = field(repr=False)
    settings: Mapping[str, Any]
    complete: bool = True

    def of(self, intervention: str) -> pd.DataFrame:
        """The rows of one intervention, by its label, in the order of the questions.

        Raises:
            ValueError: no such intervention.
        """
        found = self.rows[self.rows.intervention == intervention]
        if found.empty:
            raise ValueError(
                f"There is no intervention {intervention!r} here; choose one of: {', '.join(self.interventions)}."
            )
        return found

    @property
    def interventions(self) -> list[str]:
        """Labels in the order of the run, controls left out."""
        return list(dict.fromkeys(self.rows.intervention[self.rows.control_of.isna()]))

    @property
    def rules(self) -> list[str]:
        """The rules that read answers; the first is the one that accuracy is computed by."""
        return [c.removeprefix("by_") for c in self.rows.columns if c.startswith("by_")]

    def summary(self, baseline: str = "baseline") -> pd.DataFrame:
        """One row an intervention, over all sampled replies to each question.

        Args:
            baseline: the intervention that the others are tested against.

        Returns:
            `n` questions; with several replies to each also `samples`, and of an interrupted run `planned`, the
            questions that it was to ask; `accuracy` with its 95% interval `low`, `high` (Wilson's, clustered by
            question); `p`, the exact McNemar test against the baseline (with several samples the exact permutation
            test of whole questions, `kv.stats.paired_permutation`), and `p_holm`, corrected for all tests of this
            table; `reasoned`, the share of replies that reason; `tokens`, the mean length; `truncated`, the
            share cut at `max_new_tokens`; `repetition`, the mean share of repeated 4-grams. For each kind of control
            (`random`, ...) `p_random` and `p_random_reasoned`: the share of controls (plus one) that do at least as
            well in accuracy and in reasoning. Several controls of one kind are one row: their mean, and the range that
            holds the middle 95% of them.

        Raises:
            ValueError: replies without a verdict or a length.

        Warns:
            UserWarning: the run was interrupted.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> short = {"max_new_tokens": 4}
            >>> results = kv.evaluate(model, task, kv.CoTPrompt(), n=2, generation=short, progress=False)
            >>> results.summary().index.tolist()
            ['baseline', 'no offset', 'CoT prompt']
        """
        self._warn_if_partial()
        return summarise(self.rows, self.settings, self.complete, baseline)

    def measure(
        self,
        outcomes: str | Outcome | Callable[..., Any] | Sequence[str | Outcome | Callable[..., Any]],
        task: Task | None = None,
    ) -> Results:
        """These results with more outcomes measured, each a column of `rows` (`"outcome NAME"`); kept texts suffice.

        Args:
            outcomes: names of built-in ones (`kv.outcomes.BUILT_IN`), functions from question and reply to a number, or
                instances of `kv.outcomes.Outcome`.
            task: whose questions the functions get; without it they get the id and the gold answer alone.

        Returns:
            New results; the texts and all other columns are the same.

        Raises:
            ValueError: an unknown name, two outcomes with one name, a function that gives no number, or a task without
                these questions.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> results = kv.evaluate(model, task, kv.Nothing(), n=2, generation={"max_new_tokens": 8}, progress=False)
            >>> results.measure(["words", "direct"]).rows["outcome direct"].tolist()
            [1.0, 1.0, 1.0, 1.0]
        """
        chosen = as_outcomes(outcomes, BUILT_IN)
        values = measure_rows(self.rows, chosen, ({} if task is None else self.questions_of(task)))
        kept = [c for c in self.rows.columns if c not in {PREFIX + name for name in values}]
        noted = {o.name: dict(unit=o.unit, description=o.description, is_length=o.is_length) for o in chosen}
        settings = {**self.settings, "outcomes": {**self.settings.get("outcomes", {}), **noted}}
        return Results(self.rows[kept].join(values.add_prefix(PREFIX)), settings, self.complete)

    def outcomes_table(self, baseline: str = "baseline", seed: int = 0) -> pd.DataFrame:
        """Every outcome with its interval, its paired test and its controls: those that were measured (`measure`), or
        else the built-in ones.

        Args:
            baseline: the intervention that the others are tested against.
            seed: of bootstrap and permutations.

        Returns:
            One row an outcome and intervention, controls left out; outcomes that apply to no reply are left out. `n`,
            the questions with a value; `value`, the mean over replies with its 95% interval `low`, `high` (Wilson's of
            a share, percentile bootstrap of other numbers, both clustered by question); `difference` from the baseline
            on the questions where both have a value, with its interval (Newcombe's, or paired bootstrap); `p`: exact
            McNemar of a share (several samples: `kv.stats.paired_permutation`), `kv.stats.paired_means_permutation` of
            other numbers; `p_holm`, corrected for **all tests of this table** (KL, which is never negative, has
            controls but no test against the baseline's 0); for each kind of control with two or
            more of them `random_low`, `random_high`, the range of the middle 95% of their means, and `p_random`: the
            share of controls (plus one) whose mean lies as far from the baseline's, on either side. Of lengths also
            `cut`, the share of replies whose length is only a lower bound, and `median`, Kaplan and Meier's (infinite:
            too many were cut to tell).

        Warns:
            UserWarning: the run was interrupted.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> results = kv.evaluate(model, task, kv.Nothing(), n=2, generation={"max_new_tokens": 8}, progress=False)
            >>> float(results.measure("words").outcomes_table().loc[("words", "baseline"), "value"])
            4.0
        """
        self._warn_if_partial()
        noted = self.settings.get("outcomes", {})
        if noted:
            chosen = [Outcome(name, BUILT_IN["words"].measure, **about) for name, about in noted.items()]
            values = self.rows[[PREFIX + o.name for o in chosen]].set_axis([o.name for o in chosen], axis=1)
        else:
            chosen = list(BUILT_IN.values())
            values = measure_rows(self.rows, chosen, {})
        return tabulate(self.rows, values, chosen, baseline, seed)

    def lengths(self) -> pd.DataFrame:
        """Lengths in tokens, replies that were cut counted apart: a cut reply's length is only a lower bound.

        Returns:
            One row an intervention, controls left out: `n` replies, `cut` of them at `max_new_tokens`, `cut_share`;
            `finished_mean`, of the others; `restricted_mean`, of the shorter of length and limit; `median` by Kaplan
            and Meier with its interval `low`, `high` (`kv.stats.censored_lengths`), infinite where too many were cut.

        Warns:
            UserWarning: the run was interrupted.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> results = kv.evaluate(model, task, kv.Nothing(), n=2, generation={"max_new_tokens": 4}, progress=False)
            >>> float(results.lengths().loc["baseline", "cut_share"])
            1.0
        """
        self._warn_if_partial()
        return length_table(self.rows)

    def by_rule(self) -> pd.DataFrame:
        """Accuracy of each intervention under each rule that reads answers: how much depends on the rule.

        Returns:
            One row an intervention, controls left out, and one column a rule, which counts what it cannot read as
            wrong; the column `unread` is the share that the main rule could not read. All samples are counted.

        Warns:
            UserWarning: the run was interrupted.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> results = kv.evaluate(model, task, kv.Nothing(), n=2, generation={"max_new_tokens": 4}, progress=False)
            >>> results.by_rule().columns.tolist() == [*results.rules, "unread"]
            True
        """
        self._warn_if_partial()
        own = self.rows[self.rows.control_of.isna()]
        right = pd.DataFrame({rule: own[f"by_{rule}"] == own.gold for rule in self.rules})
        right["unread"] = own[f"by_{self.rules[0]}"].isna()
        return right.groupby(own.intervention).mean().reindex(self.interventions)

    def style_shares(self) -> pd.DataFrame:
        """Share of replies in each detected style, over all samples.

        Returns:
            One row an intervention (controls left out), one column a style.

        Raises:
            ValueError: replies without a style.

        Warns:
            UserWarning: the run was interrupted.

        Examples:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> results = kv.evaluate(model, task, kv.Nothing(), n=2, generation={"max_new_tokens": 8}, progress=False)
            >>> results.style_shares().loc["baseline"].to_dict()
            {'direct': 1.0}
        """
        self._warn_if_partial()
        own = self.rows[self.rows.control_of.isna()]
        check_measured(own, ("style",))
        shares = pd.crosstab(own.intervention, own["style"], normalize="index")
        return shares.reindex(self.interventions)

    def save(self, path: str | Path) -> Path:
        """Write one parquet file, settings in its metadata; an existing file is replaced in one step."""
        return write_results(path, self.rows, self.settings, self.complete)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a file that `save` wrote, or the folder of a run, finished or not.

        Raises:
            ValueError: no such file, a truncated or a foreign one.
        """
        if Path(path).is_dir():
            return cls.of_run(Run.load(path))
        return cls(*read_results(path))

    @classmethod
    def of_run(cls, run: Run) -> Results:
        """The rows that a run's folder holds."""
        rows = run.read()
        return cls(rows if len(rows) else pd.DataFrame(columns=list(COLUMNS)), run.settings, run.complete)

    def _repr_html_(self) -> str:
        note = "" if self.complete else "<p>Interrupted: only finished questions are counted.</p>"
        table = summarise(self.rows, self.settings, self.complete, "baseline")
        return note + table_html(readable(table))

    def questions_of(self, task: Task) -> dict[str, Question]:
        """The questions of these rows by id.

        Args:
            task: that was evaluated.

        Raises:
            ValueError: a task without these questions.
        """
        split, n, seed = (self.settings.get(name) for name in ("split", "n", "seed"))
        found = {q.id: q for q in task.questions(str(split), n, seed)}
        if missing := set(self.rows.question) - found.keys():
            raise ValueError(
                f"Task {task.name!r} doesn't have {len(missing)} of these questions ({min(missing)!r}, for one); pass"
                " the task that was evaluated."
            )
        return found

    def _warn_if_partial(self) -> None:
        if not self.complete:
            warn_of_interruption(self.rows, self.settings)
