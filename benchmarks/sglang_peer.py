"""Drive SGLang's own scheduler on a CPU, without a model: workloads in, decisions out, as JSON lines."""
import json, sys, warnings
warnings.simplefilter("ignore")
from array import array
from collections import deque
from unittest.mock import MagicMock
import torch
from sglang.srt.runtime_context import get_context

EOS = 1

def build(case):
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
    from sglang.srt.managers.scheduler_components.batch_result_processor import SchedulerBatchResultProcessor
    from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
    from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
    from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
    from sglang.srt.mem_cache.unified_cache.components import ComponentType
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
    rules, page, room = case["rules"], case["page"], case["pages"] * case["page"]
    class Patient(Scheduler):
        # With nothing to decode, the steps that decoding goes first in are passes of no time: leave them out.
        def _should_defer_prefill(self, running_batch):
            if running_batch.is_empty():
                self._prefill_decode_interval_remaining = 0
            return super()._should_defer_prefill(running_batch)
    s = Patient.__new__(Patient)
    rows = ReqToTokenPool(case["running"], 4096, "cpu", False)
    if page == 1:
        alloc = TokenToKVPoolAllocator(room, torch.float16, "cpu", MagicMock(), False)
    else:
        alloc = PagedTokenToKVPoolAllocator(room, page, torch.float16, "cpu", MagicMock(), False)
    tree = UnifiedRadixCache(CacheInitParams(disable=not case["caching"], req_to_token_pool=rows,
        token_to_kv_pool_allocator=alloc, page_size=page, tree_components=(ComponentType.FULL,), tree_core_backend=case.get("core")))
    s.req_to_token_pool, s.token_to_kv_pool_allocator, s.tree_cache = rows, alloc, tree
    s.page_size, s.max_running_requests = page, case["running"]
    s.max_prefill_tokens = rules["max_prefill_tokens"]
    s.chunked_prefill_size = rules["chunk"] or None
    s.is_mixed_chunk = bool(rules["chunk"]) and rules["mixed"]
    s.max_total_num_tokens, s.kv_shard_widening, s.sliding_window_size = room, 1, None
    s.max_req_len = min(case["context"], room) - 1
    s.max_new_tokens_limit = None
    s.enable_priority_scheduling = rules["ranked"]
    s.schedule_low_priority_values_first = True
    s.enable_priority_preemption = rules["preempts"]
    s.priority_scheduling_preemption_threshold = rules["threshold"]
    s.abort_on_priority_when_disabled = False
    s.max_queued_requests = None
    s.policy = SchedulePolicy(rules["policy"], tree, False, rules["ranked"], True)
    s.new_token_ratio_tracker = NewTokenRatioTracker.from_config()
    s.prefill_decode_interval = rules["interval"]; s._prefill_decode_interval_remaining = 0
    s.prefill_decode_interval_min_bs = rules["interval_batch"]
    s.waiting_queue, s.running_batch, s.last_batch = [], ScheduleBatch(reqs=[], batch_is_full=False), None
    s.chunked_req = s._pending_chunked_abort_req = s.dllm_config = None
    s.enable_hisparse = s.enable_hicache_storage = s.enable_lora = s.enable_hierarchical_cache = False
    s.enable_lmcache = s.enable_unified_cache_external_linker = s.is_hybrid_swa = False
    s.require_mlp_sync = False
    s.spec_algorithm = SpeculativeAlgorithm.NONE
    s.dp_attn_adapter = MagicMock(); s.dp_attn_adapter.maybe_prepare_mlp_sync_batch = lambda b, need_sync=None: b
    s.dp_attn_adapter.maybe_convert_decode_to_extend = lambda b: b
    s.ngram_embedding_manager = MagicMock(); s.ngram_embedding_manager.prepare_for_forward = lambda b, chunked_req=None: b
    s.grammar_manager = MagicMock(); s.grammar_manager.has_waiting_grammars = lambda: False
    s.beam_coordinator = MagicMock(); s.beam_coordinator.pending_member_rows = lambda b: 0
    s.beam_coordinator.commit_decode = lambda b: set()
    s.min_free_slots_delayer = s.prefill_delayer = None
    s.max_prefill_bs = 0
    s.dynamic_chunk_sizer = None; s.lora_drainer = None; s.truncation_align_size = None
    s.processed_tokens_counter = 0
    s.tp_worker = MagicMock(); s.tp_worker.model_runner.attn_backend = object(); s.tp_worker.model_runner.prefill_aware_swa = False
    s.load_inquirer = MagicMock(); s.load_inquirer._get_num_pending_tokens = lambda **k: 0
    mc = MagicMock(); mc.is_encoder_decoder = False; mc.vocab_size = 32000; mc.context_len = case["context"]; mc.is_multimodal=False
    s.model_config = mc
    s.enable_overlap = rules["overlap"]; s.enable_skip_finishing_decode = rules["overlap"]
    s.result_queue = deque()
    s.scheduler_stage_metrics = s.hisparse_coordinator = None
    s.metrics_reporter = MagicMock(); s.metrics_reporter.enable_metrics = False
    s.decode_offload_manager = None; s.device = "cpu"; s.forward_ct = 0
    s.future_map = MagicMock()
    s.draft_worker = None; s.enable_hicache_storage=False
    from sglang.srt.disaggregation.utils import DisaggregationMode
    s.disaggregation_mode = DisaggregationMode.NULL
    s._prefetch_kvcache = lambda req: None
    s._process_hicache_events = lambda: None
    class Processor(SchedulerBatchResultProcessor):
        def _validate_pp_skip_output_comm(self, b, r): pass
        def _maybe_collect_customized_info(self, *a): pass
        def materialize_sampling_mask_output(self, *a): pass
        def move_logprobs_to_cpu(self, **k): pass
        def _maybe_update_reasoning_tokens(self, *a, **k): pass
        def _maybe_collect_routed_experts(self, *a): pass
        def _maybe_collect_indexer_topk(self, *a): pass
        def _mamba_can_cache_finished_req(self, *a): return True
        def _mamba_prefix_cache_update(self, *a, **k): pass
        def _prepare_kv_cache_release(self, req): pass
        def _normalize_decode_outputs(self, *, batch, result, logits_output, next_token_ids): return next_token_ids, None
    p = Processor.__new__(Processor)
    fields = dict(is_generation=True, disaggregation_mode=DisaggregationMode.NULL, enable_overlap=rules["overlap"], enable_overlap_mlx=False,
        server_args=MagicMock(), model_config=mc, token_to_kv_pool_allocator=alloc, tree_cache=tree, hisparse_coordinator=None,
        req_to_token_pool=rows, decode_offload_manager=None, metrics_collector=MagicMock(), metrics_reporter=MagicMock(),
        draft_worker=None, model_worker=MagicMock(), logprob_result_processor=MagicMock(), output_streamer=MagicMock(), beam_coordinator=s.beam_coordinator,
        abort_request=None)
    for k, v in fields.items():
        object.__setattr__(p, k, v)
    p.metrics_reporter.num_generated_tokens = 0; p.metrics_reporter.forward_ct_decode = 0
    s.batch_result_processor = p
    return s

