"""Prefill, extraction, edit and decoding in nnsight traces that may run elsewhere: `remote=` of nnsight.

Inside a block that is sent away nothing of this package may be named, for it isn't installed there: only torch, numbers
and tensors. `remote="local"` sends the block to this process, with this package hidden from it, which is how the tests
run; `True` asks NDIF, and a host's address another server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cloudpickle
import nnsight
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .lock import locked
from .model import Model

Remote = bool | str
"""`"local"`: simulated in this process; `True`: NDIF; another text: the address of a server like it."""


@contextmanager
def by_name_afterwards() -> Iterator[None]:
    """nnsight has cloudpickle send local modules as code from a remote trace on; whatever else sends functions in this
    process, a cluster's jobs say, is to send them by name again.

    >>> import cloudpickle
    >>> with by_name_afterwards():
    ...     cloudpickle.register_pickle_by_value(cloudpickle)
    >>> "cloudpickle" in cloudpickle.list_registry_pickle_by_value()
    False
    """
    before = cloudpickle.list_registry_pickle_by_value()
    try:
        yield
    finally:
        for name in cloudpickle.list_registry_pickle_by_value() - before:
            cloudpickle.unregister_pickle_by_value(ModuleType(name))  # by its name, for it may be gone


def check_remote(model: Model, remote: Remote) -> None:
    """Refuse what can't be sent away.

    Args:
        model: whose traces are to run elsewhere.
        remote: where.

    Raises:
        ValueError: a model without a name and tokenizer that a server could find it by, or `False`.

    >>> import kvsteer_lab as kv
    >>> check_remote(kv.load("tiny"), "local")
    """
    if not remote:
        raise ValueError("remote must say where: 'local' simulates a server, True is NDIF; leave it out for here.")
    if not hasattr(model.traced, "to_model_key"):
        raise ValueError(f"{model.name} has no tokenizer, so it can't be traced elsewhere; load it with one.")


@locked
@torch.no_grad()
@by_name_afterwards()
def read_last_slots(
    model: Model, ids: Int[Tensor, "prompts time"], mask: Int[Tensor, "prompts time"], remote: Remote
) -> tuple[Float[Tensor, "prompts layers kv_heads head_dim"], Float[Tensor, "prompts layers kv_heads head_dim"]]:
    """Keys and values of each prompt's last token, float32, from one trace elsewhere; nothing else comes back.

    Args:
        model: with weights or without.
        ids, mask: left-padded prompts.
        remote: where the trace runs.
    """
    traced, arguments, name = model.traced, model.forward_arguments(ids, mask), model.cache_argument
    with traced.trace(**arguments, use_cache=True, remote=remote):
        cache = getattr(traced.output, name)
        keys = nnsight.save(torch.stack([x.keys[:, :, -1].float().cpu() for x in cache.layers], 1))
        values = nnsight.save(torch.stack([x.values[:, :, -1].float().cpu() for x in cache.layers], 1))
    return keys, values


@locked
@torch.no_grad()
@by_name_afterwards()
def steer_and_generate(
    model: Model,
    ids: Int[Tensor, "rows time"],
    mask: Int[Tensor, "rows time"],
    tail: Int[Tensor, "rows read"],
    keys: Float[Tensor, "rows layers kv_heads head_dim"],
    values: Float[Tensor, "rows layers kv_heads head_dim"],
    *,
    new: int,
    eos: Sequence[int],
    pad: int,
    remote: Remote,
) -> Int[Tensor, "rows new"]:
    """Prefill, add to the last slot, read the tail and decode greedily, as one job elsewhere: token ids come back.

    Args:
        model: with weights or without.
        ids, mask: left-padded prompts, which fill the cache.
        tail: what is read from the edited cache, equally long in all rows.
        keys, values: what is added to each row's last slot.
        new: tokens at most.
        eos: end tokens.
        pad: fills rows that have ended.
        remote: where the job runs.
    """
    traced, arguments, name = model.traced, model.forward_arguments(ids, mask), model.cache_argument
    whole, seen = torch.cat([ids, tail], 1), torch.cat([mask, torch.ones_like(tail)], 1)
    settings: dict[str, Any] = dict(do_sample=False, max_new_tokens=new, eos_token_id=list(eos), pad_token_id=pad)
    with traced.session(remote=remote):
        with traced.trace(**arguments, use_cache=True):
            cache = getattr(traced.output, name)
            for layer, x in enumerate(cache.layers):
                x.keys[:, :, -1] += keys[:, layer].to(x.keys)
                x.values[:, :, -1] += values[:, layer].to(x.values)
        with traced.generate(input_ids=whole, attention_mask=seen, **{name: cache}, **settings) as tracer:
            out = tracer.result.save()
    return out[:, whole.shape[1] :]
