"""What distinguishes serving engines: options with their defaults, a policy, overheads, kernel tables.

An engine is data plus a scheduling policy; none is a subclass of another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from perfdb.compile import HostTime
from perfdb.eager import DISTSERVE_KERNELS, KERNELS_OF_2023, KERNELS_OF_2024, EagerChain
from perfdb.memory import MemoryBudget
from perfdb.sources import source_chain
from perfdb.tables import TableChoice
from simulator.ascend_options import check_ascend
from simulator.baseline_options import BatchOptions, PromptFirstOptions, SarathiOptions
from simulator.engine_options import (
    DistserveOptions,
    EngineOptions,
    EnginePlan,
    SplitwiseOptions,
    VllmOptions,
    VllmV0Options,
)
from simulator.front_end import FrontEndTime
from simulator.live import live_instances
from simulator.live_options import core_options
from simulator.option_table import OptionTable
from simulator.rank_rules import RankRules
from simulator.schedulers import SCHEDULERS
from simulator.sglang_options import SglangOptions
from simulator.trtllm_options import TrtllmOptions
from simulator.vllm_eras import ERAS, LATEST, era_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hardware.catalogue import Chip
    from perfdb.eager import EagerKernels
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec
    from perfdb.sources import SourceChain
    from simulator.instance import Instance
    from simulator.network import KvMode
    from simulator.schedulers import Scheduler
    from simulator.vllm_eras import Era

__all__ = ["ENGINES", "Engine", "mark_options"]


#: How much faster one core is in the servers that hold a chip than in those of the A100: PassMark's single-thread
#: marks of a Xeon Platinum 8480 (about 2,900) over an EPYC 7742 (about 2,050), recalled.
_CORE_SPEED: Mapping[str, float] = MappingProxyType({"hopper": 1.4, "blackwell": 1.4})


_UNDELAYED = FrontEndTime()


def _vllm_graphs(sequences: int) -> int:
    """Return the CUDA graphs vLLM captures: of steps with prompts up to 512 tokens, and of decode steps.

    Sizes are 1, 2, 4, then every 8 up to 256 and every 16 (``VllmConfig._set_cudagraph_sizes``).
    """
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    return sum((size <= 2 * sequences) + (size <= sequences) for size in sizes)


def _trtllm_graphs(sequences: int) -> int:
    """Return the CUDA graphs TensorRT-LLM captures: sizes 1, 2, 4, every 8 up to 128, then powers of two."""
    sizes = (1, 2, 4, *range(8, 129, 8), 256, 512, 1024, 2048, 4096)
    return sum(size <= sequences for size in sizes)


@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine.

    Attributes
    ----------
    framework
        Whose kernel tables price it.
    policy
        Key of :data:`simulator.schedulers.SCHEDULERS`.
    options
        The type of its options.
    host
        Time of the host per step that kernels do not hide; of an eager engine, beside an A100.
    host_ahead
        That time where it plans each step when the one before begins; None for the same.
    reserved_blocks
        KV blocks that no sequence gets (vLLM V1 keeps block 0 as a placeholder).
    graphs
        Number of CUDA graphs that come off its memory, by the most sequences of a step.
    logit_bytes, communicators
        See :class:`perfdb.memory.MemoryBudget`.
    one_stage
        An instance computes prompts or decodes, never both.
    both_stages
        An instance computes prompts and decodes: others of it are not simulated.
    message_ns
        Time of the host per step, sequence and chip, where several chips are each sent what to compute.
    kernels
        Its kernels are those of an eager engine; None for today's.
    era
        Which releases of vLLM V1 it stands for; None for another engine.
    live
        Decisions are made by the scheduler of an installed vLLM.
    ranks
        What it does with attention ranks; None where it has none, or they are not simulated.
    release
        Release whose kernel tables are wanted; None for those the database calls current.
    front_end
        What stands between clients and its scheduler.
    tells_late
        The first token of a request that is handed over reaches its client from the instance that decodes.
    pipelines
        Pipelines of its that compute prompts are simulated.
    narrow_sparse_cache
        Architectures of chips on which sparse attention has an 8-bit cache where nothing else is said.
    prompt_tiles
        Sequences that decode beside prompts go through the kernel of the prompts (:mod:`perfdb.prompt_tiles`).
    kv_modes
        How it hands KV over, to instances of its own kind alone; its own way first. None for any engine's any way.
    """

    framework: str
    policy: str
    options: type[EngineOptions]
    host: HostTime
    reserved_blocks: int = 0
    graphs: Callable[[int], int] | None = None
    logit_bytes: int = 14
    communicators: bool = False
    one_stage: bool = False
    both_stages: bool = False
    message_ns: int = 0
    kernels: EagerKernels | None = None
    era: Era | None = None
    live: bool = False
    ranks: RankRules | None = None
    release: str | None = None
    front_end: FrontEndTime = _UNDELAYED
    host_ahead: HostTime | None = None
    tells_late: bool = False
    prompt_tiles: bool = False
    kv_modes: tuple[KvMode, ...] = ()
    pipelines: bool = False
    narrow_sparse_cache: tuple[str, ...] = ()

    @property
    def speculates(self) -> bool:
        """Whether it can verify drafted tokens."""
        return self.kernels is None and not self.live

    def with_cache(self, model: ModelSpec, chip: Chip) -> ModelSpec:
        """Return a model whose cache has the format that the engine gives it where nothing else is said."""
        narrow = model.sparse_attention and chip.architecture in self.narrow_sparse_cache
        return replace(model, kv_cache="fp8") if narrow else model

    def instances(self, options: EngineOptions, blocks: int) -> Callable[..., Instance] | None:
        """Return what makes its instances, of so many KV blocks, if not the usual."""
        if not self.live or not isinstance(options, VllmOptions):
            return None
        return live_instances(core_options(options, blocks))

    def filled(
        self, options: EngineOptions, chip: Chip, longest: int, pool: str, layout: Layout | None = None
    ) -> EngineOptions:
        """Return a pool's options with the defaults of the release, the chips and the longest sequence filled in.

        Raises
        ------
        ScenarioError
            If an option is set that the release does not have.
        """
        if self.era is not None and isinstance(options, VllmOptions):
            found = self.era.filled(options, chip, pool)
            return self._for_ascend(found, chip, longest, pool, layout) if found.prompts_first else found
        return options.filled(chip, longest, layout)

    def _for_ascend(
        self, options: VllmOptions, chip: Chip, longest: int, pool: str, layout: Layout | None
    ) -> VllmOptions:
        """Return filled options with a budget for the longest prompt, which the plugin for Ascend does not cut."""
        check_ascend(chip, layout, pool, live=self.live)
        tokens = max(options.max_num_batched_tokens or 0, longest)
        return options.model_copy(update={"max_num_batched_tokens": tokens, "async_scheduling": False})

    def scheduler(self, plan: EnginePlan) -> Scheduler:
        """Return the policy within its limits."""
        return SCHEDULERS[self.policy](plan.limits, **plan.rules, **(self.era.rules if self.era else {}))

    def cost_chain(self, chip: Chip, names: Sequence[str], tables: Path | None = None) -> SourceChain:
        """Return what prices its operators on a chip, from the named sources over tables of any root."""
        chain = source_chain(chip, self.framework, names, TableChoice(tables, self.release))
        return chain if self.kernels is None else EagerChain(chip, chain, self.kernels)

    def host_on(self, chip: Chip, workers: int, *, ahead: bool = False, answer_ns: int = 0) -> HostTime:
        """Return the time of the host beside so many chips: that of an eager engine follows the speed of its cores.

        ``answer_ns`` comes on top for each sequence.
        """
        speed = _CORE_SPEED.get(chip.architecture, 1.0) if self.kernels else 1.0
        messages_ns = self.message_ns * workers if workers > 1 else 0
        host = self.host if self.host_ahead is None or not ahead else self.host_ahead
        return replace(
            host,
            step_ns=round(host.step_ns / speed),
            sequence_ns=round((host.sequence_ns + messages_ns + answer_ns) / speed),
            launch_ns=round(host.launch_ns / speed),
        )

    def memory_budget(self, plan: EnginePlan) -> MemoryBudget:
        """Return what the engine assumes about memory."""
        sequences = plan.limits.max_sequences
        return MemoryBudget(
            utilization=plan.utilization,
            step_tokens=plan.limits.max_tokens,
            step_sequences=sequences,
            block_tokens=plan.block_tokens,
            graphs=self.graphs(sequences) if self.graphs else 0,
            logit_bytes=self.logit_bytes,
            communicators=self.communicators,
            static=plan.static,
            of_free=plan.of_free,
        )


