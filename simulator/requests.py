"""The requests of a scenario: lengths, times, and what tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardware.errors import ScenarioError
from perfdb.load_model import load_model
from simulator.arrivals import Following
from simulator.identity import KnownIdentities
from simulator.media_prefixes import shared_prefixes, with_media
from simulator.request_media import RequestMedia, media_seen
from simulator.router import PREFIX_ROUTERS, SESSION_ROUTERS
from workloads.closed_loop import plan_closed_loop
from workloads.media import Content
from workloads.media_draws import pixels
from workloads.streams import stream
from workloads.synthetic import synthesize
from workloads.thinning import thinned
from workloads.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from simulator.scenario import Scenario, Workload
    from workloads.media import Media
    from workloads.table import Arrivals, Prefixes

__all__ = ["Requests", "build_requests", "open_loop", "synthetic_arrivals", "trace_requests"]


@dataclass(frozen=True, slots=True)
class Requests:
    """The workload: lengths, and when requests are sent; a :class:`simulator.arrivals.Arrivals`.

    Attributes
    ----------
    prompt_tokens, output_tokens
        int64 of shape (requests,).
    times_ns
        Arrivals that wait for no other request, int64, never decreasing.
    think_ns
        Think time before each later request of a closed loop, or of each turn that waits for an answer, int64.
    later
        Row of the turn that waits for each request's answer, int64, -1 for none; None where no turn does.
    images
        Images per request, int64, or None.
    identities
        Who asks and what prompts begin with, where a pool or a router looks at it, or None.
    media
        What requests carry besides text, as the model's encoder sees it; None where it has none, or they carry nothing.
    skipped
        Rows of a trace left out, by reason.
    source
        Where the requests come from.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    images: NDArray[np.int64] | None
    skipped: Mapping[str, int]
    source: str
    identities: KnownIdentities | None = None
    later: NDArray[np.int64] | None = None
    media: RequestMedia | None = None

    def first(self) -> Iterable[tuple[int, int]]:
        """Return rows and times of arrivals that wait for no other, a few thousand held at a time."""
        if self.later is not None:
            waiting = set(self.later.tolist())
            yield from ((row, time) for row, time in enumerate(self.times_ns.tolist()) if row not in waiting)
            return
        chunk = 4096
        for start in range(0, len(self.times_ns), chunk):
            yield from enumerate(self.times_ns[start : start + chunk].tolist(), start)

    def after(self, index: int, finished: int) -> Following | None:
        """Return the request that is sent once another is finished or has failed; None for none."""
        if self.later is not None:
            row = int(self.later[index])
            return None if row < 0 else Following(row, int(self.think_ns[row]), goes_on=True)
        if finished > len(self.think_ns):
            return None
        return Following(len(self.times_ns) + finished - 1, int(self.think_ns[finished - 1]))


def build_requests(scenario: Scenario) -> Requests:
    """Return the workload of a scenario.

    Raises
    ------
    TraceError
        If a trace cannot be read.
    ScenarioError
        If every request arrives during the warm-up.
    """
    workload = scenario.workload
    if workload.closed_loop is not None:
        plan = plan_closed_loop(workload.closed_loop, scenario.seed)
        size = min(len(plan), workload.limit or len(plan))
        start = np.zeros(min(plan.concurrency, size), np.int64)
        later = plan.think_ns[plan.concurrency : size]
        source = f"closed loop of {plan.concurrency}"
        carried = None if plan.media is None else plan.media.head(size)
        media, added = _media(scenario, carried)
        prefixes = with_media(None, media) if media is not None and _looks_at_prefixes(scenario) else None
        known = _known(prefixes, None, _priorities(scenario, size))
        return Requests(
            plan.prompt_tokens[:size] + added,
            plan.output_tokens[:size],
            start,
            later,
            None if carried is None else carried.counts,
            {},
            source,
            known,
            media=media,
        )
    found = thinned(open_loop(scenario), workload.share, scenario.seed)
    _check_warmup(workload, found)
    return trace_requests(scenario, found)


def trace_requests(scenario: Scenario, found: Arrivals) -> Requests:
    """Return the workload that given arrivals make, with what the pools and routers of a scenario look at.

    Parameters
    ----------
    scenario
        Whose pools serve them.
    found
        What arrives.
    """
    nothing = np.zeros(0, np.int64)
    media, added = _media(scenario, found.media)
    return Requests(
        found.prompt_tokens + added,
        found.output_tokens,
        found.arrival_ns,
        nothing if found.think_ns is None else found.think_ns,
        found.images,
        found.skipped,
        found.source,
        _identities(scenario, found, media),
        found.later,
        media,
    )


