"""Steps priced as Vidur composes them from a profile, one layer after the other.

By the tokens of a step, rounded up to a multiple of 8, go projections, norms, rotation, activation, residual sum and
two all-reduces; by the tokens themselves the write to the cache. Attention over the cache goes by (sequences, mean
context rounded up to a multiple of 64), attention over chunks by (the cached tokens of each, so rounded, together; the
root of the sum of squares of the chunks, rounded to a whole number). Both cost a tenth more for more than one sequence
of a model that shares key-value heads. Embedding, projection to the vocabulary, sampling and the host are not counted
(``sklearn_execution_time_predictor.py`` and ``execution_time.py`` of github.com/microsoft/vidur).

Vidur trains a random forest for each operation. Here those of one feature are answered as a forest would on average
(:mod:`perfdb.forest`); attention lies on straight lines between the cached tokens that were measured, and chunks
between two lengths go as in a forest again. Beyond the last row everything grows in proportion to its feature.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from perfdb.compile import StepLimits
from perfdb.forest import forest_weights
from perfdb.parts import GroupedQuery
from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, StepPrices, cumulated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from perfdb.model import ModelSpec
    from perfdb.vidur import Samples, VidurProfile

__all__ = ["CACHE_GRAIN", "VidurPrices", "VidurTables", "measured_steps", "vidur_tables"]

#: Cached tokens are rounded up to multiples of this many (``kv_cache_prediction_granularity``).
CACHE_GRAIN = 64
_TOKEN_GRAIN = 8
_NS_PER_MS = 1e6
#: Host time before a collective, ms (``nccl_cpu_launch_overhead_ms``).
_LAUNCH_MS = 0.02
#: Attention over several sequences of a model that shares key-value heads (``..._batching_overhead_fraction``).
_SHARED_HEADS = 1.1


class VidurTables:
    """Times of one layer, ms.

    Parameters
    ----------
    token_ms
        By the tokens of a step, shape (most tokens + 1,).
    generation_ms
        Attention over the cache by sequences and grains of 64 cached tokens, shape (most sequences + 1, grains + 1).
    context_ms
        Attention over one chunk by its length, float64 of shape (most tokens + 1,), for a number of grains.
    """

    def __init__(
        self,
        token_ms: NDArray[np.float64],
        generation_ms: NDArray[np.float64],
        context_ms: Callable[[int], NDArray[np.float64]],
    ) -> None:
        self.token_ms, self.generation_ms, self.context_ms = token_ms, generation_ms, context_ms


def vidur_tables(profile: VidurProfile, limits: StepLimits) -> VidurTables:
    """Return the times of one layer at every point that steps within limits ask for."""
    grains = -(-(limits.context + 1) // CACHE_GRAIN)
    most = max(limits.tokens, limits.sequences)
    context = _ContextTimes(profile.context, most)
    return VidurTables(
        _token_ms(profile, most), _generation_ms(profile.generation, limits.sequences, grains), cache(context.at)
    )


def measured_steps(profile: VidurProfile) -> StepLimits:
    """Return the largest step that was measured."""
    contexts = max(int(curve.at[-1]) for curve in profile.generation.values())
    return StepLimits(int(profile.layer.at[-1]), max(profile.generation), contexts)


def _token_ms(profile: VidurProfile, most: int) -> NDArray[np.float64]:
    tokens = np.arange(1.0, most + 1)
    rounded = np.ceil(tokens / _TOKEN_GRAIN) * _TOKEN_GRAIN
    found = _forest(profile.layer, rounded) + _forest(profile.cache_write, tokens)
    if profile.all_reduce is not None:
        found += 2 * (_forest(profile.all_reduce, rounded) + _LAUNCH_MS)
    return np.concatenate([[0.0], found])


def _forest(samples: Samples, asked: NDArray[np.float64]) -> NDArray[np.float64]:
    points, place = np.unique(np.minimum(asked, samples.at[-1]), return_inverse=True)
    inside = (forest_weights(samples.at, samples.rows, points) @ samples.ms)[place]
    found: NDArray[np.float64] = inside * np.maximum(asked / samples.at[-1], 1.0)
    return found


def _generation_ms(measured: Mapping[int, Samples], sequences: int, grains: int) -> NDArray[np.float64]:
    cached = np.arange(grains + 1.0) * CACHE_GRAIN
    sizes = np.array(sorted(measured), np.float64)
    curves = np.array([measured[int(size)].along(cached) for size in sizes])
    asked = np.arange(1.0, sequences + 1)
    inside = np.minimum(asked, sizes[-1])
    columns = [np.interp(inside, sizes, column) for column in curves.T]
    grown = np.array(columns).T * (asked / inside)[:, None]
    return np.concatenate([np.zeros((1, grains + 1)), grown])


class _ContextTimes:
    """Attention over one chunk: what it takes without a past, and what its past adds."""

    def __init__(self, measured: Mapping[int, Samples], most: int) -> None:
        self._lengths = np.arange(most + 1.0)
        whole = {chunk: samples for chunk, samples in measured.items() if samples.at[0] == 0}
        self._plain = self._between({chunk: (float(of.ms[0]), float(of.rows[0])) for chunk, of in whole.items()})
        self._plain *= np.maximum(self._lengths / max(whole), 1.0) ** 2
        self._continued = {chunk: of for chunk, of in whole.items() if len(of.at) > 1}

    def at(self, grains: int) -> NDArray[np.float64]:
        """Return the time by the length of the chunk after so many grains of cached tokens."""
        if not grains or not self._continued:
            return self._plain
        cached = np.array([grains * CACHE_GRAIN], np.float64)
        added = {}
        for chunk, of in self._continued.items():
            last = of.at[-1]
            beyond = float(of.along(np.minimum(cached, last))[0] - of.ms[0]) * max(float(cached[0] / last), 1.0)
            added[chunk] = (beyond, 1.0)
        grown = np.maximum(self._lengths / max(self._continued), 1.0)
        found: NDArray[np.float64] = self._plain + self._between(added) * grown
        return found

    def _between(self, measured: Mapping[int, tuple[float, float]]) -> NDArray[np.float64]:
        """Return a time for every length from (ms, rows) of some: Vidur's forests go by the square of the chunk."""
        chunks = np.array(sorted(measured), np.float64)
        ms, rows = np.array([measured[int(chunk)] for chunk in chunks]).T
        found: NDArray[np.float64] = forest_weights(chunks**2, rows, self._lengths**2) @ ms
        return found


