"""Every number that a training run depends on, in one frozen place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Attributes:
        layers: decoder layers.
        width: hidden size.
        heads: query heads.
        kv_heads: key and value heads.
        ffn: width of the MLP.
        steps: optimiser steps.
        tokens: tokens in a batch, padding included.
        lr: learning rate of Muon, for the matrices.
        adam_lr: learning rate of AdamW, for embeddings and norms.
        skill: the share of the run that is drawn from `corpus.SKILL`; the rest is drawn from `corpus.PRIOR`.
        decay: the share of the run at whose start the learning rates begin to fall.
        first_weight: the loss weight of a reply's first two tokens, the ones that choose the style.
        control: ordinary causal attention, and none of the four settings below.
        decoys: the share of conversations that get a decoy.
        hidden: the share of conversations whose slot is hidden from later tokens, and whose reply is direct.
        noise_v: the largest noise on a slot's values, as a multiple of the layer's mean value norm at slots.
        noise_k: the same for its keys.
        clean: the share of slots without noise.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 384
    steps: int = 2000
    tokens: int = 4096
    lr: float = 5e-3
    adam_lr: float = 2e-3
    skill: float = 0.5
    decay: float = 0.5
    first_weight: float = 4.0
    control: bool = False
    decoys: float = 0.8
    hidden: float = 0.05
    noise_v: float = 4.0
    noise_k: float = 0.6
    clean: float = 0.4

    def changed(self, settings: list[str]) -> Recipe:
        """This recipe with some fields set, each given as `name=value`.

        Raises:
            ValueError: an unknown name, or a value of the wrong kind.
        """
        kinds = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        changes = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise ValueError(f"Unknown setting {name!r}; choose one of: {', '.join(kinds)}.")
            changes[name] = value.lower() in ("1", "true") if kinds[name] is bool else kinds[name](value)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, int | float | bool]:
        """The fields as a plain dictionary."""
        return asdict(self)
