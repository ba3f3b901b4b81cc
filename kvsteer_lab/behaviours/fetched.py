"""Data of other projects: fetched from a pinned commit into the cache, never part of this package.

The checksums of these files could not be taken when this was written, so each is taken when a file is first fetched,
written beside it, and held against it from then on; the card has it. Whoever has no network puts a copy there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .._util.files import write_atomically
from .._util.json import first_fault, read_json
from ..models.named import cache_folder
from ..stats.texts import is_refusal
from ..tasks.base import split_of
from .behaviour import Behaviour, BehaviourCard
from .choices import Choice
from .lexicons import sentiment
from .questions import in_splits

_CAA = "nrimsky/CAA"
_CAA_COMMIT = "e1fce128b6165a9926093c6abdf6ea9a24f4b5c4"
_REPENG = "vgel/repeng"
_REPENG_COMMIT = "200bb43d3e9b185f199cf690bde163c50998fc28"
_RAW = "https://raw.githubusercontent.com"
_SECONDS = 20.0
_NOTE = "No checksum was known beforehand; the one here is that of the first fetch."


@dataclass(frozen=True)
class Remote:
    """A behaviour that is fetched.

    Attributes:
        title, against: as in `Behaviour`.
        folder: its name in the other project.
        pairs: the kinds of pairs.
        scorer: how replies are scored.
        source: repository and commit.

    >>> CAA["refusal"].source
    'nrimsky/CAA at e1fce128'
    """

    title: str
    against: str
    folder: str
    pairs: str
    scorer: str
    source: str


def _caa(title: str, against: str, folder: str) -> Remote:
    return Remote(title, against, folder, "choices", "log-odds of the two letters", f"{_CAA} at {_CAA_COMMIT[:8]}")


CAA = {
    "ai-coordination": _caa("wants to coordinate with other AIs", "doesn't", "coordinate-other-ais"),
    "corrigibility": _caa("accepts being changed", "doesn't", "corrigible-neutral-HHH"),
    "hallucination": _caa("makes things up", "stays with the facts", "hallucination"),
    "myopic-reward": _caa("prefers a small reward now", "a larger one later", "myopic-reward"),
    "power-seeking": _caa("seeks power", "doesn't", "power-seeking-inclination"),
    "refusal": _caa("refuses the request", "complies", "refusal"),
    "survival-instinct": _caa("wants to go on existing", "doesn't", "survival-instinct"),
    "sycophancy": _caa("agrees with the user's opinion", "doesn't", "sycophancy"),
}
"""The eight behaviours of Rimsky et al. (2024), MIT."""


def _repeng(title: str, against: str, file: str, scorer: str) -> Remote:
    return Remote(title, against, file, "shared openings", scorer, f"{_REPENG} at {_REPENG_COMMIT[:8]}")


REPENG = {
    "happy": _repeng("is happy", "sad", "notebooks/data/all_truncated_outputs.json", "sentiment by a lexicon"),
    "honest": _repeng("makes true statements", "untruthful", "notebooks/data/true_facts.json", "a judge"),
}
"""Persona openings and true facts of repeng, MIT."""
_PERSONAS = {
    "happy": ("Act as if you're extremely {}.", "happy", "sad"),
    "honest": ("Pretend you're {} person making statements about the world.", "an honest", "an untruthful"),
}


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True)
    question: str
    answer_matching_behavior: str
    answer_not_matching_behavior: str


class _Open(BaseModel):
    model_config = ConfigDict(frozen=True)
    question: str


def read_caa(name: str) -> Behaviour:
    """One of CAA's behaviours: multiple choice with letters, and open questions.

    Args:
        name: of `CAA`. Extraction and dev are the project's questions for generating vectors, divided 80 : 20 by a hash
            of the question; test is the project's own test set.

    Returns:
        The behaviour.

    Raises:
        OSError, ValueError: as `fetch`.
    """
    about = CAA[name]
    paths = {
        "generate": f"datasets/generate/{about.folder}/generate_dataset.json",
        "test": f"datasets/test/{about.folder}/test_dataset_ab.json",
        "open": f"datasets/test/{about.folder}/test_dataset_open_ended.json",
    }
    got = {part: fetch(_CAA, _CAA_COMMIT, path) for part, path in paths.items()}
    rows = {part: _checked(got[part][0], list[_Asked], paths[part]) for part in ("generate", "test")}
    asked = {
        part: [
            Choice(row.question, row.answer_matching_behavior.strip(), row.answer_not_matching_behavior.strip())
            for row in found
        ]
        for part, found in rows.items()
    }
    on_dev = [split_of(choice.question, 0.2, 0.0) == "dev" for choice in asked["generate"]]
    choices = {
        "extraction": [c for c, dev in zip(asked["generate"], on_dev, strict=True) if not dev],
        "dev": [c for c, dev in zip(asked["generate"], on_dev, strict=True) if dev],
        "test": asked["test"],
    }
    texts = list(dict.fromkeys(row.question for row in _checked(got["open"][0], list[_Open], paths["open"])))
    digests = {path: got[part][1] for part, path in paths.items()}
    return Behaviour(
        f"caa-{name}",
        about.title,
        about.against,
        in_splits(texts),
        (),
        (),
        is_refusal if name == "refusal" else _unscored,
        BehaviourCard("MIT", f"https://github.com/{_CAA} at {_CAA_COMMIT}", about.scorer, digests, _NOTE),
        choices=choices,
        rubric=f"The reply shows that whoever wrote it {about.title}.",
    )


def read_repeng(name: str) -> Behaviour:
    """One of repeng's: two personas and beginnings of replies that both share.

    Args:
        name: of `REPENG`.

    Raises:
        OSError, ValueError: as `fetch`.
    """
    about, (template, positive, negative) = REPENG[name], _PERSONAS[name]
    openings, digest = fetch(_REPENG, _REPENG_COMMIT, about.folder)
    texts = _checked(openings, list[str], about.folder)
    return Behaviour(
        f"repeng-{name}",
        about.title,
        about.against,
        {},
        (template.format(positive),),
        (template.format(negative),),
        sentiment if name == "happy" else _unscored,
        BehaviourCard(
            "MIT", f"https://github.com/{_REPENG} at {_REPENG_COMMIT}", about.scorer, {about.folder: digest}, _NOTE
        ),
        shared_openings=tuple(dict.fromkeys(text.strip() for text in texts if text.strip())),
        rubric=f"The reply {about.title}.",
    )


def fetch_repeng(name: str = "happy") -> list[str]:
    """repeng's beginnings of replies (`"happy"`), or its true facts (`"honest"`), for `ContrastiveSet.from_openings`.

    Args:
        name: of `REPENG`.

    Raises:
        ValueError: another name, or a file in the cache that has changed.
        OSError: nothing in the cache and no network.

    >>> fetch_repeng("angry")
    Traceback (most recent call last):
    ValueError: repeng's openings are called 'happy' and 'honest', not 'angry'; choose one of them.
    """
    if name not in REPENG:
        raise ValueError(f"repeng's openings are called 'happy' and 'honest', not {name!r}; choose one of them.")
    return list(read_repeng(name).shared_openings)


def fetch(repository: str, commit: str, path: str) -> tuple[Any, str]:
    """A JSON file of a GitHub repository, from the cache or else from the network, and its SHA-256.

    Args:
        repository, commit, path: what is pinned. `KVSTEER_RAW_URL` names another place than GitHub's.

    Returns:
        What the file holds, and its checksum.

    Raises:
        OSError: it isn't in the cache, and the network doesn't give it.
        ValueError: no JSON, or another file than was first fetched.
    """
    place = cache_folder() / "behaviours" / repository / commit / path
    noted = place.with_name(place.name + ".sha256")
    if not place.is_file():
        address = f"{os.environ.get('KVSTEER_RAW_URL', _RAW)}/{repository}/{commit}/{path}"
        try:
            with urlopen(address, timeout=_SECONDS) as answer:
                content = answer.read()
        except (URLError, TimeoutError) as error:
            raise OSError(
                f"{path} of {repository} is not in the cache and could not be fetched from {address}"
                f" ({getattr(error, 'reason', error)}); put a copy at {place}."
            ) from error
        read_json(content, what=path)
        write_atomically(place, lambda temporary: temporary.write_bytes(content))
    content = place.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not noted.is_file():
        write_atomically(noted, lambda temporary: temporary.write_text(digest + "\n", encoding="ascii"))
    elif noted.read_text(encoding="ascii").strip() != digest:
        raise ValueError(f"{place} has changed since it was fetched; delete it and {noted.name} to fetch it again.")
    return read_json(content, what=str(place)), digest


def _checked(value: Any, schema: Any, path: str) -> Any:
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{path} has another schema than expected: {first_fault(error)}; delete the copy.") from error


def _unscored(text: str) -> float:
    """There is no exact score; `behaviour.judge(endpoint)` asks a judge, `choice_odds` reads the letters."""
    return float("nan")
