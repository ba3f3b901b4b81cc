"""What a run is: everything that can change its texts, and everything that can change how they are read.

Which rows are batched together, the device, and where weights or vectors come from are left out: they change replies by
rounding at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from .._version import __version__
from ..generation.settings import resolve
from ..models.fingerprint import tokenizer_hash
from ..models.prompts import template_hash
from ..models.tokens import offset_token
from ..tasks.base import Question
from .code import is_foreign
from .identity import RunIdentity, describe, hash_of
from .plan import EvaluationPlan

_APART = frozenset(
    "transformers_version _from_model_config pad_token_id bos_token_id eos_token_id decoder_start_token_id max_length"
    " max_new_tokens stop_strings do_sample temperature top_k top_p min_p".split()
)
"""Settings of generation that have a place of their own in an identity, or that change nothing."""
_PASSING = frozenset("training layer_idx max_seq_len_cached gradient_checkpointing name_or_path".split())


def identify(plan: EvaluationPlan, questions: Sequence[Question]) -> RunIdentity:
    """The identity of a run.

    **Texts**: the package's version; every weight, the active adapters, the config, the modules and their attributes,
    the user's own forward hooks, dtype and attention implementation; tokenizer and chat template, and the token ids
    of every prompt under every method as they are really asked, template arguments and date included; settings of the
    evaluation and of generation, the model's own among them; interventions, with the code of the user's own.

    **Readings**: the code of each rule, what it refers to included; questions, gold answers and choices; and the
    sources of the package's own rules and styles.

    Args:
        plan: everything that is fixed but the questions.
        questions: all questions of the run.

    Raises:
        ValueError: an intervention or a hook that has no description (`describe`).
    """
    model, task = plan.model, plan.task
    texts = dict(
        version=__version__,
        model=dict(
            fingerprint=model.read_fingerprint(),
            modules=hash_of(list(_modules(model.hf))),
            dtype=model.dtype,
            attention=getattr(model.hf.config, "_attn_implementation", None),
            template=template_hash(model.tokenizer),
            tokenizer=tokenizer_hash(model.tokenizer),
        ),
        data=dict(task=task.name, questions=len(questions), prompts=_prompts(plan, questions)),
        settings=dict(
            seed=plan.seed,
            samples=plan.samples,
            offset=plan.offset,
            generation=_generation(plan),
            second_stage=plan.second_stage,
            closing=task.closing,
        ),
        interventions=[{"label": method.label, **describe(method)} for method in plan.methods],
    )
    if plan.backend is not None:
        texts["backend"] = dict(plan.backend.about)
    asked = [[q.id, q.text, q.answer, dict(q.choices)] for q in questions]
    readings = dict(
        rules={name: _rule(rule) for name, rule in task.rules.items()},
        answers=hash_of(describe(asked)),
        package=_sources(),
    )
    return RunIdentity(describe(texts), describe(readings))


def _rule(rule: Any) -> Any:
    try:
        return describe(rule)
    except (ValueError, RecursionError) as error:
        return {"unidentified": str(error).split(";")[0]}  # texts are then read again each time a run goes on


def _prompts(plan: EvaluationPlan, questions: Sequence[Question]) -> str:
    """The hash of all token ids that are read before the first new one, for every question and method."""
    tokenizer = plan.model.tokenizer
    offset = offset_token(tokenizer, plan.offset)
    digest = hashlib.sha256(json.dumps([method.tail(tokenizer, offset) for method in plan.methods]).encode())
    encoded: dict[str, str] = {}  # most methods ask the same thing
    for question in questions:
        chat = plan.task.chat(question)
        digest.update(json.dumps([question.id, list(question.choices) if plan.task.closing else []]).encode())
        for method in plan.methods:
            own = method.chat(chat)
            key = repr(own)
            if key not in encoded:
                encoded[key] = json.dumps(plan.model.encode(own))
            digest.update(encoded[key].encode())
    return digest.hexdigest()


def _generation(plan: EvaluationPlan) -> dict[str, Any]:
    """How the next token is chosen: what was asked for, and what the model's own generation config adds to it."""
    resolved = resolve(plan.model, plan.generation, chat=True)
    own, asked = plan.model.hf.generation_config.to_dict(), resolved.config.to_dict()
    used = {key: own.get(key) if asked.get(key) is None else asked[key] for key in sorted({*own, *asked} - _APART)}
    default = GenerationConfig().to_dict()
    stop = dict(stop=resolved.stop.strings) if resolved.stop else {}
    return dict(
        **stop,
        max_new_tokens=resolved.max_new_tokens,
        eos=resolved.eos,
        sample=resolved.sample,
        warpers=[{"class": type(warper).__name__, **vars(warper)} for warper in resolved.warpers],
        other={key: json.loads(json.dumps(v, default=str)) for key, v in used.items() if v != default.get(key)},
    )


def _modules(hf: PreTrainedModel) -> Iterator[Any]:
    """The modules of a model: classes, plain attributes (a scaling, a window), replaced forwards, the user's hooks."""
    adapted = tuple(f"{name}." for name, module in hf.named_modules() if hasattr(module, "adapter_layer_names"))
    for name, module in hf.named_modules():
        if any(name.startswith(start) and not name.startswith(f"{start}base_layer") for start in adapted):
            continue  # parts of an adapter: the fingerprint knows which of them are active
        own = {} if isinstance(module, PreTrainedModel) or hasattr(module, "adapter_layer_names") else _plain(module)
        hooks = [h for kind in ("_forward_hooks", "_forward_pre_hooks") for h in getattr(module, kind).values()]
        forward = [] if hasattr(module, "_hf_hook") else [vars(module).get("forward")]
        theirs = [describe(f) for f in (*hooks, *forward) if f is not None and is_foreign(getattr(f, "func", f))]
        yield [name, type(module).__qualname__, own, theirs]


def _plain(module: nn.Module) -> dict[str, Any]:
    found = {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name in _PASSING:
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(part, bool | int | float | str | torch.dtype | None) for part in parts):
            found[name] = describe(value)
    return found


def _sources(folder: Traversable | None = None) -> str:
    """The hash of the package's own rules and styles as they are installed, so that a change of them is noticed."""
    digest = hashlib.sha256()
    for part in sorted((folder or files("kvsteer_lab") / "tasks").iterdir(), key=lambda part: part.name):
        if part.is_dir() and not part.name.startswith("__"):
            digest.update(_sources(part).encode())
        elif part.name.endswith(".py"):
            digest.update(f"{part.name} ".encode() + part.read_bytes())
    return digest.hexdigest()
