"""What ``servesim perf price`` prints of images, videos and sounds: one run of the encoder, operator by operator."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.text import Text

from hardware.errors import ScenarioError
from perfdb.encoder_operators import encoder_operators
from perfdb.encoder_prices import EncoderWork, compile_encoder
from perfdb.interpolate import blend
from perfdb.media_tokens import seen
from perfdb.speed_of_light import encoder_bound
from simulator.build import build_pools
from simulator.built_pool import cost_chain
from simulator.perf_price import Line, light_ns, line_of, lines_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perfdb.encoder import EncoderSpec
    from perfdb.encoder_operators import EncoderAttention, EncoderOperators
    from perfdb.sources import SourceChain
    from simulator.built_pool import AnyPool
    from simulator.scenario import Scenario

__all__ = ["Encoded", "MediaAsked", "encoded_report", "encoded_runs", "parse_media"]


@dataclass(frozen=True, slots=True)
class MediaAsked:
    """One image, video or sound, in the words of :func:`perfdb.media_tokens.seen`."""

    kind: str
    width: int = 0
    height: int = 0
    frames: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """One run of a pool's encoder: its operators, and what it costs, ns.

    Attributes
    ----------
    lines
        Operators; ``between_sizes`` is what interpolating between sizes adds or takes off.
    """

    pool: AnyPool
    work: EncoderWork
    feature_bytes: int
    lines: tuple[Line, ...]
    total_ns: int


def parse_media(images: Sequence[str], videos: Sequence[str], sounds: Sequence[str]) -> tuple[MediaAsked, ...]:
    """Read what a command line asks for: ``1280x720``, ``640x360x32`` (frames), seconds.

    Raises
    ------
    ScenarioError
        If a value is not of its form.
    """
    return (
        *(MediaAsked("image", *_sizes(text, 2, "--image", "WIDTHxHEIGHT, as in 1280x720")) for text in images),
        *(MediaAsked("video", *_sizes(text, 3, "--video", "WIDTHxHEIGHTxFRAMES, as in 640x360x32")) for text in videos),
        *(MediaAsked("audio", seconds=_seconds(text)) for text in sounds),
    )


def _sizes(text: str, count: int, option: str, expected: str) -> tuple[int, ...]:
    if re.fullmatch("x".join([r"[1-9]\d*"] * count), text) is None:
        raise ScenarioError(f"{option} {text}: expected {expected}")
    return tuple(int(number) for number in text.split("x"))


def _seconds(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text) is None:
        raise ScenarioError(f"--audio {text}: expected seconds, as in 12.5")
    return float(text)


def encoded_runs(scenario: Scenario, media: Sequence[MediaAsked]) -> Iterator[Encoded]:
    """Yield one run over all the media in each pool that computes prompts.

    Raises
    ------
    ScenarioError
        If the model has no encoder for one of them.
    """
    for table, pool in zip(scenario.pool, build_pools(scenario), strict=True):
        if not (table.encodes_alone or (table.prefills and not scenario.encode_pools)):
            continue
        spec = pool.model.encoder
        if spec is None:
            raise ScenarioError(f"model.name: {pool.model.name} has no encoder; expected a multimodal model")
        yield _run(pool, spec, media, cost_chain(table, pool.name, pool.chip))


def _run(pool: AnyPool, spec: EncoderSpec, media: Sequence[MediaAsked], chain: SourceChain) -> Encoded:
    """Return one run, cut over the chips as the language model is, unless that does not divide the encoder."""
    tensor = pool.layout.tensor if spec.indivisible(pool.layout.tensor) is None else 1
    operators = encoder_operators(spec, tensor)
    items = [
        seen(spec, one.kind, width=one.width, height=one.height, frames=one.frames, seconds=one.seconds)
        for one in media
    ]
    work = EncoderWork.of(items)
    total = compile_encoder(operators, chain).batch_ns(items)
    lines = list(_lines(pool, operators, work, chain))
    lines.append(Line("between_sizes", 1, total - sum(line.ns for line in lines), math.nan, ""))
    return Encoded(pool, work, spec.feature_bytes(work.tokens), tuple(lines), total)


def _lines(pool: AnyPool, operators: EncoderOperators, work: EncoderWork, chain: SourceChain) -> Iterator[Line]:
    for kind, rows in ((operators.per_patch, work.patches), (operators.per_token, work.tokens)):
        for operator in kind:
            found = chain.rows(operator, np.array([rows]))
            yield line_of(operator.name, operator.count, found, light_ns(pool.chip, operator, rows))
    if operators.full:
        yield _attention(pool, operators.full, work.patches, work.pairs, chain)
    if operators.windowed:
        yield _attention(pool, operators.windowed, work.patches, work.window_pairs, chain)


def _attention(pool: AnyPool, kernel: EncoderAttention, patches: int, pairs: int, chain: SourceChain) -> Line:
    """Return attention over as many equal sequences as have so many patches and pairs in all, between whole numbers."""
    sequences = patches**2 / pairs
    fewer, length = math.floor(sequences), np.array([round(pairs / patches)])
    low, high = (chain.attention(kernel, np.array([count]), length) for count in (fewer, fewer + 1))
    light = encoder_bound(pool.chip, kernel, np.array([patches]), np.array([float(pairs)])).ns
    found = blend(low, high, np.array([sequences - fewer]))
    return line_of(kernel.name, kernel.count, found, float(light[0]))


def encoded_report(run: Encoded) -> Group:
    """Return the lines of a run, the most expensive first."""
    pool, work = run.pool, run.work
    table = lines_table(
        f"{pool.name}: encoder of {pool.model.name} on {pool.layout.chips} x {pool.chip.name}",
        run.lines,
        run.total_ns,
        "the run",
    )
    told = f"One run over {work.items:,} of {work.patches:,} patches, which become {work.tokens:,} tokens"
    return Group(table, Text(f"{told} ({run.feature_bytes / 1e6:,.1f} MB of features)."))
