"""Where units run: processes of this machine, SLURM through submitit, or Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from .._util.extras import import_extra
from .units import Unit, run_unit

WORKER = (sys.executable, "-m", "kvsteer_lab.sweeps.worker")


class Job(Protocol):
    """A unit that was started: a future of this process, of submitit or of Ray."""

    def done(self) -> bool:
        """Whether it has ended, however."""

    def result(self) -> str | None:
        """`None`, or why the unit was refused. Raises what ended it otherwise."""


class Cluster(Protocol):
    """Where units run."""

    def start(self, units: Sequence[Unit]) -> Sequence[Job]:
        """Start units, each when there is room for it."""

    def state(self, job: Job) -> str:
        """What a job is doing, in one word."""

    def wait(self) -> None:
        """Let a moment pass before jobs are looked at again."""

    def close(self) -> None:
        """End what still runs."""


class LocalProcesses:
    """Worker processes of this machine, each with one unit at a time; a dead one is replaced.

    Args:
        workers: how many.
        log: a file for what they print.
        command: what a worker is.

    Raises:
        ValueError: fewer than one.

    >>> LocalProcesses(2, os.devnull).workers
    2
    """

    def __init__(self, workers: int, log: str | Path, command: Sequence[str] = WORKER) -> None:
        if workers < 1:
            raise ValueError(f"A sweep needs at least one worker, not {workers}; pass --local 1.")
        self.workers, self.log, self.command = workers, Path(log), tuple(command)
        self._own, self._all = threading.local(), list[subprocess.Popen[str]]()
        self._pool = ThreadPoolExecutor(workers)

    def start(self, units: Sequence[Unit]) -> Sequence[Job]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return [self._pool.submit(self._run, unit.model_dump_json()) for unit in units]

    def state(self, job: Any) -> str:
        return "running" if job.running() else "waiting"

    def wait(self) -> None:
        time.sleep(0.2)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
            process.wait()

    def _run(self, unit: str) -> str | None:
        process: subprocess.Popen[str] | None = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = self._own.process = self._begin()
        assert process.stdin is not None and process.stdout is not None
        try:
            print(unit, file=process.stdin, flush=True)
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"its process ended with exit code {process.wait()}; see {self.log}")
        found: dict[str, str | None] = json.loads(answer)
        if found.get("error"):
            raise RuntimeError(found["error"])
        return found["refused"]

    def _begin(self) -> subprocess.Popen[str]:
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"OMP_NUM_THREADS": threads, **os.environ},
                start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
            )
        self._all.append(process)
        return process


class Slurm:
    """Jobs of SLURM, an array at a time, through submitit.

    Args:
        folder: for submitit's files and logs; all nodes must see it.
        parameters: of `submitit.AutoExecutor.update_parameters`.
        cluster: `"slurm"`, or `"local"`, submitit's own processes on this machine.
        look_every: seconds between two questions to SLURM, which alone knows of jobs that died.

    Raises:
        ImportError: submitit isn't installed.
        ValueError: no SLURM here, or a parameter that submitit doesn't know.

    >>> cluster = Slurm("logs", {"slurm_partition": "gpu", "gpus_per_node": 1})  # doctest: +SKIP
    """

    def __init__(
        self, folder: str | Path, parameters: Mapping[str, Any], cluster: str = "slurm", look_every: float = 30.0
    ) -> None:
        submitit = import_extra("submitit", "slurm")
        try:
            self._executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": 60, "name": "kvsteer", **parameters})
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ValueError(
                f"submitit can't start jobs: {_first_line(error)}; mend the plan's slurm, or pass --local N where there"
                " is no SLURM."
            ) from error
        self.look_every, self._looked, self._jobs = look_every, time.monotonic(), list[Any]()

    def start(self, units: Sequence[Unit]) -> Sequence[Job]:
        jobs: list[Any] = self._executor.map_array(run_unit, [unit.model_dump_json() for unit in units])
        self._jobs += jobs
        return jobs

    def state(self, job: Any) -> str:
        return str(job.state).lower()

    def wait(self) -> None:
        time.sleep(1.0)
        if self._jobs and time.monotonic() - self._looked > self.look_every:
            self._jobs[-1].get_info(mode="force")
            self._looked = time.monotonic()

    def close(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)


class RayCluster:
    """Tasks of Ray.

    Args:
        address: of the cluster (`"auto"`, `"ray://head:10001"`); `"local"` starts one on this machine.
        resources: of a task: `num_cpus`, `num_gpus`.

    Raises:
        ImportError: Ray isn't installed.
        ValueError: no cluster at that address.

    >>> cluster = RayCluster("ray://head:10001", {"num_gpus": 1})  # doctest: +SKIP
    """

    def __init__(self, address: str, resources: Mapping[str, float]) -> None:
        self._ray = import_extra("ray", "ray")
        try:
            self._ray.init(address, include_dashboard=False if address == "local" else None, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ValueError(f"There is no Ray cluster at {address!r}: {_first_line(error)}.") from error
        self._task = self._ray.remote(max_retries=0, **{"num_cpus": 1, **resources})(run_unit)

    def start(self, units: Sequence[Unit]) -> Sequence[Job]:
        return [self._task.remote(unit.model_dump_json()).future() for unit in units]

    def state(self, job: Job) -> str:
        return "submitted"

    def wait(self) -> None:
        time.sleep(0.2)

    def close(self) -> None:
        self._ray.shutdown()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .?!")
