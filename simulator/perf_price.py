"""What ``servesim perf price`` prints: one step of each pool, operator by operator."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.text import Text

from hardware.errors import ScenarioError
from perfdb.collectives import between_nodes_ns, group_of
from perfdb.compile import CompiledCosts
from perfdb.estimate import Origin
from perfdb.expert_operators import ExpertExchange
from perfdb.operators import AllReduce, Collective, Elementwise, PointToPoint, RowOperator, as_collective
from perfdb.speed_of_light import attention_bound, collective_light, row_bound
from perfdb.step_prices import equal_prompt
from simulator.build import build_pools
from simulator.built_pool import BuiltPool, cost_chain
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from hardware.catalogue import Chip
    from perfdb.estimate import Estimate
    from perfdb.operators import Kernel
    from perfdb.sources import SourceChain
    from perfdb.step_prices import StepPrices
    from simulator.scenario import Scenario

__all__ = [
    "Chunk",
    "Line",
    "PricedStep",
    "StepAsked",
    "light_ns",
    "line_of",
    "lines_table",
    "parse_step",
    "price_report",
    "priced_pools",
]


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of a prompt, after ``past`` cached ones; the last of their prompt."""

    new: int
    past: int = 0

    @property
    def pairs(self) -> int:
        """Twice the pairs of new and visible tokens."""
        return (self.past + self.new) ** 2 - self.past**2


@dataclass(frozen=True, slots=True)
class StepAsked:
    """One step: chunks of prompts, and ``decodes`` sequences with ``context`` cached tokens each."""

    chunks: tuple[Chunk, ...] = ()
    decodes: int = 0
    context: int = 0

    @property
    def tokens(self) -> int:
        """New tokens."""
        return sum(chunk.new for chunk in self.chunks) + self.decodes

    @property
    def reach(self) -> int:
        """Tokens that the chunks look at: cached ones, and their own."""
        return sum(chunk.past + chunk.new for chunk in self.chunks)

    @property
    def sequences(self) -> int:
        """Sequences, each of which samples a token."""
        return len(self.chunks) + self.decodes


@dataclass(frozen=True, slots=True)
class Line:
    """One operator: times it runs, time of one run and its speed of light, ns, and where the time comes from."""

    name: str
    count: int
    each_ns: float
    light_ns: float
    origin: str

    @property
    def ns(self) -> float:
        """Time of all runs."""
        return self.count * self.each_ns


@dataclass(frozen=True, slots=True)
class PricedStep:
    """One step of a pool: its operators, and what the engine pays for it, ns.

    Attributes
    ----------
    lines
        Operators and the host; ``between_lengths`` is what interpolating attention between lengths adds or takes off
        (``in_two_halves``, where the layers are passed so, what that does),
        and ``wait_for_launches`` for how long the kernels wait for an eager host.
    """

    pool: BuiltPool
    step: StepAsked
    lines: tuple[Line, ...]
    total_ns: int


def parse_step(prefill: Sequence[str], decode: str | None) -> StepAsked:
    """Read what a command line asks for.

    Raises
    ------
    ScenarioError
        If a value is not of its form, or nothing is asked for.
    """
    chunks = [Chunk(*_numbers(text, r"(\d+)(?:@(\d+))?", "--prefill", "TOKENS or TOKENS@PAST")) for text in prefill]
    sequences, context = (0, 0) if decode is None else _numbers(decode, r"(\d+)x(\d+)", "--decode", "SEQSxCONTEXT")
    if not chunks and not sequences:
        raise ScenarioError("perf price: found neither --prefill nor --decode; expected one, as in --decode 64x4096")
    return StepAsked(tuple(chunks), sequences, context)


def _numbers(text: str, form: str, option: str, expected: str) -> list[int]:
    found = re.fullmatch(form, text)
    if found is None or not int(found[1]):
        raise ScenarioError(f"{option} {text}: expected {expected}, whole numbers, the first at least 1")
    return [int(number) for number in found.groups() if number is not None]


