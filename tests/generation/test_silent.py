"""What would do nothing in silence is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from random_models import PROMPTS, tokenizer, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation import generate as module
from kvsteer_lab.generation import running

SHOTS = kv.FewShot(({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}))
TEXT = "Q: 2 + 2?\nA:"


@pytest.mark.parametrize("method", [kv.CoTPrompt(), SHOTS, kv.Together(SHOTS, kv.HideSlot())])
@pytest.mark.parametrize(
    "use",
    [
        lambda m, method: kv.generate(m, TEXT, [kv.Nothing(), method], chat=False),
        lambda m, method: list(kv.stream(m, TEXT, method, chat=False)),
        lambda m, method: kv.score(m, TEXT, " 4", method, chat=False),
        lambda m, method: kv.divergence(m, TEXT, " 4", method, chat=False),
        lambda m, method: kv.divergence(m, TEXT, " 4", None, method, chat=False),
    ],
)
def test_a_method_of_the_chat_is_refused_without_one(
    use: Callable[[Any, Any], Any], method: kv.Intervention, model: kv.Model
) -> None:
    with pytest.raises(ValueError, match=r"changes the chat, and with chat=False there is none: .*kv\.PlainTemplate"):
        use(model, method)


def test_methods_that_leave_the_chat_alone_are_fine_without_one(model: kv.Model) -> None:
    methods = [kv.Nothing(), kv.NoOffset(), kv.ForcedPrefix("Step"), kv.CacheSteering(vectors_for(model), 1, 8)]
    assert len(kv.generate(model, TEXT, methods, chat=False, generation={"max_new_tokens": 2})) == 4


def test_pairs_that_a_template_makes_equal_are_refused_with_the_template() -> None:
    stripping = tokenizer(
        template="{% for m in messages %}{{ m['role'] }}: {{ m['content'].split('</think>')[-1] }}\n{% endfor %}"
    )
    sides = [
        [
            [
                {"role": "user", "content": "2?"},
                {"role": "assistant", "content": t + "5."},
                {"role": "user", "content": q},
            ]
        ]
        for q, t in (("3?", "<think>so</think>"), ("3?", ""))
    ]
    with pytest.raises(
        ValueError, match=r"same in every pair, .*the chat template \(hash [0-9a-f]{16}\) may leave out"
    ):
        kv.ContrastiveSet.from_chats(*sides, stripping)


def test_interruption(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kv.generate` alone returns a part; everything that computes with texts raises."""
    calls: list[int] = []
    original = running.continue_ids

    def continue_ids(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(running, "continue_ids", continue_ids)
    with pytest.warns(UserWarning, match="Interrupted: 1 of 3 texts are finished and returned"):
        part = kv.generate(model, PROMPTS, generation={"max_new_tokens": 2}, batch_size=1)
    assert len(part) == 1 and not part.complete
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        module.generate_all(model, PROMPTS, generation={"max_new_tokens": 2}, batch_size=1)
    calls.clear()
    assert module.generate_all(model, PROMPTS, generation={"max_new_tokens": 2}).complete
