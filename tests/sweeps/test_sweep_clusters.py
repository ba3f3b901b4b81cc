"""The same sweep on submitit's processes, on a SLURM whose commands are played, and on a local Ray."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

import fake_slurm
import psutil
import pytest
from sweep_plans import in_one_piece, same_rows, small_plan

import kvsteer_lab as kv

ROOT = Path(kv.__file__).parents[1]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that others start find this checkout."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("importable")
def test_submitit_runs_a_sweep_on_this_machine(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    cluster = kv.sweeps.Slurm(tmp_path / "logs", {"timeout_min": 10}, cluster="local")
    assert kv.sweeps.sweep(plan, cluster, say=lambda line: None) == {}
    assert same_rows(in_one_piece(plan), kv.Results.load(plan.units[0].run))


@pytest.mark.usefixtures("importable")
def test_a_node_of_slurm_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.core.core import Job
    from submitit.slurm.slurm import SlurmJob

    home, plan, said = tmp_path / "bin", small_plan(tmp_path), list[str]()
    fake_slurm.install(home)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    rows = Path(plan.units[0].run, "rows")
    (home / "kill-1").write_text(str(rows))
    monkeypatch.setattr(Job, "_results_timeout_s", property(lambda job: 1, lambda job, seconds: None), raising=False)
    parameters = {"timeout_min": 7, "slurm_partition": "long", "slurm_array_parallelism": 2}
    try:
        cluster = kv.sweeps.Slurm(tmp_path / "logs", parameters, look_every=0.5)
        assert kv.sweeps.sweep(plan, cluster, say=said.append, every=1) == {}
    finally:
        SlurmJob.watcher.clear()
    scripts = [(home / f"job-{number}").read_text() for number in (1000, 1001)]
    assert "#SBATCH --array=0-1%2" in scripts[0] and "#SBATCH --partition=long" in scripts[0]
    assert "#SBATCH --time=7" in scripts[0] and "--array" not in scripts[1]  # one shard was started again, alone
    again = [line for line in said if "is started again" in line]
    assert len(again) == 1 and again[0].startswith(plan.units[1].title) and "\n" not in again[0]
    assert any("running" in line for line in said)
    assert same_rows(in_one_piece(plan), kv.Results.load(plan.units[0].run))


def test_submitit_refuses_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r'submitit can\'t start jobs: Could not detect "srun".*cluster; .* pass --local N'
    ):
        kv.sweeps.Slurm(tmp_path / "logs", {})
    with pytest.raises(ValueError, match=r"submitit can't start jobs: .*gpu_per_node"):
        kv.sweeps.Slurm(tmp_path / "logs", {"gpu_per_node": 1}, cluster="local")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("kvsteer_lab._util.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "kvsteer-lab\[slurm\]"'):
        kv.sweeps.Slurm(tmp_path, {})
    with pytest.raises(ImportError, match=r'pip install "kvsteer-lab\[ray\]"'):
        kv.sweeps.RayCluster("local", {})


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed (the extra [ray])")
@pytest.mark.usefixtures("importable")
def test_a_worker_of_ray_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DISABLE_MEMORY_MONITOR", "1")
    plan, said = small_plan(tmp_path), list[str]()
    rows = Path(plan.units[0].run) / "rows"
    cluster = kv.sweeps.RayCluster("local", {"num_cpus": 0.5})

    def kill() -> None:
        while not list(rows.glob("*")):
            time.sleep(0.005)
        workers = [p for p in psutil.Process().children(recursive=True) if "ray::run_unit" in " ".join(p.cmdline())]
        workers[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    assert kv.sweeps.sweep(plan, cluster, say=said.append) == {}
    assert sum("is started again" in line for line in said) == 1, said
    assert same_rows(in_one_piece(plan), kv.Results.load(plan.units[0].run))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed (the extra [ray])")
def test_an_address_without_a_ray_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "1")
    with pytest.raises(ValueError, match=r"There is no Ray cluster at 'auto'"):
        kv.sweeps.RayCluster("auto", {})
    assert sys.modules["ray"].is_initialized() is False
