"""Decisions that SGLang's own schedulers were recorded to make, and whether somebody else's differ."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from benchmarks.conformance_sglang import first_difference
from hardware.errors import LawError


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
