"""What long analyses have in common: some layers and heads are those of all, small batches change nothing, they say how
far they had come when they are interrupted, and replies that are kept in a folder aren't generated twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from every_analysis import Materials, make_materials
from torch.nn.modules.module import register_module_forward_pre_hook

import kvsteer_lab as kv
from kvsteer_lab import analysis
from kvsteer_lab.analysis import budget
from kvsteer_lab.analysis.residual import patched_runs
from kvsteer_lab.evaluation.plan import EvaluationPlan

LAYERS, HEADS = range(1, 4, 2), [0, 3]
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def given(tiny: kv.Model) -> Materials:
    return make_materials(tiny)


def long_analyses(model: kv.Model, given: Materials) -> dict[str, Call]:
    """By name, the analyses with a bar of their own."""
    prompts, steering = given.prompts, given.steering
    ways = ("everything", "one layer", "all but one layer", "one head", "all but one head")
    return {
        "attention_to_slot": lambda **k: analysis.attention_to_slot(model, prompts, steering, steps=2, **k),
        "attribute_heads": lambda **k: analysis.attribute_heads(model, prompts, steering, steps=2, controls=2, **k),
        "nats_of_reading": lambda **k: analysis.nats_of_reading(model, prompts, steering, ways, steps=2, **k),
        "half_life": lambda **k: analysis.half_life(model, prompts, steering, steps=2, others=2, **k),
        "unembed_values": lambda **k: analysis.unembed_values(model, steering, 2, controls=3, **k),
        "logit_lens": lambda **k: analysis.logit_lens(model, prompts, steering, controls=3, **k),
        "patch_residuals": lambda **k: analysis.patch_residuals(model, prompts, steering, controls=3, **k),
    }


LONG = tuple(long_analyses(None, Materials(*[None] * 5)))  # type: ignore[arg-type]


def tables(found: Any) -> list[pd.DataFrame]:
    return [found] if isinstance(found, pd.DataFrame) else list(vars(found).values())


def same(ours: Any, theirs: Any, atol: float = 2e-4) -> None:
    for a, b in zip(tables(ours), tables(theirs), strict=True):
        pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), atol=atol, rtol=2e-4)


@pytest.mark.parametrize("name", [name for name in LONG if name != "half_life"])
def test_some_layers_and_heads_are_those_of_all(name: str, tiny: kv.Model, given: Materials) -> None:
    call = long_analyses(tiny, given)[name]
    chosen: dict[str, Any] = {"layers": LAYERS}
    if name not in ("logit_lens", "patch_residuals"):
        chosen["heads"] = HEADS
    for whole, part in zip(tables(call(progress=False)), tables(call(progress=False, **chosen)), strict=True):
        kept = whole[whole.layer.isna() | whole.layer.isin(LAYERS)]
        if "heads" in chosen:
            kept = kept[kept["head"].isna() | kept["head"].isin(HEADS)]
        if name == "patch_residuals":
            kept = kept[kept.inject.isin(["1", "3", "all"])]
        if name == "unembed_values":  # the family is that of the heads that are looked at
            kept, part = kept.drop(columns="p_family"), part.drop(columns="p_family")
        assert len(part) and len(part) < len(whole)
        same(part, kept)


@pytest.mark.parametrize("name", LONG)
def test_small_batches_change_nothing(
    name: str, tiny: kv.Model, given: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = long_analyses(tiny, given)[name]
    whole = call(progress=False)
    monkeypatch.setattr(budget, "CACHE", 400_000)  # one or two rows
    monkeypatch.setattr(patched_runs, "CACHE", 400_000)
    monkeypatch.setattr(budget, "LOGITS", 1)
    same(whole, call(progress=False))


def test_copies_of_a_token_side_by_side_are_rows_of_their_own(
    tiny: kv.Model, given: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = long_analyses(tiny, given)["patch_residuals"]
    beside = call(progress=False)
    monkeypatch.setattr(patched_runs, "reads_side_by_side", lambda model: False)
    same(beside, call(progress=False), atol=1e-4)


@pytest.mark.parametrize("name", LONG)
def test_a_bar_tells_the_time_left_and_ctrl_c_how_far_it_had_come(
    name: str, tiny: kv.Model, given: Materials, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = long_analyses(tiny, given)[name]
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    call()
    assert re.search(rf"{name}: 100%.*\d\d:\d\d<\d\d:\d\d", capsys.readouterr().err), "done, elapsed < left"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    passes = 0

    def count(module: Any, arguments: Any) -> None:
        nonlocal passes
        passes += module in (tiny.hf, tiny.traced._module)

    hook = register_module_forward_pre_hook(count)
    call()
    hook.remove()
    assert capsys.readouterr().err == ""
    left = passes

    def stop(module: Any, arguments: Any) -> None:
        nonlocal left
        left -= module in (tiny.hf, tiny.traced._module)
        if left == 0:
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt, match=rf"Interrupted: {name} had done \d+ of \d+ \w+s, and gives no"):
            call()
    finally:
        hook.remove()


def test_layers_and_heads_that_are_not_there_are_refused(tiny: kv.Model, given: Materials) -> None:
    for name, call in long_analyses(tiny, given).items():
        if name != "half_life":
            with pytest.raises(ValueError, match="There is no layer 9; this model has layers 0 to 3"):
                call(layers=[1, 9])
            if name not in ("logit_lens", "patch_residuals"):
                with pytest.raises(ValueError, match="There is no query head 4; this model has query heads 0 to 3"):
                    call(heads=[4])
    with pytest.raises(ValueError, match=r"edits none of the layers \[0\]; name some of \[1, 2, 3\]"):
        analysis.patch_residuals(tiny, given.prompts, given.steering, layers=[0])
    with pytest.raises(ValueError, match="There are no layers or heads to hide the slot from"):
        analysis.nats_of_reading(tiny, given.prompts, given.steering, "one layer", layers=[])


def kept_in_a_folder(model: kv.Model, given: Materials) -> dict[str, Call]:
    """By name, analyses that generate replies in one run, or in one run a temperature."""
    task, steering = given.task, given.steering
    short: dict[str, Any] = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
    brief: dict[str, Any] = dict(n=2, max_new_tokens=4, progress=False)
    sets, places = [analysis.PairSet("stepwise", 2, 1)], [analysis.Place()]
    one = dict(pairs=[2], shots=[1], seeds=[0, 1])
    return {
        "style_mixing": lambda out: analysis.style_mixing(model, task, steering, given.other, (0.5,), out=out, **short),
        "vary_extraction": lambda out: analysis.vary_extraction(model, task, steering, [2.0], out=out, **one, **short),
        "slot_response": lambda out: analysis.slot_response(model, task, steering, [-1], out=out, **short),
        "offset_response": lambda out: analysis.offset_response(model, task, steering, ["\n"], out=out, **short),
        "temperature_response": lambda out: analysis.temperature_response(
            model, task, steering, (0.0, 1.0), samples=2, out=out, **brief
        ),
        "realised_effects": lambda out: analysis.realised_effects(model, task, sets, places, 4.0, out=out, **short),
        "match_divergence": lambda out: analysis.match_divergence(
            model, task, {"cache": steering}, [0.1], controls=1, out=out, **brief
        ),
        "dose_response": lambda out: kv.dose_response(model, task, steering, [6], controls=1, out=out, **brief),
        "coefficient_grid": lambda out: analysis.coefficient_grid(model, task, steering, [0], [6], out=out, **short),
        "knock_out_reading": lambda out: analysis.knock_out_reading(
            model, task, steering, "everything", out=out, **short
        ),
    }


FOLDERS = tuple(kept_in_a_folder(None, Materials(*[None] * 5)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOLDERS)
def test_replies_in_a_folder_are_not_generated_twice(
    name: str, tiny: kv.Model, given: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = kept_in_a_folder(tiny, given)[name]
    alone, first = call(None), call(tmp_path / "run")
    pd.testing.assert_frame_equal(alone, first)

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the replies are there")

    monkeypatch.setattr(EvaluationPlan, "ask", refuse)
    pd.testing.assert_frame_equal(first, call(tmp_path / "run"))