def priced_pools(scenario: Scenario, step: StepAsked) -> Iterator[PricedStep]:
    """Yield the step as each pool runs it; a pool whose stages have no part in it is left out.

    Raises
    ------
    ScenarioError
        If the step is larger than a pool's engine allows, or no pool has a part in it.
    """
    any_part = False
    for table, pool in zip(scenario.pool, build_pools(scenario), strict=True):
        part = StepAsked(
            step.chunks if table.prefills else (),
            step.decodes if table.decodes else 0,
            step.context if table.decodes else 0,
        )
        if part.sequences and isinstance(pool, BuiltPool):
            any_part = True
            _check(pool, part)
            yield _priced(pool, part, cost_chain(table, pool.name, pool.chip))
    if not any_part:
        raise ScenarioError("perf price: no pool serves any of this; expected --prefill or --decode as its stages")


def _check(pool: BuiltPool, step: StepAsked) -> None:
    prices = pool.costs.prices
    longest = max(
        (step.context + 1) * bool(step.decodes), *(chunk.past + chunk.new for chunk in (*step.chunks, Chunk(0)))
    )
    found = (
        ("tokens", step.tokens, prices.max_tokens),
        ("sequences", step.sequences, len(prices.host_ns) - 1),
        ("tokens in one sequence", longest, pool.parts.max_tokens),
    )
    for what, asked, most in found:
        if asked > most:
            raise ScenarioError(f"pool.{pool.name}: the step has {asked:,} {what}, expected at most {most:,}")


def _priced(pool: BuiltPool, step: StepAsked, chain: SourceChain) -> PricedStep:
    costs = pool.costs
    prices = costs.passes if isinstance(costs, CompiledCosts) else costs.prices
    sums = {
        "tokens": step.tokens,
        "samples": step.sequences,
        "decodes": step.decodes,
        "context": step.context,
        "prompts": len(step.chunks),
        "pairs": sum(chunk.pairs for chunk in step.chunks),
        "reach": step.reach,
    }
    total = prices.mixed_ns(**sums, squares=sum(chunk.new**2 for chunk in step.chunks))
    if not isinstance(costs, CompiledCosts):
        return PricedStep(pool, step, (Line("whole step, by its profile", 1, total, math.nan, "interpolated"),), total)
    host, kernels = prices.host_ns[step.sequences], prices.kernels_ns(**sums)
    lines = [*_lines(pool, step, chain), *_tiles(prices, step), Line("host", 1, host, math.nan, "host")]
    rest = "in_two_halves" if pool.options.two_batches else "between_lengths"
    lines.append(Line(rest, 1, kernels + host - sum(line.ns for line in lines), math.nan, ""))
    if total > kernels + host:
        lines.append(Line("wait_for_launches", 1, total - kernels - host, math.nan, "host"))
    return PricedStep(pool, step, tuple(lines), total)


def _tiles(prices: StepPrices, step: StepAsked) -> Iterator[Line]:
    """Yield what it costs sequences that decode to share the kernel of the prompts (:mod:`perfdb.prompt_tiles`)."""
    if prices.tiles is None or not (step.chunks and step.decodes):
        return
    at = step.context, step.context + 1
    more = step.decodes * prices.tiles.between(*at) - prices.generation_curve(step.decodes).between(*at)
    if more > 0:
        yield Line("decoding_in_prompt_tiles", 1, more, math.nan, "roofline")


def _lines(pool: BuiltPool, step: StepAsked, chain: SourceChain) -> Iterator[Line]:
    operators = pool.operators
    for kind, rows in ((operators.per_token, step.tokens), (operators.per_sample, step.sequences)):
        for operator in kind:
            at = np.array([rows])
            yield line_of(operator.name, operator.count, chain.rows(operator, at), light_ns(pool.chip, operator, rows))
    if step.chunks:
        yield from _over_prompts(pool, step, chain)
    for kernel in operators.generation if step.decodes else ():
        yield _attention(pool.chip, kernel, chain, step.decodes, step.context)


