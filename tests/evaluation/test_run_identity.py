"""A run's folder never gives back another experiment's rows, and keeps texts that are valid when only rules change."""

from __future__ import annotations

import copy
import functools
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import describe
from kvsteer_lab.evaluation.runs import Run

GENERATION = {"max_new_tokens": 8}
N = 4


def fresh() -> tuple[PreTrainedModel, Any]:
    model = kv.load("tiny")
    return copy.deepcopy(model.hf), copy.deepcopy(model.tokenizer)


def ask(model: kv.Model, task: Any = None, methods: Any = (), **options: Any) -> kv.Results:
    task = kv.tasks.get("tiny-arithmetic") if task is None else task
    chosen = {"generation": GENERATION, "n": N, "progress": False, **options}
    return kv.evaluate(model, task, [kv.Nothing(), *methods], **chosen)


def same(disk: kv.Results, memory: kv.Results) -> None:
    """All columns and rows; a column without a single text has no type in memory and is text on disk."""
    found, expected = (r.rows.astype(object).where(r.rows.notna(), None) for r in (disk, memory))
    pd.testing.assert_frame_equal(found[list(expected)], expected)


# --- whatever changes a text ----------------------------------------------------------------------------------


def zero_a_neuron(hf: Any, tokenizer: Any) -> None:
    hf.model.layers[2].mlp.down_proj.weight.data[:, 5] = 0


def change_every_second_value(hf: Any, tokenizer: Any) -> None:
    hf.lm_head.weight.data.view(-1)[1::2] *= 1.5


def change_rope(hf: Any, tokenizer: Any) -> None:
    hf.model.rotary_emb.inv_freq /= 2


def change_the_config(hf: Any, tokenizer: Any) -> None:
    hf.config.rms_norm_eps = 0.5


def scale_attention(hf: Any, tokenizer: Any) -> None:
    hf.model.layers[1].self_attn.scaling *= 3


def replace_a_forward(hf: Any, tokenizer: Any) -> None:
    mlp = hf.model.layers[0].mlp
    mlp.forward = functools.partial(lambda forward, x: 0.1 * forward(x), mlp.forward)


def penalise_repetition(hf: Any, tokenizer: Any) -> None:
    hf.generation_config.repetition_penalty = 1.6


def ban_ngrams(hf: Any, tokenizer: Any) -> None:
    hf.generation_config.no_repeat_ngram_size = 2


def suppress_tokens(hf: Any, tokenizer: Any) -> None:
    hf.generation_config.suppress_tokens = [5, 6]


