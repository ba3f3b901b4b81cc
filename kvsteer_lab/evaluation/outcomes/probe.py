"""A fitted probe: how much a reply's words are those of one style's demonstrations and not of another's."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from ..._util.files import write_atomically
from ..._util.json import first_fault, read_json
from ...tasks.base import Task
from ...vectors.shots import worked
from .outcome import Outcome

_LEAST = 10
"""The fewest questions to fit on, and to measure on."""
_RESAMPLES = 1000
_SETTINGS: dict[str, Any] = dict(ngram_range=(1, 2), sublinear_tf=True, lowercase=True)


@dataclass(frozen=True)
class ProbeCard:
    """What a probe was fitted on, and how well it tells replies that it never saw.

    Attributes:
        task, style, against, seed: what it tells apart, on which questions.
        n_fit, n_held_out: questions of the extraction split that it was fitted and measured on.
        auc, auc_low, auc_high: area under the ROC curve on held-out questions, with its 95% bootstrap interval.
        length_auc: the same of the number of words alone: where it is as high, length may be all that the probe reads.
        brier: mean squared error of its probabilities on held-out questions; .25 knows nothing.

    >>> ProbeCard("gsm8k", "stepwise", "direct", 0, 70, 30, 0.9, 0.8, 1.0, 0.7, 0.1).auc
    0.9
    """

    task: str
    style: str
    against: str
    seed: int
    n_fit: int
    n_held_out: int
    auc: float
    auc_low: float
    auc_high: float
    length_auc: float
    brier: float


@dataclass(frozen=True)
class Probe:
    """Logistic regression on tf-idf of words and pairs of words. Made by `fit_probe`.

    Attributes:
        card: what it was fitted on.
        words: its vocabulary, in the order of the arrays.
        idf, weights: of each of them.
        intercept: of the regression.
        slope, shift: of its calibration (Platt), fitted on folds that the regression had not seen.

    >>> import kvsteer_lab as kv
    >>> kv.outcomes.fit_probe(kv.tasks.get("tiny-arithmetic"), "causal_chain", n=40).outcome.name
    'probe causal_chain'
    """

    card: ProbeCard
    words: tuple[str, ...] = field(repr=False)
    idf: Float[np.ndarray, " words"] = field(repr=False)
    weights: Float[np.ndarray, " words"] = field(repr=False)
    intercept: float = field(repr=False)
    slope: float = field(repr=False)
    shift: float = field(repr=False)

    def probabilities(self, replies: Sequence[str]) -> Float[np.ndarray, " replies"]:
        """How likely each reply is in the style, one number from 0 to 1 a reply."""
        scores = self._reader.transform(list(replies)) @ self.weights + self.intercept
        found: np.ndarray = expit(self.slope * scores + self.shift)
        return found

    @property
    def outcome(self) -> Outcome:
        """The probability as an outcome, for `kv.evaluate(..., outcomes=[probe])`."""
        about = f"probability of {self.card.style} by a probe with held-out AUC {self.card.auc:.2f}"
        return Outcome(f"probe {self.card.style}", lambda q, r: float(self.probabilities([r])[0]), "probability", about)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON.

        Raises:
            OSError: the file can't be written.
        """
        parts = {name: getattr(self, name) for name in ("intercept", "slope", "shift")}
        parts |= dict(card=asdict(self.card), words=list(self.words), idf=self.idf.tolist())
        text = json.dumps({"kvsteer_lab": "probe", **parts, "weights": self.weights.tolist()})
        return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Read what `save` wrote.

        Raises:
            ValueError: no such file, a damaged or a foreign one.
        """
        try:
            read = dict(read_json(Path(path).read_bytes(), what="a probe"))
            card = TypeAdapter(ProbeCard).validate_python(read["card"])
            words = tuple(map(str, read["words"]))
            idf, weights = (np.asarray(read[name], dtype=float) for name in ("idf", "weights"))
            numbers = [float(read[name]) for name in ("intercept", "slope", "shift")]
            if not idf.shape == weights.shape == (len(words),) or not np.isfinite([*idf, *weights, *numbers]).all():
                raise ValueError("its numbers don't belong to its words")
        except FileNotFoundError as error:
            raise ValueError(f"There is no probe at {path}.") from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else str(error).split("\n")[0]
            raise ValueError(f"{path} is not a probe of kvsteer_lab ({reason}); fit it again.") from error
        return cls(card, words, idf, weights, *numbers)

    @cached_property
    def _reader(self) -> TfidfVectorizer:
        reader = TfidfVectorizer(vocabulary={word: i for i, word in enumerate(self.words)}, **_SETTINGS)
        reader.idf_ = self.idf
        return reader


def fit_probe(
    task: Task, style: str, against: str = "direct", *, n: int | None = 400, held_out: float = 0.3, seed: int = 0
) -> Probe:
    """Fit a probe to a task's demonstrations: the extraction questions' replies in `style` against those in `against`.

    A part of the questions is held out, and neither fitted nor calibrated on; the card has the AUC there.

    Args:
        task: whose demonstrations are read; `kv.traces.with_traces` adds traces.
        style: what counts as 1.
        against: what counts as 0.
        n: at most so many questions.
        held_out: share of them that only measures.
        seed: which questions, and which are held out.

    Returns:
        The probe: its `outcome` can be passed to `kv.evaluate` and `Results.measure`, and so can it itself.

    Raises:
        ValueError: no replies in one of the styles, the same style twice, or too few questions to estimate an AUC.

    Example:
        >>> import kvsteer_lab as kv
        >>> probe = kv.outcomes.fit_probe(kv.tasks.get("tiny-arithmetic"), "stepwise", n=60)
        >>> probe.card.auc, bool(probe.probabilities(["Step 1: 2 + 2 = 4. The answer is 4."])[0] > 0.5)
        (1.0, True)
    """
    if style == against:
        raise ValueError(f"A probe tells two styles apart; {style!r} was given for both.")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share of the questions between 0 and 1, not {held_out}.")
    shown = worked(task, (style, against), seed)[:n]
    random.Random(seed).shuffle(shown)
    out = round(held_out * len(shown))
    if min(out, len(shown) - out) < _LEAST:
        raise ValueError(
            f"{len(shown)} questions with replies in {style!r} and {against!r} are too few to estimate a held-out AUC;"
            f" at least {_LEAST} must be held out and as many fitted."
        )

    def sides(chosen: Sequence[Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
        texts = [one.replies[s] for one in chosen for s in (style, against)]
        return texts, np.tile([1, 0], len(chosen)), np.repeat(np.arange(len(chosen)), 2)

    texts, labels, groups = sides(shown[out:])
    model = make_pipeline(TfidfVectorizer(**_SETTINGS), LogisticRegression(max_iter=1000))
    unseen = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(5), method="decision_function")
    platt = LogisticRegression().fit(unseen[:, None], labels)
    model.fit(texts, labels)
    reader, regression = model[0], model[1]
    words = tuple(map(str, reader.get_feature_names_out()))
    numbers = (float(regression.intercept_[0]), float(platt.coef_[0, 0]), float(platt.intercept_[0]))
    probe = Probe(
        ProbeCard(task.name, style, against, seed, len(shown) - out, out, *[0.0] * 5),
        words,
        reader.idf_,
        regression.coef_[0],
        *numbers,
    )
    measured = _measure(probe, *sides(shown[:out]), seed)
    card = ProbeCard(**{**asdict(probe.card), **measured})
    return Probe(card, words, probe.idf, probe.weights, *numbers)


def _measure(
    probe: Probe, texts: Sequence[str], labels: np.ndarray, groups: np.ndarray, seed: int
) -> Mapping[str, float]:
    found = probe.probabilities(texts)
    rng, each = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, groups.max() + 1, groups.max() + 1)
        index = np.concatenate([2 * drawn, 2 * drawn + 1])  # both replies to each question
        each.append(roc_auc_score(labels[index], found[index]))
    low, high = np.quantile(each, [0.025, 0.975])
    lengths = np.array([len(text.split()) for text in texts])
    by_length = float(roc_auc_score(labels, lengths))
    return dict(
        auc=float(roc_auc_score(labels, found)),
        auc_low=float(low),
        auc_high=float(high),
        length_auc=max(by_length, 1 - by_length),
        brier=float(brier_score_loss(labels, found)),
    )
