"""The first look at an instance: whether it can be at all, and what it cannot surpass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hardware.errors import CapacityError, CostError, UserError
from perfdb.compile import CompiledCosts
from perfdb.encoder_prices import EncoderCosts
from simulator.journal import Journal, Point, Summary, point_key
from simulator.step_bounds import Bound, instance_bound
from simulator.trials import pools_of

if TYPE_CHECKING:
    from simulator.scenario import Scenario
    from simulator.search_space import Choice
    from simulator.traffic import Traffic

__all__ = ["Look", "Screened", "look_key", "screen"]


@dataclass(frozen=True, slots=True)
class Look:
    """An instance to look at.

    Attributes
    ----------
    scenario
        Its pool alone, with the model in its formats.
    traffic
        What it is to serve.
    apart
        Other instances encode.
    speeds
        Bound its rate for users of several speeds too.
    """

    scenario: Scenario
    traffic: Traffic
    apart: bool = False
    speeds: bool = False

    @classmethod
    def at(cls, choice: Choice, base: Scenario, traffic: Traffic, *, speeds: bool = False) -> Look:
        """Return the look at an instance."""
        return cls(
            base.model_copy(update={"model": choice.model, "pool": (choice.pool,)}), traffic, choice.apart, speeds
        )


@dataclass(frozen=True, slots=True)
class Screened:
    """What came of it.

    Attributes
    ----------
    reason, example
        Why it is left out, in general and in this case; None where it is not.
    bound
        What it cannot surpass; None where it cannot be.
    """

    reason: str | None
    example: str | None
    bound: Bound | None

    @classmethod
    def of(cls, summary: Summary, attainment: float) -> Screened:
        """Return what a journal keeps of a look."""
        if summary["reason"] is not None:
            return cls(summary["reason"], summary["example"], None)
        bound = Bound(**summary["bound"])
        missed = bound.misses(attainment)
        if missed is None:
            return cls(None, None, bound)
        alone = {"TTFT": bound.ttft_ms, "TPOT": bound.tpot_ms}.get(missed)
        found = "" if alone is None else f": {alone:,.1f} ms for a median prompt"
        return cls(f"misses {missed} even with one request at a time", f"{missed} alone{found}", bound)


def look_key(look: Look) -> str:
    """Return the name of a look in a journal."""
    return point_key(
        Point(look.scenario, "", {"look": asdict(look.traffic), "apart": look.apart, "speeds": look.speeds})
    )


def screen(key: str, look: Look, journal: Journal) -> Summary:
    """Look at an instance, and keep what comes of it."""
    summary = _look(look)
    journal.store(key, summary)
    return summary


def _look(look: Look) -> dict[str, Any]:
    try:
        (pool,) = pools_of(look.scenario, apart=look.apart)
    except CapacityError as error:
        return _left_out("does not fit into memory", error)
    except CostError as error:
        return _left_out("no source prices it", error)
    except UserError as error:
        return _left_out("the model cannot be laid out so", error)
    if not isinstance(pool.costs, CompiledCosts | EncoderCosts):
        return {"reason": "whole-step profiles have no bounds", "example": str(look.scenario.pool[0].step_profile)}
    bound = instance_bound(pool, look.traffic, look.scenario.slo, speeds=look.speeds)
    return {"reason": None, "bound": asdict(bound)}


def _left_out(reason: str, error: UserError) -> dict[str, Any]:
    return {"reason": reason, "example": str(error)}
