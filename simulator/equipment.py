"""What a run adds to a deployment whose requests carry images: the stage before prompts, and encoders in engines."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from simulator.arriving import ArrivingFeatures
from simulator.build import build_encode_router
from simulator.encode_stage import EncodeStage
from simulator.encoder_build import kept_tokens
from simulator.fused_encoder import FusedEncoder
from simulator.sharing import Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perfdb.encoder_prices import EncoderCosts
    from simulator.built_pool import AnyPool
    from simulator.clock import Clock
    from simulator.cluster import Cluster
    from simulator.request_media import RequestMedia
    from simulator.requests import Requests
    from simulator.scenario import Scenario
    from simulator.server import Server

__all__ = ["arriving_features", "encode_stage", "equipment", "sends_features"]


def sends_features(scenario: Scenario) -> bool:
    """Tell whether features go from chip to chip."""
    return bool(scenario.encode_pools) and scenario.network.feature_transfer.mode == "direct"


def arriving_features(scenario: Scenario, requests: Requests) -> ArrivingFeatures | None:
    """Return what lets prompts begin with the images that are there; None where they wait for all."""
    starts = scenario.network.feature_transfer.prompt_starts
    if starts == "complete" or requests.media is None or not scenario.encode_pools:
        return None
    return ArrivingFeatures(requests.media)


def encode_stage(
    scenario: Scenario, requests: Requests, arriving: ArrivingFeatures | None
) -> Callable[[Cluster], EncodeStage] | None:
    """Return what makes the stage between arrival and the queue for a prompt; None where nothing is there."""
    terms, media = scenario.network.feature_transfer, requests.media
    if not terms.delays_all and (media is None or not scenario.encode_pools):
        return None
    encodes = bool(scenario.encode_pools)
    return lambda cluster: EncodeStage(
        cluster, terms, media, build_encode_router(scenario), encodes=encodes, arriving=arriving
    )


def equipment(
    requests: Requests, pools: Sequence[AnyPool], arriving: ArrivingFeatures | None
) -> Callable[[int, Server, int | None], None] | None:
    """Return what gives a new instance the encoder of its engine, and its neighbours; None where none has any."""
    media, neighbours = requests.media, Neighbours(pools)
    fused = media is not None and any(pool.encoder and pool.parts.prefills for pool in pools)
    if not (neighbours or fused or arriving):
        return None

    def equip(number: int, instance: Server, like: int | None) -> None:
        neighbours.join(number, instance, like)
        pool = pools[number]
        for core in instance.cores if pool.parts.prefills else ():
            core.state.media = arriving if pool.encoder is None else _fused(pool, pool.encoder, core.env, media)

    return equip


def _fused(pool: AnyPool, costs: EncoderCosts, env: Clock, media: RequestMedia | None) -> FusedEncoder | None:
    """Return the encoder in the steps of one engine; None where requests carry nothing."""
    encoder = pool.model.encoder
    if media is None or encoder is None:
        return None
    plan = pool.options.plan(prefills=True)
    budget = inf if plan.encoder_tokens is None else plan.encoder_tokens
    kept = kept_tokens(plan, encoder, alone=False)
    return FusedEncoder(env, media, costs, budget, whole_images=plan.whole_images, kept_tokens=kept)
