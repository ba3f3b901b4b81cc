"""The bundled models: their corpus, tokenizer and trainer, and what the shipped weights do."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import kvsteer_lab
from kvsteer_lab.tasks.base import SPLITS, Chat, Task
from kvsteer_lab.tasks.bundled.questions import split_of_text
from kvsteer_lab.tasks.bundled.tiny import TinyArithmetic, TinyTracking
from kvsteer_lab.tasks.styles import is_reasoned
from organisms.forward import draw_noise, losses, rotary
from organisms.gate import DOSES, window_of
from organisms.probe import Probe, dose, random_like
from organisms.recipe import Recipe
from organisms.tokenizer import build_tokenizer
from organisms.train import new_model, train
from organisms.verdict import table_of
from organisms.views import Packer, collate, pool_of

WEIGHTS = Path(kvsteer_lab.__file__).parent / "models" / "bundled"
SMALL = Recipe(layers=2, width=32, heads=2, kv_heads=1, ffn=64, steps=50, tokens=512)


@pytest.mark.parametrize("task", [TinyArithmetic(), TinyTracking()])
def test_questions_are_distinct_repeatable_and_of_their_split(task: Task) -> None:
    drawn = {split: task.questions(split, 200, 1) for split in SPLITS}
    for split, questions in drawn.items():
        assert len({q.text for q in questions}) == 200
        assert all(split_of_text(q.text) == split for q in questions)
        assert questions == task.questions(split, 200, 1)
        assert questions[:50] == task.questions(split, 50, 1)
        assert questions != task.questions(split, 200, 2)
    with pytest.raises(ValueError, match="Unknown split"):
        task.questions("train", 1)


@pytest.mark.parametrize("task", [TinyArithmetic(), TinyTracking()])
def test_every_reply_gives_the_answer(task: Task) -> None:
    for question in task.questions("dev", 50):
        for style in task.styles:
            assert task.is_correct(question, task.demonstrate(question, style))
        assert task.read_answer("I don't know.") is None


@pytest.mark.parametrize(
    "text", ["héllo wörld", "日本語 🙂\n\n\t", "<b>1234567890</b>", " a  b ", "Step 1: 5 + 3 = 8."]
)
def test_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = build_tokenizer(conversations=20)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_what_the_views_let_see() -> None:
    packer = Packer(build_tokenizer(conversations=20), SMALL)
    decoy = packer.pack([("x", "one")], decoy=True)
    main = packer.pack([("y", "two"), ("z", "three")])
    batch = collate([decoy + main], pad=0, control=False)
    assert batch.seen is not None
    seen, ids = batch.seen[0], batch.ids[0].tolist()
    first, second, third = batch.slots[0].tolist()
    assert [ids[s - 1] == packer.assistant and ids[s] == packer.newline for s in (first, second, third)] == [True] * 3
    start = len(decoy.ids)
    assert not seen[third, :start].any(), "a slot doesn't see the decoy"
    assert seen[third, start : third + 1].all(), "a slot sees its whole conversation"
    assert seen[third + 1, :start].all(), "a token sees the decoy"
    assert not seen[third + 1, start : second + 1].any(), "a token doesn't see its conversation's earlier turns"
    assert seen[third + 1, third], "a token sees its own turn's slot"
    hidden = collate([packer.pack([("y", "two")], hidden=True)], pad=0, control=False)
    slot = int(hidden.slots[0, 0])
    assert hidden.seen is not None and hidden.seen[0, slot, slot] and not hidden.seen[0, slot + 1 :, slot].any()
    plain = collate([decoy + main], pad=0, control=True)
    assert plain.seen is None and plain.ids[0, : len(main.ids)].tolist() == main.ids


@pytest.mark.parametrize("control", [True, False])
def test_fast_forward_agrees_with_transformers(control: bool) -> None:
    tokenizer = build_tokenizer(conversations=20)
    recipe = Recipe(layers=2, width=32, heads=2, kv_heads=1, ffn=64, tokens=512, control=True)
    torch.manual_seed(0)
    model = new_model(tokenizer, recipe)
    batch = collate(pool_of(Packer(tokenizer, recipe), 0, 0)[0], 0, control=True)
    noise = None
    if not control:
        length = batch.ids.shape[1]
        batch.seen = torch.ones(length, length, dtype=torch.bool).tril().expand(len(batch.ids), -1, -1)
        noise = draw_noise(batch.slots, recipe, scale=0.0, seed=0)
    mine, _ = losses(model, recipe, batch, noise, rotary(2048, 16))
    logits = model(batch.ids).logits[:, :-1].flatten(0, 1)
    theirs = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
    chosen = batch.weight[:, 1:].flatten() > 0
    torch.testing.assert_close(mine, theirs[chosen], atol=0.1, rtol=0.05)


def test_noise_is_on_slots_only_and_not_at_the_first_layer() -> None:
    recipe = Recipe(noise_k=0.5, noise_v=3.0, clean=0.0)
    noise = draw_noise(torch.tensor([[3, 9], [4, -1]]), recipe, scale=1.0, seed=0)
    size = noise.values.flatten(3).norm(dim=-1)
    assert (size[0] == 0).all() and (size[:, 1, 1] == 0).all()
    assert (size[1:, 0] > 0).all() and size.max() < 3.0 * 1.5


def test_training_lowers_the_loss_and_resumes_to_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SMALL, 0, tmp_path / "whole")
    log = capsys.readouterr().out
    train(SMALL, 0, tmp_path / "parts", stop=25)
    assert not (tmp_path / "parts" / "training.json").exists()
    train(SMALL, 0, tmp_path / "parts", resume=True)
    records = [json.loads((tmp_path / part / "training.json").read_text()) for part in ("whole", "parts")]
    assert records[0]["sha256"] == records[1]["sha256"]
    assert records[0]["sha256"] == hashlib.sha256((tmp_path / "whole" / "model.safetensors").read_bytes()).hexdigest()
    first = float(log.split("step 1/50 loss ")[1].split()[0])
    assert records[0]["loss"] < first - 0.5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("name", ["tiny", "tiny-control"])
def test_shipped_weights_are_those_of_the_training_log(name: str) -> None:
    record = json.loads((WEIGHTS / name / "training.json").read_text())
    path = WEIGHTS / name / "model.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    assert path.stat().st_size < 2.5e6
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}
    assert record["recipe"]["control"] == (name == "tiny-control")


class TestShippedModel:
    """What the card says of `tiny`, on a few questions."""

    @pytest.fixture(scope="class")
    def probe(self) -> Probe:
        return Probe(WEIGHTS / "tiny")

    @pytest.fixture(scope="class")
    def chats(self) -> dict[str, list[Chat]]:
        questions = TinyArithmetic().questions("dev", 20) + TinyTracking().questions("dev", 20)
        shots = TinyTracking().questions("extraction", 20) + TinyArithmetic().questions("extraction", 20)
        chats: dict[str, list[Chat]] = {"zero-shot": [TinyArithmetic().chat(q) for q in questions]}
        for style in ("direct", "annotated_deduction"):
            chats[style] = [
                [*TinyArithmetic().chat(shot), {"role": "assistant", "content": shot.replies[style]}, *chat]
                for shot, chat in zip(shots, chats["zero-shot"], strict=True)
            ]
        return chats

    def test_style_passes_through_the_slot(self, probe: Probe, chats: dict[str, list[Chat]]) -> None:
        filled = probe.fill(chats["annotated_deduction"])
        assert share(probe.decode(filled)) >= 0.9
        assert share(probe.decode(filled, hide_slot=True)) <= 0.15
        assert share(probe.decode(probe.fill(chats["annotated_deduction"], blind_slot=True))) <= 0.15

    def test_steering_turns_direct_answers_into_reasoned_ones(self, probe: Probe, chats: dict[str, list[Chat]]) -> None:
        positive, negative = probe.slots(chats["annotated_deduction"]), probe.slots(chats["direct"])
        vector = ((positive[0] - negative[0]).mean(0), (positive[1] - negative[1]).mean(0))
        filled = probe.fill(chats["zero-shot"])
        assert share(probe.decode(filled)) <= 0.05
        assert share(probe.decode(filled, dose(vector, 0.0, 2.0))) >= 0.9
        assert share(probe.decode(filled, dose(random_like(vector, 0), 0.0, 2.0))) <= 0.2


def share(replies: list[str]) -> float:
    """The share of reasoned replies."""
    return sum(map(is_reasoned, replies)) / len(replies)


def test_the_card_shows_what_the_gate_wrote() -> None:
    docs = Path(__file__).parents[2] / "docs"
    runs = [f"{run}-{split}" for run in ("seed0", "seed1", "seed2", "control") for split in ("dev", "test")]
    results = {run: json.loads((docs / "gate" / f"{run}.json").read_text()) for run in runs}
    card = (docs / "model_card.md").read_text()
    assert table_of(results) in card
    for name in ("tiny", "tiny-control"):
        assert json.loads((WEIGHTS / name / "training.json").read_text())["sha256"][:16] in card


def test_a_recipe_is_changed_by_name() -> None:
    assert Recipe().changed(["steps=7", "control=true", "noise_v=2.5"]) == Recipe(steps=7, control=True, noise_v=2.5)
    with pytest.raises(ValueError, match="Unknown setting"):
        Recipe().changed(["stpes=7"])


def test_a_window_is_the_longest_run_of_good_doses() -> None:
    good, bad = {"reasoned": 1.0, "accuracy": 0.9}, {"reasoned": 1.0, "accuracy": 0.8}
    curve = [{"c_v": c_v} | (bad if c_v in (0.63, 8.0) else good) for c_v in (*DOSES, 6.0)]
    assert window_of(curve) == list(DOSES[2:-1])
    assert window_of([row | bad for row in curve]) == []
