"""What a sweep costs besides its work: 1,000 shards of a fake model."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import RunIdentity
from kvsteer_lab.evaluation.runs import Run

WORKER = (sys.executable, "-S", str(Path(__file__).parents[1] / "sweep_worker.py"))
WORKERS, SECONDS = 10, 0.25


def run(folder: Path, shards: int) -> tuple[float, float, float]:
    """Seconds of work in all workers, of the sweep, and of this process's processor."""
    plan = kv.sweeps.SweepPlan.of(
        dict(
            out=str(folder),
            models=["fake"],
            tasks=["tiny-arithmetic"],
            interventions={"none": {}},
            n=shards,
            shards=shards,
            generation={"seconds": SECONDS},
        )
    )
    store = Run(
        Path(plan.units[0].run), RunIdentity({"model": "fake"}), tuple((str(i),) for i in range(shards)), ("b",)
    )
    store.begin()
    cluster = kv.sweeps.LocalProcesses(WORKERS, folder / "log", WORKER)
    begun, cpu = time.monotonic(), time.process_time()
    assert kv.sweeps.sweep(plan, cluster, say=lambda line: None, every=2) == {}
    took, used = time.monotonic() - begun, time.process_time() - cpu
    files = sorted((store.path / "rows").glob("*"))
    assert len(files) == shards
    return sum(float(file.read_text()) for file in files), took, used


def test_a_thousand_shards_cost_less_than_a_twentieth_besides_their_work(tmp_path: Path) -> None:
    work, took, used = run(tmp_path / "many", 1000)
    assert work >= 1000 * SECONDS
    overhead = 1 - work / (WORKERS * took)
    told = f"{took:.2f} s, {overhead:.1%} of it not work, {used:.2f} s of this process"
    print(f"1,000 shards of {SECONDS} s on {WORKERS} workers: {told}")
    assert overhead < 0.05 and used < 0.05 * work


def test_its_cost_grows_linearly(tmp_path: Path) -> None:
    (_, _, few), (_, _, many) = run(tmp_path / "few", 80), run(tmp_path / "more", 320)
    assert many < 8 * few + 0.1
