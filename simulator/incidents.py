"""``[operations]``: what happens to a deployment while it serves."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from hardware.strict import Strict

__all__ = ["Incident", "InstanceDown", "LinkChange", "OperationsTable", "RoleSwitch", "Switching"]

_LEAST_CAPACITY: Final = 1e-6
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9, strict=True)]
_Positive: TypeAlias = Annotated[float, Field(gt=0, le=1e9, strict=True)]
_Position: TypeAlias = Annotated[int, Field(ge=0, strict=True)]


class InstanceDown(Strict):
    """An instance dies, and all KV on it is lost.

    Attributes
    ----------
    at_s
        When, seconds after the run began.
    pool, instance
        Name of its pool, and its place in it.
    restart_after_s
        How long until a new instance serves in its place; None for never.
    """

    kind: Literal["instance_down"]
    at_s: _Seconds
    pool: str
    instance: _Position = 0
    restart_after_s: _Positive | None = None


class LinkChange(Strict):
    """Links get another capacity.

    Attributes
    ----------
    at_s
        When, seconds after the run began.
    link
        Name as in ``links`` of the summary (``n0/nic0>leaf0``), or a pattern (``n0/nic*>*``).
    capacity
        Share of the capacity at the beginning; 0 stalls what is on its way.
    """

    kind: Literal["link"]
    at_s: _Seconds
    link: str
    capacity: Annotated[float, Field(ge=0, le=1, strict=True)]

    @field_validator("capacity")
    @classmethod
    def _ends(cls, value: float) -> float:
        if 0 < value < _LEAST_CAPACITY:
            raise ValueError(f"expected 0, or at least {_LEAST_CAPACITY}, with which transfers still end")
        return value


class RoleSwitch(Strict):
    """An instance leaves its pool once it has no requests left, and joins another on the same chips.

    Attributes
    ----------
    at_s
        When it stops taking requests, seconds after the run began.
    pool, to
        Names of the pools.
    delay_s
        Time between its last request there and its first one here.
    """

    kind: Literal["switch"]
    at_s: _Seconds
    pool: str
    to: str
    delay_s: _Seconds = 0.0


Incident: TypeAlias = Annotated[InstanceDown | LinkChange | RoleSwitch, Field(discriminator="kind")]
"""Something that happens once, at a given time."""


class Switching(Strict):
    """Instances that change between two pools by themselves, towards the one with more requests per instance.

    Attributes
    ----------
    between
        Names of the two pools.
    every_s
        Time between two looks at the loads. One instance switches at a time.
    delay_s
        Time between an instance's last request in one pool and its first one in the other.
    ratio
        How many times the requests per instance of the other pool one must have.
    least_load
        Fewest requests per instance that are worth a switch.
    """

    between: tuple[str, str]
    every_s: Annotated[float, Field(ge=0.001, le=1e9, strict=True)] = 10.0
    delay_s: _Seconds = 5.0
    ratio: Annotated[float, Field(ge=1, le=1e9, strict=True)] = 2.0
    least_load: _Positive = 4.0


class OperationsTable(Strict):
    """What happens while a deployment serves.

    Attributes
    ----------
    lost_requests
        What becomes of requests whose KV is lost with an instance: ``recompute`` their prompt and the tokens they
        produced elsewhere and go on, as Dynamo's request migration does, or ``fail``.
    incident
        What happens once.
    switching
        Pools whose instances change roles.
    """

    lost_requests: Literal["recompute", "fail"] = "recompute"
    incident: tuple[Incident, ...] = ()
    switching: Switching | None = None

    @model_validator(mode="after")
    def _different_pools(self) -> Self:
        for pool, other in self.switches():
            if pool == other:
                raise ValueError(f"an instance of pool {pool!r} would switch to its own pool; name another")
        return self

    def switches(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of pools between which instances change."""
        pairs = [(one.pool, one.to) for one in self.incident if isinstance(one, RoleSwitch)]
        return (*pairs, *([self.switching.between] if self.switching else []))

    def link_patterns(self) -> tuple[str, ...]:
        """Return the patterns of links whose capacity changes, each once."""
        return tuple(dict.fromkeys(one.link for one in self.incident if isinstance(one, LinkChange)))

    def pools(self) -> tuple[str, ...]:
        """Return every pool that is named."""
        named: list[str] = [*self.switching.between] if self.switching else []
        for one in self.incident:
            if not isinstance(one, LinkChange):
                named += [one.pool, one.to] if isinstance(one, RoleSwitch) else [one.pool]
        return tuple(named)
