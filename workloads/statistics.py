"""Describing a workload in the numbers the field compares traces by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.limits import NS_PER_S

if TYPE_CHECKING:
    from workloads.media import Media
    from workloads.table import Arrivals, BlockHashes, IntColumn

__all__ = ["describe", "prefix_hit_tokens"]


def describe(arrivals: Arrivals) -> dict[str, float]:
    """Return statistics of a workload, in a fixed order.

    Returns
    -------
    dict
        ``rows``, ``skipped_rows``, ``span_s`` (first to last arrival), ``rate_per_s``, ``interarrival_cv``
        (standard deviation of the gaps over their mean), ``burstiness`` (``1 / cv**2``, the shape of vLLM's
        gamma arrivals), ``count_dispersion`` (variance over mean of the arrivals in each second; 1 is
        Poisson), ``peak_per_s``, then ``mean_ p50_ p90_ p99_ max_`` of ``prompt_tokens`` and
        ``output_tokens``, and of ``images`` and ``image_tokens`` where there are any, videos and sounds among
        them; ``text_only_share`` of requests, ``repeated_images_share`` of images, and ``mean_image_pixels`` where
        sizes are known; ``sessions``;
        ``prefix_hit_ratio`` (share of prompt tokens an infinite prefix cache would hold) with block hashes.
        What has no meaning, such as the rate of a burst, is left out.
    """
    found: dict[str, float] = {
        "rows": len(arrivals),
        "skipped_rows": sum(arrivals.skipped.values()),
        **_arrival_statistics(arrivals.arrival_ns),
    }
    for name in ("prompt_tokens", "output_tokens", "images", "image_tokens"):
        column = getattr(arrivals, name)
        if column is not None:
            found |= _distribution(name, column)
    if arrivals.media is not None and arrivals.media.kind.size:
        found |= _of_media(arrivals.media)
    if arrivals.session is not None:
        found["sessions"] = int(arrivals.session.max()) + 1
    if arrivals.blocks is not None:
        hits = prefix_hit_tokens(arrivals.blocks, arrivals.prompt_tokens)
        found["prefix_hit_ratio"] = float(hits.sum() / arrivals.prompt_tokens.sum())
    return found


def _of_media(media: Media) -> dict[str, float]:
    pixels = (media.width * media.height)[media.width > 0]
    found = {
        "text_only_share": float((media.counts == 0).mean()),
        "repeated_images_share": 1 - np.unique(media.content).size / media.content.size,
    }
    return found | ({"mean_image_pixels": float(pixels.mean())} if pixels.size else {})


def _arrival_statistics(arrival_ns: IntColumn) -> dict[str, float]:
    gaps_ns = np.diff(arrival_ns)
    span_ns = int(arrival_ns[-1] - arrival_ns[0])
    found = {"span_s": span_ns / NS_PER_S}
    if span_ns:
        cv = float(gaps_ns.std() / gaps_ns.mean())
        found |= {"rate_per_s": gaps_ns.size * NS_PER_S / span_ns, "interarrival_cv": cv}
        found |= {"burstiness": cv**-2} if cv > 0 else {}
        found |= _per_second((arrival_ns - arrival_ns[0]) // NS_PER_S)
    return found


def _per_second(seconds: IntColumn) -> dict[str, float]:
    """Count arrivals by whole second; silent seconds are counted without being stored."""
    counts = np.unique(seconds, return_counts=True)[1].astype(np.float64)
    bins = float(seconds[-1] + 1)
    mean = seconds.size / bins
    variance = float((counts**2).sum()) / bins - mean**2
    return {"count_dispersion": variance / mean, "peak_per_s": float(counts.max())}


def _distribution(name: str, column: IntColumn) -> dict[str, float]:
    p50, p90, p99 = np.percentile(column, (50, 90, 99)).tolist()
    return {
        f"mean_{name}": float(column.mean()),
        f"p50_{name}": p50,
        f"p90_{name}": p90,
        f"p99_{name}": p99,
        f"max_{name}": int(column.max()),
    }


def prefix_hit_tokens(blocks: BlockHashes, prompt_tokens: IntColumn) -> IntColumn:
    """Return the prompt tokens an infinite prefix cache would already hold when each request arrives.

    A request hits with its leading blocks that any earlier request had; a block of its own never counts.

    Parameters
    ----------
    blocks
        The prompts' blocks, n rows.
    prompt_tokens
        int64[n].

    Returns
    -------
    numpy.ndarray
        int64[n], at most ``prompt_tokens``.
    """
    starts, ends = blocks.offsets[:-1], blocks.offsets[1:]
    _, new = np.unique(blocks.hashes, return_index=True)
    new = np.append(np.sort(new), blocks.hashes.size)
    first_new = new[np.searchsorted(new, starts)]
    return np.minimum((np.minimum(first_new, ends) - starts) * blocks.block_tokens, prompt_tokens)
