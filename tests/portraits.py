"""What a caller's module tree looks like, to tell whether a library changed it."""

from __future__ import annotations

from typing import Any

from torch import nn


def portrait(module: nn.Module) -> dict[str, Any]:
    """Everything about a module tree that a library might change behind its owner's back."""
    return {
        name: (
            type(m),
            id(m),
            m.training,
            sorted(m.__dict__),
            m.__dict__.get("forward"),
            {hooks: list(getattr(m, hooks)) for hooks in vars(m) if hooks.endswith("_hooks")},
            {k: id(v) for k, v in m._parameters.items()},
            {k: id(v) for k, v in m._buffers.items()},
            {k: id(v) for k, v in m._modules.items()},
        )
        for name, m in module.named_modules()
    }
