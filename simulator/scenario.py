"""The scenario: a typed, strict picture of one TOML file and the ``--set`` changes to it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hardware.errors import ScenarioError, suggest
from hardware.strict import Strict
from hardware.tables import read_table, validated
from perfdb.model import WEIGHT_BYTES
from perfdb.sources import COST_SOURCES, DEFAULT_SOURCES
from simulator.engines import ENGINES, VllmOptions
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
    "load_scenario",
    "scenario_names",
]


def _known(value: str, options: Sequence[str] | Mapping[str, object]) -> str:
    if value not in options:
        raise ValueError(f"unknown name; {suggest(value, options)}")
    return value


class Model(Strict):
    """``[model]``: what is served."""

    name: str
    weights: str | None = None
    kv_cache: Literal["bf16", "fp8"] | None = None

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, WEIGHT_BYTES)


class Workload(Strict):
    """``[workload]``: exactly one of ``trace``, ``synthetic`` and ``closed_loop``."""

    trace: str | None = None
    format: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    spread: bool = True
    synthetic: Synthetic | None = None
    closed_loop: ClosedLoop | None = None
    rate_scale: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, gt=0)
    warmup_s: float = Field(default=0.0, ge=0)

    @field_validator("format")
    @classmethod
    def _format(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, READERS)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in ("trace", "synthetic", "closed_loop") if getattr(self, name) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none"
            raise ValueError(f"found {found}, expected exactly one of trace, synthetic and closed_loop")
        if self.closed_loop is not None and self.rate_scale != 1:
            raise ValueError("rate_scale has no meaning for a closed loop, whose rate follows from its concurrency")
        return self


class Slo(Strict):
    """``[slo]``: bounds, ms, that a good request meets; and the share of requests that must."""

    ttft_ms: float | None = Field(default=None, gt=0)
    tpot_ms: float | None = Field(default=None, gt=0)
    e2e_ms: float | None = Field(default=None, gt=0)
    attainment: float = Field(default=0.9, gt=0, le=1)


class Limits(Strict):
    """``[pool.limits]``: measured figures that replace estimates."""

    kv_blocks: int | None = Field(default=None, gt=1)


class Pool(Strict):
    """``[[pool]]``: equal instances that serve the same stages."""

    name: str | None = None
    stages: tuple[str, ...] = ("prefill", "decode")
    replicas: int = Field(default=1, gt=0)
    chip: str
    tensor_parallel: int = Field(default=1, gt=0)
    pipeline_parallel: int = Field(default=1, gt=0)
    engine: str = "vllm"
    router: str = "least_loaded"
    cost_sources: tuple[str, ...] = DEFAULT_SOURCES
    engine_options: VllmOptions = VllmOptions()
    limits: Limits = Limits()

    @field_validator("stages")
    @classmethod
    def _stages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for stage in value:
            _known(stage, ("prefill", "decode"))
        if value != ("prefill", "decode"):
            raise ValueError("this version serves both stages in one pool; expected stages = ['prefill', 'decode']")
        return value

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str) -> str:
        return _known(value, ENGINES)

    @field_validator("router")
    @classmethod
    def _router(cls, value: str) -> str:
        return _known(value, ROUTERS)

    @field_validator("cost_sources")
    @classmethod
    def _sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one cost source")
        for name in value:
            _known(name, COST_SOURCES)
        return value

    @field_validator("pipeline_parallel")
    @classmethod
    def _pipeline(cls, value: int) -> int:
        if value > 1:
            raise ValueError("the engine does not overlap micro-batches of pipeline stages yet; use tensor_parallel")
        return value


class Cost(Strict):
    """``[cost]``: currency per chip-hour by chip name."""

    chip_hour: dict[str, float] = Field(default_factory=dict)


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
    seed: int = Field(default=0, ge=0)
    model: Model
    workload: Workload
    slo: Slo = Slo()
    pool: tuple[Pool, ...] = Field(min_length=1)
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [pool.name for pool in self.pool if pool.name is not None]
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
    file = _find(path)
    table = read_table(file, ScenarioError)
    for key, value in (overrides or {}).items():
        _set(table, key, value)
    table.setdefault("name", file.stem)
    scenario = validated(Scenario, table, str(path), error=ScenarioError)
    return _beside(scenario, file.parent)


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is TOML where it can be, else text.

    Examples
    --------
    >>> parse_override("pool.0.replicas=4")
    ('pool.0.replicas', 4)
    >>> parse_override("workload.trace=conversation.jsonl")
    ('workload.trace', 'conversation.jsonl')

    Raises
    ------
    ScenarioError
        If there is no ``=`` or no key.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ScenarioError(f"--set {text}: expected KEY=VALUE, for example pool.0.replicas=4")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _shipped() -> Path:
    installed = Path(__file__).parent / "scenarios"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "scenarios"


def _find(path: str | Path) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    shipped = _shipped() / f"{path}.toml"
    if shipped.is_file():
        return shipped
    what = "is a folder" if file.is_dir() else "is not a file"
    raise ScenarioError(
        f"scenario {str(path)!r} {what}, nor the name of a shipped one; {suggest(str(path), scenario_names())}"
    )


def _beside(scenario: Scenario, folder: Path) -> Scenario:
    """Look a relative trace or model path up beside the scenario file, where it is not found as it stands."""
    changes: dict[str, Any] = {}
    trace, model = scenario.workload.trace, scenario.model.name
    if trace and not Path(trace).exists() and (folder / trace).exists():
        changes["workload"] = scenario.workload.model_copy(update={"trace": str(folder / trace)})
    if not Path(model).exists() and (folder / model).exists():
        changes["model"] = scenario.model.model_copy(update={"name": str(folder / model)})
    return scenario.model_copy(update=changes)


def _set(table: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - any TOML value
    *parents, last = key.split(".")
    place: Any = table
    for depth, part in enumerate(parents):
        place = _step_into(place, part, ".".join(parents[: depth + 1]))
    if isinstance(place, list):
        raise ScenarioError(
            f"--set {key}: {'.'.join(parents)} is a list of tables; name a key of one, as in pool.0.replicas"
        )
    if last in _WORKLOAD_KINDS and parents == ["workload"]:
        for other in _WORKLOAD_KINDS:
            place.pop(other, None)
    place[last] = value


_WORKLOAD_KINDS = ("trace", "synthetic", "closed_loop")


def _step_into(place: Any, part: str, key: str) -> Any:  # noqa: ANN401 - any TOML value
    if isinstance(place, list):
        names = [str(item.get("name", number)) for number, item in enumerate(place)]
        if part.isdecimal() and int(part) < len(place):
            return place[int(part)]
        if part in names:
            return place[names.index(part)]
        raise ScenarioError(f"--set {key}: there is no pool {part!r}; {suggest(part, names)}")
    if not isinstance(place, dict):
        raise ScenarioError(f"--set {key}: {key.rpartition('.')[0]} is a value, not a table")
    return place.setdefault(part, {})
