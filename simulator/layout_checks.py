"""Whether a model can be laid out over chips as a pool asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec

__all__ = ["check_layout"]


def check_layout(name: str, model: ModelSpec, layout: Layout) -> None:
    """Check that pipeline stages are equal, and that tensor parallelism divides the heads (or KV heads divide it).

    Parameters
    ----------
    name
        The pool, for the error sentence.
    model, layout
        What is laid out, and how.

    Raises
    ------
    ScenarioError
        Naming the key and what would fit.
    """
    tensor = layout.tensor
    if model.layers % layout.pipeline:
        raise ScenarioError(
            f"pool.{name}.pipeline_parallel is {layout.pipeline}, which does not divide the {model.layers} layers of "
            f"{model.name}; use one of {_divisors(model.layers)}"
        )
    found = model.indivisible(tensor)
    if found is not None:
        fitting = ", ".join(str(n) for n in range(1, found[0] + 1) if model.indivisible(n) is None)
        raise ScenarioError(
            f"pool.{name}.tensor_parallel is {tensor}, which does not divide the {found[0]} {found[1]} of "
            f"{model.name}; use one of {fitting}"
        )
    _check_experts(name, model, layout)


def _check_experts(name: str, model: ModelSpec, layout: Layout) -> None:
    """Check that experts can be dealt to groups of chips, and each be cut over the chips of a group."""
    if not model.experts:
        for key, value, usual in (
            ("expert_parallel", layout.expert, 1),
            ("redundant_experts", layout.redundant, 0),
        ):
            if value > usual:
                raise ScenarioError(f"pool.{name}.{key} is {value}, but {model.name} has no experts; leave it out")
        return
    key, chips = f"pool.{name}.expert_parallel is {layout.expert}", layout.sharing
    fitting = [n for n in range(1, chips + 1) if chips % n == 0 and model.cuts_experts(chips // n, n, layout.redundant)]
    advice = f"use {' or '.join(str(n) for n in fitting)}" if fitting else "use fewer chips"
    if chips % layout.expert:
        raise ScenarioError(f"{key}, which does not divide the {chips} chips that share a layer; {advice}")
    if not model.cuts_experts(layout.expert_tensor, layout.expert, layout.redundant):
        part = model.experts[0]
        copies = f" and {layout.redundant} redundant ones" if layout.redundant else ""
        raise ScenarioError(
            f"{key} on {chips} chips, which does not divide the {part.experts} experts of {model.name}{copies}, or "
            f"leaves {layout.expert_tensor} chips to share one of {part.intermediate} columns; {advice}"
        )


def _divisors(*numbers: int) -> str:
    common = math.gcd(*numbers)
    return ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
