"""Golden summaries of the shipped scenarios: ``python tests/goldens.py`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

from simulator.candidates import load_candidate
from simulator.run import run_scenario
from simulator.scenario import load_scenario

FOLDER = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "traces"

#: Changes that make each shipped scenario runnable here; a trace stands in the shared folder.
SCENARIOS = {
    "quickstart": {},
    "prefill-decode": {},
    "incidents": {},
    "search": {},
    "search-conversation": {},
    "multimodal": {},
    "pipeline": {},
    "azure-conversation": {"workload.trace": str(SHARED / "azure2023_conv.csv")},
    "mooncake-conversation": {"workload.trace": str(SHARED / "mooncake_conversation_trace.jsonl")},
}

#: Which candidate of a scenario that has several.
PICKED = {"multimodal": "E-P-D", "pipeline": "TP8, two stages"}


def missing_trace(name: str) -> str | None:
    """Return the trace a scenario needs and that is not there, or None."""
    trace = SCENARIOS[name].get("workload.trace")
    return trace if trace and not Path(trace).is_file() else None


def summary_of(name: str, changes: dict | None = None) -> dict:
    """Run a shipped scenario and return its summary without the time of the run."""
    changes = SCENARIOS[name] | (changes or {})
    loaded = load_candidate(name, PICKED[name], changes) if name in PICKED else load_scenario(name, changes)
    summary = run_scenario(loaded).summary
    return {key: value for key, value in summary.items() if key != "cpu_s"}


def main() -> None:
    """Write the golden summary of every scenario whose trace is at hand."""
    FOLDER.mkdir(exist_ok=True)
    for name in SCENARIOS:
        if missing_trace(name) is None:
            text = json.dumps(summary_of(name), indent=2) + "\n"
            (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
