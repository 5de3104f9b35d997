"""``[[pool]]``: equal instances that serve the same stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Self, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from hardware.strict import Strict, one_of
from perfdb.power_cap import PowerCap
from perfdb.sources import COST_SOURCES, DEFAULT_SOURCES
from simulator.calibration import Calibration
from simulator.engine_options import VllmOptions
from simulator.engines import ENGINES, mark_options
from simulator.option_table import AnyOptions
from simulator.router import ROUTERS
from simulator.speculation_table import SpeculationTable
from simulator.trtllm_options import TrtllmOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfdb.speculation import Speculation

__all__ = ["Count", "Limits", "Pool", "Text", "decode_pools", "encode_pools", "entry_pools", "hands_over", "own_pools"]

_STAGES: Final = ("encode", "prefill", "decode")


def _written(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a name or a path")
    return value


Count: TypeAlias = Annotated[int, Field(gt=0, strict=True)]
"""A whole number of at least 1."""

Text: TypeAlias = Annotated[str, AfterValidator(_written)]
"""A name or a path."""

_Ranks: TypeAlias = Annotated[int, Field(gt=0, le=1024, strict=True)]
_Replicas: TypeAlias = Annotated[int, Field(gt=0, le=100_000, strict=True)]
_Stage: TypeAlias = Annotated[str, one_of(_STAGES)]
_Engine: TypeAlias = Annotated[str, one_of(ENGINES)]
_Router: TypeAlias = Annotated[str, one_of(ROUTERS)]
_Exchange: TypeAlias = Annotated[str, one_of(("gather", "all_to_all"))]
_CostSource: TypeAlias = Annotated[str, one_of((*COST_SOURCES, "vidur"))]


class Limits(Strict):
    """``[pool.limits]``: measured figures that replace estimates.

    Attributes
    ----------
    kv_blocks
        KV blocks of an instance.
    host_gb_per_s
        Rate at which each chip reads host memory, GB/s.
    """

    kv_blocks: Annotated[int, Field(gt=1, strict=True)] | None = None
    host_gb_per_s: Annotated[float, Field(gt=0, strict=True)] | None = None


class Pool(Strict):
    """``[[pool]]``: equal instances that serve the same stages.

    Instances of a pool that ``shares`` the chips of another one run beside those, each with one of them.

    A pool of both stages beside pools of one helps whichever is short: see
    :class:`simulator.group.Group` for ``helps_above``.
    """

    name: str | None = None
    stages: tuple[_Stage, ...] = _STAGES[1:]
    replicas: _Replicas = 1
    chip: Text
    tensor_parallel: Count = 1
    pipeline_parallel: Count = 1
    data_parallel: _Ranks = 1
    expert_parallel: Count = 1
    expert_exchange: _Exchange = "gather"
    redundant_experts: Annotated[int, Field(ge=0, le=4096, strict=True)] = 0
    engine: _Engine = "vllm"
    router: _Router = "least_loaded"
    helps_above: Annotated[int, Field(ge=0, strict=True)] = 0
    cost_sources: tuple[_CostSource, ...] = DEFAULT_SOURCES
    tables: Text | None = None
    step_profile: Text | None = None
    calibration: Calibration | Text | None = None
    power_cap: PowerCap = 1.0
    shares: Text | None = None
    engine_options: AnyOptions = VllmOptions()
    speculation: SpeculationTable | None = None
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _options_of_the_engine(cls, table: object) -> object:
        return mark_options(table)

    @field_validator("name")
    @classmethod
    def _addressable(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or "." in value or value.isdecimal()):
            raise ValueError("expected a name without dots that is no number, since --set goes by it")
        return value

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or list(value) != [stage for stage in _STAGES if stage in value]:
            raise ValueError(f"found {list(value)}, expected some of {list(_STAGES)}, in this order, each once")
        return value

    @property
    def encodes_alone(self) -> bool:
        """Whether it encodes images, videos and sounds, and nothing else."""
        return self.stages == ("encode",)

    @property
    def prefills(self) -> bool:
        """Whether it computes prompts."""
        return "prefill" in self.stages

    @property
    def decodes(self) -> bool:
        """Whether it produces tokens after the first."""
        return "decode" in self.stages

    @property
    def vidur(self) -> bool:
        """Whether its steps are said to be priced by tables in the format of Vidur."""
        return self.cost_sources == ("vidur",)

    @property
    def drafts(self) -> Speculation | None:
        """What its steps verify, if anything is drafted."""
        return self.speculation.speculation if self.speculation else None

    @property
    def serves_both(self) -> bool:
        """Whether it computes prompts and decodes."""
        return self.prefills and self.decodes

    @model_validator(mode="after")
    def _one_stage(self) -> Self:
        if self.encodes_alone:
            return self
        if ENGINES[self.engine].one_stage and self.serves_both:
            raise ValueError(f"engine {self.engine!r} serves one stage; expected ['prefill'] or ['decode'] as stages")
        if ENGINES[self.engine].both_stages and not self.serves_both:
            raise ValueError(
                f"found stages {list(self.stages)}; of engine {self.engine!r} only instances with both stages are "
                "simulated; expected ['prefill', 'decode'], or engine 'vllm' for pools of one stage"
            )
        return self

    @field_validator("cost_sources")
    @classmethod
    def _some_source(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"found an empty list, expected at least one of {', '.join(COST_SOURCES)}")
        if "vidur" in value and len(value) > 1:
            raise ValueError(f"found 'vidur' among {list(value)}, but it prices whole steps; expected it alone")
        return value

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if self.step_profile is None and self.vidur:
            raise ValueError("found cost_sources ['vidur'] alone, expected a folder of its tables as step_profile")
        if self.step_profile is not None and not (self.vidur or self.cost_sources == DEFAULT_SOURCES):
            raise ValueError("found step_profile and cost_sources, expected one: a profile prices whole steps")
        if self.step_profile is not None and self.tables is not None:
            raise ValueError("found step_profile and tables, expected one: a profile prices whole steps")
        if self.step_profile is not None and self.calibration is not None:
            raise ValueError("found step_profile and calibration, expected one: a profile prices whole steps")
        return self

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        if self.data_parallel == 1:
            options = self.engine_options
            if isinstance(options, TrtllmOptions) and options.attention_dp_config.enable_balance:
                raise ValueError("attention_dp_config.enable_balance needs attention ranks; set data_parallel")
            return self
        if ENGINES[self.engine].ranks is None:
            able = ", ".join(name for name, engine in ENGINES.items() if engine.ranks is not None)
            raise ValueError(
                f"data_parallel is {self.data_parallel}, but attention ranks of {self.engine!r} are not simulated; "
                f"expected engine {able}, or replicas"
            )
        if self.step_profile is not None:
            raise ValueError("found data_parallel and step_profile, whose steps are of one rank; leave one out")
        return self

    @model_validator(mode="after")
    def _exchange(self) -> Self:
        chips = self.tensor_parallel * self.data_parallel
        if self.expert_exchange == "all_to_all" and (self.data_parallel == 1 or self.expert_parallel != chips):
            raise ValueError(
                f"expert_exchange is 'all_to_all' with data_parallel {self.data_parallel} and expert_parallel "
                f"{self.expert_parallel} on {chips} chips, but it is between ranks whose chips hold experts of their "
                "own; expected data_parallel above 1 and expert_parallel = tensor_parallel x data_parallel"
            )
        return self

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.engine_options.two_batches and (self.expert_exchange != "all_to_all" or self.pipeline_parallel > 1):
            raise ValueError(
                "engine_options.enable_two_batch_overlap hides the exchange with experts, and is simulated with "
                f"expert_exchange = 'all_to_all' on one pipeline stage; found {self.expert_exchange!r} and "
                f"pipeline_parallel = {self.pipeline_parallel}"
            )
        return self

    @model_validator(mode="after")
    def _speculates(self) -> Self:
        if self.drafts is None:
            return self
        if not ENGINES[self.engine].speculates:
            able = ", ".join(name for name, engine in ENGINES.items() if engine.speculates and "@" not in name)
            raise ValueError(f"engine {self.engine!r} does not decode speculatively here; expected {able}")
        if self.pipeline_parallel > 1:
            raise ValueError("found speculation and pipeline_parallel, which are not simulated together; leave one out")
        if self.step_profile is not None:
            raise ValueError("found speculation and step_profile, expected one: a profile prices whole steps")
        return self

    @model_validator(mode="after")
    def _waits(self) -> Self:
        options = self.engine_options
        if isinstance(options, TrtllmOptions) and options.batch_wait_timeout_ms:
            key = f"engine_options.batch_wait_timeout_ms is {options.batch_wait_timeout_ms:g}"
            if not self.serves_both:
                raise ValueError(
                    f"{key} in a pool of stages = {list(self.stages)}, which is simulated where both are served; "
                    "expected stages = ['prefill', 'decode'], or no wait"
                )
            if self.drafts is not None:
                raise ValueError(f"{key} with speculation, which are not simulated together; leave one out")
        return self

    @model_validator(mode="after")
    def _copies(self) -> Self:
        if self.redundant_experts and self.expert_parallel == 1:
            raise ValueError(
                f"redundant_experts is {self.redundant_experts} with expert_parallel 1, where every chip has a part of "
                "every expert and nothing to even out; leave it out, or set expert_parallel"
            )
        return self

    @model_validator(mode="after")
    def _pipeline(self) -> Self:
        if self.pipeline_parallel == 1 or not self.prefills:
            return self
        if not ENGINES[self.engine].pipelines:
            able = ", ".join(name for name, engine in ENGINES.items() if engine.pipelines and "@" not in name)
            raise ValueError(
                f"pipeline_parallel is {self.pipeline_parallel} in a pool of engine {self.engine!r} that computes "
                f"prompts, which is simulated of {able} alone; use tensor_parallel, or stages = ['decode']"
            )
        if self.data_parallel > 1 or self.shares is not None:
            raise ValueError(
                f"pipeline_parallel is {self.pipeline_parallel} in a pool that computes prompts, beside "
                f"{'data_parallel' if self.data_parallel > 1 else 'shares'}, which are not simulated together; leave "
                "one out"
            )
        return self


def hands_over(pools: Sequence[Pool]) -> bool:
    """Tell whether a pool serves prompts alone, so that requests go on elsewhere."""
    return any(pool.prefills and not pool.decodes for pool in pools)


def encode_pools(pools: Sequence[Pool]) -> tuple[Pool, ...]:
    """Return the pools that encode for others."""
    return tuple(pool for pool in pools if pool.encodes_alone)


def entry_pools(pools: Sequence[Pool]) -> tuple[Pool, ...]:
    """Return the pools that requests arrive at."""
    return tuple(pool for pool in pools if pool.prefills)


def decode_pools(pools: Sequence[Pool]) -> tuple[Pool, ...]:
    """Return the pools that requests are handed over to."""
    return tuple(pool for pool in pools if pool.decodes and hands_over(pools))


def own_pools(stage: Sequence[Pool]) -> tuple[Pool, ...]:
    """Return the pools that serve a stage and nothing else; all, where each of them serves both."""
    return tuple(pool for pool in stage if not pool.serves_both) or tuple(stage)
