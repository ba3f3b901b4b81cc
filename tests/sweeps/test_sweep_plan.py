"""The plan of a sweep: what it comes to, and what is refused in one sentence before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvsteer_lab as kv
from kvsteer_lab.sweeps.units import Unit

SETS = {"strengths": {"vectors": "v/{model}-{task}.safetensors", "doses": [{"cv": 2}, {"ck": 0.1, "cv": 3}]}}
GOOD: dict[str, Any] = dict(out="runs", models=["tiny"], tasks=["tiny-arithmetic"], interventions=SETS)


def test_models_tasks_sets_and_shards_are_multiplied() -> None:
    models = ["tiny", {"source": "org/Other-7B", "dtype": "bfloat16", "device_map": "auto"}]
    sets = {**SETS, "prompts only": {}}
    plan = kv.sweeps.SweepPlan.of(
        {**GOOD, "models": models, "tasks": ["tiny-arithmetic", "gsm8k"], "interventions": sets, "shards": 3}
    )
    units = plan.units
    assert len(units) == 2 * 2 * 2 * 3 and len({u.run for u in units}) == 8 and len({u.title for u in units}) == 24
    assert [u.shard for u in units[:8]] == [(1, 3)] * 8
    other = next(u for u in units if u.model.id == "Other-7B" and u.task == "gsm8k")
    assert other.methods.vectors == "v/Other-7B-gsm8k.safetensors" and other.model.device_map == "auto"
    assert {Path(u.run).name for u in units if u.name == "prompts only"} == {
        f"{model}-{task}-prompts_only" for model in ("tiny", "Other-7B") for task in ("tiny-arithmetic", "gsm8k")
    }
    assert Unit.model_validate_json(other.model_dump_json()) == other


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shards": 0}, "shards: Input should be greater than or equal to 1"),
        ({"shards": True}, "shards: Input should be a valid integer"),
        ({"shard": 2}, "shard: Extra inputs are not permitted"),
        ({"models": []}, "models: Tuple should have at least 1 item"),
        ({"tasks": ["gsm9k"]}, "names the task 'gsm9k'; choose among tiny-arithmetic"),
        ({"models": ["tiny", "tiny"]}, "has two runs in runs/tiny-tiny-arithmetic-strengths"),
        ({"models": ["a/x", "b/x"]}, "give models with one name an id of their own"),
        ({"interventions": {"a": {"doses": [{"cv": 1}]}}}, "steering needs vectors and doses, or neither"),
        ({"interventions": {"a": {"vectors": "v"}}}, "steering needs vectors and doses, or neither"),
        ({"interventions": {"a": {"vectors": "v", "doses": [{"cv": float("nan")}]}}}, "cv: Input should be a finite"),
        ({"interventions": {"a": {"vectors": "v", "doses": [{"ck": 1}]}}}, "cv: Field required"),
        ({"seed": {1, 2}}, "holds something else than texts, numbers and lists"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        kv.sweeps.SweepPlan.of({**GOOD, **change})
    assert says in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [tiny", "can't be read as YAML"),
        ("- tiny", "must be a mapping with out, models, tasks and interventions"),
        ("out: 2026-11-28\nmodels: [tiny]", "holds something else than texts"),
        ("!!python/object/apply:os.system ['true']", "can't be read as YAML"),
    ],
)
def test_a_file_that_holds_no_plan_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        kv.sweeps.SweepPlan.read(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match="There is no plan at"):
        kv.sweeps.SweepPlan.read(tmp_path / "plans.yaml")


def test_vectors_that_are_not_there_are_named_before_anything_starts(tmp_path: Path) -> None:
    plan = kv.sweeps.SweepPlan.of({**GOOD, "out": str(tmp_path / "runs")})
    with pytest.raises(ValueError, match=r"The vectors v/tiny-tiny-arithmetic.safetensors of .* aren't there"):
        kv.sweeps.sweep(plan, kv.sweeps.LocalProcesses(1, tmp_path / "log"), say=lambda line: None)
    assert not (tmp_path / "runs").exists()


def test_paths_are_made_absolute_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unit = kv.sweeps.SweepPlan.of({**GOOD, "data_dir": "data"}).units[0].located()
    assert (unit.run, unit.data_dir) == (
        str(tmp_path / "runs" / "tiny-tiny-arithmetic-strengths"),
        str(tmp_path / "data"),
    )
    assert unit.methods.vectors == str(tmp_path / "v" / "tiny-tiny-arithmetic.safetensors")
    assert unit.model.source == "tiny"  # no folder of that name
    assert json.loads(unit.model_dump_json())["shard"] == [1, 1]
