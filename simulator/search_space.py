"""The deployments that a search looks at: instances, and units of them that a deployment repeats."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from math import gcd
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from pydantic import ValidationError

from perfdb.load_model import load_model
from simulator.pool_table import Pool
from simulator.scenario import Model, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from simulator.search_table import Searched, SearchTable

__all__ = ["SPLITS", "Choice", "Pruned", "Role", "Split", "Unit", "choices_of", "ratios", "stages_of", "units_apart"]

Role: TypeAlias = Literal["colocated", "prefill", "decode", "encode"]
Split: TypeAlias = Literal["colocated", "disaggregated", "E-PD", "E-P-D"]

SPLITS: Final[Mapping[Split, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        "colocated": (("encode", "prefill", "decode"),),
        "disaggregated": (("encode", "prefill"), ("decode",)),
        "E-PD": (("encode",), ("prefill", "decode")),
        "E-P-D": (("encode",), ("prefill",), ("decode",)),
    }
)
"""The stages of the pools of each split; a model without an encoder has no stage ``encode``."""

#: How many tokens a step computes does not matter to an instance that computes no prompts.
_BUDGETS: Final = ("max_num_batched_tokens", "chunked_prefill_size", "max_num_tokens", "enable_chunked_prefill")
_NO_EXPERTS: Final = {"expert_parallel": 1, "expert_exchange": "gather"}
#: What a layout and a split decide; the rest of a scenario's pool is shared by all deployments.
_DECIDED: Final = frozenset(
    {
        *("name", "stages", "replicas", "chip", "engine", "tensor_parallel", "pipeline_parallel", "data_parallel"),
        *("expert_parallel", "expert_exchange", "redundant_experts", "helps_above", "engine_options", "limits"),
    }
)


@dataclass(slots=True)
class Pruned:
    """What was left out, counted by reason, with an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count what was left out for a reason."""
        self.counts[reason] += count
        self.examples.setdefault(reason, example)


@dataclass(frozen=True, slots=True)
class Choice:
    """An instance: what it serves, and how.

    Attributes
    ----------
    role
        Its part in a deployment.
    model
        The model in its formats.
    pool
        Its pool, of one instance.
    label
        What a person calls it.
    apart
        Other instances encode what it computes prompts of.
    """

    role: Role
    model: Model
    pool: Pool
    label: str
    apart: bool = False

    @property
    def layout(self) -> tuple[str, str, str]:
        """What it has in common with instances of other options."""
        return self.role, self.model.model_dump_json(), self.pool.model_dump_json(exclude={"engine_options"})

    @property
    def chips(self) -> int:
        """Chips of an instance."""
        return self.pool.tensor_parallel * self.pool.pipeline_parallel * self.pool.data_parallel


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest group of instances that a deployment repeats.

    Attributes
    ----------
    members
        Instances and how many there are of each.
    """

    members: tuple[tuple[Choice, int], ...]

    @property
    def split(self) -> Split:
        """Which stages share instances."""
        apart = self.members[0][0].role == "encode"
        if len(self.members) - apart == 1:
            return "E-PD" if apart else "colocated"
        return "E-P-D" if apart else "disaggregated"

    @property
    def chips(self) -> int:
        """Chips of a unit."""
        return sum(choice.chips * count for choice, count in self.members)

    def count(self, choice: Choice) -> int:
        """Return how many instances of a kind there are."""
        return sum(count for member, count in self.members if member == choice)

    def label(self, units: int = 1) -> str:
        """Return what a person calls so many units."""
        parts = " + ".join(
            f"{count * units} x {'' if choice.role == 'colocated' else choice.role + ' '}{choice.label}"
            for choice, count in self.members
        )
        return f"{self.members[0][0].pool.engine}: {parts}"

    def scenario(self, base: Scenario, units: int = 1) -> Scenario:
        """Return the scenario of a deployment of so many units.

        Raises
        ------
        ValidationError
            If its pools do not go together.
        """
        pools = tuple(choice.pool.model_copy(update={"replicas": count * units}) for choice, count in self.members)
        changed = base.model_copy(update={"model": self.members[0][0].model, "pool": pools})
        return Scenario.model_validate(dict(changed))


def choices_of(searched: Searched, pruned: Pruned) -> list[Choice]:
    """Return every instance that a search looks at, the impossible ones counted."""
    found = []
    for model, engine, chip in product(_models(searched), searched.table.engines, searched.table.chips):
        encodes = load_model(model.name).encoder is not None
        pools = [stages for split in searched.table.splits for stages in stages_of(split, encodes=encodes)]
        for stages in dict.fromkeys(pools):
            found += list(_instances(searched, model, (engine, chip), stages, pruned))
    return found


def stages_of(split: str, *, encodes: bool) -> tuple[tuple[str, ...], ...]:
    """Return the stages of the pools of a split, for a model that has an encoder or not."""
    pools = SPLITS[cast("Split", split)]
    return pools if encodes else tuple(tuple(stage for stage in pool if stage != "encode") for pool in pools)


def _role(stages: Sequence[str]) -> Role:
    """Return the part that instances of some stages have in a deployment."""
    if {"prefill", "decode"} <= set(stages):
        return "colocated"
    return "prefill" if "prefill" in stages else "decode" if "decode" in stages else "encode"


