"""Contrastive sets: what the two sides share, what they don't, and their file."""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab import tasks
from kvsteer_lab.models.prompts import render, template_hash
from kvsteer_lab.models.tokens import encode
from kvsteer_lab.tasks.base import Chat, Question


def few_shot(tokenizer: Any, **settings: Any) -> kv.ContrastiveSet:
    return kv.ContrastiveSet.few_shot(Toy(), tokenizer, **{"style": "stepwise", "n": 8, "shots": 3, **settings})


def test_a_pair_differs_in_how_its_examples_answer_and_in_nothing_else(tokenizer: Any) -> None:
    pairs = few_shot(tokenizer)
    assert len(pairs) == 8
    for positive, negative in pairs:
        assert positive != negative
        assert positive.count("Step 1:") == 3 and "Step 1:" not in negative
        for text in (positive, negative):
            assert text.count("How many legs") == 4 and text.endswith("<|im_start|>assistant\n")
        by_steps = [line.partition(". ")[2] if line.startswith("Step 1") else line for line in positive.splitlines()]
        assert by_steps == negative.splitlines()


def test_the_asked_question_is_not_among_the_examples_and_each_pair_asks_another(tokenizer: Any) -> None:
    for select in ("random", "nearest", "shared"):
        pairs = few_shot(tokenizer, select=select, n=20)
        asked = []
        for positive, _ in pairs:
            questions = [line for line in positive.splitlines() if line.startswith("How many")]
            questions = [q.removesuffix("<|im_end|>") for q in questions]
            assert len(set(questions)) == 4
            asked.append(questions[-1])
        assert len(set(asked)) == 20
        assert pairs.recipe["questions"] == [f"toy/{q.split()[4]}" for q in asked]


def test_nearest_examples_are_those_with_the_same_words(tokenizer: Any) -> None:
    def alike(pairs: kv.ContrastiveSet) -> float:
        shares = []
        for positive, _ in pairs:
            animals = [line.split()[-1] for line in positive.splitlines() if line.startswith("How many")]
            shares.append(sum(a.startswith(animals[-1].split("<")[0]) for a in animals[:-1]) / 3)
        return sum(shares) / len(shares)

    assert alike(few_shot(tokenizer, select="nearest", n=20)) == 1.0
    assert alike(few_shot(tokenizer, select="random", n=20)) < 0.7


def test_shared_examples_stand_first_in_all_prompts_of_a_side_and_are_asked_in_none(tokenizer: Any) -> None:
    pairs = few_shot(tokenizer, select="shared", n=57)
    for side in (pairs.positive, pairs.negative):
        opening = _opening(side)
        assert opening.count("How many legs") >= 3, "the three examples, and what all questions begin with"
        examples = {line.split()[4] for line in opening.splitlines()[:-1] if line.startswith("How many")}
        assert len(examples) == 3
        assert not examples & {str(question).removeprefix("toy/") for question in pairs.recipe["questions"]}
    other = few_shot(tokenizer, select="shared", n=57, seed=1)
    assert _opening(other.positive) != _opening(pairs.positive)


def _opening(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    same = [len(set(letters)) == 1 for letters in zip(*texts, strict=False)]
    return texts[0][: [*same, False].index(False)]


def test_a_seed_fixes_questions_and_examples(tokenizer: Any) -> None:
    assert few_shot(tokenizer, seed=4) == few_shot(tokenizer, seed=4)
    assert few_shot(tokenizer, seed=4).positive != few_shot(tokenizer, seed=5).positive


def test_the_recipe_says_how_it_was_made(tokenizer: Any) -> None:
    pairs = few_shot(tokenizer, seed=2, select="nearest", against="direct")
    assert {k: v for k, v in pairs.recipe.items() if k != "questions"} == dict(
        task="toy", style="stepwise", against="direct", shots=3, select="nearest", seed=2
    )
    assert pairs.template_hash == template_hash(tokenizer) and len(str(pairs.template_hash)) == 16
    assert pairs.last_token == "\n"
    assert "8 pairs" in repr(pairs) and "toy/" not in repr(pairs)


def test_every_style_against_every_other_on_the_bundled_task(tiny: kv.Model) -> None:
    task = tasks.get("tiny-arithmetic")
    for style in task.styles[1:]:
        pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style=style, n=2, shots=2)
        assert all(p != q and p.splitlines()[-2] == q.splitlines()[-2] for p, q in pairs)


def test_chats_are_rendered_and_texts_are_verbatim(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "the fox"}]
    rendered = kv.ContrastiveSet.from_chats([chat], [[*chat[:0], {"role": "user", "content": "the dog"}]], tokenizer)
    assert rendered.positive == (render(tokenizer, chat),) and rendered.negative[0].count("the dog") == 1
    verbatim = kv.ContrastiveSet.from_texts(["  the fox "], ["the dog\n"])
    assert verbatim.positive == ("  the fox ",) and verbatim.negative == ("the dog\n",)
    assert verbatim.template_hash is None and verbatim.last_token is None


