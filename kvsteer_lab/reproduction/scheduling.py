"""Chapters that wait to be run: one after another, or several at a time, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from .chapters import Chapter
from .running import Record, environment, read_record, run_chapter


@dataclass(frozen=True)
class Job:
    """A chapter that has to be run.

    Attributes:
        place: its number and name, for what is said of it.
        chapter: which one.
        work: what shall be done, as a record without results.
        beginning: what is said when it begins.
    """

    place: str
    chapter: Chapter
    work: Record
    beginning: str


def run_jobs(
    jobs: Sequence[Job], out: Path, name: str, workers: int, say: Callable[[str], object], progress: bool
) -> Iterator[tuple[Job, Record]]:
    """Run chapters, and give each with what came of it as it ends.

    Several at a time share the cores evenly, unless `OMP_NUM_THREADS` says otherwise, and show no bars. One whose
    process is killed fails; the others go on.

    Args:
        jobs: in the order in which they begin.
        out: folder of the reproduction.
        name: what the model is called in the chapters.
        workers: how many run at a time.
        say: is told of each when it begins.
        progress: show bars.

    Raises:
        KeyboardInterrupt: those that were running are stopped; nothing of them is written.
    """
    if workers == 1:
        for job in jobs:
            say(job.beginning)
            yield job, run_chapter(job.chapter, out, job.work, progress, name)
        return
    waiting, running = list(jobs), dict[int, tuple[SpawnProcess, Job]]()
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                say(job.beginning)
                process = get_context("spawn").Process(
                    target=run_chapter, args=(job.chapter, out, job.work, False, name), daemon=True
                )
                with environment({"OMP_NUM_THREADS": threads}):
                    process.start()
                running[process.sentinel] = process, job
            ended = wait(list(running))
            for sentinel in [sentinel for sentinel in running if sentinel in ended]:
                process, job = running.pop(sentinel)
                process.join()
                yield job, _result(out, job, process.exitcode)
    finally:
        for process, _ in running.values():  # their kernels end by themselves
            process.terminate()
            process.join()


def _result(out: Path, job: Job, code: int | None) -> Record:
    """What the process wrote, if it came to its end."""
    record = read_record(out, job.chapter) if code == 0 else None
    return record or replace(job.work, error=f"its process ended with exit code {code}")