#: Ray's messages to the workers of vLLM before 0.2.7, serialised for each: 0.366 ms per sequence and step on eight
#: chips, from the throughput without them (3.48 for 2.48 requests/s of 317 tokens, Llama-70B, vllm-project/vllm#2221).
_RAY_MESSAGE_NS = 46_000

_VLLM_V0_HOST = HostTime(step_ns=7_000_000, sequence_ns=50_000, launch_ns=32_000, prompt_attention_launches=9)

#: Of the profile of Sarathi-Serve on A100 that comes with Vidur: to schedule, prepare, sample and process takes 3.5 ms
#: at 64 and 7.0 ms at 128 sequences, Ray 0.57 ms on one chip and 6.4 ms for 128 sequences on two. Launches as vLLM's.
_SARATHI_HOST = HostTime(step_ns=600_000, sequence_ns=55_000, launch_ns=32_000)
_SARATHI_MESSAGE_NS = 25_000


def _in_sarathi_serve(policy: str, options: type[EngineOptions]) -> Engine:
    """Return an engine that is a policy within Sarathi-Serve's code, as its authors compared them."""
    return Engine("vllm", policy, options, _SARATHI_HOST, kernels=KERNELS_OF_2024, message_ns=_SARATHI_MESSAGE_NS)


#: What vLLM's memory pays for changed with 0.11, which looks at the chip after making the communicators, 0.17, whose
#: sampler no longer sorts the vocabulary, and 0.18, which captures graphs while it measures
#: (``vllm/v1/worker/gpu_worker.py``, ``v1/sample/ops/topk_topp_sampler.py``).
_COMMUNICATORS_FREE_SINCE, _UNSORTED_SINCE, _GRAPHS_COUNTED_SINCE = 11, 17, 18
#: The logits in 16 bits, in 32, their sorted values and 64-bit positions, and PyTorch's working copies of both.
_SORTING_LOGIT_BYTES = 2 + 4 + (4 + 8) + (8 + 4 + 8)


