"""The behaviours that ship: their data, their splits, their pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvsteer_lab as kv
from kvsteer_lab.behaviours.catalogue import MEASURED, WRITTEN

DATA = Path(kv.__file__).parent / "behaviours" / "data"


@pytest.mark.parametrize("name", (*WRITTEN, *MEASURED))
def test_every_behaviour_has_questions_that_are_in_one_split_each(name: str) -> None:
    behaviour = kv.behaviours.get(name)
    texts = [question.text for questions in behaviour.questions.values() for question in questions]
    assert len(texts) == len(set(texts)) >= 40
    assert min(len(behaviour.questions[split]) for split in ("extraction", "dev", "test")) >= 10
    assert behaviour.card.licence == "MIT" and behaviour.card.source and behaviour.card.scorer


@pytest.mark.parametrize("name", WRITTEN)
def test_pairs_are_of_extraction_questions_alone_and_carry_the_behaviour_s_name(name: str) -> None:
    behaviour, tokenizer = kv.behaviours.get(name), kv.load("tiny").tokenizer
    held_out = [q.text for split in ("dev", "test") for q in behaviour.questions[split]]
    for kind in ("prompts", "openings"):
        pairs = behaviour.pairs(tokenizer, kind)
        assert len(pairs) >= 40 and pairs.recipe["style"] == name
        assert not any(text in prompt for prompt in (*pairs.positive, *pairs.negative) for text in held_out)
        assert all(positive != negative for positive, negative in pairs)
    assert len({positive for positive, _ in pairs}) == len(pairs)


def test_few_pairs_are_of_different_questions() -> None:
    behaviour, tokenizer = kv.behaviours.get("french"), kv.load("tiny").tokenizer
    few = behaviour.pairs(tokenizer, "prompts", n=10)
    asked = [q.text for q in behaviour.questions["extraction"][:10]]
    assert all(text in prompt for text, prompt in zip(asked, few.positive, strict=True))
    with pytest.raises(ValueError, match=r"'french' has \d+ pairs of that kind, so n=9999 can't be had"):
        behaviour.pairs(tokenizer, "prompts", n=9999)


def test_the_label_of_a_steering_names_the_behaviour() -> None:
    model = kv.load("tiny")
    vectors = kv.extract(model, kv.behaviours.get("brief").pairs(model.tokenizer, n=2), progress=False)
    assert kv.CacheSteering(vectors, 0, 4).label == "steered brief ck=0 cv=4"


def test_opposite_behaviours_are_each_other_s_mirror() -> None:
    positive, negative = kv.behaviours.get("positive"), kv.behaviours.get("negative")
    assert positive.positive == negative.negative and positive.openings == tuple(o[::-1] for o in negative.openings)
    for text in ("A lovely day.", "A terrible day.", "A day."):
        assert positive.score(text) == -negative.score(text)


def test_a_behaviour_is_a_task_and_an_outcome() -> None:
    loud = kv.behaviours.make("loud", "SHOUT.", "Whisper.", [f"What is {i}?" for i in range(60)], str.isupper)
    task = loud.task
    question = task.questions("test", 1)[0]
    assert task.is_correct(question, "FOUR") and not task.is_correct(question, "four")
    assert loud.outcome.value(question, "FOUR") == 1 and loud.graded.value(question, "four") == 0
    assert loud.system_prompt().label == "system prompt loud"
    unknown = kv.behaviours.make("deep", "Be deep.", "Be shallow.", ["Why?"], lambda text: float("nan"))
    assert unknown.task.read_answer("So.") is None  # not "not shown"
    assert unknown.outcome.value(question, "So.") != unknown.outcome.value(question, "So.")


def test_a_fact_is_read_by_its_question_s_own_words() -> None:
    task = kv.behaviours.get("facts").task
    known = {q.text: q for split in ("extraction", "dev", "test") for q in task.questions(split)}
    italy = known["What is the capital of Italy?"]
    assert task.is_correct(italy, "It is Rome.") and not task.is_correct(italy, "It is Paris, says Romeo.")
    assert task.is_correct(known["How many days are in a week?"], "There are 7 days.")


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^There is no behaviour 'frnch'; choose one of: french, .+$"):
        kv.behaviours.get("frnch")
    with pytest.raises(ValueError, match=r"^'facts' is only measured; it has no pairs to extract vectors from\.$"):
        kv.behaviours.get("facts").pairs(kv.load("tiny").tokenizer)
    with pytest.raises(ValueError, match=r"^'french' has no pairs of kind 'choices'; it has: prompts, openings\.$"):
        kv.behaviours.get("french").pairs(kv.load("tiny").tokenizer, "choices")
    with pytest.raises(ValueError, match="isn't a function"):
        kv.behaviours.make("loud", "SHOUT.", "Whisper.", ["Why?"], "upper")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 positive and 2 negative instructions"):
        kv.behaviours.make("loud", "SHOUT.", ["Whisper.", "Hush."], ["Why?"], str.isupper)


def test_the_shipped_data_are_small_and_listed() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 300_000
    table = kv.behaviours.table()
    assert list(table.index) == list(kv.behaviours.NAMES) and table.licence.eq("MIT").all()
    assert "kvsteer_lab" in table.loc["german", "source"] and "CAA" in table.loc["caa-refusal", "source"]
