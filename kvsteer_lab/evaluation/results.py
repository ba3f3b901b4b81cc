"""Results of an evaluation: one tidy row a question, intervention and sample, and the tables that summarise them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from .._util.files import write_atomically
from .._util.html import table_html
from .._util.json import first_fault, read_json
from .chunk_files import checksum, first_line
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
_KEY = b"kvsteer_lab"


class _Note(BaseModel):
    """What a file of results says about itself; `check` is missing in files of earlier releases."""

    model_config = ConfigDict(strict=True, frozen=True)
    settings: dict[str, Any]
    complete: bool
    check: str = ""


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
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        about: dict[str, Any] = {"settings": dict(self.settings), "complete": self.complete}
        note = _Note(**about, check=checksum(table, [about]))
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: note.model_dump_json().encode()})
        return write_atomically(path, lambda temporary: pq.write_table(table, temporary))

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a file that `save` wrote, or the folder of a run, finished or not.

        Raises:
            ValueError: no such file, a truncated or a foreign one.
        """
        if Path(path).is_dir():
            return cls.of_run(Run.load(path))
        try:
            table = pq.read_table(path)
            text = (table.schema.metadata or {})[_KEY]
            read_json(text, what="its note")
            note = _Note.model_validate_json(text)
            if note.check and note.check != checksum(table, [{"settings": note.settings, "complete": note.complete}]):
                raise ValueError("its rows are not those that were saved")
            return cls(table.replace_schema_metadata(None).to_pandas(), note.settings, note.complete)
        except FileNotFoundError as error:
            raise ValueError(f"There are no results at {path}.") from error
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else first_line(error)
            raise ValueError(
                f"{path} is not a complete results file of kvsteer_lab ({reason}); run the evaluation again."
            ) from error

    @classmethod
    def of_run(cls, run: Run) -> Results:
        """The rows that a run's folder holds."""
        rows = run.read()
        return cls(rows if len(rows) else pd.DataFrame(columns=list(COLUMNS)), run.settings, run.complete)

    def _repr_html_(self) -> str:
        note = "" if self.complete else "<p>Interrupted: only finished questions are counted.</p>"
        table = summarise(self.rows, self.settings, self.complete, "baseline")
        return note + table_html(table, float_format=lambda x: f"{x:.3g}", na_rep="")

    def _warn_if_partial(self) -> None:
        if not self.complete:
            warn_of_interruption(self.rows, self.settings)
