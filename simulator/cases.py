"""Measured cases: what was served, how, and what was measured, one per row of a CSV file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hardware.errors import CaseError, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["METRICS", "Case", "read_cases", "restricted", "unread_columns"]

METRICS: Final = (
    *(f"{name}_{kind}" for name in ("ttft", "tpot", "itl", "e2e") for kind in ("mean", "p50", "p90", "p99")),
    *("output_tok_s", "total_tok_s", "req_s"),
)
"""What may have been measured: latencies in ms (columns end in ``_ms``), tokens and requests per second."""

_LAYOUT: Final = tuple(
    f"{stage}_{name}{kind}"
    for stage in ("prefill", "decode")
    for name in ("num_workers", "tp_size", "moe_ep_size", "attention_dp_size")
    for kind in ("", "_recovered")
)
_NUMBERS: Final = frozenset(
    (
        *("n_gpu", "tp", "pp", "dp", "ep", "tp_true", "pp_true", "dp_true", "ep_true", "moe_tp_true"),
        *("max_num_seqs", "max_num_batched_tokens", "gpu_mem_util", "kv_blocks", "block_size", "concurrency"),
        *("n_requests", "n_failed", "duration_s", "isl_mean", "isl_std", "osl_mean", "osl_std", "duplicate", "clean"),
        *(name for name in _LAYOUT if not name.endswith("attention_dp_size_recovered")),
        *("prefill_batch_size", "decode_batch_size"),
    )
)
_TEXTS: Final = frozenset(
    (
        *("case_id", "source", "split", "confidence", "model", "gpu", "topology", "engine", "engine_version"),
        *("precision", "chunked_prefill", "prefix_caching", "workload_type", "arrival", "request_rate", "mode"),
        *("per_request_file", "date", "measured_date", "notes", "provenance", "exclude_reason", "mtp_label", "recipe"),
        *("prefill_attention_dp_size_recovered", "decode_attention_dp_size_recovered"),
    )
)
_MEASURED: Final = {
    (metric if metric.endswith("_s") else f"{metric}_ms"): metric for metric in METRICS
}  # column -> metric
_ALL_NUMBERS: Final = _NUMBERS.union(_MEASURED)
#: What a case that says nothing of it counts as.
_WHERE_UNSAID: Final[Mapping[str, float]] = MappingProxyType({"clean": 1, "duplicate": 0})
_UNKNOWN: Final = ("", "nan")


@dataclass(frozen=True, slots=True)
class Case:
    """A measured run.

    Attributes
    ----------
    case_id
        Its name, unique among all cases.
    file, line
        Where it stands.
    texts, numbers
        What is known of it, by column; what a row leaves empty is not there. Columns of other names are texts.
    measured
        What was measured, by metric of :data:`METRICS`.
    """

    case_id: str
    file: Path
    line: int
    texts: Mapping[str, str]
    numbers: Mapping[str, float]
    measured: Mapping[str, float]

    @property
    def where(self) -> str:
        """File and line, as an error sentence begins."""
        return f"{self.file}:{self.line}"

    @property
    def origin(self) -> str:
        """Who measured: the column ``provenance``, else the start of ``source``, else the name of the file."""
        source = self.texts.get("source", self.file.stem)
        return self.texts.get("provenance") or source.split(" ")[0].split("@")[0].rstrip(";,")

    @property
    def mode(self) -> str:
        """``agg`` where an instance computes prompts and decodes, ``disagg`` where they are apart."""
        found = self.texts.get("mode")
        return found or ("disagg" if self.texts.get("topology", "").startswith("PD") else "agg")

    @property
    def engine(self) -> str:
        """Name of the engine without a remark after it."""
        return self.texts.get("engine", "unknown").split(" ")[0].lower()

    @property
    def date(self) -> str | None:
        """The day of the measurement, ``2026-03-25``, where it is known."""
        found = self.texts.get("measured_date") or self.texts.get("date")
        return f"{found[:4]}-{found[4:6]}-{found[6:]}" if found and found.isdecimal() and len(found) == 8 else found

    @property
    def model(self) -> str:
        """Name of the model without its publisher."""
        return self.texts.get("model", "").rsplit("/", 1)[-1]

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against it and it repeats no other: ``clean`` 1 (or unknown), ``duplicate`` 0."""
        return all(self.numbers.get(column, usual) == usual for column, usual in _WHERE_UNSAID.items())

    @property
    def stage(self) -> int | None:
        """Number of the stage of a run that it is about, from an id that ends in ``/stage1``; None for all of it."""
        last = self.case_id.rsplit("/", 1)[-1]
        return int(last.removeprefix("stage")) if last.startswith("stage") and last[5:].isdecimal() else None

    def need(self, column: str) -> float:
        """Return a number that cannot be done without.

        Raises
        ------
        CaseError
            If the row does not have it.
        """
        if column not in self.numbers:
            raise CaseError(f"{self.where}: {column} is empty, expected a number, without which the run is not known")
        return self.numbers[column]


