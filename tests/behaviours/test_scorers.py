"""Scores of replies, against replies that were labelled by reading them."""

from __future__ import annotations

import pytest

import kvsteer_lab as kv

LANGUAGES = [
    ("en", "The sea is calm today, and the children are playing on the beach."),
    ("en", "You should bring a towel and some water with you."),
    ("fr", "Vous devez apporter une serviette et de l'eau pour la plage."),
    ("fr", "La mer est calme et les enfants jouent sur la plage."),
    ("de", "Das Meer ist ruhig und die Kinder spielen am Strand."),
    ("de", "Sie sollten ein Handtuch und etwas Wasser für den Strand mitnehmen."),
    ("es", "El mar está tranquilo y los niños juegan en la playa."),
    ("es", "Debes llevar una toalla y un poco de agua para la playa."),
    (None, "La la la la la la la"),
    (None, "Bonjour"),
    (None, ""),
    ("en", 'A baker, in French, is a "boulanger", a French word that translates to the word for a person who bakes.'),
]


@pytest.mark.parametrize(("language", "text"), LANGUAGES)
def test_languages(language: str | None, text: str) -> None:
    assert kv.behaviours.language_of(text) == language


@pytest.mark.parametrize("name", ("french", "german", "spanish"))
def test_a_language_s_own_openings_score_as_that_language_and_english_ones_as_english(name: str) -> None:
    behaviour = kv.behaviours.get(name)
    whole = " ".join(positive for positive, _ in behaviour.openings)
    english = " ".join(negative for _, negative in behaviour.openings)
    assert behaviour.score(whole) and not behaviour.score(english)
    assert kv.behaviours.language_of(english) == "en"


@pytest.mark.parametrize("name", ("formal", "positive", "negative", "pirate"))
def test_openings_of_the_two_sides_are_told_apart(name: str) -> None:
    behaviour = kv.behaviours.get(name)
    for positive, negative in behaviour.openings:
        assert behaviour.score(positive) > behaviour.score(negative) or name == "pirate"
    assert sum(behaviour.score(p) > 0 for p, _ in behaviour.openings) >= 6
    assert sum(behaviour.score(n) > 0 for _, n in behaviour.openings) == 0


@pytest.mark.parametrize(
    ("text", "cut", "whole"),
    [
        ('{"answer": ["red", "blue"]}', True, True),
        ('```json\n{"answer": "red"}\n```', True, True),
        ('["red", "bl', True, False),
        ('{"answer": ["red", "blue"]} is the answer', False, False),
        ("[1] The answer is red.", False, False),
        ("The answer is {red}.", False, False),
        ("{}", False, False),
        ("", False, False),
    ],
)
def test_json(text: str, cut: bool, whole: bool) -> None:
    assert (kv.behaviours.is_json(text), kv.behaviours.is_json(text, whole=True)) == (cut, whole)


@pytest.mark.parametrize(
    ("text", "bulleted"),
    [
        ("- red\n- blue", True),
        ("Here are two:\n\n* red\n* blue", True),
        ("1. red\n2. blue", True),
        ("- red", False),
        ("Red - or blue - or green.", False),
        ("There are many.\nSome are red.\nSome are blue.\nAll are nice.\n- red\n- blue", False),
        ("2020 was a year.\n2021 was one, too.", False),
    ],
)
def test_bullets(text: str, bulleted: bool) -> None:
    assert kv.behaviours.is_bulleted(text) == bulleted


def test_brevity_counts_words_and_not_marks() -> None:
    assert kv.behaviours.is_brief("word " * 15) and not kv.behaviours.is_brief("word " * 16)
    assert kv.behaviours.is_brief("- " * 20 + "word") and not kv.behaviours.is_brief("- - -")


def test_sentiment_minds_negations() -> None:
    assert kv.behaviours.sentiment("I did not enjoy it.") == -1 and kv.behaviours.sentiment("It isn’t bad.") == 1
    assert kv.behaviours.sentiment("Good food, bad wine.") == 0


def test_over_refusal_and_its_opposite() -> None:
    declines = kv.behaviours.get("over-refusal").score
    assert declines("I'm sorry, but I can't help with that.") and not declines("Use pkill on the process's name.")
