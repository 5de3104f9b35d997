"""Every error servesim raises on purpose, in one small tree.

::

    ServesimError
    ├── UserError              the input is wrong: one sentence, exit code 2, no traceback
    │   ├── ScenarioError      a key or value of a scenario, or of ``--set``
    │   ├── TraceError         a row or file of a trace
    │   ├── CaseError          a row or file of measured cases, or of the rules they were launched by
    │   ├── CatalogueError     a chip, node or model that is not known
    │   ├── CapacityError      a model or request that cannot fit the memory named
    │   ├── CostError          no cost source can price what the scenario asks for
    │   └── OutputError        a result directory that cannot be written
    └── LawError               a law of the simulation was broken: a bug of ours, exit code 1

One error stands outside: :class:`simulator.ownership.ForeignPackageError`, raised when this very module may be
somebody else's.

A user error says where (file, line or key), what was found, what was expected, and what to try.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CapacityError",
    "CaseError",
    "CatalogueError",
    "CostError",
    "LawError",
    "OutputError",
    "ScenarioError",
    "ServesimError",
    "TraceError",
    "UserError",
    "suggest",
]


class ServesimError(Exception):
    """Root of every error raised on purpose."""


class UserError(ServesimError):
    """The user's input is wrong; the message is one sentence for a person."""


class ScenarioError(UserError):
    """A scenario key or value is unknown, missing or impossible."""


class TraceError(UserError):
    """A trace file or one of its rows cannot be read."""


class CaseError(UserError):
    """A file of measured cases, one of its rows, or a rule they are replayed by cannot be used."""


class CatalogueError(UserError):
    """A chip, node or model name is not in the catalogue."""


class CapacityError(UserError):
    """A model, or a request, cannot fit the memory it is given."""


class CostError(UserError):
    """No cost source can price an operator the scenario needs."""


class OutputError(UserError):
    """A result cannot be written where the user asked."""


class LawError(ServesimError):
    """A conservation law of the simulation does not hold."""


def suggest(found: str, options: Iterable[str]) -> str:
    """Return the tail of an error sentence: the closest option, or all of them.

    Parameters
    ----------
    found
        What the user wrote.
    options
        What would have been accepted.

    Returns
    -------
    str
        ``did you mean 'x'?`` when one option is close, else ``expected one of a, b, c``.

    Examples
    --------
    >>> suggest("h20_sxm", ["h200_sxm", "a100_80_sxm"])
    "did you mean 'h200_sxm'?"
    >>> suggest("tpu", ["h200_sxm", "a100_80_sxm"])
    'expected one of a100_80_sxm, h200_sxm'
    """
    names = sorted(options)
    close = difflib.get_close_matches(found.lower(), [name.lower() for name in names], n=1, cutoff=0.6)
    if close:
        return f"did you mean {next(name for name in names if name.lower() == close[0])!r}?"
    return f"expected one of {', '.join(names)}"
