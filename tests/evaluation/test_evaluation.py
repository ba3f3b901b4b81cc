"""Evaluation, its results table, files, dose-response and analyses, on the bundled model."""

import re

import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.evaluation.results import COLUMNS
from kvsteer_lab.tasks.bundled.tiny import TinyTracking
from kvsteer_lab.vectors.extraction import PairDifferences

N, CONTROLS = 12, 5


@pytest.fixture(scope="module")
def task():
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def tiny():
    return kv.load("tiny")


@pytest.fixture(scope="module")
def differences(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=24, shots=2, seed=0)
    return kv.extract_pairs(tiny, pairs, progress=False)


@pytest.fixture(scope="module")
def steering(differences):
    return kv.CacheSteering(differences.mean(), ck=0, cv=1.5)


@pytest.fixture(scope="module")
def results(tiny, task, steering):
    methods = [kv.CoTPrompt(), kv.ForcedPrefix("Step"), steering, *kv.random_controls(steering, CONTROLS)]
    return kv.evaluate(tiny, task, methods, n=N, split="dev", seed=3, generation={"max_new_tokens": 48}, progress=False)


def test_rows_hold_the_raw_text_and_every_verdict(results, tiny, task):
    assert tuple(results.rows.columns) == (*COLUMNS, *(f"by_{rule}" for rule in task.extractors))
    assert len(results.rows) == N * (5 + CONTROLS)
    gold = {q.id: q for q in task.questions("dev", N, 3)}
    for row in results.rows.itertuples():
        answer = row.forced + row.text
        assert row.read_answer == task.read_answer(answer) or (
            pd.isna(row.read_answer) and task.read_answer(answer) is None
        )
        assert row.correct == task.is_correct(gold[row.question], answer)
    assert set(results.of("forced 'Step'").forced) == {"Step"}


def test_the_rows_are_those_of_generate(results, tiny, task, steering):
    chats = [task.chat(q) for q in task.questions("dev", N, 3)]
    alone = kv.generate(tiny, chats, steering, generation={"max_new_tokens": 48})
    assert results.of(steering.label).text.tolist() == alone.texts
    assert results.of("baseline").text.tolist() != alone.texts


def test_summary_has_intervals_tests_and_controls(results, steering):
    table = results.summary()
    assert list(table.index) == [
        "baseline",
        "no offset",
        "CoT prompt",
        "forced 'Step'",
        steering.label,
        f"{CONTROLS} random vectors",
    ]
    for label in results.interventions:
        own = results.of(label).correct
        assert table.accuracy[label] == pytest.approx(own.mean())
        assert (table.low[label], table.high[label]) == pytest.approx(kv.stats.wilson(int(own.sum()), N))
        if label != "baseline":
            assert table.p[label] == pytest.approx(
                kv.stats.mcnemar(own.tolist(), results.of("baseline").correct.tolist())
            )
    drawn = results.rows[results.rows.control_of == steering.label].groupby("intervention").reasoned.mean()
    assert len(drawn) == CONTROLS
    assert table.p_random_reasoned[steering.label] == pytest.approx(
        kv.stats.control_p(table.reasoned[steering.label], drawn.tolist())
    )
    assert table.p_random.drop(steering.label).isna().all()


def test_style_shares_add_up(results):
    assert results.style_shares().sum(axis=1).tolist() == pytest.approx([1.0] * 5)
    assert results.style_shares().index.tolist() == results.interventions


def test_results_survive_saving(results, tmp_path):
    again = kv.Results.load(results.save(tmp_path / "new" / "r.parquet"))
    pd.testing.assert_frame_equal(again.rows, results.rows)
    assert again.settings == dict(results.settings) and again.complete
    pd.testing.assert_frame_equal(again.summary(), results.summary())


def test_foreign_and_truncated_results_are_refused(results, tmp_path):
    path = results.save(tmp_path / "r.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a complete results file"):
        kv.Results.load(path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match="not a complete results file"):
        kv.Results.load(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match="no results at"):
        kv.Results.load(tmp_path / "absent.parquet")


