"""The scenario: a typed, strict picture of one TOML file and the ``--set`` changes to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from hardware.errors import ScenarioError, suggest
from hardware.strict import Strict, one_of
from hardware.tables import read_table, validated
from perfdb.formats import WEIGHT_BYTES
from simulator.agreement import check_agreement
from simulator.calibration import read_calibration
from simulator.cost import Cost
from simulator.engines import ENGINES
from simulator.incidents import OperationsTable
from simulator.metrics import Bounds
from simulator.network import NetworkTable
from simulator.overrides import WORKLOAD_KINDS, parse_override, set_key
from simulator.pool_table import Count, Pool, Text, decode_pools, encode_pools, entry_pools, hands_over
from workloads.closed_loop import ClosedLoop
from workloads.media_draws import ImageSize
from workloads.readers import READERS
from workloads.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "FolderName",
    "Model",
    "Scenario",
    "Slo",
    "Workload",
    "load_changed",
    "load_scenario",
    "open_scenario",
    "resolve_scenario",
    "scenario_names",
]

_MOST_REQUESTS: Final = 10**9
_LONGEST_NAME_BYTES: Final = 200


def _names_a_folder(value: str) -> str:
    printable = value.strip() and value.isprintable() and len(value.encode()) <= _LONGEST_NAME_BYTES
    if not printable or value.startswith(".") or "/" in value or "\\" in value:
        raise ValueError(
            "expected a name for the result folder: printable, at most 200 bytes, without slashes, no dot first"
        )
    return value


FolderName: TypeAlias = Annotated[str, AfterValidator(_names_a_folder)]
"""The name of a folder of results."""

# Numbers are strict: true is no 1, and "2" in quotation marks no 2.
_Positive: TypeAlias = Annotated[float, Field(gt=0, strict=True)]
_Share: TypeAlias = Annotated[float, Field(gt=0, le=1, strict=True)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9, strict=True)]
_Flag: TypeAlias = Annotated[bool, Field(strict=True)]
_Weights: TypeAlias = Annotated[str, one_of(WEIGHT_BYTES)]
_Format: TypeAlias = Annotated[str, one_of(READERS)]


class Model(Strict):
    """``[model]``: what is served; ``max_tokens`` where it holds longer sequences than its configuration says."""

    name: Text
    max_tokens: Count | None = None
    weights: _Weights | None = None
    kv_cache: Literal["bf16", "fp8"] | None = None


class Workload(Strict):
    """``[workload]``: exactly one of ``trace``, ``synthetic`` and ``closed_loop``.

    Attributes
    ----------
    image_size
        Size of images of which a trace says nothing but that they are there, pixels.
    max_output_tokens
        The most output tokens that clients allow, for engines that reserve room for them. By default clients allow
        just what they get, as benchmarks do that ignore the end of an answer.
    priority_shares
        Shares of the requests of priority 0, 1, and so on, for policies that serve the lowest first; drawn at random.
    share
        Share of the requests that this deployment gets, each at random, conversations whole: what one of several
        equal deployments sees behind a router that deals at random. Rates and ``limit`` are of all.
    """

    trace: Text | None = None
    format: _Format | None = None
    on_error: Literal["raise", "skip"] = "raise"
    spread: _Flag = True
    synthetic: Synthetic | None = None
    closed_loop: ClosedLoop | None = None
    rate_scale: _Positive = 1.0
    limit: Count | None = None
    image_size: ImageSize | None = None
    warmup_s: _Seconds = 0.0
    max_output_tokens: Count | None = None
    priority_shares: Annotated[tuple[_Positive, ...], Field(max_length=1000)] = ()
    share: _Share = 1.0

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
        if self.closed_loop is not None and self.share != 1:
            raise ValueError("share has no meaning for a closed loop; give it fewer users and requests")
        return self

    @property
    def warmup_ns(self) -> int:
        """End of the warm-up, ns."""
        return round(self.warmup_s * 1e9)


class Slo(Strict):
    """``[slo]``: bounds, ms, that a good request meets; and the share of requests that must."""

    ttft_ms: _Positive | None = None
    tpot_ms: _Positive | None = None
    e2e_ms: _Positive | None = None
    attainment: _Share = 0.9

    @property
    def bounds(self) -> Bounds:
        """The bounds by themselves."""
        return Bounds(self.ttft_ms, self.tpot_ms, self.e2e_ms)


class Scenario(Strict):
    """A whole scenario.

    Attributes
    ----------
    name, seed
        Label of the results; root of every random stream.
    model, workload, slo, pool, network, operations, cost
        The tables of the file.
    """

    name: FolderName = "scenario"
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    model: Model
    workload: Workload
    slo: Slo = Slo()
    pool: tuple[Pool, ...]
    network: NetworkTable = NetworkTable()
    operations: OperationsTable = OperationsTable()
    cost: Cost = Cost()

    @field_validator("pool")
    @classmethod
    def _some_pool(cls, value: tuple[Pool, ...]) -> tuple[Pool, ...]:
        if not value:
            raise ValueError("found an empty list, expected at least one [[pool]] table")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [self.pool_name(number) for number in range(len(self.pool))]
        check_agreement(self.pool, names, self.operations, self.network)
        return self

    @property
    def hands_over(self) -> bool:
        """Whether a pool serves prompts alone, so that requests go on elsewhere."""
        return hands_over(self.pool)

    @property
    def entry_pools(self) -> tuple[Pool, ...]:
        """Pools that requests arrive at."""
        return entry_pools(self.pool)

    @property
    def encode_pools(self) -> tuple[Pool, ...]:
        """Pools that encode images for others."""
        return encode_pools(self.pool)

    @property
    def decode_pools(self) -> tuple[Pool, ...]:
        """Pools that requests are handed over to."""
        return decode_pools(self.pool)

    @property
    def links(self) -> NetworkTable:
        """The network, with the ways of engines where it says nothing of how KV is handed over."""
        modes = next((ENGINES[pool.engine].kv_modes for pool in self.decode_pools), ())
        return self.network.model_copy(update={"kv_transfer": self.network.kv_transfer.as_engine_does(modes)})

    @property
    def helps_above(self) -> int:
        """Requests per instance above which pools of both stages help."""
        return next((pool.helps_above for pool in self.pool if pool.serves_both), 0)

    def pool_name(self, number: int) -> str:
        """Return a pool's name, or ``pool<number>`` where it has none."""
        return self.pool[number].name or f"pool{number}"


