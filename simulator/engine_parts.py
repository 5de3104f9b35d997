"""What the instances of a pool are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from simulator.schedulers.state import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable

    from perfdb.step_prices import StepPrices
    from simulator.fetch_window import FetchWindow
    from simulator.front_end import FrontEndTime
    from simulator.prompt_balance import PromptBalance
    from simulator.schedulers.plan import Scheduler

__all__ = ["EngineParts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What the instances of one pool share.

    Attributes
    ----------
    scheduler
        The policy; it keeps no state of its own.
    prices
        Step prices.
    blocks, block_tokens
        KV capacity of each instance.
    max_tokens
        Longest sequence served; a longer request is refused.
    max_prompt
        Longest prompt served.
    replicas
        Instances.
    prefills, decodes
        Stages they serve.
    host_blocks, host_block_ns
        Blocks that each instance keeps in host memory, and the time to copy one back.
    caching
        Their blocks keep what they hold; see :mod:`simulator.prefix_cache`.
    blank_first
        Blocks that hold nothing to be found are taken before all others.
    plans_ahead
        The next step is planned when one begins, as an engine does that schedules asynchronously.
    polls_every
        Steps of decoding from one look at who has come to the next; see :mod:`simulator.inbox`.
    ranks
        Attention ranks of an instance.
    balancer
        Deals requests to them, a key of :data:`simulator.balancers.BALANCERS`.
    lockstep
        Ranks step together; else each steps on its own.
    idle_ranks_lag
        Ranks with nothing to do plan ahead like the others.
    prompt_balance
        Makes what lets the prompts of ranks that step together wait until all have some; None where none waits.
    fetch_window
        Makes what says how long an instance waits for more requests before a step; None where none waits.
    tells_late
        Where it does not decode, clients get the first token from the instance that does, once the KV is there.
    front_end
        What stands between clients and an instance; None where nothing takes time.
    make
        What makes an instance, called as :class:`simulator.instance.Instance` is; None for what
        :func:`simulator.gathering.instance_maker` says.
    """

    encodes: ClassVar[bool] = False

    scheduler: Scheduler
    prices: StepPrices
    blocks: int
    block_tokens: int
    max_tokens: int
    max_prompt: int = 1 << 62
    replicas: int
    prefills: bool = True
    decodes: bool = True
    caching: bool = False
    host_blocks: int = 0
    host_block_ns: float = 0.0
    blank_first: bool = True
    plans_ahead: bool = False
    polls_every: int = 1
    ranks: int = 1
    balancer: str = "round_robin"
    lockstep: bool = True
    idle_ranks_lag: bool = True
    prompt_balance: Callable[[], PromptBalance] | None = None
    fetch_window: Callable[[], FetchWindow] | None = None
    tells_late: bool = False
    front_end: FrontEndTime | None = None
    make: Callable[..., Any] | None = None

    def new_state(self) -> EngineState:
        """Return the state of a new instance."""
        return EngineState(
            self.blocks,
            self.block_tokens,
            caching=self.caching,
            blank_first=self.blank_first,
            host_blocks=self.host_blocks,
            longest=self.max_tokens,
            prompts=self.prefills,
            answers=self.decodes,
            ahead=self.plans_ahead,
        )
