"""The methods of `kv.methods` as interventions that can be compared: all made from the same pairs, in one style."""

from __future__ import annotations

from ... import methods
from ...behaviours.catalogue import get
from ...edits.addition import Add
from ...edits.banks import Bank
from ...edits.base import CacheEdit
from ...edits.operators import Insert
from ...edits.spans import Everything
from ...interventions.activation import ActivationSteering
from ...interventions.cache import CacheSteering
from ...interventions.edits import CacheEdits
from ...interventions.scaled import Scaled
from ...models.model import Model
from ...models.tokens import encode
from ...tasks.base import Task
from ...vectors.activation_pairs import extract_activation_pairs
from ...vectors.extraction import extract_pairs
from ...vectors.pairs import ContrastiveSet
from ..reading.attribution import attribute_heads

_SLOTS = 4  # of a learned bank, which begins as the first tokens of a reply in the style
_SCOPES = ("one-shot", "onward", "all tokens")


def steering_methods(
    model: Model,
    task: Task,
    style: str,
    *,
    pairs: int = 16,
    shots: int = 1,
    layer: int | None = None,
    learned: bool = True,
    steps: int = 40,
    seed: int = 0,
) -> dict[str, Scaled]:
    """Every method of `kv.methods`, with the same budget: the same pairs of the task's extraction split, and where
    replies are learned or a gate is fitted, as many questions. Their coefficients are no choice: compare them with
    `kv.analysis.match_divergence`. A bank's is its weight in attention; look for it with a span of 1000, for a learned
    bank moves the model at a small part of its weight, and a random one at many times it. The gate is fitted to tell
    the task's questions from everyday ones, of which there are 33.

    Args:
        model, task: from `kv.load` and `kv.tasks.get`.
        style: what is steered towards.
        pairs, shots, seed: of `ContrastiveSet.few_shot`.
        layer: of activation steering; `None`: the one below the middle.
        learned: whether a delta and a bank are learned, too, by gradient descent.
        steps: of that descent.

    Returns:
        Interventions by name, the mean difference first.

    Raises:
        ValueError: what `ContrastiveSet.few_shot` refuses.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> named = kv.analysis.steering_methods(model, task, "stepwise", pairs=2, learned=False)
        >>> list(named)[:3], len(named)
        (['mean difference', 'mean difference, keys too', 'first component'], 23)
    """
    given = ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=pairs, shots=shots, seed=seed)
    differences = extract_pairs(model, given, progress=False)
    mean = methods.mean_difference(differences)
    questions = task.questions("extraction", pairs, seed)
    chats = [task.chat(question) for question in questions]
    last = Bank.of(model, chats[0])
    by_values = {
        "mean difference": mean,
        "first component": methods.first_component(differences),
        "whitened": methods.whitened(differences),
        "logistic probe": methods.logistic(differences),
        "nearest pair": methods.nearest_pair(differences),
        "largest cluster": methods.clustered(differences, 2, layer=model.n_layers // 2)[0],
        "largest head a layer": methods.largest_heads(mean, 1),
        "later layers more": methods.scheduled(mean, lambda depth: depth),
    }
    attributed = attribute_heads(model, chats[:4], CacheSteering(mean, ck=0, cv=1.2), progress=False)
    half = model.n_layers * model.n_kv_heads // 2
    by_values["half of the heads, by attribution"] = methods.best_heads(mean, attributed, half)
    found: dict[str, Scaled] = {name: CacheSteering(v, ck=0, cv=1.2, name=name) for name, v in by_values.items()}
    found |= {
        "mean difference, keys too": CacheSteering(mean, ck=0.3, cv=1.2, name="mean difference, keys too"),
        "orthogonal keys too": CacheSteering(methods.key_orthogonal(mean, last), 0.3, 1.2, name="orthogonal keys too"),
        "keys only": _edits("keys only", style, Add(3 * mean.keys, 0 * mean.values)),
        "three slots": _edits("three slots", style, *methods.several_slots(model, given, 3, 0, 1.2)),
        "retrieved pair": _edits("retrieved pair", style, methods.retrieved(model, given, 0, 1.2)),
        "norm-preserving": _edits("norm-preserving", style, methods.norm_preserving(mean, 0, 0.9)),
        "angle": _edits("angle", style, methods.turned(mean, 60)),
        "every token": _edits("every token", style, Add(0 * mean.keys, 0.9 * mean.values, every=True)),
        "key projection": _edits(
            "key projection", style, methods.key_projection(differences, 4.0, 1, span=Everything())
        ),
        "value Gram": _edits(
            "value Gram", style, methods.value_gram(differences, last, 2.0, span=Everything(), every=True)
        ),
    }
    everyday = get("french")  # whose questions ask for nothing in particular
    others = [everyday.task.chat(question) for question in everyday.questions["extraction"][:pairs]]
    gate = methods.fit_gate(model, chats, others)
    steered = range(1, model.n_layers)  # as in `CacheSteering`
    gated = Add(0 * mean.keys, 1.2 * mean.values, layers=steered, when=gate)
    found["mean difference, gated"] = _edits("mean difference, gated", style, gated)
    residual = methods.mean_difference(extract_activation_pairs(model, given, progress=False))
    at = max(0, model.n_layers // 2 - 1) if layer is None else layer
    for scope in _SCOPES:
        name = f"residual stream, {scope}"
        found[name] = ActivationSteering(residual, at, 0.5, scope=scope, name=name)  # type: ignore[arg-type]
    if learned:
        replies = [task.demonstrate(question, style) for question in questions]
        delta, _ = methods.learned_delta(model, chats, replies, steps=steps, seeds=(seed,))
        found["learned"] = _edits("learned", style, Add(delta.keys, delta.values))
        first_words = encode(model.tokenizer, replies[0])[:_SLOTS]
        start = Bank.of_tokens(model, first_words, range(len(first_words)))
        bank, _ = methods.learned_bank(model, start, chats, replies, steps=steps, seeds=(seed,))
        found["learned bank"] = _edits("learned bank", style, Insert(bank))
    first = ["mean difference", "mean difference, keys too"]
    return {name: found[name] for name in (*first, *(name for name in found if name not in first))}


def _edits(name: str, style: str, *edits: CacheEdit) -> CacheEdits:
    return CacheEdits(edits, name, style=style)