def make_req(s, row, case):
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams
    sp = SamplingParams(max_new_tokens=row["declared"], ignore_eos=case["rules"]["ignore_eos"], temperature=1.0)
    sp.normalize(None)
    req = Req(f"{row['index']:06d}", "", array("q", row["tokens"]), sp, eos_token_ids={EOS}, vocab_size=1 << 30, priority=row.get("priority", 0) if case["rules"]["ranked"] else None)
    req.true_output = row["output"]
    req.answer = row["answer"]
    s.init_req_max_new_tokens(req)
    return req

def next_tokens(batch, decode):
    out = []
    for r in batch.reqs:
        n = len(r.output_ids) + 1
        last = n >= r.true_output
        t = EOS if last and not r.sampling_params.ignore_eos else r.answer[min(n, len(r.answer)) - 1]
        out.append([t] if decode else t)
    return out

def result_of(batch):
    decode = batch.forward_mode.is_decode()
    r = MagicMock()
    r.copy_done = None; r.routed_experts_output = None; r.indexer_topk_output = None; r.auxiliary_host_output = None
    r.logits_output = None; r.extend_input_len_per_req = [q.extend_len if q.extend_end else 0 for q in batch.reqs]
    r.extend_logprob_start_len_per_req = [0]*len(batch.reqs)
    r.get_num_generated_tokens = lambda n: n
    return r

