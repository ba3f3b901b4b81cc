"""Results of an evaluation: one tidy row a question, intervention and sample, and the table that summarises them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._util.files import write_atomically
from .._util.html import table_html
from ..stats.intervals import wilson
from ..stats.significance import control_p, holm, mcnemar
from .runs import Run

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
"""Of every row. Behind them comes a column `by_RULE` for each of the task's rules, with the answer that it reads."""
_KEY = b"kvsteer_lab"


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
        """One row an intervention, the first sample of each question.

        Columns: `n`, `accuracy` with its 95% Wilson interval `low`, `high`; `p`, the exact McNemar test against the
        baseline, and `p_holm`, corrected for all of this table's; `reasoned`, the share of replies that reason;
        `tokens`, the mean length; `truncated`, the share cut at `max_new_tokens`; `repetition`, the mean share of
        repeated 4-grams. For each kind of control (`random`, ...) `p_random` and `p_random_reasoned`: the share of
        controls (plus one) that do at least as well in accuracy and in reasoning. Several controls of one kind are one
        row: their mean, and the range that holds the middle 95% of them.
        """
        first = self.rows[self.rows["sample"] == 0]
        own, controls = first[first.control_of.isna()], first[first.control_of.notna()]
        reference = own[own.intervention == baseline].correct.tolist()
        table: dict[str, dict[str, Any]] = {}
        for label in self.interventions:
            part = own[own.intervention == label]
            table[label] = _measure(part)
            table[label]["low"], table[label]["high"] = wilson(int(part.correct.sum()), len(part))
            if reference and label != baseline:
                table[label]["p"] = mcnemar(part.correct.tolist(), reference)
        tested = [label for label in table if "p" in table[label]]
        for label, p in zip(tested, holm([table[label]["p"] for label in tested]), strict=True):
            table[label]["p_holm"] = p
        columns = []
        for (steered, kind), part in controls.groupby(["control_of", "control_kind"], sort=False):
            each = part.groupby("intervention")[["correct", "reasoned"]].mean()
            if len(each) == 1:  # one control makes no distribution: it stands by itself
                table[each.index[0]] = _measure(part) | dict(
                    zip(("low", "high"), wilson(int(part.correct.sum()), len(part)), strict=True)
                )
                continue
            columns += [f"p_{kind.replace(' ', '_')}", f"p_{kind.replace(' ', '_')}_reasoned"]
            if steered in table:
                table[steered][columns[-2]] = control_p(table[steered]["accuracy"], each.correct.tolist())
                table[steered][columns[-1]] = control_p(table[steered]["reasoned"], each.reasoned.tolist())
            whose = "" if controls.control_of.nunique() == 1 else f" for {steered}"
            bounds = dict(low=each.correct.quantile(0.025), high=each.correct.quantile(0.975))
            table[f"{len(each)} {kind} vectors{whose}"] = {**_measure(part), "n": part.question.nunique(), **bounds}
        order = [
            "n",
            "accuracy",
            "low",
            "high",
            "p",
            "p_holm",
            "reasoned",
            "tokens",
            "truncated",
            "repetition",
            *dict.fromkeys(columns),
        ]
        summary = pd.DataFrame.from_dict(table, orient="index").reindex(columns=order)
        summary.index.name = "intervention"
        return summary.astype({c: float for c in order if c != "n"})

    def by_rule(self) -> pd.DataFrame:
        """Accuracy of each intervention under each rule that reads answers: how much hangs on the extraction. Controls
        are left out.

        A rule counts what it can't read as wrong; the column `unread` is the share that the main rule couldn't.
        """
        own = self.rows[self.rows.control_of.isna() & (self.rows["sample"] == 0)]
        right = pd.DataFrame({rule: own[f"by_{rule}"] == own.gold for rule in self.rules})
        right["unread"] = own[f"by_{self.rules[0]}"].isna()
        return right.groupby(own.intervention).mean().reindex(self.interventions)

    def style_shares(self) -> pd.DataFrame:
        """Share of replies in each detected style: one row an intervention (controls pooled out), one column a
        style.
        """
        own = self.rows[self.rows.control_of.isna() & (self.rows["sample"] == 0)]
        shares = pd.crosstab(own.intervention, own["style"], normalize="index")
        return shares.reindex(self.interventions)

    def save(self, path: str | Path) -> Path:
        """Write one parquet file, settings in its metadata; an existing file is replaced in one step."""
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        note = json.dumps({"settings": dict(self.settings), "complete": self.complete}, sort_keys=True)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: note.encode()})
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
            note = json.loads((table.schema.metadata or {})[_KEY])
        except FileNotFoundError as error:
            raise ValueError(f"There are no results at {path}.") from error
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ValueError(
                f"{path} is no complete results file of kvsteer_lab ({error}); run the evaluation again."
            ) from error
        return cls(table.to_pandas(), note["settings"], note["complete"])

    @classmethod
    def of_run(cls, run: Run) -> Results:
        """The rows that a run's folder holds."""
        rows = run.read()
        return cls(rows if len(rows) else pd.DataFrame(columns=list(COLUMNS)), run.settings, run.complete)

    def _repr_html_(self) -> str:
        note = "" if self.complete else "<p>Interrupted: only finished questions are counted.</p>"
        return note + table_html(self.summary(), float_format=lambda x: f"{x:.3g}", na_rep="")


def _measure(part: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(part),
        "accuracy": part.correct.mean(),
        "reasoned": part.reasoned.mean(),
        "tokens": part.tokens.mean(),
        "truncated": (part.finish_reason == "length").mean(),
        "repetition": part.repetition.mean(),
    }
