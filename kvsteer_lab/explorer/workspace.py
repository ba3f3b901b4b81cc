"""What the explorer works on: a model with vectors, pairs and tasks, and what a state means there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..interventions.activation import ActivationSteering
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import CacheSteering
from ..interventions.controls import random_controls
from ..interventions.prompt import CoTPrompt, ForcedPrefix
from ..models.model import Model
from ..tasks import NAMES, get
from ..tasks.base import Question, Task
from ..vectors.activation import ActivationVectors
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .results.comparison import Asked
from .state import Arm, ExplorerState


@dataclass
class Workspace:
    """A model, and everything that the explorer's states name.

    Attributes:
        model: the model.
        vectors: sets of vectors by name.
        activations: vectors of the residual stream, by the names of the sets they belong to.
        pairs: contrastive sets by name; what is missing is extracted from them.
        differences: the differences of single pairs, by name.
        tasks: tasks by name; one of the package's is loaded when it is asked for.
        sources: for sets that were loaded by hand, the file or repository.
        extracted: names of the sets whose activations were extracted from their pairs here.
        pair_texts: for each set of `differences`, what each pair asks, where that is known.

    Raises:
        ValueError: no vectors, or some of another model.
    """

    model: Model
    vectors: dict[str, KVVectors]
    activations: dict[str, ActivationVectors] = field(default_factory=dict)
    pairs: dict[str, ContrastiveSet] = field(default_factory=dict)
    differences: dict[str, PairDifferences] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    extracted: set[str] = field(default_factory=set)
    pair_texts: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError("The explorer needs vectors; pass a KVVectors, or {name: KVVectors}.")
        for vectors in self.vectors.values():
            vectors.check_fits(self.model)
        for residuals in self.activations.values():
            residuals.check_fits(self.model)
        for differences in self.differences.values():
            differences.mean().check_fits(self.model)

    # --- what is asked ----------------------------------------------------------------------------------------

    @property
    def task_names(self) -> list[str]:
        """Tasks that can be chosen, those at hand first."""
        return list(dict.fromkeys([*self.tasks, *NAMES]))

    def task(self, name: str) -> Task:
        """A task by its name; it is kept.

        Raises:
            ValueError: no such task, or its files aren't there.
        """
        if name not in self.tasks:
            self.tasks[name] = get(name)
        return self.tasks[name]

    def questions(self, state: ExplorerState, n: int) -> list[Question]:
        """The first `n` questions of the state's task and split, in the task's own order."""
        assert state.task is not None
        return self.task(state.task).questions(state.split, n)

    def asked(self, state: ExplorerState) -> Asked:
        """What the state asks.

        Raises:
            ValueError: an empty prompt, no such task, split or question.
        """
        if state.task is None:
            if not state.prompt.strip():
                raise ValueError("The prompt is empty; write something, or choose a task's question.")
            return Asked(state.prompt)
        question = self.questions(state, state.question + 1)[state.question]
        task = self.task(state.task)
        return Asked(task.chat(question), task, question)

    def check_slot(self, asked: Sequence[Asked], slot: int) -> None:
        """Refuse a slot that one of the prompts doesn't have."""
        if slot == -1:  # each has it
            return
        shortest = min(len(self.model.encode(each.prompt)) for each in asked)
        if not -shortest <= slot < shortest:
            which = "shortest prompt" if len(asked) > 1 else "prompt"
            raise ValueError(
                f"There is no position {slot}: the {which} has {shortest} tokens; choose {-shortest} to {shortest - 1}."
            )

    # --- what is compared -------------------------------------------------------------------------------------

    def mix(self, state: ExplorerState) -> KVVectors:
        """The weighted sum of the state's sets of vectors; one set of weight 1 is that set itself.

        Raises:
            ValueError: an unknown set, only zero weights, or sets that can't be combined.
        """
        weights = self._weights(state)
        first, *others = (
            self.vectors[name] if weight == 1 else weight * self.vectors[name] for name, weight in weights.items()
        )
        for other in others:
            first = first + other
        return first

    def steering(self, state: ExplorerState) -> CacheSteering:
        """The state's cache steering."""
        ck, cv = (state.ck if "keys" in state.part else 0.0), (state.cv if "values" in state.part else 0.0)
        for what, chosen in (("layers", state.layers), ("KV heads", state.heads)):
            if chosen == ():
                raise ValueError(f"No {what} are chosen, so nothing would be steered; switch some on.")
        return CacheSteering(
            self.mix(state), ck, cv, layers=state.layers, heads=state.heads, slot=state.slot, name="cache steering"
        )

    def intervention(self, arm: Arm, state: ExplorerState) -> Intervention:
        """One arm of the comparison, as the state sets it up; it is labelled by the arm's name."""
        if arm == "baseline":
            return Nothing()
        if arm == "CoT prompt":
            return CoTPrompt(state.cot)
        if arm == "forced prefix":
            return ForcedPrefix(state.prefix, name=arm)
        if arm == "activation steering":
            vectors, coefficient = self.activation(state)
            return ActivationSteering(vectors, state.activation_layer, coefficient, state.every_token, name=arm)
        steering = self.steering(state)
        return steering if arm == "cache steering" else random_controls(steering, 1, state.control_seed)[0]

    def further_controls(self, state: ExplorerState) -> list[Intervention]:
        """The random controls after the first, which is an arm; none if that arm isn't compared."""
        if "random control" not in state.arms:
            return []
        return [*random_controls(self.steering(state), state.n_controls, state.control_seed)[1:]]

    def interventions(self, state: ExplorerState) -> dict[Arm, Intervention]:
        """All arms of the state, each checked against the model."""
        found = {arm: self.intervention(arm, state) for arm in state.arms}
        for method in found.values():
            method.check(self.model)
        return found

    def activation(self, state: ExplorerState) -> tuple[ActivationVectors, float]:
        """Vectors of the residual stream for the state's set, and their coefficient.

        Raises:
            ValueError: a mix of several sets, or no such vectors.
        """
        weights = self._weights(state)
        if len(weights) > 1:
            raise ValueError(
                "Activation steering takes one set of vectors, not a mix; choose one set, or leave activation steering"
                " out."
            )
        ((name, weight),) = weights.items()
        if name not in self.activations:
            raise ValueError(
                f"Activation steering needs vectors of the residual stream for {name!r}; pass kv.explore"
                " activations=... or pairs=..."
            )
        return self.activations[name], weight * state.activation_coefficient

    def tell_of_other_weights(self, state: ExplorerState) -> list[str]:
        """What there is to warn of in the state's vectors: that they were extracted from other weights, or in another
        dtype.
        """
        said = [self.vectors[name].card.tell_of_other_weights(self.model) for name in self._weights(state)]
        return list(dict.fromkeys(filter(None, said)))

    # --- what is added later ----------------------------------------------------------------------------------

    def load_vectors(self, source: str) -> str:
        """Read vectors from a file, a folder or a hub repository; they get its name, which is returned.

        Raises:
            ValueError: nothing there, no vectors, or vectors of another model.
        """
        if not source.strip():
            raise ValueError("The name of the vectors' file is empty; give a file, a folder or a hub repository.")
        found = KVVectors.load(source.strip())
        found.check_fits(self.model)
        self.vectors[source.strip()] = found
        self.sources[source.strip()] = source.strip()
        return source.strip()

    def _weights(self, state: ExplorerState) -> dict[str, float]:
        weights = {name: weight for name, weight in state.mix.items() if weight}
        if not weights:
            raise ValueError("All weights of the mix are zero; give one of the sets of vectors some weight.")
        if unknown := [name for name in weights if name not in self.vectors]:
            raise ValueError(
                f"There are no vectors called {unknown[0]!r} here, only {', '.join(map(repr, self.vectors))}; load them"
                " first, or choose others."
            )
        return weights


def by_name(given: Any, kind: type, name: str, single: str) -> dict[str, Any]:
    """One object, called `single`, or several by name, as a dict of its own.

    Raises:
        ValueError: something else.
    """
    found = {} if given is None else dict(given) if isinstance(given, Mapping) else {single: given}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, kind):
            raise ValueError(
                f"{name} must be a kv.{kind.__name__}, or {{name: kv.{kind.__name__}}}, not {value!r:.80}."
            )
    return found