#: vLLM scores ranks by their unfinished requests and the fill of their caches at least since this release.
_SCORES_SINCE = 33


#: What stands before each engine, and the time of its host: docs/decisions/005-host-time.md says what they were found
#: from. vLLM tokenises prompts in its API server, and waits for its host only where it schedules step by step.
_VLLM_HOST = HostTime(step_ns=1_300_000, sequence_ns=35_000)
_VLLM_HOST_AHEAD = HostTime(step_ns=100_000, sequence_ns=10_000)
_VLLM_FRONT_END = FrontEndTime(latency_ns=5_000_000, token_ns=1_000, output_ns=25_000)
_SGLANG_HOST = HostTime(step_ns=500_000, sequence_ns=15_000)
_SGLANG_FRONT_END = FrontEndTime(latency_ns=100_000_000, output_ns=45_000)
_TRTLLM_HOST = HostTime(step_ns=300_000, sequence_ns=5_000)
_TRTLLM_FRONT_END = FrontEndTime(latency_ns=20_000_000, output_ns=95_000)


def _vllm(minor: int) -> Engine:
    return Engine(
        "vllm",
        "vllm",
        VllmOptions,
        _VLLM_HOST,
        host_ahead=_VLLM_HOST_AHEAD,
        front_end=_VLLM_FRONT_END,
        tells_late=True,
        reserved_blocks=1,
        graphs=_vllm_graphs if minor >= _GRAPHS_COUNTED_SINCE else None,
        logit_bytes=14 if minor >= _UNSORTED_SINCE else _SORTING_LOGIT_BYTES,
        communicators=minor < _COMMUNICATORS_FREE_SINCE,
        era=era_of(minor),
        # A rank that runs dummy steps waits for each before it looks at its queue; those of dense models are engines
        # of their own (``run_busy_loop`` of ``v1/engine/core.py``).
        ranks=RankRules(
            "lowest_score" if minor >= _SCORES_SINCE else "waiting_first", idle_lags=False, dense_apart=True
        ),
        # DeepSeek-V3.2 gets ``fp8_ds_mla`` (vllm/model_executor/models/config.py).
        narrow_sparse_cache=("hopper", "blackwell"),
        pipelines=True,
        prompt_tiles=True,
    )


