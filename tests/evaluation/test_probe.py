"""The fitted probe: what it tells apart, what its card says, its file, and what it refuses."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import kvsteer_lab as kv


@pytest.fixture(scope="module")
def task():
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def probe(task):
    return kv.outcomes.fit_probe(task, "stepwise", n=60)


class Same(kv.tasks.Task):
    """Both styles say the same: there is nothing to tell apart."""

    name, styles = "same", ("direct", "stepwise")

    def __init__(self, n=200):
        self.n = n

    def questions(self, split, n=None, seed=None):
        rng = np.random.default_rng(0)
        words = np.array("one two three four five six seven eight nine ten".split())
        made = [
            kv.tasks.Question(str(i), f"{i}?", "1", {s: " ".join(rng.choice(words, 8)) for s in self.styles})
            for i in range(self.n)
        ]
        return made[:n]

    def read_answer(self, text):
        return None


def test_it_tells_held_out_demonstrations_apart(probe, task):
    assert (probe.card.n_fit, probe.card.n_held_out) == (42, 18) and probe.card.auc == 1.0
    found = probe.probabilities(
        [task.demonstrate(q, s) for q in task.questions("dev", 20) for s in ("stepwise", "direct")]
    )
    assert (found[::2] > 0.5).all() and (found[1::2] < 0.5).all() and ((found > 0) & (found < 1)).all()


def test_where_there_is_nothing_to_tell_the_card_says_so():
    card = kv.outcomes.fit_probe(Same(), "stepwise").card
    assert card.auc_low < 0.5 < card.auc_high and card.brier > 0.2, "calibrated: it knows that it knows nothing"


def test_length_alone_is_told_beside_it(probe):
    assert probe.card.length_auc == 1.0, "these steps are longer than direct replies, and the card says so"
    assert kv.outcomes.fit_probe(Same(), "stepwise").card.length_auc < 0.65


def test_the_file_is_json_and_gives_the_same_numbers(probe, tmp_path):
    path = probe.save(tmp_path / "probe.json")
    loaded = kv.outcomes.Probe.load(path)
    texts = ["Step 1: 2 + 2 = 4.", "The answer is 4.", "", "nothing known"]
    np.testing.assert_allclose(loaded.probabilities(texts), probe.probabilities(texts), rtol=1e-12)
    assert loaded.card == probe.card and json.loads(path.read_text())["kvsteer_lab"] == "probe"


@pytest.mark.parametrize("damage", ["{", "[]", '{"card": {}}', "cut", "short"])
def test_a_damaged_file_is_refused(probe, tmp_path, damage):
    path = probe.save(tmp_path / "probe.json")
    text = path.read_text()
    read = json.loads(text)
    short = json.dumps({**read, "idf": read["idf"][1:]})
    path.write_text({"cut": text[: len(text) // 2], "short": short}.get(damage, damage))
    with pytest.raises(ValueError, match="is not a probe of kvsteer_lab"):
        kv.outcomes.Probe.load(path)
    with pytest.raises(ValueError, match="There is no probe at"):
        kv.outcomes.Probe.load(tmp_path / "none.json")


def test_too_few_questions_for_an_auc_are_refused(task):
    with pytest.raises(ValueError, match="too few to estimate a held-out AUC"):
        kv.outcomes.fit_probe(task, "stepwise", n=30)
    with pytest.raises(ValueError, match="two styles apart"):
        kv.outcomes.fit_probe(task, "direct", "direct")
    with pytest.raises(ValueError, match="share of the questions"):
        kv.outcomes.fit_probe(task, "stepwise", held_out=1.5)


def test_it_is_an_outcome(probe, task):
    asked = dict(n=6, split="dev", generation={"max_new_tokens": 32}, progress=False)
    found = kv.evaluate(kv.load("tiny"), task, kv.ForcedPrefix("Step"), outcomes=[probe, "words"], **asked)
    table = found.outcomes_table()
    forced, plain = (table.loc[("probe stepwise", label), "value"] for label in ("forced 'Step'", "baseline"))
    assert forced > 0.7 > 0.3 > plain
    assert roc_auc_score(found.rows.intervention == "forced 'Step'", found.rows["outcome probe stepwise"]) > 0.95
