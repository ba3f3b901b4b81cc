"""The bundled models' tokenizer: byte-level BPE, so any text encodes, with a ChatML-like template."""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kvsteer_lab.tasks.styles import STYLES
from organisms.corpus import conversation, drill

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 2048
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def build_tokenizer(seed: int = 0, conversations: int = 600) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a sample of the corpus.

    Words, numbers up to 99 with their leading space, and single newlines never merge with their neighbours: a
    newline is one token wherever it stands, so the template's last token can be appended to a prompt as an id.
    """
    rng = random.Random(f"tokenizer/{seed}")
    texts = ["system", "user", "assistant"] * 50
    for style in STYLES:
        for _ in range(conversations):
            for asked, replied in conversation(rng, style, 1) + drill(rng):
                texts += [asked, replied]
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\n| ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
