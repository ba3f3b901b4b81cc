"""vLLM's engine with the plugin in the tests' own process: token ids in, token ids out."""

from __future__ import annotations

import os
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from kvsteer_lab.serving.catalogue import VARIABLE, Catalogue
from kvsteer_lab.serving.launch import ENGINE, locate_model

BLOCK = 32


class Engine:
    """A thin face of `vllm.LLM`: token ids in, token ids out."""

    def __init__(self, folder: Path) -> None:
        os.environ[VARIABLE] = Catalogue.load(
            {"stepwise": folder / "stepwise.safetensors", "half": folder / "half.safetensors"}, behind_middleware=False
        ).to_variable()
        from vllm import LLM

        self.llm = LLM(
            model=locate_model("smollm2-135m"),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            block_size=BLOCK,
            max_num_seqs=24,
            max_num_batched_tokens=64,  # longer prompts are read in several steps
            enable_chunked_prefill=True,
            num_gpu_blocks_override=48,  # fewer than the texts need: some are preempted
            disable_log_stats=False,
            **ENGINE,
        )

    def generate(self, ids: list[list[int]], asked: list[Any], tokens: int = 24, **more: Any) -> list[Any]:
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                **{"temperature": 0, "max_tokens": tokens, **more},
                extra_args=None if one is None else {"kv_steering": one},
            )
            for one in asked
        ]
        return self.llm.generate([{"prompt_token_ids": one} for one in ids], settings, use_tqdm=False)

    def tokens(self, ids: list[list[int]], asked: list[Any], n: int = 24) -> list[tuple[list[int], int]]:
        """New tokens, and how many of the prompt came from the prefix cache."""
        found = self.generate(ids, asked, n)
        return [(list(one.outputs[0].token_ids), one.num_cached_tokens or 0) for one in found]

    def fresh(self, ids: list[int], asked: Any, n: int = 24) -> list[int]:
        """One request alone, with an empty prefix cache."""
        self.llm.reset_prefix_cache()
        return self.tokens([ids], [asked], n)[0][0]

    def stream(self, pieces: list[tuple[list[int], Any]], n: int = 24, *, at_once: bool = False) -> list[Any]:
        """A prompt that is streamed in pieces, as `AsyncLLM` does it for a generator of them: what comes of each.

        Args:
            pieces: ids, and what their sampling parameters ask for.
            n: tokens behind the last piece; one behind each other.
            at_once: whether all pieces wait before the first is read.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine, name, found = self.llm.llm_engine, f"streamed-{os.urandom(4).hex()}", []

        def send(ids: list[int], asked: Any, tokens: int, resumable: bool) -> None:
            params = SamplingParams(
                temperature=0,
                max_tokens=tokens,
                output_kind=RequestOutputKind.DELTA,
                extra_args=None if asked is None else {"kv_steering": asked},
            )
            tasks = engine.get_supported_tasks()
            request = engine.input_processor.process_inputs(
                name, {"prompt_token_ids": list(ids)}, params, supported_tasks=tasks, resumable=resumable
            )
            request.external_req_id = name
            engine.output_processor.add_request(request, None)
            engine.engine_core.add_request(deepcopy(request))  # as another process would get it

        def read() -> None:
            begin, had = time.monotonic(), len(found)
            while not any(one.outputs[0].finish_reason for one in found[had:]):
                assert time.monotonic() < begin + 120, "the engine answers nothing"
                found.extend(engine.step())

        def ended() -> list[str]:
            return [one.outputs[0].finish_reason for one in found if one.outputs[0].finish_reason]

        for i, (ids, asked) in enumerate(pieces):
            send(ids, asked, n if i == len(pieces) - 1 else 1, True)
            if not at_once:
                read()
        while at_once and len(ended()) < len(pieces) and "error" not in ended():
            read()
        send([0], pieces[0][1], 1, False)  # the end of the stream
        while engine.engine_core.engine_core.scheduler.has_requests():
            found.extend(engine.step())
        engine.abort_request([name], internal=True)
        return found

    def metric(self, name: str) -> float:
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        return sum(sample.value for sample in samples if sample.name == f"{name}_total")
