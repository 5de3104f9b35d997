"""What a run adds to a deployment whose requests carry images: the stage before prompts, and encoders in engines."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from simulator.build import build_encode_router
from simulator.encode_stage import EncodeStage
from simulator.fused_encoder import FusedEncoder
from simulator.sharing import Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.built_pool import AnyPool
    from simulator.cluster import Cluster
    from simulator.requests import Requests
    from simulator.scenario import Scenario
    from simulator.server import Server

__all__ = ["encode_stage", "equipment", "sends_features"]


def sends_features(scenario: Scenario) -> bool:
    """Tell whether features go from chip to chip."""
    return bool(scenario.encode_pools) and scenario.network.feature_transfer.mode == "direct"


def encode_stage(scenario: Scenario, requests: Requests) -> Callable[[Cluster], EncodeStage] | None:
    """Return what makes the stage between arrival and the queue for a prompt; None where nothing is there."""
    terms, media = scenario.network.feature_transfer, requests.media
    if not terms.delays_all and (media is None or not scenario.encode_pools):
        return None
    return lambda cluster: EncodeStage(
        cluster, terms, media, build_encode_router(scenario), encodes=bool(scenario.encode_pools)
    )


def equipment(requests: Requests, pools: Sequence[AnyPool]) -> Callable[[int, Server, int | None], None] | None:
    """Return what gives a new instance the encoder of its engine, and its neighbours; None where none has any."""
    media, neighbours = requests.media, Neighbours(pools)
    if not neighbours and (media is None or not any(pool.encoder and pool.parts.prefills for pool in pools)):
        return None

    def equip(number: int, instance: Server, like: int | None) -> None:
        neighbours.join(number, instance, like)
        pool = pools[number]
        if media is None or pool.encoder is None or not pool.parts.prefills:
            return
        plan = pool.options.plan(prefills=True)
        budget = inf if plan.encoder_tokens is None else plan.encoder_tokens
        for core in instance.cores:
            core.state.media = FusedEncoder(core.env, media, pool.encoder, budget, whole_images=plan.whole_images)

    return equip