def test_a_slice_is_a_set_of_its_own(tokenizer: Any) -> None:
    pairs = few_shot(tokenizer)
    part = pairs[2:5]
    assert list(part) == list(pairs)[2:5] and part.recipe["questions"] == pairs.recipe["questions"][2:5]
    with pytest.raises(TypeError, match="with a slice"):
        pairs[0]  # type: ignore[index]
    with pytest.raises(ValueError, match="set is empty"):
        pairs[8:]


def test_save_and_load(tokenizer: Any, tmp_path: Path) -> None:
    pairs = few_shot(tokenizer)
    path = pairs.save(tmp_path / "deep" / "pairs.jsonl")
    assert kv.ContrastiveSet.load(path) == pairs
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 9 and lines[3]["positive"] == pairs.positive[2]
    odd = kv.ContrastiveSet.from_texts(["日本\n\u2028x"], ["ä\x85b"])
    assert kv.ContrastiveSet.load(odd.save(tmp_path / "odd.jsonl")) == odd, (
        "line separators inside a text don't end a line"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "8 pairs announced, 7 found"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "is not a complete contrastive set"),
        (lambda lines: lines[1:], "is not a complete contrastive set"),
        (lambda lines: ["[1, 2]"], "is not a complete contrastive set"),
        (lambda lines: [], "is not a complete contrastive set"),
        (lambda lines: ["[" * 100_000, *lines[1:]], "line 1 can't be read as JSON: it has more than 100 levels"),
        (lambda lines: [*lines[:-1], '{"positive": 1, "negative": "a"}'], "positive: Input should be a valid string"),
        (lambda lines: [lines[0].replace('"n": 8', '"n": "8"'), *lines[1:]], "n: Input should be a valid integer"),
        (lambda lines: [*lines[:-1], '{"positive": "\\ud83d", "negative": "a"}'], "line 9 .* half of a surrogate pair"),
        (lambda lines: ["\x00\x01"], "is not a complete contrastive set"),
        (
            lambda lines: [lines[0].replace("contrastive_set.1", "contrastive_set.9"), *lines[1:]],
            "is not a complete contrastive set",
        ),
    ],
)
def test_a_truncated_or_foreign_file_is_refused(change: Any, message: str, tokenizer: Any, tmp_path: Path) -> None:
    path = few_shot(tokenizer).save(tmp_path / "pairs.jsonl")
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{message}.*save it again with ContrastiveSet\.save"):
        kv.ContrastiveSet.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no contrastive set at"):
        kv.ContrastiveSet.load(tmp_path / "none.jsonl")


def test_the_view_shows_what_differs_and_what_is_extracted(tokenizer: Any) -> None:
    html = few_shot(tokenizer).show(3)._repr_html_()
    assert html.count("title='extracted'") == 2 and "↵" in html
    assert "<|im_start|>" not in html and "&lt;|im_start|&gt;" in html, "special tokens are escaped"
    marked = "<span style='background"
    left, right = html.partition("<tr><td")[2].split("</td><td", 1)
    assert marked in left and "Step" in left and "Step" not in right
    with pytest.raises(ValueError, match="There is no pair 8; this set has pairs 0 to 7"):
        few_shot(tokenizer).show(8)


# --- bad input ------------------------------------------------------------------------------------------------


