"""Vidur's own runs (MLSys 2024) once more: its profiles, requests, schedulers and definitions, request by request.

Needs what is not shipped: a folder with Vidur's profiles of Llama-2-7B on A100 (``mlp.csv``, ``attention.csv``), and
Azure's conversation trace of 2023. Lengths of article summaries are not at hand: those rows draw theirs from published
quantiles, and say what the shape is, no more.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.papers.vidur_forest import forest_prices
from benchmarks.papers.vidur_rows import ALIKE, REPLICAS, ROWS
from perfdb.compile import StepLimits
from perfdb.load_model import load_model
from perfdb.whole_steps import vidur_costs
from simulator.cluster import Cluster
from simulator.engine_parts import EngineParts
from simulator.laws import check_laws
from simulator.records import Ledger
from simulator.requests import Requests
from simulator.router import ROUTERS
from simulator.schedulers import SCHEDULERS, Limits
from simulator.token_gaps import token_gaps
from workloads.lengths import Empirical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.papers.vidur_rows import Row
    from perfdb.step_prices import StepPrices
    from simulator.request import Request
    from simulator.router import Router

__all__ = ["Found", "arrivals", "lengths", "print_rows", "replay", "serve"]

SEED, LONGEST, BLOCKS, BLOCK_TOKENS, MOST_SEQUENCES = 42, 4096, 7424, 16, 128
CHUNK, MOST_PADDED = 512, 4096
TOLERANCE = 0.02
#: Article summaries by published quantiles (mean, P50, P90 of prompts 2588, 2730, 3702; of outputs, with P99, 291, 167,
#: 372, 3271); the ends and the point at 0.945 are chosen to give the means.
SUMMARIES = (
    Empirical(quantiles=((0.0, 918), (0.5, 2730), (0.9, 3702), (1.0, 4090))),
    Empirical(quantiles=((0.0, 8), (0.5, 167), (0.9, 372), (0.945, 500), (0.99, 3271), (1.0, 3700))),
)


def arrivals(qps: float, count: int) -> NDArray[np.int64]:
    """Return arrival times, ns: Poisson gaps, but none longer than three times the mean."""
    # Not numpy's stream but Python's, since Vidur draws from that one.
    stream = random.Random(SEED)  # noqa: S311 - the stream of the runs that are compared
    gaps = [min(-math.log(1 - stream.random()) / qps, 3 / qps) for _ in range(count)]
    return np.rint(1e9 * np.cumsum(gaps)).astype(np.int64)


def lengths(trace: pd.DataFrame, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return prompt and output lengths in Vidur's order, pairs shortened in proportion to at most 4,096 tokens."""
    both = trace.to_numpy(np.int64)
    total = both.sum(axis=1, keepdims=True)
    over = np.maximum(total - LONGEST, 0)
    cut = np.maximum(both - np.ceil(over * (both / total)).astype(np.int64), 1)
    order = pd.Series(range(len(cut))).sample(frac=1, random_state=SEED).to_numpy()[:count]
    return cut[order, 0], cut[order, 1]


def replay(file: str) -> Requests:
    """Return the whole trace at its own times; only prompts are shortened."""
    trace = pd.read_csv(file)
    times = pd.to_datetime(trace.iloc[:, 0])
    both = trace.iloc[:, 1:3].to_numpy(np.int64)
    prompts = both[:, 0] - np.maximum(both.sum(axis=1) - LONGEST, 0)
    return requests((times - times.iloc[0]).dt.total_seconds().to_numpy() * 1e9, prompts, both[:, 1])


