"""The logit lens: it is the model's own head, on every architecture; a layer below the edit can't differ; bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import random_models
import torch
from matplotlib.container import BarContainer
from random_models import CONFIGS, OTHERS, PROMPTS, ROTATED, newline, vectors_for
from torch import nn

import kvsteer_lab as kv
from kvsteer_lab.analysis.residual.unembedding import check_unembedding, read_residuals, unembed
from kvsteer_lab.generation.scoring import rows_under

CK, CV = 1.5, 8.0
CONTINUATIONS = [[5, 6, 7], [9, 8, 10], [11, 12, 13]]
Load = Callable[[str], kv.Model]
pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")


@pytest.mark.parametrize("name", [*CONFIGS, *(n for n in ROTATED if n not in CONFIGS), *OTHERS])
def test_the_lens_of_the_last_layer_is_the_models_own(name: str, load_random: Load) -> None:
    """Softcapping (gemma2), logit scales (cohere, granite), a bias (gptj): whatever comes behind the last layer."""
    model = load_random(name)
    steering = kv.CacheSteering(vectors_for(model), CK, CV)
    check_unembedding(model)
    rows = rows_under(model, steering, PROMPTS, chat=True, offset="\n")
    following = torch.tensor(CONTINUATIONS)
    hidden, logits = read_residuals(model, rows, following)
    torch.testing.assert_close(unembed(model, hidden[:, -1]), logits, rtol=0, atol=1e-5)
    assert not torch.allclose(unembed(model, hidden[:, 0]), logits, atol=1e-2), "an early layer must say something else"
    scores = kv.score(model, PROMPTS, CONTINUATIONS, steering)
    own = logits[:, :3].log_softmax(-1).gather(-1, following[..., None])[..., 0]
    torch.testing.assert_close(own, torch.stack(scores.logprobs), rtol=0, atol=5e-4)


def test_an_early_layer_goes_through_norm_and_unembedding(load_random: Load) -> None:
    for name in ("llama", "gemma2", "cohere", "granite"):
        model = load_random(name)
        hidden, _ = read_residuals(model, rows_under(model, kv.Nothing(), PROMPTS, chat=True, offset="\n"))
        with torch.no_grad():
            by_hand = model.hf.lm_head(model.hf.model.norm(hidden[:, 1]))
        if name == "gemma2":
            cap = model.hf.config.final_logit_softcapping
            by_hand = cap * torch.tanh(by_hand / cap)
        if name == "cohere":
            by_hand = by_hand * model.hf.logit_scale
        if name == "granite":
            by_hand = by_hand / model.hf.config.logits_scaling
        torch.testing.assert_close(unembed(model, hidden[:, 1]), by_hand, rtol=1e-5, atol=1e-6)


def test_the_table_holds_what_score_and_divergence_say(load_random: Load) -> None:
    model = load_random("qwen3")
    steering = kv.CacheSteering(vectors_for(model), CK, CV, layers=[1, 2])
    lens = kv.analysis.logit_lens(model, PROMPTS, steering, [5, "\n"], CONTINUATIONS, controls=2, batch_size=5)
    assert set(lens.tokens.step) == {0, 1, 2, 3} and set(lens.tokens.layer) == set(range(4))
    last = lens.tokens[lens.tokens.layer == 3]
    for token in (5, newline(model)):
        ends = [[*c, token] for c in CONTINUATIONS]
        plain, steered = (
            torch.stack(kv.score(model, PROMPTS, ends, m).logprobs)[:, 3].mean() for m in (None, steering)
        )
        row = last[(last.step == 3) & (last.token == model.tokenizer.decode([token]))].iloc[0]
        assert row.plain == pytest.approx(float(plain), abs=1e-4)
        assert row.steered == pytest.approx(float(steered), abs=1e-4)
        assert abs(row.change) > 1e-3 and row.low <= row.change <= row.high
    kl = torch.stack(kv.divergence(model, PROMPTS, CONTINUATIONS, steering).kl).mean(0)
    found = lens.divergence[(lens.divergence.layer == 3) & (lens.divergence.step < 3)].kl
    torch.testing.assert_close(torch.tensor(found.tolist()), kl, rtol=1e-3, atol=1e-5)
    lines = kv.figures.plot_lens(lens.tokens, step=3).axes[0].get_lines()
    steered = lens.tokens[(lens.tokens.step == 3) & (lens.tokens.token == lens.tokens.token.iloc[0])].steered.tolist()
    assert any(list(line.get_ydata()) == steered for line in lines)
    offset, along = kv.figures.plot_lens_divergence(lens.divergence).axes
    first = lens.divergence[lens.divergence.step == 0]
    groups = [[bar.get_height() for bar in group] for group in offset.containers if isinstance(group, BarContainer)]
    assert first.kl.tolist() in groups
    groups = [[bar.get_height() for bar in group] for group in along.containers]
    assert groups == [lens.divergence[lens.divergence.layer == layer].kl.tolist() for layer in range(4)]
    with pytest.raises(ValueError, match="The table holds no step 9; choose one of: 0, 1, 2, 3"):
        kv.figures.plot_lens(lens.tokens, step=9)
    below = lens.divergence[lens.divergence.layer == 0]
    assert (below.kl == 0).all() and (lens.tokens[lens.tokens.layer == 0].change == 0).all()
    assert (lens.divergence[lens.divergence.layer > 0].kl > 0).all()
    assert lens.divergence.random.notna().all() and lens.divergence.p_random.between(1 / 3, 1).all()


def test_texts_of_different_length_are_cut(load_random: Load) -> None:
    model = load_random("llama")
    lens = kv.analysis.logit_lens(
        model, PROMPTS, kv.CacheSteering(vectors_for(model), CK, CV), [5], [[5], [5, 6], [5, 6, 7]], controls=0
    )
    assert dict(lens.divergence.groupby("step").n.first()) == {0: 3, 1: 3, 2: 2}, "one text alone makes no interval"
    assert "random" not in lens.divergence


def test_the_tokens_are_found_and_the_movers_listed(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=2)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), ck=0, cv=3)
    chats = [task.chat(q) for q in task.questions("dev", 4, 0)]
    texts = kv.generate(tiny, chats, [steering, kv.Nothing()], generation={"max_new_tokens": 1})
    first = [texts.of(m.label)[0].text for m in (steering, kv.Nothing())]
    lens = kv.analysis.logit_lens(tiny, chats, steering, controls=0, top=3)
    assert list(dict.fromkeys(lens.tokens.token)) == list(dict.fromkeys(first))
    assert (
        lens.top[lens.top.direction == "up"].change.gt(0).all()
        and lens.top[lens.top.direction == "down"].change.lt(0).all()
    )
    assert lens.top.groupby(["layer", "direction"]).size().max() <= 3
    totals = lens.top.assign(gap=(lens.top.steered - lens.top.plain - lens.top.change).abs())
    assert totals.gap.max() < 1e-9


class _Mixing(nn.Module):
    """A final norm that looks at the tokens before."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.norm(hidden.cumsum(1))


