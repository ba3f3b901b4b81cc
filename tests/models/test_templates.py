"""Templates set at loading: plain text for base models, and arguments of a model's own template."""

from __future__ import annotations

from typing import Any

import pytest
from random_models import build
from random_models import tokenizer as make_tokenizer

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.models.prompts import render, template_hash
from kvsteer_lab.models.templates import PlainTemplate, with_template

USER = {"role": "user", "content": "2 + 2?"}
PLAIN = kv.PlainTemplate("Question: {q}\nAnswer:")
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def base() -> kv.Model:
    """A model whose tokenizer has no chat template."""
    return kv.load(build("llama"), make_tokenizer(template=None), template=PLAIN)


@pytest.mark.parametrize(
    ("chat", "text"),
    [
        ([USER], "Question: 2 + 2?\nAnswer:"),
        (
            [USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3 + 3?"}],
            "Question: 2 + 2?\nAnswer: 4\n\nQuestion: 3 + 3?\nAnswer:",
        ),
        ([{"role": "system", "content": "Be brief."}, USER], "Be brief.\n\nQuestion: 2 + 2?\nAnswer:"),
        ([USER, {"role": "assistant", "content": "It is"}], "Question: 2 + 2?\nAnswer: It is"),
    ],
)
def test_plain_text(chat: Any, text: str, base: kv.Model) -> None:
    assert render(base.tokenizer, chat) == text


def test_odd_texts_are_written_as_they_are() -> None:
    odd = kv.PlainTemplate("'{{x}}' {% \"{q}\" \\n %}\t→\n>> ", between="\n#\n")
    chat = [{"role": "user", "content": "{{ 7 * 7 }} {% raw %}"}, {"role": "assistant", "content": "so"}, USER]
    text = render(odd.on(make_tokenizer(template=None)), chat)
    shown = "'{{x}}' {% \"{q}\" \\n %}\t→\n>> "
    assert text == shown.replace("{q}", chat[0]["content"]) + "so\n#\n" + shown.replace("{q}", "2 + 2?")


@pytest.mark.parametrize("text", ["Question:", "{q} {q}"])
def test_the_question_stands_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs \{q\} exactly once"):
        PlainTemplate(text)


def test_a_base_model_works_throughout(base: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, base.tokenizer, style="stepwise", n=4, shots=2)
    assert pairs.positive[0].startswith("Question: ") and pairs.positive[0].endswith("\nAnswer:")
    vectors = kv.extract(base, pairs, progress=False)
    methods = [kv.Nothing(), kv.CoTPrompt(), kv.FewShot.of_style(task, "direct", 2), kv.CacheSteering(vectors, 0, 1)]
    short = {"max_new_tokens": 4}
    results = kv.evaluate(base, task, methods, n=3, generation=short, progress=False)
    assert len(results.rows) == 15 and set(results.rows.intervention) > {"CoT prompt", "2-shot direct"}
    search = kv.CacheSearch(vectors, key_shares=(0,))
    tuning = kv.tune(base, task, search, cells=3, extensions=0, n=4, generation=short, progress=False)
    assert len(tuning.cells) == 3
    assert template_hash(base.tokenizer) != template_hash(kv.PlainTemplate("{q}").on(base.tokenizer))


def test_without_a_template_the_remedy_is_named() -> None:
    bare = kv.load(build("llama"), make_tokenizer(template=None))
    task = kv.tasks.get("tiny-arithmetic")
    for use in (
        lambda: kv.evaluate(bare, task, [kv.Nothing()], n=1, progress=False),
        lambda: kv.ContrastiveSet.few_shot(task, bare.tokenizer, style="stepwise", n=2, shots=1),
        lambda: kv.generate(bare, "2 + 2?"),
    ):
        with pytest.raises(ValueError, match=r"template=kv\.PlainTemplate\('Question: \{q\}\\nAnswer:'\)"):
            use()


def test_the_command_line_takes_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "2 + 2?", "--template", "Question: {q}\\nAnswer:", "--max-new-tokens", "5"])
    model = kv.load("tiny", template=PLAIN)
    assert capsys.readouterr().out.strip() == kv.generate(model, "2 + 2?", generation={"max_new_tokens": 5}).texts[0]
    with pytest.raises(SystemExit, match=r"kvsteer: The template 'Question:' needs \{q\} exactly once"):
        main(["generate", "2 + 2?", "--template", "Question:"])


# --- arguments ------------------------------------------------------------------------------------------------


def test_thinking_is_switched_off() -> None:
    tokenizer = make_tokenizer(template=THINKING)
    plain = kv.load(build("llama"), tokenizer)
    quiet = kv.load(build("llama"), tokenizer, template_arguments={"enable_thinking": False})
    loud = kv.load(build("llama"), tokenizer, template_arguments={"enable_thinking": True})
    assert render(quiet.tokenizer, [USER]) == render(plain.tokenizer, [USER]) + "<think></think>\n"
    assert render(loud.tokenizer, [USER]) == render(plain.tokenizer, [USER])
    assert len({template_hash(m.tokenizer) for m in (plain, quiet, loud)}) == 3, "it is part of a run's identity"
    assert tokenizer.chat_template == THINKING
    pairs = kv.ContrastiveSet.from_chats([[USER]], [[{"role": "user", "content": "3?"}]], quiet.tokenizer)
    assert pairs.positive[0].endswith("<think></think>\n")


@pytest.mark.parametrize("value", ['it\'s {{ x }} %} "so"', 3, 2.5, None, True, ["a", 1], {"a": {"b": False}}])
def test_arguments_of_any_kind(value: Any) -> None:
    tokenizer = with_template(make_tokenizer(), "{{ thing | tojson }}{{ messages[0]['content'] }}", {"thing": value})
    rendered = tokenizer.apply_chat_template([USER], tokenize=False)
    wanted = make_tokenizer(template="{{ thing | tojson }}{{ messages[0]['content'] }}").apply_chat_template(
        [USER], tokenize=False, thing=value
    )
    assert rendered == wanted


def test_arguments_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="The chat template doesn't use 'enable_thinking', so this argument would"):
        kv.load(build("llama"), make_tokenizer(), template_arguments={"enable_thinking": False})
    with pytest.raises(ValueError, match="no chat template that could take arguments"):
        kv.load(build("llama"), make_tokenizer(template=None), template_arguments={"x": 1})
    with pytest.raises(ValueError, match=r"The template argument m is <object .*; it must be text, a number"):
        with_template(make_tokenizer(), "{{ m }}", {"m": object()})


def test_a_template_in_jinja() -> None:
    model = kv.load(build("llama"), make_tokenizer(), template="{{ messages[-1]['content'] }}!")
    assert render(model.tokenizer, [USER]) == "2 + 2?!"
