"""The catalogue of chips and nodes: one TOML file each, every figure with its source.

``python -m hardware.listing`` prints it as a table.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hardware.borrow import resolve_efficiency
from hardware.chip import Chip, Datasheet
from hardware.efficiency import Efficiency
from hardware.errors import CatalogueError, suggest
from hardware.node import Node
from hardware.power import PowerShares, usual_power
from hardware.tables import read_table, validated

__all__ = [
    "Chip",
    "Efficiency",
    "Node",
    "chip_names",
    "default_node",
    "host_w_per_chip",
    "load_chip",
    "load_node",
    "node_names",
    "source_of",
]

_ROOT = Path(__file__).parent
_DONOR_KEYS = ("like", "pcie_like")


def chip_names() -> tuple[str, ...]:
    """Return the names of the chips of the catalogue, sorted."""
    return _names("chips")


def node_names() -> tuple[str, ...]:
    """Return the names of the nodes of the catalogue, sorted."""
    return _names("nodes")


def load_chip(name_or_path: str | Path) -> Chip:
    """Load a chip.

    Parameters
    ----------
    name_or_path
        A name of the catalogue (``h200_sxm``), or the path of a ``.toml`` file like those of the
        catalogue.

    Returns
    -------
    Chip
        With what its ``[efficiency]`` borrows from other chips filled in.

    Raises
    ------
    CatalogueError
        The name is unknown, or the file is missing or wrong.
    """
    name = str(name_or_path)
    return _catalogue_chip(name) if name in chip_names() else _read_chip(_locate("chips", name))


def load_node(name_or_path: str | Path) -> Node:
    """Load a node, and check that its chip can be wired that way.

    Parameters
    ----------
    name_or_path
        A name of the catalogue (``hgx_h200``), or the path of a ``.toml`` file.

    Returns
    -------
    Node
        Complete: what its ``like`` says and the usual latencies are filled in.

    Raises
    ------
    CatalogueError
        The name is unknown, or the file is missing, wrong, or at odds with the chip.
    """
    name = str(name_or_path)
    return _catalogue_node(name) if name in node_names() else _read_node(_locate("nodes", name))


def default_node(chip_name: str | Path) -> Node:
    """Return the node a chip normally comes in.

    Raises
    ------
    CatalogueError
        The chip is unknown, or its file names no node.
    """
    chip = load_chip(chip_name)
    if chip.node is None:
        raise CatalogueError(
            f"chip {chip.name!r} names no node it normally comes in: "
            f"add a key such as node = 'hgx_h200' to its file, or choose a topology"
        )
    return load_node(chip.node)


def host_w_per_chip(node: str | None) -> float:
    """Return the most that a node draws beside its chips, per chip; 0 for no node, or one whose file does not say.

    Raises
    ------
    CatalogueError
        The node is unknown, or its file is wrong.
    """
    found = load_node(node) if node is not None else None
    return 0.0 if found is None or found.host_w is None else found.host_w / found.chips


def source_of(key: str, sources: tuple[tuple[str, str], ...]) -> str | None:
    """Return the source of a figure: that of the longest key of `sources` that covers `key`.

    Examples
    --------
    >>> source_of("pcie.bytes_per_s", (("pcie", "A100"), ("tdp_w", "REC")))
    'A100'
    """
    covering = [known for known, _ in sources if key == known or key.startswith(f"{known}.")]
    return dict(sources)[max(covering, key=len)] if covering else None


@cache
def _names(kind: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_ROOT / kind).glob("*.toml")))


@cache
def _catalogue_chip(name: str) -> Chip:
    return _read_chip(_locate("chips", name))


@cache
def _catalogue_node(name: str) -> Node:
    return _read_node(_locate("nodes", name))


def _locate(kind: str, name: str, beside: Path | None = None) -> Path:
    """Return the file of a name, or of a path; a relative path is looked for next to `beside`."""
    if name in _names(kind):
        return _ROOT / kind / f"{name}.toml"
    if not name.endswith(".toml"):
        raise CatalogueError(
            f"unknown {kind[:-1]} {name!r}: not in the catalogue and not the path of a .toml file; "
            f"{suggest(name, _names(kind))}"
        )
    path = beside.parent / name if beside else Path(name)
    if not path.is_file():
        raise CatalogueError(f"{path}: there is no such {kind[:-1]} file")
    return path.resolve()


def _named(value: object, kind: str, key: str, file: Path, seen: tuple[Path, ...]) -> Path:
    """Return the file that a key of another file names; a chain of files must come to an end."""
    if not isinstance(value, str):
        raise CatalogueError(f"{file}: key {key!r} is {value!r}; expected the name of one of the {kind}")
    try:
        found = _locate(kind, value, beside=file)
    except CatalogueError as problem:
        raise CatalogueError(f"{file}: key {key!r}: {problem}") from None
    if found in seen:
        raise CatalogueError(f"{file}: key {key!r} is {value!r}, which leads back to this file")
    return found


def _read_chip(path: Path, seen: tuple[Path, ...] = ()) -> Chip:
    table = read_table(path)
    chain = (*seen, path)
    measured = table.pop("efficiency", {})
    if not isinstance(measured, dict):
        raise CatalogueError(f"{path}: key 'efficiency' is {measured!r}; expected a table")
    drawn = table.pop("power", {})
    if not isinstance(drawn, dict):
        raise CatalogueError(f"{path}: key 'power' is {drawn!r}; expected a table")
    donors = {
        key: _read_chip(_named(measured.pop(key), "chips", f"efficiency.{key}", path, chain), chain)
        for key in _DONOR_KEYS
        if key in measured
    }
    sheet = validated(Datasheet, {"name": path.stem, **table}, str(path))
    efficiency = resolve_efficiency(measured, sheet, donors, str(path))
    power = validated(PowerShares, usual_power(sheet.architecture) | drawn, str(path), "power.")
    return Chip(**dict(sheet), efficiency=efficiency, power=power)


def _read_node(path: Path) -> Node:
    table = _node_table(path, ())
    usual = read_table(_ROOT / "latency.toml")
    full = {
        "name": path.stem,
        **table,
        "latency_ns": {**usual["latency_ns"], **table.get("latency_ns", {})},
        "sources": {**usual["sources"], **table.get("sources", {})},
    }
    if isinstance(table.get("chip"), str) and table["chip"].endswith(".toml"):
        full["chip"] = str(_named(table["chip"], "chips", "chip", path, ()))
    node = validated(Node, full, str(path))
    _check_fabric(node, path)
    return node


def _node_table(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read a node's file on top of the one its ``like`` names."""
    table = read_table(path)
    for key in ("latency_ns", "sources"):
        if not isinstance(table.get(key, {}), dict):
            raise CatalogueError(f"{path}: key {key!r} is {table[key]!r}; expected a table")
    if "like" not in table:
        return table
    chain = (*seen, path)
    base = _node_table(_named(table.pop("like"), "nodes", "like", path, chain), chain)
    merged = {key: {**base.get(key, {}), **table.get(key, {})} for key in ("latency_ns", "sources")}
    return {**base, **table, **merged}


def _check_fabric(node: Node, path: Path) -> None:
    try:
        chip = load_chip(node.chip)
    except CatalogueError as problem:
        raise CatalogueError(f"{path}: key 'chip': {problem}") from None
    if node.fabric == "pcie":
        return
    if chip.scale_up is None:
        raise CatalogueError(f"{path}: fabric is {node.fabric!r} but {chip.name} has no scale-up ports; use 'pcie'")
    joined = 2 if node.fabric == "nvlink_pairs" else node.chips
    if joined > chip.scale_up.domain:
        raise CatalogueError(
            f"{path}: fabric {node.fabric!r} joins {joined} chips but {chip.scale_up.kind} of {chip.name} joins "
            f"at most {chip.scale_up.domain}; use 'nvlink_pairs' or fewer chips"
        )
