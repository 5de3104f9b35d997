"""The wiring of nodes and clusters as plain values: which device is cabled to which, and how fast.

Vertices are named ``n0/gpu3``, ``n0/nvswitch``, ``n0/pcie0``, ``n0/cpu0``, ``n0/nic3``, ``leaf2`` and
``spine0``. A cable is two links, one for each direction, of the same capacity and latency.

What is assumed: a scale-up switch never blocks, so only the ports of the chips count; one host stands for
all sockets of a server or tray; the layer of spine switches may be as few or many vertices as wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hardware.chip import Chip
    from hardware.node import Node

__all__ = ["Cable", "LinkKind", "Vertex", "VertexKind", "Wiring", "wire_cluster"]

LinkKind = Literal["nvlink", "nvswitch", "pcie", "c2c", "nic", "leaf", "spine"]
VertexKind = Literal["chip", "nvswitch", "pcie", "host", "nic", "leaf", "spine"]
_SWITCHED = ("nvswitch", "switch")


@dataclass(frozen=True, slots=True)
class Vertex:
    """A device. `node` is None outside the nodes; `gateways` are the NICs its traffic may leave by."""

    name: str
    kind: VertexKind
    node: int | None = None
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cable:
    """A connection of two devices; the capacity holds in each direction."""

    ends: tuple[str, str]
    kind: LinkKind
    capacity_bytes_per_s: float
    latency_ns: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """Devices and cables, in a fixed order."""

    vertices: tuple[Vertex, ...]
    cables: tuple[Cable, ...]


@dataclass(frozen=True, slots=True)
class _Site:
    """One node at its place in the cluster."""

    index: int
    node: Node
    chip: Chip

    def device(self, kind: str, number: int | None = None) -> str:
        return f"n{self.index}/{kind}{'' if number is None else number}"

    def tray(self, position: int, of: int) -> int:
        """Return the tray of the device at `position` among `of` spread evenly over the trays."""
        return position * self.node.trays // of

    def upstream(self, gpu: int) -> str:
        """Return what the host side of a chip is plugged into: a PCIe switch, or the host."""
        switches, chips = self.node.pcie_switches, self.node.chips
        if switches and not self.node.c2c_bytes_per_s:
            return self.device("pcie", gpu * switches // chips)
        return self.device("cpu", self.tray(gpu, chips))

    def own_nic(self, gpu: int) -> int:
        return gpu * self.node.nics // self.node.chips


def wire_cluster(groups: Sequence[tuple[Node, Chip, int]], oversubscription: float = 1.0, spines: int = 1) -> Wiring:
    """Wire nodes into a cluster with a rail-optimised network of leaf and spine switches.

    NIC i of a node connects to the leaf of rail ``i % rails`` of the node's pod; the uplinks of a leaf
    add up to the rates of its NICs over `oversubscription`, spread evenly over the spines. One node
    alone has no network.

    Parameters
    ----------
    groups
        Kind of node, its chip, and how many.
    oversubscription
        Rate into a leaf from below over its rate upwards.
    spines
        Spine vertices.

    Returns
    -------
    Wiring
        Nodes first, in the order of `groups`, then the network.
    """
    kinds = [(node, chip) for node, chip, count in groups for _ in range(count)]
    sites = [_Site(index, node, chip) for index, (node, chip) in enumerate(kinds)]
    networked = len(sites) > 1
    vertices = [vertex for site in sites for vertex in _devices(site, networked=networked)]
    cables = [cable for site in sites for cable in _inside(site, networked=networked)]
    if networked:
        ports = list(_leaf_ports(sites))
        uplinks = list(_uplinks(ports, sites[0].node.latency_ns.spine, oversubscription, spines))
        vertices += [Vertex(name, "leaf") for name in _far_ends(ports)]
        vertices += [Vertex(name, "spine") for name in _far_ends(uplinks)]
        cables += [*ports, *uplinks]
    return Wiring(tuple(vertices), tuple(cables))


def _far_ends(cables: Sequence[Cable]) -> list[str]:
    return list(dict.fromkeys(cable.ends[1] for cable in cables))


def _devices(site: _Site, *, networked: bool) -> Iterator[Vertex]:
    node, index = site.node, site.index
    nics = range(node.nics if networked else 0)
    for gpu in range(node.chips):
        gateway = (site.device("nic", site.own_nic(gpu)),) if nics else ()
        yield Vertex(site.device("gpu", gpu), "chip", index, gateway)
    if node.fabric in _SWITCHED:
        yield Vertex(site.device(node.fabric), "nvswitch", index)
    if not node.c2c_bytes_per_s:
        for switch in range(node.pcie_switches):
            yield Vertex(site.device("pcie", switch), "pcie", index)
    for tray in range(node.trays):
        gateways = tuple(site.device("nic", i) for i in nics if site.tray(i, node.nics) == tray)
        yield Vertex(site.device("cpu", tray), "host", index, gateways)
    for nic in nics:
        yield Vertex(site.device("nic", nic), "nic", index)


def _inside(site: _Site, *, networked: bool) -> Iterator[Cable]:
    yield from _scale_up(site)
    yield from _host_side(site)
    if networked:
        yield from _nic_sockets(site)


def _scale_up(site: _Site) -> Iterator[Cable]:
    """Cable every chip to the switch, to every other chip, or chip 2k to chip 2k+1 by a bridge.

    In a mesh each cable has an equal part of a chip's ports, as many parts as a full mesh has peers: two chips
    alone reach no more.
    """
    node, ports = site.node, site.chip.scale_up
    if ports is None or node.fabric == "pcie":
        return
    rate, latency = ports.bytes_per_s, node.latency_ns
    if node.fabric in _SWITCHED:
        for gpu in range(node.chips):
            ends = (site.device("gpu", gpu), site.device(node.fabric))
            yield Cable(ends, "nvswitch", rate, latency.nvswitch)
    elif node.fabric == "full_mesh":
        for one, other in combinations(range(node.chips), 2):
            ends = (site.device("gpu", one), site.device("gpu", other))
            yield Cable(ends, "nvlink", rate / (ports.domain - 1), latency.nvlink)
    else:
        for gpu in range(0, node.chips - 1, 2):
            ends = (site.device("gpu", gpu), site.device("gpu", gpu + 1))
            yield Cable(ends, "nvlink", rate, latency.nvlink)


def _host_side(site: _Site) -> Iterator[Cable]:
    """Cable chips to PCIe switches and these to the host, or chips to the host over NVLink-C2C."""
    node, pcie, latency = site.node, site.chip.pcie.bytes_per_s, site.node.latency_ns
    for gpu in range(node.chips):
        ends = (site.device("gpu", gpu), site.upstream(gpu))
        if node.c2c_bytes_per_s:
            yield Cable(ends, "c2c", node.c2c_bytes_per_s, latency.c2c)
        else:
            yield Cable(ends, "pcie", pcie, latency.pcie)
    if not node.c2c_bytes_per_s:
        for switch in range(node.pcie_switches):
            ends = (site.device("pcie", switch), site.device("cpu", site.tray(switch, node.pcie_switches)))
            yield Cable(ends, "pcie", pcie, latency.pcie)


def _nic_sockets(site: _Site) -> Iterator[Cable]:
    """Plug every NIC in beside the first chip it serves; its lanes are assumed to match its line rate."""
    node = site.node
    for nic in range(node.nics):
        ends = (site.upstream(nic * node.chips // node.nics), site.device("nic", nic))
        yield Cable(ends, "nic", node.nic_bytes_per_s or 0.0, node.latency_ns.nic)


def _leaf_ports(sites: Sequence[_Site]) -> Iterator[Cable]:
    rails = max(site.node.rails for site in sites)
    for site in sites:
        node = site.node
        pod = site.index // node.nodes_per_pod
        for nic in range(node.nics):
            ends = (site.device("nic", nic), f"leaf{pod * rails + nic % node.rails}")
            yield Cable(ends, "leaf", node.nic_bytes_per_s or 0.0, node.latency_ns.leaf)


def _uplinks(ports: Sequence[Cable], latency_ns: int, oversubscription: float, spines: int) -> Iterator[Cable]:
    below: dict[str, float] = {}
    for port in ports:
        below[port.ends[1]] = below.get(port.ends[1], 0.0) + port.capacity_bytes_per_s
    if len(below) < 2:
        return
    for leaf in sorted(below, key=lambda name: int(name.removeprefix("leaf"))):
        for spine in range(spines):
            rate = below[leaf] / oversubscription / spines
            yield Cable((leaf, f"spine{spine}"), "spine", rate, latency_ns)
