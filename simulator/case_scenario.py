"""From a measured case to the scenario that replays it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hardware.errors import CaseError
from simulator.case_pools import case_pools
from simulator.journal import Point, point_key
from simulator.scenario import Scenario, resolve_scenario

if TYPE_CHECKING:
    from simulator.cases import Case
    from simulator.launch_rules import LaunchRules

__all__ = ["Replay", "case_replay", "client_lengths"]

_CLIENT_KEYS: Final = {"requests_per_user": 10, "shortest": 1.0, "sent_before": False}


@dataclass(frozen=True, slots=True)
class Replay:
    """A run to be made; several cases may be about one.

    Attributes
    ----------
    scenario
        What to run.
    sent_before
        Every prompt was sent once before, so that caches may know it.
    """

    scenario: Scenario
    sent_before: bool = False

    @property
    def key(self) -> str:
        """The name of the run in a journal."""
        return point_key(Point(self.scenario, "case", {"replay": "sent_before" if self.sent_before else "once"}))


def case_replay(case: Case, rules: LaunchRules) -> Replay:
    """Return the replay of a case.

    Parameters
    ----------
    case
        The case.
    rules
        How such cases were launched.

    Raises
    ------
    UserError
        If the case cannot be replayed: the sentence says why.
    """
    pools, settings = case_pools(case, rules)
    client = _CLIENT_KEYS | settings.client
    table = {
        "name": "case",
        "model": {"name": rules.model_name(case), **settings.model},
        "workload": _workload(case, client),
        "pool": pools,
        "network": settings.network,
    }
    scenario = resolve_scenario(table, case.file, "the launch of this case")
    return Replay(scenario, bool(client["sent_before"]))


def _workload(case: Case, client: dict[str, Any]) -> dict[str, Any]:
    """Return the requests that were sent: as recorded one by one, else those of a closed loop."""
    recorded = case.texts.get("per_request_file")
    if recorded is not None:
        return {"trace": str(case.file.parent / recorded), "format": "csv"}
    if "concurrency" not in case.numbers:
        raise CaseError(
            "neither concurrency nor per_request_file is given, so that what was sent when is not known; only closed "
            "loops and recorded requests are replayed"
        )
    users = int(case.need("concurrency"))
    requests = int(case.numbers.get("n_requests", users * client["requests_per_user"]))
    prompt, output = int(case.need("isl_mean")), int(case.need("osl_mean"))
    lengths = zip(("prompt_tokens", "output_tokens"), _lengths(prompt, output, requests, client), strict=True)
    return {"closed_loop": {"concurrency": users, "requests": requests, **dict(lengths)}}


def _lengths(prompt: int, output: int, requests: int, client: dict[str, Any]) -> list[dict[str, Any]]:
    shortest = float(client["shortest"])
    if shortest == 1:
        return [{"kind": "fixed", "value": prompt}, {"kind": "fixed", "value": output}]
    columns = client_lengths(prompt, output, shortest, requests)
    return [{"kind": "listed", "values": column} for column in columns]


def client_lengths(prompt: int, output: int, shortest: float, requests: int) -> tuple[list[int], list[int]]:
    """Return the lengths that ``benchmark_serving --random-range-ratio`` draws under its seed 0.

    Prompts first, then outputs, whole numbers from ``int(shortest * length)`` to the length, both included, from
    NumPy's old global generator (SemiAnalysisAI/InferenceX, ``utils/bench_serving``).

    Parameters
    ----------
    prompt, output
        Nominal lengths, tokens.
    shortest
        The least share of them.
    requests
        How many.
    """
    rng = np.random.RandomState(0)

    def drawn(length: int) -> list[int]:
        found: list[int] = rng.randint(max(1, int(shortest * length)), length + 1, requests).tolist()
        return found

    return drawn(prompt), drawn(output)
