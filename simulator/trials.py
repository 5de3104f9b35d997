"""A deployment under trial: the highest of a ladder of loads that it bears, by simulation."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from hardware.errors import ServesimError
from simulator.build import build_any_pool, check_built
from simulator.journal import Journal, Point, Summary, point_key
from simulator.loads import loader
from simulator.pool_table import Pool
from simulator.requests import build_requests
from simulator.run import fabric_of
from simulator.scenario import Model
from simulator.trial_row import trial_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.built_pool import AnyPool
    from simulator.fabric import Fabric
    from simulator.requests import Requests
    from simulator.scenario import Scenario

__all__ = ["Axis", "Trial", "Verdict", "highest_kept", "pools_of", "run_trial", "trial_key", "under"]

Axis: TypeAlias = Literal["rate", "users", "units"]
"""What a load is: requests per second or users of all units, or the units that share a traffic."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A deployment, to be put under one load after another.

    Attributes
    ----------
    scenario
        One unit of it, the smallest group that it repeats; its ``workload`` is that of all units.
    label
        What an error sentence calls it.
    axis
        What a load is.
    ladder
        Loads, each easier to bear than the one before.
    hint
        Where in the ladder to begin.
    units
        Units of the deployment; where they are the load, this is not looked at.
    together
        Most units that are simulated, behind one router. Where there are more, they get their share of the traffic,
        drawn at random.
    requests
        Requests of all units.
    settles_s
        Time after which requests are measured, or a quarter of the run: deployments begin empty.
    floor
        The last load worth bearing is at this place: one that misses the SLO there is given up. None for the whole
        ladder.
    climbs
        Whether to look for loads above the first that is borne.
    """

    scenario: Scenario
    label: str
    axis: Axis
    ladder: tuple[float, ...]
    hint: int
    units: int
    together: int
    requests: int
    settles_s: float
    floor: int | None = None
    climbs: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a trial.

    Attributes
    ----------
    place
        Place of the highest load borne in the ladder; None where none was.
    points
        One row per run, in the order they were made.
    """

    place: int | None
    points: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, summary: Summary) -> Verdict:
        """Return what a journal keeps of a trial."""
        return cls(summary["place"], tuple(summary["points"]))

    def at(self, place: int | None) -> dict[str, Any] | None:
        """Return the run at a place of the ladder, or None."""
        return next((point for point in self.points if point["place"] == place), None)


#: Networks of deployments, by the scenario without its traffic.
_FABRICS: Final[dict[str, Fabric | None]] = {}
_MOST_FABRICS: Final = 32
#: Places that are asked for one after the other before steps double.
_SHORT_STEPS: Final = 2
#: Requests of each user at least: the first of all are sent at once.
_ROUNDS: Final = 4


def trial_key(trial: Trial) -> str:
    """Return the name of a trial in a journal: a hash of everything that decides what comes of it."""
    asked = {name: getattr(trial, name) for name in trial.__slots__ if name not in {"scenario", "label"}}
    return point_key(Point(trial.scenario, "", asked))


def run_trial(key: str, trial: Trial, journal: Journal) -> Summary:
    """Make a trial and keep what comes of it; an error sentence begins with its label."""
    points: dict[int, dict[str, Any]] = {}

    def keeps(place: int) -> bool:
        row = _run(*_loaded(trial, place))
        points[place] = {"place": place, "load": trial.ladder[place]} | row
        return bool(points[place]["slo_attainment"] >= trial.scenario.slo.attainment)

    try:
        place = highest_kept(
            keeps,
            hint=trial.hint,
            last=_last(trial),
            first=0 if trial.climbs else trial.hint,
            only_last=trial.floor,
            # Runs that miss the SLO by far are given up early: short steps cost little there.
            far=lambda place: bool(points[place]["slo_attainment"] == 1.0),
        )
    except ServesimError as error:
        raise type(error)(f"{trial.label}: {error}") from error
    summary: Summary = {"place": place, "points": list(points.values())}
    journal.store(key, summary)
    return summary


def _last(trial: Trial) -> int:
    return len(trial.ladder) - 1 if trial.floor is None else trial.floor


def highest_kept(  # noqa: PLR0913 - where to look, and what is known
    keeps: Callable[[int], bool],
    *,
    hint: int,
    last: int,
    first: int = 0,
    only_last: int | None = None,
    far: Callable[[int], bool] = lambda _: False,
) -> int | None:
    """Return the first place of a ladder that is kept, taking that all after it are; None if none up to ``last`` is.

    Parameters
    ----------
    keeps
        Tells whether a place is kept; called once for each place it is asked for.
    hint
        The place to ask for first.
    last, first
        The last and first place that may be asked for.
    only_last
        A place to ask for before all others: if it is not kept nothing is.
    far
        Tells of a place that was asked for whether the one looked for seems to be far from it: steps double then, as
        they do after two short ones.

    Examples
    --------
    >>> highest_kept(lambda place: place >= 37, hint=30, last=99)
    37
    """
    low, high = first - 1, last + 1
    if only_last is not None:
        if not keeps(only_last):
            return None
        high = only_last
    step, made, place = 1, 0, min(max(hint, first), last)
    while high - low > 1:
        place = min(max(place, low + 1), high - 1)
        kept, made = keeps(place), made + 1
        step = 2 * step if made > _SHORT_STEPS or far(place) else step
        if kept:
            high, place = place, place - step
        else:
            low, place = place, place + step
        if low >= first and high <= last:
            place = (low + high) // 2
    return high if high <= last else None


