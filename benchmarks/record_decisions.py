"""Golden decisions of the installed vLLM: ``python -m benchmarks.record_decisions`` writes them anew.

The test suite checks that our policy decides the same; it needs no vLLM for that. Needs the extra ``vllm``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.conformance import SYNCHRONOUS, drawn, names, workload
from benchmarks.decision_log import pack
from simulator.conform import build_comparable, record_live
from simulator.installed_vllm import installed_version

__all__ = ["FOLDER", "REQUESTS", "golden_names", "golden_scenario"]

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "decisions"
#: Requests of each workload that are recorded.
REQUESTS = 250
#: Workloads that are recorded without asynchronous scheduling as well.
_BOTH = ("starved", "priority", "hurried-turns", "everything")
#: Seeds of small deployments on which our policy once differed.
_RANDOM = (53, 1065, 1213, 1306)


def golden_names() -> list[str]:
    """Return the names of all golden files."""
    return [*names(), *(f"{name}-synchronous" for name in _BOTH), *(f"random-{seed}" for seed in _RANDOM)]


def golden_scenario(name: str) -> Any:  # noqa: ANN401 - a scenario
    """Return what a golden file was recorded of."""
    if name.startswith("random-"):
        return workload("everything", drawn(int(name.removeprefix("random-"))))
    plain = name.removesuffix("-synchronous")
    return workload(plain, {"workload.limit": REQUESTS} | ({} if plain == name else SYNCHRONOUS))


def main() -> None:
    """Write every golden file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in golden_names():
        scenario = golden_scenario(name)
        side = record_live(scenario, *build_comparable(scenario))
        about = {"workload": name, "seed": scenario.seed, "requests": side.requests, "vllm": installed_version()}
        content = pack(side.log, about)
        (FOLDER / f"{name}.decisions").write_bytes(content)
        print(f"{name:28} {side.log.steps:7,d} steps {side.preemptions:6,d} preemptions {len(content):8,d} bytes")


if __name__ == "__main__":
    main()
