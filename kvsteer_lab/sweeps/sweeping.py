"""A sweep: what the store lacks is started, started again where it died, and named where it fails for good."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from .._util.files import write_atomically
from ..evaluation.comparison import compare
from ..evaluation.results import Results
from ..stats.significance import holm_family
from .clusters import Cluster, Job
from .plan import SweepPlan
from .units import Unit, unfinished

TABLE = "table.csv"


def sweep(
    plan: SweepPlan, cluster: Cluster, *, say: Callable[[str], object] = print, every: float = 30.0
) -> dict[str, str]:
    """Run what is missing of a plan. The store alone says what is done: a sweep that was stopped, or whose workers
    were killed, goes on when it is called again, whatever cluster it ran on before.

    Args:
        plan: from `SweepPlan.read`.
        cluster: where units run; it is closed at the end.
        say: what messages and tables of states are given to.
        every: seconds between two tables of states, while any state changes.

    Returns:
        The units that failed for good, by title, each with the reason: empty if all is done. The others are done.

    Raises:
        ValueError: vectors that aren't there; before anything is started.

    >>> from kvsteer_lab.sweeps import LocalProcesses
    >>> sets = {"strengths": {"vectors": "none.safetensors", "doses": [{"cv": 2}]}}
    >>> plan = SweepPlan.of({"out": "runs", "models": ["tiny"], "tasks": ["gsm8k"], "interventions": sets})
    >>> sweep(plan, LocalProcesses(1, "log"))
    Traceback (most recent call last):
    ValueError: The vectors none.safetensors of runs/tiny-gsm8k-strengths aren't there; extract them with ...
    """
    plan.check_files()
    units = plan.units
    tries, failed = Counter[str](), dict[str, str]()
    jobs, todo = dict[str, tuple[Unit, Job]](), unfinished(units)
    say(f"{len(units) - len(todo)} of {len(units)} shards are done, {len(todo)} are to be run.")
    told = time.monotonic()
    try:
        while todo or jobs:
            if todo:
                tries.update(unit.title for unit in todo)
                started = cluster.start([unit.located() for unit in todo])
                jobs |= {unit.title: (unit, job) for unit, job in zip(todo, started, strict=True)}
            cluster.wait()
            ended = [(unit, job) for unit, job in jobs.values() if job.done()]
            lacking = {unit.title for unit in unfinished(unit for unit, _ in ended)}
            todo = []
            for unit, job in ended:
                del jobs[unit.title]
                if unit.title not in lacking:
                    continue
                reason, refused = _reason(job)
                if refused or tries[unit.title] >= plan.attempts:
                    failed[unit.title] = reason
                    say(f"{unit.title} failed: {reason}")
                else:
                    todo.append(unit)
                    say(f"{unit.title} is started again: {reason}")
            if time.monotonic() - told > every:
                say(states_table(units, {t: cluster.state(job) for t, (_, job) in jobs.items()}, failed).to_string())
                told = time.monotonic()
    except KeyboardInterrupt:
        done = len(units) - len(unfinished(units))
        raise KeyboardInterrupt(
            f"Interrupted: {done} of {len(units)} shards are done; the same command goes on from there."
        ) from None
    finally:
        cluster.close()
    say(states_table(units, {}, failed).to_string())
    return failed


def _reason(job: Job) -> tuple[str, bool]:
    """Why a job left something undone, in one line, and whether it was refused, so that no other try can end better."""
    try:
        refused = job.result()
    except Exception as error:  # whatever a cluster raises for a job that died
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        told = [line for line in lines if _RAISED.match(line)]  # of a traceback, its last line says what happened
        return (told or lines)[-1 if told else 0][:300], False
    return refused or "it ended without its rows", refused is not None


_RAISED = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt)\b")


def states_table(
    units: Sequence[Unit], running: Mapping[str, str] = MappingProxyType({}), failed: Container[str] = ()
) -> pd.DataFrame:
    """How many shards of each run are in which state.

    Args:
        units: of the plan.
        running: by title, the state of those that were started.
        failed: titles of those that failed for good.

    Returns:
        One row a run; columns `shards`, `done`, then the states that occur.

    >>> states_table([]).empty
    True
    """
    lacking = {unit.title for unit in unfinished(units)}
    states = [
        running.get(u.title, "failed" if u.title in failed else "to do") if u.title in lacking else "done"
        for u in units
    ]
    runs = pd.Categorical([Path(u.run).name for u in units], dict.fromkeys(Path(u.run).name for u in units))
    table = pd.crosstab(pd.Series(runs, name="run"), pd.Series(states, name=None, dtype="object"))
    table.insert(0, "shards", table.sum(axis=1))
    if "done" not in table:
        table.insert(1, "done", 0)
    return table[["shards", "done", *(c for c in table if c not in ("shards", "done"))]].rename_axis(columns=None)


def results_table(plan: SweepPlan) -> pd.DataFrame:
    """The results of the runs that are complete, in one table; every file is read and checked.

    Args:
        plan: what was run.

    Returns:
        One row a run and intervention, several controls of one kind as one: `model`, `task`, `set`, `intervention`;
        `n`, `accuracy`, `reasoned`, `tokens`, `truncated`, `repetition`, `p_random...` (`Results.summary`); `gain`
        over the baseline with its interval `low`, `high`, `gained`, `lost` and exact `p` (`kv.compare`); `p_holm`,
        corrected for all tests of this table.

    Raises:
        ValueError: a damaged file; the message names it.

    >>> plan = {"out": "no-folder", "models": ["tiny"], "tasks": ["tiny-arithmetic"], "interventions": {"cot": {}}}
    >>> results_table(SweepPlan.of(plan)).empty
    True
    """
    tables = []
    for unit in {unit.run: unit for unit in plan.units}.values():
        if not unfinished([unit.model_copy(update={"shard": (1, 1)})]):
            results = Results.load(unit.run)
            summary = results.summary()
            own = summary[[c for c in summary if c in _OWN or c.startswith("p_random")]]
            gains = compare(results).set_index("intervention")[["gain", "low", "high", "gained", "lost", "p"]]
            found = own.join(gains).rename_axis("intervention").reset_index()
            tables.append(found.assign(model=unit.model.id, task=unit.task, set=unit.name))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    table["p_holm"] = pd.Series(holm_family({str(i): p for i, p in table.p.dropna().items()})).rename(int)
    return table[["model", "task", "set", *(c for c in table if c not in ("model", "task", "set"))]]


_OWN = ("n", "samples", "accuracy", "reasoned", "tokens", "truncated", "repetition")


def write_table(plan: SweepPlan, table: pd.DataFrame) -> Path:
    """Write the table of results beside the runs.

    Args:
        plan: whose folder it goes to.
        table: from `results_table`.

    Returns:
        The file.
    """
    return write_atomically(Path(plan.out) / TABLE, lambda path: table.to_csv(path, index=False))
