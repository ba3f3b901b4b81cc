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

from .files import write_atomically
from .stats import control_p, mcnemar, wilson

COLUMNS = (
    *("question", "intervention", "sample", "control_of", "text", "forced", "finish_reason", "tokens"),
    *("read_answer", "gold", "correct", "style", "reasoned", "repetition"),
)
_KEY = b"kvsteer_lab"


@dataclass(frozen=True)
class Results:
    """Rows of an evaluation; the raw text is kept, so that any score can be recomputed.

    Attributes:
        rows: a table with the columns `COLUMNS`. `control_of` names the intervention that a control row controls.
        settings: what was run: model, fingerprint, task, split, seed, package version.
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
            raise ValueError(f"There is no intervention {intervention!r} here; choose one of: {', '.join(self.interventions)}.")
        return found

    @property
    def interventions(self) -> list[str]:
        """Labels in the order of the run, controls left out."""
        return list(dict.fromkeys(self.rows.intervention[self.rows.control_of.isna()]))

    def summary(self, baseline: str = "baseline") -> pd.DataFrame:
        """One row an intervention, the first sample of each question.

        Columns: `n`, `accuracy` with its 95% Wilson interval `low`, `high`; `p`, the exact McNemar test against the baseline; `reasoned`, the
        share of replies in a reasoning style; `tokens`, the mean length; `truncated`, the share cut at `max_new_tokens`; `repetition`, the mean share
        of repeated 4-grams; `p_random` and `p_random_reasoned`, the share of random controls (plus one) that do at least as well in accuracy and
        in reasoning. Controls are one row: their mean, and the range that holds the middle 95% of them.
        """
        first = self.rows[self.rows["sample"] == 0]
        own = first[first.control_of.isna()]
        reference = own[own.intervention == baseline].correct.tolist()
        controls = first[first.control_of.notna()]
        by_control = controls.groupby(["control_of", "intervention"])[["correct", "reasoned"]].mean() if len(controls) else None
        table: dict[str, dict[str, Any]] = {}
        for label in self.interventions:
            part = own[own.intervention == label]
            table[label] = _measure(part)
            table[label]["low"], table[label]["high"] = wilson(int(part.correct.sum()), len(part))
            table[label]["p"] = mcnemar(part.correct.tolist(), reference) if reference and label != baseline else None
            if by_control is not None and label in by_control.index.get_level_values(0):
                mine = by_control.loc[label]
                table[label]["p_random"] = control_p(table[label]["accuracy"], mine.correct.tolist())
                table[label]["p_random_reasoned"] = control_p(table[label]["reasoned"], mine.reasoned.tolist())
        for steered, part in controls.groupby("control_of", sort=False):
            each = by_control.loc[steered].correct  # type: ignore[union-attr]
            name = f"{len(each)} random vectors" if controls.control_of.nunique() == 1 else f"{len(each)} random for {steered}"
            table[name] = {**_measure(part), "n": part.question.nunique(), "low": each.quantile(0.025), "high": each.quantile(0.975)}
        order = ["n", "accuracy", "low", "high", "p", "reasoned", "tokens", "truncated", "repetition", "p_random", "p_random_reasoned"]
        summary = pd.DataFrame.from_dict(table, orient="index").reindex(columns=order)
        summary.index.name = "intervention"
        return summary.astype({c: float for c in order if c != "n"})

    def style_shares(self) -> pd.DataFrame:
        """Share of replies in each detected style: one row an intervention (controls pooled out), one column a style."""
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
        """Read a file that `save` wrote.

        Raises:
            ValueError: no such file, a truncated or a foreign one.
        """
        try:
            table = pq.read_table(path)
            note = json.loads((table.schema.metadata or {})[_KEY])
        except FileNotFoundError as error:
            raise ValueError(f"There are no results at {path}.") from error
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ValueError(f"{path} is no complete results file of kvsteer_lab ({error}); run the evaluation again.") from error
        return cls(table.to_pandas(), note["settings"], note["complete"])

    def _repr_html_(self) -> str:
        note = "" if self.complete else "<p>Interrupted: only finished questions are counted.</p>"
        return note + self.summary().to_html(float_format=lambda x: f"{x:.3g}", na_rep="")


def _measure(part: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(part),
        "accuracy": part.correct.mean(),
        "reasoned": part.reasoned.mean(),
        "tokens": part.tokens.mean(),
        "truncated": (part.finish_reason == "length").mean(),
        "repetition": part.repetition.mean(),
    }
