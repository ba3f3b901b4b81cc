"""The model for lm-evaluation-harness: our own texts and log-probabilities, whatever the batch; refusals; and a local
task end to end where the harness is installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import random_models
import torch

import kvsteer_lab as kv
from kvsteer_lab.integrations import HarnessModel, lm_eval

PROMPTS = ["What is 2 + 3?\nAnswer:", "Tom has 4 apples and buys 5 more. How many apples has he?", "7 + 1?"]
OFTEN = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}


@pytest.fixture(scope="module")
def saved(tiny: kv.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.vectors_for(tiny).save(tmp_path_factory.mktemp("vectors") / "random.safetensors")


@pytest.fixture(scope="module")
def steering(saved: Path) -> kv.CacheSteering:
    return kv.CacheSteering(kv.KVVectors.load(saved), ck=0.5, cv=20)


@pytest.fixture(scope="module")
def lm(saved: Path) -> HarnessModel:
    return HarnessModel("tiny", vectors=str(saved), ck="0.5", cv="20", batch_size=8)


def ask(*args: Any) -> Any:
    return SimpleNamespace(args=args)


def test_texts_are_those_of_generate_and_need_no_batch_of_their_own(
    tiny: kv.Model, lm: HarnessModel, steering: kv.CacheSteering
) -> None:
    settings = {"max_new_tokens": 12, "stop_strings": ["\n\n"]}
    ours = kv.generate(tiny, PROMPTS, steering, chat=False, generation=settings).texts
    asked = [ask(prompt, OFTEN) for prompt in PROMPTS]
    assert lm.generate_until(asked, disable_tqdm=True) == ours
    assert [lm.generate_until([one], disable_tqdm=True)[0] for one in asked] == ours
    assert ours != kv.generate(tiny, PROMPTS, chat=False, generation=settings).texts


def test_log_probabilities_are_those_of_score(tiny: kv.Model, lm: HarnessModel, steering: kv.CacheSteering) -> None:
    ends = [" 5", " nine apples", " zzz"]
    found = lm.loglikelihood([ask(*pair) for pair in zip(PROMPTS, ends, strict=True)])
    ours = kv.score(tiny, PROMPTS, ends, steering, chat=False)
    assert [total for total, _ in found] == ours.totals
    single = [lm.loglikelihood([ask(*pair)])[0][0] for pair in zip(PROMPTS, ends, strict=True)]
    assert torch.allclose(torch.tensor(single), torch.tensor(ours.totals), atol=1e-4)
    assert not torch.allclose(
        torch.tensor(kv.score(tiny, PROMPTS, ends, chat=False).totals), torch.tensor(single), atol=0.1
    )


def test_greedy_says_whether_decoding_writes_the_continuation(
    tiny: kv.Model, lm: HarnessModel, steering: kv.CacheSteering
) -> None:
    texts = kv.generate(tiny, PROMPTS, steering, chat=False, generation={"max_new_tokens": 3, "min_new_tokens": 3})
    own = kv.score(tiny, PROMPTS, texts.token_ids, steering, chat=False)
    assert own.greedy == (True, True, True)
    changed = [[*ids[:-1], (ids[-1] + 1) % 100] for ids in texts.token_ids]
    assert kv.score(tiny, PROMPTS, changed, steering, chat=False).greedy == (False, False, False)
    assert [greedy for _, greedy in lm.loglikelihood([ask(PROMPTS[0], " zzz")])] == [False]


def test_repeated_requests_are_samples_and_stop_strings_end_texts(tiny: kv.Model, lm: HarnessModel) -> None:
    sampled = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 8, "until": "answer"}
    texts = lm.generate_until([ask(PROMPTS[0], sampled)] * 4, disable_tqdm=True)
    assert len(set(texts)) > 1 and not any("answer" in text for text in texts)
    plain = HarnessModel("tiny").generate_until([ask("2 + 3?", {"until": [], "max_gen_toks": 8})], disable_tqdm=True)
    letter = plain[0].strip()[1]
    cut = {"until": [letter], "max_gen_toks": 8}
    assert HarnessModel("tiny").generate_until([ask("2 + 3?", cut)], disable_tqdm=True) == [plain[0].split(letter)[0]]


def test_the_chat_template_is_that_of_every_chat(tiny: kv.Model, lm: HarnessModel, steering: kv.CacheSteering) -> None:
    rendered = lm.apply_chat_template([{"role": "user", "content": PROMPTS[0]}])
    chat = kv.generate(tiny, PROMPTS[0], steering, generation={"max_new_tokens": 12})
    assert lm.generate_until([ask(rendered, {"max_gen_toks": 12})], disable_tqdm=True) == chat.texts
    assert lm.chat_template(True) == tiny.tokenizer.chat_template and lm.chat_template(False) is None
    with pytest.raises(ValueError, match="one chat template"):
        lm.chat_template("tool_use")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(cv=None), "cv is missing"),
        (dict(cv=float("nan")), "must be a finite number"),
        (dict(cv="nan"), "must be a finite number"),
        (dict(cv="much"), "must be a finite number"),
        (dict(vectors=None), "needs vectors"),
        (dict(strength=4), "no argument strength"),
        (dict(layers="1-99"), "layer"),
        (dict(slot=0.5), "whole number"),
        (dict(batch_size="many"), "batch_size"),
        (dict(vectors="none.safetensors"), "none.safetensors"),
        (dict(offset=None), "offset"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(saved: Path, changes: dict[str, Any], says: str) -> None:
    given = {"pretrained": "tiny", "vectors": str(saved), "cv": 2, **changes}
    with pytest.raises(ValueError, match=says) as caught:
        HarnessModel.create_from_arg_obj(given, {"device": "cuda:0", "batch_size": 1})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_vectors_of_another_model_and_what_has_no_slot_are_refused(
    vectors: kv.KVVectors, lm: HarnessModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="extract vectors from this model"):
        HarnessModel("tiny", vectors=str(vectors.save(tmp_path / "other.safetensors")), cv=2)
    with pytest.raises(ValueError, match="no prompt whose slot"):
        lm.loglikelihood_rolling([ask("Some text.")])
    with pytest.raises(ValueError, match="without a prompt"):
        lm.loglikelihood([ask("", " yes")])
    assert HarnessModel("tiny").loglikelihood([ask("", " yes")])[0][0] < 0


def test_cached_replies_of_another_intervention_are_refused(lm: HarnessModel) -> None:
    kept: dict[str, Any] = {}
    lm.set_cache_hook(SimpleNamespace(dbdict=kept))
    lm.set_cache_hook(SimpleNamespace(dbdict=kept))
    with pytest.raises(ValueError, match="--use_cache"):
        HarnessModel("tiny").set_cache_hook(SimpleNamespace(dbdict=kept))


def test_layers_and_controls_by_argument(saved: Path) -> None:
    chosen = HarnessModel("tiny", vectors=str(saved), cv=2, layers="1-2+3", control=7).steered.about
    assert chosen["control_of"] == "steered ck=0 cv=2 layers=1,2,3" and chosen["control_kind"] == "random"


def test_without_the_harness_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.api.registry", raising=False)
    with pytest.raises(ImportError, match=r"pip install \"kvsteer-lab\[lm-eval\]\""):
        lm_eval.register_lm_eval()


# --- logs and the harness itself ----------------------------------------------------------------------------------


def write_run(folder: Path, label: str, right: list[int], **about: Any) -> None:
    """What `--log_samples` leaves."""
    folder.mkdir(parents=True)
    ours = dict(model="tiny", intervention=label, control_of=None, control_kind=None) | about
    (folder / "results_2026.json").write_text(json.dumps(dict(config=dict(model="kvsteer", kvsteer=ours))))
    lines = [
        dict(doc_id=i, doc_hash=f"d{i}", prompt_hash=f"p{i}", target=4, filter="none", metrics=["exact_match"])
        | dict(resps=[["It is 4."]], filtered_resps=["4"], exact_match=float(verdict))
        for i, verdict in enumerate(right)
    ]
    (folder / "samples_sums_2026.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_logs_become_results_with_paired_tests_and_controls(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "baseline", [0, 0, 0, 0, 0, 1])
    write_run(tmp_path / "b", "steered", [1, 1, 1, 1, 1, 1])
    for seed in range(3):
        about = dict(control_of="steered", control_kind="random")
        write_run(tmp_path / f"c{seed}", f"random {seed} for steered", [0, 0, 0, 0, 0, seed > 0], **about)
    results = kv.integrations.read_lm_eval(tmp_path, "sums")
    row = kv.compare(results).iloc[0]
    assert (row.n, row.gained, row.lost, row.p) == (6, 5, 0, pytest.approx(2 * 0.5**5))
    table = results.measure(["accuracy", "words"]).outcomes_table()
    assert table.loc[("accuracy", "steered"), "p_random"] == 0.25 and table.loc[("words", "baseline"), "value"] == 3
    assert kv.Results.load(results.save(tmp_path / "r.parquet")).rows.equals(results.rows)


def test_logs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    read = kv.integrations.read_lm_eval
    write_run(tmp_path / "a", "baseline", [0, 1])
    write_run(tmp_path / "b", "baseline", [0, 1])
    write_run(tmp_path / "c", "steered", [0, 1, 1])
    write_run(tmp_path / "d", "share", [0.5])  # type: ignore[list-item]
    for paths, options, says in [
        (["a", "b"], {}, "called 'baseline'"),
        (["a", "c"], {}, "other questions"),
        (["d"], {}, "neither right"),
        (["a"], dict(metric="acc"), "has no metric 'acc'"),
        (["a"], dict(filter="strict"), "has no filter 'strict'"),
        (["none"], {}, "can't be read"),
    ]:
        with pytest.raises(ValueError, match=says):
            read([tmp_path / path for path in paths], "sums", **options)
    with pytest.raises(ValueError, match="no samples of other"):
        read(tmp_path / "a", "other")


TASKS = {
    "sums": dict(output_type="generate_until", doc_to_target="{{answer}}", generation_kwargs=OFTEN)
    | dict(metric_list=[{"metric": "exact_match"}]),
    "choices": dict(output_type="multiple_choice", doc_to_target=0, doc_to_choice=["five", "nine"])
    | dict(metric_list=[{"metric": "acc"}]),
}


def test_the_harness_runs_local_tasks_end_to_end(
    tiny: kv.Model, saved: Path, steering: kv.CacheSteering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="the extra [lm-eval] isn't installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(dict(q=q, answer="5")) + "\n" for q in PROMPTS))
    for name, more in TASKS.items():
        data = dict(dataset_path="json", dataset_kwargs={"data_files": {"test": str(tmp_path / "data.jsonl")}})
        task = dict(task=name, test_split="test", doc_to_text="{{q}}", **data, **more)
        (tmp_path / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    runs = {"plain": "pretrained=tiny", "steered": f"pretrained=tiny,vectors={saved},ck=0.5,cv=20"}
    for name, arguments in runs.items():
        command = ["lm_eval", "run", "--model", "kvsteer", "--model_args", arguments, "--tasks", "sums,choices"]
        command += ["--include_path", str(tmp_path), "--log_samples", "--output_path", str(tmp_path / "out" / name)]
        monkeypatch.setattr(sys, "argv", [*command, "--batch_size", "4"])
        lm_eval.main()
    results = kv.integrations.read_lm_eval(tmp_path / "out", "sums")
    assert results.interventions == ["baseline", "steered ck=0.5 cv=20"]
    settings = {"max_new_tokens": 12, "stop_strings": ["\n\n"]}
    ours = kv.generate(tiny, PROMPTS, steering, chat=False, generation=settings).texts
    assert results.of("steered ck=0.5 cv=20").text.tolist() == ours
    choices = kv.integrations.read_lm_eval(tmp_path / "out", "choices", metric="acc")
    five, nine = (kv.score(tiny, PROMPTS, [f" {w}"] * 3, steering, chat=False).totals for w in ("five", "nine"))
    assert choices.of("steered ck=0.5 cv=20").correct.tolist() == [a >= b for a, b in zip(five, nine, strict=True)]
    monkeypatch.setattr(sys, "argv", [*command[:5], "pretrained=tiny,cv=2", *command[6:]])
    with pytest.raises(SystemExit, match="needs vectors"):
        lm_eval.main()


def test_without_steering_and_offset_it_is_the_harness_own_model(tiny: kv.Model) -> None:
    pytest.importorskip("lm_eval", reason="the extra [lm-eval] isn't installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=tiny.hf, tokenizer=tiny.tokenizer, batch_size=2)
    ours = HarnessModel("tiny", offset=None)
    written = [ours.generate_until([ask(p, dict(max_gen_toks=2))], disable_tqdm=True)[0] for p in PROMPTS]
    pairs = [*zip(PROMPTS, written, strict=True), (PROMPTS[0], " zzz")]
    scored = [Instance("loglikelihood", {}, pair, 0, metadata=("t", i, 1)) for i, pair in enumerate(pairs)]
    (a, said), (b, own) = (zip(*lm.loglikelihood(scored, disable_tqdm=True), strict=True) for lm in (theirs, ours))
    assert torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-4)
    assert tuple(map(bool, said)) == own and len(set(own)) == 2
    asked = [Instance("generate_until", {}, (p, OFTEN), 0, metadata=("t", i, 1)) for i, p in enumerate(PROMPTS)]
    assert theirs.generate_until(asked, disable_tqdm=True) == ours.generate_until(asked, disable_tqdm=True)
