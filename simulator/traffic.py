"""What bounds need to know of a traffic: means, and a sample of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.encoder_load import EncoderLoad, encoder_load
from simulator.media_prefixes import shared_prefixes, with_media
from simulator.requests import build_requests, open_loop

if TYPE_CHECKING:
    from simulator.request_media import RequestMedia
    from simulator.scenario import Scenario
    from workloads.table import Arrivals, IntColumn

__all__ = ["Traffic", "describe_traffic"]

_SAMPLE: Final = 256


@dataclass(frozen=True, slots=True)
class Traffic:
    """A traffic in short.

    Attributes
    ----------
    rate_per_s
        Mean rate of the workload as the scenario has it; 0 for a closed loop, or where all come at once.
    users
        Users of a closed loop; 0 for an open one.
    new_tokens
        Mean tokens of a prompt that no cache can hold: all of them, where nothing is shared or cached.
    later_tokens
        Mean tokens after the first.
    context_tokens
        Mean context in which these are produced.
    own_tokens
        The part of it that no other request may hold too.
    free_share
        Share of all later tokens in the requests that may miss the SLO, were they the longest.
    prompts, news, outputs
        Tokens of a sample of the requests, from the shortest prompt to the longest.
    media
        What encoders have to do; None where requests are of text alone.
    """

    rate_per_s: float
    users: int
    new_tokens: float
    later_tokens: float
    context_tokens: float
    own_tokens: float
    free_share: float
    prompts: tuple[int, ...]
    news: tuple[int, ...]
    outputs: tuple[int, ...]
    media: EncoderLoad | None = None

    @property
    def output_tokens(self) -> float:
        """Mean tokens of an answer."""
        return self.later_tokens + 1

    def allowed_s(self, ttft_ms: float | None, tpot_ms: float | None, e2e_ms: float | None) -> float:
        """Return how long a mean request may take by its bounds, s; a bound that is not given allows ten seconds."""
        apart = (ttft_ms or 10_000) + self.later_tokens * (tpot_ms if tpot_ms is not None else 20)
        return min(apart, e2e_ms if e2e_ms is not None else apart) / 1e3


def describe_traffic(scenario: Scenario) -> Traffic:
    """Return a scenario's traffic in short."""
    loop = scenario.workload.closed_loop
    all_of_it = scenario.workload.model_copy(update={"share": 1.0, "warmup_s": 0.0})
    requests = build_requests(scenario.model_copy(update={"workload": all_of_it}))
    prompts, outputs = requests.prompt_tokens, requests.output_tokens
    arrivals = None if loop is not None else open_loop(scenario)
    news, later = _new_tokens(prompts, arrivals, requests.media), outputs - 1
    all_later = max(int(later.sum()), 1)
    longest = np.sort(later)[::-1][: len(later) - int(np.ceil(scenario.slo.attainment * len(later)))]
    rows = np.argsort(prompts, kind="stable")[np.unique(np.linspace(0, len(prompts) - 1, _SAMPLE).astype(np.int64))]
    return Traffic(
        rate_per_s=0.0 if arrivals is None else _rate_per_s(arrivals),
        users=loop.concurrency if loop is not None else 0,
        new_tokens=float(news.mean()),
        later_tokens=float(later.mean()),
        context_tokens=float((later * (prompts + later / 2)).sum()) / all_later,
        own_tokens=float((later * (news + later / 2)).sum()) / all_later,
        free_share=float(longest.sum()) / all_later,
        prompts=tuple(prompts[rows].tolist()),
        news=tuple(news[rows].tolist()),
        outputs=tuple(outputs[rows].tolist()),
        media=encoder_load(scenario, requests.media, rows.tolist()),
    )


def _rate_per_s(arrivals: Arrivals) -> float:
    """Return the mean rate; 0 where all requests come at once."""
    span_ns = int(arrivals.arrival_ns[-1] - arrivals.arrival_ns[0])
    return (len(arrivals) - 1) * 1e9 / span_ns if span_ns else 0.0


def _new_tokens(prompts: IntColumn, arrivals: Arrivals | None, media: RequestMedia | None) -> IntColumn:
    """Return the least each prompt must compute, were everything cached that it may share."""
    if arrivals is None:
        prefixes = None if media is None else with_media(None, media)
    else:
        prefixes = shared_prefixes(arrivals, media)
    if prefixes is None:
        return prompts
    has = np.flatnonzero(np.diff(prefixes.offsets))
    shared = np.zeros_like(prompts)
    shared[has] = prefixes.ends[prefixes.offsets[has + 1] - 1]
    news: IntColumn = np.maximum(prompts - shared, 1)
    return news
