"""The folder of launch files: what starts a deployment, what would verify its prediction, and a page that says how."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from simulator.export import check_target, put_in_place, unwritable
from simulator.launch_aiperf import aiperf_export
from simulator.launch_bench import bench_commands, expected, request_table, requests_jsonl
from simulator.launch_kubernetes import dynamo_files, llm_d_files
from simulator.launch_notes import launch_notes
from simulator.launch_scripts import command_lines, server_scripts
from simulator.launch_servers import check_launchable, sglang_arguments, vllm_arguments
from simulator.page_words import deployment as pool_words
from simulator.result_folder import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.launch_deployment import Deployment

__all__ = ["TARGETS", "Target", "launch_files", "write_launch"]


class Target(NamedTuple):
    """Something that deployments are started with.

    Attributes
    ----------
    engine
        The engine it starts; None for any.
    make
        What makes its files.
    encodes
        It has servers that only encode.
    """

    engine: str | None
    make: Callable[[Deployment], dict[str, str]]
    encodes: bool = False


TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        "vllm": Target("vllm", server_scripts, encodes=True),
        "sglang": Target("sglang", server_scripts, encodes=True),
        "trtllm": Target("trtllm", server_scripts),
        "dynamo": Target(None, dynamo_files),
        "llm-d": Target("vllm", llm_d_files),
    }
)
_LISTED: Final = "launch.json"


def launch_files(deployment: Deployment, target: str | None = None) -> dict[str, str]:
    """Return what launches a deployment, by file name.

    Parameters
    ----------
    deployment
        What to launch.
    target
        One of :data:`TARGETS`; None for the engine's own.

    Raises
    ------
    UserError
        If the target cannot express the deployment.
    """
    check_launchable(deployment, None, encodes=True)
    chosen = target or deployment.pools[0].engine
    engine, make, encodes = TARGETS[chosen]
    check_launchable(deployment, engine, encodes=encodes)
    files = make(deployment)
    requests = request_table(deployment.folder)
    files["requests.jsonl"] = requests_jsonl(requests)
    files["expected.json"] = json_text(expected(deployment))
    files["profile_export_aiperf.json"] = json_text(aiperf_export(deployment, requests))
    files["verify.sh"] = _verify(deployment)
    files["README.md"] = _readme(deployment, chosen, list(files))
    listed: dict[str, Any] = {"servesim": "launch", "target": chosen, "files": sorted([*files, _LISTED])}
    return files | {_LISTED: json_text(listed)}


def write_launch(files: Mapping[str, str], directory: Path) -> None:
    """Write launch files: all of them, or nothing.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written.
    """
    target = directory.resolve()
    check_target(directory, _foreign)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".servesim-", dir=target.parent) as staging:
            fresh = Path(staging) / "new"
            fresh.mkdir()
            for name, text in files.items():
                (fresh / name).write_text(text, encoding="utf-8")
                if name.endswith(".sh"):
                    (fresh / name).chmod(0o755)
            put_in_place(fresh, target, Path(staging) / "old")
    except OSError as error:
        raise unwritable(directory, error) from error


def _foreign(directory: Path) -> str | None:
    """Return the name of something in a folder that is no launch file of ours; None if all of it is."""
    names = sorted(entry.name for entry in directory.iterdir())
    try:
        ours = json.loads((directory / _LISTED).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = []
    return next((name for name in names if name not in ours), None)


def _verify(deployment: Deployment) -> str:
    commands = bench_commands(deployment)
    return (
        "#!/usr/bin/env bash\n# Sends the requests of the simulation; expected.json has the prediction by its keys.\n"
        f'set -euo pipefail\ncd "$(dirname "$0")"\n{command_lines(commands["vllm"])}\n\n'
        + "\n".join(f"# {line}" for line in ("The same with AIPerf:", *command_lines(commands["aiperf"]).splitlines()))
        + "\n"
    )


def _readme(deployment: Deployment, target: str, files: list[str]) -> str:
    summary = deployment.summary
    lines = [
        f"# {deployment.scenario['name']}: {deployment.model} on {summary['chips']} chips, for {target}",
        "",
        *(f"* {pool.name}: {pool_words(pool.table)}" for pool in deployment.pools),
        "",
        "## Start it",
        "",
        *_start(deployment, files),
        "",
        "`chosen` beside a flag: the scenario says so. `default`: what the engine does unless told, said all the same,",
        "since the prediction rests on it.",
        *_flags(deployment, files),
        "",
        "## Verify it",
        "",
        "`bash verify.sh` sends the requests of the simulation, at the same times, and should show:",
        "",
        "| | predicted |",
        "|---|---|",
        *(f"| `{key}` | {value:,.6g} |" for key, value in expected(deployment).items()),
        "",
        *(f"* {note}" for note in launch_notes(deployment, target)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _flags(deployment: Deployment, files: list[str]) -> list[str]:
    """Return the flags of every pool with where they are from, where the files have no room for that."""
    arguments = {"vllm": vllm_arguments, "sglang": sglang_arguments}.get(deployment.pools[0].engine)
    if arguments is None or any(name.endswith(".sh") and name.startswith("serve-") for name in files):
        return []
    rows = [
        f"| {pool.name} | `{' '.join(one.words)}` | {'chosen' if one.is_chosen else 'default'} |"
        for pool in deployment.pools
        for one in arguments(deployment, pool)
    ]
    return ["", "| pool | flag | |", "|---|---|---|", *rows]


def _start(deployment: Deployment, files: list[str]) -> list[str]:
    manifests = [name for name in files if name in {"dynamo.yaml", "llm-d-values.yaml"}]
    if manifests:
        command = "kubectl apply -f" if manifests[0] == "dynamo.yaml" else "helm install MODEL llm-d-modelservice -f"
        return ["```bash", f"{command} {manifests[0]}", "```"]
    starts = [
        f"bash 'serve-{pool.name}.sh' {number}" for pool in deployment.pools for number in range(min(pool.replicas, 4))
    ]
    more = ["# and so on, for every instance"] if any(pool.replicas > 4 for pool in deployment.pools) else []
    return ["```bash", *starts, *more, *(["bash route.sh"] if "route.sh" in files else []), "```"]
