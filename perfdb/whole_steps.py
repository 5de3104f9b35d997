"""Costs of a pool that names a step profile: coefficients of whole steps, or a folder of Vidur's tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.errors import CostError
from perfdb.fitted_prices import profiled_costs
from perfdb.power_cap import capped_fit
from perfdb.step_profile import ProfiledCosts, load_step_profile, step_profile_path
from perfdb.tables import sha256
from perfdb.vidur import read_vidur_profile
from perfdb.vidur_prices import VidurPrices, measured_steps, vidur_tables

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from perfdb.compile import StepLimits
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec

__all__ = ["vidur_costs", "whole_step_costs"]


def whole_step_costs(  # noqa: PLR0913 - what decides a price
    name: str, model: ModelSpec, layout: Layout, chip: Chip, limits: StepLimits, *, cap: float, where: str
) -> tuple[ProfiledCosts, dict[str, str]]:
    """Return the costs by a step profile, and the SHA-256 of every file they come from.

    Parameters
    ----------
    name
        Of a shipped profile, the path of one, or a folder of tables in Vidur's format.
    model, layout, chip, limits
        What runs, on what, in steps of which size.
    cap
        Share of its TDP that the chip may draw.
    where
        The key that asks for the profile, for messages.

    Raises
    ------
    UserError
        If there is no such profile, or it does not know the model, the chip or the layout.
    """
    if Path(name).is_dir():
        if layout.pipeline > 1 or cap < 1:
            key = "pipeline_parallel" if layout.pipeline > 1 else "power_cap"
            raise CostError(f"{where}: tables in Vidur's format know nothing of {key}; leave it at 1")
        return vidur_costs(name, model, layout.tensor, limits)
    fit = capped_fit(load_step_profile(name).of(model, layout.tensor, chip.name, where), chip, cap)
    path = step_profile_path(name)
    return profiled_costs(fit, limits, layout.pipeline), {f"profiles/{path.name}": sha256(path)}


def vidur_costs(folder: str, model: ModelSpec, tensor: int, limits: StepLimits) -> tuple[ProfiledCosts, dict[str, str]]:
    """Return the costs by a folder of tables in Vidur's format, and their SHA-256; see :mod:`perfdb.vidur_prices`.

    Raises
    ------
    CostError
        If a table is missing, broken, or knows nothing of the model on so many chips.
    """
    profile = read_vidur_profile(folder, model, tensor)
    prices = VidurPrices(model, vidur_tables(profile, limits))
    hashes = {f"vidur/{path.name}": sha256(path) for path in profile.files}
    return ProfiledCosts(prices, measured_steps(profile)), hashes