def requests(times_ns: NDArray[np.float64], prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> Requests:
    """Return a workload that waits for nobody."""
    return Requests(prompts, outputs, np.rint(times_ns).astype(np.int64), np.zeros(0, np.int64), None, {}, "vidur")


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one run, in the order and by the definitions of :class:`benchmarks.papers.vidur_rows.Row`."""

    ttft: Sequence[float]
    tpot: Sequence[float]
    e2e: Sequence[float]
    tbt: Sequence[float]
    tokens_per_s: float
    batches: int

    @classmethod
    def of(cls, cluster: Cluster) -> Found:
        """Return the figures of a run that is over."""
        ledger = cluster.ledger
        arrived, first, done = (ledger.column(name) / 1e9 for name in ("arrival_ns", "first_token_ns", "finish_ns"))
        outputs = ledger.column("output_tokens")
        gaps = token_gaps(cluster.logs, [instance.prices for instance in cluster.instances], ledger)
        return cls(
            _mean_and(first - arrived),
            _mean_and((done - first) / outputs),
            np.percentile(done - arrived, (50, 90, 99)).tolist(),
            [gaps.percentile_ms(q) / 1e3 for q in (50, 90, 99, 99.9)],
            float(outputs.sum() / done.max()),
            sum(int(log.table()["steps"].sum()) for log in cluster.logs),
        )


def _mean_and(values: NDArray[np.float64]) -> list[float]:
    return [float(values.mean()), *np.percentile(values, (50, 90, 99)).tolist()]


class FewestWaiting:
    """Vidur's least outstanding requests: it counts those that wait, not those that run."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the first instance with the shortest queue."""
        del loads, request
        assert self.cluster is not None  # noqa: S101 - set before the run
        waiting = [len(self.cluster.instances[member].state.waiting) for member in members]
        return waiting.index(min(waiting))


def serve(row: Row, prices: StepPrices, work: Requests) -> Cluster:
    """Run one row to its end."""
    if row.scheduler == "sarathi":
        scheduler = SCHEDULERS["sarathi"](Limits(CHUNK, MOST_SEQUENCES))
    else:
        limits = Limits(MOST_PADDED, MOST_SEQUENCES, chunked=False)
        scheduler = SCHEDULERS["vllm_v0"](limits, max_paddings=MOST_PADDED)
    sizes = {"blocks": BLOCKS, "block_tokens": BLOCK_TOKENS, "max_tokens": LONGEST, "replicas": row.replicas}
    router: Router = (
        FewestWaiting() if row.router == "fewest_waiting" else ROUTERS[row.router](np.random.default_rng(0))
    )
    ledger = Ledger(work.prompt_tokens, work.output_tokens)
    cluster = Cluster([EngineParts(scheduler=scheduler, prices=prices, **sizes)], router, work, ledger)
    if isinstance(router, FewestWaiting):
        router.cluster = cluster
    cluster.run()
    check_laws(cluster)
    return cluster


def work_of(row: Row, trace: str) -> Requests:
    """Return the requests of a row."""
    if row.trace == "replay":
        return replay(trace)
    if row.trace == "alike":
        each = np.ones(row.requests, np.int64)
        return requests(arrivals(row.qps, row.requests).astype(np.float64), 2048 * each, 512 * each)
    if row.trace == "arxiv":
        streams = (np.random.default_rng([SEED, number]) for number in range(2))
        drawn = [of.sample(rng, 28_257) for of, rng in zip(SUMMARIES, streams, strict=True)]
        pairs = pd.DataFrame(np.column_stack(drawn))
    else:
        pairs = pd.read_csv(trace).iloc[:, 1:3]
    return requests(arrivals(row.qps, row.requests).astype(np.float64), *lengths(pairs, row.requests))


def llama_prices(profiles: str) -> StepPrices:
    """Return prices of Llama-2-7B on one chip from a folder of Vidur's profiles."""
    limits = StepLimits(LONGEST + MOST_SEQUENCES, MOST_SEQUENCES, LONGEST)
    return vidur_costs(profiles, load_model("meta-llama/Llama-2-7b-hf"), 1, limits)[0].prices


def cells(row: Row, found: Found) -> Iterator[tuple[str, float, float]]:
    """Yield each figure: its name, Vidur's and ours."""
    names = {"ttft": ("mean", "P50", "P90", "P99"), "e2e": ("P50", "P90", "P99"), "tbt": ("P50", "P90", "P99", "P99.9")}
    for name in ("ttft", "tpot", "e2e", "tbt"):
        wanted = getattr(row, name)
        for quantile, theirs, ours in zip(
            names.get(name, names["ttft"]), wanted or (), getattr(found, name), strict=False
        ):
            if not math.isnan(theirs):
                yield f"{name.upper()} {quantile}", theirs, ours
    yield "tokens/s", row.tokens_per_s, found.tokens_per_s
    yield "batches", row.batches, found.batches


def print_rows(rows: Sequence[Row], serve_row: Callable[[Row], Found], title: str) -> list[tuple[Row, str]]:
    """Print Vidur's figures beside ours, and how far ours are off; return those that are off by more than 2 %."""
    print(f"\n{title}: Vidur's, ours, and the difference in percent; seconds\n")
    print("| | | TTFT mean / P50 / P90 / P99 | TPOT | E2E P50 / P90 / P99 | TBT P50 / P90 / P99 / P99.9 |", end="")
    print(f" tok/s | batches |\n|{'---|' * 8}")
    total, outside = 0, []
    for row in rows:
        found = serve_row(row)
        for label, of in (("Vidur", row), ("ours", found)):
            print(f"| {row.label} | {label} | {_figures(of)} |")
        off = {name: ours / theirs - 1 for name, theirs, ours in cells(row, found)}
        groups = [[value for name, value in off.items() if name.startswith(kind)] for kind in _KINDS]
        print(f"| | % | {' | '.join(' / '.join(f'{100 * value:+.1f}' for value in group) for group in groups)} |")
        total += len(off)
        outside += [(row, name) for name, value in off.items() if abs(value) > TOLERANCE]
    listed = "; ".join(f"{row.label} {name}" for row, name in outside)
    print(f"\n{total - len(outside)} of {total} figures within {TOLERANCE:.0%}; others: {listed or 'none'}")
    return outside


_KINDS = ("TTFT", "TPOT", "E2E", "TBT", "tokens", "batches")


def _figures(of: Row | Found) -> str:
    groups = [getattr(of, kind.lower()) or () for kind in _KINDS[:4]]
    shown = [" / ".join(f"{value:.4g}" for value in group) for group in groups]
    return f"{' | '.join(shown)} | {of.tokens_per_s:.1f} | {of.batches:,}"


def print_chance(outside: Sequence[tuple[Row, str]], profiles: str, trace: str, forests: int) -> None:
    """Print how far figures of Vidur's kind are from its own when its forests are trained anew."""
    rows = [row for row in ROWS if row.trace == "conv"]
    off: dict[tuple[str, str], list[float]] = {}
    for seed in range(forests):
        prices = forest_prices(profiles, seed, LONGEST, MOST_SEQUENCES)
        for row in rows:
            for name, theirs, ours in cells(row, Found.of(serve(row, prices, work_of(row, trace)))):
                off.setdefault((row.label, name), []).append(ours / theirs - 1)
    shares = [np.mean([abs(values[seed]) <= TOLERANCE for values in off.values()]) for seed in range(forests)]
    print(
        f"\nForests trained anew, {forests} times: {min(shares):.1%} to {max(shares):.1%} of these figures are within"
    )
    print(f"{TOLERANCE:.0%} of Vidur's; those named above are off by\n\n| | least % | most % |\n|---|---|---|")
    for row, name in outside:
        values = off[row.label, name]
        print(f"| {row.label} {name} | {100 * min(values):+.1f} | {100 * max(values):+.1f} |")


def main(profiles: str, trace: str, forests: int) -> None:
    """Run every row."""
    prices = llama_prices(profiles)

    def found(row: Row) -> Found:
        return Found.of(serve(row, prices, work_of(row, trace)))

    outside = print_rows([row for row in ROWS if row.trace == "conv"], found, "Llama-2-7B, conversation")
    if forests:
        print_chance(outside, profiles, trace, forests)
    print_rows([ALIKE], found, "Llama-2-7B, 128 requests of 2,048 and 512 tokens")
    print_rows(REPLICAS, found, "Llama-2-7B, four replicas")
    print_rows([row for row in ROWS if row.trace == "arxiv"], found, "Llama-2-7B, summaries, lengths drawn")
