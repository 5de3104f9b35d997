"""Deployments on Kubernetes: Dynamo's graph, and the values of llm-d's chart."""

from __future__ import annotations

import json
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import yaml

from hardware.errors import UserError
from simulator.launch_bench import PORT
from simulator.launch_servers import sglang_arguments, trtllm_config, vllm_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simulator.launch_deployment import Deployment, ServedPool
    from simulator.launch_flags import Argument

__all__ = ["DYNAMO_RELEASE", "dynamo_files", "dynamo_router", "llm_d_files", "model_label"]

#: The release whose graph, images and flags these are.
DYNAMO_RELEASE: Final = "1.6.1"
_IMAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        engine: f"nvcr.io/nvidia/ai-dynamo/{runtime}-runtime:{DYNAMO_RELEASE}"
        for engine, runtime in (("vllm", "vllm"), ("sglang", "sglang"), ("trtllm", "tensorrtllm"))
    }
)
#: By router: what the frontend is told, and whether it chooses alike.
_ROUTER_WORDS: Final[Mapping[str, tuple[tuple[str, ...], bool]]] = MappingProxyType(
    {
        "round_robin": (("round-robin",), True),
        "random": (("random",), True),
        "least_loaded": (("least-loaded",), True),
        "power_of_two": (("power-of-two",), True),
        "prefix_affinity": (("kv", "--no-router-kv-events"), True),
        "kv_aware": (("kv",), True),
        "session": (("round-robin",), False),
    }
)
#: What workers need to tell what their caches hold; those of vLLM do so by themselves.
_KV_EVENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "vllm": (),
        "sglang": (
            "--kv-events-config",
            json.dumps({"publisher": "zmq", "topic": "kv-events", "endpoint": "tcp://*:5557"}),
        ),
        "trtllm": ("--publish-kv-events",),
    }
)
#: Flags of newer engines than those of this release (vLLM 0.31.0, SGLang 0.5.21, TensorRT-LLM 1.3.0rc29).
_TOO_NEW: Final = frozenset({"--prefill-decode-interval-min-bs"})
_LLM_D_IMAGE: Final = "ghcr.io/llm-d/llm-d-cuda:latest"
#: A bound of the volume that weights are fetched into, no reservation: a trillion weights of 16 bits.
_MODEL_VOLUME: Final = "2Ti"
#: What the chart says itself, of its ``parallelism``.
_SAID_BY_CHART: Final = frozenset({"--tensor-parallel-size", "--data-parallel-size"})


def dynamo_files(deployment: Deployment) -> dict[str, str]:
    """Return the graph of a deployment for Dynamo's operator (``nvidia.com/v1beta1``), by file name.

    Raises
    ------
    UserError
        If its chips are not NVIDIA's, or an option is too new for the engine of the release.
    """
    _check_nvidia(deployment, "Dynamo's runtime images are")
    engine, first = deployment.pools[0].engine, _first_prefilling(deployment)
    words = ["--http-port", str(PORT), "--router-mode", *_ROUTER_WORDS[first.table["router"]][0]]
    components = [_component("Frontend", "frontend", 1, _main(engine, "dynamo.frontend", words))]
    names = _component_names(deployment.pools)
    for pool, name in zip(deployment.pools, names, strict=True):
        container = _main(engine, f"dynamo.{engine}", _worker_words(deployment, pool))
        container["resources"] = {"limits": {"nvidia.com/gpu": str(pool.chips)}}
        components.append(_component(name, pool.role or "worker", pool.replicas, container))
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": _kubernetes_name(str(deployment.scenario["name"]))},
        "spec": {"components": components},
    }
    return {"dynamo.yaml": yaml.safe_dump(graph, sort_keys=False, width=120)}


def dynamo_router(deployment: Deployment) -> tuple[str, str, bool]:
    """Return the router of a deployment, the mode of Dynamo's for it, and whether that chooses alike."""
    own = str(_first_prefilling(deployment).table["router"])
    words, alike = _ROUTER_WORDS[own]
    return own, words[0], alike


def _first_prefilling(deployment: Deployment) -> ServedPool:
    return next(pool for pool in deployment.pools if "prefill" in pool.stages)


def _component(name: str, kind: str, replicas: int, container: Mapping[str, Any]) -> dict[str, Any]:
    pod = {"spec": {"containers": [container]}}
    return {"name": name, "type": kind, "replicas": replicas, "podTemplate": pod}


def _main(engine: str, module: str, words: list[str]) -> dict[str, Any]:
    return {"name": "main", "image": _IMAGES[engine], "command": ["python3", "-m", module], "args": words}


