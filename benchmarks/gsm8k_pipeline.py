"""The whole pipeline on real text: GSM8K's train questions and human steps, vectors, test questions generated.

It shows that the pipeline runs and how long it takes. The bundled model can't do GSM8K, so nothing is said about
accuracy. The files come from the folder that KVSTEER_DATA_DIR names (or --data-dir).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import models
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.models.tokens import encode
from kvsteer_lab.tasks.base import Question
from kvsteer_lab.tasks.gsm8k import GSM8K


class ShortGSM8K(GSM8K):
    """GSM8K whose train questions are those that take at most `most` tokens with their human steps.

    The bundled tokenizer, trained on another text, spends two to three times a large vocabulary's tokens on this one:
    with any questions as examples, about one five-shot prompt in seven would exceed the context of 2,048.
    """

    def __init__(self, data_dir: Path | None, tokens: Callable[[str], int], most: int) -> None:
        super().__init__(data_dir)
        self.tokens = tokens
        self.most = most

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        """As in GSM8K; the long ones left out, of the extraction split only."""
        if split != "extraction":
            return super().questions(split, n, seed)
        found = [
            q
            for q in super().questions(split, None, seed)
            if self.tokens(f"{q.text}\n{q.replies['stepwise']}") <= self.most
        ]
        if n is not None and n > len(found):
            raise ValueError(f"{len(found)} questions take at most {self.most} tokens, fewer than {n}.")
        return found[:n]


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    pairs: int = 200,
    shots: int = 5,
    questions: int = 100,
    tokens: int = 128,
    keys_dose: float = 0.25,
    values_dose: float = 1.0,
    batch: int = 16,
    data_dir: Path | None = None,
    out: Path | None = None,
) -> Path:
    """Run it once.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights.
        pairs: contrastive pairs, style "stepwise" against "direct".
        shots: worked examples in each prompt.
        questions: test questions generated, each as it is and steered.
        tokens: the most new tokens.
        keys_dose: size of what is added to the keys, in units of the slot's own norm (mean over layers 1 and above).
        values_dose: the same for the values.
        batch: prompts in one trace of the extraction. (Rows decoded together: 64.)
        data_dir: folder with GSM8K's files; by default KVSTEER_DATA_DIR.
        out: folder for the JSON file.
    """
    warnings.filterwarnings("ignore", message="Token indices")
    clock = measure.Clock(device)
    seconds: dict[str, dict[str, float]] = {}

    def step(name: str, run: Callable[[], Any]) -> Any:
        wall = time.perf_counter()
        spent, result = clock.time(run)
        seconds[name] = {"clock": round(spent, 3), "wall": round(time.perf_counter() - wall, 3)}
        print(f"{name:12s} {seconds[name]['wall']:8.2f} s wall  {seconds[name]['clock']:8.2f} s {clock.name}")
        return result

    loaded = models.load(model, device, getattr(torch, dtype))

    def length(text: str) -> int:
        return len(encode(loaded.tokenizer, text))

    template = 20  # role names and turn ends of one example
    most = (loaded.context or 2048) // (shots + 1) - template
    task = ShortGSM8K(data_dir, length, most)
    everything = len(GSM8K(data_dir).questions("extraction"))
    chosen = len(task.questions("extraction"))
    contrast = step(
        "pairs", lambda: kv.ContrastiveSet.few_shot(task, loaded.tokenizer, style="stepwise", n=pairs, shots=shots)
    )
    lengths = {side: [length(text) for text in getattr(contrast, side)] for side in ("positive", "negative")}
    for side, found in lengths.items():
        print(f"  {side}: {min(found)} to {max(found)} tokens, median {statistics.median(found):g}")
    print(f"  examples and questions are among the {chosen} of {everything} that take at most {most} tokens")
    vectors = step("extraction", lambda: kv.extract(loaded, contrast, batch_size=batch, progress=False))
    chats = [task.chat(q) for q in task.questions("test", questions, 0)]
    norms = vectors.relative_to(loaded, chats[:16])[1:].mean()
    ck, cv = keys_dose / float(norms["keys"]), values_dose / float(norms["values"])
    steering = kv.CacheSteering(vectors, ck=ck, cv=cv)
    wanted = {"max_new_tokens": tokens}
    baseline = step("baseline", lambda: kv.generate(loaded, chats, generation=wanted))
    steered = step("steered", lambda: kv.generate(loaded, chats, steering, generation=wanted))
    together = step("both forked", lambda: kv.generate(loaded, chats, [kv.Nothing(), steering], generation=wanted))
    print(f"steered:  {steered.texts[0][:160]!r}\nbaseline: {baseline.texts[0][:160]!r}")
    asked = [len(loaded.encode(chat)) for chat in chats]
    result = dict(
        seconds=seconds,
        examples=dict(of=everything, short_enough=chosen, most_tokens=most),
        prompt_tokens={side: _range(found) for side, found in lengths.items()} | {"test": _range(asked)},
        new_tokens={
            name: _range([len(ids) for ids in rows.token_ids])
            for name, rows in (("baseline", baseline), ("steered", steered))
        },
        texts_changed=sum(a != b for a, b in zip(baseline.texts, steered.texts, strict=True)),
        rows_forked=len(together.rows),
        same_forked=[*together.token_ids[::2], *together.token_ids[1::2]] == [*baseline.token_ids, *steered.token_ids],
        coefficients=dict(ck=round(ck, 3), cv=round(cv, 3)),
    )
    settings = dict(
        model=model,
        pairs=pairs,
        shots=shots,
        questions=questions,
        tokens=tokens,
        keys_dose=keys_dose,
        values_dose=values_dose,
        batch=batch,
    )
    return measure.write(f"gsm8k_pipeline-{model}", measure.environment(clock, loaded.dtype), settings, result, out)


def _range(lengths: list[int]) -> dict[str, float]:
    return dict(least=min(lengths), median=statistics.median(lengths), most=max(lengths))


if __name__ == "__main__":
    tyro.cli(main)
