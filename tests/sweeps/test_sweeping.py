"""A sweep on this machine: killed workers, shards that fail, what the store says; nothing is lost, nothing twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from sweep_plans import in_one_piece, same_rows, small_plan

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.sweeps.units import Unit, run_unit, unfinished


class Scripted:
    """A cluster in this process: it does a unit at once, or fails as the script says."""

    def __init__(self, failing: dict[int, list[Exception | str]] | None = None) -> None:
        self.failing, self.started, self.closed = failing or {}, list[tuple[int, int]](), False

    def start(self, units: Sequence[Unit]) -> list[Future[str | None]]:
        jobs = []
        for unit in units:
            self.started.append(unit.shard)
            job, fault = Future[str | None](), self.failing.get(unit.shard[0])
            if not fault:
                job.set_result(run_unit(unit.model_dump_json()))
            elif isinstance(found := fault.pop(0), str):
                job.set_result(found)
            else:
                job.set_exception(found)
            jobs.append(job)
        return jobs

    def state(self, job: object) -> str:
        return "running"

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_a_killed_worker_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    plan, said = small_plan(tmp_path), list[str]()
    cluster, rows = kv.sweeps.LocalProcesses(2, tmp_path / "log"), Path(plan.units[0].run) / "rows"
    seen: dict[str, tuple[int, int]] = {}

    def kill() -> None:
        while not list(rows.glob("*")):  # now both workers have chunks to make
            time.sleep(0.002)
        cluster._all[0].kill()
        seen.update({p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in rows.glob("*")})

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    failed = kv.sweeps.sweep(plan, cluster, say=said.append, every=0.5)
    killer.join(5)
    assert failed == {} and seen and len(cluster._all) == 3
    assert sum("is started again: its process ended with exit code -9" in line for line in said) == 1
    assert all(process.poll() is not None for process in cluster._all), "a worker is left behind"
    now = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in rows.glob("*")}
    assert {name: now[name] for name in seen} == seen, "a finished chunk was written a second time"
    found = kv.Results.load(rows.parent)
    assert found.complete and same_rows(in_one_piece(plan), found)
    assert any("running" in line for line in said) and said[-1].split()[-2:] == ["2", "2"]


def test_what_died_is_started_again_and_what_fails_for_good_is_named(tmp_path: Path) -> None:
    plan, said = small_plan(tmp_path, shards=4), list[str]()
    dies = {1: [OSError("node lost")], 2: [OSError("node lost")] * 9, 3: ["The model has no chat template; give one."]}
    cluster = Scripted(dies)
    failed = kv.sweeps.sweep(plan, cluster, say=said.append)
    one, two, three, _ = (unit.title for unit in plan.units)
    assert failed == {two: "node lost", three: "The model has no chat template; give one."}
    counts = {i: sum(shard[0] == i for shard in cluster.started) for i in (1, 2, 3, 4)}
    assert counts == {1: 2, 2: plan.attempts, 3: 1, 4: 1} and cluster.closed
    assert f"{one} is started again: node lost" in said and f"{two} failed: node lost" in said
    assert "failed" in said[-1] and said[-1].split()[-3:] == ["4", "2", "2"]
    assert [unit.title for unit in unfinished(plan.units)] == [two, three]
    assert kv.sweeps.results_table(plan).empty  # the run isn't complete
    again = Scripted()
    assert kv.sweeps.sweep(plan, again, say=said.append) == {} and again.started == [(2, 4), (3, 4)]
    assert same_rows(in_one_piece(plan), kv.Results.load(plan.units[0].run))


def test_the_store_alone_says_what_is_done(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, shards=2)
    run_unit(plan.units[1].model_dump_json())  # by hand, no sweep has seen it
    cluster = Scripted()
    assert kv.sweeps.sweep(plan, cluster, say=lambda line: None) == {} and cluster.started == [(1, 2)]
    Path(plan.units[0].run, "rows", "00003.parquet").unlink()
    cluster = Scripted()
    assert kv.sweeps.sweep(plan, cluster, say=lambda line: None) == {} and cluster.started == [(2, 2)]
    table = kv.sweeps.results_table(plan)
    assert table.set.unique().tolist() == ["strengths"] and table.p_holm.notna().sum() == 4
    assert {"baseline", "CoT prompt", "steered stepwise ck=0 cv=2"} < set(table.intervention)


def test_a_job_that_ends_well_without_its_rows_is_not_done(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, attempts=1, shards=1)
    cluster = Scripted()
    cluster.start = lambda units: [_done() for _ in units]  # type: ignore[method-assign]
    assert list(kv.sweeps.sweep(plan, cluster, say=lambda line: None).values()) == ["it ended without its rows"]


def _done() -> Future[str | None]:
    job = Future[str | None]()
    job.set_result(None)
    return job


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    cluster = Scripted()

    def stop() -> None:
        raise KeyboardInterrupt

    cluster.wait = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="2 of 2 shards are done; the same command goes on from there"):
        kv.sweeps.sweep(plan, cluster, say=lambda line: None)
    assert cluster.closed


def test_a_worker_answers_a_refusal_and_lives_on(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, interventions={"a": {"prefix": "Step"}}, models=["no/such/model", "tiny"], shards=1)
    cluster = kv.sweeps.LocalProcesses(1, tmp_path / "log")
    failed = kv.sweeps.sweep(plan, cluster, say=lambda line: None)
    assert len(cluster._all) == 1 and list(failed) == [plan.units[0].title]
    assert "no/such/model" in failed[plan.units[0].title]
    assert kv.Results.load(plan.units[1].run).complete


def test_the_command_prints_states_and_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(tmp_path, shards=1, n=2)
    file = tmp_path / "plan.yaml"
    file.write_text(plan.model_dump_json())  # JSON is YAML
    main(["sweep", str(file), "--local", "1"])
    printed = capsys.readouterr().out
    assert "0 of 1 shards are done" in printed and "shards  done" in printed
    assert "steered stepwise ck=0 cv=2" in printed and (tmp_path / "runs" / "table.csv").is_file()
    with pytest.raises(SystemExit, match=r"kvsteer: A sweep runs in one place; pass one of --local, --slurm and --ray"):
        main(["sweep", str(file), "--local", "1", "--slurm"])
    with pytest.raises(SystemExit, match=r"kvsteer: A sweep needs at least one worker, not 0"):
        main(["sweep", str(file), "--local", "0"])
