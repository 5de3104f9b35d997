"""The candidates of a comparison: several scenario files, or the ``[[candidate]]`` tables of one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, field_validator

from hardware.errors import ScenarioError, suggest
from hardware.strict import Strict
from hardware.tables import validated
from simulator.overrides import parse_override, set_key
from simulator.scenario import FolderName, load_changed, load_scenario, open_scenario, resolve_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.scenario import Scenario

__all__ = [
    "Candidate",
    "Case",
    "load_candidate",
    "load_cases",
    "load_picked",
    "load_swept",
    "same_traffic",
]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

#: What a sweep replaces by its own loads.
_LOADS: Final = ("workload.rate_scale", "workload.synthetic.arrivals.rate_per_s", "workload.closed_loop.concurrency")


class Candidate(Strict):
    """``[[candidate]]``: one of the deployments a file sets side by side.

    Attributes
    ----------
    name
        Its name in results.
    set
        Changes to the scenario of the file by dotted key in quotation marks, as ``--set`` takes them.
    """

    name: FolderName
    set: dict[str, Any] = Field(default_factory=dict)

    @field_validator("set")
    @classmethod
    def _own_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, change in value.items():
            if key in {"name", "seed"}:
                raise ValueError(f"{key!r} cannot differ between candidates; set it for the whole file")
            if isinstance(change, dict) and "." not in key:
                raise ValueError(
                    f'{key!r} is a table, expected a whole key in quotation marks, as in {{ "pool.0.replicas" = 4 }}'
                )
        return value


class _Candidates(Strict):
    """What a file with candidates has on top of a scenario."""

    candidate: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate, ready to run.

    Attributes
    ----------
    name
        Its name in results, unlike that of any other.
    scenario
        What to run; its name is that of the candidate.
    changes
        How it differs from the scenario of its file.
    source
        The file it comes from.
    """

    name: str
    scenario: Scenario
    changes: Mapping[str, Any]
    source: str


def load_cases(
    paths: Sequence[str], changes: Sequence[str] = (), *, same_workload: bool | None = None
) -> tuple[str, tuple[Case, ...]]:
    """Read the candidates of a comparison.

    Parameters
    ----------
    paths
        Two or more scenarios, or one file with ``[[candidate]]`` tables.
    changes
        Texts ``KEY=VALUE`` that change every candidate; what a ``[[candidate]]`` sets itself wins.
    same_workload
        Of workloads that differ, serve the first with all candidates (True), or each its own (False); None for
        neither.

    Returns
    -------
    tuple
        The name of the comparison (that of the first scenario), and its candidates, two or more.

    Raises
    ------
    ScenarioError
        If there are fewer than two, two have one name, their SLOs differ, or their workloads do and nobody
        said what to do about it.
    """
    overrides = dict(parse_override(change) for change in changes)
    return _comparable(paths, overrides, same_workload=same_workload, but=())


def load_picked(path: str, candidate: str | None, changes: Sequence[str], seed: int | None = None) -> Scenario:
    """Read a scenario, or one candidate of a file unless None, as a command line gives it; changes win."""
    if candidate is None:
        return load_changed(path, changes, seed)
    overrides = dict(parse_override(change) for change in changes)
    return load_candidate(path, candidate, overrides if seed is None else overrides | {"seed": seed})


