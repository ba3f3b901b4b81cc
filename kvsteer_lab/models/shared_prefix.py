"""Prompts that begin alike: what they share is read once."""

from __future__ import annotations

from collections.abc import Sequence

from .model import Model

SHARED = 32
"""From how many tokens on a common beginning is worth a pass of its own."""
_WORTH = 256
"""How many tokens must be saved before a batch's common beginning gets a pass of its own."""
_FEW = 4  # prompts that begin alike for half of their length; fewer go with the others
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; each row's last token is left out.

    Args:
        rows: token ids.

    Returns:
        A number of tokens.

    >>> shared_length([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]])
    2
    """
    low, high = min(map(list, rows)), max(map(list, rows))  # in a dictionary's order: what these share, all share
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if low[i] != high[i]), most)


def beginning_alike(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of rows in groups that have at least half of their tokens in common, from the first on; what is alone or
    nearly so goes into one last group.

    Args:
        rows: token ids.

    Returns:
        Groups of row numbers, short rows first.

    >>> long = list(range(100))
    >>> beginning_alike([[*long, 1], [9, 9], [*long, 2], [*long, 3], [*long, 4, 5]])
    [[0, 2, 3, 4], [1]]
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        if groups:
            alike = shared_length([rows[groups[-1][-1]], rows[i]])
            if alike >= SHARED and 2 * alike >= len(rows[i]):
                groups[-1].append(i)
                continue
        groups.append([i])
    large = [group for group in groups if len(group) >= _FEW]
    rest = [i for group in groups if len(group) < _FEW for i in group]
    return [sorted(group, key=lambda i: (len(rows[i]), i)) for group in (*large, rest) if group]


def counts_slots(model: Model) -> bool:
    """Whether attention goes by slots: in sliding windows and GPT-Neo's local layers, and perhaps where the model takes
    no positions. A masked hole in a row would shift what it reads.

    Args:
        model: the model.

    Returns:
        Whether rows must be without holes.

    >>> import kvsteer_lab as kv
    >>> counts_slots(kv.load("tiny"))
    False
    """
    local = "local" in (getattr(model.hf.config, "attention_layers", None) or ())
    return local or any(model.shape.windows) or not model.accepts("position_ids")


def can_share(model: Model, rows: Sequence[Sequence[int]]) -> bool:
    """Whether rows may be read on from a common beginning: what follows it is padded on its left, so there are holes
    unless all rows are of one length, and no key may depend on how long the text becomes.

    Args:
        model: the model that runs.
        rows: token ids.

    Returns:
        Whether they may.

    >>> import kvsteer_lab as kv
    >>> can_share(kv.load("tiny"), [[1, 2], [1, 2, 3]])
    True
    """
    rope = getattr(model.hf.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(part.get("rope_type") for part in rope.values() if isinstance(part, dict))}
    if kinds & set(_LENGTH_DEPENDENT):
        return False
    return len({len(row) for row in rows}) == 1 or not counts_slots(model)


def worth_sharing(model: Model, rows: Sequence[Sequence[int]]) -> int:
    """How many tokens of these prompts to read once for all of them, before what follows in each: the chat template's
    system message, or the examples of a benchmark.

    Args:
        model: the model that runs.
        rows: token ids of different prompts.

    Returns:
        A number of tokens; 0 where a pass of its own would not pay, or where the model can't skip columns.

    >>> import kvsteer_lab as kv
    >>> examples = list(range(40))
    >>> worth_sharing(kv.load("tiny"), [[*examples, 50 + i] for i in range(8)])
    40
    """
    if len(rows) < 2 or counts_slots(model) or not can_share(model, rows):
        return 0
    shared = shared_length(rows)
    return shared if (len(rows) - 1) * shared >= _WORTH else 0