def _worker_words(deployment: Deployment, pool: ServedPool) -> list[str]:
    mode = ["--disaggregation-mode", pool.role] if pool.role is not None else []
    events = _KV_EVENTS[pool.engine] if pool.table["router"] == "kv_aware" and "prefill" in pool.stages else ()
    if pool.engine == "vllm":
        words = _flat(_taken(deployment, pool, vllm_arguments(deployment, pool)))
        return ["--model", deployment.model, *mode, *words, *events]
    if pool.engine == "sglang":
        words = _flat(_taken(deployment, pool, sglang_arguments(deployment, pool)))
        return ["--model-path", deployment.model, "--host", "0.0.0.0", *words, *events]  # noqa: S104 - others fetch KV
    config, _ = trtllm_config(deployment, pool)
    return ["--model", deployment.model, *mode, "--override-engine-args", json.dumps(config), *events]


def _taken(deployment: Deployment, pool: ServedPool, arguments: Iterable[Argument]) -> list[Argument]:
    """Return what the engine of Dynamo's release takes; the others are as it does anyway, if nobody chose them."""
    found = []
    for one in arguments:
        if one.words[0] not in _TOO_NEW:
            found.append(one)
        elif one.is_chosen:
            raise UserError(
                f"{deployment.folder}: pool {pool.name!r} sets {one.words[0]}, which the engine of Dynamo "
                f"{DYNAMO_RELEASE} does not have; leave it out, or use --target {pool.engine}"
            )
    return found


def _flat(arguments: Iterable[Argument]) -> list[str]:
    return [word for one in arguments for word in one.words]


def _component_names(pools: Iterable[ServedPool]) -> list[str]:
    """Return names for pools that no two share, whatever letters Kubernetes takes of theirs."""
    found: list[str] = []
    for pool in pools:
        name = "".join(part.capitalize() for part in _kubernetes_name(pool.name).split("-")) + "Worker"
        tries = (name if number == 1 else f"{name}{number}" for number in count(1))
        found.append(next(one for one in tries if one not in found))
    return found


def _kubernetes_name(name: str) -> str:
    """Return a name of lower-case letters, digits and hyphens, as Kubernetes wants it."""
    found = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in found.split("-") if part)[:50].rstrip("-") or "deployment"


def _check_nvidia(deployment: Deployment, whose: str) -> None:
    for pool in deployment.pools:
        if pool.vendor != "nvidia":
            raise UserError(
                f"{deployment.folder}: pool {pool.name!r} is on {pool.table['chip']}, but {whose} for NVIDIA's chips; "
                f"use --target {pool.engine}"
            )


def llm_d_files(deployment: Deployment) -> dict[str, str]:
    """Return the values of llm-d's chart ``llm-d-modelservice`` for a deployment, by file name.

    Raises
    ------
    UserError
        If it has more pools of a stage than the chart has, or chips that are not NVIDIA's.
    """
    _check_nvidia(deployment, "llm-d's image is")
    apart = deployment.apart
    by_role = {role: [pool for pool in deployment.pools if role in pool.stages] for role in ("prefill", "decode")}
    for role, pools in by_role.items():
        if len(pools) > 1:
            raise UserError(
                f"{deployment.folder}: {len(pools)} pools of {role}, but llm-d's chart has one; use --target dynamo"
            )
    model = deployment.model
    values: dict[str, Any] = {
        "modelArtifacts": {
            "name": model,
            "uri": f"hf://{model}",
            "size": _MODEL_VOLUME,
            "labels": {"llm-d.ai/model": model_label(model)},
        },
        "accelerator": {"type": "nvidia"},
        "routing": {"servicePort": PORT, "proxy": {"enabled": apart}},
        "decode": _role(deployment, by_role["decode"][0]),
        "prefill": _role(deployment, by_role["prefill"][0]) if apart else {"create": False, "replicas": 0},
    }
    return {"llm-d-values.yaml": yaml.safe_dump(values, sort_keys=False, width=120)}


def model_label(model: str) -> str:
    """Return the label by which an InferencePool finds the servers of a model: 63 characters at most."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in model.rpartition("/")[2])
    return kept.strip("-")[:63].rstrip("-") or "model"


def _role(deployment: Deployment, pool: ServedPool) -> dict[str, Any]:
    said = (one for one in vllm_arguments(deployment, pool) if one.words[0] not in _SAID_BY_CHART)
    ranks = pool.table["data_parallel"]
    container: dict[str, Any] = {
        "name": "vllm",
        "image": _LLM_D_IMAGE,
        "modelCommand": "vllmServe",
        "args": _flat(said),
        "resources": {kind: {"nvidia.com/gpu": str(pool.chips)} for kind in ("limits", "requests")},
        "mountModelVolume": True,
    }
    if pool.hands_kv:
        own_address = {"fieldRef": {"fieldPath": "status.podIP"}}
        container["env"] = [{"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": own_address}]
    return {
        "create": True,
        "replicas": pool.replicas,
        "parallelism": {"tensor": pool.table["tensor_parallel"], "data": ranks, "dataLocal": ranks, "workers": 1},
        "containers": [container],
    }