def test_an_interrupted_evaluation_keeps_whole_questions(tiny, task, steering, monkeypatch):
    calls = {"n": 0}
    original = tiny.hf.generate

    def interrupted(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(tiny.hf, "generate", interrupted)
    with pytest.warns(UserWarning, match="Interrupted"):
        part = kv.evaluate(
            tiny, task, steering, n=8, split="dev", batch_size=7, generation={"max_new_tokens": 8}, progress=False
        )
    assert not part.complete
    assert (part.rows.groupby("question").intervention.nunique() == 3).all()
    assert part.rows.question.nunique() < 8


def test_unknown_things_are_refused(tiny, task, steering, results):
    with pytest.raises(ValueError, match="Unknown split 'train'"):
        kv.evaluate(tiny, task, steering, split="train")
    with pytest.raises(ValueError, match="gave no questions"):
        kv.evaluate(tiny, task, steering, n=0)
    with pytest.raises(ValueError, match="There is no task 'mmlu'"):
        kv.tasks.get("mmlu")
    with pytest.raises(ValueError, match="no intervention 'steer'"):
        results.of("steer")
    with pytest.raises(ValueError, match="no replies in style 'haiku'"):
        task.demonstrate(task.questions("dev", 1)[0], "haiku")


def test_dose_response_rows_equal_separate_runs(tiny, task, steering):
    table = kv.dose_response(tiny, task, steering, [0.0, 1.5], controls=2, n=6, max_new_tokens=48, progress=False)
    assert sorted(table.vector.unique()) == ["random 0", "random 1", "steering"] and len(table) == 6
    own = table[table.vector == "steering"].set_index("coefficient")
    alone = kv.evaluate(
        tiny, task, steering, n=6, split="dev", generation={"max_new_tokens": 48}, progress=False
    ).summary()
    assert own.reasoned[1.5] == pytest.approx(alone.reasoned[steering.label])
    assert own.reasoned[0.0] == pytest.approx(alone.reasoned["baseline"])
    chats = [task.chat(q) for q in task.questions("dev", 6, 0)]
    ratio = steering.vectors.relative_to(tiny, chats).set_index("layer")["values"][[1, 2, 3]].mean()
    assert own.dose[1.5] == pytest.approx(1.5 * ratio) and own.dose[0.0] == 0
    with pytest.raises(ValueError, match="no coefficients"):
        kv.dose_response(tiny, task, steering, [])


def test_random_controls_match_norms_layer_by_layer(steering):
    own = steering.vectors.only(steering.scope)
    controls = kv.random_controls(steering, 3, seed=5)
    for control in controls:
        for part in ("keys", "values"):
            a, b = (getattr(v, part).flatten(1).norm(dim=1) for v in (own, control.vectors))
            assert torch.allclose(a, b, rtol=1e-5)
        assert abs(torch.cosine_similarity(own.values.flatten(), control.vectors.values.flatten(), dim=0)) < 0.5
        assert control.control_of == steering.label
    assert not torch.equal(controls[0].vectors.values, controls[1].vectors.values)
    assert torch.equal(controls[1].vectors.values, kv.random_controls(steering, 1, seed=6)[0].vectors.values)


def test_convergence_grows_with_the_number_of_pairs(differences):
    table = kv.analysis.convergence(differences, [1, 12], repeats=5)
    mean = table.groupby(["part", "n"]).cosine.mean()
    for part in ("keys", "values"):
        assert mean[part, 1] < mean[part, 12] <= 1.0 + 1e-6
    with pytest.raises(ValueError, match="between 1 and 12"):
        kv.analysis.convergence(differences, [13])
    with pytest.raises(ValueError, match="at least two pairs"):
        kv.analysis.convergence(differences.take([0]), [1])
    with pytest.raises(ValueError, match="at least one random subset, not 0"):
        kv.analysis.convergence(differences, [1], repeats=0)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        kv.analysis.convergence(
            PairDifferences(differences.keys * float("nan"), differences.values, differences.card), [1]
        )


def test_prompt_lengths_count_tokens(tiny, task):
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=3, shots=1, seed=0)
    lengths = kv.analysis.prompt_lengths(pairs, tiny.tokenizer)
    assert lengths.positive[2] == len(tiny.tokenizer(pairs.positive[2], add_special_tokens=False).input_ids)
    assert (lengths.positive > lengths.negative).all()


class Closed(TinyTracking):
    """The bundled multiple-choice task with closing words, and rules that read behind them."""

    closing = "\nThe answer is"

    @property
    def extractors(self):
        return {
            "behind": lambda question, text: next(
                iter(re.findall(r"The answer is ([A-D])", text.rpartition("\n")[2])), None
            ),
            **super().extractors,
        }


def test_the_second_stage_reads_behind_the_closing_words(tiny):
    task = Closed()
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2, seed=0)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), 0, 2)
    settings = dict(n=N, split="dev", generation={"max_new_tokens": 64}, progress=False)
    results = kv.evaluate(tiny, task, [steering, kv.ForcedPrefix("Step")], **settings)
    rows = results.rows
    assert results.rules == ["behind", "answer", "strict", "likelihood"] and results.settings["rule"] == "behind"
    assert rows.closing.str.startswith(task.closing).all() and rows.by_likelihood.isin(list("ABCD")).all()
    assert (rows.read_answer == rows.by_behind.fillna(rows.by_likelihood)).all()
    assert (rows.choice_forced == rows.by_behind.isna()).all()
    chats = [task.chat(q) for q in task.questions("dev", N, 0)]
    texts = kv.generate(tiny, chats, steering, generation={"max_new_tokens": 64})
    choices = kv.elicit(tiny, chats, steering, texts, closing=task.closing, letters=[tuple("ABCD")] * N)
    assert results.of(steering.label).by_likelihood.tolist() == [c.letter for c in choices]
    unsteered = kv.evaluate(tiny, task, steering, second_stage="unsteered", **settings)
    assert unsteered.of("baseline").closing.tolist() == results.of("baseline").closing.tolist()
    assert (
        results.by_rule().loc[steering.label, "behind"]
        == (results.of(steering.label).by_behind == results.of(steering.label).gold).mean()
    )
    with pytest.raises(ValueError, match="choose 'steered' or 'unsteered'"):
        kv.evaluate(tiny, task, steering, n=2, second_stage="own")


def test_a_second_stage_that_has_no_room_is_refused_before_anything_runs(tiny, task, monkeypatch):
    monkeypatch.setattr(tiny.hf, "generate", None)  # nothing may run
    longest = max(len(tiny.encode(Closed().chat(q))) for q in Closed().questions("dev", 4, 0))
    room = {"max_new_tokens": tiny.context - longest - 1}
    with pytest.raises(
        ValueError, match=r"Under 'baseline' the prompt of question .* has \d+ tokens; with \d+ more for the reply"
    ):
        kv.evaluate(tiny, Closed(), [], n=4, split="dev", generation=room, progress=False)


def test_both_stages_of_multiple_choice_show_how_far_they_are(
    tiny: kv.Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    kv.evaluate(tiny, Closed(), kv.Nothing(), n=2, split="dev", generation={"max_new_tokens": 4})
    said = capsys.readouterr().err
    assert "generate: 100%" in said and "elicit: 100%" in said