def test_a_model_without_a_lens_is_refused(tokenizer: Any) -> None:
    hf = random_models.build("llama")
    hf.model.norm = _Mixing(hf.model.norm)
    model = kv.load(hf, tokenizer)
    with pytest.raises(
        kv.UnsteerableModelError,
        match=r"^llama has no logit lens: .*choose a model with decoder layers, a final norm and an unembedding",
    ):
        kv.analysis.logit_lens(model, PROMPTS, kv.CacheSteering(vectors_for(model), 0, CV), [5])


def test_bad_input(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    cases: list[tuple[dict[str, Any], str]] = [
        (dict(prompts=[]), "There are no prompts"),
        (dict(prompts=PROMPTS[:1]), "at least two prompts, not one"),
        (
            dict(steering=replace(steering, vectors=vectors * 0.0, name="nil")),
            "What 'nil' adds is zero in the steered layers",
        ),
        (
            dict(steering=replace(steering, ck=0.0, cv=0.0)),
            "adds is zero in the steered layers; check its vectors, coefficients and layers",
        ),
        (dict(steering=replace(steering, layers=[])), r"steers no layer; name one, layers=\[1\] say"),
        (dict(steering=kv.NoOffset()), "'no offset' is not cache steering, so there is no edited slot to be read"),
        (
            dict(tokens=["a word"]),
            r"'a word' is \d tokens for this tokenizer, not one; pass a text that is one token, or a token id",
        ),
        (dict(tokens=[10**6]), r"Token 1000000 is outside the vocabulary of \d+ tokens"),
        (dict(tokens=[]), "The list of tokens is empty; name one"),
        (dict(continuations=["a"]), "3 prompts but 1 continuations"),
        (dict(controls=-1), "number of controls must be 0 or a positive whole number"),
    ]
    cases += [
        (dict(steering=None), "'baseline' is not cache steering, so there is no edited slot"),
        (dict(batch_size=0), "batch_size must be at least 1, not 0"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            kv.analysis.logit_lens(model, **{**dict(prompts=PROMPTS, steering=steering, tokens=[5]), **changes})
