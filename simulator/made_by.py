"""What a result was made by: versions of packages, and a digest of this program."""

from __future__ import annotations

import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from simulator.ownership import PACKAGES

__all__ = ["program_sha256", "versions"]

_LIBRARIES: Final = ("servesim", "aiconfigurator-core", "numpy", "simpy", "pandas", "pyarrow")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that decide numbers; None for one not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}


@cache
def program_sha256() -> str:
    """Return the SHA-256 of every module and catalogue file of this program, in order of their paths.

    A version number stays the same while somebody edits the program; this does not.
    """
    root = Path(__file__).resolve().parents[1]
    digest = sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in {".py", ".toml", ".css"}:
                digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
