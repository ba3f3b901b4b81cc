"""The behaviours that ship with the package, those that are fetched, and two that are only measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any

import pandas as pd

from ..stats.texts import is_refusal
from ..tasks.base import Question, by_hash, content_ids
from .behaviour import Behaviour, BehaviourCard, Score
from .fetched import CAA, REPENG, read_caa, read_repeng
from .forms import is_brief, is_bulleted, is_json
from .languages import language_of
from .lexicons import formality, sentiment, sounds_like_pirate
from .making import make
from .questions import DEV, NOT_SHOWN, SHOWN, TEST, in_splits

_DATA = files("kvsteer_lab") / "behaviours" / "data"


def _in_language(text: str, language: str) -> bool:
    return language_of(text) == language


def _gloom(text: str) -> float:
    return -sentiment(text)


_SCORES: Mapping[str, tuple[Score, str]] = {
    **{
        f"language:{code}": (partial(_in_language, language=code), "stop words of four languages")
        for code in ("fr", "de", "es")
    },
    "formality": (formality, "cues of formal and informal wording, from -1 to 1"),
    "brevity": (is_brief, "15 words at most"),
    "sentiment": (sentiment, "a lexicon of our own, from -1 to 1"),
    "negative sentiment": (_gloom, "a lexicon of our own, from -1 to 1"),
    "json": (is_json, "a JSON object or array, or the beginning of one"),
    "bullets": (is_bulleted, "two items or more, each on its line"),
    "pirate": (sounds_like_pirate, "a list of a pirate's words"),
}
WRITTEN = ("french", "german", "spanish", "formal", "brief", "positive", "negative", "json", "bullets", "pirate")
"""Written for this package, MIT; they ship with it."""
MEASURED = ("over-refusal", "facts")
"""Questions with a score and no contrast: what may suffer from steering something else."""
NAMES = (*WRITTEN, *MEASURED, *(f"caa-{name}" for name in CAA), *(f"repeng-{name}" for name in REPENG))
"""Every behaviour that `get` knows."""


def get(name: str) -> Behaviour:
    """A behaviour by its name.

    Args:
        name: one of `NAMES`. Those that begin with `caa-` and `repeng-` are fetched on first use into the cache
            (`KVSTEER_CACHE_DIR`), from a pinned commit, and checked against the checksum of the first fetch.

    Returns:
        The behaviour; `behaviour.card` has its licence and source.

    Raises:
        ValueError: an unknown name, or a file in the cache that has changed.
        OSError: nothing in the cache and no network; the message says where a copy belongs.

    >>> get("brief").task.questions("test", 1)[0].text
    'How does a vaccine work?'
    >>> get("facts").kinds
    ()
    """
    if name in WRITTEN:
        return _written(name)
    if name == "over-refusal":
        return _over_refusal()
    if name == "facts":
        return _facts()
    if name in NAMES:
        source, _, rest = name.partition("-")
        return read_caa(rest) if source == "caa" else read_repeng(rest)
    raise ValueError(f"There is no behaviour {name!r}; choose one of: {', '.join(NAMES)}, or make one of your own.")


def table() -> pd.DataFrame:
    """What there is: one row a behaviour, with sizes, score, licence and source; fetched ones without their sizes.

    >>> table().loc["french", ["title", "licence"]].tolist()
    ['replies in French', 'MIT']
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in (*WRITTEN, *MEASURED):
        found = get(name)
        sizes = {split: len(found.questions[split]) for split in ("extraction", "dev", "test")}
        rows[name] = dict(
            title=found.title,
            against=found.against,
            questions=sum(sizes.values()),
            **sizes,
            pairs=", ".join(found.kinds) or "none",
            scorer=found.card.scorer,
            licence=found.card.licence,
            source=found.card.source,
        )
    for source, names in (("caa", CAA), ("repeng", REPENG)):
        for name, about in names.items():
            rows[f"{source}-{name}"] = dict(
                title=about.title,
                against=about.against,
                pairs=about.pairs,
                scorer=about.scorer,
                licence="MIT",
                source=about.source,
            )
    listed = pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")
    return listed.astype(dict.fromkeys(["questions", "extraction", "dev", "test"], "Int64"))


@cache
def _read(name: str) -> Any:
    return json.loads((_DATA / name).read_text(encoding="utf-8"))


def _written(name: str) -> Behaviour:
    found = _read("behaviours.json")[name]
    score, said = _SCORES[found["scorer"]]
    return make(
        name,
        found["positive"],
        found["negative"],
        _read("questions.json")[found["questions"]],
        score,
        title=found["title"],
        against=found["against"],
        template=found.get("template"),
        openings=(found["openings"]["positive"], found["openings"]["negative"]),
        card=BehaviourCard(found["licence"], found["source"], said),
    )


def _over_refusal() -> Behaviour:
    return Behaviour(
        "over-refusal",
        "declines a harmless request",
        "answers",
        in_splits(_read("questions.json")["harmless"]),
        (),
        (),
        _declines,
        BehaviourCard("MIT", "written for kvsteer_lab", "opens with an apology or a refusal"),
    )


def _declines(text: str) -> bool:
    return is_refusal(text)


def _facts() -> Behaviour:
    """Questions of general knowledge with short answers; a reply is right if it says one of them."""
    rows = _read("questions.json")["facts"]
    texts = [row["question"] for row in rows]
    answers = {row["question"]: row["answers"] for row in rows}
    questions = [Question(i, text, SHOWN) for i, text in zip(content_ids(texts), texts, strict=True)]

    def rule(question: Question, text: str) -> str:
        return SHOWN if says_one_of(text, answers.get(question.text, ())) else NOT_SHOWN

    return Behaviour(
        "facts",
        "answers a simple question of fact",
        "wrong",
        by_hash(questions, DEV, TEST),
        (),
        (),
        lambda text: bool(text.strip()),
        BehaviourCard("MIT", "written for kvsteer_lab", "says one of the accepted words"),
        rule=rule,
    )


def says_one_of(text: str, words: Any) -> bool:
    """Whether a text has one of some words in it, as a whole word; short ones in the same case.

    >>> says_one_of("It is Rome.", ["Rome"]), says_one_of("Romeo", ["Rome"]), says_one_of("a cat", ["A"])
    (True, False, False)
    """
    return any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, 0 if len(word) == 1 else re.IGNORECASE) for word in words
    )