# --- one run -----------------------------------------------------------------------------------------


def under(trial: Trial, place: int) -> Scenario:
    """Return the scenario of a trial at a place of its ladder."""
    return _loaded(trial, place)[0]


def _loaded(trial: Trial, place: int) -> tuple[Scenario, Requests]:
    """Return the scenario of a trial at a place of its ladder, and its requests."""
    load = trial.ladder[place]
    units = int(load) if trial.axis == "units" else trial.units
    together = min(units, trial.together)
    scenario = _repeated(trial.scenario, together)
    if trial.axis == "users":
        users = _with_users(scenario, round(load * together / units), ceil(trial.requests * together / units))
        return users, build_requests(users)
    scenario = _with(_lasting(scenario, trial.requests), share=together / units)
    if trial.axis == "rate":
        scenario = loader(scenario)(Decimal(repr(load)))
    return _settled(scenario, trial.settles_s)


def _settled(scenario: Scenario, settles_s: float) -> tuple[Scenario, Requests]:
    """Return a scenario that measures only what comes once it has filled, and its requests."""
    requests = build_requests(scenario)
    warmup_s = min(settles_s, float(f"{int(requests.times_ns[-1]) / 1e9 / 4:.3g}"))
    return _with(scenario, warmup_s=max(scenario.workload.warmup_s, warmup_s)), requests


def _repeated(scenario: Scenario, times: int) -> Scenario:
    """Return a scenario with so many times the instances."""
    pools = tuple(pool.model_copy(update={"replicas": pool.replicas * times}) for pool in scenario.pool)
    return scenario.model_copy(update={"pool": pools})


def _with_users(scenario: Scenario, users: int, requests: int) -> Scenario:
    loop = scenario.workload.closed_loop
    changed = {"concurrency": max(users, 1), "requests": max(requests, _ROUNDS * users, 1)}
    return _with(scenario, closed_loop=loop and loop.model_copy(update=changed), limit=None)


def _lasting(scenario: Scenario, requests: int) -> Scenario:
    """Return a scenario of so many requests, or of all there are in a trace."""
    workload = scenario.workload
    if workload.synthetic is None:
        return _with(scenario, limit=min(requests, workload.limit or requests))
    return _with(scenario, synthetic=workload.synthetic.model_copy(update={"requests": requests}), limit=None)


def _with(scenario: Scenario, **changes: object) -> Scenario:
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update=changes)})


def _run(scenario: Scenario, requests: Requests) -> dict[str, Any]:
    pools = pools_of(scenario)
    return trial_row(scenario, requests, pools, _fabric(scenario, pools))


# --- pools, built once per process -------------------------------------------------------------------


def pools_of(scenario: Scenario, *, apart: bool = False) -> tuple[AnyPool, ...]:
    """Return the pools of a scenario; those that differ in the number of instances alone are built once per process.

    Parameters
    ----------
    scenario
        What is to be built.
    apart
        Other instances than its own encode; they do anyhow where it has such.
    """
    table, topology = scenario.model.model_dump_json(), scenario.network.topology
    encodes = not (apart or scenario.encode_pools)
    found = []
    for number, pool in enumerate(scenario.pool):
        one = pool.model_copy(update={"replicas": 1}).model_dump_json(exclude_unset=True)
        built = _built(table, one, scenario.pool_name(number), topology, encodes=encodes)
        found.append(built.of_replicas(pool.replicas))
    check_built(scenario, found)
    return tuple(found)


def _fabric(scenario: Scenario, pools: tuple[AnyPool, ...]) -> Fabric | None:
    """Return the network between the pools of a scenario, which the runs of a trial share."""
    key = scenario.model_dump_json(exclude={"workload", "slo", "search", "name", "seed"})
    if key not in _FABRICS:
        if len(_FABRICS) >= _MOST_FABRICS:
            _FABRICS.clear()
        _FABRICS[key] = fabric_of(scenario, pools)
    return _FABRICS[key]


@lru_cache(maxsize=512)
def _built(table: str, pool: str, name: str, topology: str | None, *, encodes: bool) -> AnyPool:
    model, one = Model.model_validate_json(table), Pool.model_validate_json(pool)
    return build_any_pool(model, one, name, topology, encodes=encodes)
