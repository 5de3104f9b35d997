"""What no instance can surpass: bounds on rate and latency from the prices of its steps, without any queueing.

The rate is bounded by linear programming duality. Whatever an instance does is a mix of steps: so many sequences
decode in one, so many prompt tokens are computed, and it lasts what it is priced at. Prices put on a decoded and on a
computed token such that no step is worth more than the time, the room and the delay it costs bound what all steps
together achieve; every choice of prices is a bound, and the least of a grid of them is taken
(``docs/decisions/032-search.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.step_prices import equal_prompt
from simulator.built_pool import BuiltEncoder
from simulator.encode_bounds import EncodePrices, encode_prices, lone_encode_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perfdb.encoder_prices import EncoderCosts
    from perfdb.media_rules import Seen
    from perfdb.step_prices import StepPrices
    from simulator.built_pool import AnyPool, BuiltPool
    from simulator.encoder_load import Encoded
    from simulator.scenario import Slo
    from simulator.traffic import Traffic

__all__ = ["Bound", "instance_bound"]

#: Grids and means are not exact: bounds are given away by so much.
_SLACK: Final = 1.03
#: A sample is not all requests.
_SAMPLE_SLACK: Final = 0.03
#: Prompts that are computed together, where a step holds them.
_TOGETHER: Final = (1, 8)

#: Speeds of users for which rates are bounded, and how much slower than the fastest where the SLO does not say.
_SPEEDS: Final = 12
_SLOW: Final = 8
#: Prices that are tried: of the KV cache and of a delayed token, and shares of the dearest price of a prompt token.
_ROOM_PRICES: Final = (0.0, *np.geomspace(0.03, 30, 7).tolist())
_DELAY_PRICES: Final = (0.0, *np.geomspace(1e-4, 10, 21).tolist())
_TOKEN_PRICES: Final = (0.0, 0.3, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Bound:
    """What one instance cannot surpass.

    Attributes
    ----------
    rate_per_s
        Requests per second.
    ttft_ms, tpot_ms
        Of a request of median prompt, alone; None for a stage it does not serve.
    met_ttft, met_tpot, met_e2e
        Share of the requests that would meet each bound, alone; 1 where there is none.
    speeds
        Pairs of a mean TPOT, ms, and the requests per second of an instance that a user who is served no faster than
        that goes with at most, the fastest first; empty where nobody asked, or it does not decode.
    """

    rate_per_s: float
    ttft_ms: float | None
    tpot_ms: float | None
    met_ttft: float
    met_tpot: float
    met_e2e: float
    speeds: tuple[tuple[float, float], ...] = ()

    def misses(self, attainment: float) -> str | None:
        """Return the metric whose bound too many requests miss even alone, or None."""
        shares = {"TTFT": self.met_ttft, "TPOT": self.met_tpot, "E2E": self.met_e2e}
        return next((name for name, share in shares.items() if share < attainment - _SAMPLE_SLACK), None)


def instance_bound(pool: AnyPool, traffic: Traffic, slo: Slo, *, speeds: bool = False) -> Bound:
    """Return the bounds of one instance of a pool.

    Parameters
    ----------
    pool
        What it is an instance of; its stages decide what it has to do.
    traffic
        What arrives.
    slo
        The bounds to be met.
    speeds
        Bound the rate for users of several speeds too.
    """
    if isinstance(pool, BuiltEncoder):
        return _encoder_bound(pool, traffic, slo)
    parts = pool.parts
    ttft_ms = _lone_ttft_ms(pool, traffic) if parts.prefills else np.zeros(len(traffic.prompts))
    tpot_ms = _lone_tpot_ms(parts.prices, traffic) if parts.decodes else np.zeros(len(traffic.prompts))
    later = np.array(traffic.outputs) - 1
    middle = len(traffic.prompts) // 2
    rate_per_s = _SLACK * parts.ranks * _rank_rate_per_s(pool, traffic, slo.tpot_ms)
    return Bound(
        rate_per_s=rate_per_s,
        ttft_ms=float(ttft_ms[middle]) if parts.prefills else None,
        tpot_ms=float(tpot_ms[middle]) if parts.decodes else None,
        met_ttft=_met(ttft_ms, slo.ttft_ms),
        met_tpot=_met(np.where(later > 0, tpot_ms, 0.0), slo.tpot_ms),
        met_e2e=_met(ttft_ms + later * tpot_ms, slo.e2e_ms),
        speeds=_speeds(pool, traffic, slo, rate_per_s, tpot_ms) if speeds and parts.decodes else (),
    )


def _speeds(
    pool: BuiltPool, traffic: Traffic, slo: Slo, rate_per_s: float, alone_ms: NDArray[np.float64]
) -> tuple[tuple[float, float], ...]:
    """Return the most requests per second for users of several speeds; none is faster than a mean request alone."""
    later = np.array(traffic.outputs) > 1
    fastest = float(alone_ms[later].mean() if later.any() else alone_ms.mean()) / _SLACK
    slowest = max(slo.tpot_ms if slo.tpot_ms is not None else _SLOW * fastest, 1.1 * fastest)
    grid = np.geomspace(fastest, slowest, _SPEEDS).tolist()
    # A mean is over all requests: none is free.
    everyone = replace(traffic, free_share=0.0)
    rates = [_SLACK * pool.parts.ranks * _rank_rate_per_s(pool, everyone, tpot_ms) for tpot_ms in grid[1:]]
    return tuple(zip(grid, [min(rate, rate_per_s) for rate in rates] + [rate_per_s], strict=True))


def _met(values_ms: NDArray[np.float64], bound_ms: float | None) -> float:
    return 1.0 if bound_ms is None else float((values_ms <= bound_ms).mean())


# --- encoding ----------------------------------------------------------------------------------------


def _encoder_bound(pool: BuiltEncoder, traffic: Traffic, slo: Slo) -> Bound:
    """Return the bounds of an instance that encodes alone; TTFT is its part of it."""
    parts, load, requests = pool.parts, traffic.media, len(traffic.prompts)
    lone_ms, least_ns = np.zeros(requests), 0.0
    if load is not None:
        prices = encode_prices(
            pool.costs, load, load.encoded, most_tokens=parts.most_tokens, most_items=parts.most_items
        )
        least_ns = prices.of(load.encoded)
        lone_ms = _lone_encode_ms(pool.costs, prices, load.encoded.sample, sharded=load.sharded)
    return Bound(
        # Where all may be stored a nanosecond stands for nothing.
        rate_per_s=_SLACK * pool.costs.ranks * 1e9 / max(least_ns, 1.0),
        ttft_ms=float(lone_ms[requests // 2]),
        tpot_ms=None,
        met_ttft=_met(lone_ms, slo.ttft_ms),
        met_tpot=1.0,
        met_e2e=_met(lone_ms, slo.e2e_ms),
    )


def _lone_encode_ms(
    costs: EncoderCosts, prices: EncodePrices, sample: Sequence[tuple[Seen, ...]], *, sharded: bool = False
) -> NDArray[np.float64]:
    known = {items: lone_encode_ns(costs, prices, items, sharded=sharded) for items in dict.fromkeys(sample)}
    return np.array([known[items] for items in sample]) / 1e6


def _within(pool: BuiltPool, traffic: Traffic) -> tuple[EncoderCosts, EncodePrices, Encoded] | None:
    """Return what an engine encodes in its steps, and the least it costs; None where it does not."""
    load = traffic.media
    if pool.encoder is None or load is None:
        return None
    budget = pool.options.plan(prefills=True).encoder_tokens
    most = inf if budget is None else budget
    return pool.encoder, encode_prices(pool.encoder, load, load.encoded, most_tokens=most, most_items=inf), load.encoded


# --- latency -----------------------------------------------------------------------------------------


def _lone_ttft_ms(pool: BuiltPool, traffic: Traffic) -> NDArray[np.float64]:
    """Return the TTFT of each sampled request, alone."""
    front = pool.parts.front_end
    sizes = [(prompt, new) for prompt, new in zip(traffic.prompts, traffic.news, strict=True)]
    known = {size: _lone_prompt_ns(pool, *size) for size in dict.fromkeys(sizes)}
    found = np.array([known[size] for size in sizes], np.float64)
    if front is not None:
        found += front.latency_ns + front.request_ns + front.token_ns * np.array(traffic.prompts)
    within = _within(pool, traffic)
    encoding_ms = 0.0 if within is None else _lone_encode_ms(within[0], within[1], within[2].sample)
    return found / 1e6 + encoding_ms


def _lone_prompt_ns(pool: BuiltPool, prompt: int, new: int) -> int:
    prices, total, longest = pool.parts.prices, 0, 0
    for start in range(prompt - new, prompt, prices.max_tokens):
        end = min(start + prices.max_tokens, prompt)
        price = prices.mixed_ns(
            tokens=end - start,
            samples=int(end == prompt),
            decodes=0,
            context=0,
            prompts=1,
            pairs=end * end - start * start,
            reach=end,
        )
        least = price - _spared_ns(prices, end - start, pool.parts.ranks)
        total, longest = total + least, max(longest, least)
    # Chunks follow each other through the stages of a pipeline: each takes its time, and a stage its share of all.
    return max(longest, total // pool.micro_batches)


def _spared_ns(prices: StepPrices, tokens: int, ranks: int) -> int:
    """Return what the experts of all ranks spare where one rank alone has tokens."""
    shared = prices.shared_ns
    return shared[tokens] - shared[-(-tokens // ranks)] if shared and ranks > 1 else 0


def _lone_tpot_ms(prices: StepPrices, traffic: Traffic) -> NDArray[np.float64]:
    """Return the TPOT of each sampled request, alone."""
    known = {prompt: prices.decode_ns(1, prompt) for prompt in dict.fromkeys(traffic.prompts)}
    return np.array([known[prompt] for prompt in traffic.prompts], np.float64) / 1e6


# --- rate --------------------------------------------------------------------------------------------


def _rank_rate_per_s(pool: BuiltPool, traffic: Traffic, tpot_ms: float | None) -> float:
    """Return the most requests per second of an attention rank, or of an instance that has none."""
    parts, prices = pool.parts, pool.parts.prices
    if not parts.decodes:
        return 1e9 / (traffic.new_tokens * _token_price_ns(prices) + _of_prompts_ns(pool, traffic))
    steps = _steps(prices, traffic, _of_prompts_ns(pool, traffic) if parts.prefills else 0.0, prefills=parts.prefills)
    held_share = traffic.own_tokens / (parts.blocks * parts.block_tokens)
    tpot_ns = None if tpot_ms is None else tpot_ms * 1e6
    least_ns = max(
        _least_ns(steps, traffic, delay, tpot_ns, held_share * room) / (1 + room)
        for room in _ROOM_PRICES
        for delay in (_DELAY_PRICES if tpot_ms is not None else (0.0,))
    )
    return float(1e9 / least_ns)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Every kind of step: what it does and how long it lasts, arrays of shape (sequences, chunks).

    Attributes
    ----------
    sequences, tokens
        Sequences that decode, prompt tokens that are computed.
    duration_ns
        How long it lasts, attention over prompts left out.
    token_ns
        The least a prompt token takes in a step without decoding; 0 where no prompts are computed.
    attention_ns
        Mean time of a prompt's own attention, and of encoding what it carries; 0 likewise.
    """

    sequences: NDArray[np.float64]
    tokens: NDArray[np.float64]
    duration_ns: NDArray[np.float64]
    token_ns: float
    attention_ns: float