def load_candidate(path: str, name: str, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read one candidate of a file.

    Parameters
    ----------
    path
        A file with ``[[candidate]]`` tables, or the name of a shipped one.
    name
        Which of them.
    overrides
        Changes by dotted key; unlike those of a comparison they win over what the candidate sets.

    Raises
    ------
    ScenarioError
        If there is no such file or candidate, or a key or value is unknown or impossible.
    """
    file, table = open_scenario(path)
    found = _candidates(table, path)
    chosen = next((candidate for candidate in found if candidate.name == name), None)
    if chosen is None:
        known = [candidate.name for candidate in found]
        advice = suggest(name, known) if known else "it has no [[candidate]] tables"
        raise ScenarioError(f"{path}: there is no candidate {name!r}; {advice}")
    return _case(chosen, table, file, path, overrides or {}).scenario


def load_swept(
    paths: Sequence[str],
    changes: Sequence[str] = (),
    *,
    candidate: str | None = None,
    same_workload: bool | None = None,
) -> tuple[str, tuple[Case, ...]]:
    """Read what is put under load: as :func:`load_cases`, or one scenario alone, or one candidate of a file.

    Loads of their own, which a sweep replaces, may differ.

    Raises
    ------
    ScenarioError
        As :func:`load_cases`, but for one scenario; or if there are several and a candidate is to be picked.
    """
    if candidate is not None and len(paths) > 1:
        raise ScenarioError(f"--candidate {candidate}: found {len(paths)} scenarios, expected the one to pick it from")
    overrides = dict(parse_override(change) for change in changes)
    if len(paths) == 1 and (candidate is not None or "candidate" not in open_scenario(paths[0], overrides)[1]):
        scenario = load_picked(paths[0], candidate, changes)
        return scenario.name, (Case(scenario.name, scenario, {}, paths[0]),)
    return _comparable(paths, overrides, same_workload=same_workload, but=_LOADS)


def same_traffic(cases: Sequence[Case]) -> bool:
    """Tell whether the workloads of candidates are the same once they are put under the same load."""
    return all(_difference(cases[0], case, "workload", _LOADS) is None for case in cases)


def _comparable(
    paths: Sequence[str], overrides: Mapping[str, Any], *, same_workload: bool | None, but: Sequence[str]
) -> tuple[str, tuple[Case, ...]]:
    """Read candidates whose workloads, ``but`` for some keys, agree unless somebody said what to do about it."""
    title, cases = _of_one(paths[0], overrides) if len(paths) == 1 else _of_many(paths, overrides)
    _check_names(cases)
    if same_workload:
        cases = tuple(_with_workload(case, cases[0]) for case in cases)
    for case in cases[1:]:
        _check_comparable(cases[0], case, None if same_workload is False else but)
    return title, cases


def _candidates(table: dict[str, Any], path: str) -> tuple[Candidate, ...]:
    """Take the candidates out of a root table."""
    return validated(_Candidates, {"candidate": table.pop("candidate", [])}, path, error=ScenarioError).candidate


def _of_one(path: str, overrides: Mapping[str, Any]) -> tuple[str, tuple[Case, ...]]:
    file, table = open_scenario(path, overrides)
    found = _candidates(table, path)
    if len(found) < 2:
        raise ScenarioError(
            f"{path}: found {len(found)} [[candidate]] tables, expected at least two, or a second scenario to compare "
            "with"
        )
    return str(table["name"]), tuple(_case(candidate, table, file, path) for candidate in found)


def _case(
    candidate: Candidate, table: Mapping[str, Any], file: Path, path: str, overrides: Mapping[str, Any] = _NOTHING
) -> Case:
    own = deepcopy(dict(table))
    for key, value in candidate.set.items():
        set_key(own, key, deepcopy(value), f"{path}: candidate {candidate.name!r} set")
    for key, value in overrides.items():
        set_key(own, key, value)
    own["name"] = candidate.name
    scenario = resolve_scenario(own, file, f"{path} with candidate {candidate.name!r}")
    return Case(candidate.name, scenario, candidate.set, path)


def _of_many(paths: Sequence[str], overrides: Mapping[str, Any]) -> tuple[str, tuple[Case, ...]]:
    scenarios = [load_scenario(path, overrides) for path in paths]
    names = [scenario.name for scenario in scenarios]
    if len(set(names)) < len(names):
        # A copy of a file often keeps the name inside.
        names = [Path(path).stem for path in paths]
    return scenarios[0].name, tuple(
        Case(name, scenario.model_copy(update={"name": name}), {}, path)
        for name, scenario, path in zip(names, scenarios, paths, strict=True)
    )


def _check_names(cases: Sequence[Case]) -> None:
    # Some file systems take A and a for one folder.
    names = [case.name.casefold() for case in cases]
    for number, case in enumerate(cases):
        if case.name.casefold() in names[:number]:
            raise ScenarioError(
                f"{case.source}: two candidates are named {case.name!r}; expected names that differ in more than case"
            )


def _with_workload(case: Case, first: Case) -> Case:
    scenario = case.scenario.model_copy(update={"workload": first.scenario.workload})
    return Case(case.name, scenario, case.changes, case.source)


def _check_comparable(first: Case, case: Case, but: Sequence[str] | None) -> None:
    """Check that SLOs agree, and workloads but for some keys; whatever workloads, for None."""
    found = _difference(first, case, "slo")
    if found is not None:
        raise ScenarioError(
            f"{case.source}: {found}; attainment and goodput of candidates need the same SLO, set it for all with --set"
        )
    found = None if but is None else _difference(first, case, "workload", but)
    if found is not None:
        raise ScenarioError(
            f"{case.source}: {found}; give --same-workload to serve that of {first.name!r} with all candidates, or "
            "--own-workloads to leave each its own"
        )


def _difference(first: Case, case: Case, table: str, but: Sequence[str] = ()) -> str | None:
    """Return in words the first key of a table in which two candidates differ, or None."""
    ours, theirs = (_flat(getattr(one.scenario, table).model_dump(mode="json"), table) for one in (first, case))
    for key in (*ours, *theirs):
        if key not in but and ours.get(key) != theirs.get(key):
            return f"{key} is {theirs.get(key)!r} for {case.name!r} and {ours.get(key)!r} for {first.name!r}"
    return None


def _flat(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for part, inner in value.items() for name, leaf in _flat(inner, f"{key}.{part}").items()}
