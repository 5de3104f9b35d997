"""A deployment to be launched: what a result folder says was simulated, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardware.catalogue import default_node, load_chip, load_node
from hardware.errors import UserError
from simulator.result_folder import read_result, read_side_by_side

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Deployment", "ServedPool", "read_deployment"]


@dataclass(frozen=True, slots=True)
class ServedPool:
    """A pool of a deployment.

    Attributes
    ----------
    number, name
        Which it is.
    table
        Its ``[[pool]]`` table.
    filled, own
        Its engine options: every one as it was simulated, and those the scenario sets.
    node_chips, vendor
        Chips of the node its chips come in, and who makes them.
    """

    number: int
    name: str
    table: Mapping[str, Any]
    filled: Mapping[str, Any]
    own: Mapping[str, Any]
    node_chips: int
    vendor: str

    @property
    def engine(self) -> str:
        """The engine, without the release it is pinned to."""
        return str(self.table["engine"]).partition("@")[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """What it serves."""
        return tuple(self.table["stages"])

    @property
    def role(self) -> str | None:
        """The stage it is for, where others serve the other; None where it computes prompts and decodes."""
        if {"prefill", "decode"} <= set(self.stages):
            return None
        return next((stage for stage in ("prefill", "decode") if stage in self.stages), "encode")

    @property
    def hands_kv(self) -> bool:
        """Whether KV goes from it to others, or from others to it."""
        return self.role in {"prefill", "decode"}

    @property
    def replicas(self) -> int:
        """Instances."""
        return int(self.table["replicas"])

    @property
    def chips(self) -> int:
        """Chips of an instance."""
        return int(self.table["tensor_parallel"] * self.table["pipeline_parallel"] * self.table["data_parallel"])


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is launched.

    Attributes
    ----------
    folder
        The folder of the run.
    scenario, pools
        What was simulated.
    summary
        What came of it.
    """

    folder: Path
    scenario: Mapping[str, Any]
    pools: tuple[ServedPool, ...]
    summary: Mapping[str, Any]

    @property
    def model(self) -> str:
        """What servers are asked to load."""
        return str(self.scenario["model"]["name"])

    @property
    def apart(self) -> bool:
        """Whether prompts are computed and answers decoded in different instances."""
        return any(pool.hands_kv for pool in self.pools)

    @property
    def encoders(self) -> tuple[ServedPool, ...]:
        """Pools that encode for the others, and do nothing else."""
        return tuple(pool for pool in self.pools if pool.role == "encode")

    @property
    def speakers(self) -> tuple[ServedPool, ...]:
        """Pools with the language model."""
        return tuple(pool for pool in self.pools if pool.role != "encode")

    def is_fed(self, pool: ServedPool) -> bool:
        """Whether features of images come to a pool from those that encode."""
        return bool(self.encoders) and "prefill" in pool.stages

    @property
    def servers(self) -> int:
        """Instances of all pools."""
        return sum(pool.replicas for pool in self.pools)


def read_deployment(directory: Path) -> Deployment:
    """Read the deployment of a run, the best of a comparison or the winner of a search.

    Raises
    ------
    UserError
        If the folder is none of these, or none of its deployments meets the SLO.
    """
    folder = _run_folder(directory)
    summary = read_result(folder).summary
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    try:
        scenario = manifest["scenario"]
        named = zip(manifest["pools"].items(), scenario["pool"], strict=True)
        pools = tuple(
            ServedPool(
                number,
                name,
                table,
                pool["engine_options"],
                pool["chosen_options"],
                _node_chips(scenario, table),
                load_chip(table["chip"]).vendor,
            )
            for number, ((name, pool), table) in enumerate(named)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'manifest.json'}: not of this version ({type(error).__name__}: {error}); run the scenario again"
        ) from error
    return Deployment(folder, scenario, pools, summary)


def _run_folder(directory: Path) -> Path:
    content = read_side_by_side(directory) if directory.is_dir() else None
    if content is None:
        return directory
    best, kind = content.get("best"), content["servesim"]
    if kind not in {"compare", "search"}:
        raise UserError(f"{directory}: the result of a {kind}, expected that of a run, a comparison or a search")
    if best is None:
        raise UserError(f"{directory}: no candidate meets the SLO; name the folder of the one to launch, within it")
    return directory / "candidates" / str(best) if kind == "compare" else directory / "deployments" / str(best["split"])


def _node_chips(scenario: Mapping[str, Any], pool: Mapping[str, Any]) -> int:
    topology = scenario["network"]["topology"]
    return (load_node(topology) if topology else default_node(pool["chip"])).chips