def _media(scenario: Scenario, media: Media | None) -> tuple[RequestMedia | None, NDArray[np.int64] | int]:
    """Return what a scenario's model sees of media, and the tokens of each request that no prompt counts yet."""
    if media is None or not media.kind.size:
        return None, 0
    workload, table = scenario.workload, scenario.model
    encoder = load_model(table.name, weights=table.weights, kv_cache=table.kv_cache).encoder
    if encoder is None:
        # What a trace counts is priced as text then, and nothing can be said of the rest.
        if workload.trace is None and not media.tokens.all():
            raise ScenarioError(
                f"the workload has images, but model {table.name!r} has no encoder; expected a multimodal model"
            )
        return None, 0
    width, height = pixels(workload.image_size) if workload.image_size else (0, 0)
    unknown = Content("image", width, height, 1, 0, 0) if width else None
    if unknown is None and not all(item.known for item in media.contents()):
        raise ScenarioError(
            f"{workload.trace}: says nothing of some images but that they are there; set workload.image_size, such as "
            "'1280x720'"
        )
    first = workload.synthetic.shared_prefix_tokens if workload.synthetic is not None else 0
    found, added = media_seen(encoder, media, first, unknown)
    return found, np.array(added, np.int64)


def _identities(scenario: Scenario, found: Arrivals, media: RequestMedia | None) -> KnownIdentities | None:
    """Return what the pools and routers of a scenario look at, where the workload has it; else None."""
    routers = {pool.router for pool in scenario.pool}
    prefixes = shared_prefixes(found, media) if _looks_at_prefixes(scenario) else None
    if prefixes is not None and not prefixes.contents.size:
        prefixes = None
    session = found.session if routers & SESSION_ROUTERS else None
    return _known(prefixes, session, _priorities(scenario, len(found)))


def _looks_at_prefixes(scenario: Scenario) -> bool:
    routers = {pool.router for pool in scenario.pool}
    return any(pool.engine_options.caches_prefixes for pool in scenario.pool) or bool(routers & PREFIX_ROUTERS)


def _known(
    prefixes: Prefixes | None, session: NDArray[np.int64] | None, priority: NDArray[np.int64] | None
) -> KnownIdentities | None:
    found = (prefixes, session, priority)
    return None if all(column is None for column in found) else KnownIdentities(*found)


def _priorities(scenario: Scenario, requests: int) -> NDArray[np.int64] | None:
    """Return the class of each request, drawn by the classes' shares; None where there is one class."""
    shares = scenario.workload.priority_shares
    if len(shares) < 2:
        return None
    return stream(scenario.seed, "priority").choice(len(shares), requests, p=np.array(shares) / sum(shares))


def synthetic_arrivals(scenario: Scenario) -> Arrivals:
    """Return the arrivals of a scenario's ``[workload.synthetic]`` table, ``limit`` and ``rate_scale`` applied.

    Raises
    ------
    ScenarioError
        If the scenario has no such table.
    """
    workload = scenario.workload
    if workload.synthetic is None:
        kind = "trace" if workload.trace is not None else "closed_loop"
        raise ScenarioError(f"scenario {scenario.name!r}: workload is a {kind}, expected one with workload.synthetic")
    found = synthesize(workload.synthetic, scenario.seed).head(workload.limit or workload.synthetic.requests)
    return found.rescaled(workload.rate_scale)


def open_loop(scenario: Scenario) -> Arrivals:
    """Return all arrivals of a workload that is no closed loop, whatever share of them falls to the deployment.

    Raises
    ------
    TraceError
        If a trace cannot be read.
    """
    workload = scenario.workload
    if workload.trace is None:
        return synthetic_arrivals(scenario)
    return read_trace(
        workload.trace,
        workload.format,
        on_error=workload.on_error,
        limit=workload.limit,
        rate_scale=workload.rate_scale,
        spread=workload.spread,
        seed=scenario.seed,
    )


def _check_warmup(workload: Workload, found: Arrivals) -> None:
    last_s = int(found.arrival_ns[-1]) / 1e9
    if workload.warmup_s > last_s:
        raise ScenarioError(
            f"workload.warmup_s is {workload.warmup_s:g}, but the last of the {len(found)} requests arrives at "
            f"{last_s:.6g} s, so that none would be measured; lower it"
        )
