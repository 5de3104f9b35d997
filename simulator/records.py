"""What a run remembers: one row per request, one row per event of an engine. Columns of integers."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["EncodeLog", "Ledger", "PauseLog", "StepLog", "TransferLog"]

#: Value of a time that has not come.
NEVER = -1


#: A row of the step log that has nothing but its first five numbers.
_DECODES: Final = Struct("=5q48x")


def _filled(rows: int, value: int) -> array[int]:
    return array("q", [value]) * rows


class Ledger:
    """One row per request, indexed by order of arrival.

    Parameters
    ----------
    prompt_tokens, output_tokens
        Lengths, int64, shape (requests,).

    Attributes
    ----------
    arrival_ns, admitted_ns, first_token_ns, finish_ns
        Times; :data:`NEVER` until they come. Admission is the start of the first step that computes part
        of the prompt.
    told_ns
        When its client had the first token: later than it was produced by what the front end took, or the way to the
        instance that decodes.
    instance, decode_instance
        Instance that computed its prompt, and the one that produced its later tokens; the same unless its
        KV was handed over.
    encode_instance
        Instance that encoded the last of its images, where one does so alone.
    kv_ready_ns
        When its KV had arrived on the decode instance, if it was handed over.
    cached_tokens
        Prompt tokens that were in the cache when it was first admitted.
    preemptions
        Times it lost its KV.
    encode_ns, encoded_ns, features_ns
        When the first of its images began to be encoded, when all were, and when their features were where its prompt
        is computed and it could queue there; :data:`NEVER` where no instance encodes alone, or for text alone.
    encoder_ns
        Time of its prompt's steps in which the encoder ran, where the same engine does both.
    restarts
        Times it started over because its KV, or the room made for it, was lost with an instance.
    failed
        1 if the engine refused it, or it was lost with an instance or a transfer.
    stalls, stall_ends
        Times between two tokens of a request between which it was preempted, handed over or started over, ns, and when
        they ended; in that order.
    pauses
        Steps that came after a standstill of the decoding sequences.
    """

    def __init__(self, prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]) -> None:
        rows = len(prompt_tokens)
        self.prompt_tokens = array("q", prompt_tokens.tobytes())
        self.output_tokens = array("q", output_tokens.tobytes())
        self.arrival_ns = _filled(rows, NEVER)
        self.admitted_ns = _filled(rows, NEVER)
        self.first_token_ns = _filled(rows, NEVER)
        self.told_ns = _filled(rows, NEVER)
        self.finish_ns = _filled(rows, NEVER)
        self.kv_ready_ns = _filled(rows, NEVER)
        self.encode_ns = _filled(rows, NEVER)
        self.encoded_ns = _filled(rows, NEVER)
        self.features_ns = _filled(rows, NEVER)
        self.encode_instance = _filled(rows, NEVER)
        self.encoder_ns = _filled(rows, 0)
        self.instance = _filled(rows, NEVER)
        self.decode_instance = _filled(rows, NEVER)
        self.cached_tokens = _filled(rows, 0)
        self.preemptions = _filled(rows, 0)
        self.restarts = _filled(rows, 0)
        self.failed = _filled(rows, 0)
        self.stalls: array[int] = array("q")
        self.stall_ends: array[int] = array("q")
        self.pauses = PauseLog()

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def note_gap(self, since_ns: int, now_ns: int) -> None:
        """Write down a time between two tokens that was more than a step."""
        self.stalls.append(now_ns - since_ns)
        self.stall_ends.append(now_ns)

    def column(self, name: str) -> NDArray[np.int64]:
        """Return a column as int64, shape (requests,)."""
        return np.frombuffer(getattr(self, name), dtype=np.int64)


class _Log:
    """Rows of integers under fixed names."""

    NAMES: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._rows: array[int] = array("q")
        self._pack = Struct(f"={len(self.NAMES)}q").pack
        # Rows that somebody has looked at, column by column.
        self._columns: NDArray[np.int64] = np.zeros((len(self.NAMES), 0), np.int64)

    def add(self, row: Sequence[int]) -> None:
        """Append a row."""
        # Three times as fast as extending the array by the numbers, which it looks at one by one.
        self._rows.frombytes(self._pack(*row))

    def table(self) -> dict[str, NDArray[np.int64]]:
        """Return the columns, each int64 of shape (rows,), one number after the other in memory."""
        if self._rows:
            rows = np.array(self._rows, dtype=np.int64).reshape(-1, len(self.NAMES))
            self._columns = np.concatenate([self._columns, rows.T], axis=1)
            del self._rows[:]
        return dict(zip(self.NAMES, self._columns, strict=True))


class PauseLog(_Log):
    """One row per step that ends a standstill and number of sequences whose last token came at one time.

    Attributes
    ----------
    end_ns, step_ns
        When the step ended, and its duration: the gap that the step log tells of.
    gap_ns
        Time since their last tokens.
    sequences
        How many they are.
    """

    NAMES = ("end_ns", "step_ns", "gap_ns", "sequences")


class StepLog(_Log):
    """One row per event of an engine: a step that computes prompts, or a run of equal decode steps.

    Attributes
    ----------
    start_ns, steps
        When it began and how many steps it was.
    decodes, context
        Sequences that produced a token in each step, and the floor of their mean context at the start.
    tokens
        Prompt tokens computed.
    prompts, completed
        Chunks, and how many of them completed their prompt.
    pairs, reach
        See :meth:`perfdb.step_prices.StepPrices.mixed_ns`.
    joined
        Sequences among ``decodes`` whose earlier token came from another instance: their gap is no step.
    duration_ns
        All steps of the row together.
    """

    def __init__(self) -> None:
        super().__init__()
        self._longer: dict[int, int] = {}

    def note_longer(self, by_ns: int) -> None:
        """Note that the next row lasts so much longer than its tokens take: images are encoded first, or others run."""
        row = self._columns.shape[1] + len(self._rows) // len(self.NAMES)
        self._longer[row] = self._longer.get(row, 0) + by_ns

    def of_tokens(self) -> dict[str, NDArray[np.int64]]:
        """Return the table with the durations that its tokens account for."""
        table = self.table()
        if self._longer:
            table["duration_ns"] = table["duration_ns"].copy()
            # An instance that dies in a step has said how much longer it would be, but not that it was.
        longer = {row: more for row, more in self._longer.items() if row < len(table["duration_ns"])}
        table["duration_ns"][list(longer)] -= np.array(list(longer.values()), np.int64)
        return table

    NAMES = (
        "start_ns",
        "duration_ns",
        "steps",
        "decodes",
        "context",
        "tokens",
        "prompts",
        "completed",
        "pairs",
        "reach",
        "joined",
    )

    def add_decodes(self, start_ns: int, duration_ns: int, steps: int, decodes: int, context: int) -> None:
        """Append the row of a run of decode steps that nobody joined."""
        self._rows.frombytes(_DECODES.pack(start_ns, duration_ns, steps, decodes, context))


class EncodeLog(_Log):
    """One row per run of an encoder.

    Attributes
    ----------
    start_ns, duration_ns
        When it began, and its duration.
    steps
        1, as a row of :class:`StepLog` has it.
    items, patches, tokens, pairs, window_pairs
        See :class:`perfdb.encoder_prices.EncoderWork`.
    """

    NAMES = ("start_ns", "duration_ns", "steps", "items", "patches", "tokens", "pairs", "window_pairs")


class TransferLog(_Log):
    """One row per transfer of KV, or of the features of an image.

    Attributes
    ----------
    start_ns, duration_ns
        When it began, and its time until the last byte arrived.
    source, target
        Instance numbers.
    size_bytes
        Bytes sent.
    """

    NAMES = ("start_ns", "duration_ns", "source", "target", "size_bytes")
