"""Cache steering inside vLLM: the one file that a new release of vLLM may break.

vLLM is given the classes below by their import paths (`kvsteer serve` prints the command). Its interfaces for
schedulers and connectors aren't stable; everything that needs none of them lies in other files.

* `SteeringScheduler` appends the offset token to a steered prompt, ends a step of its prefill at the slot before, and
  salts that slot's block and those behind it.
* `SteeringConnector` moves no cache anywhere. Its scheduler's half says which slots a step has filled, and its worker's
  half edits them once the step is done, so CUDA graphs stay as they are.
* `SteeringParameters` refuses, as logits processors may, what a steered request can't have. It changes no logits.
* `SteeringMiddleware` is `Admission` with a self-test: a server whose edit has no effect doesn't start.
* `OfflineEngine` is an engine in this process, with all of these but the last, for `kv.backends.VLLM`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from prometheus_client import Counter as PrometheusCounter
from vllm import SamplingParams
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.logger import init_logger
from vllm.outputs import RequestError
from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import RequestStatus
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from ..vectors.cards import Card
from .admission import Admission, App, Message, Receive, Send, send_json
from .catalogue import IN_PROCESS, VARIABLE, Catalogue, NamedVectors
from .launch import ENGINE
from .layout import add_to_slot, find_places, own_heads
from .request import KEY, SteeringRequest
from .salting import first_own_block, salted

logger = init_logger(f"vllm.{__name__}")
NO_ROOM = "A steered prompt needs room in the context for the offset token and one token more; shorten it."
NO_IDS = "A steered prompt needs token ids; send no embeddings."
IN_PIECES = "A prompt that is streamed in pieces can't be steered: which slot is its last isn't known; send it whole."
STOP_PATIENCE = 2.0
"""Seconds between two looks at whether the engine still runs."""
SELF_TEST = "kvsteer-self-test-"
"""How the ids of the self-test's requests begin."""
SELF_TEST_PROMPT = "The history of the sea is long, and many ships have crossed it."


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The vectors of this process's server, read once."""
    return Catalogue.from_environment()


def asked_of(params: Any) -> SteeringRequest | None:
    """What a request's sampling parameters ask for, checked."""
    asked = ((params.extra_args if params is not None else None) or {}).get(KEY)
    return None if asked is None else catalogue().read(asked)


def refuse_config(config: Any) -> None:
    """Refuse at start what can't be steered.

    Raises:
        ValueError: a model, a cache or an engine whose cache isn't plain keys and values of every token, or one that is
            only partly set up for steering.
    """
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    transfer, scheduler = config.kv_transfer_config, config.scheduler_config
    here = f"{__name__}."
    processors = [str(one) for one in model.logits_processors or ()]
    refused = {
        "models with latent attention (MLA), which cache no keys and values by head": model.use_mla,
        "hybrid models, parts of whose state are no keys and values": model.is_hybrid or model.is_attention_free,
        "models with rotary positions in several dimensions": model.uses_mrope,
        "models that generate nothing": model.runner_type != "generate",
        f"a quantised cache (--kv-cache-dtype {cache.cache_dtype})": "fp8" in str(cache.cache_dtype)
        or "int" in str(cache.cache_dtype)
        or "nvfp4" in str(cache.cache_dtype),
        "speculative decoding": config.speculative_config is not None,
        "LoRA adapters, under which the vectors are another model's": config.lora_config is not None,
        "sleep mode": bool(model.enable_sleep_mode),
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": getattr(parallel, "decode_context_parallel_size", 1) > 1
        or getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "another KV connector": transfer is None or transfer.kv_connector != "SteeringConnector",
        "another scheduler": here + "SteeringScheduler" != str(scheduler.scheduler_cls),
        "prefills in one piece (--no-enable-chunked-prefill)": not scheduler.enable_chunked_prefill,
        "an engine without SteeringParameters": f"{here[:-1]}:SteeringParameters" not in processors,
    }
    for what, holds in refused.items():
        if holds:
            raise ValueError(
                f"Cache steering can't serve {what}; start vLLM with the command that `kvsteer serve` prints."
            )
    for one in catalogue().vectors.values():
        one.check_shape(model.get_total_num_hidden_layers(), model.get_total_num_kv_heads(), model.get_head_size())
        one.check_offset(model.get_vocab_size())


