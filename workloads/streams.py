"""Random number streams by name: adding one never shifts another."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["stream"]


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of one named purpose under one seed.

    Parameters
    ----------
    seed
        The scenario's seed, zero or more.
    name
        What the numbers are for, such as ``"arrivals"``; its CRC-32 joins the seed.

    Returns
    -------
    numpy.random.Generator
        A fresh generator, the same one for the same two arguments on every machine.

    Examples
    --------
    >>> float(stream(0, "arrivals").random()) == float(stream(0, "arrivals").random())
    True
    >>> float(stream(0, "arrivals").random()) == float(stream(0, "prompt_tokens").random())
    False
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
