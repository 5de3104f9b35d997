"""The scenario: a typed, strict picture of one TOML file and the ``--set`` changes to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from hardware.errors import ScenarioError, suggest
from hardware.strict import Strict
from hardware.tables import read_table, validated
from perfdb.model import WEIGHT_BYTES
from perfdb.sources import COST_SOURCES, DEFAULT_SOURCES
from simulator.engines import ENGINES, VllmOptions
from simulator.overrides import WORKLOAD_KINDS, parse_override, set_key
from simulator.router import ROUTERS
from workloads.closed_loop import ClosedLoop
from workloads.readers import READERS
from workloads.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Cost",
    "Limits",
    "Model",
    "Pool",
    "Scenario",
    "Slo",
    "Workload",
    "load_changed",
    "load_scenario",
    "scenario_names",
]


_MOST_REQUESTS: Final = 10**9
_LONGEST_NAME_BYTES: Final = 200
_STAGES: Final = ("prefill", "decode")


def _one_of(options: Sequence[str] | Mapping[str, object]) -> AfterValidator:
    """Return a check that a name is among the options."""

    def known(value: str) -> str:
        if value not in options:
            raise ValueError(f"unknown name; {suggest(value, options)}")
        return value

    return AfterValidator(known)


def _written(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a name or a path")
    return value


# Numbers are strict: true is no 1, and "2" in quotation marks no 2.
_Count: TypeAlias = Annotated[int, Field(gt=0, strict=True)]
_Replicas: TypeAlias = Annotated[int, Field(gt=0, le=100_000, strict=True)]
_Positive: TypeAlias = Annotated[float, Field(gt=0, strict=True)]
_Share: TypeAlias = Annotated[float, Field(gt=0, le=1, strict=True)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9, strict=True)]
_Price: TypeAlias = Annotated[float, Field(ge=0, le=1e9, strict=True)]
_Text: TypeAlias = Annotated[str, AfterValidator(_written)]
_Flag: TypeAlias = Annotated[bool, Field(strict=True)]
_Weights: TypeAlias = Annotated[str, _one_of(WEIGHT_BYTES)]
_Format: TypeAlias = Annotated[str, _one_of(READERS)]
_Stage: TypeAlias = Annotated[str, _one_of(_STAGES)]
_Engine: TypeAlias = Annotated[str, _one_of(ENGINES)]
_Router: TypeAlias = Annotated[str, _one_of(ROUTERS)]
_CostSource: TypeAlias = Annotated[str, _one_of(COST_SOURCES)]


class Model(Strict):
    """``[model]``: what is served."""

    name: _Text
    weights: _Weights | None = None
    kv_cache: Literal["bf16", "fp8"] | None = None


class Workload(Strict):
    """``[workload]``: exactly one of ``trace``, ``synthetic`` and ``closed_loop``."""

    trace: _Text | None = None
    format: _Format | None = None
    on_error: Literal["raise", "skip"] = "raise"
    spread: _Flag = True
    synthetic: Synthetic | None = None
    closed_loop: ClosedLoop | None = None
    rate_scale: _Positive = 1.0
    limit: _Count | None = None
    warmup_s: _Seconds = 0.0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in WORKLOAD_KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none"
            raise ValueError(f"found {found}, expected exactly one of trace, synthetic and closed_loop")
        table = self.synthetic or self.closed_loop
        if table is not None and table.requests > _MOST_REQUESTS:
            raise ValueError(f"{kinds[0]}.requests is {table.requests}, expected at most {_MOST_REQUESTS}")
        if self.closed_loop is not None and self.rate_scale != 1:
            raise ValueError("rate_scale has no meaning for a closed loop, whose rate follows from its concurrency")
        return self


class Slo(Strict):
    """``[slo]``: bounds, ms, that a good request meets; and the share of requests that must."""

    ttft_ms: _Positive | None = None
    tpot_ms: _Positive | None = None
    e2e_ms: _Positive | None = None
    attainment: _Share = 0.9


class Limits(Strict):
    """``[pool.limits]``: measured figures that replace estimates."""

    kv_blocks: Annotated[int, Field(gt=1, strict=True)] | None = None


class Pool(Strict):
    """``[[pool]]``: equal instances that serve the same stages."""

    name: str | None = None
    stages: tuple[_Stage, ...] = _STAGES
    replicas: _Replicas = 1
    chip: _Text
    tensor_parallel: _Count = 1
    pipeline_parallel: _Count = 1
    engine: _Engine = "vllm"
    router: _Router = "least_loaded"
    cost_sources: tuple[_CostSource, ...] = DEFAULT_SOURCES
    engine_options: VllmOptions = VllmOptions()
    limits: Limits = Limits()

    @field_validator("name")
    @classmethod
    def _addressable(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or "." in value or value.isdecimal()):
            raise ValueError("expected a name without dots that is no number, since --set goes by it")
        return value

    @field_validator("stages")
    @classmethod
    def _both_stages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != _STAGES:
            raise ValueError(
                f"found {list(value)}, but this version serves both stages in one pool; expected {list(_STAGES)}"
            )
        return value

    @field_validator("cost_sources")
    @classmethod
    def _some_source(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"found an empty list, expected at least one of {', '.join(COST_SOURCES)}")
        return value

    @field_validator("pipeline_parallel")
    @classmethod
    def _pipeline(cls, value: int) -> int:
        if value > 1:
            raise ValueError("the engine does not overlap micro-batches of pipeline stages yet; use tensor_parallel")
        return value


class Cost(Strict):
    """``[cost]``: currency per chip-hour by chip name."""

    chip_hour: dict[str, _Price] = Field(default_factory=dict)


class Scenario(Strict):
    """A whole scenario.

    Attributes
    ----------
    name, seed
        Label of the results; root of every random stream.
    model, workload, slo, pool, cost
        The tables of the file.
    """

    name: str = "scenario"
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    model: Model
    workload: Workload
    slo: Slo = Slo()
    pool: tuple[Pool, ...]
    cost: Cost = Cost()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        printable = value.strip() and value.isprintable() and len(value.encode()) <= _LONGEST_NAME_BYTES
        if not printable or value.startswith(".") or "/" in value or "\\" in value:
            raise ValueError(
                "expected a name for the result folder: printable, at most 200 bytes, without slashes, no dot first"
            )
        return value

    @field_validator("pool")
    @classmethod
    def _some_pool(cls, value: tuple[Pool, ...]) -> tuple[Pool, ...]:
        if not value:
            raise ValueError("found an empty list, expected at least one [[pool]] table")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [self.pool_name(number) for number in range(len(self.pool))]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two pools are named {twice!r}; names must differ")
        routers = sorted({pool.router for pool in self.pool})
        if len(routers) > 1:
            raise ValueError(f"pools that serve the same stages need one router, found {' and '.join(routers)}")
        return self

    def pool_name(self, number: int) -> str:
        """Return a pool's name, or ``pool<number>`` where it has none."""
        return self.pool[number].name or f"pool{number}"


