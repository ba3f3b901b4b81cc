"""How often the printed 95% intervals hold the truth, and how often the printed tests reject where nothing differs, by
simulation.

Questions are drawn with a difficulty of their own, answers given the question; the truth is known, so each interval
either holds it or does not. The percentile bootstrap, which these intervals replaced, is measured beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import tyro

from kvsteer_lab import stats

RESAMPLES = 1000


@dataclass(frozen=True)
class Pairs:
    """One answer a question of two methods: the probabilities of the four outcomes of a question.

    Attributes:
        n: questions.
        both, gained, lost: right under both methods, under ours alone, under theirs alone.
    """

    n: int
    both: float
    gained: float
    lost: float

    @property
    def truth(self) -> float:
        return self.gained - self.lost

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        kind = rng.choice(
            4, size=self.n, p=[self.both, self.gained, self.lost, 1 - self.both - self.gained - self.lost]
        )
        return (kind == 0) | (kind == 1), (kind == 0) | (kind == 2), None


@dataclass(frozen=True)
class Samples:
    """Several sampled answers a question of two methods, whose chances on one question go together.

    Attributes:
        n: questions.
        samples: answers to each, by each method.
        ours, theirs: the methods' mean shares of right answers.
        spread: of the questions' difficulties: 0, every question has the mean share; near 1, each is always or never
            answered.
    """

    n: int
    samples: int
    ours: float
    theirs: float
    spread: float

    @property
    def truth(self) -> float:
        return self.ours - self.theirs

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rank = rng.random(self.n)  # a hard question is hard for both
        sides = []
        for mean in (self.ours, self.theirs):
            always = rank < mean
            share = np.where(rng.random(self.n) < self.spread, always, mean)
            sides.append((rng.random((self.n, self.samples)) < share[:, None]).reshape(-1))
        return sides[0], sides[1], np.repeat(np.arange(self.n), self.samples)


Drawn = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]

PAIRS = [
    *(
        Pairs(n, both, gained, lost)
        for n in (24, 60, 200, 1200)
        for both, gained, lost in ((0.4, 0.0, 0.0), (0.4, 0.02, 0.02), (0.3, 0.15, 0.10), (0.6, 0.3, 0.05))
    ),
    *(Pairs(n, 0.01, 0.97, 0.0) for n in (24, 60, 200, 1200)),
]
SAMPLES = [
    Samples(n, samples, ours, theirs, spread)
    for n in (24, 60, 200)
    for samples in (4, 8)
    for ours, theirs in ((0.5, 0.5), (0.6, 0.5), (0.97, 0.9))
    for spread in (0.2, 0.9)
]


def main(draws: int = 2000, seed: int = 0, out: Path | None = None) -> Path:
    """Measure the coverage.

    Args:
        draws: simulated evaluations for each setting.
        seed: of all of them.
        out: folder for the JSON file.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, settings in (("one answer a question", PAIRS), ("several answers a question", SAMPLES)):
        found[name] = []
        for number, setting in enumerate(settings):
            row = coverage(setting, draws, np.random.default_rng([seed, number, len(found)]))
            found[name].append(asdict(setting) | row)
            print(f"{setting}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)
    summary = {name: summarise(rows) for name, rows in found.items()}
    results = dict(summary=summary, settings=found)
    settings = dict(draws=draws, seed=seed, confidence=0.95, resamples=RESAMPLES)
    return measure.write("coverage", measure.environment(measure.Clock("cpu")), settings, results, out)


def coverage(setting: Pairs | Samples, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """The shares of draws whose intervals hold the truth, the intervals' mean widths, and the share of draws in which
    the exact test rejects at 0.05.
    """
    hits: dict[str, list[bool]] = {"share": [], "gain": [], "bootstrap": []}
    widths: dict[str, list[float]] = {"gain_width": [], "bootstrap_width": []}
    rejected = []
    for _ in range(draws):
        ours, theirs, questions = setting.draw(rng)
        clusters = None if questions is None else questions.tolist()
        share = stats.clustered_share(ours.tolist(), clusters)
        gain = stats.paired_difference(ours.tolist(), theirs.tolist(), clusters=clusters)
        low, high = bootstrap(ours, theirs, questions, rng)
        mean = setting.both + setting.gained if isinstance(setting, Pairs) else setting.ours
        hits["share"].append(share.low <= mean <= share.high)
        hits["gain"].append(gain.low <= setting.truth <= gain.high)
        hits["bootstrap"].append(low <= setting.truth + 1e-12 and setting.truth - 1e-12 <= high)
        widths["gain_width"].append(gain.high - gain.low)
        widths["bootstrap_width"].append(high - low)
        rejected.append(stats.paired_permutation(ours.tolist(), theirs.tolist(), clusters) <= 0.05)
    return _means(hits) | _means(widths) | _means(dict(rejected=rejected))


def bootstrap(
    ours: np.ndarray, theirs: np.ndarray, questions: np.ndarray | None, rng: np.random.Generator
) -> tuple[float, float]:
    """The percentile bootstrap over questions."""
    each = ours.astype(float) - theirs
    if questions is not None:
        each = np.bincount(questions, each) / np.bincount(questions)
    values, counts = np.unique(each, return_counts=True)
    drawn = rng.multinomial(each.size, counts / each.size, size=RESAMPLES) @ values / each.size
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Over the settings: the least and the mean coverage of each interval, and how often the test rejects where nothing
    differs, at most.
    """
    found = {
        f"{name}_{how}": round(float(of([row[name] for row in rows])), 4)
        for name in ("share", "gain", "bootstrap")
        for how, of in (("least", np.min), ("mean", np.mean))
    }
    level = [
        row["rejected"] for row in rows if row.get("gained", row.get("ours")) == row.get("lost", row.get("theirs"))
    ]
    return found | dict(level_most=max(level))


def _means(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


if __name__ == "__main__":
    tyro.cli(main)