# --- the front end ----------------------------------------------------------------------------------------------------


class SteeringParameters(LogitsProcessor, LogitsProcessorV2):
    """A logits processor, of both of vLLM's kinds, that changes nothing: it is asked whether a request is valid."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        if catalogue().behind_middleware and not SteeringMiddleware.stands:
            raise ValueError(
                "This server was started without kvsteer's middleware, so steering would be ignored; start it with the"
                " command that `kvsteer serve` prints."
            )
        if asked_of(sampling_params) is None:
            return
        if sampling_params.prompt_logprobs is not None:
            raise ValueError(
                "A steered request can't have prompt_logprobs: the engine reads one token more than the prompt."
            )
        if sampling_params.seed is not None and sampling_params.temperature and current_platform.is_cpu():
            raise ValueError(
                "A steered request can't have a seed with temperature on a CPU, where vLLM can't wind a generator back"
                " after each part of a prefill; leave the seed out."
            )

    def __init__(self, *context: Any) -> None:
        pass

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return False

    def apply(self, logits: Any, *context: Any) -> Any:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        pass


class SteeringMiddleware(Admission):
    """`Admission`, and the self-test once the server has started."""

    stands = False
    """Whether this process's requests come through it."""

    def __init__(self, app: App) -> None:
        super().__init__(app, catalogue())
        SteeringMiddleware.stands = True

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._answer_or_stop(scope, receive, send)
            return

        async def test_then_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    await self_test(scope["app"].state.engine_client)
                except Exception as error:
                    message = {"type": "lifespan.startup.failed", "message": f"kvsteer: {error}"}
            await send(message)

        await self.app(scope, receive, test_then_send)

    async def _answer_or_stop(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer, unless the engine is stopped meanwhile: a request that it hasn't aborted would wait for ever, and the
        server for the request.
        """
        engine, started = scope["app"].state.engine_client, False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        answer = asyncio.ensure_future(super().__call__(scope, receive, note))
        try:
            while not (await asyncio.wait([answer], timeout=STOP_PATIENCE))[0]:
                if not engine.is_running:
                    answer.cancel()
                    await asyncio.wait([answer], timeout=STOP_PATIENCE)
                    if not started:
                        error = {"message": "The server is being stopped; ask again once it is back.", "code": 503}
                        await send_json(send, 503, {"error": {**error, "type": "ServiceUnavailableError"}})
                    return  # a stream breaks off
        finally:
            answer.cancel()
        answer.result()


async def self_test(engine: Any) -> None:
    """Steer one prompt with every vectors and compare with coefficients of zero.

    Raises:
        RuntimeError: the first token's log-probabilities are the same, so the edit doesn't reach the model.
    """
    dose = min(4.0, catalogue().limit)
    for name in catalogue().vectors:
        found = []
        for ck, cv in ((0.0, 0.0), (0.0, 0.0), (dose, dose)):
            asked = SteeringRequest(vectors=name, ck=ck, cv=cv).model_dump_json()
            params = SamplingParams(temperature=0, max_tokens=1, logprobs=5, extra_args={KEY: asked})
            identity = f"{SELF_TEST}{name}-{time.time_ns()}"
            outputs = [output async for output in engine.generate(SELF_TEST_PROMPT, params, identity)]
            found.append({token: one.logprob for token, one in outputs[-1].outputs[0].logprobs[0].items()})
        zero, again, steered = found
        noise = max(abs(zero[t] - again.get(t, zero[t])) for t in zero)
        moved = max(abs(zero[t] - steered[t]) if t in steered else float("inf") for t in zero)
        if not moved > 2 * noise:
            raise RuntimeError(
                f"The self-test failed: vectors {name!r} at ck={dose:g} cv={dose:g} change no log-probability (by"
                f" {moved:.2g}, and {noise:.2g} without steering), so this server would answer unsteered."
            )


# --- the scheduler ----------------------------------------------------------------------------------------------------


class SteeringScheduler(AsyncScheduler):
    """vLLM's own, except that a step of a steered prefill ends at the edited slot: what follows must read the edit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_config(self.vllm_config)
        self.refused_streams: set[str] = set()

    def add_request(self, request: Any) -> None:
        if request.request_id in self.refused_streams and not request.resumable:  # its end, with the first one's asking
            self.refused_streams.remove(request.request_id)
            return
        if request.request_id not in self.requests:  # else the next piece of a prompt that is streamed, see below
            steering = asked_of(request.sampling_params)
            request.kv_steering = request.kv_refusal = None
            if request.resumable and (steering is not None or request.request_id in self.refused_streams):
                self._refuse_stream(request)
            elif steering is not None:
                own = catalogue().vectors[steering.vectors]
                tail = [own.offset_id, *own.forced]
                if request.prompt_token_ids is None:
                    refuse(request, NO_IDS)
                elif request.num_prompt_tokens + len(tail) >= self.max_model_len:
                    refuse(request, NO_ROOM)
                else:
                    append_tail(request, steering, tail, self.vllm_config.cache_config)
        super().add_request(request)

    def _update_request_as_session(self, session: Any, update: Any) -> None:
        super()._update_request_as_session(session, update)
        if asked_of(update.sampling_params) is not None:
            self._refuse_stream(session)

    def _refuse_stream(self, session: Any) -> None:
        """End it as an error, with all pieces that follow: they would be read as another prompt, unsteered."""
        self.refused_streams.add(session.request_id)
        refuse(session, IN_PIECES)

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        if request.kv_refusal is not None:
            errors = self.grammar_compile_error_reqs
            if isinstance(errors, dict):  # since vLLM 0.33, which tells the client
                errors[request.request_id] = RequestError(code="validation_error", message=request.kv_refusal)
            else:
                errors.add(request.request_id)
            return False
        return super()._handle_blocked_waiting_request(request)

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        n = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if request.kv_steering is not None:
            end = request.kv_steering[1] + 1
            if num_computed_tokens < end < num_computed_tokens + n:
                n = end - num_computed_tokens
        return n


def refuse(request: Any, why: str) -> None:
    """Let a request end as an error at the next step, and say why."""
    logger.warning("%s: %s", request.request_id, why)
    request.kv_refusal = why
    request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR


def counted(request: Any) -> bool:
    """Whether a steered request is a client's, and not the self-test's."""
    return not str(request.request_id).startswith(SELF_TEST)


def append_tail(request: Any, steering: SteeringRequest, tail: list[int], cache_config: Any) -> None:
    """Append what is read from the edited cache, and make the edited slot's block the request's own."""
    position = request.num_prompt_tokens - 1
    request.prompt_token_ids = [*request.prompt_token_ids, *tail]
    request._all_token_ids.extend(tail)
    request.num_prompt_tokens += len(tail)
    request.kv_steering = (steering, position)
    if request._block_hasher is not None:
        size = getattr(cache_config, "hash_block_size", None) or cache_config.block_size
        request._block_hasher = salted(request._block_hasher, first_own_block(position, size))
        request.block_hashes.clear()
        request.update_block_hashes()


# --- the connector ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """One slot to be edited once a step is done; `counted` unless it belongs to the self-test."""

    steering: SteeringRequest
    position: int
    blocks: tuple[list[int], ...]
    counted: bool


@dataclass
class Edits(KVConnectorMetadata):
    """What a step's workers have to edit."""

    edits: list[Edit] = field(default_factory=list)


class SteeringStats(KVConnectorStats):
    """Counts on their way to `/metrics`: steered requests by vectors, edited slots, seconds."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for key, value in other.data.items():
            self.data[key] = self.data.get(key, 0) + value
        return self

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not self.data


class SteeringMetrics(KVConnectorPromMetrics):
    """The counters beside vLLM's own."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], values: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, values)
        make = metric_types[PrometheusCounter]
        said = "kvsteer:requests", "Steered requests, by the vectors that they name."
        self.requests = make(name=said[0], documentation=said[1], labelnames=[*labelnames, "vectors"])
        self.edits = make(name="kvsteer:edits", documentation="Edited cache slots.", labelnames=labelnames)
        told = "Seconds spent on edits, summed over workers; on a GPU, until they are queued."
        self.seconds = make(name="kvsteer:edit_seconds", documentation=told, labelnames=labelnames)
        for own in self.per_engine_labelvalues.values():  # shown from the start, at zero
            for counter in (self.edits, self.seconds):
                counter.labels(*own)
            for name in catalogue().vectors:
                self.requests.labels(*own, name)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        own = self.per_engine_labelvalues[engine_idx]
        for key, value in transfer_stats_data.items():
            match key.partition(":"):
                case ("requests", _, name):
                    self.requests.labels(*own, name).inc(value)
                case ("edits", _, _):
                    self.edits.labels(*own).inc(value)
                case ("seconds", _, _):
                    self.seconds.labels(*own).inc(value)


class SteeringConnector(KVConnectorBase_V1, SupportsHMA):
    """Both halves of the edit; see above."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        refuse_config(vllm_config)
        self.block_size = vllm_config.cache_config.block_size
        self.live: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self.layers: dict[int, tuple[Any, torch.Tensor, int, int]] = {}
        self._added = lru_cache(maxsize=256)(catalogue().added)

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        found: dict[str, Any] = dict(self.counts) | ({"seconds": self.seconds} if self.seconds else {})
        self.counts, self.seconds = Counter(), 0.0
        return SteeringStats(found) if found else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats:
        return SteeringStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Mapping[int, Any]
    ) -> SteeringMetrics:
        return SteeringMetrics(vllm_config, metric_types, labelnames, dict(per_engine_labelvalues))

    # --- the scheduler's half

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def on_new_request(self, request: Any) -> None:
        if request.kv_steering is not None:
            self.live[request.request_id] = request
            if counted(request):
                self.counts[f"requests:{request.kv_steering[0].vectors}"] += 1

    def build_connector_meta(self, scheduler_output: Any) -> Edits:
        done = {one.req_id: one.num_computed_tokens for one in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        done.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        edits = Edits()
        for name, request in self.live.items():
            n = scheduler_output.num_scheduled_tokens.get(name)
            if not n:
                continue
            steering, position = request.kv_steering
            start, end = done[name], done[name] + n
            if start <= position < end:  # filled in this step, for the first time or again after a preemption
                if end != position + 1:
                    raise RuntimeError(f"{name}: tokens behind slot {position} run in the step that fills it.")
                blocks = scheduler_output.kv_connector_block_state.get_block_ids(name)
                edits.edits.append(Edit(steering, position, blocks, counted(request)))
        return edits

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        self.live.pop(request.request_id, None)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return self.request_finished(request, block_ids)

    # --- the worker's half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        modules = self._vllm_config.compilation_config.static_forward_context
        group = {name: i for i, one in enumerate(self._kv_cache_config.kv_cache_groups) for name in one.layer_names}
        for name, cache in kv_caches.items():
            number, module = re.search(r"layers?\.(\d+)\.", name), modules[name]
            if number is None or not hasattr(module.impl, "do_kv_cache_update"):
                raise ValueError(f"The layer {name!r} of {type(module.impl).__name__} can't be steered.")

            def write(keys: Any, values: Any, slots: Any, module: Any = module, cache: Any = cache) -> None:
                module.impl.do_kv_cache_update(module, keys, values, cache, slots)

            places = find_places(write, cache, module.num_kv_heads, module.head_size)
            self.layers[int(number[1])] = (cache, places, module.num_kv_heads, group[name])
        total = self._vllm_config.model_config.get_total_num_hidden_layers()
        if sorted(self.layers) != list(range(total)):
            raise ValueError(f"The model has {total} layers, {len(self.layers)} of which have a cache of their own.")

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        """The step is done: edit the slots that it filled."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Edits)
        if not metadata.edits:
            return
        begin = time.perf_counter()
        rank, world = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        for edit in (one for one in metadata.edits if one.steering.adds):
            added = self._added(edit.steering)
            for layer, (cache, places, heads, group) in self.layers.items():
                if edit.steering.layers is None and layer == 0:
                    continue
                block, place = divmod(edit.position, self.block_size)
                slot = edit.blocks[group][block] * self.block_size + place
                add_to_slot(cache, places, slot, own_heads(added[:, layer], heads, rank, world))
        n_counted = sum(edit.counted for edit in metadata.edits)
        self.seconds += time.perf_counter() - begin if n_counted else 0
        self.counts["edits"] += n_counted if rank == 0 else 0


# --- an engine without a server ---------------------------------------------------------------------------------------


class OfflineEngine:
    """vLLM's engine in this process, which adds what it is given: no files, and no names that a client could send.

    A process has one at a time, for the engine's parts share `catalogue` and PyTorch's process group.
    """

    _running: ClassVar[tuple[tuple[Any, ...], OfflineEngine] | None] = None

    @classmethod
    def of(cls, model: str, dtype: str, context: int, cache_gb: float, rows: int, eager: bool) -> OfflineEngine:
        """The engine with these settings; one with others is ended.

        Raises:
            ValueError: vLLM can't run the model, or not with this cache.
        """
        asked = (model, dtype, context, cache_gb, rows, eager)
        if cls._running is None or cls._running[0] != asked:
            cls.end()
            try:
                cls._running = asked, cls(*asked)
            except Exception as error:
                cls.end()
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise ValueError(f"vLLM can't run this model here ({said[0].rstrip('.')}).") from error
        return cls._running[1]

    @classmethod
    def end(cls) -> None:
        """End the running engine, if there is one, and give its memory back."""
        if cls._running is not None:
            cls._running[1].llm.llm_engine.engine_core.shutdown()
        cls._running = None
        catalogue.cache_clear()
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()

    def __init__(self, model: str, dtype: str, context: int, cache_gb: float, rows: int, eager: bool) -> None:
        from vllm import LLM

        here = {VARIABLE: IN_PROCESS, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        kept = {name: os.environ.pop(name, None) for name in (*here, "VLLM_CPU_KVCACHE_SPACE")}  # cache_gb goes first
        os.environ.update(here)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # this process keeps its threads as they are
        try:
            self.llm = LLM(
                model=model,
                dtype=dtype,
                max_model_len=context,
                max_num_seqs=rows,
                enforce_eager=eager,
                kv_cache_memory_bytes=int(cache_gb * 2**30),
                skip_tokenizer_init=True,
                **ENGINE,
            )
        finally:
            for name, value in kept.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})
        named = catalogue().vectors
        assert isinstance(named, dict)
        self.named: dict[str, NamedVectors] = named

    def decode(
        self,
        asked: Sequence[tuple[list[int], list[int], torch.Tensor | None]],
        new: int,
        ends: list[int],
    ) -> list[list[int]]:
        """Greedy token ids of each row, its end token kept.

        Args:
            asked: of each row, the prompt, what is read behind it, and what is added to the prompt's last slot.
            new: tokens at most.
            ends: token ids that end a row.
        """
        prompts, params = [], []
        try:
            for ids, tail, added in asked:
                steering = None if added is None else self._name(added, tail)
                prompts.append({"prompt_token_ids": ids if steering else [*ids, *tail]})
                params.append(
                    SamplingParams(
                        temperature=0,
                        max_tokens=new,
                        ignore_eos=True,
                        stop_token_ids=ends,
                        detokenize=False,
                        extra_args=steering,
                    )
                )
            found = [one.outputs[0] for one in self.llm.generate(prompts, params, use_tqdm=False)]
        except BaseException:  # what is left in the engine would be answered with the next rows
            self.end()
            raise
        finally:
            self.named.clear()
        return [list(one.token_ids) for one in found]

    def _name(self, added: torch.Tensor, tail: list[int]) -> dict[str, Any]:
        """What a request's `extra_args` say; equal additions have one name."""
        keys, values = added.contiguous()
        digest = hashlib.sha256(added.contiguous().numpy().tobytes() + repr(tail).encode()).hexdigest()[:32]
        if digest not in self.named:
            card = Card("", "", "", "torch.float32", "post_rope", tail[0], None, 1)
            self.named[digest] = NamedVectors("", keys, values, card, tail[0], tuple(tail[1:]))
        layers = tuple(range(len(keys)))
        return {KEY: SteeringRequest(vectors=digest, ck=1, cv=1, layers=layers).model_dump(mode="json")}
