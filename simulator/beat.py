"""The count of steps that attention ranks have made together."""

from __future__ import annotations

__all__ = ["Beat"]


class Beat:
    """A counter that ranks which step together have in common.

    Attributes
    ----------
    step
        Steps that are over, idle ranks' among them.
    """

    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step = 0
