"""What every analysis must do: hold the lock, stop at Ctrl-C, refuse NaN, and leave other threads' results alone."""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from every_analysis import Materials, every_analysis, make_materials
from torch.nn.modules.module import register_module_forward_pre_hook

import kvsteer_lab as kv
from kvsteer_lab.models.lock import LOCK

NAMES = tuple(every_analysis(Materials(*[None] * 5)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def given(tiny: kv.Model) -> Materials:
    return make_materials(tiny)


@contextmanager
def watched(model: kv.Model, note: Any) -> Iterator[None]:
    """Calls `note(module)` before every forward pass of a part of the model, in whichever thread."""
    parts = {*model.hf.modules(), *model.traced._module.modules()}
    hook = register_module_forward_pre_hook(lambda module, _: note(module) if module in parts else None)
    try:
        yield
    finally:
        hook.remove()


def fresh(model: kv.Model) -> kv.Model:
    """The same weights in a model of which nothing has been looked up yet."""
    return kv.load(copy.deepcopy(model.hf), model.tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_no_module_runs_without_the_lock(name: str, tiny: kv.Model, given: Materials) -> None:
    model = fresh(tiny)  # what is found out about a model once (its attention, its projections) is found out here, too
    past: list[str] = []
    with watched(model, lambda module: past.append(type(module).__name__) if not LOCK.held else None):
        every_analysis(given)[name](model)
    assert not past, "parts of the model ran while another thread could have been tracing it"


def forwards(model: kv.Model, call: Any) -> int:
    """How many times the whole model runs."""
    count = [0]

    def note(module: Any) -> None:
        count[0] += module in (model.hf, model.traced._module)

    with watched(model, note):
        call(model)
    return count[0]


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_is_one_sentence_and_no_table(name: str, tiny: kv.Model, given: Materials) -> None:
    """At the first pass, the last, and some between; the analysis says that it was interrupted, and returns nothing."""
    call = every_analysis(given)[name]
    call(tiny)  # what is found out about a model once is found out
    passes = forwards(tiny, call)
    for stop in sorted({0, 1, passes // 3, 2 * passes // 3, passes - 1}):
        left = [stop]

        def note(module: Any, left: list[int] = left) -> None:
            if module in (tiny.hf, tiny.traced._module):
                left[0] -= 1
                if left[0] == -1:
                    raise KeyboardInterrupt

        with warnings.catch_warnings(record=True) as said, watched(tiny, note):
            warnings.simplefilter("always")
            with pytest.raises(KeyboardInterrupt) as stopped:
                call(tiny)
        assert not [w for w in said if "nterrupted" in str(w.message)], "what is raised says it, and nothing else"
        assert "\n" not in str(stopped.value)
        assert not LOCK.held, "the lock is free again"


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_an_error_and_not_no_effect(name: str, tiny: kv.Model, given: Materials) -> None:
    model = fresh(tiny)
    with torch.no_grad():
        model.hf.get_output_embeddings().weight[7] = float("nan")
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"NaN|infin|finite") as caught:
        warnings.simplefilter("ignore")
        every_analysis(given)[name](model)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def beside_an_extraction(model: kv.Model, calls: list[Any], times: int) -> tuple[int, list[Exception]]:
    """How many of `times` extractions came out right while other threads made these calls over and over, and what was
    raised anywhere."""
    pairs = kv.ContrastiveSet.few_shot(kv.tasks.get("tiny-arithmetic"), model.tokenizer, style="stepwise", n=3, shots=1)
    right = kv.extract(model, pairs, progress=False)
    done, raised = threading.Event(), list[Exception]()
    started = threading.Barrier(len(calls) + 1)

    def go_on(call: Any) -> None:
        started.wait()
        while not done.is_set():
            try:
                call(model)
            except Exception as error:
                raised.append(error)
            time.sleep(0)

    threads = [threading.Thread(target=go_on, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    started.wait()
    same = 0
    for _ in range(times):
        try:
            found = kv.extract(model, pairs, progress=False)
            same += torch.equal(found.keys, right.keys) and torch.equal(found.values, right.values)
        except Exception as error:
            raised.append(error)
    done.set()
    for thread in threads:
        thread.join()
    return same, raised


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (("logit_lens",), 6),
        (("unembed_values",), 6),
        (("patch_residuals", "attribute_heads", "half_life"), 4),
        pytest.param(("logit_lens",), 60, marks=pytest.mark.slow),
        pytest.param(("unembed_values",), 60, marks=pytest.mark.slow),
        pytest.param(NAMES, 60, marks=pytest.mark.slow),
    ],
)
def test_extractions_beside_analyses_are_right(
    names: tuple[str, ...], times: int, tiny: kv.Model, given: Materials
) -> None:
    calls = every_analysis(given)
    same, raised = beside_an_extraction(tiny, [calls[name] for name in names], times)
    assert not raised
    assert same == times


def test_analyses_from_several_threads_give_what_they_give_alone(tiny: kv.Model, given: Materials) -> None:
    calls = every_analysis(given)
    names = ("logit_lens", "unembed_values", "patch_residuals", "attention_to_slot", "coefficient_grid", "half_life")

    def tables(found: Any) -> list[Any]:
        return list(vars(found).values()) if hasattr(found, "__dataclass_fields__") else [found]

    alone = {name: tables(calls[name](tiny)) for name in names}
    found: dict[str, list[Any]] = {}

    def run(name: str) -> None:
        found[name] = tables(calls[name](tiny))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert [a.equals(b) for a, b in zip(alone[name], found[name], strict=True)] == [True] * len(alone[name]), name
