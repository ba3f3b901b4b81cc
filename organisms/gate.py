"""Judge a bundled model: `python -m organisms.gate MODEL [--split dev|test] [--json OUT]`.

Every claim that is made about `tiny` and `tiny-control` is measured here, in float32, greedily, on questions that
neither the training nor the vectors have seen.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from kvsteer_lab.tasks.base import Chat, Question, Task
from kvsteer_lab.tasks.bundled.tiny import TinyArithmetic, TinyTracking
from kvsteer_lab.tasks.styles import REASONING_STYLES, detect_style, is_reasoned
from organisms.probe import Edit, Filled, Probe, dose, random_like

DOSES = tuple(round(0.5 * 2 ** (i / 3), 2) for i in range(13))
"""c_v from 0.5 to 8 in steps of a third of an octave: six consecutive ones span 3.17 times."""
KEYS = (0.0, 0.3)
ARTICLE = (0.3, 6.0)
SHOTS = 2
SEEDS = 40
Row = dict[str, Any]


class Gate:
    """One model and one split, with everything the items share.

    Args:
        folder: the model.
        split: `"dev"` or `"test"`.
        n: questions.
        seed: draws the questions, the pairs and the random vectors.
    """

    def __init__(self, folder: Path | str, split: str, n: int = 400, seed: int = 0) -> None:
        self.probe, self.n, self.seed = Probe(folder), n, seed
        self.tasks: list[Task] = [TinyArithmetic(), TinyTracking()]
        drawn = [task.questions(split, n // 2, seed) for task in self.tasks]
        self.questions = [q for pair in zip(*drawn, strict=True) for q in pair]
        self.shots = [q for task in self.tasks for q in task.questions("extraction", 1500, seed)]
        self.zero_shot = self.probe.fill([[_user(q)] for q in self.questions])
        self.vectors: dict[str, Edit] = {}
        self.singles: Edit = self._pairs("stepwise", 1000)
        for style in REASONING_STYLES:
            pairs = self.singles if style == "stepwise" else self._pairs(style, 100)
            self.vectors[style] = (pairs[0].mean(0), pairs[1].mean(0))

    def few_shot(self, question: Question, style: str, rng: random.Random, shots: int = SHOTS) -> Chat:
        """A prompt whose earlier turns are answered in `style`."""
        chat: Chat = []
        for shot in rng.sample(self.shots, shots):
            chat += [_user(shot), {"role": "assistant", "content": shot.replies[style]}]
        return [*chat, _user(question)]

    def _pairs(self, style: str, n: int) -> Edit:
        """Slot differences of `n` pairs: `[n, layers, heads, dim]`."""
        both = []
        for side in (style, "direct"):
            rng = random.Random(f"pairs/{self.seed}")
            both.append(self.probe.slots([self.few_shot(rng.choice(self.shots), side, rng) for _ in range(n)]))
        return both[0][0] - both[1][0], both[0][1] - both[1][1]

    def score(self, replies: list[str], questions: list[Question] | None = None, style: str | None = None) -> Row:
        """Shares of reasoned, direct and correct replies, and of those in `style`."""
        questions = self.questions if questions is None else questions
        right = [self.tasks[0].is_correct(q, r) for q, r in zip(questions, replies, strict=True)]
        styles = [detect_style(reply) for reply in replies]
        row = {"reasoned": _mean(is_reasoned(r) for r in replies), "direct": _mean(s == "direct" for s in styles)}
        row |= {"accuracy": _mean(right), "accuracy_arithmetic": _mean(right[::2])}
        row |= {"accuracy_tracking": _mean(right[1::2])}
        return row if style is None else row | {"adopted": _mean(s == style for s in styles)}

    def some(self, n: int) -> Filled:
        """The first `n` zero-shot prompts, filled."""
        return self.probe.fill([[_user(q)] for q in self.questions[:n]])

    # The items of the gate.

    def mechanism(self) -> list[Row]:
        """Few-shot prompts, plainly and with one of the two routes barred."""
        rng = random.Random(f"few-shot/{self.seed}")
        wanted = [REASONING_STYLES[i // 2 % 5] for i in range(self.n)]
        chats = [self.few_shot(q, s, rng) for q, s in zip(self.questions, wanted, strict=True)]
        rows = []
        for name, blind, hide in (
            ("ordinary attention", False, False),
            ("later tokens can't read the slot", False, True),
            ("the slot can't read earlier turns", True, False),
            ("both", True, True),
        ):
            replies: list[str] = []
            for i in range(0, self.n, 100):
                replies += self.probe.decode(self.probe.fill(chats[i : i + 100], blind), hide_slot=hide)
            same = _mean(detect_style(r) == s for r, s in zip(replies, wanted, strict=True))
            rows.append({"view": name, "in_style": same} | self.score(replies))
        return rows

    def baselines(self) -> list[Row]:
        """Zero-shot with the offset, and with forced first tokens."""
        rows = [{"forced": ""} | self.score(self.probe.decode(self.zero_shot))]
        for text in ("Step", "Step 1", "Strategy", "If", "[", "Just", "Plan", "The"):
            ids = self.probe.tokenizer(text, add_special_tokens=False).input_ids
            rows.append({"forced": text} | self.score(self.probe.decode(self.zero_shot, forced=ids)))
        return rows

    def curve(self, c_k: float, style: str = "stepwise", n: int | None = None) -> list[Row]:
        """Steering towards `style` at every dose."""
        filled = self.zero_shot if n is None else self.some(n)
        rows = []
        for c_v in (*DOSES, ARTICLE[1]):
            replies = self.probe.decode(filled, dose(self.vectors[style], c_k, c_v))
            rows.append({"c_k": c_k, "c_v": c_v} | self.score(replies, self.questions[: len(replies)], style))
        return rows

    def random_vectors(self, c_k: float, n: int = 40) -> list[Row]:
        """The share of reasoned replies under random vectors of matched norm: mean and quantiles over seeds."""
        filled = self.some(n).repeat(SEEDS)
        drawn = [random_like(self.vectors["stepwise"], 1000 * self.seed + seed) for seed in range(SEEDS)]
        rows = []
        for c_v in (*DOSES, ARTICLE[1]):
            edits = [dose(vector, c_k, c_v) for vector in drawn]
            keys, values = (torch.stack([e[i] for e in edits]).repeat(n, 1, 1, 1) for i in (0, 1))
            replies = self.probe.decode(filled, (keys, values), most=60)
            share = torch.tensor(
                [_mean(is_reasoned(r) for r in replies[seed::SEEDS]) for seed in range(SEEDS)], dtype=torch.float64
            )
            row: Row = {"c_k": c_k, "c_v": c_v, "mean": float(share.mean()), "p95": float(share.quantile(0.95))}
            rows.append(row | {"max": float(share.max()), "over_0.05": int((share > 0.05).sum())})
        return rows

    def styles(self, c_k: float, c_v: float) -> list[Row]:
        """Every style's vector at one setting."""
        rows = []
        for style in REASONING_STYLES:
            replies = self.probe.decode(self.zero_shot, dose(self.vectors[style], c_k, c_v))
            rows.append({"style": style, "c_k": c_k, "c_v": c_v} | self.score(replies, style=style))
        return rows

    def pairs_needed(self, first: float, n: int = 100, groups: int = 20) -> list[Row]:
        """Vectors from 1, 10, 100 and 1000 pairs: cosine to the one from 1000, and adoption at the lower edge.

        The edge is looked for between the window's first dose and the grid's dose below it, in eighteenths of an
        octave: the least at which the vector from 1000 pairs is adopted in >= 0.95.
        """
        whole, filled = self.vectors["stepwise"], self.some(n)

        def adoption(vector: Edit, c_v: float) -> float:
            replies = self.probe.decode(filled, dose(vector, 0.0, c_v), most=8)
            return _mean(detect_style(reply) == "stepwise" for reply in replies)

        fine = [round(first * 2 ** (-i / 18), 3) for i in range(5, -1, -1)]
        edge = next((c_v for c_v in fine if adoption(whole, c_v) >= 0.95), first)
        rows = []
        for size in (1, 10, 100, 1000):
            parts = [slice(i * size, (i + 1) * size) for i in range(min(groups, 1000 // size))]
            vectors = [(self.singles[0][part].mean(0), self.singles[1][part].mean(0)) for part in parts]
            cosine = [float(torch.cosine_similarity(v[1][1:].flatten(), whole[1][1:].flatten(), 0)) for v in vectors]
            adopted = [adoption(vector, edge) for vector in vectors]
            row: Row = {"pairs": size, "vectors": len(parts), "cosine": _mean(cosine), "cosine_min": min(cosine)}
            rows.append(row | {"c_v": edge, "adopted_min": min(adopted), "adopted": _mean(adopted)})
        return rows

    def sizes(self) -> list[Row]:
        """The norm of the vector at each layer, and of an unsteered slot."""
        keys, values = self.probe.slots([[_user(q)] for q in self.questions[:100]])
        mine = self.vectors["stepwise"]
        rows = []
        for layer in range(keys.shape[1]):
            row: Row = {"layer": layer}
            for name, vector, slot in (("k", mine[0], keys), ("v", mine[1], values)):
                own = float(slot[:, layer].flatten(1).norm(dim=1).mean())
                row |= {f"vector_{name}": float(vector[layer].norm()), f"slot_{name}": own}
            rows.append(row)
        return rows


def window_of(curve: list[Row]) -> list[float]:
    """The longest run of consecutive doses with >= 0.95 reasoned and >= 0.85 accurate."""
    best: list[float] = []
    run: list[float] = []
    for row in sorted((r for r in curve if r["c_v"] in DOSES), key=lambda r: float(r["c_v"])):
        run = [*run, row["c_v"]] if row["reasoned"] >= 0.95 and row["accuracy"] >= 0.85 else []
        best = run if len(run) > len(best) else best
    return best


def run_gate(folder: Path | str, split: str, n: int = 400, seed: int = 0) -> Row:
    """All items; a dictionary of tables.

    Args:
        folder: the model.
        split: `"dev"` or `"test"`.
        n: questions.
        seed: of everything that is drawn.
    """
    began = time.perf_counter()
    gate = Gate(folder, split, n, seed)
    result: Row = {"model": str(folder), "split": split, "n": n, "seed": seed, "sizes": gate.sizes()}
    result["mechanism"] = gate.mechanism()
    result["baselines"] = gate.baselines()
    result["steering"] = {str(c_k): gate.curve(c_k) for c_k in KEYS}
    windows = {c_k: window_of(result["steering"][str(c_k)]) for c_k in KEYS}
    result["windows"] = {str(c_k): window for c_k, window in windows.items()}
    window = windows[0.0] or [1.0, 2.0]
    lower = [c_v for c_v in window if c_v <= (window[0] * window[-1]) ** 0.5]
    result["recommended"] = [0.0, lower[len(lower) // 2]]
    result["styles"] = gate.styles(0.0, lower[len(lower) // 2])
    result["random"] = {str(c_k): gate.random_vectors(c_k) for c_k in KEYS}
    result["pairs"] = gate.pairs_needed(window[0])
    result["seconds"] = round(time.perf_counter() - began)
    return result


def table(rows: list[Row]) -> str:
    """Rows of one kind as a Markdown table."""
    shown = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), ["-" * 3] * len(rows[0]), *shown]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(result: Row) -> str:
    """Everything that was measured, as Markdown."""
    head = f"{result['model']}: {result['n']} {result['split']} questions, seed {result['seed']}"
    parts = [f"{head}, {result['seconds']} s"]
    for name in ("mechanism", "baselines", "sizes", "styles", "pairs"):
        parts.append(f"\n{name}\n\n{table(result[name])}")
    for name in ("steering", "random"):
        parts += [f"\n{name}, c_k = {c_k}\n\n{table(rows)}" for c_k, rows in result[name].items()]
    parts += [f"\nwindow at c_k = {c_k}: {window}" for c_k, window in result["windows"].items()]
    return "\n".join([*parts, f"recommended (c_k, c_v): {result['recommended']}"])


def _user(question: Question) -> dict[str, str]:
    return {"role": "user", "content": question.text}


def _mean(values: Any) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m organisms.gate", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--n", type=int, default=400, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write every number here")
    args = parser.parse_args(arguments)
    result = run_gate(args.model, args.split, args.n, args.seed)
    print(report(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
