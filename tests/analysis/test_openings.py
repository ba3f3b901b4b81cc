"""Steered openings forced on the unsteered model, against runs of the parts."""

import pytest

import kvsteer_lab as kv

NEW = {"max_new_tokens": 48}


@pytest.fixture(scope="module")
def task():
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def steering(tiny, task):
    return kv.CacheSteering(
        kv.extract(
            tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=16, shots=2), progress=False
        ),
        0,
        2,
    )


def test_the_ends_are_the_baseline_and_the_steered_text(tiny, task, steering):
    table = kv.analysis.forced_openings(tiny, task, steering, (0, 1, 48), n=10, generation=NEW, progress=False)
    own, none, one, whole = (row for row in table.itertuples())
    results = kv.evaluate(
        tiny, task, [steering, kv.ForcedPrefix("Step")], n=10, split="dev", generation=NEW, progress=False
    )
    assert own.accuracy == results.of(steering.label).correct.mean() and own.same_answer == 1
    assert none.accuracy == results.of("baseline").correct.mean() != own.accuracy
    assert none.p == pytest.approx(
        kv.stats.mcnemar(results.of("baseline").correct.tolist(), results.of(steering.label).correct.tolist())
    )
    # all of its tokens forced, nothing is left to differ
    assert whole.accuracy == own.accuracy and whole.same_answer == 1
    opened = {text.split()[0] for text in results.of(steering.label).text}
    if opened == {"Step"}:  # then its own first token is the style's
        assert one.accuracy == results.of("forced 'Step'").correct.mean()


def test_what_can_t_be_compared_is_refused(tiny, task, steering):
    with pytest.raises(ValueError, match="0 or above"):
        kv.analysis.forced_openings(tiny, task, steering, (-1,), n=2)
    with pytest.raises(ValueError, match="'CoT prompt' changes the chat"):
        kv.analysis.forced_openings(tiny, task, kv.CoTPrompt(), (1,), n=2)