def _over_prompts(pool: BuiltPool, step: StepAsked, chain: SourceChain) -> list[Line]:
    """Return attention over the chunks: as of equal prompts, or of one sequence that reads all they look at if longer.

    :meth:`perfdb.step_prices.StepPrices.mixed_ns` says why.
    """
    operators, chunks = pool.operators, step.chunks
    found = [
        _attention(pool.chip, kernel, chain, len(chunks), _equal_length(chunks, kernel.window))
        for kernel in operators.context
    ]
    if not any(chunk.past for chunk in chunks):
        return found
    reading = [
        replace(line, name=f"{line.name} of prompts")
        for kernel in operators.generation
        for line in [_attention(pool.chip, kernel, chain, 1, step.reach)]
    ]
    return max(found, reading, key=lambda lines: sum(line.ns for line in lines))


def _equal_length(chunks: Sequence[Chunk], window: int) -> int:
    """Return the length of as many equal prompts as the chunks are priced as."""
    pairs, new = (sum(sizes) / len(chunks) for sizes in zip(*((c.pairs, c.new) for c in chunks), strict=True))
    if not window:
        return round(math.sqrt(pairs))
    return round(equal_prompt(new, max(pairs - new * new, 0.0) / (2 * new), window))


def _attention(chip: Chip, kernel: Kernel, chain: SourceChain, sequences: int, tokens: int) -> Line:
    at = np.array([sequences]), np.array([tokens])
    light = attention_bound(chip, kernel, *at).ns
    return line_of(kernel.name, kernel.count, chain.attention(kernel, *at), float(light[0]))


def line_of(name: str, count: int, found: Estimate, light: float) -> Line:
    """Return the line of an operator from its price at one point; ``light`` is its speed of light, ns."""
    return Line(name, count, float(found.ns[0]), light, Origin(int(found.origin[0])).name.lower())


def light_ns(chip: Chip, operator: RowOperator, rows: int) -> float:
    """Return the speed of light of one run over ``rows`` rows, ns."""
    if isinstance(operator, ExpertExchange):
        operator = as_collective(operator)
    if isinstance(operator, AllReduce | Collective):
        inside = group_of(chip, operator.chips).inside
        message = np.array([rows * operator.width * operator.element_bytes])
        within = collective_light(chip, operator.kind, inside, message)[0]
        return float(within + between_nodes_ns(chip, operator, np.array([float(rows)]))[0])
    if isinstance(operator, Elementwise | PointToPoint):
        rate = chip.memory_bytes_per_s if isinstance(operator, Elementwise) else chip.link_bytes_per_s
        return 1e9 * rows * operator.bytes_per_row / rate
    bound = row_bound(chip, operator, np.array([rows]))
    return math.nan if bound is None else float(bound.ns[0])


def price_report(priced: PricedStep) -> Group:
    """Return the lines of a step, the most expensive first."""
    pool, step = priced.pool, priced.step
    title = f"{pool.name}: {pool.model.name} on {pool.layout.chips} x {pool.chip.name}"
    table = lines_table(title, priced.lines, priced.total_ns, "the step")
    past = [f"{chunk.new:,} tokens after {chunk.past:,}" for chunk in step.chunks]
    decode = [f"{step.decodes:,} x {step.context:,} decoded"] * bool(step.decodes)
    ranks = f", on each of {pool.layout.data} attention ranks" if pool.layout.data > 1 else ""
    return Group(table, Text(f"One pass over {', '.join([*past, *decode])}{ranks}."))


def lines_table(title: str, lines: Sequence[Line], total_ns: int, whole: str) -> Table:
    """Return operators as a table, the most expensive first, with what they add up to at the end."""
    columns = ("operator", "times", "us each", "ms in all", "share", "light", "origin")
    table = plain_table(title, *columns)
    table.columns[0].no_wrap = table.columns[-1].no_wrap = True
    for line in sorted(lines, key=lambda line: -line.ns):
        light = "" if math.isnan(line.light_ns) or not line.each_ns else f"{line.light_ns / line.each_ns:.0%}"
        times = f"{line.each_ns / 1e3:,.1f}", f"{line.ns / 1e6:,.3f}"
        table.add_row(Text(line.name), f"{line.count}", *times, f"{line.ns / total_ns:.1%}", light, line.origin)
    table.add_section()
    table.add_row(whole, "", "", f"{total_ns / 1e6:,.3f}", "", "", "")
    return table
