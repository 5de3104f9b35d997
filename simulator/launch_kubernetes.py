"""Deployments on Kubernetes: Dynamo's graph, and the values of llm-d's chart."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import yaml

from hardware.errors import UserError
from simulator.launch_servers import sglang_arguments, trtllm_config, vllm_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.launch_deployment import Deployment, ServedPool
    from simulator.launch_flags import Argument

__all__ = ["dynamo_files", "llm_d_files"]

#: The runtime images of Dynamo's release whose generator was read (aiconfigurator 0.12).
_IMAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        engine: f"nvcr.io/nvidia/ai-dynamo/{runtime}-runtime:1.3.0"
        for engine, runtime in (("vllm", "vllm"), ("sglang", "sglang"), ("trtllm", "tensorrtllm"))
    }
)
_ROUTER_MODES: Final[Mapping[str, str]] = MappingProxyType(
    {"round_robin": "round-robin", "random": "random", "prefix_affinity": "kv", "kv_aware": "kv"}
)
_LLM_D_IMAGE: Final = "ghcr.io/llm-d/llm-d-cuda:latest"


def dynamo_files(deployment: Deployment) -> dict[str, str]:
    """Return the graph of a deployment for Dynamo's operator (``nvidia.com/v1alpha1``), by file name."""
    engine = deployment.pools[0].engine
    mode = _ROUTER_MODES.get(deployment.pools[0].table["router"], "round-robin")
    frontend = {
        "componentType": "frontend",
        "replicas": 1,
        "extraPodSpec": _container(engine, "dynamo.frontend", ["--http-port", "8000", "--router-mode", mode]),
    }
    services: dict[str, Any] = {"Frontend": frontend}
    for pool in deployment.pools:
        services[_service(pool)] = _worker(deployment, pool)
    graph = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": _kubernetes_name(str(deployment.scenario["name"]))},
        "spec": {"services": services},
    }
    return {"dynamo.yaml": yaml.safe_dump(graph, sort_keys=False, width=120)}


def _worker(deployment: Deployment, pool: ServedPool) -> dict[str, Any]:
    role = {} if pool.role is None else {"subComponentType": pool.role}
    return {
        "componentType": "worker",
        **role,
        "replicas": pool.replicas,
        "resources": {"limits": {"gpu": str(pool.chips)}},
        "extraPodSpec": _container(pool.engine, f"dynamo.{pool.engine}", _words(deployment, pool)),
    }


def _words(deployment: Deployment, pool: ServedPool) -> list[str]:
    mode = [] if pool.role is None else ["--disaggregation-mode", pool.role]
    if pool.engine == "vllm":
        return ["--model", deployment.model, *mode, *_flat(vllm_arguments(deployment, pool))]
    if pool.engine == "sglang":
        return ["--model-path", deployment.model, *_flat(sglang_arguments(deployment, pool))]
    config, _ = trtllm_config(deployment, pool)
    return ["--model-path", deployment.model, *mode, "--override-engine-args", json.dumps(config)]


def _flat(arguments: Sequence[Argument]) -> list[str]:
    return [word for one in arguments for word in one.words]


def _container(engine: str, module: str, words: list[str]) -> dict[str, Any]:
    return {"mainContainer": {"image": _IMAGES[engine], "command": ["python3", "-m", module], "args": words}}


def _service(pool: ServedPool) -> str:
    return "".join(part.capitalize() for part in _kubernetes_name(pool.name).split("-")) + "Worker"


def _kubernetes_name(name: str) -> str:
    """Return a name of lower-case letters, digits and hyphens, as Kubernetes wants it."""
    found = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in found.split("-") if part)[:50] or "deployment"


def llm_d_files(deployment: Deployment) -> dict[str, str]:
    """Return the values of llm-d's chart ``llm-d-modelservice`` for a deployment, by file name.

    Raises
    ------
    UserError
        If it has more pools of a stage than the chart has.
    """
    apart = deployment.apart
    by_role = {role: [pool for pool in deployment.pools if role in pool.stages] for role in ("prefill", "decode")}
    for role, pools in by_role.items():
        if len(pools) > 1:
            raise UserError(
                f"{deployment.folder}: {len(pools)} pools of {role}, but llm-d's chart has one; use --target dynamo"
            )
    values: dict[str, Any] = {
        "modelArtifacts": {"name": deployment.model, "uri": f"hf://{deployment.model}", "size": "100Gi"},
        "routing": {"servicePort": 8000, "inferencePool": {"create": True}, "epp": {"create": True}},
        "decode": _role(deployment, by_role["decode"][0]),
        "prefill": _role(deployment, by_role["prefill"][0]) if apart else {"create": False},
    }
    return {"llm-d-values.yaml": yaml.safe_dump(values, sort_keys=False, width=120)}


def _role(deployment: Deployment, pool: ServedPool) -> dict[str, Any]:
    gpus = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "huawei": "huawei.com/Ascend910"}[pool.vendor]
    container = {
        "name": "vllm",
        "image": _LLM_D_IMAGE,
        "modelCommand": "vllmServe",
        "args": _flat(vllm_arguments(deployment, pool)),
        "resources": {"limits": {gpus: pool.chips}, "requests": {gpus: pool.chips}},
    }
    return {"create": True, "replicas": pool.replicas, "containers": [container]}
