"""Compare the SGLang policy with SGLang's own scheduler, decision by decision, over random workloads.

``python -m benchmarks.conformance_sglang --python PYTHON [--cases N] [--polling | --decode] [--write FILE]``;
``PYTHON`` is an interpreter that can import ``sglang`` 0.5.23 (no GPU, no model: see :mod:`benchmarks.sglang_peer`).
Compared is, for every step: what it computes, of whom and in which order, who waits in which order, the pages that are
blank, those that could be evicted, and the ratio by which answers are reserved.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sglang_ours import Case, Row, decisions
from benchmarks.sglang_stage_ours import decode_decisions

POLICIES = ("fcfs", "lpm", "lof", "random", "dfs-weight", "hrrn", "shortest-prefill-first")
_CLOSE = 1e-9


def random_case(seed: int, *, small: bool = False, polling: bool = False) -> Case:
    """Return a workload and an engine, or one of few steps, or one that looks for requests only now and then.

    Requests are rows of ``index, at`` (the step before which it comes), ``spans`` of what its prompt is part of,
    ``output`` and ``declared`` tokens, and ``priority``.
    """
    rng = np.random.default_rng(seed)
    page = int(rng.choice([1, 1, 4, 16]))
    caching = bool(rng.random() < 0.8)
    starved = bool(rng.random() < 0.3)
    rules = _rules(rng, page, caching=caching)
    if polling:
        rules["recv_interval"] = int(np.random.default_rng([seed, 1]).choice([2, 3, 10, 30]))
    size, longest = (int(rng.integers(4, 14)), 40) if small else (int(rng.integers(2, 50)), int(rng.choice([40, 150])))
    requests = _requests(rng, size, longest, most=16 if small else 60)
    room, running = [0, 2, 5, 10, 30] if small else [0, 3, 20, 60, 400], [1, 3, 8, 40]
    if starved:
        # Many answers that are longer than anybody thought, beside each other.
        rules |= {"conservativeness": 0.05, "ignore_eos": False}
        answers = rng.integers(10, 60 if small else 120, size)
        requests = [
            row | {"at": min(row["at"], 10), "output": int(answer), "declared": int(answer * rng.integers(1, 8))}
            for row, answer in zip(_requests(rng, size, 12, most=2), answers, strict=True)
        ]
        room, running = [0, 2, 8, 30], [40]
    if rules["ignore_eos"]:
        requests = [row | {"declared": row["output"]} for row in requests]
    most = max(row["spans"][-1][1] + row["output"] for row in requests)
    return {
        "rules": rules,
        "page": page,
        "pages": -(-most // page) + 4 + int(rng.choice(room)),
        "running": int(rng.choice(running)),
        "context": 4000,
        "caching": caching,
        "requests": requests,
    }


def decode_case(seed: int, *, small: bool = False) -> Case:
    """Return a workload of an instance that only decodes: see :func:`random_case`.

    Besides: tokens ``reserved`` for each, ``extra_rows``, and ``passes`` from the pages of a request to its KV.
    """
    rng = np.random.default_rng([seed, 2])
    case = random_case(seed, small=small)
    requests = [row | {"output": row["output"] + 1, "declared": row["declared"] + 1} for row in case["requests"]]
    reserved = int(rng.choice([1, 4, 16, 64]))
    most = reserved + max(row["spans"][-1][1] + row["output"] for row in requests)
    return case | {
        "requests": requests,
        "reserved": reserved,
        "extra_rows": int(rng.choice([0, 2, 40])),
        "passes": int(rng.choice([1, 2, 7])),
        "caching": False,
        "pages": -(-most // case["page"]) + 8 + int(rng.choice([0, 2, 10, 40])),
        "rules": case["rules"] | {"policy": "fcfs", "preempts": False},
    }


def _rules(rng: np.random.Generator, page: int, *, caching: bool) -> dict[str, Any]:
    ranked = bool(rng.random() < 0.25)
    policy = str(rng.choice(POLICIES)) if rng.random() < 0.6 else "fcfs"
    return {
        "policy": policy if caching or policy in {"fcfs", "lof", "random"} else "fcfs",
        "conservativeness": float(rng.choice([0.05, 0.3, 1.0, 1.4])),
        "chunk": int(rng.choice([0, page * 4, 64, 256])),
        "max_prefill_tokens": int(rng.choice([60, 300, 16384])),
        "max_prompts": int(rng.choice([0, 0, 0, 2])),
        "mixed": bool(rng.random() < 0.3),
        "overlap": bool(rng.random() < 0.6),
        "interval": int(rng.choice([0, 0, 0, 1, 4])),
        "interval_batch": int(rng.choice([0, 3])),
        "ranked": ranked,
        "preempts": ranked and bool(rng.random() < 0.6),
        "threshold": int(rng.choice([0, 1])),
        "retracts_by_priority": ranked and bool(rng.random() < 0.5),
        "ignore_eos": bool(rng.random() < 0.3),
    }


def _requests(rng: np.random.Generator, size: int, longest: int, most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    at, fresh = 0, 0
    exact = rng.random() < 0.3
    for index in range(size):
        at += int(rng.choice([0, 0, 1, 3, 20]))
        spans: list[tuple[int, int]] = []
        if rows and rng.random() < 0.6:
            other = rows[int(rng.integers(len(rows)))]
            spans = other["spans"][: int(rng.integers(len(other["spans"]) + 1))]
            if len(spans) == len(other["spans"]) and rng.random() < 0.7:
                spans = [*spans[:-1], (-1 - other["index"], spans[-1][1] + other["output"])]
            if spans and spans[-1][1] > 400:
                spans = []
        for _ in range(int(rng.integers(0 if spans else 1, 3))):
            spans = [*spans, (fresh, (spans[-1][1] if spans else 0) + int(rng.integers(1, longest)))]
            fresh += 1
        output = int(rng.integers(1, most))
        declared = output + (0 if exact or rng.random() < 0.3 else int(rng.integers(0, 200)))
        spans = [*spans, (-1 - index, spans[-1][1] + 1)]
        row = {"index": index, "at": at, "spans": spans, "output": output, "declared": declared}
        rows.append(row | {"priority": int(rng.integers(0, 4))})
    return rows


def with_tokens(case: Case) -> Case:
    """Return a case whose requests have tokens: equal ones where they are part of one content."""
    known: dict[tuple[int, int], int] = {}
    ends = {-1 - row["index"]: row["spans"][-1][1] + row["output"] - 1 for row in case["requests"]}

    def token(content: int, place: int) -> int:
        if ends.get(content) == place and not case["rules"]["ignore_eos"]:
            return 1
        return known.setdefault((content, place), 10 + len(known))

    rows = []
    for row in case["requests"]:
        tokens: list[int] = []
        for content, end in row["spans"]:
            tokens += [token(content, place) for place in range(len(tokens), end)]
        own, prompt = -1 - row["index"], len(tokens)
        answer = [token(own, place) for place in range(prompt, prompt + row["declared"] + 1)]
        rows.append({**row, "tokens": tokens, "answer": answer})
    return {**case, "requests": rows}


def first_difference(ours: list[Row], theirs: list[Row]) -> str | None:
    """Return what differs first between two logs, or None; where SGLang's ends with an error, up to there."""
    ended = bool(theirs) and "error" in theirs[-1]
    if ended:
        theirs = theirs[:-1]
    for mine, other in zip(ours, theirs, strict=False):
        for name in mine:
            found, expected = mine[name], other.get(name)
            close = name == "ratio" and isinstance(expected, float) and abs(found - expected) < _CLOSE
            if found != expected and not close:
                return f"step {mine.get('it')}: {name} is {found}, SGLang has {expected}"
    if len(ours) == len(theirs) or (ended and len(ours) > len(theirs)):
        return None
    return f"{len(ours)} steps, SGLang has {len(theirs)}"