def _models(searched: Searched) -> list[Model]:
    base, table = searched.scenario.model, searched.table
    return [
        base.model_copy(update={"weights": weights, "kv_cache": cache})
        for weights, cache in product(table.weights or (base.weights,), table.kv_cache or (base.kv_cache,))
    ]


def _instances(
    searched: Searched, model: Model, made_of: tuple[str, str], stages: tuple[str, ...], pruned: Pruned
) -> Iterator[Choice]:
    (engine, chip), table, role = made_of, searched.table, _role(stages)
    spec = load_model(model.name)
    apart = spec.encoder is not None and "prefill" in stages and "encode" not in stages
    named = " ".join(_named(table, model, chip))
    common, options = _template(searched.scenario.pool, engine)
    tried = _tried(table, engine, role)
    layouts = list(_layouts(table, has_experts=bool(spec.experts), role=role))
    for layout, values in product(layouts, product(*tried.values())):
        changed = dict(zip(tried, values, strict=True))
        label = _label(layout, changed, tried, named)
        asked: dict[str, Any] = common | layout | {"name": role, "stages": stages, "engine": engine}
        try:
            pool = Pool.model_validate(asked | {"chip": chip, "engine_options": options | changed})
        except ValidationError as error:
            pruned.add("not an instance of the engine", f"{engine} {label}: {error.errors()[0]['msg']}")
            continue
        yield Choice(role, model, pool, label, apart)


def _tried(table: SearchTable, engine: str, role: Role) -> dict[str, Sequence[Any]]:
    """Return the values to try of an engine's flags; a stage alone has the last of those that nobody asked for."""
    asked, found = table.engine_options.get(engine, {}), table.options_of(engine)
    if role == "decode":
        return {name: values for name, values in found.items() if name not in _BUDGETS}
    return {name: values if role == "colocated" or name in asked else values[-1:] for name, values in found.items()}


def _template(pools: Sequence[Pool], engine: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the scenario's pool of an engine says of all its instances, and its options."""
    own = next((pool for pool in pools if pool.engine == engine), None)
    if own is None:
        return pools[0].model_dump(include={"router", "cost_sources", "tables"}, exclude_unset=True), {}
    return own.model_dump(exclude=set(_DECIDED), exclude_unset=True), own.engine_options.model_dump(exclude_unset=True)


def _layouts(table: SearchTable, *, has_experts: bool, role: Role) -> Iterator[dict[str, Any]]:
    """Yield the keys of a pool that lay an instance out over chips."""
    most = min(table.instance_chips, table.gpus or table.instance_chips)
    if role == "encode":
        # Cut over chips, or whole on each of them, which share out images.
        cut = [(tensor, 1) for tensor in table.tensor_parallel] + [(1, data) for data in table.data_parallel]
        for tensor, data in dict.fromkeys(one for one in cut if one[0] * one[1] <= most):
            yield {"tensor_parallel": tensor, "pipeline_parallel": 1, "data_parallel": data} | _NO_EXPERTS
        return
    ranks = table.data_parallel if has_experts else (1,)
    for tensor, pipeline, data in product(table.tensor_parallel, table.pipeline_parallel, ranks):
        if tensor * pipeline * data > most:
            continue
        layout = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": data}
        sharing = tensor * data
        experts = table.experts if has_experts and sharing > 1 else ("tensor",)
        for dealt in experts:
            parallel = sharing if dealt == "parallel" else 1
            exchanges = table.expert_exchange if data > 1 and parallel > 1 else ("gather",)
            for exchange in exchanges:
                yield layout | {"expert_parallel": parallel, "expert_exchange": exchange}


def _named(table: SearchTable, model: Model, chip: str) -> Iterator[str]:
    """Yield the chip and the formats, where a search chooses among several."""
    if len(table.chips) > 1:
        yield chip
    if len(table.weights) > 1 and model.weights:
        yield f"{model.weights} weights"
    if len(table.kv_cache) > 1 and model.kv_cache:
        yield f"{model.kv_cache} cache"


def _label(
    layout: Mapping[str, Any], changed: Mapping[str, Any], tried: Mapping[str, Sequence[Any]], named: str
) -> str:
    degrees = {
        "TP": layout["tensor_parallel"],
        "PP": layout["pipeline_parallel"],
        "DP": layout["data_parallel"],
        "EP": layout["expert_parallel"],
    }
    parts = [f"{name}{degree}" for name, degree in degrees.items() if degree > 1 or name == "TP"]
    parts += ["all-to-all"] if layout["expert_exchange"] == "all_to_all" else []
    parts += [f"{name}={changed[name]}" for name, values in tried.items() if len(values) > 1]
    return " ".join([*([named] if named else []), *parts])


def units_apart(choices: Sequence[Choice], table: SearchTable) -> Iterator[Unit]:
    """Yield the units of several kinds of instances, in every ratio that the table allows and the chips suffice for."""
    for counts in ratios(len(choices), table.unit_instances):
        unit = Unit(tuple(zip(choices, counts, strict=True)))
        if unit.chips <= (table.gpus or unit.chips):
            yield unit


@cache
def ratios(kinds: int, most: int) -> tuple[tuple[int, ...], ...]:
    """Return every ratio of several kinds of instances, in lowest terms and of so many instances at most.

    Examples
    --------
    >>> ratios(2, 4)
    ((1, 1), (1, 2), (1, 3), (2, 1), (3, 1))
    """
    every = product(range(1, most), repeat=kinds)
    return tuple(counts for counts in every if sum(counts) <= most and gcd(*counts) == 1)
