"""The audit of a release: every file scored again, every steered run tested, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from .._util.files import write_atomically
from .arms import arms
from .comparisons import compare, effect_table, sensitivity, text_effects
from .extras import latency, style_adoption
from .release import Release, Timing, iterate_release
from .runs import ReleasedRun
from .scored import Scored, score_run
from .sources import Problem

_CHECKS = ["file", "metric", "claimed", "rescored", "by", "changed", "matches"]


@dataclass(frozen=True)
class Audit:
    """Tables of an audit; each is a pandas table and is written as a CSV file of its name.

    Attributes:
        root: the name of the folder or archive.
        checks: one row a file and metric: the file's own number, the recomputed one, and how it was recomputed.
        runs: one row a run: settings, accuracy by every rule, with Wilson's interval for the paper's main one, and
            measures of its texts.
        effects: the best steered run of each model and task against its baseline, as `comparisons.effect_table` gives
            it.
        comparisons: as `comparisons.compare` gives them, with p-values corrected by Holm in declared families, and the
            limits of new tokens of both sides.
        extractors: gains under each rule.
        texts: length ratios, loops, cuts, share of replies that reason.
        styles: adoption of styles in the style-transfer runs.
        latency: time a token and an answer.
        problems: what was skipped or could not be checked, and why.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("plain.json", settings, metrics, (answer,))
        >>> found = kv.published.audit(kv.published.Release("mine", (run,), ()))
        >>> found.matched, found.total, found.complete
        (1, 1, True)
    """

    root: str
    checks: pd.DataFrame = field(repr=False)
    runs: pd.DataFrame = field(repr=False)
    effects: pd.DataFrame = field(repr=False)
    comparisons: pd.DataFrame = field(repr=False)
    extractors: pd.DataFrame = field(repr=False)
    texts: pd.DataFrame = field(repr=False)
    styles: pd.DataFrame = field(repr=False)
    latency: pd.DataFrame = field(repr=False)
    problems: pd.DataFrame = field(repr=False)

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """All tables by name."""
        names = ("checks", "runs", "effects", "comparisons", "extractors", "texts", "styles", "latency", "problems")
        return {name: getattr(self, name) for name in names}

    @property
    def matched(self) -> int:
        """Files whose metrics are reproduced, each to 1e-9."""
        return int(self.runs.matches.sum())

    @property
    def total(self) -> int:
        """Files that hold a run, or should: JSON files that could not be read as one are among them."""
        return len(self.runs) + int(self.problems.opened.sum())

    @property
    def complete(self) -> bool:
        """Whether all files match, and nothing that could have been a result was skipped or left unchecked."""
        return self.matched == self.total and not self.problems.matters.any()

    def __str__(self) -> str:
        return f"{self.matched} of {self.total} files match their own metrics"

    def save(self, folder: str | Path) -> list[Path]:
        """Write each table as `NAME.csv` into a folder, which is made.

        Args:
            folder: where to.

        Returns:
            The files' paths.

        Raises:
            OSError: the folder can't be written.
        """
        return [
            write_atomically(Path(folder) / f"{name}.csv", partial(_write, table))
            for name, table in self.tables.items()
        ]


def audit(release: str | Path | Release, progress: bool = False) -> Audit:
    """Score every run of a release again, and compare the steered runs with the baseline, with CoT prompting and with
    activation steering.

    Args:
        release: its folder, its tar archive, or what `read_release` gave. From a path, files are read and let go one by
            one.
        progress: show a bar over the files.

    Returns:
        The audit's tables.

    Raises:
        ValueError: the path is neither a folder nor a tar archive, or it holds neither runs nor files of times.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("plain.json", settings, metrics, (answer,))
        >>> str(kv.published.audit(kv.published.Release("mine", (run,), ())))
        '1 of 1 files match their own metrics'
    """
    parts: Iterable[ReleasedRun | Timing | Problem]
    if isinstance(release, Release):
        root, parts = release.root, [*release.runs, *release.timings, *release.problems]
    else:
        root, parts = Path(release).resolve().name, iterate_release(release, progress)
    scored: list[Scored] = []
    timings: list[Timing] = []
    problems: list[Problem] = []
    for part in parts:
        if isinstance(part, ReleasedRun):
            one = _try_to_score(part)
            if isinstance(one, Problem):
                problems.append(one)
                continue
            scored.append(one)
            problems += _unchecked(one)
        elif isinstance(part, Timing):
            timings.append(part)
        else:
            problems.append(part)
    if not scored and not timings:
        first = f"; for one, {problems[0]}" if problems else ""
        raise ValueError(
            f"There is no run and no file of times in {root}{first}. Give the folder of the release, or its .tar.xz."
        )
    # an archive has its own order; the first of several baselines shall be the same one
    scored.sort(key=lambda one: one.run.file)
    among = arms(scored)
    tested = compare(among)
    times, bad_times = latency(timings)
    return Audit(
        root,
        checks=pd.DataFrame([_check_row(one, check) for one in scored for check in one.checks], columns=_CHECKS),
        runs=pd.DataFrame([one.summary() for one in scored]) if scored else pd.DataFrame({"matches": []}, dtype=bool),
        effects=effect_table(tested),
        comparisons=tested,
        extractors=sensitivity(among),
        texts=text_effects(among),
        styles=style_adoption(among),
        latency=times,
        problems=pd.DataFrame(
            [vars(problem) for problem in problems + bad_times], columns=["file", "reason", "matters", "opened"]
        ).astype({"matters": bool, "opened": bool}),
    )


def _try_to_score(run: ReleasedRun) -> Scored | Problem:
    try:
        return score_run(run)
    except Exception as error:  # whatever a file from elsewhere holds: it is named, and the audit goes on
        return Problem(run.file, f"can't be scored ({type(error).__name__}: {error})", opened=True)


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, errors="backslashreplace")


def _check_row(one: Scored, check: Any) -> dict[str, Any]:
    return {name: getattr(check, name, one.run.file) for name in _CHECKS}


def _unchecked(one: Scored) -> list[Problem]:
    """Metrics that could not be recomputed: by an unknown rule, without stored verdicts."""
    unknown = [check.metric for check in one.checks if check.by == "nothing"]
    return [
        Problem(one.run.file, f"claims a metric of an unknown rule ({name}) and does not store what it read")
        for name in unknown
    ]
