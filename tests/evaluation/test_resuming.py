"""Evaluations on disk: the same rows in one go, in pieces, in shards, after Ctrl-C."""

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.evaluation.runs import Run

N = 10


@pytest.fixture(scope="module")
def task():
    return kv.tasks.get("tiny-tracking")


@pytest.fixture(scope="module")
def methods(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=12, shots=2, seed=0)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), ck=0, cv=2, name="steered")
    return [steering, kv.CoTPrompt(), *kv.random_controls(steering, 2)]


@pytest.fixture(scope="module")
def evaluate(tiny, task, methods):
    def run(**options):
        settings = dict(
            n=N,
            split="dev",
            seed=2,
            generation={"max_new_tokens": 12, "do_sample": True, "temperature": 1.5},
            samples=2,
            progress=False,
        )
        return kv.evaluate(tiny, task, methods, **{**settings, **options})

    return run


@pytest.fixture(scope="module")
def whole(evaluate):
    return evaluate()


def same(results: kv.Results, whole: kv.Results) -> None:
    """All columns; a column without a single text has no type in memory and is text on disk."""
    pd.testing.assert_frame_equal(results.rows, whole.rows, check_dtype=False)
    assert results.complete and results.settings == whole.settings
    steered, plain = whole.of("steered"), whole.of("baseline")
    assert (steered.text.values != plain.text.values).any()  # steering acts
    assert any(texts.nunique() == 2 for _, texts in steered.groupby("question").text)  # and so does the noise


def test_rows_on_disk_are_those_in_memory(evaluate, whole, tmp_path):
    same(evaluate(out=tmp_path), whole)
    same(kv.Results.load(tmp_path), whole)
    pd.testing.assert_frame_equal(kv.Results.load(tmp_path).summary(), whole.summary())
    assert len(Run.load(tmp_path).chunks) == 1  # 12 replies a question


def test_pieces_are_the_whole_whatever_the_batches(evaluate, whole, tmp_path):
    run = evaluate(out=tmp_path, chunk_size=3, shard="2/4")
    assert not run.complete and run.rows.question.nunique() == 3
    same(evaluate(out=tmp_path, batch_size=5), whole)
    assert [len(chunk) for chunk in Run.load(tmp_path).chunks] == [3, 3, 3, 1]


def test_shards_in_folders_of_their_own_merge_into_the_whole(evaluate, whole, tmp_path):
    for i in (3, 1, 2):
        assert not evaluate(out=tmp_path / str(i), shard=(i, 3)).rows.empty
    kv.merge([tmp_path / str(i) for i in (1, 2, 3)], tmp_path / "whole")
    same(kv.Results.load(tmp_path / "whole"), whole)


def test_info_tells_a_run(evaluate, tmp_path, capsys):
    evaluate(out=tmp_path, chunk_size=5, shard="1/2")
    main(["info", str(tmp_path)])
    told = capsys.readouterr().out
    assert "task: tiny-tracking" in told and "complete: False" in told and "steered" in told


def test_a_finished_run_computes_nothing(evaluate, whole, tmp_path, tiny, monkeypatch):
    evaluate(out=tmp_path)
    monkeypatch.setattr(tiny.hf, "generate", None)
    same(evaluate(out=tmp_path), whole)


def test_ctrl_c_keeps_finished_chunks_and_says_how_to_go_on(evaluate, whole, tmp_path, tiny, monkeypatch):
    original, calls = tiny.hf.generate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.hf, "generate", interrupted)
        with pytest.warns(
            UserWarning, match=r"Interrupted: \d of 5 chunks are in .*; do the same again to go on from there\."
        ) as told:
            part = evaluate(out=tmp_path, chunk_size=2)
    assert len([w for w in told if "Interrupted" in str(w.message)]) == 1
    assert not part.complete and 0 < part.rows.question.nunique() < N
    assert (part.rows.groupby("question").size() == 12).all()
    same(evaluate(out=tmp_path, chunk_size=2), whole)


def test_stopped_before_anything_was_finished(evaluate, tmp_path, tiny, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny.hf, "generate", stop)
    with pytest.warns(UserWarning, match="Interrupted: 0 of 1 chunks"):
        part = evaluate(out=tmp_path)
    assert not part.complete and part.rows.empty and part.interventions == []


def test_ctrl_c_after_the_last_chunk_is_raised(evaluate, whole, tmp_path, tiny, monkeypatch):
    write = Run.write

    def press(run, chunk, rows):
        write(run, chunk, rows)
        if run.complete:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write", press)
        with pytest.raises(
            KeyboardInterrupt, match=r"^Interrupted: 5 of 5 chunks are in .*; do the same again to read"
        ):
            evaluate(out=tmp_path, chunk_size=2)
    monkeypatch.setattr(tiny.hf, "generate", None)
    same(evaluate(out=tmp_path, chunk_size=2), whole)


# --- bad input: refused before anything is computed or written -----------------------------------------------


@pytest.fixture
def idle(tiny, monkeypatch):
    """A model that must not be asked."""
    monkeypatch.setattr(tiny.hf, "generate", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shard="3/2"), "The shard '3/2' isn't one"),
        (dict(chunk_size=0), "chunk_size must be at least 1, not 0"),
        (dict(samples=0), "samples=0 needs"),
        (dict(generation={"num_beams": 2}), "generation can't set num_beams"),
        (dict(generation={"max_new_tokens": 100_000}, samples=1), "lower max_new_tokens"),
        (dict(offset="not one token"), "one token"),
    ],
)
def test_bad_input_leaves_no_folder(evaluate, idle, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [dict(shard="1/2"), dict(chunk_size=2)])
def test_parts_need_a_folder(evaluate, idle, options):
    with pytest.raises(ValueError, match=r"name its folder with out="):
        evaluate(**options)


def test_another_seed_is_another_run(evaluate, tmp_path, tiny, monkeypatch):
    evaluate(out=tmp_path)
    monkeypatch.setattr(tiny.hf, "generate", None)
    with pytest.raises(ValueError, match=r"holds another run: .*settings.seed is 2 there and 3 here"):
        evaluate(out=tmp_path, seed=3)


def test_a_damaged_chunk_stops_before_anything_is_computed(evaluate, whole, tmp_path, tiny, monkeypatch):
    evaluate(out=tmp_path, chunk_size=5, shard="1/2")
    file = tmp_path / "rows" / "00000.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with monkeypatch.context() as patch:
        patch.setattr(tiny.hf, "generate", None)
        with pytest.raises(
            ValueError,
            match=r"rows/00000.parquet is truncated or damaged .*; delete this file and run the same command again",
        ):
            evaluate(out=tmp_path)
    file.unlink()
    same(evaluate(out=tmp_path), whole)


def test_questions_that_share_an_id_are_refused(tiny, idle, methods, task, tmp_path):
    class Doubled(type(task)):
        def questions(self, split, n=None, seed=None):
            return [*super().questions(split, 2, seed)] * 2

    with pytest.raises(ValueError, match="Of 4 questions only 2 have an id of their own"):
        kv.evaluate(tiny, Doubled(), methods, out=tmp_path / "run")
