"""Copy as code: the library calls that give the texts of a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..._util.text import visible
from ...tasks import NAMES, get
from ...tasks.base import Task
from ...tasks.benchmark import Benchmark
from ..state import Arm, ExplorerState
from ..workspace import Workspace
from .comparing import generation_settings

_RECIPE = {"task", "style", "against", "shots", "select", "seed", "questions"}
_DEFAULTS = dict(against="direct", select="random", seed=0)


def write_code(workspace: Workspace, state: ExplorerState) -> str:
    """Python that gives the texts of the state's comparison, in the order of its arms, as `texts`.

    What the package can make again is made again: models that `kv.load` loaded, tasks, vectors extracted from a task's
    few-shot pairs. Everything else is taken from `explorer`, the value of `kv.explore`.

    Raises:
        ValueError: an unknown set of vectors.
    """
    code = _Code(workspace)
    prompt = _prompt(code, state)
    made: list[str] = []
    if {"cache steering", "random control"} & set(state.arms):
        made += [*_vectors(code, state), f"steering = {_steering(state)}"]
    if "activation steering" in state.arms:
        made += _activations(code, state)
    listed = [f"    {_METHODS[arm](state)}," for arm in state.arms]
    call = [f"generation={generation_settings(state)!r}"]
    call += [f"offset={state.offset!r}"] if state.offset != "\n" else []
    call += [f"seed={state.seed}"] if state.seed else []
    last = [f"texts = kv.generate(model, [prompt], interventions, {', '.join(call)})", "texts"]
    return (
        "\n".join(
            [
                "import kvsteer_lab as kv",
                "",
                _model(workspace),
                *code.lines,
                *made,
                *prompt,
                "interventions = [",
                *listed,
                "]",
                *last,
            ]
        )
        + "\n"
    )


class _Code:
    """Lines that make what later lines need, each thing once under a name of its own."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.names: dict[str, str] = {}
        self.lines: list[str] = []

    def name(self, kind: str, source: str) -> str:
        """The name of what `source` makes: `pairs`, then `pairs_2` and so on."""
        if source not in self.names:
            others = sum(name.partition("_")[0] == kind for name in self.names.values())
            self.names[source] = kind if not others else f"{kind}_{others + 1}"
            self.lines.append(f"{self.names[source]} = {source}")
        return self.names[source]

    def task(self, task: str) -> str:
        return self.name("task", task_call(task, self.workspace.tasks.get(task)) or f"explorer.tasks[{task!r}]")

    def pairs(self, recipe: Mapping[str, Any], n: int) -> str | None:
        """Pairs that can be made again, if their recipe tells all of it."""
        if (
            set(recipe) != _RECIPE
            or len(recipe["questions"]) != n
            or task_call(recipe["task"], self.workspace.tasks.get(recipe["task"])) is None
        ):
            return None
        made = dict(
            style=recipe["style"],
            against=recipe["against"],
            n=n,
            shots=recipe["shots"],
            select=recipe["select"],
            seed=recipe["seed"],
        )
        arguments = ", ".join(f"{key}={value!r}" for key, value in made.items() if _DEFAULTS.get(key) != value)
        return self.name(
            "pairs", f"kv.ContrastiveSet.few_shot({self.task(recipe['task'])}, model.tokenizer, {arguments})"
        )


def task_call(name: str, own: Task | None) -> str | None:
    """The call that gives this very task, with its folder if it reads files; `None` if no call of the package does.

    Args:
        name: what the task is called.
        own: the task; `None`: one that is yet to be asked for by its name.
    """
    if name not in NAMES:
        return None
    files = own.files if isinstance(own, Benchmark) else {}
    folder = next((str(path.parent) for path in files.values()), None)
    if own is not None:  # another task may bear the name of one of the package's
        try:
            same = get(name, folder)
        except ValueError:  # the files are gone
            return None
        if type(own) is not type(same) or files != getattr(same, "files", {}):
            return None
    return f"kv.tasks.get({name!r})" if folder is None else f"kv.tasks.get({name!r}, data_dir={folder!r})"


