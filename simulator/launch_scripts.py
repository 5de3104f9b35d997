"""Shell scripts that start a deployment on machines: a script per pool, and one for the router before them."""

from __future__ import annotations

import json
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from simulator.launch_bench import PORT
from simulator.launch_servers import sglang_arguments, trtllm_config, vllm_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.launch_deployment import Deployment, ServedPool
    from simulator.launch_flags import Argument

__all__ = ["command_lines", "first_port", "router_policy", "server_scripts", "yaml_lines"]

#: By who makes the chips: what tells a server which of them are its own.
_VISIBLE: Final[Mapping[str, str]] = MappingProxyType(
    {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES", "huawei": "ASCEND_RT_VISIBLE_DEVICES"}
)
#: By router: the policy of vllm-router 0.1.17 and of sglang-router 0.3.2, and whether it chooses alike.
_POLICIES: Final[Mapping[str, Mapping[str, tuple[str, bool]]]] = MappingProxyType(
    {
        "vllm": {
            "round_robin": ("round_robin", True),
            "random": ("random", True),
            "least_loaded": ("power_of_two", False),
            "power_of_two": ("power_of_two", True),
            "prefix_affinity": ("cache_aware", True),
            "kv_aware": ("kv_aware", True),
            "session": ("consistent_hash", True),
        },
        "sglang": {
            "round_robin": ("round_robin", True),
            "random": ("random", True),
            "least_loaded": ("power_of_two", False),
            "power_of_two": ("power_of_two", True),
            "prefix_affinity": ("cache_aware", True),
            "kv_aware": ("cache_aware", False),
            "session": ("manual", True),
        },
        # Of trtllm-serve disaggregated.
        "trtllm": {
            "round_robin": ("round_robin", True),
            "random": ("round_robin", False),
            "least_loaded": ("load_balancing", True),
            "power_of_two": ("load_balancing", False),
            "prefix_affinity": ("kv_cache_aware", True),
            "kv_aware": ("kv_cache_aware", True),
            "session": ("conversation", True),
        },
    }
)
#: Each pool has a hundred ports.
_PORTS_OF_A_POOL: Final = 100
_FIRST_PORT, _FIRST_SIDE_CHANNEL, _FIRST_BOOTSTRAP = 8100, 5600, 8998


def first_port(pool: ServedPool) -> int:
    """Return the port of the first instance of a pool."""
    return _FIRST_PORT + _PORTS_OF_A_POOL * pool.number


def router_policy(pool: ServedPool, router: str) -> tuple[str, bool]:
    """Return the policy of an engine's router for that of a pool, and whether it chooses alike."""
    return _POLICIES[router][pool.table["router"]]


def server_scripts(deployment: Deployment) -> dict[str, str]:
    """Return the scripts that start the servers and the router of a deployment, and what they read, by file name."""
    engine = deployment.pools[0].engine
    found: dict[str, str] = {}
    for pool in deployment.pools:
        if engine == "trtllm":
            found[f"{pool.name}.yaml"] = yaml_lines(*trtllm_config(deployment, pool))
        found[f"serve-{pool.name}.sh"] = _server(deployment, pool)
    if deployment.servers > 1:
        found |= _trtllm_router(deployment) if engine == "trtllm" else {"route.sh": _router(deployment)}
    return found


def _server(deployment: Deployment, pool: ServedPool) -> str:
    base = sum(other.replicas * other.chips for other in deployment.pools[: pool.number])
    port = f"{first_port(pool)} + instance" if deployment.servers > 1 else f"{PORT}"
    visible = _VISIBLE[pool.vendor]
    head = [
        "#!/usr/bin/env bash",
        f"# Pool {pool.name}: {pool.replicas} x {pool.chips} {pool.table['chip']}.",
        f"# Give it the number of the instance, 0 to {pool.replicas - 1}, on the machine its chips are in.",
        "set -euo pipefail",
        'instance="${1:-0}"',
        f"first=$(( ({base} + instance * {pool.chips}) % {pool.node_chips} ))",
        f'export {visible}="${{{visible}:-$(seq -s, "$first" $((first + {pool.chips} - 1)))}}"',
    ]
    return "\n".join([*head, *_STARTS[pool.engine](deployment, pool, f'"$(({port}))"')]) + "\n"


def _vllm(deployment: Deployment, pool: ServedPool, port: str) -> list[str]:
    side = _FIRST_SIDE_CHANNEL + _PORTS_OF_A_POOL * pool.number
    channel = [
        'export VLLM_NIXL_SIDE_CHANNEL_HOST="${HOST:-127.0.0.1}"',
        f"export VLLM_NIXL_SIDE_CHANNEL_PORT=$(({side} + instance))",
    ]
    arguments = _array(vllm_arguments(deployment, pool))
    # The proxy before encoders finds by it what belongs to a request.
    known = " --enable-request-id-headers" if deployment.encoders else ""
    start = f'exec vllm serve {quote(deployment.model)} --port {port}{known} "${{args[@]}}"'
    return [*(channel if pool.hands_kv else ()), *arguments, start]


def _sglang(deployment: Deployment, pool: ServedPool, port: str) -> list[str]:
    bootstrap = (
        f' --disaggregation-bootstrap-port "$(({_FIRST_BOOTSTRAP} + instance))"' if pool.role == "prefill" else ""
    )
    start = f"exec python3 -m sglang.launch_server --model-path {quote(deployment.model)} --host 0.0.0.0 --port {port}"
    fed = [f'"{url}"' for encoder in deployment.encoders for url in _urls(encoder)] if deployment.is_fed(pool) else []
    encoders = f" --encoder-urls {' '.join(fed)}" if fed else ""
    return [*_array(sglang_arguments(deployment, pool)), f'{start}{bootstrap}{encoders} "${{args[@]}}"']


def _trtllm(deployment: Deployment, pool: ServedPool, port: str) -> list[str]:
    file = f'"$(dirname "$0")"/{quote(pool.name + ".yaml")}'
    start = f"exec trtllm-serve {quote(deployment.model)} --host 0.0.0.0 --port {port}"
    return [f"{start} --extra_llm_api_options {file}"]


_STARTS: Final = MappingProxyType({"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm})


def _array(arguments: Sequence[Argument]) -> list[str]:
    """Return a shell array with an argument in each line, and where it is from."""
    words = [(" ".join(quote(word) for word in one.words), one.is_chosen) for one in arguments]
    width = min(60, max((len(text) for text, _ in words), default=0))
    lines = [f"  {text:<{width}}  # {'chosen' if is_chosen else 'default'}" for text, is_chosen in words]
    return ["args=(", *lines, ")"]


def _urls(pool: ServedPool) -> list[str]:
    return [f"http://${{HOST:-127.0.0.1}}:{first_port(pool) + number}" for number in range(pool.replicas)]


_ROUTE_HEAD: Final = (
    "#!/usr/bin/env bash\n# The router that clients send to; HOST is where they all are; edit the rest.\n"
    "set -euo pipefail\n"
)


def _router(deployment: Deployment) -> str:
    engine, speakers = deployment.pools[0].engine, deployment.speakers
    if engine == "vllm" and deployment.encoders:
        return _encoder_proxy(deployment)
    command = "vllm-router" if engine == "vllm" else "python3 -m sglang_router.launch_router"
    if not deployment.apart:
        policy, _ = router_policy(speakers[0], engine)
        urls = " ".join(f'"{url}"' for pool in speakers for url in _urls(pool))
        words = [f"--policy {policy}", f"--worker-urls {urls}"]
    else:
        words = ["--vllm-pd-disaggregation" if engine == "vllm" else "--pd-disaggregation"]
        for stage in ("prefill", "decode"):
            pools = [pool for pool in deployment.pools if pool.role == stage]
            words.append(f"--{stage}-policy {router_policy(pools[0], engine)[0]}")
            for pool in pools:
                for number, url in enumerate(_urls(pool)):
                    bootstrap = f" {_FIRST_BOOTSTRAP + number}" if (engine, stage) == ("sglang", "prefill") else ""
                    words.append(f'--{stage} "{url}"{bootstrap}')
    lines = " \\\n  ".join([f"exec {command} --host 0.0.0.0 --port {PORT}", *words])
    return f"{_ROUTE_HEAD}{lines}\n"


def _encoder_proxy(deployment: Deployment) -> str:
    """Return what starts the proxy of vLLM's examples, since its router knows no servers that only encode."""

    def urls(stage: str | None) -> str:
        return ",".join(url for pool in deployment.pools if pool.role == stage for url in _urls(pool))

    folder = "${VLLM_SOURCE:?the folder of the source of vLLM}/examples/disaggregated/disaggregated_encoder"
    lines = [
        f'exec python3 "{folder}/disagg_epd_proxy.py" --host 0.0.0.0 --port {PORT}',
        f'--encode-servers-urls "{urls("encode")}"',
        f'--prefill-servers-urls "{urls("prefill") if deployment.apart else "disable"}"',
        f'--decode-servers-urls "{urls("decode" if deployment.apart else None)}"',
    ]
    return _ROUTE_HEAD + " \\\n  ".join(lines) + "\n"


def _trtllm_router(deployment: Deployment) -> dict[str, str]:
    """Return what ``trtllm-serve disaggregated`` reads; servers of both stages are behind a router of its own."""
    if not deployment.apart:
        return {"route.sh": _balancer(deployment)}
    config: dict[str, Any] = {"hostname": "0.0.0.0", "port": PORT, "backend": "pytorch"}  # noqa: S104 - clients come
    for kind, stage in (("context_servers", "prefill"), ("generation_servers", "decode")):
        pools = [pool for pool in deployment.pools if pool.role == stage]
        urls = [f"localhost:{first_port(pool) + number}" for pool in pools for number in range(pool.replicas)]
        router = {"type": router_policy(pools[0], "trtllm")[0]}
        config[kind] = {"num_instances": len(urls), "urls": urls, "router": router}
    script = '#!/usr/bin/env bash\nset -euo pipefail\nexec trtllm-serve disaggregated -c "$(dirname "$0")"/route.yaml\n'
    return {"route.yaml": yaml_lines(config, frozenset(config)), "route.sh": script}


def _balancer(deployment: Deployment) -> str:
    """Return a router for servers that have none of their own: that of SGLang speaks the same interface."""
    policy, _ = router_policy(deployment.pools[0], "sglang")
    urls = " ".join(f'"{url}"' for pool in deployment.pools for url in _urls(pool))
    return (
        "#!/usr/bin/env bash\n# trtllm-serve has no router for whole requests; SGLang's sends to any server.\n"
        f"set -euo pipefail\nexec python3 -m sglang_router.launch_router --host 0.0.0.0 --port {PORT} \\\n"
        f"  --policy {policy} \\\n"
        f"  --worker-urls {urls}\n"
    )


def command_lines(words: Sequence[str]) -> str:
    """Return a command as a shell takes it, a flag in each line."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(quote(word))
        else:
            lines[-1] += f" {quote(word)}"
    return " \\\n  ".join(lines)


def yaml_lines(config: Mapping[str, Any], own: frozenset[str], before: str = "", indent: int = 0) -> str:
    """Return tables of plain values as YAML, with where each value is from."""
    lines = []
    for key, value in config.items():
        name, pad = f"{before}{key}", "  " * indent
        if isinstance(value, dict):
            inside = frozenset(f"{name}.{inner}" for inner in value) if name in own else own
            lines.append(f"{pad}{key}:\n{yaml_lines(value, inside, f'{name}.', indent + 1)}".rstrip("\n"))
        else:
            lines.append(f"{pad}{key}: {json.dumps(value)}  # {'chosen' if name in own else 'default'}")
    return "\n".join(lines) + "\n"
