"""Texts in everything that is shown: what is seen is what was written, and nothing in it acts."""

from __future__ import annotations

import ast
import html
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from nasty import NASTY, made_up, seen_in_html, tags_in_html
from timing import takes_less_than

import kvsteer_lab as kv
from kvsteer_lab._util.html import table_html
from kvsteer_lab._util.pair_html import pair_html
from kvsteer_lab._util.text import for_attribute, for_html, visible
from kvsteer_lab.generation.outputs import Generation, Generations

STRINGS = [*NASTY, *made_up(60)]
WHOLE = [string for string in STRINGS if not re.search("[\ud800-\udfff]", string)]
"""Those that tables of pandas can hold."""


@pytest.mark.parametrize("string", STRINGS)
def test_text_in_html_is_seen_and_nothing_else(string: str) -> None:
    assert seen_in_html(for_html(string)) == visible(string) and tags_in_html(for_html(string)) == []
    assert html.unescape(for_attribute(string)) == visible(string) and '"' not in for_attribute(string)


def test_dollars_of_a_task_are_no_formula() -> None:
    shown = for_html("$2 each, so she makes $18")
    assert shown == "<span>&#36;</span>2 each, so she makes <span>&#36;</span>18"
    assert for_html("plain 'text' & more") == html.escape("plain 'text' & more"), (
        "most texts need no more than escaping"
    )


@pytest.mark.parametrize("string", STRINGS)
def test_generations(string: str) -> None:
    def shown(text: str) -> str:
        row = Generation(0, text, 0, text, (1,), "length", text)
        return (
            Generations((row,), (text,))._repr_html_()
            + Generations((row,), ([{"role": "user", "content": text}],))._repr_html_()
        )

    assert seen_in_html(shown(string)).count(visible(string)) >= 8 - 2 * (string == "")
    assert tags_in_html(shown(string)) == tags_in_html(shown("x"))


@pytest.mark.parametrize("string", STRINGS)
def test_a_pair(string: str) -> None:
    for positive, negative in ((string, f"{string}!"), (f"a {string}", string), (string, string)):
        seen = seen_in_html(pair_html(positive, negative, None))
        assert all(
            visible(text).replace("\n", "") in seen.replace("\n", "").replace("↵", "") for text in (positive, negative)
        )
        assert set(tags_in_html(pair_html(positive, negative, None))) <= {"p", "span", "table", "tr", "th", "td"}


@pytest.mark.parametrize("string", WHOLE)
def test_tables(string: str) -> None:
    written = visible(string).replace("\n", "\\n").replace("\t", "\\t")  # as pandas writes them
    for table in (
        pd.DataFrame({string or "a": [string]}, index=[string]),
        pd.DataFrame({"a": [string, None], "n": [0.5, 2]}),
    ):
        for make in (table_html, lambda table: kv.readable(table)._repr_html_().rpartition("</style>")[2]):
            with pd.option_context("display.max_colwidth", None):
                assert written in seen_in_html(make(table))
                assert set(tags_in_html(make(table))) <= {"table", "thead", "tbody", "tr", "th", "td"}


def test_tables_of_texts_are_guarded_too() -> None:
    row = Generation(0, "baseline", 0, "$2, so $18", (1,))
    shown = Generations((row,), ("$5?",)).to_frame()
    assert "<span>&#36;</span>2, so <span>&#36;</span>18" in shown._repr_html_()
    assert isinstance(shown, pd.DataFrame) and list(shown.text) == ["$2, so $18"]


def test_a_readable_table_stays_guarded_and_looks_as_pandas_draws_it() -> None:
    table = kv.readable(pd.DataFrame({"text": ["a", "b $1 $2"], "p": [0.5, 1e-5]}))
    assert "<span>&#36;</span>1" in table.tail(1)._repr_html_() and "<span>" not in table.head(1)._repr_html_()
    plain = pd.DataFrame(table.head(1))
    assert type(plain) is pd.DataFrame and plain._repr_html_() == table.head(1)._repr_html_()


@pytest.mark.parametrize("string", ["$2, $18 and <b>", "_x_ \\(a\\)", "\x1b[31m"])
def test_results(string: str) -> None:
    rows = pd.DataFrame(
        [
            dict(
                question=f"q{q}",
                intervention=label,
                sample=0,
                control_of=None,
                control_kind=None,
                text=string,
                forced="",
                closing="",
            )
            | dict(
                finish_reason="eos",
                tokens=3,
                gold="1",
                read_answer="1",
                choice_forced=False,
                correct=True,
                style="other",
                reasoned=False,
            )
            | dict(repetition=0.0, by_main="1")
            for q in range(2)
            for label in ("baseline", string)
        ]
    )
    shown = kv.Results(rows, {"task": "t"})._repr_html_()
    assert visible(string) in seen_in_html(shown)
    assert set(tags_in_html(shown)) <= {"table", "thead", "tbody", "tr", "th", "td"}


def test_one_place_escapes_text() -> None:
    """No other file of the package imports the standard library's `html`."""
    root = Path(kv.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name == "html" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "html" and not node.level)
    }
    assert found == {"_util/text.py"}
    sources = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert [name for name, source in sources.items() if ".to_html(" in source] == ["_util/html.py"]


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_words_of_one_side_are_marked_and_the_last_token_is_framed() -> None:
    shown = pair_html("Why? Because.\nA:", "Why?\nA:", ":")
    only = "<span style='background:#e69f0055;'> Because.</span>"
    last = "<span style='outline:2px solid #0072b2;' title='extracted'>:</span>"
    assert shown.count(only) == 1 and shown.count(last) == 2
    assert shown.count("outline") == 3, "the third is the key"


def test_a_last_token_that_one_side_alone_has_is_framed_on_both() -> None:
    assert pair_html("a b", "a c", None).count("title='extracted'") == 2
    assert pair_html("", "a", None).count("title='extracted'") == 1


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("word " * 20_000, "word " * 19_000),
        ("a b " * 10_000 + "end", "b a " * 10_000 + "end"),
        ("a\nb\n" * 10_000, "b\na\n" * 10_000),
        ("\n" * 20_000, " \n" * 20_000),
    ],
    ids=["one word", "two words", "two lines", "empty lines"],
)
def test_long_prompts_are_compared_in_time(positive: str, negative: str) -> None:
    assert takes_less_than(5, lambda: pair_html(positive, negative, None))
    shown = pair_html(positive, negative, None)
    assert len(seen_in_html(shown)) >= len(positive) + len(negative)


def test_of_long_prompts_lines_are_compared_before_words() -> None:
    same = "".join(f"Question {i}: {'one two three ' * 60}\n" for i in range(40))
    positive, negative = same.replace("Question 7:", "Question seven:"), same.replace("three \n", "four \n")
    shown = pair_html(positive, negative, None)
    assert "background:#e69f0055;'>seven</span>" in shown and shown.count("background") < 200


def test_a_pair_of_a_set_is_shown(model: kv.Model) -> None:
    pairs = kv.ContrastiveSet.from_chats(
        [
            [
                {"role": "user", "content": "$2 <b>"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "?"},
            ]
        ],
        [
            [
                {"role": "user", "content": "$2 <b>"},
                {"role": "assistant", "content": "$18"},
                {"role": "user", "content": "?"},
            ]
        ],
        model.tokenizer,
    )
    seen = seen_in_html(pairs._repr_html_())
    assert "$2 <b>" in seen and "$18" in seen
    assert replace(pairs).show(0).text == pairs._repr_html_()