def test_empty_or_unequal_sides_are_refused(tokenizer: Any) -> None:
    make = kv.ContrastiveSet.from_texts
    with pytest.raises(ValueError, match="The contrastive set is empty; it needs at least one pair"):
        make([], [])
    with pytest.raises(ValueError, match="The sides are unequal: 2 positive and 1 negative prompts; pairs need both"):
        make(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="The negative prompt of pair 1 is empty; every prompt needs some text"):
        make(["a", "b"], ["c", ""])
    with pytest.raises(ValueError, match="Pass two lists of texts, not two strings"):
        make("a", "b")
    with pytest.raises(ValueError, match="The contrastive set is empty"):
        kv.ContrastiveSet.from_chats([], [], tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n and shots must be at least 1, not 0 and 3"),
        ({"shots": 0}, "n and shots must be at least 1, not 8 and 0"),
        ({"select": "best"}, "select='best' is unknown; choose 'random', 'nearest' or 'shared'"),
        ({"n": 61}, "Task 'toy' has 60 questions for extraction, too few for 61 pairs with 3 shots"),
        ({"n": 58, "select": "shared"}, "too few for 58 pairs with 3 shots of their own"),
        ({"shots": 60}, "too few for 8 pairs with 60 shots"),
        ({"style": "analogical"}, "Task 'toy' has no replies in style 'analogical'; choose one of: direct, stepwise"),
        ({"against": "rude"}, "no replies in style 'rude'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        few_shot(tokenizer, **settings)


def test_sets_are_frozen(tokenizer: Any) -> None:
    pairs = few_shot(tokenizer)
    with pytest.raises(AttributeError):
        pairs.positive = ()  # type: ignore[misc]
    assert replace(pairs, last_token="x").last_token == "x"


# --- which examples -------------------------------------------------------------------------------------------


class Encoder(types.ModuleType):
    """Stands in for sentence-transformers: texts are alike if their numbers are."""

    asked: ClassVar[list[str]] = []

    class SentenceTransformer:
        def __init__(self, name: str) -> None:
            Encoder.asked.append(name)

        def encode(self, texts: list[str], normalize_embeddings: bool) -> np.ndarray:
            assert normalize_embeddings
            angles = np.array([float(re.findall(r"\d+", t)[0]) for t in texts]) / 100
            return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def numbers(prompt: str) -> list[int]:
    return [int(n) for n in re.findall(r"How many legs have (\d+)", prompt)]


def test_a_sentence_encoder_may_tell_what_is_near(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", Encoder("sentence_transformers"))
    pairs = few_shot(tokenizer, select="nearest", encoder="some/encoder", n=20)
    assert Encoder.asked == ["some/encoder"] and pairs.recipe["encoder"] == "some/encoder"
    for prompt in pairs.positive:
        *shown, asked = numbers(prompt)
        distances = [abs(n - asked) for n in shown]
        assert distances == sorted(distances, reverse=True) and max(distances) <= 3, (
            "the nearest three, the nearest last"
        )


def test_an_encoder_that_is_not_installed_or_not_used_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        ValueError,
        match=(
            "encoder='x' needs the package sentence-transformers: pip install sentence-transformers, or leave it out"
            " for TF-IDF"
        ),
    ):
        few_shot(tokenizer, select="nearest", encoder="x")
    with pytest.raises(ValueError, match="encoder='x' does nothing for examples at random; pass select='nearest', too"):
        few_shot(tokenizer, encoder="x")


class Uneven(Toy):
    """The same questions; every third has a reply that is very long."""

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        made = super().questions(split, n, seed)
        return [
            (
                replace(q, replies={**q.replies, "stepwise": q.replies["stepwise"] + 40 * " and so on"})
                if i % 3 == 0
                else q
            )
            for i, q in enumerate(made)
        ]


def lengths(pairs: kv.ContrastiveSet, tokenizer: Any) -> list[int]:
    return [max(len(encode(tokenizer, text)) for text in pair) for pair in pairs]


@pytest.mark.parametrize("select", ["random", "nearest"])
def test_prompts_are_kept_within_a_length_by_shorter_examples(select: str, tokenizer: Any) -> None:
    def make(most: int | None) -> kv.ContrastiveSet:
        return kv.ContrastiveSet.few_shot(
            Uneven(), tokenizer, style="stepwise", n=20, shots=3, select=select, max_prompt_tokens=most
        )

    free = make(None)
    longest = max(lengths(free, tokenizer))
    assert list(make(longest)) == list(free), "a bound that binds nowhere changes nothing"
    assert make(longest).recipe["pairs_changed"] == 0
    short = [n for n, prompt in zip(lengths(free, tokenizer), free.positive, strict=True) if "and so on" not in prompt]
    bound = max(short) + 5 if short else 400
    kept = make(bound)
    assert max(lengths(kept, tokenizer)) <= bound < longest
    assert (
        kept.recipe["pairs_changed"] == sum("and so on" in p for p in free.positive)
        and kept.recipe["pairs_with_fewer_shots"] == 0
    )
    for (was, _), (now, other) in zip(free, kept, strict=True):
        assert numbers(now) == numbers(other) and len(set(numbers(now))) == 4 and numbers(now)[-1] == numbers(was)[-1]
        assert ("and so on" in was) or now == was, "pairs that fitted are as they were"
    assert list(make(bound)) == list(kept) and kept.recipe["max_prompt_tokens"] == bound


def test_where_no_shorter_example_helps_there_are_fewer(tokenizer: Any) -> None:
    two = min(lengths(few_shot(tokenizer, shots=2), tokenizer))
    kept = few_shot(tokenizer, max_prompt_tokens=two)
    assert max(lengths(kept, tokenizer)) <= two and kept.recipe["pairs_with_fewer_shots"] == 8
    assert {len(numbers(p)) for p in kept.positive} <= {2, 3}
    with pytest.raises(
        ValueError,
        match=r"Question 'toy/.*' leaves no room for an example within max_prompt_tokens=30; allow more tokens",
    ):
        few_shot(tokenizer, max_prompt_tokens=30)


def test_a_system_message_stands_once_before_the_examples(tokenizer: Any) -> None:
    class Polite(Toy):
        def chat(self, question: Question) -> Chat:
            return [{"role": "system", "content": "Be polite."}, *super().chat(question)]

    for text in kv.ContrastiveSet.few_shot(Polite(), tokenizer, style="stepwise", n=2, shots=2).positive:
        assert text.count("Be polite.") == 1 and text.index("Be polite.") < text.index("How many")


@pytest.mark.skipif(
    not os.environ.get("KVSTEER_DATA_DIR"), reason="KVSTEER_DATA_DIR names no folder with the real files"
)
def test_gsm8k_s_human_steps_within_a_length(tiny: kv.Model) -> None:
    pairs = kv.ContrastiveSet.few_shot(
        tasks.get("gsm8k"), tiny.tokenizer, style="stepwise", n=20, shots=5, max_prompt_tokens=1500
    )
    assert max(lengths(pairs, tiny.tokenizer)) <= 1500
