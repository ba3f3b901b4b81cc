"""Inspect's provider: our own texts, batched or alone; refusals before anything runs; a local task end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import random_models

import kvsteer_lab as kv
from kvsteer_lab.integrations import inspect

QUESTIONS = ["What is 2 + 3?", "Tom has 4 apples and buys 5 more. How many apples has he?", "What is 7 + 1?"]


@pytest.fixture(scope="module")
def saved(tiny: kv.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.vectors_for(tiny).save(tmp_path_factory.mktemp("vectors") / "random.safetensors")


def test_without_inspect_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(ImportError, match=r"pip install \"kvsteer-lab\[inspect\]\""):
        inspect.register_inspect()


def test_an_event_loop_starts_though_nnsight_was_there_first() -> None:
    pytest.importorskip("inspect_ai", reason="the extra [inspect] isn't installed")
    code = "import sys, kvsteer_lab.integrations.inspect_entry, anyio; anyio.run(anyio.sleep, 0)"
    code += "; print('nnsight' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(cv=None), "cv is missing"),
        (dict(cv=float("nan")), "must be a finite number"),
        (dict(vectors=None), "needs vectors"),
        (dict(strength=4), "no argument strength"),
        (dict(batch_size=0), "batch_size"),
        (dict(offset="none"), "offset"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(saved: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        inspect.InspectModel("tiny", **{"vectors": str(saved), "cv": 2, **changes})


def test_vectors_of_another_model_are_refused(vectors: kv.KVVectors, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extract vectors from this model"):
        inspect.InspectModel("tiny", vectors=str(vectors.save(tmp_path / "other.safetensors")), cv=2)


def write_log(path: Path, label: str, right: str, **changes: Any) -> None:
    about = dict(model="tiny", intervention=label, control_of=None, control_kind=None)
    samples = [
        dict(id=i, epoch=1, input=[dict(role="user", content=f"q{i}", id=label)], target="4")
        | dict(scores=dict(match=dict(value=value, answer="4")))
        | dict(
            output=dict(
                completion="It is 4.",
                choices=[dict(stop_reason="stop")],
                usage=dict(output_tokens=5),
                metadata=dict(kvsteer=about),
            )
        )
        for i, value in enumerate(right)
    ]
    log = dict(status="success", eval=dict(task="sums", model="kvsteer/tiny"), samples=samples) | changes
    path.write_text(json.dumps(log))


def test_logs_become_results_with_paired_tests(tmp_path: Path) -> None:
    write_log(tmp_path / "a.json", "baseline", "IIIIIC")
    write_log(tmp_path / "b.json", "steered", "CCCCCC")
    results = kv.integrations.read_inspect(tmp_path)
    row = kv.compare(results).iloc[0]
    assert (row.task, row.n, row.gained, row.lost, row.p) == ("sums", 6, 5, 0, pytest.approx(2 * 0.5**5))
    assert results.lengths().loc["steered", "finished_mean"] == 5
    write_log(tmp_path / "b.json", "steered", "CCCC")
    with pytest.raises(ValueError, match="other questions"):
        kv.integrations.read_inspect(tmp_path)
    write_log(tmp_path / "b.json", "steered", "CCCCCC", status="error")
    with pytest.raises(ValueError, match="isn't finished"):
        kv.integrations.read_inspect(tmp_path)
    with pytest.raises(ValueError, match="no verdict of 'f1'"):
        kv.integrations.read_inspect(tmp_path / "a.json", scorer="f1")


def test_inspect_runs_a_local_task_end_to_end(
    tiny: kv.Model, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="the extra [inspect] isn't installed")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    batches, together = [], inspect.generate_all

    def count(model: kv.Model, prompts: list[Any], **options: Any) -> kv.Generations:
        batches.append(len(prompts))
        return together(model, prompts, **options)

    monkeypatch.setattr(inspect, "generate_all", count)
    inspect.register_inspect()
    task = inspect_ai.Task(
        name="sums", dataset=[Sample(input=q, target="1") for q in QUESTIONS], solver=generate(), scorer=includes()
    )
    for arguments in ({}, dict(vectors=str(saved), ck=0.5, cv=80)):
        common = dict(log_dir=str(tmp_path), log_format="json", display="none", max_tokens=12)
        (log,) = inspect_ai.eval(task, model="kvsteer/tiny", model_args=arguments, **common)
        assert log.status == "success", log.error
    assert sum(batches) == 6 and max(batches) > 1  # asked one by one, answered together
    steering = kv.CacheSteering(kv.KVVectors.load(saved), ck=0.5, cv=80)
    results = kv.integrations.read_inspect(tmp_path)
    assert sorted(results.interventions) == ["baseline", steering.label]
    for intervention in (kv.Nothing(), steering):
        ours = kv.generate(tiny, QUESTIONS, intervention, generation={"max_new_tokens": 12})
        rows = results.of(intervention.label).sort_values("question")
        assert rows.text.tolist() == ours.texts
        assert rows.tokens.tolist() == [len(ids) for ids in ours.token_ids]
    assert results.of("baseline").text.tolist() != results.of(steering.label).text.tolist()

    import anyio

    made = get_model("kvsteer/tiny", **dict(vectors=str(saved), cv=2), memoize=False)
    sampled = GenerateConfig(temperature=1.5, max_tokens=8)

    async def several() -> tuple[list[str], int]:
        texts: list[str] = []

        async def ask() -> None:
            texts.append((await made.generate(QUESTIONS[0], config=sampled)).completion)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(ask)
        return texts, len(made.api._waiting)

    texts, left = anyio.run(several)
    assert len(set(texts)) > 1 and left == 0
    with pytest.raises(ValueError, match="can't honour num_choices"):
        made.api._read([], [], GenerateConfig(num_choices=2))
    with pytest.raises(ValueError, match="without tools"):
        made.api._read([], [SimpleNamespace(name="search")], GenerateConfig())
