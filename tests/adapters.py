"""Random Llamas with a LoRA adapter, in both ways that there are to put one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import build


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
    torch.manual_seed(5)
    hf = build("llama")
    hf.add_adapter(lora())
    return hf
