"""Measured all-to-alls among chips that hold different experts: DeepEP's, and TensorRT-LLM's over NVLink."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.collectives import group_of
from perfdb.estimate import Estimate, Origin
from perfdb.interpolate import Curve
from perfdb.points import Points
from perfdb.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.expert_operators import ExpertExchange
    from perfdb.tables import TableSet

__all__ = ["ExchangeCurve", "exchange_curve", "exchange_tables"]

#: Chips of one node where the tables were measured: NVL72 racks are measured by the tray.
_NODE_CHIPS: Final[Mapping[str, int]] = MappingProxyType({"gb200": 4, "gb300": 4})
_USUAL_NODE_CHIPS: Final = 8
#: Names the tables give the format that tokens are dispatched in, by that of the experts.
_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "nvfp4"}
)
#: A doubling of chips is worse kin than any other shape.
_CHIPS_FIRST: Final = 1e3
_NS_PER_US, _NS_PER_MS = 1e3, 1e6


@dataclass(frozen=True, slots=True)
class _Form:
    """How a table is written: columns of a shape and of tokens, and of the time of each phase.

    Attributes
    ----------
    chips
        Column of the chips, or of the nodes where ``by_node``.
    phase
        Column that names the phase and, after its prefix, the phase; or None where each has columns of its own.
    dtype
        Column of the format.
    stage
        The stage it is for where steps are of one; empty for any.
    """

    name: str
    tokens: str
    per_token: str
    chips: str
    times: Mapping[str, tuple[str, ...]]
    unit_ns: float = _NS_PER_US
    by_node: bool = False
    phase: tuple[str, str] | None = None
    dtype: str | None = None
    stage: str = ""


_BOTH = ("transmit_us", "notify_us")
_DEEPEP = (
    _Form(
        "wideep_deepep_ll",
        "num_token",
        "num_topk",
        "node_num",
        {"dispatch": ("dispatch_avg_t_us",), "combine": ("combine_avg_t_us",)},
        by_node=True,
        stage="decode",
    ),
    _Form(
        "wideep_deepep_normal",
        "num_token",
        "num_topk",
        "node_num",
        {name: tuple(f"{name}_{part}" for part in _BOTH) for name in ("dispatch", "combine")},
        by_node=True,
        stage="prefill",
    ),
)
_UNIFIED = _Form(
    "moe_a2a",
    "num_tokens",
    "topk",
    "ep_size",
    {"dispatch": _BOTH, "combine": _BOTH},
    phase=("phase", ""),
    dtype="comm_dtype",
)
_NVLINK = _Form(
    "trtllm_alltoall",
    "num_tokens",
    "topk",
    "moe_ep_size",
    {"dispatch": ("latency",), "combine": ("latency",)},
    unit_ns=_NS_PER_MS,
    phase=("op_name", "alltoall_"),
    dtype="moe_dtype",
)
_FORMS: Final[Mapping[str, tuple[_Form, ...]]] = MappingProxyType(
    {"sglang": _DEEPEP, "vllm": (_UNIFIED,), "trtllm": (_UNIFIED, _NVLINK)}
)


@dataclass(frozen=True, slots=True)
class ExchangeCurve:
    """A measured exchange and its time over the tokens of a chip."""

    kin: ExpertExchange
    curve: Curve

    def estimate(self, exchange: ExpertExchange, rows: NDArray[np.int64]) -> Estimate:
        """Return the cost of an exchange; where another one was measured, the same start and in proportion to bytes."""
        found = self.curve.estimate(rows, lambda at: at.astype(np.float64))
        if self.kin == exchange:
            return found
        start = self.curve.ns.min()
        ns = start + (found.ns - start) * exchange.sent_away / self.kin.sent_away
        return Estimate(ns, np.full(len(rows), Origin.EXTRAPOLATED, np.uint8))


def exchange_tables(tables: TableSet) -> list[tuple[_Form, Path]]:
    """Return the tables of exchanges that a framework has on a chip."""
    forms = _FORMS.get(tables.framework, ())
    return [(form, path) for form in forms if (path := tables.find("comm", form.name, tables.framework))]


def exchange_curve(
    chip: Chip, tables: TableSet, exchange: ExpertExchange, *, among_fewer: bool = False
) -> ExchangeCurve | None:
    """Return the nearest measured exchange, None where there is none over the same links.

    Parameters
    ----------
    chip, tables, exchange
        What is wanted.
    among_fewer
        Take one among another number of chips of the same node, too: racks of NVLink are measured by the tray.

    Notes
    -----
    Of several ways for one number of tokens (low latency or throughput, one-sided or two-sided, any number of
    multiprocessors) the fastest counts: engines choose by the batch.
    """
    forms = [one for one in exchange_tables(tables) if {one[0].stage, exchange.stage} != {"prefill", "decode"}]
    found = [_points(form, path, tables.system, exchange) for form, path in forms]
    columns = [np.concatenate(parts) for parts in zip(*(one for one in found if one), strict=True)]
    if not columns:
        return None
    points = Points.of(columns[:4], columns[4], columns[5])
    among = points.shape[:, 0]
    right = among == exchange.chips
    if among_fewer and group_of(chip, exchange.chips).nodes == 1:
        right |= np.array([group_of(chip, int(chips)).nodes == 1 for chips in among])
    points = points.where(right)
    if not len(points.at):
        return None
    wanted = np.array([exchange.chips, exchange.hidden, exchange.per_token, exchange.experts], float)
    apart = np.abs(np.log2(points.shape / wanted))
    points = points.where(
        points.curve == points.curve[np.argmin(_CHIPS_FIRST * apart[:, 0] + apart[:, 1:].sum(axis=1))]
    )
    chips, hidden, per_token, experts = (int(size) for size in points.shape[0])
    kin = replace(exchange, chips=chips, hidden=hidden, per_token=per_token, experts=experts)
    return ExchangeCurve(kin, Curve.through(points.at, points.ns))


def _points(form: _Form, path: Path, system: str, exchange: ExpertExchange) -> list[NDArray[np.float64]] | None:
    """Return columns chips, hidden, choices per token, experts, tokens, ns of the rows; None for none."""
    names = ("hidden_size", form.per_token, "num_experts", form.tokens, form.chips, *form.times[exchange.name])
    more = [column for column in (form.phase and form.phase[0], form.dtype) if column]
    table = read_table(path, (*dict.fromkeys((*names, *more)),))
    node = _NODE_CHIPS.get(system, _USUAL_NODE_CHIPS) if form.by_node else 1
    keep = np.ones(len(table[form.chips]), bool)
    if form.phase:
        keep = table[form.phase[0]] == form.phase[1] + exchange.name
    if form.dtype and (right := keep & (table[form.dtype] == _FORMATS.get(exchange.weights))).any():
        keep = right
    if not keep.any():
        return None
    ns = form.unit_ns * np.sum([table[name][keep] for name in form.times[exchange.name]], axis=0)
    return [table[form.chips][keep] * node, *(table[name][keep] for name in names[:4]), ns]
