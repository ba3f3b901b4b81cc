"""Stop strings: a reply ends before them, row by row, on every path that generates."""

import pandas as pd
import pytest
from transformers import GenerationConfig

import kvsteer_lab as kv
from kvsteer_lab.generation.settings import resolve
from kvsteer_lab.generation.stopping import StopStrings, next_question, read_said

QUESTIONS = ["What is 2 + 3?", "What is 17 + 8 - 4?", "Ann has 3 pens and buys 4. How many?", "What is 9 + 9?"]


@pytest.fixture(scope="module")
def model():
    return kv.load("tiny")


def texts(model, stop, questions=QUESTIONS, **more):
    return kv.generate(model, questions, generation={"max_new_tokens": 24, "stop_strings": stop}, **more)


def test_a_reply_ends_before_the_stop_string(model):
    free = kv.generate(model, QUESTIONS, generation={"max_new_tokens": 24})
    word = " is"
    assert any(word in text for text in free.texts), "the word must occur"
    for before, after in zip(free, texts(model, [word]), strict=True):
        assert after.text == before.text.partition(word)[0]
        if word in before.text:
            assert after.finish_reason == "stop"
            assert after.token_ids == before.token_ids[: len(after.token_ids)]
            assert model.tokenizer.decode(after.token_ids).startswith(after.text)
            assert len(after.token_ids) < len(before.token_ids)
        else:
            assert after == before


def test_what_else_is_in_the_batch_changes_nothing(model):
    together = texts(model, [" is"], interventions=[kv.Nothing(), kv.ForcedPrefix("The")])
    for number, question in enumerate(QUESTIONS):
        alone = texts(model, [" is"], [question], interventions=[kv.Nothing(), kv.ForcedPrefix("The")])
        assert [row.text for row in alone] == [row.text for row in together if row.prompt == number]


def test_a_stop_string_over_several_tokens_is_found_at_the_first_token_that_completes_it(model):
    ids = model.tokenizer("The answer is 18. The answer is 19.").input_ids
    stop = StopStrings(model.tokenizer, ("answer is 1", "nothing of this"))
    until = next(n for n in range(len(ids)) if "answer is 1" in model.tokenizer.decode(ids[:n]))
    assert stop.cut(ids) == ids[:until] and until > 3
    assert [stop.found(ids[:n]) for n in range(until + 1)] == [False] * until + [True]
    said = read_said(stop, frozenset(), ids)
    assert (said.text, said.finish_reason) == ("The ", "stop")
    assert model.tokenizer.decode(said.ids).startswith("The") and len(said.ids) < until


def test_decoding_ends_with_the_last_row(model):
    steps = []
    handle = model.hf.register_forward_hook(lambda *_: steps.append(1))
    try:
        texts(model, [" is"], QUESTIONS[:1])
        stopped = len(steps)
        texts(model, [], QUESTIONS[:1])
    finally:
        handle.remove()
    assert stopped < len(steps) - stopped, "decoding went on after the stop string"


def test_streamed_pieces_are_the_text(model):
    asked = {"max_new_tokens": 24, "stop_strings": ["answer is", "zzz"]}
    for question in QUESTIONS:
        pieces = list(kv.stream(model, question, generation=asked))
        assert "".join(pieces) == kv.generate(model, question, generation=asked).texts[0]


def test_an_end_token_that_comes_first_still_ends_the_text(model):
    free = kv.generate(model, QUESTIONS, generation={"max_new_tokens": 64})
    assert any(row.finish_reason == "eos" for row in free)
    assert texts(model, ["never said"]).texts == kv.generate(model, QUESTIONS, generation={"max_new_tokens": 24}).texts


def test_the_choice_is_asked_for_after_the_reply_without_the_stop_string(model):
    task = kv.tasks.get("tiny-tracking")
    asked = {"max_new_tokens": 24, "stop_strings": [" is"]}
    found = kv.evaluate(model, task, [], n=4, split="dev", generation=asked, progress=False).rows
    assert (found.finish_reason == "stop").any() and not found.text.str.contains(" is").any()


def test_a_plain_template_ends_at_its_next_question(model):
    plain = kv.PlainTemplate("Question: {q}\nAnswer:").on(model.tokenizer)
    assert next_question(plain) == ("\nQuestion:",)
    assert next_question(kv.PlainTemplate("Q: {q}\nA:").on(model.tokenizer)) == ("\nQ:",)
    assert next_question(kv.PlainTemplate("{q}\n").on(model.tokenizer)) == (), "no words before a question"
    assert next_question(model.tokenizer) == (), "this one ends a turn with a token"


def test_default_stop_strings_are_for_chats_and_can_be_turned_off(model):
    base = kv.load("tiny", template=kv.PlainTemplate("Question: {q}\nAnswer:"))
    assert resolve(base, None, chat=True).stop.strings == ("\nQuestion:",)
    assert resolve(base, {"stop_strings": []}, chat=True).stop.strings == ()
    assert resolve(base, None, chat=False).stop.strings == ()
    assert resolve(model, None, chat=True).stop.strings == ()


def test_the_checkpoints_own_stop_strings_are_honoured(model):
    own = model.hf.generation_config
    model.hf.generation_config = GenerationConfig(**{**own.to_dict(), "stop_strings": [" is"]})
    try:
        assert all(" is" not in text for text in kv.generate(model, QUESTIONS, generation={"max_new_tokens": 24}).texts)
    finally:
        model.hf.generation_config = own


def test_transformers_own_object_may_hold_them(model):
    asked = GenerationConfig(max_new_tokens=24, stop_strings=[" is"])
    assert kv.generate(model, QUESTIONS, generation=asked).texts == texts(model, " is").texts


@pytest.mark.parametrize("bad", [[""], [3], ["a", None]])
def test_what_is_no_text_is_refused(model, bad):
    with pytest.raises(ValueError, match="stop_strings are texts"):
        texts(model, bad)


def test_they_are_part_of_what_a_run_is(model, tmp_path):
    task = kv.tasks.get("tiny-arithmetic")
    ask = dict(n=2, split="dev", progress=False, out=tmp_path)
    kv.evaluate(model, task, [], generation={"max_new_tokens": 8}, **ask)
    with pytest.raises(ValueError, match="another run"):
        kv.evaluate(model, task, [], generation={"max_new_tokens": 8, "stop_strings": ["zzz"]}, **ask)
    again = kv.evaluate(model, task, [], generation={"max_new_tokens": 8, "stop_strings": []}, **ask)
    assert isinstance(again.rows, pd.DataFrame)


def test_conversations_end_their_turns_there(model):
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
    steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0.0, cv=1.0)
    asked = {"max_new_tokens": 16, "stop_strings": [" is"]}
    found = kv.analysis.follow_conversations(
        model, task, steering, "kept", n=2, turns=2, generation=asked, progress=False
    )
    assert (found.finish_reason == "stop").any() and not found.text.str.contains(" is").any()


def test_rows_leave_the_batch_at_their_stop_string(model):
    task = kv.tasks.get("tiny-arithmetic")
    chats = [task.chat(q) for q in task.questions("dev", 24)]
    asked = {"max_new_tokens": 40, "stop_strings": ["answer is 1", "+"]}
    whole = kv.generate(model, chats, [kv.Nothing(), kv.CoTPrompt()], generation=asked, batch_size=64)
    queued = kv.generate(model, chats, [kv.Nothing(), kv.CoTPrompt()], generation=asked, batch_size=5)
    assert {row.finish_reason for row in whole} == {"stop", "eos"}
    assert whole.texts == queued.texts and whole.token_ids == queued.token_ids