def change_the_template(hf: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|im_start|>user")


def change_the_tokenizer(hf: Any, tokenizer: Any) -> None:
    from tokenizers.normalizers import Replace

    tokenizer.backend_tokenizer.normalizer = Replace("How", "Who")


CHANGES = [
    zero_a_neuron,
    change_every_second_value,
    change_rope,
    change_the_config,
    scale_attention,
    replace_a_forward,
    penalise_repetition,
    ban_ngrams,
    suppress_tokens,
    change_the_template,
    change_the_tokenizer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_reply_is_another_run(tmp_path: Path, change: Callable[[Any, Any], None]) -> None:
    hf, tokenizer = fresh()
    ask(kv.load(hf, tokenizer), out=tmp_path)
    assert ask(kv.load(hf, tokenizer), out=tmp_path).complete, "the same model goes on"
    with torch.no_grad():
        change(hf, tokenizer)
    with pytest.raises(ValueError, match=r"holds another run: .*Choose another folder, or ask for the same"):
        ask(kv.load(hf, tokenizer), out=tmp_path)


def test_weights_that_change_after_the_first_run_are_seen(tmp_path: Path) -> None:
    hf, tokenizer = fresh()
    model = kv.load(hf, tokenizer)
    ask(model, out=tmp_path)
    hf.model.layers[1].self_attn.o_proj.weight.data[:, : model.head_dim] = 0
    with pytest.raises(ValueError, match=r"holds another run: model.fingerprint is \"2-"):
        ask(model, out=tmp_path)


def test_a_hook_on_a_loaded_model_is_another_run(tmp_path: Path) -> None:
    model = kv.load(*fresh())
    ask(model, out=tmp_path)
    handles = [
        model.hf.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output, by=by: output * by)
        for by in (0.1, 0.2)
    ]
    with pytest.raises(ValueError, match=r"holds another run: model.modules"):
        ask(model, out=tmp_path)
    ask(model, out=tmp_path / "hooked")
    handles[1].remove()
    with pytest.raises(ValueError, match=r"holds another run: model.modules"):
        ask(model, out=tmp_path / "hooked")
    handles[0].remove()
    assert ask(model, out=tmp_path).complete


def test_another_template_or_another_argument_of_it_is_another_run(tmp_path: Path) -> None:
    def plain(text: str) -> kv.Model:
        return kv.load("tiny", template=kv.PlainTemplate(text))

    def thinking(enabled: bool) -> kv.Model:
        written = kv.load("tiny").tokenizer.chat_template + "{% if enable_thinking %}Think. {% endif %}"
        return kv.load("tiny", template=written, template_arguments={"enable_thinking": enabled})

    for make, first, second in ((plain, "Q: {q}\nA:", "Question: {q}\nA:"), (thinking, True, False)):
        out = tmp_path / make.__name__
        ask(make(first), out=out)  # type: ignore[operator]
        assert ask(make(first), out=out).complete  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"holds another run: model.template"):
            ask(make(second), out=out)  # type: ignore[operator]


def test_another_adapter_is_another_run_and_an_idle_one_is_not(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="the adapter tests need peft")
    hf, tokenizer = fresh()
    settings = dict(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(hf, peft.LoraConfig(**settings)).eval()
    first = ask(kv.load(adapted, tokenizer), out=tmp_path)
    adapted.add_adapter("b", peft.LoraConfig(**settings))
    assert ask(kv.load(adapted, tokenizer), out=tmp_path).rows.text.tolist() == first.rows.text.tolist()
    adapted.set_adapter("b")
    with pytest.raises(ValueError, match=r"holds another run: model.fingerprint"):
        ask(kv.load(adapted, tokenizer), out=tmp_path)


def test_padding_and_a_name_are_not_part_of_a_run(tmp_path: Path) -> None:
    hf, tokenizer = fresh()
    first = ask(kv.load(hf, tokenizer), out=tmp_path)
    hf.config._name_or_path, tokenizer.padding_side = "elsewhere", "right"
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=2)
    pd.testing.assert_frame_equal(ask(kv.load(hf, tokenizer), out=tmp_path).rows, first.rows)


def make_method(words: str) -> kv.Intervention:
    """A method of the user's own whose code holds what it does."""

    @dataclass(frozen=True)
    class Own(kv.Intervention):
        @property
        def label(self) -> str:
            return "own"

        def chat(self, chat: Any) -> Any:
            return [*chat[:-1], {**chat[-1], "content": chat[-1]["content"] + words}]

    return Own()


def test_the_code_of_an_own_method_is_part_of_a_run(tmp_path: Path, tiny: kv.Model) -> None:
    ask(tiny, methods=[make_method(" Think.")], out=tmp_path)
    assert ask(tiny, methods=[make_method(" Think.")], out=tmp_path).complete
    with pytest.raises(ValueError, match=r"holds another run: .*interventions"):
        ask(tiny, methods=[make_method(" Hurry.")], out=tmp_path)


# --- whatever changes how a text is read ----------------------------------------------------------------------

DIGITS = re.compile(r"\d+")


def first_number(question: Any, text: str) -> str | None:
    found = DIGITS.findall(text)
    return found[0] if found else None


def number_at(question: Any, text: str, place: int = 0) -> str | None:
    found = DIGITS.findall(text)
    return found[place] if found else None


