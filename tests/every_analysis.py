"""Every public analysis that runs the model, as a small call: for tests of what all of them must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import kvsteer_lab as kv

Call = Callable[[kv.Model], Any]


@dataclass(frozen=True)
class Materials:
    """What the calls need beside a model; it is made once, with a model of the same shape."""

    task: kv.tasks.Task
    steering: kv.CacheSteering
    other: kv.CacheSteering
    activation: kv.ActivationSteering
    prompts: list[Any]


def make_materials(model: kv.Model) -> Materials:
    """Vectors of two styles, extracted from three pairs each, and two prompts."""
    task = kv.tasks.get("tiny-arithmetic")
    sets = [
        kv.ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=3, shots=1)
        for style in ("stepwise", "causal_chain")
    ]
    one, two = (kv.CacheSteering(kv.extract(model, pairs, progress=False), 0.3, 6.0) for pairs in sets)
    activation = kv.ActivationSteering(kv.extract_activations(model, sets[0], progress=False), 1, 4.0)
    return Materials(task, one, two, activation, [task.chat(q) for q in task.questions("dev", 2, 0)])


def every_analysis(given: Materials) -> dict[str, Call]:
    """By name, calls that take less than a second on the bundled model."""
    task, steering, prompts = given.task, given.steering, given.prompts
    short: dict[str, Any] = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
    brief: dict[str, Any] = dict(n=2, max_new_tokens=4, progress=False)
    a = kv.analysis
    facts, lines = kv.tasks.FactFinding(2), kv.spans.Delimited("\n", after="facts.\n", before="What")
    asked = facts.questions("dev", 2)
    chats, replies = [facts.chat(q) for q in asked], [q.replies["direct"] for q in asked]
    answers, openings = [facts.answers(q) for q in asked], [facts.opening(q) for q in asked]
    ablated = "ablate_layers", "ablate_heads"
    return {
        ablated[0]: lambda m: a.ablate_layers(m, task, steering, "single", "values", controls=1, **short),
        ablated[1]: lambda m: a.ablate_heads(m, task, steering, "single", "values", controls=1, **short),
        "confirm_best": lambda m: _confirm(m, given, short),
        "style_mixing": lambda m: a.style_mixing(m, task, steering, given.other, (0.5,), controls=1, **short),
        "forced_openings": lambda m: a.forced_openings(m, task, steering, (0, 1), **short),
        "vary_extraction": lambda m: a.vary_extraction(
            m, task, steering, [2.0], pairs=[2], shots=[1], seeds=[0, 1], controls=1, **short
        ),
        "slot_response": lambda m: a.slot_response(m, task, steering, [-1], controls=1, **short),
        "offset_response": lambda m: a.offset_response(m, task, steering, ["\n"], controls=1, **short),
        "temperature_response": lambda m: a.temperature_response(m, task, steering, (0.0, 1.0), samples=2, **brief),
        "follow_conversations": lambda m: a.follow_conversations(
            m, task, steering, ("kept", "slot alone"), turns=2, controls=1, **short
        ),
        "coefficient_grid": lambda m: a.coefficient_grid(m, task, steering, [0], [0, 6], **short),
        "divergence_response": lambda m: a.divergence_response(m, task, steering, [6], controls=1, **brief),
        "match_divergence": lambda m: a.match_divergence(
            m, task, {"cache": steering, "activation": given.activation}, [1.0], span=2, controls=1, **brief
        ),
        "robustness_outcomes": lambda m: a.robustness_outcomes(m, task, steering, [], points=3, controls=1, **short),
        "realised_effects": lambda m: a.realised_effects(
            m, task, [a.PairSet("stepwise", 2, 1)], [a.Place()], 4.0, **short
        ),
        "attention_to_slot": lambda m: a.attention_to_slot(m, prompts, steering, steps=2),
        "attribute_heads": lambda m: a.attribute_heads(m, prompts, steering, steps=2, controls=1),
        "nats_of_reading": lambda m: a.nats_of_reading(m, prompts, steering, "everything", steps=2),
        "half_life": lambda m: a.half_life(m, prompts, steering, steps=2, others=2),
        "knock_out_reading": lambda m: a.knock_out_reading(
            m, task, steering, ("everything", "other slot"), others=1, **short
        ),
        "unembed_values": lambda m: a.unembed_values(m, steering, 1, controls=2),
        "logit_lens": lambda m: a.logit_lens(m, prompts, steering, controls=2),
        "patch_residuals": lambda m: a.patch_residuals(m, prompts, steering, controls=2),
        "steer_towards_chunks": lambda m: a.steer_towards_chunks(
            m, chats, lines, answers, openings, lambda i: kv.CacheEdits(kv.edits.TowardsChunk(lines, i)), controls=1
        ),
        "attention_to_chunks": lambda m: a.attention_to_chunks(m, chats, lines, None, replies, steps=2),
        "measure_erasure": lambda m: a.measure_erasure(m, chats, lines, replies),
        "dose_response": lambda m: kv.dose_response(m, task, steering, [6], controls=1, **brief),
    }


def _confirm(model: kv.Model, given: Materials, short: dict[str, Any]) -> kv.Results:
    table = kv.analysis.ablate_layers(model, given.task, given.steering, "single", "values", controls=0, **short)
    return kv.analysis.confirm_best(model, given.task, given.steering, table, controls=1, **short)
