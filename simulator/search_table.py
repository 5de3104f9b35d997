"""``[search]``: which deployments are looked at, for what; and the scenario that they serve."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, field_validator

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from hardware.strict import Strict, one_of
from hardware.tables import validated
from perfdb.formats import WEIGHT_BYTES
from perfdb.load_model import load_model
from simulator.engines import ENGINES
from simulator.overrides import parse_override
from simulator.pool_table import Count, Text
from simulator.requests import build_requests
from simulator.scenario import open_scenario, resolve_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.scenario import Scenario

__all__ = ["OBJECTIVES", "SearchTable", "Searched", "load_searched"]

OBJECTIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "goodput": "most requests per second and chip within the SLO",
        "cost": "least cost per million output tokens within the SLO",
        "chips": "fewest chips for the traffic as it is",
        "pareto": "most tokens per second of a chip for each speed of a user within the SLO",
    }
)
"""What deployments are ranked by, in words."""

#: Option values tried where the file names none: the token budget of a step decides how much a prompt delays others.
_OPTIONS: Final[Mapping[str, Mapping[str, Sequence[Any]]]] = MappingProxyType(
    {
        "vllm": {"max_num_batched_tokens": (1024, 2048, 8192)},
        "sglang": {"chunked_prefill_size": (2048, 8192)},
        "trtllm": {"max_num_tokens": (2048, 8192)},
    }
)

_Split: TypeAlias = Literal["colocated", "disaggregated", "E-PD", "E-P-D"]
_Engine: TypeAlias = Annotated[str, one_of(ENGINES)]
_Weights: TypeAlias = Annotated[str, one_of(WEIGHT_BYTES)]
_Values: TypeAlias = Annotated[tuple[Any, ...], Field(min_length=1, max_length=64)]
_Ways: TypeAlias = Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]


class SearchTable(Strict):
    """``[search]``: what is tried; every combination that is possible.

    Attributes
    ----------
    objective
        A key of :data:`OBJECTIVES`.
    gpus
        Most chips of a deployment; default: those of the scenario's pools.
    splits
        Prompts and decoding on the same instances, or apart; the same with encoders apart (E-PD, E-P-D). Default:
        those that the model and the traffic have a use for.
    engines, chips
        Default: those of the scenario's pools. Prefill and decode may have different chips, not engines.
    weights, kv_cache
        Formats; default: as ``[model]`` says.
    tensor_parallel, pipeline_parallel, data_parallel
        Of an instance. Pipelines compute prompts for vLLM alone; attention ranks are tried for models with experts, and
        encoders that share out images whole.
    experts
        How experts are dealt: ``"tensor"`` cuts each over all chips of an instance, ``"parallel"`` gives each chip
        whole ones.
    expert_exchange
        See the key of that name of ``[[pool]]``; ``"all_to_all"`` where a layout can have it.
    instance_chips
        Most chips of an instance.
    unit_instances
        Most instances, of all stages together, of the smallest group that a disaggregated deployment repeats.
    engine_options
        Values to try by engine and flag; other flags are those of the scenario's pool of that engine.
    requests
        Requests of the longest runs at least.
    duration_s
        Seconds of traffic of the longest runs; default: 20 times what the SLO allows a mean request to take.
    """

    objective: Annotated[str, one_of(OBJECTIVES)] = "goodput"
    gpus: Count | None = None
    splits: Annotated[tuple[_Split, ...], Field(min_length=1)] = ()
    engines: tuple[_Engine, ...] = ()
    chips: tuple[Text, ...] = ()
    weights: tuple[_Weights, ...] = ()
    kv_cache: tuple[Literal["bf16", "fp8"], ...] = ()
    tensor_parallel: _Ways = (1, 2, 4, 8)
    pipeline_parallel: _Ways = (1,)
    data_parallel: _Ways = (1, 2, 4, 8)
    experts: Annotated[tuple[Literal["tensor", "parallel"], ...], Field(min_length=1)] = ("tensor", "parallel")
    expert_exchange: Annotated[tuple[Literal["gather", "all_to_all"], ...], Field(min_length=1)] = ("gather",)
    instance_chips: Count = 8
    unit_instances: Annotated[int, Field(ge=2, le=64, strict=True)] = 8
    engine_options: dict[_Engine, dict[str, _Values]] = Field(default_factory=dict)
    requests: Annotated[int, Field(ge=20, le=10**6, strict=True)] = 1000
    duration_s: Annotated[float, Field(gt=0, le=1e6, strict=True)] | None = None

    @field_validator("engines", "chips", "weights", "kv_cache", "splits", "tensor_parallel", "data_parallel")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"found {list(value)}, expected each once")
        return value

    def options_of(self, engine: str) -> Mapping[str, Sequence[Any]]:
        """Return the values to try of an engine's flags."""
        return self.engine_options.get(engine, _OPTIONS.get(engine.partition("@")[0], {}))


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search is about.

    Attributes
    ----------
    scenario
        The model, the traffic, the SLO; its pools say what the deployments have in common.
    table
        What is tried, with engines, chips and the number of chips filled in.
    """

    scenario: Scenario
    table: SearchTable


def load_searched(path: str, changes: Sequence[str] = (), *, gpus: int | None, objective: str | None) -> Searched:
    """Read what a search is about: a scenario, with or without a ``[search]`` table, or such a table without pools.

    Parameters
    ----------
    path
        A TOML file, or the name of a shipped scenario.
    changes
        Texts ``KEY=VALUE``, as ``--set`` takes them.
    gpus, objective
        Replace what the table says, unless None.

    Raises
    ------
    ScenarioError
        If the file cannot be read, a key or value is impossible, or there is no SLO to meet.
    """
    file, root = open_scenario(path, dict(parse_override(change) for change in changes))
    if "candidate" in root:
        raise ScenarioError(f"{path}: has [[candidate]] tables, expected one scenario; the search makes its own")
    given = {"gpus": gpus, "objective": objective}
    asked = root.pop("search", {})
    if isinstance(asked, dict):
        asked = asked | {key: value for key, value in given.items() if value is not None}
    table = validated(SearchTable, asked, str(path), "search.", error=ScenarioError)
    if "pool" not in root:
        root["pool"] = _pools(table, path)
    scenario = resolve_scenario(root, file, path)
    _check_goal(scenario, path)
    return Searched(scenario, _filled(table, scenario, path))


def _pools(table: SearchTable, path: str) -> list[dict[str, Any]]:
    """Return a pool per engine of a scenario that has none."""
    if not table.chips:
        raise ScenarioError(f"{path}: has no [[pool]] and no search.chips, expected the chips to search among")
    return [
        {"name": f"{engine}-{number}", "engine": engine, "chip": table.chips[0]}
        for number, engine in enumerate(table.engines or ("vllm",))
    ]


def _filled(table: SearchTable, scenario: Scenario, path: str) -> SearchTable:
    pools = scenario.pool
    for chip in table.chips:
        load_chip(chip)
    chips = sum(p.replicas * p.tensor_parallel * p.pipeline_parallel * p.data_parallel for p in pools)
    return table.model_copy(
        update={
            "engines": table.engines or tuple(dict.fromkeys(pool.engine for pool in pools)),
            "chips": table.chips or tuple(dict.fromkeys(pool.chip for pool in pools)),
            "gpus": table.gpus or chips,
            "splits": _splits(table.splits, scenario, path),
        }
    )


def _splits(asked: tuple[_Split, ...], scenario: Scenario, path: str) -> tuple[_Split, ...]:
    """Return the splits to try: those asked for, or all that make a difference."""
    apart: tuple[_Split, ...] = tuple(split for split in asked if split.startswith("E-"))
    if asked and not apart:
        return asked
    without = None
    if load_model(scenario.model.name).encoder is None:
        without = f"{scenario.model.name} has no encoder"
    elif build_requests(scenario).media is None:
        without = "no request of the workload has an image"
    if apart and without is not None:
        raise ScenarioError(
            f"{path}: search.splits has {apart[0]!r}, but {without}; expected 'colocated' or 'disaggregated'"
        )
    return asked or (("colocated", "disaggregated") if without else ("colocated", "disaggregated", "E-PD", "E-P-D"))


def _check_goal(scenario: Scenario, path: str) -> None:
    slo = scenario.slo
    if slo.ttft_ms is slo.tpot_ms is slo.e2e_ms is None:
        raise ScenarioError(
            f"{path}: [slo] has no bound, so that any load would do; expected ttft_ms, tpot_ms or e2e_ms"
        )
    if scenario.operations.incident or scenario.operations.switching is not None:
        raise ScenarioError(
            f"{path}: has [operations], which name pools that a search replaces; search without, then run the winner "
            "with them"
        )