class VidurPrices(StepPrices):
    """Step prices composed as Vidur does.

    Parameters
    ----------
    model
        Its layers, and whether it shares key-value heads.
    tables
        Times of one layer.
    """

    def __init__(self, model: ModelSpec, tables: VidurTables) -> None:
        self._layers_ns = model.layers * _NS_PER_MS
        mixer = model.stack[0].mixer
        self._several = _SHARED_HEADS if isinstance(mixer, GroupedQuery) and mixer.heads > mixer.kv_heads else 1.0
        self._tables = tables
        sequences = len(tables.generation_ms) - 1
        nothing = [0] * (sequences + 1)
        super().__init__(
            [round(ms * self._layers_ns) for ms in tables.token_ms.tolist()],
            nothing,
            nothing,
            self._stair,
            lambda _: ContextCurve([0], [0.0], [0.0]),
        )
        self._chunks: dict[tuple[int, int, bool], int] = {}

    def mixed_ns(  # noqa: PLR0913 - the sums of the base class
        self,
        *,
        tokens: int,
        samples: int,
        decodes: int,
        context: int,
        prompts: int,
        pairs: int,
        reach: int,
        squares: int = 0,
    ) -> int:
        """Return the time of one step with chunks in it, ns; see :meth:`StepPrices.mixed_ns`.

        Notes
        -----
        Of several chunks with a past, which no engine that Vidur knows computes in one step, the cached tokens are
        rounded up together.
        """
        del samples
        found = self.token_ns[tokens]
        if prompts:
            past = reach - (tokens - decodes)
            found += self._chunk_ns(-(-past // CACHE_GRAIN), round((squares or pairs) ** 0.5), several=prompts > 1)
        if decodes:
            found += self._generation_ns(decodes, context)
        return found

    def _chunk_ns(self, grains: int, length: int, *, several: bool) -> int:
        key = (grains, length, several)
        found = self._chunks.get(key)
        if found is None:
            ms = float(self._tables.context_ms(grains)[length]) * (self._several if several else 1.0)
            found = self._chunks[key] = round(ms * self._layers_ns)
        return found

    def _stair(self, sequences: int) -> DecodeCurve:
        """Return attention over the cache: a stair, whose step from ``64 k`` on is that of ``64 (k + 1)`` tokens.

        Vidur counts the token that a sequence computes among those in its cache.
        """
        each = self._layers_ns * (self._several if sequences > 1 else 1.0)
        first = [round(ms * each) << FRACTION_BITS for ms in self._tables.generation_ms[sequences, 1:].tolist()]
        knots = [CACHE_GRAIN * grain for grain in range(len(first))]
        flat = [0] * len(first)
        return DecodeCurve(knots, cumulated(knots, first, flat), first, flat)
