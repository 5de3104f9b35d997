"""What was fitted to a server of one's own: the file that ``servesim calibrate`` writes and a pool names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hardware.errors import ScenarioError
from hardware.strict import Strict
from hardware.tables import read_table, validated
from perfdb.calibrated import KernelFactors

if TYPE_CHECKING:
    from perfdb.compile import HostTime
    from simulator.front_end import FrontEndTime

__all__ = ["Calibration", "Factors", "Fitted", "FrontEndTable", "HostTable", "read_calibration"]

_Nanoseconds = Annotated[int, Field(ge=0, le=10**12, strict=True)]
_Factor = Annotated[float, Field(gt=0, le=100)]


class HostTable(Strict):
    """``[host]``: times of :class:`perfdb.compile.HostTime` in place of the engine's own.

    ``image_ns`` is what each image, video or sound adds to the run, or to the step, that encodes it.
    """

    step_ns: _Nanoseconds | None = None
    sequence_ns: _Nanoseconds | None = None
    image_ns: _Nanoseconds | None = None


class FrontEndTable(Strict):
    """``[front_end]``: times of :class:`simulator.front_end.FrontEndTime` in place of the engine's own."""

    latency_ns: _Nanoseconds | None = None
    request_ns: _Nanoseconds | None = None
    token_ns: _Nanoseconds | None = None
    output_ns: _Nanoseconds | None = None


class Factors(Strict):
    """``[kernels]``: see :class:`perfdb.calibrated.KernelFactors`."""

    per_token: _Factor = 1.0
    context_attention: _Factor = 1.0
    generation_attention: _Factor = 1.0
    collectives: _Factor = 1.0


class Fitted(Strict):
    """``[fit]``: what a calibration rests on; it changes nothing.

    Attributes
    ----------
    runs
        Files it was fitted to.
    error_before, error_after
        Root mean square of the relative errors, of the figures that were fitted.
    uncertainty
        Standard deviation of each constant, in its own unit.
    """

    runs: tuple[str, ...]
    error_before: float
    error_after: float
    uncertainty: dict[str, float]


class Calibration(Strict):
    """Constants of a pool that replace, or multiply, what is usual for its engine and chip."""

    host: HostTable = HostTable()
    front_end: FrontEndTable = FrontEndTable()
    kernels: Factors = Factors()
    fit: Fitted | None = None

    @property
    def factors(self) -> KernelFactors:
        """What kernel prices are multiplied by."""
        return KernelFactors(**self.kernels.model_dump())

    def host_time(self, usual: HostTime) -> HostTime:
        """Return the time of the host, from what is usual."""
        return replace(usual, **self.host.model_dump(exclude_none=True, exclude={"image_ns"}))

    def encoder_time(self, usual: HostTime) -> HostTime:
        """Return the time of the host of a run of an encoder, from what is usual."""
        found = self.host.image_ns
        return usual if found is None else replace(usual, sequence_ns=found)

    def front_end_time(self, usual: FrontEndTime) -> FrontEndTime:
        """Return the time of the front end, from what is usual."""
        return replace(usual, **self.front_end.model_dump(exclude_none=True))

    def toml(self) -> str:
        """Return the file's content."""
        lines = ['# Written by servesim calibrate; a pool names it: calibration = "FILE.toml"']
        for name, table in self.model_dump(exclude_none=True).items():
            tables = {name: {key: value for key, value in table.items() if not isinstance(value, dict)}}
            tables |= {f"{name}.{key}": value for key, value in table.items() if isinstance(value, dict)}
            for header, values in tables.items():
                lines += ["", f"[{header}]", *(f"{key} = {_written(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises
    ------
    ScenarioError
        If the file cannot be read, is not TOML, or has a key or value that is unknown or impossible.
    """
    return validated(Calibration, read_table(Path(path), ScenarioError), str(path), error=ScenarioError)