def recorded(python: str, cases: list[Case], peer: str = "sglang_peer.py") -> list[list[Row]]:
    """Return what SGLang decides in each case."""
    lines = "".join(json.dumps(with_tokens(case)) + "\n" for case in cases)
    command = [python, str(Path(__file__).parent / peer)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)  # noqa: S603
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--also", type=int, nargs="*", default=[], help="seeds of more cases")
    parser.add_argument("--small", action="store_true", help="cases of few steps")
    parser.add_argument("--polling", action="store_true", help="cases with scheduler_recv_interval")
    parser.add_argument("--decode", action="store_true", help="instances that only decode")
    parser.add_argument("--write", type=Path, help="write the cases and SGLang's decisions to this file (.json.xz)")
    arguments = parser.parse_args()
    seeds = [*range(arguments.seed, arguments.seed + arguments.cases), *arguments.also]
    if arguments.decode:
        ours_of, cases = decode_decisions, [decode_case(seed, small=arguments.small) for seed in seeds]
        logs = recorded(arguments.python, cases, "sglang_stage_peer.py")
    else:
        ours_of = decisions
        cases = [random_case(seed, small=arguments.small, polling=arguments.polling) for seed in seeds]
        logs = recorded(arguments.python, cases)
    steps = differences = ended = 0
    for seed, case, theirs in zip(seeds, cases, logs, strict=True):
        ours = ours_of(case)
        steps += len(theirs)
        if "error" in theirs[-1]:
            ended += 1
            print(f"case {seed} ends with step {len(theirs) - 1:,}: {theirs[-1]['error']}")
        difference = first_difference(ours, theirs)
        if difference is not None:
            differences += 1
            print(f"case {seed}: {difference}")
    print(f"{steps:,} steps of {len(cases)} cases compared, {differences} cases differ, SGLang ended {ended} early")
    if arguments.write:
        pairs = [{"case": case, "log": log} for case, log in zip(cases, logs, strict=True)]
        text = json.dumps(pairs, separators=(",", ":")).encode()
        arguments.write.write_bytes(lzma.compress(text, preset=9))


if __name__ == "__main__":
    main()
