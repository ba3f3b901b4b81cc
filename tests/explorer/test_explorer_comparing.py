"""Side by side, without widgets: the same texts and numbers as the library's own calls, token by token, and stopped
between two of them.
"""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from explorer_bench import Made, compared

import kvsteer_lab as kv
from kvsteer_lab.explorer.state import ARMS
from kvsteer_lab.explorer.threads import Cancelled, CancelledError
from kvsteer_lab.explorer.work import running
from kvsteer_lab.explorer.work.comparing import compare_arms, generation_settings
from kvsteer_lab.explorer.work.doses import find_dose, measure_slot
from kvsteer_lab.explorer.work.snippet import write_code
from kvsteer_lab.explorer.workspace import Workspace
from kvsteer_lab.models.attention import query_heads
from kvsteer_lab.models.layers import layers_path
from kvsteer_lab.models.token_texts import token_pieces


@pytest.mark.parametrize(
    "changes",
    [{}, {"sample": True, "seed": 5, "top_p": 0.9}, {"task": None, "prompt": "Ann has 3 apples, gets 4. How many?"}],
)
def test_texts_are_those_of_generate(made: Made, changes: dict[str, Any]) -> None:
    workspace, state = made.workspace(), made.state(**changes)
    comparison = compared(workspace, state)
    methods = list(workspace.interventions(state).values())
    same = kv.generate(
        made.model, [workspace.asked(state).prompt], methods, generation=generation_settings(state), seed=state.seed
    )
    assert [own.generation.token_ids for own in comparison.arms] == [row.token_ids for row in same]
    assert [own.generation.answer for own in comparison.arms] == [row.answer for row in same]
    assert comparison["cache steering"].generation.text != comparison["baseline"].generation.text


def test_tokens_come_one_by_one_and_all_of_them(made: Made) -> None:
    said: dict[str, list[str]] = {arm: [] for arm in ARMS}
    found: list[Any] = []
    for _ in compare_arms(
        made.workspace(),
        made.state(),
        threading.Event(),
        found.append,
        lambda c: None,
        lambda arm, text, tokens: said[arm].append(text),
    ):
        pass
    for own in found[0].arms:
        steps = said[own.arm]
        assert len(steps) == len(own.generation.token_ids) and steps[-1] == own.generation.answer
        assert all(later.startswith(earlier) for earlier, later in pairwise(steps))


def test_numbers_are_those_of_score_and_divergence(made: Made) -> None:
    workspace, state = made.workspace(), made.state()
    comparison, methods = compared(workspace, state), workspace.interventions(state)
    prompt = [workspace.asked(state).prompt]
    assert any(abs(c) > 0.5 for c in comparison["cache steering"].measured.change), (  # type: ignore[union-attr]
        "steering changed nothing: nothing is tested"
    )
    for own in comparison.arms:
        reader = methods[own.reader or own.arm]
        ids = [own.generation.token_ids]
        mine, plain = (kv.score(made.model, prompt, ids, method).logprobs[0] for method in (reader, None))
        assert own.measured is not None and "".join(own.measured.pieces) == own.generation.text
        torch.testing.assert_close(torch.tensor(own.measured.logprobs), mine, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(own.measured.change), mine - plain, atol=1e-4, rtol=0)
        kl = kv.divergence(made.model, prompt, ids, reader).kl[0]
        torch.testing.assert_close(torch.tensor(own.measured.kl), kl, atol=1e-4, rtol=0)
    assert comparison["baseline"].reader == "cache steering"


def test_next_tokens_hold_the_likeliest_of_both_sides(made: Made) -> None:
    comparison = compared(made.workspace(), made.state())
    first = comparison["cache steering"].measured.likely[0]  # type: ignore[union-attr]
    tokens = made.model.tokenizer.decode
    assert max(first, key=lambda t: t.probability).token == tokens(
        [comparison["cache steering"].generation.token_ids[0]]
    )
    assert max(first, key=lambda t: t.baseline).token == tokens([comparison["baseline"].generation.token_ids[0]])
    assert 0.5 < sum(t.probability for t in first) <= 1.0001


