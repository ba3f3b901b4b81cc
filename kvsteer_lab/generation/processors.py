"""What stands between the model's logits and the next token, row by row of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import (
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from ..models.finite import NotFiniteError, broken_message, broken_rows

_READING = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids")
_BEGINNING = ("min_new_tokens", "begin_suppress_tokens")


class FiniteGuard(LogitsProcessor):
    """Notes in which step a row's logits first gave no distribution. Nothing leaves the device until `check`.

    Args:
        rows: rows in the batch.
    """

    def __init__(self, rows: int) -> None:
        self.step = 0
        self.first = torch.full((rows,), -1)

    def __call__(self, input_ids: Int[Tensor, "rows time"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        if self.step == 0:
            self.first = self.first.to(scores.device)
        self.first = torch.where((self.first < 0) & broken_rows(scores), self.step, self.first)
        self.step += 1
        return scores

    def check(self, lengths: Sequence[int], labels: Sequence[str]) -> None:
        """Refuse rows that broke before they ended.

        Args:
            lengths: how many tokens each row has; what happens in a row after its end is padding.
            labels: what each row is called.

        Raises:
            NotFiniteError: in some row.
        """
        first = self.first.tolist()
        broken = [label for label, at, n in zip(labels, first, lengths, strict=True) if 0 <= at < n]
        if broken:
            raise NotFiniteError(broken_message(broken))


class RealTokens(LogitsProcessor):
    """Lets processors that read the ids read each row's real tokens alone: padding and the holes between a prompt and
    what follows it are not part of the text, and differ with what else is in the batch.

    Args:
        processors: transformers' own, in its order.
        mask: `[rows, width]`, which of the ids given to `generate` are real.
    """

    def __init__(self, processors: Sequence[LogitsProcessor], mask: Int[Tensor, "rows width"]) -> None:
        self.processors = list(processors)
        self.mask = mask.bool()
        self.prompts: list[Tensor] = []

    def __call__(self, input_ids: Int[Tensor, "rows time"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        width = self.mask.shape[1]
        if not self.prompts:
            self.prompts = [row[:width][real] for row, real in zip(input_ids, self.mask, strict=True)]
        changed = []
        for row, prompt in enumerate(self.prompts):
            ids, part = torch.cat([prompt, input_ids[row, width:]])[None], scores[row : row + 1]
            for processor in self.processors:
                part = processor(ids, part)
            changed.append(part)
        return torch.cat(changed)


class Beginnings(LogitsProcessor):
    """What a row's first tokens may not be: an end before `min_new_tokens`, and anything that may not begin a text.
    Rows of a batch may have begun at different times.

    Args:
        config: the settings.
        said: how many new tokens each row has already.
    """

    def __init__(self, config: GenerationConfig, said: Sequence[int]) -> None:
        self.least = config.min_new_tokens or 0
        ends = config.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.barred = list(config.begin_suppress_tokens or [])
        self.said = list(said)

    def __call__(self, input_ids: Int[Tensor, "rows time"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        for tokens, until in ((self.ends, self.least), (self.barred, 1)):
            tokens = [token for token in tokens if token < scores.shape[-1]]
            early = torch.tensor([n < until for n in self.said], device=scores.device)
            if tokens and bool(early.any()):
                scores = scores.clone()
                at = torch.tensor(tokens, device=scores.device)
                scores[early.nonzero(), at] = -torch.inf
        self.said = [n + 1 for n in self.said]
        return scores


def split_off_beginnings(config: GenerationConfig) -> tuple[GenerationConfig, GenerationConfig | None]:
    """The settings without what concerns a text's first tokens.

    Args:
        config: resolved settings.

    Returns:
        A copy of the settings, and the settings themselves if they say anything of the first tokens.

    >>> from transformers import GenerationConfig
    >>> rest, own = split_off_beginnings(GenerationConfig(min_new_tokens=4))
    >>> rest.min_new_tokens, own.min_new_tokens
    (None, 4)
    """
    kept = {k: v for k, v in config.to_dict().items() if k not in _BEGINNING and v is not None}
    said = any(getattr(config, name) for name in _BEGINNING)
    return GenerationConfig(**kept), config if said else None


def split_off_readers(
    config: GenerationConfig, mask: Int[Tensor, "rows width"]
) -> tuple[GenerationConfig, list[LogitsProcessor]]:
    """The settings without penalties and bans that read the ids, and these as a processor of their own.

    Args:
        config: resolved settings.
        mask: which of the ids given to `generate` are real.

    Returns:
        A copy of the settings, and at most one processor.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> config = kv.load("tiny").hf.generation_config
    >>> split_off_readers(config, torch.ones(1, 3))[1]
    []
    """
    rest = GenerationConfig(**{k: v for k, v in config.to_dict().items() if k not in _READING and v is not None})
    found: list[LogitsProcessor] = []
    if config.repetition_penalty not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(int(config.no_repeat_ngram_size)))
    if config.bad_words_ids:
        eos = torch.tensor(config.eos_token_id, device=mask.device)
        found.append(NoBadWordsLogitsProcessor(config.bad_words_ids, eos))
    return rest, [RealTokens(found, mask)] if found else []
