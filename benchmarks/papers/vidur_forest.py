"""Vidur's tables from forests as it trains them, by scikit-learn: how far chance moves a run.

Vidur's forests have no seed, so that each training gives other tables, and a run near its capacity another course.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.load_model import load_model
from perfdb.vidur import Samples, read_vidur_profile
from perfdb.vidur_prices import CACHE_GRAIN, VidurPrices, VidurTables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["forest_prices"]

_TREES, _DEPTH, _SPLIT = 250, 32, 2


def forest_prices(profiles: str, seed: int, longest: int, sequences: int) -> VidurPrices:
    """Return prices of Llama-2-7B from forests of 250 trees, depth 32, split from 2 rows on; needs scikit-learn."""
    model = load_model("meta-llama/Llama-2-7b-hf")
    profile = read_vidur_profile(profiles, model, 1)
    tokens = np.arange(1.0, longest + 1)
    rounded = np.minimum(np.ceil(tokens / 8) * 8, longest)
    layer = _along(profile.layer, seed, rounded)
    write = _along(profile.cache_write, seed, tokens)
    grains = np.arange(0, longest + 1, CACHE_GRAIN, np.float64)
    generation = _over(profile.generation, seed, np.arange(1.0, sequences + 1), grains, power=1)
    context = _over(profile.context, seed, tokens, grains, power=2)
    padded = np.concatenate([np.zeros((1, len(grains))), context])
    tables = VidurTables(
        np.concatenate([[0.0], layer + write]),
        np.concatenate([np.zeros((1, len(grains))), generation]),
        lambda grain: padded[:, grain],
    )
    return VidurPrices(model, tables)


def _fit(features: NDArray[np.float64], samples: Samples, seed: int, asked: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - nothing else needs it

    rows = samples.rows.astype(int)
    forest = RandomForestRegressor(_TREES, max_depth=_DEPTH, min_samples_split=_SPLIT, random_state=seed, n_jobs=2)
    forest.fit(np.repeat(features, rows, axis=0), np.repeat(samples.ms, rows))
    found: NDArray[np.float64] = forest.predict(asked)
    return found


def _along(samples: Samples, seed: int, asked: NDArray[np.float64]) -> NDArray[np.float64]:
    return _fit(samples.at[:, None], samples, seed, asked[:, None])


def _over(
    measured: Mapping[int, Samples], seed: int, sizes: NDArray[np.float64], cached: NDArray[np.float64], *, power: int
) -> NDArray[np.float64]:
    """Return times at every size and number of cached tokens, shape (sizes, cached)."""
    features = [np.column_stack([np.full(len(of.at), float(size) ** power), of.at]) for size, of in measured.items()]
    columns = (np.concatenate([getattr(of, name) for of in measured.values()]) for name in ("at", "rows", "ms"))
    asked = np.column_stack([axis.ravel() for axis in np.meshgrid(sizes**power, cached, indexing="ij")])
    return _fit(np.concatenate(features), Samples(*columns), seed, asked).reshape(len(sizes), len(cached))