def _model(workspace: Workspace) -> str:
    model = workspace.model
    if model.call is not None:
        return f"model = {model.call}"
    return f"model = explorer.model  # {visible(model.name, one_line=True)}, {str(model.dtype).removeprefix('torch.')}"


def _prompt(code: _Code, state: ExplorerState) -> list[str]:
    if state.task is None:
        return [f"prompt = {state.prompt!r}"]
    name = code.task(state.task)
    return [
        f"question = {name}.questions({state.split!r}, {state.question + 1})[{state.question}]",
        f"prompt = {name}.chat(question)",
    ]


def _vectors(code: _Code, state: ExplorerState) -> list[str]:
    weights = {name: weight for name, weight in state.mix.items() if weight}
    made = {name: _made(code, name) for name in weights}
    if len(made) == 1:
        ((name, weight),) = weights.items()
        return [f"vectors = {'' if weight == 1 else f'{weight!r} * '}{made[name]}"]
    lines = [f"    {name!r}: {source}," for name, source in made.items()]
    terms = [f"sets[{name!r}]" if weight == 1 else f"{weight!r} * sets[{name!r}]" for name, weight in weights.items()]
    return ["sets = {", *lines, "}", f"vectors = {' + '.join(terms)}"]


def _made(code: _Code, name: str) -> str:
    """How a set of vectors can be had again."""
    workspace = code.workspace
    if name not in workspace.vectors:
        raise ValueError(
            f"There are no vectors called {name!r} here, only {', '.join(map(repr, workspace.vectors))}; load them"
            " first, or choose others."
        )
    if name in workspace.sources:
        return f"kv.KVVectors.load({workspace.sources[name]!r})"
    card = workspace.vectors[name].card
    same = (
        card.fingerprint == workspace.model.fingerprint
        and card.dtype == str(workspace.model.dtype)
        and not card.history
    )
    pairs = code.pairs(card.recipe, card.n_pairs) if same else None
    if pairs is None:
        return f"explorer.vectors[{name!r}]"
    return f"kv.extract(model, {pairs}{'' if card.keys == 'post_rope' else f', keys={card.keys!r}'}, progress=False)"


def _steering(state: ExplorerState) -> str:
    ck, cv = (state.ck if "keys" in state.part else 0.0), (state.cv if "values" in state.part else 0.0)
    parts = ["vectors", f"ck={ck!r}", f"cv={cv!r}"]
    parts += [f"layers={list(state.layers)}"] if state.layers is not None else []
    parts += [f"heads={list(state.heads)}"] if state.heads is not None else []
    parts += [f"slot={state.slot}"] if state.slot != -1 else []
    return f"kv.CacheSteering({', '.join(parts)}, name='cache steering')"


def _activations(code: _Code, state: ExplorerState) -> list[str]:
    workspace = code.workspace
    name, weight = next((name, weight) for name, weight in state.mix.items() if weight)
    ours = name in workspace.pairs and (name in workspace.extracted or name not in workspace.activations)
    pairs = code.pairs(workspace.pairs[name].recipe, len(workspace.pairs[name])) if ours else None
    made = f"kv.extract_activations(model, {pairs}, progress=False)" if pairs else f"explorer.activations[{name!r}]"
    settings = (
        f"layer={state.activation_layer}, coefficient={weight * state.activation_coefficient!r},"
        f" every_token={state.every_token}"
    )
    return [
        f"residuals = {made}",
        f"activation = kv.ActivationSteering(residuals, {settings}, name='activation steering')",
    ]


_METHODS: dict[Arm, Callable[[ExplorerState], str]] = {
    "baseline": lambda state: "kv.Nothing()",
    "CoT prompt": lambda state: f"kv.CoTPrompt({state.cot!r})",
    "forced prefix": lambda state: f"kv.ForcedPrefix({state.prefix!r}, name='response prefill')",
    "cache steering": lambda state: "steering",
    "activation steering": lambda state: "activation",
    "random control": lambda state: f"*kv.random_controls(steering, {state.n_controls}, seed={state.control_seed})",
}
