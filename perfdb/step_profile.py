"""Whole steps priced by a fit of three coefficients, in place of kernels: how earlier simulators price them.

A step that computes prompts lasts ``step + token * tokens + squared_token * sum(length**2)``, a decode step
``step + cached_token * sum(cached) + sequence * sequences``, with other coefficients for large batches (DistServe,
OSDI 2024, and its simulator). A profile is a TOML file: a shipped one goes by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hardware.errors import CatalogueError, CostError, suggest
from hardware.strict import Strict
from hardware.tables import read_table, validated

if TYPE_CHECKING:
    from perfdb.compile import StepLimits
    from perfdb.model import ModelSpec
    from perfdb.step_prices import StepPrices

__all__ = [
    "ProfiledCosts",
    "StepFit",
    "StepProfile",
    "load_step_profile",
    "step_profile_names",
    "step_profile_path",
]

_PROFILES = Path(__file__).parent / "profiles"

_Ms = Annotated[float, Field(ge=0, le=1e9, strict=True)]
_Chips = Annotated[int, Field(gt=0, strict=True)]


class PrefillFit(Strict):
    """What prompts cost: per step, per token, and per squared length of a prompt."""

    step_ms: _Ms
    token_ms: _Ms
    squared_token_ms: _Ms


class DecodeFit(Strict):
    """What decoding costs: per step, per token in the caches, and per sequence."""

    step_ms: _Ms
    cached_token_ms: _Ms
    sequence_ms: _Ms


class LargeDecodeFit(DecodeFit):
    """What decoding costs from a number of sequences on."""

    from_sequences: _Chips


class StepFit(Strict):
    """The coefficients of one model at one tensor parallelism."""

    model: str
    tensor_parallel: _Chips
    prefill: PrefillFit
    decode: DecodeFit
    large_decode: LargeDecodeFit | None = None

    def decoding(self, sequences: int) -> DecodeFit:
        """Return the coefficients for a batch size."""
        large = self.large_decode
        return self.decode if large is None or sequences < large.from_sequences else large


class StepProfile(Strict):
    """A profile file.

    Attributes
    ----------
    chip
        What it was measured on.
    source
        Where its numbers come from.
    fit
        Coefficients by model and tensor parallelism.
    """

    chip: str
    source: str
    fit: tuple[StepFit, ...]

    def of(self, model: ModelSpec, tensor: int, chip: str, where: str) -> StepFit:
        """Return the coefficients of a model on a chip.

        Raises
        ------
        CostError
            If the profile has no such chip, model or tensor parallelism; ``where`` is the key that asks for it.
        """
        if chip != self.chip:
            raise CostError(f"{where}: the profile is of {self.chip}, but the pool runs on {chip}; use cost_sources")
        known = {(fit.model, fit.tensor_parallel): fit for fit in self.fit}
        found = known.get((model.name, tensor))
        if found is None:
            listed = ", ".join(f"{name} at tensor_parallel = {size}" for name, size in known)
            raise CostError(
                f"{where}: the profile does not know {model.name} at tensor_parallel = {tensor}; it has {listed}"
            )
        return found


def step_profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that are shipped."""
    return tuple(sorted(path.stem for path in _PROFILES.glob("*.toml")))


def step_profile_path(name: str) -> Path:
    """Return the file of a shipped profile, or of a path.

    Raises
    ------
    CatalogueError
        If there is neither.
    """
    if name in step_profile_names():
        return _PROFILES / f"{name}.toml"
    if not Path(name).is_file():
        advice = suggest(name, step_profile_names())
        raise CatalogueError(f"step_profile {name!r} is neither a file or folder nor one that is shipped; {advice}")
    return Path(name)


def load_step_profile(name: str) -> StepProfile:
    """Return a profile by its name or path.

    Raises
    ------
    CatalogueError
        If it is not there or not a profile.
    """
    path = step_profile_path(name)
    return validated(StepProfile, read_table(path), str(path))


@dataclass(frozen=True, slots=True)
class ProfiledCosts:
    """Prices of a profile; of all their time no more is known than that somebody measured such steps.

    Attributes
    ----------
    prices
        What the engine looks up.
    measured
        The largest step that somebody measured; None where nobody says.
    """

    prices: StepPrices
    measured: StepLimits | None = None