def _least_ns(steps: _Steps, traffic: Traffic, delay: float, tpot_ns: float | None, held_share: float) -> float:
    """Return the least time that a mean request takes of an instance, by the best prices of its tokens.

    Parameters
    ----------
    steps
        What an instance can do.
    traffic
        What a request is.
    delay
        Price of the time by which a token of a request that meets the SLO is later than it may be; other requests are
        then free.
    tpot_ns
        That time.
    held_share
        Price of the share of the KV cache that a sequence holds.
    """
    n, duration = steps.sequences, steps.duration_ns
    cost = duration * (1 + held_share * n)
    if tpot_ns is not None and delay:
        cost = cost + delay * n * (duration - tpot_ns)
    counted = traffic.later_tokens * (1 - traffic.free_share if delay else 1.0)
    least = 0.0
    for share in _TOKEN_PRICES if steps.token_ns else (0.0,):
        token_ns = share * steps.token_ns
        decoded_ns = max(float(((cost - token_ns * steps.tokens) / n).min()), 0.0)
        least = max(least, counted * decoded_ns + traffic.new_tokens * token_ns)
    return least + steps.attention_ns


def _steps(prices: StepPrices, traffic: Traffic, attention_ns: float, *, prefills: bool) -> _Steps:
    sequences = _rising(1, len(prices.sample_ns) - 1)
    chunks = np.append(0, _rising(16, prices.max_tokens)) if prefills else np.zeros(1, np.int64)
    n, t = np.meshgrid(sequences, chunks, indexing="ij")
    context = int(traffic.context_tokens)
    if prefills:
        token, sample, host = (np.array(x, np.float64) for x in (prices.token_ns, prices.sample_ns, prices.host_ns))
        attention = np.array([_generation_ns(prices, count, context) for count in sequences.tolist()], np.float64)
        kernels = token[np.minimum(n + t, prices.max_tokens)] + sample[n] + attention[:, None]
        launches = np.where(t > 0, prices.launches.prompt_ns, prices.launches.decode_ns)
        duration = np.where(n + t > prices.max_tokens, np.inf, np.maximum(kernels, launches) + host[n])
    else:
        duration = np.array([[prices.decode_ns(count, context)] for count in sequences.tolist()], np.float64)
    return _Steps(
        n.astype(np.float64),
        t.astype(np.float64),
        duration,
        _token_price_ns(prices) if prefills else 0.0,
        attention_ns,
    )


