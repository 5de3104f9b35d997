"""What of a traffic is encoded: means for bounds, and a sample of its requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfdb.encoder_prices import EncoderWork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perfdb.media_rules import Seen
    from simulator.request_media import Encodable, RequestMedia
    from simulator.scenario import Scenario

__all__ = ["Encoded", "EncoderLoad", "encoder_load"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What is encoded of requests.

    Attributes
    ----------
    items, patches, tokens, pairs, window_pairs
        Means over all requests, those of text alone among them: the sums of :class:`perfdb.encoder_prices.EncoderWork`.
    sample
        Of each sampled request what it has to have encoded.
    """

    items: float
    patches: float
    tokens: float
    pairs: float
    window_pairs: float
    sample: tuple[tuple[Seen, ...], ...]


@dataclass(frozen=True, slots=True)
class EncoderLoad:
    """What a traffic makes encoders do.

    Attributes
    ----------
    encoded
        What is certain to be asked for once: encoders keep features for equal images, wherever they stand.
    largest, smallest
        Patches of an item.
    least_tokens, most_tokens
        Of an item.
    dense
        Most patches for each token of an item.
    lengths, windows
        The shortest and the longest of what attention, and windowed attention, stays within, patches; zeros for none.
    sharded
        The images of one request are dealt to all encoders.
    """

    encoded: Encoded
    largest: int
    smallest: int
    least_tokens: int
    most_tokens: int
    dense: float
    lengths: tuple[int, int]
    windows: tuple[int, int]
    sharded: bool


def encoder_load(scenario: Scenario, media: RequestMedia | None, rows: Sequence[int]) -> EncoderLoad | None:
    """Return what encoders have to do.

    Parameters
    ----------
    scenario
        Whose traffic it is, and how features go.
    media
        What its requests carry.
    rows
        The sampled requests.

    Returns
    -------
    EncoderLoad or None
        None where no request carries anything.
    """
    if media is None:
        return None
    requests = [tuple({item.content: item for item in items}.values()) for items in media]
    seen = list(dict.fromkeys(item.seen for items in requests for item in items))
    if not seen:
        return None
    repeated = _repeated(scenario, media)
    once = [tuple(_fresh(items, repeated)) for items in requests]
    terms = scenario.network.feature_transfer
    return EncoderLoad(
        encoded=_encoded(once, rows),
        largest=max(one.patches for one in seen),
        smallest=min(one.patches for one in seen),
        least_tokens=min(one.tokens for one in seen),
        most_tokens=max(one.tokens for one in seen),
        dense=max(one.patches / max(one.tokens, 1) for one in seen),
        lengths=_range(length for one in seen for length, _ in one.sequences),
        windows=_range(length for one in seen for length, _ in one.windows),
        sharded=terms.shard_images,
    )


def _repeated(scenario: Scenario, media: RequestMedia) -> frozenset[int] | None:
    """Return the contents that come again; None for all, where longer traffic would repeat any of them."""
    workload = scenario.workload
    drawn = workload.synthetic or workload.closed_loop
    if drawn is not None and drawn.image_pool is not None:
        return None
    counts = Counter(item.content for items in media for item in items)
    return frozenset(content for content, times in counts.items() if times > 1)


def _fresh(items: Sequence[Encodable], repeated: frozenset[int] | None) -> Iterator[Encodable]:
    return (item for item in items if repeated is not None and item.content not in repeated)


def _encoded(requests: Sequence[Sequence[Encodable]], rows: Sequence[int]) -> Encoded:
    known: dict[Seen, EncoderWork] = {}
    total = np.zeros(5, np.int64)
    for items in requests:
        for item in items:
            work = known.get(item.seen)
            if work is None:
                work = known[item.seen] = EncoderWork.of((item.seen,))
            total += work
    items, patches, tokens, pairs, window_pairs = (total / len(requests)).tolist()
    sample = tuple(tuple(item.seen for item in requests[row]) for row in rows)
    return Encoded(items, patches, tokens, pairs, window_pairs, sample)


def _range(lengths: Iterator[int]) -> tuple[int, int]:
    found = list(lengths)
    return (min(found), max(found)) if found else (0, 0)
