"""Drive SGLang's own scheduler without a model: cases in, one line of JSON each, decisions out.

Started by :mod:`benchmarks.conformance_sglang` with an interpreter that has ``sglang``. The scheduler, its policies,
the adder, the radix tree (the compiled one, where it is installed), the allocators and the handling of results are
SGLang's; what asks for a GPU or for another process is left out or answers nothing. The loop is that of
``event_loop_overlap`` or ``event_loop_normal``.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from collections import deque
from typing import Any
from unittest.mock import MagicMock

import torch
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import SchedulePolicy
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.batch_result_processor import SchedulerBatchResultProcessor
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
from sglang.srt.managers.scheduler_components.recv_skipper import SchedulerRecvSkipper
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.runtime_context import get_context
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

Case = dict[str, Any]

EOS = 1
#: Passes that compute nothing before a case counts as stuck.
PATIENCE = 50


#: Features and parts that are switched off, or not there.
_OFF = (
    "enable_hisparse",
    "enable_hicache_storage",
    "enable_lora",
    "enable_hierarchical_cache",
    "enable_lmcache",
    "enable_unified_cache_external_linker",
    "is_hybrid_swa",
    "require_mlp_sync",
    "abort_on_priority_when_disabled",
)
_ABSENT = (
    "last_batch",
    "chunked_req",
    "_pending_chunked_abort_req",
    "dllm_config",
    "min_free_slots_delayer",
    "prefill_delayer",
    "dynamic_chunk_sizer",
    "lora_drainer",
    "truncation_align_size",
    "draft_worker",
    "decode_offload_manager",
    "scheduler_stage_metrics",
    "hisparse_coordinator",
    "sliding_window_size",
    "max_new_tokens_limit",
    "max_queued_requests",
)


class Patient(Scheduler):
    """The scheduler without the passes of no time in which decoding goes first though there is nothing to decode."""

    def _should_defer_prefill(self, running_batch):
        if running_batch.is_empty():
            self._prefill_decode_interval_remaining = 0
        return super()._should_defer_prefill(running_batch)

    def _prefetch_kvcache(self, req, storage_hit_end=None):
        pass

    def _process_hicache_events(self):
        pass


class Results(SchedulerBatchResultProcessor):
    """The handling of results without what looks at the results of a model."""

    def _normalize_decode_outputs(self, *, next_token_ids, **_kwargs):
        return next_token_ids, None

    def _mamba_can_cache_finished_req(self, *_args):
        return True

    def _nothing(self, *_args, **_kwargs):
        return None

    _validate_pp_skip_output_comm = _maybe_collect_customized_info = materialize_sampling_mask_output = _nothing
    move_logprobs_to_cpu = _maybe_update_reasoning_tokens = _maybe_collect_routed_experts = _nothing
    _maybe_collect_indexer_topk = _mamba_prefix_cache_update = _prepare_kv_cache_release = _nothing


def scheduler_of(case: Case) -> Scheduler:
    """Return a scheduler that has all its passes over a queue read."""
    rules, page, room = case["rules"], case["page"], case["pages"] * case["page"]
    rows = ReqToTokenPool(case["running"], case["context"] + 96, "cpu", enable_memory_saver=False)
    if page == 1:
        pages = TokenToKVPoolAllocator(room, torch.float16, "cpu", MagicMock(), need_sort=False)
    else:
        pages = PagedTokenToKVPoolAllocator(room, page, torch.float16, "cpu", MagicMock(), need_sort=False)
    tree = UnifiedRadixCache(
        CacheInitParams(
            disable=not case["caching"],
            req_to_token_pool=rows,
            token_to_kv_pool_allocator=pages,
            page_size=page,
            tree_components=(ComponentType.FULL,),
        )
    )
    found = Patient.__new__(Patient)
    found.__dict__.update(
        req_to_token_pool=rows,
        token_to_kv_pool_allocator=pages,
        tree_cache=tree,
        page_size=page,
        max_running_requests=case["running"],
        max_total_num_tokens=room,
        max_req_len=min(case["context"], room) - 1,
        kv_shard_widening=1,
        **_told(rules, tree),
        **_blank(case["context"]),
        **dict.fromkeys(_OFF, False),
        **dict.fromkeys(_ABSENT),
    )
    found.batch_result_processor = _results(found)
    return found


def _told(rules: dict[str, Any], tree: UnifiedRadixCache) -> dict[str, Any]:
    """Return what the rules of a case say."""
    chunk = rules["chunk"] or None
    return {
        "max_prefill_tokens": rules["max_prefill_tokens"],
        "chunked_prefill_size": chunk,
        "is_mixed_chunk": chunk is not None and rules["mixed"],
        "enable_priority_scheduling": rules["ranked"],
        "schedule_low_priority_values_first": True,
        "enable_priority_preemption": rules["preempts"],
        "priority_scheduling_preemption_threshold": rules["threshold"],
        "policy": SchedulePolicy(
            rules["policy"],
            tree,
            enable_hierarchical_cache=False,
            enable_priority_scheduling=rules["ranked"],
            schedule_low_priority_values_first=True,
        ),
        "prefill_decode_interval": rules["interval"],
        "prefill_decode_interval_min_bs": rules["interval_batch"],
        "enable_overlap": rules["overlap"],
        "enable_skip_finishing_decode": rules["overlap"],
    }


def _blank(context: int) -> dict[str, Any]:
    """Return what a new scheduler has, and what stands for parts that are not here."""
    beams = MagicMock(pending_member_rows=lambda _batch: 0, commit_decode=lambda _batch: set())
    runner = MagicMock(attn_backend=object(), prefill_aware_swa=False)
    return {
        "new_token_ratio_tracker": NewTokenRatioTracker.from_config(),
        "running_batch": ScheduleBatch(reqs=[], batch_is_full=False),
        "waiting_queue": [],
        "result_queue": deque(),
        "_prefill_decode_interval_remaining": 0,
        "max_prefill_bs": 0,
        "processed_tokens_counter": 0,
        "forward_ct": 0,
        "model_config": MagicMock(is_encoder_decoder=False, vocab_size=32000, context_len=context, is_multimodal=False),
        "beam_coordinator": beams,
        "tp_worker": MagicMock(model_runner=runner),
        "spec_algorithm": SpeculativeAlgorithm.NONE,
        "disaggregation_mode": DisaggregationMode.NULL,
        "device": "cpu",
        "dp_attn_adapter": MagicMock(
            maybe_prepare_mlp_sync_batch=lambda batch, need_sync=None: batch,  # noqa: ARG005 - SGLang's name
            maybe_convert_decode_to_extend=lambda batch: batch,
        ),
        "ngram_embedding_manager": MagicMock(prepare_for_forward=lambda batch, chunked_req=None: batch),  # noqa: ARG005
        "grammar_manager": MagicMock(has_waiting_grammars=lambda: False),
        "load_inquirer": MagicMock(_get_num_pending_tokens=lambda **_kwargs: 0),
        "metrics_reporter": MagicMock(enable_metrics=False),
        "future_map": MagicMock(),
    }


def _results(scheduler: Scheduler) -> Results:
    results = Results.__new__(Results)
    known = {
        name: getattr(scheduler, name)
        for name in (
            "enable_overlap",
            "model_config",
            "token_to_kv_pool_allocator",
            "tree_cache",
            "req_to_token_pool",
            "beam_coordinator",
            "hisparse_coordinator",
            "decode_offload_manager",
            "draft_worker",
            "disaggregation_mode",
        )
    }
    silent = ("server_args", "metrics_collector", "model_worker", "logprob_result_processor", "output_streamer")
    known |= {name: MagicMock() for name in silent} | {"is_generation": True, "enable_overlap_mlx": False}
    known["metrics_reporter"] = MagicMock(num_generated_tokens=0, forward_ct_decode=0)
    for name, value in known.items():
        object.__setattr__(results, name, value)
    return results


def request_of(scheduler: Scheduler, row: dict[str, Any], rules: dict[str, Any]) -> Req:
    """Return a request as SGLang has it when it comes."""
    parameters = SamplingParams(max_new_tokens=row["declared"], ignore_eos=rules["ignore_eos"], temperature=1.0)
    parameters.normalize(None)
    request = Req(
        f"{row['index']:06d}",
        "",
        array("q", row["tokens"]),
        parameters,
        eos_token_ids={EOS},
        vocab_size=1 << 30,
        priority=row["priority"] if rules["ranked"] else None,
    )
    request.true_output, request.answer = row["output"], row["answer"]
    scheduler.init_req_max_new_tokens(request)
    return request


def next_token(request: Req) -> int:
    """Return the token that a model would produce next."""
    number = len(request.output_ids) + 1
    if number >= request.true_output and not request.sampling_params.ignore_eos:
        return EOS
    return request.answer[min(number, len(request.answer)) - 1]


def process(scheduler: Scheduler, batch: ScheduleBatch, result: MagicMock) -> None:
    """Let SGLang take note of what a step brought."""
    tokens = [next_token(request) for request in batch.reqs]
    if batch.forward_mode.is_decode():
        result.next_token_ids = [[token] for token in tokens]
        scheduler.batch_result_processor.process_batch_result_decode(batch, result)
    else:
        result.next_token_ids = torch.tensor(tokens)
        scheduler.batch_result_processor.process_batch_result_prefill(batch, result)


def result_of(batch: ScheduleBatch) -> MagicMock:
    """Return the result of a step in which nothing was computed."""
    nothing = ("copy_done", "routed_experts_output", "indexer_topk_output", "auxiliary_host_output", "logits_output")
    zeros = [0] * len(batch.reqs)
    return MagicMock(
        **dict.fromkeys(nothing),
        extend_input_len_per_req=zeros,
        extend_logprob_start_len_per_req=zeros,
        get_num_generated_tokens=lambda size: size,
    )


def row_of(scheduler: Scheduler, step: int, batch: ScheduleBatch | None) -> dict[str, Any]:
    """Return what a pass decided."""
    row = {
        "it": step,
        "kind": "none",
        "blank": scheduler.token_to_kv_pool_allocator.available_size(),
        "idle": scheduler.tree_cache.evictable_size(),
        "ratio": scheduler.new_token_ratio_tracker.current,
        "queue": [int(request.rid) for request in scheduler.waiting_queue],
        "rows": [],
    }
    if batch is None:
        return row
    if batch.forward_mode.is_decode():
        return row | {"kind": "decode", "rows": [int(request.rid) for request in batch.reqs]}
    mixed = batch.decoding_reqs or []
    chunks = [
        [int(r.rid), r.prefix_len, r.extend_end - r.prefix_len] for r in batch.reqs[: len(batch.reqs) - len(mixed)]
    ]
    return row | {"kind": "prefill", "rows": [int(request.rid) for request in mixed], "chunks": chunks}


def launch(scheduler: Scheduler, batch: ScheduleBatch) -> None:
    """Run a step; with overlap scheduling its results wait for the next pass."""
    if not batch.forward_mode.is_decode():
        scheduler.processed_tokens_counter += batch.extend_num_tokens
    if scheduler.enable_overlap:
        scheduler.result_queue.append((batch.copy(), result_of(batch)))
    else:
        process(scheduler, batch, result_of(batch))


def idle_skipper() -> SchedulerRecvSkipper | None:
    """Return what tells which passes look for requests, as it is after passes that found nothing and took no time."""
    skipper = SchedulerRecvSkipper.maybe_create()
    if skipper is not None:
        skipper._counter = skipper._threshold
    return skipper


def decisions(case: Case, log: list[dict[str, Any]]) -> None:
    """Add to a log what every pass of a case decides, until all requests are done."""
    random.seed(0)
    scheduler, overlap = scheduler_of(case), case["rules"]["overlap"]
    skipper = idle_skipper()
    coming = deque(sorted(case["requests"], key=lambda row: (row["at"], row["index"])))
    step = quiet = 0
    while True:
        receives = skipper is None or skipper.handle(scheduler.last_batch)
        while receives and coming and coming[0]["at"] <= step:
            scheduler._add_request_to_queue(request_of(scheduler, coming.popleft(), case["rules"]))
        plan = scheduler.get_next_batch_to_run(scheduler.running_batch, scheduler.last_batch)
        scheduler.running_batch, batch = plan.running_batch, plan.batch_to_run
        row = row_of(scheduler, step, batch)
        log.append(row)
        if batch is not None:
            launch(scheduler, batch)
        if overlap and scheduler.last_batch:
            process(scheduler, *scheduler.result_queue.popleft())
        if batch is None and not (overlap and scheduler.last_batch):
            skipper = idle_skipper()
            if not scheduler.waiting_queue and scheduler.running_batch.is_empty() and scheduler.chunked_req is None:
                scheduler.new_token_ratio_tracker.reset()
                row["ratio"] = scheduler.new_token_ratio_tracker.current
                if not coming:
                    return
                step = max(step, coming[0]["at"] - 1)
            elif quiet > PATIENCE:
                log.append({"stuck": True})
                return
            quiet += 1
        else:
            quiet = 0
        scheduler.last_batch = batch
        step += 1


def settings_of(case: Case, **more: Any) -> Any:
    """Return what makes SGLang read the options of a case."""
    rules = case["rules"]
    return get_context().override_server_args(
        device="cpu",
        page_size=case["page"],
        schedule_policy=rules["policy"],
        schedule_conservativeness=rules["conservativeness"],
        chunked_prefill_size=rules["chunk"] or -1,
        max_prefill_tokens=rules["max_prefill_tokens"],
        prefill_max_requests=rules["max_prompts"] or None,
        enable_priority_scheduling=rules["ranked"],
        schedule_low_priority_values_first=True,
        retraction_policy="priority" if rules["retracts_by_priority"] else "length",
        disable_radix_cache=not case["caching"],
        pp_max_micro_batch_size=case["running"],
        enable_mixed_chunk=rules["mixed"],
        scheduler_recv_interval=rules.get("recv_interval", 1),
        **more,
    )


def main() -> None:
    """Answer cases until there are no more."""
    for line in sys.stdin:
        case = json.loads(line)
        with settings_of(case):
            log: list[dict[str, Any]] = []
            try:
                decisions(case, log)
            except RuntimeError as error:
                # Its own way of saying that it has no memory left.
                log.append({"error": str(error).splitlines()[0]})
        print(json.dumps(log), flush=True)


if __name__ == "__main__":
    main()
