"""Conversations: every turn's prompt is all that was said before, and something new."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field

from hardware.strict import Strict
from workloads.durations import DurationDistribution
from workloads.lengths import LengthDistribution
from workloads.limits import NS_PER_S
from workloads.streams import stream
from workloads.table import Arrivals, Prefixes

if TYPE_CHECKING:
    from workloads.media import Media
    from workloads.table import IntColumn

__all__ = ["Sessions", "one_prefix", "sizes_of", "turns_of"]


def _as_distribution(value: object) -> object:
    """Take a whole number for a fixed one."""
    return {"kind": "fixed", "value": value} if isinstance(value, int) and not isinstance(value, bool) else value


_Turns: TypeAlias = Annotated[LengthDistribution, BeforeValidator(_as_distribution)]

#: Name of the prefix that all prompts share; later names are those of what users say.
_SHARED = 0


class Sessions(Strict):
    """The ``sessions`` table of a synthetic workload.

    Attributes
    ----------
    turns
        Requests of a conversation: a number, or a distribution.
    think_time_s
        From the arrival of one turn to that of the next; with ``wait_for_answer``, from the end of an answer to the
        arrival of the turn that goes on from it.
    wait_for_answer
        A turn is sent once the answer before it is there. Else arrivals are an open loop, and the time of an answer
        belongs into the think time.
    """

    turns: _Turns
    think_time_s: DurationDistribution
    wait_for_answer: Annotated[bool, Field(strict=True)] = False


def one_prefix(prompt_tokens: IntColumn, shared_tokens: int) -> Prefixes | None:
    """Return the prefixes of prompts that all begin with the same ``shared_tokens`` tokens; None without any."""
    if not shared_tokens:
        return None
    size = prompt_tokens.size
    return Prefixes(np.arange(size + 1), np.full(size, _SHARED), np.full(size, shared_tokens))


def sizes_of(sessions: Sessions, requests: int, seed: int) -> IntColumn:
    """Return the turns of each conversation, int64; all together ``requests``, for which the last is cut."""
    turns = sessions.turns.sample(stream(seed, "turns"), requests)
    ends = np.minimum(np.cumsum(turns), requests)
    count = int(np.searchsorted(ends, requests)) + 1
    return np.diff(ends[:count], prepend=0)


def turns_of(  # noqa: PLR0913 - the columns of a workload, all named
    sessions: Sessions,
    *,
    first_ns: IntColumn,
    turns: IntColumn,
    said_tokens: IntColumn,
    output_tokens: IntColumn,
    shared_tokens: int,
    source: str,
    seed: int,
    media: Media | None = None,
) -> Arrivals:
    """Return the turns of conversations in order of arrival.

    Parameters
    ----------
    sessions
        Think times.
    first_ns, turns
        int64[conversations], arrival of each one's first turn, never decreasing, and its turns.
    said_tokens, output_tokens
        int64[sum of turns], what is new in each prompt, and each answer; conversation by conversation.
    shared_tokens
        Prefix of all prompts.
    source, seed
        For reports; of the think times.
    media
        What each turn brings, before what it says; conversation by conversation. Later turns carry it again.
    """
    size = said_tokens.size
    number = np.repeat(np.arange(turns.size), turns)
    starts = np.cumsum(turns) - turns
    think_s = sessions.think_time_s.sample_s(stream(seed, "think_time_s"), size)
    think_ns = np.rint(think_s * NS_PER_S).astype(np.int64)
    think_ns[starts] = 0
    sent_ns = first_ns[number] + _since_start(think_ns, starts, turns)
    order = np.argsort(sent_ns, kind="stable")
    grown = _since_start(said_tokens + output_tokens, starts, turns) - output_tokens
    row = np.empty(size, np.int64)
    row[order] = np.arange(size)
    spans = _said_before(
        row=row,
        starts=starts,
        turns=turns,
        prompt_tokens=shared_tokens + grown,
        output_tokens=output_tokens,
        shared_tokens=shared_tokens,
    )
    carried = None if media is None else _carried(media, starts, turns, grown - said_tokens, order)
    return Arrivals(
        arrival_ns=sent_ns[order],
        prompt_tokens=(shared_tokens + grown)[order] + (0 if carried is None else carried.tokens_of_requests()),
        media=carried,
        output_tokens=output_tokens[order],
        session=number[order],
        prefixes=_in_order(spans, order),
        later=_next_turns(row, starts, turns)[order] if sessions.wait_for_answer else None,
        think_ns=think_ns[order] if sessions.wait_for_answer else None,
        source=source,
    )


def _carried(media: Media, starts: IntColumn, turns: IntColumn, before: IntColumn, order: IntColumn) -> Media:
    """Return what each turn carries in order of arrival: what it brings, and all that turns before it brought."""
    first = np.repeat(media.offsets[starts], turns)[order]
    sizes = media.offsets[1:][order] - first
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    items = np.repeat(first - offsets[:-1], sizes) + np.arange(offsets[-1])
    return media.gathered(offsets, items, np.repeat(before, media.counts)[items])


def _next_turns(row: IntColumn, starts: IntColumn, turns: IntColumn) -> IntColumn:
    """Return the row of the turn after each one, -1 after the last, conversation by conversation."""
    later = np.append(row[1:], -1)
    later[starts + turns - 1] = -1
    return later


def _since_start(values: IntColumn, starts: IntColumn, turns: IntColumn) -> IntColumn:
    """Return sums within each conversation up to each turn, that turn included."""
    total = np.cumsum(values)
    return total - np.repeat(total[starts] - values[starts], turns)


def _said_before(  # noqa: PLR0913 - columns, all named
    *,
    row: IntColumn,
    starts: IntColumn,
    turns: IntColumn,
    prompt_tokens: IntColumn,
    output_tokens: IntColumn,
    shared_tokens: int,
) -> list[tuple[array[int], array[int]]]:
    """Return the names and ends of every turn's spans, conversation by conversation.

    What a user says is named after the request that says it first, and so is the answer.
    """
    found: list[tuple[array[int], array[int]]] = []
    prompts, outputs, rows = prompt_tokens.tolist(), output_tokens.tolist(), row.tolist()
    for start, count in zip(starts.tolist(), turns.tolist(), strict=True):
        names, ends = array("q"), array("q")
        if shared_tokens:
            names.append(_SHARED)
            ends.append(shared_tokens)
        for turn in range(start, start + count):
            last = turn == start + count - 1
            if not last:
                names.append(1 + rows[turn])
                ends.append(prompts[turn])
            # An array is copied, so that the next turn's spans are not this one's.
            found.append((names[:], ends[:]))
            if not last:
                names.append(-1 - rows[turn])
                ends.append(prompts[turn] + outputs[turn])
    return found


def _in_order(spans: list[tuple[array[int], array[int]]], order: IntColumn) -> Prefixes:
    """Return spans as ragged columns, in another order of the requests."""
    names, ends, offsets = array("q"), array("q"), array("q", [0])
    for place in order.tolist():
        names.extend(spans[place][0])
        ends.extend(spans[place][1])
        offsets.append(len(names))
    return Prefixes(*(np.array(column, dtype=np.int64) for column in (offsets, names, ends)))
