"""`kvsteer sweep`: models x tasks x sets of interventions, each in shards, on processes, SLURM or Ray."""

from __future__ import annotations

from pathlib import Path

import tyro

from ..printing import say_line, say_text


def sweep(
    plan: tyro.conf.Positional[Path],
    local: int | None = None,
    slurm: bool = False,
    ray: str | None = None,
    every: float = 30.0,
) -> None:
    """Run the evaluations of a plan in shards, and print one table of their results.

    The runs' folders alone say what is done: stopped or killed, the same command goes on, and a shard whose worker dies
    is started again. Exit code 0: all is done; 1: shards that failed for good, each named; 130: interrupted.

    Args:
        plan: a YAML file: out, models, tasks, interventions, shards and settings (see the guide on clusters).
        local: worker processes on this machine; 1 unless another cluster is named.
        slurm: array jobs of SLURM, through submitit; the plan's "slurm" has their parameters.
        ray: address of a Ray cluster ("auto", "ray://HOST:10001"), or "local" for one on this machine.
        every: seconds between two tables of states.
    """
    import kvsteer_lab as kv

    from ...sweeps.sweeping import write_table

    if (local is not None) + slurm + (ray is not None) > 1:
        raise ValueError("A sweep runs in one place; pass one of --local, --slurm and --ray.")
    read = kv.sweeps.SweepPlan.read(plan)
    read.check_files()
    logs = Path(read.out) / "logs"
    cluster: kv.sweeps.LocalProcesses | kv.sweeps.Slurm | kv.sweeps.RayCluster
    try:
        if slurm:
            cluster = kv.sweeps.Slurm(logs, read.slurm)
        elif ray is not None:
            cluster = kv.sweeps.RayCluster(ray, read.ray)
        else:
            cluster = kv.sweeps.LocalProcesses(1 if local is None else local, logs / "workers.log")
    except ImportError as error:
        raise ValueError(str(error)) from error
    failed = kv.sweeps.sweep(read, cluster, say=say_text, every=every)
    table = kv.sweeps.results_table(read)
    if len(table):
        say_text(kv.readable(table).to_string(index=False))
        say_line(f"Wrote {write_table(read, table)}.")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(read.units)} shards failed for good: {', '.join(failed)}; mend the cause and run"
            " the same command again."
        )
