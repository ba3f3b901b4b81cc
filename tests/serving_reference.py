"""What the library itself generates, steered and unsteered, for servers to be compared with: `python
serving_reference.py FOLDER [MODEL]` writes vectors and tokens there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import kvsteer_lab as kv

DOSES = (None, (0.0, 4.0), (0.0, 8.0), (0.3, 6.0))
"""Coefficients of keys and values; `None`: unsteered, the offset token read all the same."""
TOKENS = 24


def write_reference(folder: Path, name: str = "smollm2-135m", prompts: int = 12) -> Path:
    """Vectors, another model's vectors and `prompts` x `DOSES` greedy texts in float32."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    model, task = kv.load(name, dtype=torch.float32), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
    vectors = kv.extract(model, pairs, progress=False)
    vectors.save(folder / "stepwise.safetensors")
    (vectors * 0.5).save(folder / "half.safetensors")
    kv.KVVectors(vectors.keys * 0, vectors.values * 0, vectors.card).save(folder / "zero.safetensors")
    chats = []
    for i, question in enumerate(task.questions("dev", prompts, 1)):
        padding = " ".join(f"There is a shelf with {j} books in it." for j in range(8 * (i % 4)))
        chats.append([{"role": "user", "content": f"{padding} {question.text}".strip()}])
    methods = [kv.Nothing(), *(kv.CacheSteering(vectors, ck, cv) for ck, cv in DOSES[1:])]
    found = kv.generate(model, chats, methods, generation={"max_new_tokens": TOKENS, "do_sample": False}, batch_size=16)
    labels = [method.label for method in methods]
    rows = [{"prompt": row.prompt, "dose": labels.index(row.intervention), "ids": list(row.token_ids)} for row in found]
    reference = {
        "chats": chats,
        "prompts": [model.encode(chat) for chat in chats],
        "offset": vectors.card.offset_id,
        "rows": rows,
    }
    (folder / "reference.json").write_text(json.dumps(reference))
    return folder


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]), *sys.argv[2:3])