def scenario_names() -> tuple[str, ...]:
    """Return the names of the scenarios that are shipped."""
    return tuple(sorted(path.stem for path in _shipped().glob("*.toml")))


def load_scenario(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    path
        A TOML file, or the name of a shipped scenario (``quickstart``).
    overrides
        Changes by dotted key, as ``--set`` takes them: ``{"pool.decode.replicas": 4}``. A pool goes by its
        name or its number.

    Raises
    ------
    ScenarioError
        If the file cannot be read, is not TOML, or has a key or value that is unknown or impossible.
    """
    file, changes = _find(path), overrides or {}
    table = _read(file)
    for key, value in changes.items():
        set_key(table, key, value)
    table.setdefault("name", file.stem.lstrip(".") or "scenario")
    where = f"{path} with --set" if changes else str(path)
    scenario = validated(Scenario, table, where, error=ScenarioError)
    return _beside(scenario, file.parent)


def load_changed(path: str | Path, changes: Sequence[str], seed: int | None = None) -> Scenario:
    """Read a scenario as a command line gives it.

    Parameters
    ----------
    path
        As for :func:`load_scenario`.
    changes
        Texts ``KEY=VALUE``, as ``--set`` takes them; a later one wins.
    seed
        Replaces the scenario's seed, unless None.

    Raises
    ------
    ScenarioError
        As for :func:`load_scenario`, or if a change is not ``KEY=VALUE``.
    """
    overrides = dict(parse_override(change) for change in changes)
    if seed is not None:
        overrides["seed"] = seed
    return load_scenario(path, overrides)


def _shipped() -> Path:
    installed = Path(__file__).parent / "scenarios"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "scenarios"


def _find(path: str | Path) -> Path:
    file = Path(path)
    if _exists(file) and file.is_file():
        return file
    if str(path) in scenario_names():
        return _shipped() / f"{path}.toml"
    what = "is a folder, not a file" if str(path) and _exists(file) and file.is_dir() else "is neither a file"
    raise ScenarioError(
        f"scenario {str(path)!r} {what} nor the name of a shipped one; {suggest(str(path), scenario_names())}"
    )


def _exists(path: str | Path) -> bool:
    """Tell whether there is such a file or folder; no, where the name is impossible or the way is barred."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_table(file, ScenarioError)
    except (ValueError, RecursionError) as problem:
        raise ScenarioError(
            f"{file}: not a TOML file that can be read ({problem}); expected shorter numbers and less nesting"
        ) from problem


def _beside(scenario: Scenario, folder: Path) -> Scenario:
    """Look a relative trace or model path up beside the scenario file, where it is not found as it stands."""
    changes: dict[str, Any] = {}
    trace, model = scenario.workload.trace, scenario.model.name
    if trace and not _exists(trace) and _exists(folder / trace):
        changes["workload"] = scenario.workload.model_copy(update={"trace": str(folder / trace)})
    if model and not _exists(model) and _exists(folder / model):
        changes["model"] = scenario.model.model_copy(update={"name": str(folder / model)})
    return scenario.model_copy(update=changes)