def scenario_names() -> tuple[str, ...]:
    """Return the names of the scenarios that are shipped, ``papers/NAME`` for those of a paper."""
    folder = _shipped()
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml")))


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
    file, table = open_scenario(path, overrides)
    if "candidate" in table:
        raise ScenarioError(
            f"{path}: has [[candidate]] tables: 'servesim compare {path}' and 'servesim sweep {path}' read them all, "
            "--candidate NAME picks one"
        )
    return resolve_scenario(table, file, f"{path} with --set" if overrides else str(path))


def open_scenario(path: str | Path, overrides: Mapping[str, Any] | None = None) -> tuple[Path, dict[str, Any]]:
    """Return the file of a scenario, and its root table with changes; see :func:`load_scenario`."""
    file = _find(path)
    table = _read(file)
    for key, value in (overrides or {}).items():
        set_key(table, key, value)
    table.setdefault("name", file.stem.lstrip(".") or "scenario")
    return file, table


def resolve_scenario(table: Mapping[str, Any], file: Path, where: str) -> Scenario:
    """Return the typed scenario of a root table, ``[search]`` left out; an error sentence begins with ``where``."""
    one = {key: value for key, value in table.items() if key != "search"}
    return _beside(validated(Scenario, one, where, error=ScenarioError), file.parent)


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
    """Look relative paths up beside the scenario file, where they are not found as they stand; read calibrations."""
    changes: dict[str, Any] = {}
    trace, model = scenario.workload.trace, scenario.model.name
    if trace and not _exists(trace) and _exists(folder / trace):
        changes["workload"] = scenario.workload.model_copy(update={"trace": str(folder / trace)})
    if model and not _exists(model) and _exists(folder / model):
        changes["model"] = scenario.model.model_copy(update={"name": str(folder / model)})
    changes["pool"] = tuple(_calibrated(pool, folder) for pool in scenario.pool)
    return scenario.model_copy(update=changes)


def _calibrated(pool: Pool, folder: Path) -> Pool:
    """Return a pool that holds the calibration it names."""
    if not isinstance(pool.calibration, str):
        return pool
    beside = folder / pool.calibration
    found = read_calibration(beside if not _exists(pool.calibration) and _exists(beside) else pool.calibration)
    return pool.model_copy(update={"calibration": found})
