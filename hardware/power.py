"""What a chip draws, as shares of its TDP."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hardware.strict import Strict
from hardware.tables import read_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PowerShares", "usual_power"]

_Share = Annotated[float, Field(ge=0, le=1)]


class PowerShares(Strict):
    """Power of one chip, shares of its TDP: ``active + memory * m + compute * c`` while a step runs.

    ``m`` and ``c`` are the shares of the nominal memory and arithmetic rates the step reaches. The shape is that of
    Choi et al., *A roofline model of energy* (IPDPS 2013).

    Attributes
    ----------
    idle
        No step runs, the model is loaded.
    active
        A step runs, whatever it does: clocks are up, kernels start and wait.
    memory
        Added at the full memory rate.
    compute
        Added at the dense peak; more than the TDP can be asked for, and is then not given.
    """

    idle: _Share
    active: Annotated[float, Field(ge=0, lt=0.5)]
    memory: _Share
    compute: Annotated[float, Field(ge=0, le=3)]

    def asked(
        self, memory_ns: NDArray[np.float64], compute_ns: NDArray[np.float64], duration_ns: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the power that work asks for, which may be more than the TDP.

        Parameters
        ----------
        memory_ns, compute_ns
            Times its bytes and its arithmetic take at the nominal rates, ns.
        duration_ns
            How long it takes, ns, above 0; all of one shape.
        """
        return self.active + (self.memory * memory_ns + self.compute * compute_ns) / duration_ns


@cache
def usual_power(architecture: str) -> dict[str, Any]:
    """Return the shares of an architecture, as ``hardware/power.toml`` has them."""
    table: dict[str, Any] = read_table(Path(__file__).parent / "power.toml")[architecture]
    return table
