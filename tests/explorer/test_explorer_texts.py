"""What models, tasks and readers wrote is shown in the explorer as it was written, and copied code stays code."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as w
import pytest
from explorer_bench import Made, said, walk
from nasty import NASTY, made_up, seen_in_html, tags_in_html

import kvsteer_lab as kv
from kvsteer_lab._util.text import visible
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.attention import ArmAttention, LayerAttention
from kvsteer_lab.explorer.results.comparison import Asked, Compared, Comparison, Likely, Measured
from kvsteer_lab.explorer.results.sweep import Cell, Grid, Sweep, Text
from kvsteer_lab.explorer.results.verdict import Verdict
from kvsteer_lab.explorer.state import ExplorerState
from kvsteer_lab.explorer.views import markup
from kvsteer_lab.explorer.views.alternatives import alternatives_html
from kvsteer_lab.explorer.views.mixing import Mixing
from kvsteer_lab.explorer.views.prompt_strip import prompt_html
from kvsteer_lab.explorer.views.verdicts import verdicts_html
from kvsteer_lab.explorer.work.snippet import write_code
from kvsteer_lab.generation.outputs import Generation

VERDICT: dict[str, Any] = dict(style="other", reasoned=False, tokens=3, cut=True, loop=False, repetition=0.0)


def compared(text: str) -> Compared:
    pieces = tuple(text)
    numbers = tuple(0.5 for _ in pieces)
    likely = ((Likely(text, 0.5, 0.1),),)
    verdict = VERDICT | dict(style=text, answer=text, gold=text, correct=False)
    row = Generation(0, "cache steering", 0, text, (1,) * len(pieces), "length", text)
    return Compared("cache steering", row, verdict, Measured(pieces, numbers, numbers, numbers, likely))


def cell(made: Made, text: str) -> str:
    steering = kv.CacheSteering(made.vectors["stepwise"], 0, 1)
    grid = Grid("", "", "", ("a",), ("b",), (Cell(0, 0, steering, {}),))
    own = Text(Asked(text), compared(text).generation, VERDICT)
    sweep = Sweep(ExplorerState(), grid, (own.asked,), (own,), {(0, 0): (own,)})
    return markup.cell_html(sweep, grid.cells[0], (own,))


VIEWS: dict[str, Callable[[Made, str], str]] = {
    "note": lambda made, text: markup.note(text),
    "status": lambda made, text: markup.status(text, error=True),
    "question": lambda made, text: markup.question_html(text),
    "arm": lambda made, text: markup.arm_html("cache steering", text),
    "tokens": lambda made, text: markup.tokens_html(compared(text)),
    "facts": lambda made, text: markup.facts_html(compared(text)),
    "next tokens": lambda made, text: alternatives_html(
        Comparison(ExplorerState(), Asked(text), (compared(text),)), "cache steering", 1
    ),
    "prompt": lambda made, text: prompt_html([text, "x"], -1, [text, text]),
    "verdict": lambda made, text: verdicts_html([Verdict("cache steering", 1, ("a", text), (0.5, 0.1), (0.2, 0.6))]),
    "attention": lambda made, text: markup.attention_html(
        [ArmAttention(text, 2, (LayerAttention(0, 0.1, 0.2, 0.3, 1, 0.4),))]
    ),
    "cell": cell,
}


@pytest.mark.parametrize("n", [20, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_texts_as_they_were_written(view: str, n: int, made: Made) -> None:
    for text in [*NASTY, *made_up(n)]:
        shown = VIEWS[view](made, text)
        seen = visible(text, one_line=view in ("next tokens", "prompt", "verdict"))
        assert seen.replace("_", " ") in seen_in_html(shown).replace("_", " "), text
        if view != "tokens":  # where each has an element of its own
            assert tags_in_html(shown) == tags_in_html(VIEWS[view](made, "x"))


def test_the_page_of_an_explorer_shows_nasty_texts(explorer: Explorer) -> None:
    text = "$2 each, so she makes $18 <b>\\(x\\) \x1b[31m"
    explorer.set(task=None, prompt=text, prefix="$<i>", cot=text, arms=("baseline", "forced prefix", "CoT prompt"))
    assert "Done" in said(explorer)
    explorer.set(mix={text: 1.0})
    assert "called '$2 each, so she makes $18 <b>" in seen_in_html(explorer.page.controls.dose.html.value)
    assert explorer.comparison is not None and explorer.wait()
    styles = 0
    for widget in walk(explorer.page.ui):
        if isinstance(widget, w.HTML):
            style, _, shown = widget.value.rpartition("</style>")
            styles += bool(style)
            assert "\x1b" not in seen_in_html(shown) and "i" not in tags_in_html(shown)
    assert styles == 1


def test_names_of_vectors_are_no_formulas_beside_their_weights() -> None:
    names = ["$a$ and $b$ <b>", "\\(c\\)"]
    changed: list[Any] = []
    mixing = Mixing(lambda name, value: changed.append((name, value)))
    mixing.show(ExplorerState(mix={names[0]: 0.5, names[1]: 1.0}), names)
    for name, field in zip(names, mixing.weights.children, strict=True):
        assert field.description_allow_html and seen_in_html(field.description) == name
        assert tags_in_html(field.description) == []
    mixing.weights.children[0].value = 2.0
    assert changed == [("mix", {names[0]: 2.0, names[1]: 1.0})]


# --- copied code ---------------------------------------------------------------------------------------------------

BREAKS_OUT = "folder\nimport os; os.system('echo broken out')  #"


def statements(code: str) -> list[str]:
    return [type(node).__name__ for node in ast.parse(code).body]


@pytest.mark.parametrize("name", [BREAKS_OUT, "a\rb", "a\u2028b", *NASTY])
def test_a_models_name_does_not_break_out_of_its_comment(name: str, made: Made) -> None:
    workspace, state = made.workspace(), made.state(arms=("baseline",))
    code = {}
    for each in ("plain", name):
        workspace.model = replace(made.model, name=each, call=None)
        code[each] = write_code(workspace, state)
    assert statements(code[name]) == statements(code["plain"])
    assert f"# {visible(name, one_line=True)}" in code[name].splitlines()[2]


@pytest.mark.parametrize("text", [BREAKS_OUT, *(text for text in NASTY if "\ud83d" not in text)])
def test_texts_do_not_break_out_of_their_quotation_marks(text: str, made: Made) -> None:
    workspace = made.workspace()
    workspace.vectors[text] = workspace.vectors["stepwise"]
    workspace.sources[text] = text
    state = made.state(task=None, prompt=text, mix={text: 1.0}, cot=text, prefix=text, offset=text)
    plain = made.state(task=None, prompt="x", mix={"stepwise": 1.0}, offset=" ")
    code = write_code(workspace, state)
    assert set(statements(code)) <= {*statements(write_code(workspace, plain)), "Assign"}
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert strings.count(text) >= 4


def test_a_reason_why_there_is_no_code_is_one_comment(explorer: Explorer) -> None:
    explorer.set(mix={BREAKS_OUT: 1.0})
    code = explorer.page.keep.code.code
    assert ast.parse(code).body == [] and code.startswith("# There are no vectors called") and "\n" not in code


# --- forced words --------------------------------------------------------------------------------------------------


def test_forced_words_and_what_follows_keep_the_space_between_them() -> None:
    """SentencePiece drops the space before the first word that it decodes."""
    import threading

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from kvsteer_lab.explorer.work.measuring import measure_rows
    from kvsteer_lab.generation.rows import make_rows

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False)
    made.train_from_iterator(["The answer is 18 ."] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = kv.load(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)), tokenizer)
    prompt = model.encode("The answer", chat=False)
    (row,) = make_rows(model, kv.ForcedPrefix("The answer is"), [prompt], 2)
    (plain,) = make_rows(model, kv.Nothing(), [prompt], 2)
    target = tokenizer("The answer is 18 .", add_special_tokens=False).input_ids[len(row.forced) :]
    ((_, measured),) = [
        found for part in measure_rows(model, [(row, plain)], [target], threading.Event()) for found in part
    ]
    assert tokenizer.decode(row.forced) + "".join(measured.pieces) == "The answer is 18 ."
    likely = {token.token for token in measured.likely[0]}
    assert likely & {" answer", " is", " 18", " ."} or not likely & {"answer", "is", "18", "."}
