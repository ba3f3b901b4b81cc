"""The paper's experiment on the bundled model: it goes on where it stopped, and what it writes can be counted again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.generation.divergence import divergences
from kvsteer_lab.replication.choosing import MATCHED_ON
from kvsteer_lab.replication.compact import KEPT, hash_reply
from kvsteer_lab.replication.matching import KIND, match_controls, scaled_controls
from kvsteer_lab.replication.methods import ARTICLES, CACHE, LAST, RELEASED, SCOPES, VALUES
from kvsteer_lab.replication.sources import with_demonstrations

TASK = "tiny-arithmetic"
SIZES = kv.replication.Sizes(
    pairs=8,
    shots=2,
    cells=9,
    dev=4,
    test=4,
    controls=2,
    control_test=2,
    uncached_test=2,
    measured=2,
    block=2,
    max_new_tokens=16,
)


def quietly(path: Path, sizes: kv.replication.Sizes = SIZES, shard: str | None = None) -> kv.replication.Replication:
    return kv.replicate(kv.load("tiny"), [TASK], path, sizes=sizes, progress=False, say=lambda line: None, shard=shard)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replication") / "run"
    assert quietly(path).complete
    return path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_every_method_of_the_paper_is_there_with_its_controls(finished: Path) -> None:
    found = kv.replication.load(finished)
    own = found.table[~found.table.intervention.str.contains(r"^\d+ random")]
    expected = {"baseline", "no offset", "CoT prompt", "CoT prefix", CACHE, VALUES, RELEASED, ARTICLES, LAST, *SCOPES}
    assert expected | {f"CoT prompt + {VALUES}", "forced 'Step'"} == set(own.intervention)
    kinds = found.rows[found.rows.group != "styles"].groupby(["control_of", "control_kind"]).intervention.nunique()
    assert kinds[RELEASED, "random"] == kinds[VALUES, "random"] == 2
    asked = found.rows.groupby("intervention").question.nunique()
    assert asked["baseline"] == 4 and asked[LAST] == 2
    measured = found.rows[found.rows.kl_32.notna()]
    assert measured.question.nunique() == 2 and (measured.kl_32 >= 0).all()


def test_every_style_of_the_task_is_tried_and_stays_out_of_the_comparison(finished: Path) -> None:
    found = kv.replication.load(finished)
    adopted = kv.replication.adoption_table(found.rows).set_index("style")
    assert set(adopted.index) == set(kv.tasks.REASONING_STYLES) and (adopted.n == 2).all()
    assert adopted.adopted.mean() > adopted.elsewhere.mean() and adopted.random_high.mean() < 0.5
    assert not found.table.intervention.str.startswith("style").any()


def test_tuning_saw_no_test_question_and_every_method_had_the_same_cells(finished: Path) -> None:
    found = kv.replication.load(finished)
    chosen = json.loads((finished / TASK / "chosen.json").read_text())
    assert not set(chosen["questions"]) & set(found.rows.question)
    assert found.cells.groupby("method").size().to_dict() == dict.fromkeys((CACHE, VALUES, *SCOPES), 9)
    assert found.cells.chosen.sum() == 5
    assert chosen["methods"][VALUES]["ck"] == 0 and chosen["methods"][CACHE]["ck"] > 0


def test_a_stopped_run_loses_one_block_and_a_larger_one_keeps_all(copy: Path) -> None:
    before = kv.replication.load(copy).rows
    shutil.rmtree(copy / TASK / "test" / "arms-002")
    kept = {file: file.stat().st_mtime_ns for file in copy.rglob("rows/*.parquet")}
    larger = quietly(copy, replace(SIZES, test=6))
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items()), "a finished block was asked again"
    after = larger.rows
    again = before.merge(after, on=["group", "question", "intervention"], suffixes=("", "_now"))
    assert len(again) == len(before) and (again.text == again.text_now).all()
    assert after[after.group == "arms"].question.nunique() == 6


@pytest.mark.parametrize("change", [dict(pairs=9), dict(dev=5), dict(block=3), dict(max_new_tokens=17)])
def test_what_was_tuned_with_can_t_change(finished: Path, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"holds a replication with sizes .* choose another folder"):
        quietly(finished, replace(SIZES, **change))


def test_shards_share_the_folder(copy: Path) -> None:
    shutil.rmtree(copy / TASK / "test")
    assert not quietly(copy, shard="2/2").complete
    assert quietly(copy, shard="1/2").complete


def test_foreign_folders_and_tasks_without_demonstrations_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no replication"):
        quietly(tmp_path)
    row = dict(goal="Open a jar", sol1="Twist the lid", sol2="Eat the lid", label=0)
    (tmp_path / "piqa_validation.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"there are no traces at .*piqa\.jsonl; have them written"):
        with_demonstrations("piqa", tmp_path, None)
    with pytest.raises(ValueError, match="pass a multiple of 3"):
        kv.replication.Sizes(cells=10)
    with pytest.raises(ValueError, match=r"dev=0 is too small for a replication; pass at least 2"):
        kv.replication.Sizes(dev=0)


def test_our_own_audit_scores_the_release_again(finished: Path) -> None:
    audit = kv.published.audit(finished / "release")
    assert audit.matched == audit.total > 10 and audit.complete
    assert set(audit.runs.kind) >= {"baseline", "CoT", "steered", "steered + CoT", "activation"}
    accuracy = audit.runs.set_index("file").accuracy_last_digit
    assert accuracy.between(0, 1).all()


def test_compact_results_hold_no_texts_and_give_the_same_table(finished: Path, tmp_path: Path) -> None:
    whole = kv.replication.load(finished)
    compact = kv.replication.read_compact(kv.replication.write_compact(whole, tmp_path / "compact"))
    assert tuple(compact.rows.columns) == KEPT and not set(KEPT) & {"text", "forced", "closing", "gold"}
    pd.testing.assert_frame_equal(compact.table, whole.table)
    replies = (whole.rows.forced + whole.rows.text).tolist()
    stored = b"".join(file.read_bytes() for file in compact.path.iterdir() if file.suffix != ".safetensors")
    long = [reply for reply in replies if len(reply) > 20]
    assert long and not any(reply.encode() in stored for reply in long)
    assert compact.rows["hash"].tolist() == [hash_reply(reply) for reply in replies]
    assert compact.settings["costs"][TASK]["replies"] == len(whole.rows)
    assert sum(file.stat().st_size for file in compact.path.iterdir()) < 2_000_000


def test_compact_results_keep_the_tasks_of_other_machines(finished: Path, tmp_path: Path) -> None:
    here = kv.replication.load(finished)
    larger = {**here.settings["asked"], "dev": here.settings["asked"]["dev"] + 1}
    elsewhere = replace(
        here,
        settings={**here.settings, "asked": larger},
        rows=here.rows.assign(task="other"),
        cells=here.cells.assign(task="other"),
    )
    (finished / "other").symlink_to(finished / TASK)
    try:
        kv.replication.write_compact(elsewhere, tmp_path)
    finally:
        (finished / "other").unlink()
    for _ in range(2):  # a task that is there already is replaced
        both = kv.replication.read_compact(kv.replication.write_compact(here, tmp_path))
        by_task = [list(both.settings[name]) for name in ("asked", "costs", "dates")]
        assert by_task == [["other", TASK]] * 3 and list(both.chosen) == ["other", TASK]
        assert both.sizes("other").dev == here.settings["asked"]["dev"] + 1 and both.sizes(TASK).limit(TASK) > 0
        assert len(both.rows) == 2 * len(here.rows) and len(both.cells) == 2 * len(here.cells)
        alone = both.table[both.table.task == TASK].drop(columns="p_holm").reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, here.table.drop(columns="p_holm"))
    rows = (tmp_path / "rows.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"holds results with seed 0, not 1; choose another folder"):
        kv.replication.write_compact(replace(here, settings={**here.settings, "seed": 1}), tmp_path)
    assert (tmp_path / "rows.parquet").read_bytes() == rows


def test_stored_replies_can_be_generated_again_and_a_changed_one_is_seen(finished: Path, tmp_path: Path) -> None:
    found = kv.replication.read_compact(kv.replication.write_compact(kv.replication.load(finished), tmp_path))
    now = kv.replication.recompute(kv.load("tiny"), found, TASK, questions=2)
    assert now.same.all() and (now.tokens == now.tokens_now).all() and len(now) >= 28
    forged = replace(found, rows=found.rows.assign(hash="0" * 16))
    assert not kv.replication.recompute(kv.load("tiny"), forged, TASK, questions=1).same.any()


def test_controls_are_matched_in_divergence() -> None:
    model, task = kv.load("tiny"), kv.tasks.get(TASK)
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=2)
    steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), 0, 1, name="s")
    chats = [task.chat(q) for q in task.questions("dev", MATCHED_ON // 2, 0)]
    texts = [ids[:8] for ids in kv.generate(model, chats, generation={"max_new_tokens": 8}).token_ids]
    controls = list(steering.controls(3))
    first = float(np.mean(divergences(model, chats, texts, [controls[0]], kv.Nothing())[0].totals))
    factors = match_controls(model, chats, texts, 3 * first, controls, rounds=8)
    matched = scaled_controls(controls, factors)
    assert matched and {m.control_kind for m in matched} == {KIND} and {m.control_of for m in matched} == {"s"}
    for found in divergences(model, chats, texts, matched, kv.Nothing()):
        assert float(np.mean(found.totals)) == pytest.approx(3 * first, rel=0.21)


def test_the_command_says_the_cost_first_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    sizes = "--pairs 4 --shots 1 --cells 9 --dev 2 --test 2 --controls 1 --uncached-test 0 --measured 0 --block 2"
    main(f"replicate --model tiny --tasks {TASK} --out {tmp_path / 'out'} --max-new-tokens 8 {sizes}".split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{TASK}: 16 prompts to extract from; replies of at most 8 tokens: 90 to tune on, 32")
    assert "minutes of one core" in lines[0] and lines[-1].startswith(f"{TASK}: see ")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "last position" not in page and VALUES in page and "Holm" in page
    assert {"rows.parquet", "cells.parquet", "table.csv", "release"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_the_articles_coefficients_bring_a_warning() -> None:
    model = kv.load("tiny")
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add."], ["The answer is 5."])
    steerer = kv.KVSteerer(kv.extract(model, pairs, progress=False))
    ids = torch.tensor([model.encode("What is 2 + 3?")])
    with pytest.warns(UserWarning, match=r"ck=0 in 23 of 24 cells"):
        steerer.steer(model.hf, ids, max_new_tokens=2)