def test_verdict_is_that_of_evaluate(made: Made) -> None:
    frame = compared(made.workspace(), made.state()).to_frame().set_index("arm")
    question = made.task.questions("dev", 1)[0]
    for arm, row in frame.iterrows():
        assert row.correct == made.task.is_correct(question, row.text) and row.gold == question.answer, arm
        assert row.answer == made.task.read_answer(row.text)


def test_a_cancelled_comparison_stops_between_two_tokens(made: Made) -> None:
    cancelled, seen = threading.Event(), []

    def tell(arm: str, text: str, tokens: int) -> None:
        seen.append(text)
        cancelled.set()

    state = made.state(arms=("cache steering",))
    with pytest.raises(CancelledError):
        for _ in compare_arms(
            made.workspace(),
            state,
            cancelled,
            lambda c: pytest.fail("a cut text was shown as whole"),
            lambda c: None,
            tell,
        ):
            pass
    assert len(seen) <= 2, "transformers looks at the criteria one token late"


def test_a_comparison_is_cancelled_while_its_prompt_is_read(made: Made) -> None:
    cancelled, read = Cancelled(), []
    layers = [layer._module for layer in made.model.traced.get(layers_path(made.model.hf))]

    def seen(layer: torch.nn.Module, *call: Any) -> None:
        read.append(layers.index(layer))
        cancelled.set()

    hooks = [layer.register_forward_hook(seen) for layer in layers]
    try:
        with pytest.raises(CancelledError):
            for _ in compare_arms(
                made.workspace(),
                made.state(arms=("cache steering",)),
                cancelled,
                lambda c: None,
                lambda c: None,
                lambda arm, text, tokens: pytest.fail("it went on after the prompt"),
            ):
                pass
    finally:
        for hook in hooks:
            hook.remove()
    assert read == [0], "the layers above weren't run"
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_out_of_memory_halves_and_begins_the_texts_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, plenty = compared(made.workspace(), made.state()), running.decode

    def scarce(model: Any, rows: Any, *rest: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plenty(model, rows, *rest)

    monkeypatch.setattr(running, "decode", scarce)
    with pytest.warns(UserWarning, match="Out of memory with"):
        halved = compared(made.workspace(), made.state())
    assert [own.generation for own in halved.arms] == [own.generation for own in whole.arms]


def test_dose_is_coefficient_times_relative_norm(made: Made) -> None:
    steering = kv.CacheSteering(made.vectors["stepwise"], 0.5, -2.0, layers=[1, 3], heads=[1])
    prompt = made.task.chat(made.task.questions("dev", 1)[0])
    table = made.vectors["stepwise"].only(None, [1]).relative_to(made.model, [prompt]).set_index("layer").loc[[1, 3]]
    dose = find_dose(steering, measure_slot(made.model, prompt, -1))
    assert dose.layers == (1, 3)
    assert dose.keys == pytest.approx((0.5 * table["keys"]).tolist(), rel=1e-4)
    assert dose.values == pytest.approx((2.0 * table["values"]).tolist(), rel=1e-4)
    other = find_dose(steering, measure_slot(made.model, prompt, -3))
    assert other.values != pytest.approx(dose.values, rel=1e-3)


def test_a_mix_is_the_weighted_sum(made: Made) -> None:
    workspace = made.workspace()
    mixed = workspace.mix(made.state(mix={"stepwise": 0.5, "analogical": -1.0}))
    torch.testing.assert_close(mixed.values, 0.5 * made.vectors["stepwise"].values - made.vectors["analogical"].values)
    assert workspace.mix(made.state(mix={"stepwise": 1.0, "analogical": 0.0})) is workspace.vectors["stepwise"]


def test_part_layers_heads_and_slot_reach_the_steering(made: Made) -> None:
    steering = made.workspace().steering(made.state(ck=1.0, cv=3.0, part="keys", layers=(2,), heads=(0,), slot=-2))
    assert (steering.ck, steering.cv, steering.layers, steering.heads, steering.slot) == (1.0, 0.0, (2,), (0,), -2)
    assert made.workspace().steering(made.state(ck=1.0, cv=3.0, part="values")).ck == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None, "prompt": " "}, "The prompt is empty; write something, or choose a task's question"),
        ({"task": None, "prompt": "word " * 3000}, "but the context of tiny is 2048; shorten it"),
        ({"layers": ()}, "No layers are chosen"),
        ({"heads": ()}, "No KV heads are chosen"),
        ({"layers": (9,)}, "There is no layer 9"),
        ({"slot": -999}, r"There is no position -999: the prompt has \d+ tokens; choose -\d+ to \d+\.$"),
        ({"offset": "two words"}, "is 2 tokens|tokens for this tokenizer, not one"),
        ({"mix": {"nobody": 1.0}}, "There are no vectors called 'nobody' here, only 'stepwise', 'analogical'"),
        ({"mix": {"stepwise": 0.0}}, "All weights of the mix are zero"),
        ({"mix": {"stepwise": 1.0, "analogical": 1.0}}, "Activation steering takes one set of vectors, not a mix"),
        ({"task": "no-such-task"}, "There is no task 'no-such-task'"),
        ({"split": "train"}, "Unknown split 'train'"),
        ({"max_new_tokens": 4000}, "but the context of tiny is 2048"),
        ({"activation_layer": 99}, "There is no layer 99"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(made: Made, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        compared(made.workspace(), made.state(**changes))
    assert "\n" not in str(refused.value)


def test_activation_steering_needs_vectors_or_pairs(made: Made) -> None:
    workspace = Workspace(made.model, dict(made.vectors), tasks={made.task.name: made.task})
    with pytest.raises(ValueError, match=r"pass kv\.explore activations=\.\.\. or pairs=\.\.\."):
        compared(workspace, made.state())


def test_residuals_are_extracted_once_and_like_the_library(made: Made) -> None:
    workspace = made.workspace()
    compared(workspace, made.state())
    whole = kv.extract_activations(made.model, made.pairs["stepwise"], progress=False)
    torch.testing.assert_close(workspace.activations["stepwise"].residuals, whole.residuals, atol=1e-4, rtol=1e-4)
    first = workspace.activations["stepwise"]
    compared(workspace, made.state())
    assert workspace.activations["stepwise"] is first and workspace.activations["stepwise"].card.n_pairs == 12


def test_pieces_are_the_text(made: Made) -> None:
    ids = made.model.tokenizer("Größe 🙂 ok", add_special_tokens=False).input_ids
    assert "".join(token_pieces(made.model.tokenizer, ids)) == made.model.tokenizer.decode(ids)


# --- copy as code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arms": ("cache steering",), "ck": 0.1, "cv": 3.0, "layers": (1, 2), "heads": (0,), "slot": -1},
        {
            "arms": ("baseline", "cache steering", "random control"),
            "mix": {"stepwise": 0.5, "analogical": 1.0},
            "control_seed": 4,
        },
        {
            "sample": True,
            "seed": 3,
            "temperature": 0.8,
            "task": None,
            "prompt": 'Say "it\'s 5"\\ now',
            "arms": ("baseline", "CoT prompt"),
        },
        {"offset": " ", "part": "values", "slot": -2, "split": "extraction", "question": 2},
    ],
)
def test_code_gives_the_same_texts_by_itself(made: Made, changes: dict[str, Any]) -> None:
    workspace, state = made.workspace(), made.state(**changes)
    code = write_code(workspace, state)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["texts"].texts == compared(workspace, state).texts
    assert "explorer" not in code and write_code(workspace, state) == code, "after the run the code is the same"


