"""Options of SGLang's ``launch_server`` under their own flag names, with their own defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from perfdb.layout import Layout
from simulator.engine_options import EngineOptions, EnginePlan
from simulator.schedulers import Limits

if TYPE_CHECKING:
    from hardware.catalogue import Chip

__all__ = ["SglangOptions"]

_MIB = 2**20

#: By memory of the chip, MiB: tokens of a chunk, and sequences of the largest captured graph on fewer than four chips
#: and on more (``arg_groups/memory_hook.py``).
_BY_MEMORY = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
    (1 << 60, 16384, 512, 512),
)

#: Chips with more memory than this keep at least so much of it for what is neither weights nor KV, MiB.
_LARGE_MIB, _LEAST_RESERVE_MIB = 60 * 1024, 10 * 1024

#: Of ``schedule_conservativeness``, with attention ranks (``arg_groups/parallel_hook.py``).
_SHARE_OF_RANKS = 0.3

#: An instance with no more running requests than these takes twice as many besides (``pd_disaggregation_hook.py``).
_FEW_ROWS = 32

#: Names that other engines have for what SGLang calls otherwise.
_OTHER_NAMES = {
    "gpu_memory_utilization": "mem_fraction_static",
    "block_size": "page_size",
    "max_model_len": "context_length",
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "chunked_prefill_size",
    "scheduling_policy": "schedule_policy",
}

#: Bytes of ``SGLANG_VLM_CACHE_SIZE_MB``: 100 by default (``environ.py``), 4096 where ``encode_server.py`` runs alone.
_KEPT_FEATURES: Final = (100 << 20, 4096 << 20)


class SglangOptions(EngineOptions):
    """Options of SGLang 0.5.23.

    Attributes
    ----------
    mem_fraction_static
        Share of each chip's memory for weights and KV; by default what a chunk, captured graphs and a constant leave.
    page_size
        Tokens of a page.
    context_length
        Longest sequence.
    chunked_prefill_size
        Tokens of a step that computes prompts, to which one is cut; -1 if prompts are not cut.
    max_prefill_tokens
        Tokens of such a step after which no other prompt joins.
    prefill_max_requests
        Prompts of such a step.
    max_running_requests
        Running requests; by default 2048 to 4096, or half the tokens of the cache.
    max_total_tokens
        Tokens of the cache, if it is to have fewer than fit.
    schedule_policy
        How the queue is sorted.
    load_balance_method
        How requests are dealt to attention ranks: in turn, to the one with the fewest, or by chance.
    schedule_conservativeness
        Factor of the share of answers that is kept free.
    enable_mixed_chunk
        Running requests decode in steps that compute prompts.
    disable_radix_cache
        Keep no KV for requests that begin alike.
    disable_overlap_schedule
        Plan a step when the one before is over.
    enable_two_batch_overlap
        Steps of two sequences and more pass layers with experts in two halves, one of which computes while the other
        one is on its way to experts or back; see :mod:`perfdb.two_batches`.
    stream_interval
        Tokens that go to a client together.
    scheduler_recv_interval
        Steps of decoding from one look at who has come to the next; see :mod:`simulator.inbox`.
    prefill_decode_interval, prefill_decode_interval_min_bs
        Steps of decoding after one that computes prompts, while at least so many requests run.
    enable_priority_scheduling, disable_priority_preemption, priority_scheduling_preemption_threshold
        The most urgent requests go first, and push out those less urgent by more than the threshold where too many
        run. The lowest ``priority`` is the most urgent, as with ``schedule_low_priority_values_first``.
    retraction_policy
        ``"priority"`` retracts the least urgent first.
    cuda_graph_max_bs_decode
        Sequences of the largest captured decode step; 0 for no graphs. It counts as memory alone.
    num_reserved_decode_tokens
        Tokens that an instance that only decodes keeps free for each request before it asks for the KV of others.
    disaggregation_decode_extra_slots
        Requests on such an instance beside the running ones; by default twice ``max_running_requests``, if that is
        given and no more than 32, else none.
    disaggregation_mode
        Follows from the stages of the pool.
    ignore_eos
        Requests are sent with this sampling parameter, as benchmarks do: they are known to produce all they may.
    """

    gpu_memory_utilization: float = Field(default=0.0, exclude=True)
    block_size: int = Field(default=1, exclude=True)
    mem_fraction_static: float | None = Field(default=None, gt=0, lt=1)
    page_size: int = Field(default=1, gt=0, le=4096)
    context_length: int | None = Field(default=None, gt=0)
    chunked_prefill_size: int | None = Field(default=None, ge=-1)
    max_prefill_tokens: int = Field(default=16384, gt=0)
    prefill_max_requests: int | None = Field(default=None, gt=0)
    max_running_requests: int | None = Field(default=None, gt=0)
    max_total_tokens: int | None = Field(default=None, gt=0)
    schedule_policy: Literal["fcfs", "lpm", "lof", "random", "dfs-weight", "hrrn", "shortest-prefill-first"] = "fcfs"
    load_balance_method: Literal["auto", "round_robin", "total_requests", "follow_bootstrap_room"] = "auto"
    schedule_conservativeness: float = Field(default=1.0, ge=0, le=100)
    enable_mixed_chunk: bool = False
    disable_radix_cache: bool = False
    disable_overlap_schedule: bool = False
    enable_two_batch_overlap: bool = False
    stream_interval: int = Field(default=1, ge=1)
    scheduler_recv_interval: int = Field(default=1, ge=0)
    prefill_decode_interval: int = Field(default=0, ge=0)
    prefill_decode_interval_min_bs: int = Field(default=0, ge=0)
    enable_priority_scheduling: bool = False
    disable_priority_preemption: bool = False
    priority_scheduling_preemption_threshold: int = Field(default=10, ge=0)
    retraction_policy: Literal["length", "priority"] = "length"
    cuda_graph_max_bs_decode: int | None = Field(default=None, ge=0)
    num_reserved_decode_tokens: int = Field(default=512, gt=0)
    disaggregation_decode_extra_slots: int | None = Field(default=None, ge=0)
    disaggregation_mode: Literal["null", "prefill", "decode"] = "null"
    ignore_eos: bool = False

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, table: Any) -> Any:  # noqa: ANN401 - whatever was written
        for name in _OTHER_NAMES.keys() & set(table if isinstance(table, dict) else ()):
            raise ValueError(f"{name} is not an option of SGLang, which calls it {_OTHER_NAMES[name]}")
        if isinstance(table, dict) and "disaggregation_mode" in table:
            raise ValueError("disaggregation_mode follows from the stages of the pool; leave it out")
        return table

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.schedule_policy == "shortest-prefill-first" and self.disable_radix_cache:
            raise ValueError("schedule_policy 'shortest-prefill-first' needs the radix cache; use 'fcfs' without it")
        if self.retraction_policy == "priority" and not self.enable_priority_scheduling:
            raise ValueError("retraction_policy 'priority' needs enable_priority_scheduling")
        if self.chunked_prefill_size is not None and 0 <= self.chunked_prefill_size < self.page_size:
            raise ValueError(
                f"chunked_prefill_size is {self.chunked_prefill_size}, expected -1 or at least page_size "
                f"{self.page_size}"
            )
        return self

    @property
    def caches_prefixes(self) -> bool:
        """Whether pages keep what they hold for requests that begin alike."""
        return not self.disable_radix_cache and self.disaggregation_mode != "decode"

    def of_stages(self, *, prefills: bool, decodes: bool) -> SglangOptions:
        """Return the options of a pool of these stages."""
        mode = "null" if prefills and decodes else "prefill" if prefills else "decode"
        return self.model_copy(update={"disaggregation_mode": mode})

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> SglangOptions:
        """Return the options of one attention rank with the defaults that depend on the chips filled in."""
        del longest
        layout = layout or Layout()
        memory = chip.visible_memory_bytes / _MIB
        _, chunk, few, many = next(row for row in _BY_MEMORY if memory < row[0])
        graphs = few if layout.tensor * layout.data < 4 else many
        if self.max_running_requests is not None:
            graphs = min(graphs, self.max_running_requests)
        changes = {
            "chunked_prefill_size": chunk if self.chunked_prefill_size is None else self.chunked_prefill_size,
            "cuda_graph_max_bs_decode": graphs
            if self.cuda_graph_max_bs_decode is None
            else self.cuda_graph_max_bs_decode,
            "max_model_len": "auto" if self.context_length is None else self.context_length,
            "disaggregation_decode_extra_slots": self.extra_slots(layout.data),
        }
        found = self.model_copy(update=changes)
        if self.mem_fraction_static is None:
            reserve = found.reserve_mib(layout, memory)
            found = found.model_copy(update={"mem_fraction_static": round((memory - reserve) / memory, 3)})
        return found.of_rank(layout.data)

    def extra_slots(self, ranks: int) -> int:
        """Return the requests on each rank that only decodes, beside the running ones."""
        if self.disaggregation_decode_extra_slots is not None:
            return self.disaggregation_decode_extra_slots
        running = max(1, (self.max_running_requests or 0) // ranks)
        return 2 * running if self.max_running_requests is not None and running <= _FEW_ROWS else 0

    def of_rank(self, ranks: int) -> SglangOptions:
        """Return the options of each of several attention ranks, to which SGLang deals its budgets."""
        if ranks == 1:
            return self
        chunk, running = self.chunked_prefill_size, self.max_running_requests
        changes = {
            "chunked_prefill_size": chunk if chunk is None or chunk < 0 else max(chunk // ranks, self.page_size),
            "max_running_requests": None if running is None else max(1, running // ranks),
            "schedule_conservativeness": self.schedule_conservativeness * _SHARE_OF_RANKS,
        }
        return self.model_copy(update=changes)

    def reserve_mib(self, layout: Layout, memory: float) -> float:
        """Return the memory of a chip that SGLang keeps from weights and KV, MiB, of filled options."""
        graphs = self.cuda_graph_max_bs_decode or 0
        chunk = self.chunked_prefill_size or 0
        tokens = chunk if chunk > 0 else self.max_prefill_tokens
        if self.disaggregation_mode == "decode":
            tokens = self.max_running_requests or graphs
        reserve = 512 + 1.5 * max(tokens, 2048) + layout.chips / 8 * 1024
        if self.disaggregation_mode != "prefill":
            reserve += 2 * graphs
            if layout.data > 1:
                reserve += (4.5 if graphs > 300 else 3) * graphs * layout.data
        if chunk > 0 and self.disaggregation_mode != "decode":
            reserve += 8 * len(_captured_prompts(chunk))
        return max(reserve, _LEAST_RESERVE_MIB) if memory > _LARGE_MIB else reserve

    def _balancer(self) -> str:
        """Return how requests are dealt to ranks (``handle_load_balance_method`` of ``arg_groups/serving_hook.py``)."""
        if self.load_balance_method != "auto":
            return self.load_balance_method
        return "follow_bootstrap_room" if self.disaggregation_mode == "prefill" else "round_robin"

    def fitted(self, room: int, longest: int) -> SglangOptions:
        """Return the options with the defaults filled in that depend on the tokens of the cache."""
        most = self.max_running_requests or max(min(int(room / longest * 512), 4096), 2048)
        running = max(1, min(most, room // 2))
        return self.model_copy(update={"max_running_requests": running, "context_length": longest})

    @property
    def two_batches(self) -> bool:
        """Whether steps pass layers with experts in two halves."""
        return self.enable_two_batch_overlap

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to; the stages of the pool do not matter."""
        del prefills
        chunk = max(0, self.chunked_prefill_size or 0)
        limits = Limits(chunk or self.max_prefill_tokens, self.max_running_requests or 4096, chunked=chunk > 0)
        rules = {
            "max_prefill_tokens": self.max_prefill_tokens,
            "max_prompts": self.prefill_max_requests or 0,
            "schedule_policy": self.schedule_policy,
            "conservativeness": self.schedule_conservativeness,
            "mixed": self.enable_mixed_chunk,
            "overlap": not self.disable_overlap_schedule,
            "interval": self.prefill_decode_interval,
            "interval_batch": self.prefill_decode_interval_min_bs,
            "ranked": self.enable_priority_scheduling,
            "preempts": self.enable_priority_scheduling and not self.disable_priority_preemption,
            "threshold": self.priority_scheduling_preemption_threshold,
            "retracts_by_priority": self.retraction_policy == "priority",
            "ignore_eos": self.ignore_eos,
            "reserved_tokens": self.num_reserved_decode_tokens,
            "extra_rows": self.disaggregation_decode_extra_slots or 0,
            "longest": self.context_length or 1 << 30,
        }
        return EnginePlan(
            limits,
            self.mem_fraction_static or 0.0,
            self.page_size,
            None,
            rules,
            plans_ahead=not self.disable_overlap_schedule,
            stream_interval=self.stream_interval,
            polls_every=self.scheduler_recv_interval,
            balancer=self._balancer(),
            static=True,
            kept_features=_KEPT_FEATURES,
            most_blocks=None if self.max_total_tokens is None else self.max_total_tokens // self.page_size,
            # SGLang ends a request short of its context, and of what the cache holds beside a page or two.
            unused_tokens=2 * self.page_size + 2,
        )


def _captured_prompts(most: int) -> list[int]:
    """Return the numbers of prompt tokens for which graphs are captured (``arg_groups/cuda_graph_hook.py``)."""
    steps = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256), (4608, most + 1, 512))
    return [size for start, stop, step in steps for size in range(start, stop, step) if size <= most]