def read_cases(path: str | Path) -> tuple[Case, ...]:
    """Return the cases of a CSV file, or of every CSV file in a folder that has ``case_id`` and ``split`` columns.

    Raises
    ------
    CaseError
        If a file cannot be read, a column is not known, a value is not what its column holds or an id comes twice.
    """
    file = Path(path)
    if not file.is_dir():
        cases = tuple(_read(file))
    else:
        files = [one for one in sorted(file.glob("*.csv")) if {"case_id", "split"} <= set(_header(one))]
        cases = tuple(case for one in files for case in _read(one))
    if not cases:
        raise CaseError(f"{path}: holds no case, expected rows with a case_id and measured values")
    seen: dict[str, Case] = {}
    for case in cases:
        if (first := seen.setdefault(case.case_id, case)) is not case:
            raise CaseError(
                f"{case.where}: case_id {case.case_id!r} is that of {first.where} too, expected a name each"
            )
    return cases


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as stream:
        return next(csv.reader(stream), [])


def _read(file: Path) -> Iterator[Case]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            header = next(rows, [])
            _check_header(file, header)
            for row in rows:
                if row:
                    yield _case(file, rows.line_num, header, row)
    except OSError as error:
        raise CaseError(f"{file}: cannot be read ({error.strerror}), expected a CSV file of measured cases") from error
    except UnicodeDecodeError as error:
        raise CaseError(f"{file}: byte {error.start} is not UTF-8, expected a CSV file of measured cases") from error
    except csv.Error as error:
        raise CaseError(f"{file}: not CSV ({error}), expected a comma-separated file of measured cases") from error


def _check_header(file: Path, header: Sequence[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise CaseError(f"{file}:1: column {name!r} comes twice, expected once")
    if "case_id" not in header:
        raise CaseError(f"{file}:1: has no column case_id, expected one with a name for each case")
    if not any(name in _MEASURED for name in header):
        raise CaseError(f"{file}:1: has no measured column, expected one such as ttft_mean_ms")


def _case(file: Path, line: int, header: Sequence[str], row: Sequence[str]) -> Case:
    if len(row) != len(header):
        raise CaseError(f"{file}:{line}: found {len(row)} values, expected {len(header)}, one for each column")
    found = {name: value.strip() for name, value in zip(header, row, strict=True)}
    found = {name: value for name, value in found.items() if value not in _UNKNOWN}
    if "case_id" not in found:
        raise CaseError(f"{file}:{line}: case_id is empty, expected a name for the case")
    numbers = {name: _number(file, line, name, value) for name, value in found.items() if name in _ALL_NUMBERS}
    return Case(
        case_id=found["case_id"],
        file=file,
        line=line,
        texts={name: value for name, value in found.items() if name not in numbers},
        numbers={name: value for name, value in numbers.items() if name in _NUMBERS},
        measured={_MEASURED[name]: value for name, value in numbers.items() if name in _MEASURED and value > 0},
    )


def _number(file: Path, line: int, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise CaseError(f"{file}:{line}: {name} is {value!r}, expected a number of at least 0, or nothing")
    return number


def restricted(cases: Sequence[Case], conditions: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases that meet every condition.

    Parameters
    ----------
    cases
        Where to choose from.
    conditions
        ``COLUMN=VALUE``, or several values with ``|`` between them; texts compare without regard to case, ``engine``,
        ``model`` and ``mode`` as :class:`Case` tells them too.

    Raises
    ------
    CaseError
        If a condition is none, its column is not known, or no case is left.
    """
    left = list(cases)
    for condition in conditions:
        column, equals, wanted = condition.partition("=")
        known = {*_TEXTS, *_NUMBERS}.union(*(case.texts for case in cases))
        if not equals or column not in known:
            hint = "expected COLUMN=VALUE" if not equals else suggest(column, known)
            raise CaseError(f"--where {condition!r}: no condition on a column; {hint}")
        values = {value.strip().lower() for value in wanted.split("|")}
        left = [case for case in left if _shown(case, column) & values]
        if not left:
            raise CaseError(f"--where {condition!r}: none of the {len(cases)} cases is left; try another value")
    return tuple(left)


def _shown(case: Case, column: str) -> set[str]:
    """Return the texts a column of a case may be called by."""
    number = case.numbers.get(column, _WHERE_UNSAID.get(column))
    if number is not None:
        return {f"{number:g}"}
    shown = {case.texts.get(column, "").lower()}
    return shown | ({str(getattr(case, column)).lower()} if column in {"engine", "model", "mode"} else set())


def unread_columns(cases: Sequence[Case]) -> tuple[str, ...]:
    """Return the columns that no replay looks at: a misspelt one would be among them."""
    return tuple(sorted(set().union(*(case.texts for case in cases)) - _TEXTS))
