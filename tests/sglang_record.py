"""Decisions that SGLang's own schedulers were recorded to make, and whether somebody else's differ."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from benchmarks.conformance_sglang import first_difference
from hardware.errors import LawError
from simulator.schedulers.sglang_retraction import put_back


def read_record(name):
    """Return the cases of a golden file, each with the log of its decisions."""
    return json.loads(lzma.decompress((Path(__file__).parent / "golden" / name).read_bytes()))


def differs(record, decide) -> bool:
    """Tell whether a decision differs in a recorded case, or none can be made at all."""
    for pair in record:
        try:
            if first_difference(decide(pair["case"]), pair["log"]) is not None:
                return True
        except (ArithmeticError, LookupError, LawError, AttributeError, TypeError):
            # A policy without one of its rules may ask for what is not there.
            return True
    return False


def keep_last_tokens(state, memory, request, plan, *, others) -> None:
    """Put a request back, which keeps its last token though that was under way."""
    ended = request.index in state.ending
    put_back(state, memory, request, plan, others=others)
    request.tokens += ended
