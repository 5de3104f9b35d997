"""Two engines on the same chips at once: while both run, each takes longer than it would alone.

What each has left of its run goes on at the rate that the other one leaves it, and is timed anew whenever the other
begins or ends a run. See ``docs/decisions/031-encode-stages.md`` for the slowdowns.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from simulator.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from simulator.clock import Clock

__all__ = ["SLOWDOWNS", "ChipShare", "SharedWakeUp", "Work"]

Work: TypeAlias = Literal["compute", "memory", "communication"]
"""What bounds work: arithmetic (encoders, prompts), reading weights and KV (decoding), or the links between chips."""

#: How many times as long a run takes beside another one, by the work of both.
#: Encoders and prompts of EPD-Serve that share an NPU do 9.2 to 9.3 requests/s, one after the other 8.2 to 8.35
#: (derived from arXiv 2601.11590, Table 5): 108 ms a request in place of 121. A prompt of 677 tokens takes 71 of those
#: (9,500 tokens/s, from its Table 4), an image 50; while both run, each takes 2 - 13 / 50 = 1.74 times as long. It says
#: that operators of one kind, such as matrix products, interfere, and others little: the products of decoding stream
#: weights through the same units, so that the same holds beside them; two that stream take turns at the memory.
#: Kernels that communicate have units of their own: 20 of an H800's 132 (DeepSeek-V3, arXiv 2412.19437, section 3.2),
#: which leaves arithmetic 112, so that it takes 1.18 times as long beside them. What they send is read from memory:
#: 450 of an H100's 3,350 GB/s, which leaves those who stream 2,900, 1.16 times as long. They are not slowed by either,
#: and take turns at the links with each other. That EPD-Serve finds little interference between matrix products and
#: all-reduces on an NPU, whose vector units send, agrees; figures of Ascend are not published.
SLOWDOWNS: Final[Mapping[tuple[Work, Work], float]] = MappingProxyType(
    {
        ("compute", "compute"): 1.74,
        ("compute", "memory"): 1.74,
        ("memory", "compute"): 1.74,
        ("memory", "memory"): 2.0,
        ("compute", "communication"): 132 / 112,
        ("memory", "communication"): 3350 / 2900,
        ("communication", "compute"): 1.0,
        ("communication", "memory"): 1.0,
        ("communication", "communication"): 2.0,
    }
)


class ChipShare:
    """The runs on one set of chips.

    Parameters
    ----------
    env
        The clock.
    slowdowns
        Factors as of :data:`SLOWDOWNS`; of several neighbours they multiply.

    Notes
    -----
    Of two runs that communicate for a part of their time, any pair of their kinds of work meets as often as the parts
    say: the factor is the mean over all pairs. When exactly each communicates is not followed.
    """

    def __init__(self, env: Clock, slowdowns: Mapping[tuple[Work, Work], float] = SLOWDOWNS) -> None:
        self.env, self.slowdowns = env, slowdowns
        self._runs: dict[SharedWakeUp, float] = {}
        self._since_ns = 0

    def begin(self, run: SharedWakeUp, duration_ns: int) -> None:
        """Begin a run that would last so long alone."""
        self._advance()
        self._runs[run] = float(duration_ns)
        self._time()

    def end(self, run: SharedWakeUp) -> None:
        """End a run, whether it is over or not."""
        if run in self._runs:
            self._advance()
            del self._runs[run]
            self._time()

    def _slowdown(self, run: SharedWakeUp) -> float:
        factor = 1.0
        for other in self._runs:
            if other is not run:
                factor *= sum(
                    part * beside * self.slowdowns[work, kind]
                    for work, part in run.parts
                    for kind, beside in other.parts
                )
        return factor

    def _advance(self) -> None:
        """Take off what was done since the runs last changed."""
        passed_ns, self._since_ns = self.env.now - self._since_ns, self.env.now
        for run in self._runs:
            self._runs[run] = max(0.0, self._runs[run] - passed_ns / self._slowdown(run))

    def _time(self) -> None:
        """Say when each run ends if nothing changes."""
        for run, left_ns in self._runs.items():
            run.move(ceil(left_ns * self._slowdown(run)))


class SharedWakeUp(WakeUp):
    """The wake-up call of an engine on chips that another one uses too.

    Attributes
    ----------
    share
        Those chips; None while nobody else is there.
    work
        What bounds the run that begins next.
    parts
        Kinds of work in it, and the share of its time alone that each takes.
    """

    __slots__ = ("parts", "share", "work")

    def __init__(self, env: Clock, work: Work) -> None:
        super().__init__(env)
        self.share: ChipShare | None = None
        self.work: Work = work
        self.parts: tuple[tuple[Work, float], ...] = ((work, 1.0),)

    def will(self, work: Work, communicates: float = 0.0) -> None:
        """Say what the run that begins next does: such work, but for the share of its time in which it communicates."""
        self.work, rest = work, 1.0 - communicates
        self.parts = ((work, rest), ("communication", communicates)) if communicates else ((work, 1.0),)

    def drive(self, loop: Generator[None, Any, None]) -> None:
        """Let a loop begin now, and go on whenever it is woken, its run over."""
        super().drive(loop)
        self._go_on = partial(self._resume, loop)

    def after(self, duration_ns: int) -> None:
        """Let the loop go on after a run that would last so long alone."""
        if self.share is None:
            super().after(duration_ns)
        else:
            self.share.begin(self, duration_ns)

    def silence(self) -> None:
        """Let the loop never wake up again, and the others go on alone."""
        super().silence()
        if self.share is not None:
            self.share.end(self)
            self.share = None

    def _resume(self, loop: Generator[None, Any, None], call: object) -> None:
        if self.share is not None:
            self.share.end(self)
        loop.send(call)
