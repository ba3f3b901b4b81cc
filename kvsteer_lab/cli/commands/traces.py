"""`kvsteer traces`: a model at an endpoint answers a task's questions in a style."""

from __future__ import annotations

from pathlib import Path

from ..printing import say_line


def traces(
    out: Path,
    base_url: str,
    model: str,
    task: str = "gsm8k",
    style: str = "stepwise",
    n: int = 100,
    seed: int = 0,
    instruction: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    max_tokens: int | None = 1024,
    temperature: float | None = 0.0,
    concurrency: int = 4,
    timeout: float = 120.0,
    retries: int = 6,
    data_dir: Path | None = None,
) -> None:
    """Let a model at an OpenAI-compatible endpoint write replies to extract vectors from; run again to go on.

    Args:
        out: the file of JSON lines to write or to go on with.
        base_url: of the endpoint, as in http://localhost:8000/v1.
        model: the model's name there.
        task: whose extraction questions are asked.
        style: how they shall be answered.
        n: how many questions are asked.
        seed: which questions.
        instruction: how to answer, instead of the style's own; the gold answer is told where it holds {answer}.
        api_key_env: the environment variable that holds the key.
        max_tokens: the longest reply; None leaves it to the server.
        temperature: of sampling; None leaves it to the server.
        concurrency: requests at a time.
        timeout: seconds before a request counts as lost.
        retries: how often a request is repeated after a fault that may pass.
        data_dir: folder with a benchmark's files.
    """
    import kvsteer_lab as kv

    written = kv.traces.write_traces(
        kv.tasks.get(task, data_dir),
        style,
        out,
        base_url=base_url,
        model=model,
        n=n,
        seed=seed,
        instruction=instruction,
        api_key_env=api_key_env,
        max_tokens=max_tokens,
        temperature=temperature,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
    )
    lost = ", ".join(f"{count} {verdict}" for verdict, count in written.rejected.items())
    say_line(
        f"Wrote {out}: {len(written)} traces in style {style} kept, {sum(written.rejected.values())}"
        f" rejected{f' ({lost})' if lost else ''}."
    )
