"""What changed between vLLM's releases, as far as scheduling goes: a row for each span of releases that schedule alike.

Read from the releases' sources (``vllm/v1/core/sched/scheduler.py``, ``v1/core/block_pool.py``, ``engine/arg_utils.py``
and ``config/``), 0.8.3 to 0.33.0. The same in all of them: running requests first, nobody admitted in a step that
preempted, the last admitted preempted, head-of-line blocking, the last block of a prompt found whole is computed.

Left out: 0.8.0 to 0.8.4 take four blocks more than a request needs when it needs one, 0.10.0 to 0.11.0 run a step too
many after the last token where they schedule asynchronously, 0.9.2 to 0.11.0 forget to give the tokens of a preempted
request back to the budget under priority.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from simulator.engine_options import VllmOptions

__all__ = ["ERAS", "LATEST", "Era", "era_of"]

_GIB: Final = 2**30

#: Options that came later, and what they say where they do not exist.
_LATER: Final = MappingProxyType(
    {
        "watermark": (0.0,),
        "prefill_schedule_interval": (1,),
        "long_prefill_token_threshold_adaptive": (False,),
        "scheduler_reserve_full_isl": (None, False),
        "async_scheduling": (None, False),
    }
)
_Number = TypeVar("_Number", float, int)


@dataclass(frozen=True, slots=True)
class Era:
    """A span of releases.

    Attributes
    ----------
    since
        Its first minor version.
    tiers
        Memory of a chip, GiB, from which on a step holds so many tokens by default; the largest that fits counts.
    small_a100
        An A100 is small, however much memory it has.
    named
        Chips are large by name (H100, H200), not by memory, and every chip serves 1024 sequences.
    utilization
        Default of ``gpu_memory_utilization``.
    reserves
        ``scheduler_reserve_full_isl`` exists, and is on.
    overlaps
        ``async_scheduling``: None where it does not exist, else its default.
    blank_first
        Freed blocks that hold nothing to be found are taken first; else they queue like the others.
    loan_reserves
        KV is fetched only into blocks that no prompt in progress still needs.
    uncapped_alone
        A request that is alone is not cut to ``long_prefill_token_threshold``; the adaptive threshold exists.
    watermark
        ``watermark`` exists.
    cadence
        ``prefill_schedule_interval`` holds in an engine without data parallelism.
    goes_on
        Under priority, the requests after one that preempted itself are still looked at.
    """

    since: int
    tiers: tuple[tuple[int, int], ...] = ((0, 2048), (70, 8192))
    small_a100: bool = True
    named: bool = False
    utilization: float = 0.9
    reserves: bool = False
    overlaps: bool | None = True
    blank_first: bool = False
    loan_reserves: bool = False
    uncapped_alone: bool = False
    watermark: bool = False
    cadence: bool = False
    goes_on: bool = False

    @property
    def rules(self) -> dict[str, Any]:
        """What the policy is told of it; see :class:`simulator.schedulers.vllm.VllmScheduler`."""
        return {"uncapped_alone": self.uncapped_alone, "goes_on": self.goes_on, "loan_reserves": self.loan_reserves}

    def filled(self, options: VllmOptions, chip: Chip, pool: str) -> VllmOptions:
        """Return the options of a pool with the defaults of these releases.

        Raises
        ------
        ScenarioError
            If an option is set that these releases do not have.
        """
        for option, harmless in _LATER.items():
            found = getattr(options, option)
            if not self.has(option) and found not in harmless:
                first = next(era.since for era in ERAS if era.since > self.since and era.has(option))
                raise ScenarioError(
                    f"pool.{pool}.engine_options.{option} is {found}, but this pool's vLLM has no such option: it came "
                    f"with 0.{first}; leave it out, or set engine = 'vllm@0.{first}'"
                )
        tokens, sequences = self._limits(chip)
        # A given number of sequences raises the default budget, and a given budget lowers the default of sequences.
        tokens = options.max_num_batched_tokens or max(tokens, options.max_num_seqs or 0)
        return options.model_copy(
            update={
                "max_num_batched_tokens": tokens,
                "max_num_seqs": options.max_num_seqs or min(sequences, tokens),
                "gpu_memory_utilization": _or(options.gpu_memory_utilization, self.utilization),
                "scheduler_reserve_full_isl": _or(options.scheduler_reserve_full_isl, self.reserves),
                "async_scheduling": _or(options.async_scheduling, self.overlaps or False),
            }
        )

    def has(self, option: str) -> bool:
        """Tell whether these releases have an option that came after the first of them."""
        there = {
            "watermark": self.watermark,
            "prefill_schedule_interval": self.cadence,
            "long_prefill_token_threshold_adaptive": self.uncapped_alone,
            "scheduler_reserve_full_isl": self.reserves,
            "async_scheduling": self.overlaps is not None,
        }
        return there[option]

    def _limits(self, chip: Chip) -> tuple[int, int]:
        """Return the default tokens and sequences of a step."""
        if self.named:
            return 8192 if chip.name.startswith(("h100", "h200")) else 2048, 1024
        if self.small_a100 and chip.name.startswith("a100"):
            return self.tiers[0][1], 256
        memory = chip.visible_memory_bytes / _GIB
        least, tokens = [tier for tier in self.tiers if tier[0] <= memory][-1]
        return tokens, 1024 if least else 256


def _or(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value


_LARGEST: Final = ((0, 2048), (70, 8192), (160, 16384))

#: Oldest first.
ERAS: Final = (
    Era(8, named=True, overlaps=None),
    Era(9, overlaps=None),
    Era(10, overlaps=False),
    Era(14),
    Era(19, reserves=True),
    Era(20, reserves=True, utilization=0.92),
    Era(23, reserves=True, utilization=0.92, loan_reserves=True),
    Era(24, reserves=True, utilization=0.92, loan_reserves=True, blank_first=True, watermark=True),
    Era(28, _LARGEST, reserves=True, utilization=0.92, loan_reserves=True, blank_first=True, watermark=True),
    Era(
        31,
        _LARGEST,
        reserves=True,
        utilization=0.92,
        loan_reserves=True,
        blank_first=True,
        watermark=True,
        uncapped_alone=True,
    ),
    Era(
        33,
        _LARGEST,
        reserves=True,
        utilization=0.92,
        loan_reserves=True,
        blank_first=True,
        watermark=True,
        uncapped_alone=True,
        cadence=True,
        goes_on=True,
    ),
)

#: The latest minor version that was read.
LATEST: Final = 33


def era_of(minor: int) -> Era:
    """Return the span that holds vLLM 0.``minor``."""
    return [era for era in ERAS if era.since <= minor][-1]
