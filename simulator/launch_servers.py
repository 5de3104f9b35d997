"""What the servers of a deployment are told: layout, formats, stage and options, engine by engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hardware.errors import UserError
from simulator.engines import ENGINES
from simulator.launch_flags import SGLANG_FLAGS, VLLM_FLAGS, Argument, chosen, option_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from simulator.launch_deployment import Deployment, ServedPool

__all__ = ["EC_STORAGE", "KV_CONFIG", "check_launchable", "sglang_arguments", "trtllm_config", "vllm_arguments"]

#: Instances hand KV over with it; the router says who prefills and who decodes.
KV_CONFIG: Final = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both"})
#: The folder by which vLLM's encoders hand features over.
EC_STORAGE: Final = "/tmp/ec_cache"  # noqa: S108 - named for people to change
#: Options of vLLM that not every release has: :meth:`simulator.vllm_eras.Era.has` knows them.
_LATER: Final = frozenset(
    {
        "watermark",
        "prefill_schedule_interval",
        "long_prefill_token_threshold_adaptive",
        "scheduler_reserve_full_isl",
        "async_scheduling",
    }
)
#: Weights that an engine makes itself of a checkpoint in 16 bits; others come as such checkpoints.
_MADE_AT_LOAD: Final = ("fp8",)


def check_launchable(deployment: Deployment, engine: str | None, *, encodes: bool) -> None:
    """Check that an engine can serve a deployment as it was simulated.

    Parameters
    ----------
    deployment
        The deployment.
    engine
        The engine; None for whichever its pools name.
    encodes
        The target has servers that only encode.

    Raises
    ------
    UserError
        Naming the pool and what cannot be said.
    """
    own = {pool.engine for pool in deployment.pools}
    if len(own) > 1:
        raise UserError(f"{deployment.folder}: pools of {' and '.join(sorted(own))}, which hand no KV to each other")
    for pool in deployment.pools:
        _check_pool(deployment, pool, engine, encodes=encodes)
    if deployment.apart and any(pool.role is None for pool in deployment.pools):
        raise UserError(
            f"{deployment.folder}: pools of both stages beside pools of one, which no router of an engine does; "
            "simulate one kind"
        )


def _check_pool(deployment: Deployment, pool: ServedPool, engine: str | None, *, encodes: bool) -> None:
    def refuse(what: str) -> UserError:
        return UserError(f"{deployment.folder}: pool {pool.name!r} {what}")

    if pool.engine not in {"vllm", "sglang", "trtllm"}:
        raise refuse(
            f"is of engine {pool.table['engine']!r}, which is simulated alone; expected vllm, sglang or trtllm"
        )
    if engine is not None and pool.engine != engine:
        raise refuse(f"was simulated with {pool.engine}, not {engine}; simulate it with engine = {engine!r} first")
    _check_encoding(deployment, pool, refuse, encodes=encodes)
    if pool.table.get("shares"):
        raise refuse(f"shares the chips of {pool.table['shares']!r}, which no engine is told; give it its own")
    if pool.chips > pool.node_chips:
        raise refuse(
            f"has instances of {pool.chips} chips on nodes of {pool.node_chips}, and instances of several nodes are "
            "not covered; simulate smaller ones, or start them by hand"
        )
    ranks = pool.table["tensor_parallel"] * pool.table["data_parallel"]
    if pool.engine == "vllm" and pool.table["expert_parallel"] not in {1, ranks}:
        raise refuse(
            f"has expert_parallel {pool.table['expert_parallel']}, but vLLM spreads experts over all "
            f"{ranks} chips or none; simulate 1 or {ranks}"
        )
    if pool.engine == "trtllm":
        _check_trtllm(pool, refuse)


def _check_encoding(
    deployment: Deployment, pool: ServedPool, refuse: Callable[[str], UserError], *, encodes: bool
) -> None:
    if pool.role == "encode" and not encodes:
        raise refuse(
            "only encodes, which files of this target do not cover (those of vllm and sglang do); "
            "encode where prompts are computed"
        )
    if "encode" in pool.stages and pool.role == "decode":
        raise refuse("encodes and decodes but computes no prompts, which no engine does; encode elsewhere")
    if pool.role != "encode" and "encode" in pool.stages and deployment.encoders:
        raise refuse("encodes beside a pool that only encodes, and no engine splits images so; simulate one kind")


def _check_trtllm(pool: ServedPool, refuse: Callable[[str], UserError]) -> None:
    if pool.table["redundant_experts"]:
        raise refuse("has redundant_experts, which TensorRT-LLM reads from a file of its own; leave them out")
    if pool.filled["scheduler_config"]["context_chunking_policy"] == "FORCE_CHUNK":
        raise refuse(
            "has context_chunking_policy FORCE_CHUNK, which trtllm-serve takes from no file; "
            "simulate FIRST_COME_FIRST_SERVED or EQUAL_PROGRESS"
        )


def vllm_arguments(deployment: Deployment, pool: ServedPool) -> list[Argument]:
    """Return what ``vllm serve`` is told after the model."""
    table = pool.table
    found = [
        chosen(flag, table[key])
        for flag, key in (
            ("--tensor-parallel-size", "tensor_parallel"),
            ("--pipeline-parallel-size", "pipeline_parallel"),
            ("--data-parallel-size", "data_parallel"),
        )
        if table[key] > 1
    ]
    if table["expert_parallel"] > 1:
        found.append(chosen("--enable-expert-parallel"))
    if table["expert_exchange"] == "all_to_all":
        found.append(
            chosen("--all2all-backend", "deepep_low_latency" if pool.role == "decode" else "deepep_high_throughput")
        )
    if table["redundant_experts"]:
        config = json.dumps({"num_redundant_experts": table["redundant_experts"]})
        found += [chosen("--enable-eplb"), chosen("--eplb-config", config)]
    found += _formats(deployment, "--quantization", "--kv-cache-dtype", "fp8")
    if table.get("speculation"):
        draft = {"method": "mtp", "num_speculative_tokens": table["speculation"]["draft_tokens"]}
        found.append(chosen("--speculative-config", json.dumps(draft)))
    if table["limits"]["kv_blocks"]:
        found.append(chosen("--num-gpu-blocks-override", table["limits"]["kv_blocks"]))
    if pool.filled.get("kv_offloading_size"):
        found.append(chosen("--kv-offloading-backend", "native"))
    if pool.hands_kv:
        found.append(chosen("--kv-transfer-config", KV_CONFIG))
    found += _vllm_features(deployment, pool)
    era = ENGINES[table["engine"]].era
    filled = {
        option: value
        for option, value in pool.filled.items()
        if option not in _LATER or era is None or era.has(option) or option in pool.own
    }
    return found + list(option_arguments(VLLM_FLAGS, filled, pool.own, role=pool.role, ranks=1))


def _vllm_features(deployment: Deployment, pool: ServedPool) -> Iterator[Argument]:
    """Yield how features of images go from servers that encode to those that compute prompts."""
    if pool.role != "encode" and not deployment.is_fed(pool):
        return
    config = {
        "ec_connector": "ECExampleConnector",
        "ec_role": "ec_producer" if pool.role == "encode" else "ec_consumer",
        "ec_connector_extra_config": {"shared_storage_path": EC_STORAGE},
    }
    if pool.role == "encode":
        yield chosen("--mm-encoder-only")
    yield chosen("--ec-transfer-config", json.dumps(config))


def sglang_arguments(deployment: Deployment, pool: ServedPool) -> list[Argument]:
    """Return what ``sglang.launch_server`` is told after the model; its attention ranks share its tensor ranks."""
    table, ranks = pool.table, pool.table["data_parallel"]
    sizes = (
        ("--tp-size", table["tensor_parallel"] * ranks),
        ("--pp-size", table["pipeline_parallel"]),
        ("--dp-size", ranks),
        ("--ep-size", table["expert_parallel"]),
    )
    found = [chosen(flag, size) for flag, size in sizes if size > 1]
    if ranks > 1:
        found.append(chosen("--enable-dp-attention"))
    if table["expert_exchange"] == "all_to_all":
        found.append(chosen("--moe-a2a-backend", "deepep"))
    if table["redundant_experts"]:
        found += [chosen("--enable-eplb"), chosen("--ep-num-redundant-experts", table["redundant_experts"])]
    found += _formats(deployment, "--quantization", "--kv-cache-dtype", "fp8_e4m3")
    if table.get("speculation"):
        drafts = table["speculation"]["draft_tokens"]
        found += [
            chosen("--speculative-algorithm", "NEXTN"),
            chosen("--speculative-num-steps", drafts),
            chosen("--speculative-eagle-topk", 1),
            chosen("--speculative-num-draft-tokens", drafts + 1),
        ]
    blocks = table["limits"]["kv_blocks"]
    if blocks and "max_total_tokens" not in pool.own:
        found.append(chosen("--max-total-tokens", blocks * pool.filled["page_size"]))
    if pool.filled["enable_priority_scheduling"]:
        found.append(chosen("--schedule-low-priority-values-first"))
    mooncake = str(deployment.scenario["network"]["kv_transfer"]["connector"]).startswith("mooncake")
    if pool.hands_kv:
        backend = "mooncake" if mooncake else "nixl"
        found += [chosen("--disaggregation-mode", pool.role), chosen("--disaggregation-transfer-backend", backend)]
    if pool.role == "encode" or deployment.is_fed(pool):
        found.append(chosen("--encoder-only" if pool.role == "encode" else "--language-only"))
        backend = "mooncake" if mooncake else "auto"
        found.append(Argument(("--encoder-transfer-backend", backend), is_chosen=mooncake))
    return found + list(option_arguments(SGLANG_FLAGS, pool.filled, pool.own, role=pool.role, ranks=ranks))


def _formats(deployment: Deployment, weights: str, cache: str, narrow: str) -> Iterator[Argument]:
    model = deployment.scenario["model"]
    if model["weights"] in _MADE_AT_LOAD:
        yield chosen(weights, model["weights"])
    if model["kv_cache"] == "fp8":
        yield chosen(cache, narrow)


#: Names of the YAML file of ``trtllm-serve`` where they are not those of the option.
_TRTLLM_NAMES: Final = {"max_model_len": "max_seq_len"}


def trtllm_config(deployment: Deployment, pool: ServedPool) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the YAML file of ``trtllm-serve``, and the dotted keys of it that the scenario chose."""
    table, ranks = pool.table, pool.table["data_parallel"]
    layout: dict[str, Any] = {
        "tensor_parallel_size": table["tensor_parallel"] * ranks,
        "pipeline_parallel_size": table["pipeline_parallel"],
        "moe_expert_parallel_size": table["expert_parallel"],
        "enable_attention_dp": ranks > 1,
    }
    config = layout | {_TRTLLM_NAMES.get(key, key): value for key, value in _known(pool.filled).items()}
    own = {*layout, *(_TRTLLM_NAMES.get(key, key) for key in _dotted(pool.own))}
    if ranks == 1:
        config.pop("attention_dp_config", None)
    cache = config["kv_cache_config"]
    if deployment.scenario["model"]["kv_cache"] == "fp8":
        cache["dtype"] = "fp8"
        own.add("kv_cache_config.dtype")
    if table["limits"]["kv_blocks"]:
        cache["max_tokens"] = table["limits"]["kv_blocks"] * cache["tokens_per_block"]
        own.add("kv_cache_config.max_tokens")
    if table.get("speculation"):
        drafts = table["speculation"]["draft_tokens"]
        config["speculative_config"] = {"decoding_type": "MTP", "max_draft_len": drafts}
        own.add("speculative_config")
    if pool.role is not None:
        config["cache_transceiver_config"] = {"backend": "NIXL", "max_tokens_in_buffer": config["max_seq_len"]}
        own.add("cache_transceiver_config")
    return config, frozenset(own)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that are None, tables of them likewise."""
    found = {key: _known(value) if isinstance(value, dict) else value for key, value in options.items()}
    return {key: value for key, value in found.items() if value is not None}


def _dotted(options: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"
