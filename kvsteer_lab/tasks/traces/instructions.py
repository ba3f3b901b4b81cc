"""What a model is asked for, to write a reply in each style."""

from __future__ import annotations

from ..base import Chat, Question, Task

INSTRUCTIONS = {
    "direct": "Answer at once, without any reasoning.",
    "stepwise": (
        "Solve it in numbered steps. Write each step on a line of its own that begins with 'Step 1:', 'Step 2:' and"
        " so on."
    ),
    "strategy_execution": (
        "First name your approach in a sentence that begins with 'Strategy:', then carry it out after the word"
        " 'Solution:'."
    ),
    "causal_chain": (
        "Reason along a chain of causes: begin with 'If', and let each sentence follow from the one before, with 'then'"
        " and 'therefore'."
    ),
    "annotated_deduction": (
        "Reason in short statements, and write before each in brackets what it is: [Premise], [Inference] or"
        " [Conclusion]."
    ),
    "analogical": (
        "Reason by analogy: begin with 'Just like' and a simpler, familiar situation, then carry it over to this"
        " problem part by part."
    ),
}
"""By style; each is put after the question."""


def instruction_for(style: str, instruction: str | None) -> str:
    """The caller's instruction, or the one for a known style.

    Args:
        style: one of the keys of `INSTRUCTIONS`, or any name where there is an instruction.
        instruction: the caller's own, or `None`.

    Raises:
        ValueError: no instruction for a style that isn't known, or an empty one.

    >>> instruction_for("direct", None)
    'Answer at once, without any reasoning.'
    """
    if instruction is None and style not in INSTRUCTIONS:
        raise ValueError(
            f"There is no instruction for style {style!r}; pass instruction=, or choose one of:"
            f" {', '.join(INSTRUCTIONS)}."
        )
    told = INSTRUCTIONS[style] if instruction is None else instruction
    if not told.strip():
        raise ValueError("The instruction is empty; say how the question shall be answered.")
    return told


def asked(task: Task, question: Question, instruction: str, closing: str) -> Chat:
    """The conversation that asks for a trace.

    Args:
        task: asks the question its own way.
        question: what is to be answered.
        instruction: how; where it holds `{answer}`, the gold answer is told.
        closing: how the reply to another question ends, to show the form.
    """
    *earlier, last = task.chat(question)
    told = instruction.replace("{answer}", question.answer)
    end = f"End with the answer in exactly this form (here it is that of another question): {closing}"
    return [
        *earlier,
        {
            **last,
            "content": f"{last['content']}\n\n{told} Write nothing before or after the reasoning but the answer. {end}",
        },
    ]