def run(case):
    import random
    random.seed(0)
    s = build(case)
    coming = deque(sorted(case["requests"], key=lambda r: (r["at"], r["index"])))
    log, it, live = [], 0, {}
    overlap = case["rules"]["overlap"]
    def process(batch, result):
        decode = batch.forward_mode.is_decode()
        ids = next_tokens(batch, decode)
        if decode:
            result.next_token_ids = ids
            s.batch_result_processor.process_batch_result_decode(batch, result)
        else:
            result.next_token_ids = torch.tensor(ids)
            s.batch_result_processor.process_batch_result_prefill(batch, result)
    idle = 0
    while True:
        while coming and coming[0]["at"] <= it:
            row = coming.popleft(); req = make_req(s, row, case); live[row["index"]] = req
            s._add_request_to_queue(req)
        plan = s.get_next_batch_to_run(running_batch=s.running_batch, last_batch=s.last_batch)
        s.running_batch, batch = plan.running_batch, plan.batch_to_run
        entry = {"it": it, "blank": s.token_to_kv_pool_allocator.available_size(), "idle": s.tree_cache.evictable_size(),
                 "ratio": s.new_token_ratio_tracker.current, "queue": [int(r.rid) for r in s.waiting_queue]}
        if batch is None:
            entry["kind"] = "none"; entry["rows"] = []
        elif batch.forward_mode.is_decode():
            entry["kind"] = "decode"; entry["rows"] = [int(r.rid) for r in batch.reqs]
        else:
            entry["kind"] = "prefill"
            mixed = batch.decoding_reqs or []
            n = len(batch.reqs) - len(mixed)
            entry["chunks"] = [[int(r.rid), r.prefix_len, r.extend_end - r.prefix_len] for r in batch.reqs[:n]]
            entry["rows"] = [int(r.rid) for r in mixed]
        log.append(entry)
        if batch is not None:
            if batch.extend_num_tokens and not batch.forward_mode.is_decode():
                s.processed_tokens_counter += batch.extend_num_tokens
            s.forward_ct += 1
            if overlap:
                s.result_queue.append((batch.copy(), result_of(batch)))
            else:
                process(batch, result_of(batch))
        if overlap and s.last_batch:
            process(*s.result_queue.popleft())
        if batch is None and (not s.last_batch or not overlap):
            if not s.waiting_queue and s.running_batch.is_empty() and s.chunked_req is None:
                s.new_token_ratio_tracker.reset(); entry["ratio"] = s.new_token_ratio_tracker.current
                if not coming: break
                it = max(it, coming[0]["at"] - 1)
            else:
                idle += 1
                if idle > 50: log.append({"stuck": True}); break
        else:
            idle = 0
        s.last_batch = batch
        it += 1
    return log

def main():
    for line in sys.stdin:
        case = json.loads(line)
        r = case["rules"]
        o = get_context().override_server_args(device="cpu", page_size=case["page"], schedule_policy=r["policy"],
            schedule_conservativeness=r["conservativeness"], chunked_prefill_size=r["chunk"] or -1, max_prefill_tokens=r["max_prefill_tokens"],
            prefill_max_requests=r["max_prompts"] or None, enable_priority_scheduling=r["ranked"], schedule_low_priority_values_first=True,
            retraction_policy="priority" if r["retracts_by_priority"] else "length",
            disable_radix_cache=not case["caching"], pp_max_micro_batch_size=case["running"], enable_mixed_chunk=r["mixed"])
        o.install()
        try:
            print(json.dumps(run(case)), flush=True)
        except Exception as e:
            import traceback; traceback.print_exc()
            print(json.dumps([{"error": repr(e)}]), flush=True)
        finally:
            o.restore()
main()
