"""The cache goes by another name from transformers 5.24 on: one file knows both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from random_models import build
from torch import nn

from kvsteer_lab.models.caches import cache_argument, cache_of

ROOT = Path(__file__).parents[2]


class OldModel(nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class NewModel(nn.Module):
    def forward(self, input_ids: Any, cache: Any = None, past_key_values: Any = None) -> None: ...


@dataclass
class OldOutput:
    past_key_values: Any = None


@dataclass
class NewOutput:
    """As transformers 5.24 has it: the old name still answers, with a warning."""

    cache: Any = None

    @property
    def past_key_values(self) -> Any:
        raise FutureWarning("`past_key_values` is deprecated")


@pytest.mark.parametrize(("model", "name"), [(OldModel(), "past_key_values"), (NewModel(), "cache")])
def test_a_forward_pass_takes_the_cache_by_the_newest_name_that_it_knows(model: Any, name: str) -> None:
    assert cache_argument(model) == name


def test_an_adapters_model_takes_the_cache_as_its_base_does() -> None:
    wrapped = OldModel()
    wrapped.peft_config, wrapped.get_base_model = {}, NewModel  # type: ignore[assignment]
    assert cache_argument(wrapped) == "cache"  # type: ignore[arg-type]


@pytest.mark.parametrize("output", [OldOutput("kept"), NewOutput("kept")])
def test_an_output_gives_the_cache_by_its_own_name(output: Any) -> None:
    assert cache_of(output) == "kept" and cache_of(type(output)()) is None and cache_of(object()) is None


def test_this_transformers_takes_the_cache_without_a_word_of_deprecation(recwarn: pytest.WarningsRecorder) -> None:
    hf = build("llama")
    cache = cache_of(hf(input_ids=hf.dummy_inputs["input_ids"][:1], use_cache=True))
    length = cache.get_seq_length()
    hf(input_ids=hf.dummy_inputs["input_ids"][:1, :1], use_cache=True, **{cache_argument(hf): cache})
    assert cache.get_seq_length() == length + 1
    assert not [str(w.message) for w in recwarn if "past_key_values" in str(w.message)]


def test_no_other_file_names_the_cache() -> None:
    """A call by the old name warns since 5.24 and fails from 5.40 on; one by the new name fails before 5.24."""
    named = re.compile(r"\bpast_key_values\b")
    places = ("kvsteer_lab", "tests", "benchmarks", "organisms", "notebooks")
    files = [f for place in places for f in (ROOT / place).rglob("*") if f.suffix in (".py", ".ipynb")]
    assert len(files) > 200
    found = {str(f.relative_to(ROOT)) for f in files if named.search(f.read_text(encoding="utf-8"))}
    assert found == {"kvsteer_lab/models/caches.py", "tests/models/test_caches.py", "tests/models/test_refusals.py"}