def test_a_loaded_folder_is_loaded_by_the_code(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.model.hf.save_pretrained(tmp_path / "mine")
    made.model.tokenizer.save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    model = kv.load("mine", template=kv.PlainTemplate("Question: {q}\nAnswer:"))
    state = made.state(task=None, prompt="2 + 3?", arms=("baseline",), max_new_tokens=8)
    workspace = Workspace(model, dict(made.vectors))
    code, shown = write_code(workspace, state), compared(workspace, state).texts
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert "explorer" not in code and scope["texts"].texts == shown


def test_what_cannot_be_made_again_is_taken_from_the_explorer(
    made: Made, model: kv.Model, vectors: kv.KVVectors
) -> None:
    workspace = Workspace(model, {"mine": vectors})
    state = made.state(
        task=None,
        prompt="Hello there",
        mix={"mine": 2.0},
        arms=("baseline", "cache steering", "random control"),
        cv=1.0,
    )

    class Stand:  # what the code asks of the explorer
        model, vectors = workspace.model, workspace.vectors

    scope: dict[str, Any] = {"explorer": Stand}
    exec(write_code(workspace, state), scope)
    comparison = compared(workspace, state)
    assert scope["texts"].texts == comparison.texts
    assert comparison["cache steering"].generation.text != comparison["baseline"].generation.text


def test_a_task_that_bears_a_name_of_the_packages_is_taken_from_the_explorer(made: Made) -> None:
    rows = [
        (f"Ann has {i} apples, gets 2. How many?", i + 2, f"{i} + 2 = {i + 2}.", "dev" if i < 9 else "extraction")
        for i in range(3, 25)
    ]
    table = pd.DataFrame(rows, columns=["question", "answer", "steps", "split"])
    task = kv.tasks.from_frame(table, name="gsm8k", split="split", replies={"stepwise": "steps"})
    pairs = kv.ContrastiveSet.few_shot(task, made.model.tokenizer, style="stepwise", n=4, shots=2)
    workspace = Workspace(
        made.model,
        {"stepwise": kv.extract(made.model, pairs, progress=False)},
        pairs={"stepwise": pairs},
        tasks={"gsm8k": task},
    )
    state = made.state(task="gsm8k", arms=("baseline", "cache steering", "activation steering"))
    code = write_code(workspace, state)
    assert (
        "kv.tasks.get" not in code
        and "task = explorer.tasks['gsm8k']" in code
        and "vectors = explorer.vectors['stepwise']" in code
    )
    comparison = compared(workspace, state)
    scope: dict[str, Any] = {"explorer": workspace}
    exec(write_code(workspace, state), scope)
    assert scope["texts"].texts == comparison.texts


def test_a_benchmark_in_a_folder_is_read_from_there_by_the_code(made: Made, tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [
            {
                "question": f"{part} {i}: Ann has {i} apples, gets 2. How many?",
                "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}",
            }
            for i in range(9)
        ]
        (tmp_path / f"gsm8k_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = Workspace(made.model, dict(made.vectors), tasks={"gsm8k": kv.tasks.get("gsm8k", tmp_path)})
    state = made.state(task="gsm8k", split="test", arms=("baseline", "cache steering"), max_new_tokens=8)
    code = write_code(workspace, state)
    assert f"kv.tasks.get('gsm8k', data_dir={str(tmp_path)!r})" in code
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["texts"].texts == compared(workspace, state).texts


def test_loaded_vectors_are_loaded_by_the_code(made: Made, tmp_path: Any) -> None:
    workspace, path = made.workspace(), str(made.vectors["analogical"].save(tmp_path / "mine.safetensors"))
    assert workspace.load_vectors(f" {path} ") == path
    state = made.state(mix={path: 1.0}, arms=("cache steering",))
    scope: dict[str, Any] = {}
    exec(write_code(workspace, state), scope)
    assert f"kv.KVVectors.load({path!r})" in write_code(workspace, state)
    assert scope["texts"].texts == compared(workspace, state).texts


def test_other_models_vectors_are_refused(made: Made, vectors: kv.KVVectors, tmp_path: Any) -> None:
    path = str(vectors.save(tmp_path / "other.safetensors"))
    workspace = made.workspace()
    with pytest.raises(ValueError, match=r"These vectors are of a llama with .*; extract vectors from this model"):
        workspace.load_vectors(path)
    assert path not in workspace.vectors
    with pytest.raises(ValueError, match="extract vectors from this model"):
        kv.explore(made.model, vectors)
    with pytest.raises(ValueError, match="There are no vectors at"):
        workspace.load_vectors(str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ValueError, match="name of the vectors' file is empty"):
        workspace.load_vectors("  ")
    assert query_heads(made.model.hf)  # the model is as usable as before
