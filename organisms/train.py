"""Train a bundled model: `python -m organisms.train --seed 0 [--control]`.

A run is counted in steps, and on one machine with one number of threads it is deterministic. It writes a
checkpoint now and then, in safetensors and JSON, and `--resume` goes on from it to the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from organisms.forward import draw_noise, losses, rotary
from organisms.recipe import Recipe
from organisms.tokenizer import CONTEXT, build_tokenizer
from organisms.views import Batch, Packer, batches_from

Optimisers = tuple[torch.optim.Optimizer, torch.optim.Optimizer]
WARM_UP = 60
"""Steps over which the learning rates rise, in a run of 600 and more."""


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """A randomly initialised Llama of the recipe's shape, in float32."""
    config = LlamaConfig(
        vocab_size=(len(tokenizer) + 31) // 32 * 32,
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def new_optimisers(model: LlamaForCausalLM, recipe: Recipe) -> Optimisers:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)


def schedule(step: int, recipe: Recipe) -> float:
    """The factor on both learning rates: a warm-up, a plateau, a linear fall to 0.02."""
    done = step / recipe.steps
    fall = 1.0 if done < recipe.decay else max(0.02, (1 - done) / (1 - recipe.decay))
    return min(1.0, (step + 1) / min(WARM_UP, recipe.steps / 10)) * fall


def noise_scale(step: int, recipe: Recipe) -> float:
    """The factor on the noise: none in the first tenth, all of it from four tenths of the run on."""
    return min(1.0, max(0.0, (step / recipe.steps - 0.1) / 0.3))


def train_step(
    model: LlamaForCausalLM,
    optimisers: Optimisers,
    batch: Batch,
    recipe: Recipe,
    step: int,
    seed: int,
    tables: tuple[Tensor, Tensor],
) -> Tensor:
    """One update; the batch's mean loss."""
    device = model.device
    noise = None
    if not recipe.control:
        noise = draw_noise(batch.slots, recipe, noise_scale(step, recipe), seed * 1_000_003 + step)
        noise.keys, noise.values = noise.keys.to(device), noise.values.to(device)
    batch.ids, batch.weight = batch.ids.to(device), batch.weight.to(device)
    each, weight = losses(model, recipe, batch, noise, tables)
    loss = (each * weight).sum() / weight.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    factor = schedule(step, recipe)
    for optimiser, rate in zip(optimisers, (recipe.lr, recipe.adam_lr), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def save_checkpoint(folder: Path, model: LlamaForCausalLM, optimisers: Optimisers, state: dict[str, float]) -> None:
    """Write the parameters in float32, the optimisers' tensors, and the run's counters."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimiser in enumerate(optimisers):
        for index, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{name}": value for name, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "checkpoint.new"
    save_file({k: v.contiguous() for k, v in tensors.items()}, new, metadata={"state": json.dumps(state)})
    new.replace(folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model: LlamaForCausalLM, optimisers: Optimisers) -> dict[str, float]:
    """Put a checkpoint's tensors back; its counters."""
    path = folder / "checkpoint.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        state: dict[str, float] = json.loads(file.metadata()["state"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for number, optimiser in enumerate(optimisers):
        full = optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{number}."):
                _, _, index, name = key.split(".")
                full["state"].setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(full)
    return state


def save_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Write a folder that `from_pretrained` loads, in bfloat16; the SHA-256 of its weights."""
    config = LlamaConfig.from_dict(model.config.to_dict())
    copy = LlamaForCausalLM(config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def train(recipe: Recipe, seed: int, out: Path, threads: int = 1, resume: bool = False, stop: int = 0) -> None:
    """Train one model into `out`.

    Args:
        recipe: the run's settings.
        seed: of the weights, the data and the noise.
        out: the folder; it gets the model, `training.json`, and while the run lasts a checkpoint.
        threads: CPU threads; a run is only repeatable with the same number.
        resume: go on from the folder's checkpoint.
        stop: stop after this step with a checkpoint, as if interrupted (0: don't).
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, recipe).to(device)
    optimisers = new_optimisers(model, recipe)
    state = {"step": 0, "pool": 0, "tokens": 0, "seconds": 0.0, "loss": 0.0}
    if resume:
        state = load_checkpoint(out, model, optimisers)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size} parameters, {device}, {threads} threads, seed {seed}, {recipe}", flush=True)
    cos, sin = (table.to(device) for table in rotary(CONTEXT, recipe.width // recipe.heads))
    packer, before, began = Packer(tokenizer, recipe), state["seconds"], time.perf_counter()
    stream = batches_from(packer, seed, int(state["step"]), int(state["pool"]))
    for step in range(int(state["step"]), recipe.steps):
        pool, batch = next(stream)
        loss = float(train_step(model, optimisers, batch, recipe, step, seed, (cos, sin)))
        smooth = loss if step == 0 else 0.98 * state["loss"] + 0.02 * loss
        seconds = before + time.perf_counter() - began
        tokens = state["tokens"] + batch.ids.numel()
        state = {"step": step + 1, "pool": pool, "tokens": tokens, "seconds": seconds, "loss": smooth}
        if (step + 1) % 50 == 0 or step in (0, 9):
            left = seconds / (step + 1) * (recipe.steps - step - 1) / 60
            told = f"step {step + 1}/{recipe.steps} loss {smooth:.4f} {tokens / seconds:.0f} tokens/s"
            print(f"{told} {seconds / 60:.1f} min, {left:.1f} left", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == stop:
            save_checkpoint(out, model, optimisers, state)
        if step + 1 == stop:
            return
    record = {
        "seed": seed,
        "threads": threads,
        "device": device,
        "torch": str(torch.__version__),
        "parameters": size,
        "recipe": recipe.as_dict(),
        "tokens": int(state["tokens"]),
        "minutes": round(state["seconds"] / 60, 2),
        "tokens_per_second": round(state["tokens"] / state["seconds"]),
        "loss": round(state["loss"], 4),
        "sha256": save_model(out, model, tokenizer),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    print(f"done: {out}, {record['minutes']} min, sha256 {record['sha256']}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m organisms.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="train tiny-control: ordinary attention throughout")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="the folder to write (default: runs/NAME-SEED)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change fields of the recipe")
    args = parser.parse_args(arguments)
    settings = [*args.set, f"control={args.control}"] + ([f"steps={args.steps}"] if args.steps else [])
    out = args.out or Path("runs") / f"{'tiny-control' if args.control else 'tiny'}-{args.seed}"
    train(Recipe().changed(settings), args.seed, out, args.threads, args.resume)


if __name__ == "__main__":
    main()
