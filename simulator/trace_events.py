"""A run for Perfetto: steps of every instance, transfers between them and what happened, in Chrome's trace format.

Times are in microseconds. An instance is a process, a rank or a micro-batch of it a thread (Google, "Trace Event
Format").
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulator.server import cores_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from simulator.finished import Finished
    from simulator.records import EncodeLog, StepLog, TransferLog
    from simulator.server import Server

__all__ = ["SMALL_TRACE", "trace_events", "trace_json", "trace_size"]

SMALL_TRACE: Final = 60_000
"""Events a run may have whose trace is written unasked: at most 8 MB and a tenth of the CPU time of the command."""

Event = dict[str, Any]


def trace_json(run: Finished) -> str:
    """Return a run as the text of a trace file, an event in each line."""
    lines = ",\n".join(map(json.JSONEncoder(separators=(",", ":")).encode, trace_events(run)))
    return f'{{"displayTimeUnit":"ms","traceEvents":[\n{lines}\n]}}\n'


def trace_events(run: Finished) -> Iterator[Event]:
    """Yield the events of a run.

    A step that computes prompts is an event, and so is a run of decode steps among unchanged sequences, each with those
    of its numbers that are not 0; another is how many sequences run, where it changes. A transfer is
    an event of the instance it comes from, with an arrow to where it arrives. A request whose images are encoded apart
    has a row with what it waits for up to its first token, on the instance where it does so.
    """
    for number, (instance, pool) in enumerate(zip(run.cluster.instances, run.instance_pools(), strict=True)):
        name = f"{run.pools[int(pool)].name} {number}"
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
        yield from _steps(number, instance)
    if run.cluster.carrier is not None:
        moved = itertools.count()
        yield from _transfers("KV", run.cluster.carrier.log, moved)
        yield from _transfers("features", run.cluster.carrier.feature_log, moved)
    yield from _stages(run)
    for time_ns, text in run.incidents:
        yield {"ph": "i", "s": "g", "name": text, "pid": 0, "tid": 0, "ts": time_ns / 1e3}


def trace_size(run: Finished) -> int:
    """Return how many events :func:`trace_events` yields of a run, without making them."""
    tables = [log.table() for instance in run.cluster.instances for log in _step_logs(instance)]
    steps = sum(len(table["start_ns"]) + np.count_nonzero(_counts_change(table)) for table in tables)
    carrier = run.cluster.carrier
    moved = 0 if carrier is None else sum(len(log.table()["start_ns"]) for log in (carrier.log, carrier.feature_log))
    waits = len(_PARTS) * len(_with_images(run))
    return len(run.cluster.instances) + int(steps) + 4 * moved + 2 * waits + len(run.incidents)


def _step_logs(instance: Server) -> Sequence[StepLog] | Sequence[EncodeLog]:
    return [core.log for core in cores_of([instance])] or instance.step_logs


def _counts_change(table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return at which rows of a step log other numbers of sequences run than before; at none, of an encoder."""
    changes = np.zeros(len(table["steps"]), dtype=np.bool_)
    for key in ("decodes", "prompts"):
        if key in table:
            changes |= np.diff(table[key], prepend=-1) != 0
    return changes


def _steps(number: int, instance: Server) -> Iterator[Event]:
    for rank, log in enumerate(_step_logs(instance)):
        table = log.table()
        changes = _counts_change(table).tolist()
        columns = {key: column.tolist() for key, column in table.items()}
        starts, durations, encodes = columns.pop("start_ns"), columns.pop("duration_ns"), "decodes" not in columns
        for change, start, duration, *values in zip(changes, starts, durations, *columns.values(), strict=True):
            row = {key: value for key, value in zip(columns, values, strict=True) if value}
            place = {"pid": number, "ts": start / 1e3}
            name = "encode" if encodes else _kind(row)
            yield {"ph": "X", "name": name, "tid": rank, "dur": duration / 1e3, **place, "args": row}
            if change:
                counted = {"decoding": row.get("decodes", 0), "prompts": row.get("prompts", 0)}
                yield {"ph": "C", "name": f"sequences {rank}", **place, "args": counted}


def _kind(row: Mapping[str, int]) -> str:
    """Return what a step with these numbers other than 0 computes."""
    return "prompts" if "decodes" not in row else "mixed" if "tokens" in row else "decode"


#: Rows of their own below the steps.
_TRANSFERS, _REQUESTS = 1000, 2000


def _transfers(name: str, log: TransferLog, numbers: Iterator[int]) -> Iterator[Event]:
    table = {key: column.tolist() for key, column in log.table().items()}
    rows = zip(*(table[key] for key in ("start_ns", "duration_ns", "source", "target", "size_bytes")), strict=True)
    for start, duration, source, target, size in rows:
        number = next(numbers)
        begun, ended = start / 1e3, (start + duration) / 1e3
        told = {"to": target, "bytes": size}
        # Transfers overlap, and events of a thread do not: b and e make a row of each.
        whole = {"cat": name.lower(), "name": name, "id": number, "pid": source, "tid": _TRANSFERS}
        yield {"ph": "b", **whole, "ts": begun, "args": told}
        yield {"ph": "e", **whole, "ts": ended}
        arrow = {"cat": name.lower(), "name": name, "id": number}
        yield {"ph": "s", **arrow, "pid": source, "tid": 0, "ts": begun}
        yield {"ph": "f", "bp": "e", **arrow, "pid": target, "tid": 0, "ts": ended}


#: What a request with images does between two times of the ledger, and on which instance.
_PARTS = (
    ("waits for an encoder", "arrival_ns", "encode_ns", "encode_instance"),
    ("images encoded", "encode_ns", "encoded_ns", "encode_instance"),
    ("features come", "encoded_ns", "features_ns", "instance"),
    ("waits for its prompt", "features_ns", "admitted_ns", "instance"),
    ("prompt", "admitted_ns", "first_token_ns", "instance"),
)


def _stages(run: Finished) -> Iterator[Event]:
    column, which = run.cluster.ledger.column, _with_images(run)
    for name, begun, ended, instance in _PARTS:
        starts, ends, places = (column(key).tolist() for key in (begun, ended, instance))
        for index in which:
            whole = {"cat": "request", "name": name, "id": index, "pid": places[index], "tid": _REQUESTS}
            yield {"ph": "b", **whole, "ts": starts[index] / 1e3}
            yield {"ph": "e", **whole, "ts": ends[index] / 1e3}


def _with_images(run: Finished) -> list[int]:
    """Return the requests whose images were encoded apart, and which had their first token."""
    column = run.cluster.ledger.column
    return ((column("features_ns") >= 0) & (column("first_token_ns") >= 0)).nonzero()[0].tolist()