def _of_prompts_ns(pool: BuiltPool, traffic: Traffic) -> float:
    """Return the mean time of attention over a prompt, and of encoding what it carries where its engine does that."""
    within = _within(pool, traffic)
    encoding_ns = 0.0 if within is None else within[1].of(within[2])
    return _attention_ns(pool.parts.prices, traffic) + encoding_ns


def _generation_ns(prices: StepPrices, sequences: int, context: int) -> int:
    return prices.generation_curve(sequences).between(context, context + 1)


def _rising(first: int, last: int) -> NDArray[np.int64]:
    """Return whole numbers up to ``last``, each at most a tenth above the one before where that is more than one."""
    numbers = [min(first, last)]
    while numbers[-1] < last:
        numbers.append(min(last, max(numbers[-1] + 1, int(numbers[-1] * 1.1))))
    return np.array(numbers, np.int64)


def _token_price_ns(prices: StepPrices) -> float:
    """Return the least time per token of a step that only computes prompts."""
    tokens = np.arange(1, prices.max_tokens + 1)
    kernels = np.array(prices.token_ns[1:], np.float64)
    return float(((np.maximum(kernels, prices.launches.prompt_ns) + prices.host_ns[1]) / tokens).min())


def _attention_ns(prices: StepPrices, traffic: Traffic) -> float:
    """Return the mean time of attention over a prompt, computed with others like it where that is cheaper."""
    sizes = list(zip(traffic.prompts, traffic.news, strict=True))
    known = {size: _prompt_attention_ns(prices, *size) for size in dict.fromkeys(sizes)}
    return sum(known[size] for size in sizes) / len(sizes)


def _prompt_attention_ns(prices: StepPrices, prompt: int, new: int) -> float:
    past = prompt - new
    length = sqrt(prompt * prompt - past * past)

    def of_each(together: int) -> float:
        whole = prices.context_curve(together).price(length)
        windowed = (prices.windowed_curve(w, together).price(equal_prompt(new, past, w)) for w in prices.windowed)
        return (whole + sum(windowed)) / together

    return min(of_each(together) for together in _TOGETHER if together == 1 or together * new <= prices.max_tokens)