class Reader:
    def __init__(self, place: int) -> None:
        self.place = place

    def __call__(self, question: Any, text: str) -> str | None:
        return number_at(question, text, self.place)

    def read(self, question: Any, text: str) -> str | None:
        return number_at(question, text, self.place)


def closing_over(place: int) -> Any:
    return lambda question, text: number_at(question, text, place)


def with_default(place: int) -> Any:
    def rule(question: Any, text: str, at: int = place) -> str | None:
        return number_at(question, text, at)

    return rule


def made_by_exec(place: int) -> Any:
    space: dict[str, Any] = {"re": re, "__name__": "__main__"}
    exec(f"def rule(question, text):\n    return re.findall('[0-9]+', text + '0')[{place}]", space)
    return space["rule"]


PAIRS = {
    "lambdas of one line": (lambda q, t: None, lambda q, t: (DIGITS.findall(t) or [None])[-1]),
    "closures": (closing_over(0), closing_over(-1)),
    "defaults": (with_default(0), with_default(-1)),
    "partials": (functools.partial(number_at, place=0), functools.partial(number_at, place=-1)),
    "objects that are called": (Reader(0), Reader(-1)),
    "methods": (Reader(0).read, Reader(-1).read),
    "functions without source": (made_by_exec(0), made_by_exec(-1)),
    "methods of patterns": (re.compile("1").match, re.compile("2").match),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_rules_that_read_differently_are_told_apart(pair: tuple[Any, Any]) -> None:
    assert describe(pair[0]) != describe(pair[1])
    assert describe(pair[0]) == describe(pair[0])


def test_a_rule_is_what_it_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe(first_number)
    monkeypatch.setitem(globals(), "DIGITS", re.compile(r"\d"))
    assert describe(first_number) != before
    monkeypatch.undo()
    assert describe(first_number) == before
    inner = describe(closing_over(0))
    monkeypatch.setitem(globals(), "number_at", first_number)
    assert describe(closing_over(0)) != inner


def test_threads_that_describe_one_rule_agree() -> None:
    expected = describe(closing_over(0))
    found: list[Any] = []

    def work() -> None:
        found.extend(describe(closing_over(0)) for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 400


def test_comments_and_the_place_of_a_rule_change_nothing() -> None:
    made = []
    for text in ("def rule(q, t):\n    return t", "\n\n# here\ndef rule(q, t):\n    # the text itself\n    return t"):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(text, space)
        made.append(describe(space["rule"]))
    assert made[0] == made[1]


def task_with(rules: dict[str, Any], answers: list[str] | None = None) -> Any:
    questions = kv.tasks.get("tiny-arithmetic").questions("test", N)
    answers = answers or [q.answer for q in questions]
    frame = pd.DataFrame({"question": [q.text for q in questions], "answer": answers, "split": "test"})
    return kv.tasks.from_frame(frame, name="mine", split="split", extractors=rules)


@pytest.fixture
def idle(tiny: kv.Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the model refuse to generate from now on."""
    return lambda: monkeypatch.setattr(tiny.hf, "generate", None)


def last_number(question: Any, text: str) -> str | None:
    return number_at(question, text, -1)


def test_after_a_rule_was_mended_kept_texts_are_read_again(tmp_path: Path, tiny: kv.Model, idle: Any) -> None:
    broken = task_with({"answer": lambda q, t: None})
    mended = task_with({"answer": last_number, "first": first_number})
    expected = ask(tiny, mended)
    before = ask(tiny, broken, out=tmp_path, chunk_size=1)
    assert not before.rows.correct.any()
    idle()
    with pytest.warns(UserWarning, match=r"have changed since .* the texts in 4 chunks were kept and read again"):
        found = ask(tiny, mended, out=tmp_path)
    assert found.complete and found.rules == ["answer", "first"] and found.rows.read_answer.notna().all()
    same(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(tiny, mended, out=tmp_path).complete, "and only once"


def test_after_a_gold_answer_was_mended_kept_texts_are_judged_again(tmp_path: Path, tiny: kv.Model, idle: Any) -> None:
    wrong = ask(tiny, task_with({"answer": last_number}, ["77"] * N), out=tmp_path)
    assert not wrong.rows.correct.any()
    idle()
    said = wrong.rows.read_answer[0]
    with pytest.warns(UserWarning, match="gold answers"):
        right = ask(tiny, task_with({"answer": last_number}, [said] * N), out=tmp_path)
    assert right.rows.correct[0] and (right.rows.correct == (right.rows.read_answer == said)).all()


def test_an_unfinished_run_is_read_again_and_goes_on(tmp_path: Path, tiny: kv.Model) -> None:
    ask(tiny, task_with({"answer": first_number}), out=tmp_path, chunk_size=1, shard="1/2")
    mended = task_with({"answer": last_number})
    with pytest.warns(UserWarning, match="the texts in 2 chunks were kept"):
        found = ask(tiny, mended, out=tmp_path)
    same(found, ask(tiny, mended))


def test_a_rule_that_cannot_be_identified_reads_again_every_time(tmp_path: Path, tiny: kv.Model, idle: Any) -> None:
    reads = iter("ab")
    task = task_with({"answer": functools.partial(lambda source, q, t: now[0], object())})
    now = [next(reads)]
    assert set(ask(tiny, task, out=tmp_path).rows.read_answer) == {"a"}
    idle()
    now[0] = next(reads)
    assert set(ask(tiny, task, out=tmp_path).rows.read_answer) == {"b"}


def test_multiple_choice_is_read_again_from_the_kept_letters(tmp_path: Path, tiny: kv.Model, idle: Any) -> None:
    questions = kv.tasks.get("tiny-tracking").questions("test", N)
    table = {"question": [q.text for q in questions], "answer": [q.answer for q in questions], "split": "test"}
    frame = pd.DataFrame({**table, "choices": [dict(q.choices) for q in questions]})

    def task(rule: Any) -> Any:
        return kv.tasks.from_frame(frame, name="mine", split="split", choices="choices", extractors={"answer": rule})

    ask(tiny, task(lambda q, t: "A"), out=tmp_path)
    expected = ask(tiny, task(lambda q, t: None))
    idle()
    with pytest.warns(UserWarning, match="read again"):
        found = ask(tiny, task(lambda q, t: None), out=tmp_path)
    assert found.rows.choice_forced.all() and found.rows.read_answer.tolist() == expected.rows.by_likelihood.tolist()


def test_shards_read_by_different_rules_are_joined_once_both_are_read_again(tmp_path: Path, tiny: kv.Model) -> None:
    old, new = task_with({"answer": first_number}), task_with({"answer": last_number})
    ask(tiny, old, out=tmp_path / "1", chunk_size=2, shard="1/2")
    ask(tiny, new, out=tmp_path / "2", chunk_size=2, shard="2/2")
    with pytest.raises(ValueError, match="were read with other rules"):
        kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    with pytest.warns(UserWarning, match="read again"):
        ask(tiny, new, out=tmp_path / "1", shard="1/2")
    assert kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole").complete


@pytest.mark.parametrize(("read", "kept"), [(18, "18"), (None, None), ("18", "18")])
def test_a_whole_number_that_a_rule_reads_is_text(tmp_path: Path, tiny: kv.Model, read: Any, kept: Any) -> None:
    task = task_with({"answer": lambda q, t: read if len(t) % 2 else None})
    memory, disk = ask(tiny, task), ask(tiny, task, out=tmp_path, chunk_size=1)
    assert set(disk.rows.read_answer.dropna()) <= {kept} and Run.load(tmp_path).complete
    same(disk, memory)


@pytest.mark.parametrize("read", [1.5, True, ["18"], b"18"])
def test_what_is_no_text_is_refused(tiny: kv.Model, read: Any) -> None:
    with pytest.raises(
        ValueError, match=r"The rule 'answer' read .*; a rule that reads answers returns a text, or None"
    ):
        ask(tiny, task_with({"answer": lambda q, t: read}))
