"""Guard against other distributions' packages under our top-level names.

``hardware``, ``workloads``, ``perfdb`` and ``simulator`` are common words: a folder in the working directory or
another distribution may shadow them. This module imports none of them, so it can tell before they are.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["PACKAGES", "ForeignPackageError", "check_ownership", "foreign_package"]

PACKAGES = ("simulator", "workloads", "hardware", "perfdb")


class ForeignPackageError(ImportError):
    """A top-level name of ours belongs to somebody else; it stands outside ``hardware.errors``, which may be theirs."""


def foreign_package() -> tuple[str, str] | None:
    """Return (name, where it comes from) of the first foreign package, or None."""
    ours = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        origin = found.origin if found is not None else None
        if origin is None or Path(origin).resolve().parent != ours / name:
            return name, origin or "a folder without __init__.py"
    return None


def check_ownership() -> None:
    """Refuse to run with a foreign package in the way.

    Raises
    ------
    ForeignPackageError
        Naming the package and where it comes from.
    """
    found = foreign_package()
    if found is not None:
        raise ForeignPackageError(
            f"package {found[0]!r} comes from {found[1]}, not from servesim; remove or rename it, run from "
            "another folder, or use a clean virtual environment"
        )
