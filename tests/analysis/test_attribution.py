"""Attribution of heads: the parts add up to the true change, each is what its formula says, and judges can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import CONFIGS, PROMPTS, build, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.analysis.reading.logits import logit_directions
from kvsteer_lab.analysis.residual.unembedding import unembed
from kvsteer_lab.models.attention import Attention, Watching
from kvsteer_lab.models.heads import head_writes, output_projections

CK, CV = 0.7, 4.0
THROUGH = [name for name in CONFIGS if not name.startswith("falcon")]
TEXTS = [[40, 50, 60, 70], [41, 51, 61, 71], [42, 52, 62, 72]]
Load = Callable[[str], kv.Model]
through_the_interface = pytest.mark.parametrize("name", THROUGH)
pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")


def watch(model: kv.Model, prompt: str, text: list[int], method: kv.Intervention | None) -> list[Attention]:
    """Every layer at the offset token, then at the text but for its last token."""
    seen: list[Attention] = []
    with Watching(model.hf, len(model.encode(prompt)), seen.append):
        kv.score(model, prompt, [text], method)
    return seen


@through_the_interface
def test_what_heads_write_adds_up_to_the_attention_block(name: str) -> None:
    hf = build(name)
    projections = output_projections(hf)
    seen: list[Attention] = []
    put_out: dict[int, torch.Tensor] = {}
    for projection in projections:
        if getattr(projection, "bias", None) is not None:
            torch.nn.init.normal_(projection.bias)
    handles = [
        p.register_forward_hook(lambda module, given, output, at=at: put_out.update({at: output}))
        for at, p in enumerate(projections)
    ]
    with torch.no_grad(), Watching(hf, 0, seen.append):
        hf(torch.randint(3, 300, (1, 7), generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    for attention in seen:
        bias = getattr(projections[attention.layer], "bias", None)
        total = sum(head_writes(hf, attention.layer, head, attention.outputs[:, head]) for head in range(4)) + (
            0 if bias is None else bias
        )
        torch.testing.assert_close(total, put_out[attention.layer], atol=1e-4, rtol=1e-4)


@through_the_interface
def test_parts_add_up_to_the_change_of_two_separate_runs(name: str, load_random: Load) -> None:
    model = load_random(name)
    steering = kv.CacheSteering(vectors_for(model), CK, CV, layers=range(model.n_layers))
    table = kv.analysis.attribute_heads(model, PROMPTS, steering, TEXTS, steps=4)
    assert len(table) == 3 * 4 * 4 * 4
    assert abs(table.value + table.reweighting + table.indirect - table.change).max() < 1e-5 * max(
        1, table.change.max()
    )
    assert abs(table.logit_value + table.logit_reweighting + table.logit_indirect - table.logit).max() < 1e-5 * max(
        1, abs(table.logit).max()
    )
    plain, steered = (watch(model, PROMPTS[1], TEXTS[1], method) for method in (None, steering))
    parts = table[table.prompt == 1].set_index(["step", "layer", "head"])
    step = 0
    for before, after in zip(plain, steered, strict=True):
        at = after.slot_of(len(model.encode(PROMPTS[1])) - 1)
        for head in range(4):
            written = head_writes(model.hf, before.layer, head, (after.outputs - before.outputs)[0, head])
            for q, change in enumerate(written.norm(dim=-1)):
                row = parts.loc[(step + q, before.layer, head)]
                assert row.change == pytest.approx(float(change), abs=2e-4, rel=1e-4)
                weights = (float(x.weights[0, head, q, at]) if at >= 0 else 0.0 for x in (before, after))
                assert (row.plain, row.steered) == pytest.approx(tuple(weights), abs=1e-5)
        step += before.query.shape[2] if before.layer == model.n_layers - 1 else 0
    assert table.indirect.abs().max() > 1e-3 and table.reweighting.abs().max() > 1e-3 and table.value.abs().max() > 1e-3


@through_the_interface
def test_nothing_is_indirect_where_a_single_layer_is_steered(name: str, load_random: Load) -> None:
    model = load_random(name)
    table = kv.analysis.attribute_heads(
        model, PROMPTS, kv.CacheSteering(vectors_for(model), CK, CV, layers=[2]), TEXTS, steps=4
    )
    assert (table[table.layer < 2][["change", "value", "reweighting", "indirect"]].abs().max() == 0).all()
    own, later = table[table.layer == 2], table[table.layer == 3]
    scale = max(1.0, own.change.max())
    assert own.indirect.abs().max() <= 1e-6 * scale and own.value.abs().max() > 1e-3
    assert (later[["value", "reweighting"]].abs().max() <= 1e-6 * scale).all() and later.indirect.abs().max() > 1e-4


def test_each_part_is_its_formula(model: kv.Model, vectors: kv.KVVectors) -> None:
    """Closed form at the offset token: a' from the change of one score, a' c_v S^V W_O, and the other weights' change
    times their values.
    """
    steering = kv.CacheSteering(vectors, CK, CV, layers=[1])
    table = kv.analysis.attribute_heads(model, PROMPTS[:2], steering, TEXTS[:2]).set_index(["prompt", "layer", "head"])
    ids = model.encode(PROMPTS[0])
    plain = watch(model, PROMPTS[0], TEXTS[0][:1], None)[1]
    for head in range(4):
        kv_head = head // 2
        score = float(plain.query[0, head, 0] @ (CK * vectors.keys[1, kv_head])) * model.head_dim**-0.5
        raised = plain.weights[0, head, 0].clone()
        raised[len(ids) - 1] *= np.exp(score)
        raised /= raised.sum()
        value = raised[len(ids) - 1] * CV * vectors.values[1, kv_head]
        reweighting = (raised - plain.weights[0, head, 0]) @ plain.values[0, kv_head]
        weight = model.hf.get_submodule("model.layers.1.self_attn.o_proj").weight.detach()[
            :, head * 16 : (head + 1) * 16
        ]
        first, second = weight @ value, weight @ reweighting
        row, total = table.loc[(0, 1, head)], first + second
        assert row.steered == pytest.approx(float(raised[len(ids) - 1]), abs=1e-5)
        assert row.change == pytest.approx(float(total.norm()), rel=1e-4)
        assert row.value == pytest.approx(float(first @ total / total.norm()), abs=1e-4)
        assert row.reweighting == pytest.approx(float(second @ total / total.norm()), abs=1e-4)


def test_keys_alone_reweigh_and_values_alone_are_read(model: kv.Model, vectors: kv.KVVectors) -> None:
    for ck, cv, none, some in ((0.0, CV, "reweighting", "value"), (CK, 0.0, "value", "reweighting")):
        table = kv.analysis.attribute_heads(model, PROMPTS, kv.CacheSteering(vectors, ck, cv), TEXTS, steps=2)
        assert (table[none] == 0).all() and (table[f"logit_{none}"] == 0).all() and table[some].abs().max() > 0.01


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "cohere", "granite"])
def test_the_direction_of_a_logit_is_its_slope(name: str, load_random: Load) -> None:
    model = load_random(name)
    generator = torch.Generator().manual_seed(0)
    hidden, step = (torch.randn(2, 64, generator=generator) * size for size in (3.0, 0.02))
    with torch.no_grad():
        directions = logit_directions(model.hf, hidden, [7, 9])
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()

    def centred(x: torch.Tensor) -> torch.Tensor:
        logits = unembed(model, x[:, None])[:, 0]
        return logits[[0, 1], [7, 9]] - logits.mean(1)

    slope = (centred(hidden + step) - centred(hidden - step)) / 2
    torch.testing.assert_close((directions * step).sum(1), slope, atol=2e-5, rtol=2e-2)
    assert slope.abs().max() > 1e-4


def test_values_are_unembedded_by_hand(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, 0.0, CV, layers=[1, 3])
    table = kv.analysis.unembed_values(model, steering, 4, controls=9, seed=5)
    assert len(table) == 2 * 4 * 4
    for layer in (1, 3):
        weight = model.hf.get_submodule(f"model.layers.{layer}.self_attn.o_proj").weight
        for head in range(4):
            written = weight[:, head * 16 : (head + 1) * 16] @ (CV * vectors.values[layer, head // 2])
            logits = model.hf.lm_head(model.hf.model.norm(written))
            logits = (logits - logits.mean()).detach()
            part = table[(table.layer == layer) & (table["head"] == head)]
            assert part.logit.tolist() == pytest.approx(logits.topk(4).values.tolist(), abs=1e-4)
            assert part.token.tolist() == [model.tokenizer.decode([t]) for t in logits.topk(4).indices.tolist()]
            assert part.norm.iloc[0] == pytest.approx(float(written.norm().detach()), rel=1e-5)
    drawn = kv.random_controls(steering, 9, seed=5)
    alone = [kv.analysis.unembed_values(model, control, 1, controls=0) for control in drawn]
    anywhere = [each.logit.max() for each in alone]
    for row in table.itertuples():
        there = [each[(each.layer == row.layer) & (each["head"] == row.head)].logit.item() for each in alone]
        assert row.p_random == pytest.approx((1 + sum(x >= row.logit for x in there)) / 10)
        assert row.p_family == pytest.approx((1 + sum(x >= row.logit for x in anywhere)) / 10)
    assert table.p_random.between(0.1, 1).all(), "random vectors' tokens are no better than random vectors' tokens"


def test_controls_are_attributed_beside_the_steering(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, CK, CV, name="steered")
    table = kv.analysis.attribute_heads(model, PROMPTS, steering, TEXTS, controls=3)
    assert table.intervention.nunique() == 4 and set(table.control_of.dropna()) == {"steered"}
    means = kv.analysis.over_prompts(table, "logit")
    assert len(means) == 16 and means.random_high.notna().all()


def named(values: dict[tuple[int, int], float], column: str = "weight") -> pd.DataFrame:
    """Three prompts that say about the same of each head."""
    return pd.DataFrame(
        [(p, *head, v * (1 + 0.001 * p)) for p in range(3) for head, v in values.items()],
        columns=["prompt", "layer", "head", column],
    )


def knocked(cost: dict[tuple[int, int], float], whole: float, other: float) -> pd.DataFrame:
    heads = named(cost, "first").assign(way="one head", slot=-1)
    rest = pd.DataFrame(
        [
            (p, way, slot, v)
            for p in range(3)
            for way, slot, v in (("everything", -1, whole), ("other slot", -3, other), ("other slot", -4, 0.0))
        ]
    )
    return pd.concat([heads, rest.set_axis(["prompt", "way", "slot", "first"], axis=1)], ignore_index=True).astype(
        {"layer": "Int64", "head": "Int64"}
    )


def test_the_judge_tells_right_from_wrong_and_finds_nothing_where_nothing_is() -> None:
    heads = {(layer, head): float(10 * layer + head + 1) for layer in range(2) for head in range(4)}
    backwards = {head: -1 / value for head, value in heads.items()}
    tables = {"right": named(heads), "backwards": named(backwards)}
    table = kv.analysis.judge_heads(tables, knocked(heads, 20.0, 1.0), k=2).set_index("analysis")
    assert table["rank"].tolist() == [1.0, -1.0] and table.hits.tolist() == [2, 0]
    assert table.loc["right", "named"] == table.loc["right", "true"] == "1.3, 1.2"
    assert table.loc["right", "p_hits"] == pytest.approx(1 / 28) and table.chance.tolist() == [0.5, 0.5]
    few = {head: value if value > 10 else 1e-9 * value for head, value in heads.items()}
    shuffled = {head: value if value > 10 else 5 - value for head, value in heads.items()}
    ranks = [
        kv.analysis.judge_heads({"a": named(said)}, knocked(few, 20.0, 1.0), k=2)["rank"].item()
        for said in (heads, shuffled)
    ]
    assert ranks[0] == pytest.approx(ranks[1]) and 0.8 < ranks[0] < 1, (
        "the order of heads that cost nothing says nothing"
    )
    null = kv.analysis.judge_heads(tables, knocked(heads, 0.9, 1.0), k=2)
    assert not null.found.any() and null["rank"].isna().all() and null.hits.isna().all()


def test_layers_are_judged_by_the_sum_of_their_heads_or_by_means() -> None:
    heads = {(layer, head): float(10 * layer + head + 1) for layer in range(3) for head in range(2)}
    cost = {0: 3.0, 1: 5.0, 2: 1.0}
    layers = pd.DataFrame(
        [(p, layer, c * (1 + 0.001 * p)) for p in range(3) for layer, c in cost.items()],
        columns=["prompt", "layer", "first"],
    )
    out = pd.concat([knocked(heads, 20.0, 1.0), layers.assign(way="one layer", slot=-1)], ignore_index=True)
    out = out[out.way != "one head"]
    means = pd.DataFrame({"layer": [0, 1, 2], "share": [-0.5, -0.9, 0.1]})
    table = kv.analysis.judge_layers({"heads": named(heads), "means": means}, out).set_index("analysis")
    assert table["rank"].tolist() == [pytest.approx(-0.5), pytest.approx(1.0)] and table.layers.tolist() == [3, 3]
    assert table.named.tolist() == ["2", "1"] and set(table.true) == {"1"}
    assert table.hits.tolist() == [0, 1] and table.chance.tolist() == [pytest.approx(1 / 3)] * 2
    summed = named(heads).groupby(["prompt", "layer"]).weight.sum().reset_index()
    again = kv.analysis.judge_layers({"heads": summed}, out)
    assert again["rank"].item() == pytest.approx(-0.5)
    assert not kv.analysis.judge_layers(
        {"means": means}, out.assign(first=out["first"].where(out.way != "everything", 0.0))
    ).found.item()
    with pytest.raises(
        ValueError,
        match="lack the way 'one layer'; run nats_of_reading with 'everything', 'one layer' and 'other slot'",
    ):
        kv.analysis.judge_layers({"means": means}, knocked(heads, 20.0, 1.0))
    with pytest.raises(ValueError, match="'means' is about other layers"):
        kv.analysis.judge_layers({"means": means[:2]}, out)
    with pytest.raises(ValueError, match="k must be 1 to 3, the number of layers"):
        kv.analysis.judge_layers({"means": means}, out, k=4)


def test_what_cannot_be_attributed_or_judged_is_said(model: kv.Model, vectors: kv.KVVectors, load_random: Load) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    zero = kv.CacheSteering(replace(vectors, keys=0 * vectors.keys, values=0 * vectors.values), CK, CV)
    attribute, values, judge = kv.analysis.attribute_heads, kv.analysis.unembed_values, kv.analysis.judge_heads
    heads = {(0, head): float(head) for head in range(4)}
    for run, message in (
        (lambda: attribute(model, [], steering), "prompt"),
        (lambda: attribute(model, PROMPTS[:1], steering), "at least two prompts"),
        (lambda: attribute(model, PROMPTS, steering, steps=0), "steps must be at least 1"),
        (lambda: attribute(model, PROMPTS, zero), "adds is zero in the steered layers"),
        (lambda: attribute(model, PROMPTS, kv.CacheSteering(vectors, CK, CV, layers=[])), "steers no layer"),
        (lambda: attribute(model, PROMPTS, kv.Nothing()), "is not cache steering"),
        (lambda: attribute(model, PROMPTS, kv.CacheSteering(vectors, CK, CV, slot=-900)), "Slot -900 is out of range"),
        (lambda: attribute(model, PROMPTS, None), "'baseline' is not cache steering"),
        (lambda: attribute(model, PROMPTS, steering, TEXTS, batch_size=0), "batch_size must be at least 1, not 0"),
        (lambda: values(model, kv.CacheSteering(vectors, CK, 0.0)), "adds nothing to values"),
        (lambda: values(model, zero), "adds nothing to values"),
        (lambda: values(model, steering, 0), "top must be at least 1"),
        (lambda: values(model, kv.Nothing()), "Nothing has no values to unembed"),
        (lambda: judge({}, knocked(heads, 2, 1)), "There is no analysis to judge"),
        (lambda: judge(named(heads), knocked(heads, 2, 1)), "There is no analysis to judge"),
        (
            lambda: judge({"a": pd.DataFrame()}, knocked(heads, 2, 1)),
            "Of 'a' there is nothing to judge: a table must hold rows with layer, head and",
        ),
        (lambda: judge({"a": named(heads)[:0]}, knocked(heads, 2, 1)), "Of 'a' there is nothing to judge"),
        (
            lambda: judge({"a": named(heads)[["prompt", "layer", "head"]]}, knocked(heads, 2, 1)),
            "in its last column, numbers",
        ),
        (lambda: judge({"a": named(heads).assign(weight="x")}, knocked(heads, 2, 1)), "in its last column, numbers"),
        (
            lambda: judge({"a": named(heads)}, pd.DataFrame()),
            "The knock-outs have no costs 'first' of single heads; pass a table of nats_of_reading",
        ),
        (lambda: judge({"a": named(heads)}, knocked(heads, 2, 1), "way"), "no costs 'way' of single heads"),
        (lambda: judge({"a": named(heads)}, knocked(heads, 2, 1), k=9), "k must be 1 to 4"),
        (lambda: judge({"a": named({(0, 1): 1.0})}, knocked(heads, 2, 1)), "'a' is about other heads"),
        (
            lambda: judge({"a": pd.concat([named(heads)] * 2)}, knocked(heads, 2, 1)),
            "one row per prompt, layer and head",
        ),
        (
            lambda: judge({"a": named(heads)}, knocked(heads, 2, 1).query("way != 'other slot'")),
            "lack the way 'other slot'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run()
    falcon = load_random("falcon")
    with pytest.raises(kv.UnsteerableModelError, match="The attention of falcon can't be looked into"):
        attribute(falcon, PROMPTS, kv.CacheSteering(vectors_for(falcon), CK, CV))


def test_heads_behind_a_gate_are_refused() -> None:
    hf = build("llama")
    for layer in hf.model.layers:
        layer.self_attn.o_proj = torch.nn.Sequential(torch.nn.Tanh(), layer.self_attn.o_proj)
    with pytest.raises(
        kv.UnsteerableModelError,
        match="What single heads of llama write can't be told apart: in layer 0 no linear module",
    ):
        output_projections(hf)
