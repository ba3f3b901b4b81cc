"""Runs of the release: what was asked of which model, what it answered, and what the file itself claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from .sources import shown

KINDS = ("baseline", "CoT", "steered", "steered + CoT", "activation", "activation + CoT")
"""Nothing; the prompt "Let's think step by step"; cache steering; both; activation steering; both."""


@dataclass(frozen=True)
class Answer:
    """One reply to one question.

    Attributes:
        id: the question's, in the file; with a number after it where a file asks a question more than once.
        target: the gold answer.
        text: the whole reply: with closing words and end marks.
        stored: metric -> what the file says was read from the reply.
        prompt: what was asked, as the model saw it; empty if the file does not tell.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.published.Answer("q1", "A", "So the correct choice is A.").target
        'A'
    """

    id: str
    target: str
    text: str
    stored: Mapping[str, Any] = field(repr=False, default_factory=dict)
    prompt: str = field(repr=False, default="")


@dataclass(frozen=True)
class ReleasedRun:
    """One file of the release.

    Attributes:
        file: its path below the release.
        arguments: the settings that it was run with.
        metrics: name -> the accuracy that the file claims.
        answers: in the file's order.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings = {"model": "m", "task": "arc", "c_values": 6.0}
        >>> run = kv.published.ReleasedRun("cv6.json", settings, {"augmented_extract": 1.0}, (answer,))
        >>> run.kind, run.setting, run.decoding
        ('steered', 'cv6', 'greedy')
    """

    file: str
    arguments: Mapping[str, Any] = field(repr=False)
    metrics: Mapping[str, Any]
    answers: tuple[Answer, ...] = field(repr=False)

    @property
    def model(self) -> str:
        return shown(str(self.arguments["model"]))

    @property
    def task(self) -> str:
        return shown(str(self.arguments["task"]))

    @property
    def style(self) -> str | None:
        """The style that a style-transfer run asks for."""
        name = self.arguments.get("style_name")
        return None if name is None else shown(str(name))

    @cached_property
    def kind(self) -> str:
        """One of `KINDS`, by the arguments: coefficients or a vector mean steering, a multiplier activation
        steering.
        """
        has = {
            name for name in ("c_keys", "c_values", "vector_id", "multiplier") if self.arguments.get(name) is not None
        }
        prompted = bool(self.arguments.get("append_prefix_to_prompt"))
        if not has:
            return "CoT" if prompted else "baseline"
        return ("activation" if has == {"multiplier"} else "steered") + (" + CoT" if prompted else "")

    @property
    def group(self) -> str:
        """The family of comparisons that it belongs to: `"steering"`, `"activation"`, `"ablation"`, `"search"` or
        `"style"`. An ablation or a search is known by its name or its folder.
        """
        if self.style is not None:
            return "style"
        named = f"{self.arguments.get('experiment_name')}/{'/'.join(PurePosixPath(self.file).parts[:-2])}".lower()
        words = re.split(r"[\W_]+", named)
        for group in ("search", "ablation"):
            if group in words:
                return group
        return "activation" if self.kind.startswith("activation") else "steering"

    @property
    def max_new_tokens(self) -> int | None:
        """The limit of a reply's length; `None` if the file does not tell."""
        found = self._generation("max_new_tokens")
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    @property
    def sampled(self) -> bool:
        """Whether replies were sampled."""
        return bool(self._generation("do_sample"))

    @property
    def seed(self) -> int | None:
        """The seed of sampling; `None` for greedy decoding, or if the file does not tell."""
        found = self._generation("seed")
        return found if self.sampled and isinstance(found, int) and not isinstance(found, bool) else None

    @property
    def decoding(self) -> str:
        """How answers were decoded: "greedy", or the settings of sampling. The limit is `max_new_tokens`."""
        settings = [
            f"{short}={self._generation(name)}"
            for name, short in (("temperature", "T"), ("top_p", "p"), ("top_k", "k"))
            if self._generation(name)
        ]
        return shown(", ".join(["sampled", *settings]) if self.sampled else "greedy")

    @property
    def cell(self) -> tuple[str, ...]:
        """What two runs must share to be compared: model, task, decoding, and how the prompt is made.

        The limit of new tokens is not among it: baselines and steered runs of one cell were released with different
        limits. Comparisons across limits say so.
        """
        made = [
            str(self.arguments.get(name))
            for name in ("subtask", "num_fewshot_prompt", "encoding_method", "system_prompt")
        ]
        return (self.model, short_task(self.task), self.decoding, *made)

    @property
    def setting(self) -> str:
        """What was varied between steered runs: coefficients or multiplier, and pairs x examples the vector was made
        of.
        """
        if self.kind in ("baseline", "CoT"):
            return ""
        a = self.arguments
        parts = [
            f"{short}{a[name]:g}"
            for name, short in (("c_keys", "ck"), ("c_values", "cv"), ("multiplier", "m"))
            if _is_number(a.get(name)) and a[name]
        ]
        if a.get("multiplier") is not None:
            parts.append(f"layer {a.get('layers')}")
        pairs, shots = a.get("n_contrastive_samples"), a.get("num_fewshot_examples")
        parts += [f"{pairs}x{shots}"] if pairs is not None and shots is not None else []
        parts += [f"cluster {a['cluster_id']}"] if a.get("cluster_id") is not None else []
        return shown(" ".join(parts) or "c0")

    def _generation(self, name: str) -> Any:
        nested = self.arguments.get("generation_kwargs")
        found = self.arguments.get(name)
        return nested.get(name) if found is None and isinstance(nested, Mapping) else found


def short_model(name: str) -> str:
    """A model's name without its owner and without "-Instruct"."""
    return name.rpartition("/")[2].removesuffix("-Instruct").removesuffix("-instruct")


def short_task(name: str) -> str:
    """A task's name without "-oai", which tells who wrote the demonstrations and not what is asked."""
    return name.removesuffix("-oai")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
