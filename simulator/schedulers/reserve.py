"""What SGLang keeps free for the answers of running requests: a share of what they may still produce."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLIP_TOKENS", "NewTokenRatio", "Reserve"]

#: No answer is thought to be longer than this while its KV is planned for (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``).
CLIP_TOKENS = 4096

#: ``SGLANG_INIT_NEW_TOKEN_RATIO``, ``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR`` and ``SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS``.
_FIRST_RATIO, _LEAST_FACTOR, _DECAY_STEPS = 0.7, 0.14, 600


class NewTokenRatio:
    """The share, which falls by every step of decoding and rises when requests had to be retracted.

    Subtraction by subtraction as in ``NewTokenRatioTracker``, but only when somebody asks.

    Parameters
    ----------
    conservativeness
        Factor of the first value (``schedule_conservativeness``).
    """

    __slots__ = ("_decay", "_fallen", "_first", "_least", "_since")

    def __init__(self, conservativeness: float) -> None:
        first = min(_FIRST_RATIO * conservativeness, 1.0)
        self._least = min(first * _LEAST_FACTOR, 1.0)
        self._decay = (first - self._least) / _DECAY_STEPS
        # The share after so many steps, as far as somebody has asked.
        self._first = self._fallen = [first]
        self._since = 0

    def reset(self, step: int) -> None:
        """Begin anew, as an idle engine does."""
        self._fallen, self._since = self._first, step

    def raise_to(self, value: float, step: int) -> None:
        """Set the share; it falls by steps after step counter ``step``."""
        self._fallen, self._since = [value], step

    def pause(self) -> None:
        """Let the step that comes not count."""
        self._since += 1

    def at(self, step: int) -> float:
        """Return the share at a step counter."""
        fallen, steps = self._fallen, max(0, step - self._since)
        while len(fallen) <= steps and fallen[-1] != self._least:
            fallen.append(max(fallen[-1] - self._decay, self._least))
        return fallen[steps] if steps < len(fallen) else self._least


class Reserve:
    """Sum over running requests of what each may still produce, no more than :data:`CLIP_TOKENS` for any.

    A request is known by the step counter at which it would have produced all it may, so that nothing is to be done
    while it decodes.

    Attributes
    ----------
    size
        How many they are.
    """

    __slots__ = ("_ends", "_far", "_far_count", "_near_count", "_near_sum", "size")

    def __init__(self) -> None:
        self.size = 0
        self._ends: dict[int, tuple[int, bool]] = {}
        self._far: list[tuple[int, int]] = []
        self._near_sum = self._near_count = self._far_count = 0

    def __contains__(self, index: int) -> bool:
        return index in self._ends

    def __iter__(self) -> Iterator[int]:
        return iter(self._ends)

    def add(self, index: int, end: int, step: int) -> None:
        """Add a request by the step counter at which it ends, at the one it begins at."""
        near = end - step < CLIP_TOKENS
        self._ends[index] = (end, near)
        self.size += 1
        if near:
            self._near_count += 1
            self._near_sum += end
        else:
            self._far_count += 1
            heappush(self._far, (end, index))

    def discard(self, index: int) -> None:
        """Take a request out, if it is in."""
        found = self._ends.pop(index, None)
        if found is None:
            return
        end, near = found
        self.size -= 1
        if near:
            self._near_sum -= end
            self._near_count -= 1
        else:
            self._far_count -= 1

    def left(self, index: int, step: int) -> int:
        """Return what a request may still produce at a step counter."""
        return self._ends[index][0] - step

    def total(self, step: int) -> int:
        """Return the sum at a step counter, never less than that of the call before less one."""
        far, ends = self._far, self._ends
        while far and far[0][0] - step < CLIP_TOKENS:
            end, index = heappop(far)
            if ends.get(index) == (end, False):
                ends[index] = (end, True)
                self._far_count -= 1
                self._near_count += 1
                self._near_sum += end
        return self._near_sum - self._near_count * step + CLIP_TOKENS * self._far_count
