"""A run for Perfetto: steps of every instance, transfers between them and what happened, in Chrome's trace format.

Times are in microseconds. An instance is a process, an attention rank of it a thread (Google, "Trace Event Format").
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from simulator.server import cores_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simulator.finished import Finished
    from simulator.records import TransferLog
    from simulator.server import Server

__all__ = ["trace_events", "trace_json"]

Event = dict[str, Any]


def trace_json(run: Finished) -> str:
    """Return a run as the text of a trace file, an event in each line."""
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in trace_events(run))
    return f'{{"displayTimeUnit":"ms","traceEvents":[\n{lines}\n]}}\n'


def trace_events(run: Finished) -> Iterator[Event]:
    """Yield the events of a run.

    A step that computes prompts is an event, and so is a run of decode steps among unchanged sequences. A transfer is
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


def _steps(number: int, instance: Server) -> Iterator[Event]:
    logs = [core.log for core in cores_of([instance])] or instance.step_logs
    for rank, log in enumerate(logs):
        table = {key: column.tolist() for key, column in log.table().items()}
        for values in zip(*table.values(), strict=True):
            row = dict(zip(table, values, strict=True))
            begun, lasted = row.pop("start_ns") / 1e3, row.pop("duration_ns") / 1e3
            place = {"pid": number, "ts": begun}
            yield {"ph": "X", "name": _kind(row), "tid": rank, "dur": lasted, **place, "args": row}
            if "decodes" in row:
                counted = {"decoding": row["decodes"], "prompts": row["prompts"]}
                yield {"ph": "C", "name": f"sequences {rank}", **place, "args": counted}


def _kind(row: Mapping[str, int]) -> str:
    """Return what a step computes."""
    if "decodes" not in row:
        return "encode"
    return "prompts" if not row["decodes"] else "mixed" if row["tokens"] else "decode"


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
    column = run.cluster.ledger.column
    which = ((column("features_ns") >= 0) & (column("first_token_ns") >= 0)).nonzero()[0].tolist()
    for name, begun, ended, instance in _PARTS:
        starts, ends, places = (column(key).tolist() for key in (begun, ended, instance))
        for index in which:
            whole = {"cat": "request", "name": name, "id": index, "pid": places[index], "tid": _REQUESTS}
            yield {"ph": "b", **whole, "ts": starts[index] / 1e3}
            yield {"ph": "e", **whole, "ts": ends[index] / 1e3}
