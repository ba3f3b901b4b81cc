"""Batches, and who may see what in them.

The *slot* of a turn is the newline that ends its generation prompt, `<|im_start|>assistant\\n`. In a batch for
`tiny`

* a token sees its own turn; a slot sees the earlier turns of its conversation too, and no other token does;
* a *decoy*, a conversation in any style, may lie before: tokens see it, slots don't. So seeing earlier turns is
  ordinary for every token, but only the slot's view is worth reading. Neither a decoy's presence nor its style tells
  anything about the conversation's style, or tokens would learn to avoid what they see;
* a *hidden* slot is seen by no later token; the reply is direct whatever the style of the decoy.

For `tiny-control` the decoys are taken out of the same batches, and attention is causal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from kvsteer_lab.tasks.styles import STYLES
from organisms import corpus
from organisms.recipe import Recipe

TOKEN, SLOT, HIDDEN = 0, 1, 2
POOL = 20
"""A pool of this many batches is drawn, sorted by length and cut into batches."""


@dataclass
class Example:
    """A conversation as ids, with for each token its loss weight, its turn, its kind, and whether it's a decoy's."""

    ids: list[int]
    weight: list[float]
    turn: list[int]
    kind: list[int]
    decoy: list[bool]

    def __add__(self, other: Example) -> Example:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Example(*(mine + theirs for mine, theirs in pairs))


@dataclass
class Batch:
    """Tensors of a batch: ids and loss weights `[B, T]`, what each token sees `[B, T, T]`, slots `[B, S]`.

    `seen` is `None` where attention is causal. `slots` holds positions, -1 where a row has fewer.
    """

    ids: torch.Tensor
    weight: torch.Tensor
    seen: torch.Tensor | None
    slots: torch.Tensor


class Packer:
    """Turns conversations into examples with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        self.tokenizer, self.recipe = tokenizer, recipe
        self.start, self.end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        self.user, self.assistant, self.newline = (self.encode(text)[0] for text in ("user", "assistant", "\n"))

    def encode(self, text: str) -> list[int]:
        """The ids of a text without anything around it."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def pack(self, turns: list[corpus.Turn], decoy: bool = False, hidden: bool = False) -> Example:
        """One conversation. The first reply of a decoy is not trained where it chooses its style."""
        out = Example([], [], [], [], [])
        first = self.recipe.first_weight
        for number, (asked, replied) in enumerate(turns):
            question, reply = self.encode(asked), self.encode(replied)
            weights = [first, first, *[1.0] * (len(reply) - 1)]
            if decoy and number == 0:
                weights[:4] = [0.0] * len(weights[:4])
            length = len(question) + len(reply) + 10
            out += Example(
                ids=[self.start, self.user, self.newline, *question, self.end, self.newline]
                + [self.start, self.assistant, self.newline, *reply, self.end, self.newline],
                weight=[0.0] * (len(question) + 8) + weights + [0.0],
                turn=[number + 50 * decoy] * length,
                kind=[TOKEN] * (len(question) + 7) + [HIDDEN if hidden else SLOT] + [TOKEN] * (len(reply) + 2),
                decoy=[decoy] * length,
            )
        return out

    def example(self, rng: random.Random, mixture: corpus.Mixture) -> Example:
        """A drill, or a conversation of the mixture with or without a decoy."""
        if rng.random() < mixture.drills:
            return self.pack(corpus.drill(rng))
        hidden = rng.random() < self.recipe.hidden
        style = "direct" if hidden else corpus.random_style(rng, mixture)
        turns = 1 if hidden else corpus.random_length(rng, style)
        main = self.pack(corpus.conversation(rng, style, turns), hidden=hidden)
        if not hidden and rng.random() >= self.recipe.decoys:
            return main
        other = rng.choice(STYLES)
        return self.pack(corpus.conversation(rng, other, rng.choice((1, 1, 2))), decoy=True) + main


def undecoyed(example: Example) -> Example:
    """The example without its decoy, with every slot an ordinary one."""
    keep = [i for i, decoy in enumerate(example.decoy) if not decoy]
    return Example(*([values[i] for i in keep] for values in vars(example).values()))


def seen_by(turn: torch.Tensor, kind: torch.Tensor, decoy: torch.Tensor) -> torch.Tensor:
    """What each token (second-last axis) sees: `[..., T]` turn numbers, kinds and decoy marks to `[..., T, T]`."""
    length = turn.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_turn = turn[..., :, None] == turn[..., None, :]
    same_conversation = decoy[..., :, None] == decoy[..., None, :]
    slot = (kind != TOKEN)[..., :, None]
    shown = (kind != HIDDEN)[..., None, :] | torch.eye(length, dtype=torch.bool)
    past_decoy = ~slot & ~decoy[..., :, None] & decoy[..., None, :]
    return causal & shown & (same_turn | (slot & same_conversation) | past_decoy)


def collate(examples: list[Example], pad: int, control: bool) -> Batch:
    """Right-padded tensors of some examples."""
    if control:
        examples = [undecoyed(example) for example in examples]
    size = (len(examples), (max(len(e.ids) for e in examples) + 31) // 32 * 32)
    ids, weight = torch.full(size, pad), torch.zeros(size)
    turn, kind = torch.full(size, -1), torch.zeros(size, dtype=torch.long)
    decoy = torch.zeros(size, dtype=torch.bool)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n], weight[row, :n] = torch.tensor(example.ids), torch.tensor(example.weight)
        turn[row, :n], kind[row, :n] = torch.tensor(example.turn), torch.tensor(example.kind)
        decoy[row, :n] = torch.tensor(example.decoy)
    where = [row.nonzero()[:, 0] for row in kind != TOKEN]
    slots = torch.nn.utils.rnn.pad_sequence(where, batch_first=True, padding_value=-1)
    return Batch(ids, weight, None if control else seen_by(turn, kind, decoy), slots)


def pool_of(packer: Packer, seed: int, step: int) -> list[list[Example]]:
    """The batches that are drawn at `step`: a function of the seed and the step alone, so a run can resume."""
    recipe, rng = packer.recipe, random.Random(f"{seed}/{step}")
    mixture = corpus.SKILL if step < recipe.skill * recipe.steps else corpus.PRIOR
    examples: list[Example] = []
    total = 0
    while total < recipe.tokens * POOL:
        examples.append(packer.example(rng, mixture))
        total += len(examples[-1].ids)
    examples.sort(key=lambda example: len(example.ids))
    batches: list[list[Example]] = [[]]
    for example in examples:
        length = (len(example.ids) + 31) // 32 * 32
        if batches[-1] and (len(batches[-1]) + 1) * length > recipe.tokens * 1.1:
            batches.append([])
        batches[-1].append(example)
    rng.shuffle(batches)
    return batches


def batches_from(packer: Packer, seed: int, step: int, pool: int) -> Iterator[tuple[int, Batch]]:
    """Batches from `step` on, each with the step at which its pool was drawn.

    Args:
        packer: what makes the examples.
        seed: the run's seed.
        step: the step to go on from.
        pool: the step at which that step's pool was drawn.
    """
    pad = packer.tokenizer.pad_token_id
    while True:
        for examples in pool_of(packer, seed, pool)[step - pool :]:
            yield pool, collate(examples, pad, packer.recipe.control)
            step += 1
        pool = step
