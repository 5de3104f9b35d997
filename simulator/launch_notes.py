"""What launch files leave to whoever starts a deployment, or cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulator.launch_bench import request_table
from simulator.launch_kubernetes import dynamo_router, model_label
from simulator.launch_scripts import router_policy
from simulator.launch_servers import EC_STORAGE

if TYPE_CHECKING:
    from simulator.launch_deployment import Deployment

__all__ = ["launch_notes"]

_LLM_D_POOL: Final = (
    "The chart starts servers alone: an InferencePool that selects `llm-d.ai/model={}` finds them, and its scheduler, "
    "not these files, says where a request goes."
)
#: ``examples/disaggregated/README.md`` of TensorRT-LLM; the generator of aiconfigurator 0.12 sets it likewise.
_TRTLLM_OVERLAP: Final = (
    "TensorRT-LLM's examples turn the overlap scheduler off where only prompts are computed, as not supported there: "
    "simulate that pool with `disable_overlap_scheduler = true`."
)
_VLLM_ENCODERS: Final = (
    (
        "vLLM's router knows no servers that only encode, so `route.sh` starts the proxy of vLLM's examples, which "
        "chooses servers by a rule of its own."
    ),
    (
        f"Features go through files in `{EC_STORAGE}`, which all machines must share: they take another way than the "
        "one that was simulated."
    ),
)


def launch_notes(deployment: Deployment, target: str) -> list[str]:
    """Return what launch files leave to whoever starts them, or cannot say, one sentence each.

    Parameters
    ----------
    deployment
        What is launched.
    target
        What starts it, a key of :data:`simulator.launch_folder.TARGETS`.
    """
    found = []
    weights = deployment.scenario["model"]["weights"]
    if weights not in {None, "bf16", "fp8"}:
        found.append(f"Weights were simulated as {weights}: name a checkpoint in that format.")
    if deployment.servers > 1 or target == "llm-d":
        found += _routing_notes(deployment, target)
    if any(
        pool.engine == "trtllm" and pool.role == "prefill" and not pool.filled["disable_overlap_scheduler"]
        for pool in deployment.pools
    ):
        found.append(_TRTLLM_OVERLAP)
    if request_table(deployment.folder)["images"].any():
        found.append(
            "Requests were simulated with images; `requests.jsonl` has text of as many tokens in their place, so a "
            "run of it encodes nothing: send the traffic itself."
        )
    if deployment.summary["prefix_cache_hit_rate"] > 0:
        share = deployment.summary["prefix_cache_hit_rate"]
        found.append(
            f"{share:.1%} of the prompt tokens were found in the cache; `requests.jsonl` shares no prefixes, so a run "
            "of it will be slower: send the traffic itself."
        )
    if deployment.scenario["workload"]["warmup_s"]:
        found.append(
            f"The first {deployment.scenario['workload']['warmup_s']:g} s are warm-up, which the figures leave out."
        )
    if any(pool.table["power_cap"] != 1 for pool in deployment.pools):
        found.append("Chips were simulated with a power cap: set it (`nvidia-smi -pl`).")
    return list(dict.fromkeys(found))


def _routing_notes(deployment: Deployment, target: str) -> list[str]:
    """Return where a router chooses otherwise than that of the simulation, and what it needs."""
    if target == "llm-d":
        return [_LLM_D_POOL.format(model_label(deployment.model))]
    if target == "vllm" and deployment.encoders:
        return list(_VLLM_ENCODERS)
    if target == "dynamo":
        choices = [dynamo_router(deployment)]
    else:
        router = "sglang" if target == "trtllm" and not deployment.apart else target
        choices = [(pool.table["router"], *router_policy(pool, router)) for pool in deployment.speakers]
    return [f"The router has no {own}; {policy} comes nearest." for own, policy, alike in choices if not alike]
