"""servesim: a discrete-event simulator of LLM serving.

>>> from simulator import load_scenario, simulate
>>> result = simulate(load_scenario("quickstart", {"workload.synthetic.requests": 50}))
>>> result.summary["completed"]
50
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from simulator.run import Result
    from simulator.scenario import Scenario

__all__ = ["load_scenario", "simulate"]


def load_scenario(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario file, or a shipped scenario by name; see :func:`simulator.scenario.load_scenario`."""
    from simulator.ownership import check_ownership  # noqa: PLC0415 - importing simulator stays light

    check_ownership()
    from simulator.scenario import load_scenario as load  # noqa: PLC0415 - only our own packages from here on

    return load(path, overrides)


def simulate(scenario: Scenario, *, on_progress: Callable[[int, int], None] | None = None) -> Result:
    """Run a scenario: a pure function, no files and no globals; see :func:`simulator.run.run_scenario`."""
    from simulator.ownership import check_ownership  # noqa: PLC0415 - importing simulator stays light

    check_ownership()
    from simulator.run import run_scenario  # noqa: PLC0415 - only our own packages from here on

    return run_scenario(scenario, on_progress=on_progress)
