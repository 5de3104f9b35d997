"""The ``servesim conform`` command; imports of weight wait until it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from simulator.conform import Conformance

__all__ = ["conform"]

_DIVERGED = 1
_MOST_LINES = 20


@click.command()
@click.argument("scenario")
@click.option("--steps", type=click.IntRange(min=1), help="Stop after so many steps of all instances.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key, as in pool.0.replicas=4; repeatable.",
)
@click.option("--candidate", metavar="NAME", help="Which [[candidate]] of the file; --set changes it.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random stream.")
def conform(
    scenario: str, steps: int | None, changes: tuple[str, ...], *, candidate: str | None, seed: int | None
) -> None:
    """Compare our vLLM with the installed one on a SCENARIO, step by step.

    Runs its workload through both schedulers at the same prices: which requests compute how many tokens, which are
    preempted, and how many tokens of each admitted one are found in the cache. Exit code 1 at the first difference.
    Needs the extra `vllm`.
    """
    from simulator.candidates import load_picked  # noqa: PLC0415 - --help stays light
    from simulator.conform import conform as compare  # noqa: PLC0415 - --help stays light

    found = compare(load_picked(scenario, candidate, changes, seed), steps)
    for line in _lines(found):
        click.echo(line)
    if not found.agrees:
        sys.exit(_DIVERGED)


def _lines(found: Conformance) -> list[str]:
    """Return what is printed of a comparison."""
    ours, theirs = found.ours, found.theirs
    if found.agrees:
        counts = f"{ours.preemptions:,} preemptions, {ours.cached_tokens:,} cached tokens"
        return [
            f"{ours.log.steps:,} steps of {ours.requests:,} requests agree with vllm {found.version}: {counts}",
            f"CPU time: ours {ours.cpu_s:.1f} s, vLLM {theirs.cpu_s:.1f} s",
        ]
    if not found.firsts:
        return [f"every step agrees with vllm {found.version}, but results do not: {', '.join(found.results)}"]
    lines = [f"{found.differing:,} of {ours.log.steps:,} steps differ from vllm {found.version}"]
    for first in found.firsts:
        lines.append(f"instance {first.instance}, step {first.step}:")
        said = first.lines()
        lines += [f"  {line}" for line in said[:_MOST_LINES]]
        if len(said) > _MOST_LINES:
            lines.append(f"  and {len(said) - _MOST_LINES} more")
    return lines