#: Engines by name; one after an ``@`` is a version whose behaviour differs. Where the constants of the engines of 2023
#: come from is said in docs/decisions/010-engines-of-2023.md.
ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "vllm": _vllm(LATEST),
        **{
            f"vllm@0.{minor}": replace(_vllm(minor), release=f"0.{minor}") for minor in range(ERAS[0].since, LATEST + 1)
        },
        "sglang": Engine(
            "sglang",
            "sglang",
            SglangOptions,
            _SGLANG_HOST,
            front_end=_SGLANG_FRONT_END,
            tells_late=True,
            # Without ``--enable-dp-attention`` a rank is a scheduler of its own over all weights
            # (``launch_dp_schedulers`` of ``managers/data_parallel_controller.py``).
            ranks=RankRules("round_robin", dense_apart=True),
            # It logs "Setting KV cache dtype to bfloat16 for DeepSeek DSA on SM9 device", and to FP8 on SM10.
            narrow_sparse_cache=("blackwell",),
            kv_modes=("chunked", "blocking"),
        ),
        "trtllm": Engine(
            "trtllm",
            "trtllm",
            TrtllmOptions,
            _TRTLLM_HOST,
            front_end=_TRTLLM_FRONT_END,
            tells_late=True,
            graphs=_trtllm_graphs,
            # A rank of a dense model has its whole MLP (``overridden_tp_size`` of ``models/modeling_qwen3.py``).
            ranks=RankRules("fewest_tokens", one_chip=True),
        ),
        "vllm-live": replace(_vllm(LATEST), live=True, both_stages=True, ranks=None, pipelines=False),
        "vllm@0.2": Engine(
            "vllm",
            "vllm_v0",
            VllmV0Options,
            _VLLM_V0_HOST,
            kernels=KERNELS_OF_2023,
            message_ns=_RAY_MESSAGE_NS,
        ),
        "distserve": Engine(
            "vllm",
            "distserve",
            DistserveOptions,
            HostTime(step_ns=3_500_000, sequence_ns=20_000),
            one_stage=True,
            kernels=DISTSERVE_KERNELS,
        ),
        "splitwise": Engine(
            "vllm", "splitwise", SplitwiseOptions, _VLLM_V0_HOST, kernels=KERNELS_OF_2023, message_ns=_RAY_MESSAGE_NS
        ),
        "sarathi": _in_sarathi_serve("sarathi", SarathiOptions),
        "vllm_v0": _in_sarathi_serve("vllm_v0", PromptFirstOptions),
        "orca": _in_sarathi_serve("orca", BatchOptions),
        "static": _in_sarathi_serve("static", BatchOptions),
    }
)


def mark_options(pool: object) -> object:
    """Return a ``[[pool]]`` table whose ``engine_options`` know which type they are of.

    What is not a table, or names no engine there is, is returned as it is: its reader says what is wrong.
    """
    if not isinstance(pool, dict):
        return pool
    engine, options = ENGINES.get(str(pool.get("engine", "vllm"))), pool.get("engine_options", {})
    if engine is None or not isinstance(options, dict):
        return pool
    return {**pool, "engine_options": OptionTable(options, engine.options.__name__)}
