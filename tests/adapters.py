"""Random Llamas with a LoRA adapter, in both ways that there are to put one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import build
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils.peft_utils import check_peft_version


def lora(**other: Any) -> Any:
    peft = pytest.importorskip("peft", reason="the adapter tests need peft")
    settings = dict(
        r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return peft.LoraConfig(**{**settings, **other})


def with_peft(folder: Path) -> Any:
    import peft

    torch.manual_seed(5)
    return peft.get_peft_model(build("llama"), lora())


def with_add_adapter(folder: Path) -> Any:
    try:
        check_peft_version(min_version=MIN_PEFT_VERSION)
    except ValueError as error:
        pytest.skip(f"transformers takes no adapter from this peft: {error}")
    torch.manual_seed(5)
    hf = build("llama")
    hf.add_adapter(lora())
    return hf
