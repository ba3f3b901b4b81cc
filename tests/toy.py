"""A task of sixty questions, to test what is made of tasks."""

from __future__ import annotations

from kvsteer_lab.tasks.base import Question, Task, check_split


class Toy(Task):
    """Sixty questions about animals, answered directly or in steps."""

    name = "toy"
    styles = ("direct", "stepwise")

    def __init__(self, n: int = 60) -> None:
        self.n = n

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        check_split(split)
        animals = ["dog", "fox", "cat", "owl"]
        made = []
        for i in range(self.n):
            text, direct = f"How many legs have {i} {animals[i % 4]}s?", f"The answer is {4 * i}."
            made.append(
                Question(f"toy/{i}", text, str(4 * i), {"direct": direct, "stepwise": f"Step 1: {i} times 4. {direct}"})
            )
        return made[:n]

    def read_answer(self, text: str) -> str | None:
        return text.rpartition("answer is ")[2].rstrip(".") or None
