"""The pools that a measured case ran on: chips, layout, engine and its options."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hardware.errors import CaseError
from simulator.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.cases import Case
    from simulator.launch_rules import LaunchRules, Settings

__all__ = ["case_facts", "case_pools"]

_TEXT_FACTS: Final = ("case_id", "engine_version", "precision", "recipe", "mtp_label")

#: What columns are called among the options of each engine.
_PUBLISHED: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "vllm": MappingProxyType(
            {
                "max_num_seqs": "max_num_seqs",
                "max_num_batched_tokens": "max_num_batched_tokens",
                "gpu_mem_util": "gpu_memory_utilization",
                "block_size": "block_size",
            }
        ),
        "sglang": MappingProxyType(
            {
                "max_num_seqs": "max_running_requests",
                "max_num_batched_tokens": "chunked_prefill_size",
                "gpu_mem_util": "mem_fraction_static",
                "block_size": "page_size",
            }
        ),
        "trtllm": MappingProxyType({"max_num_seqs": "max_batch_size", "max_num_batched_tokens": "max_num_tokens"}),
    }
)


class _Workers(NamedTuple):
    """Equal instances: how many, and how each is laid out."""

    replicas: int
    tensor: int
    data: int = 1
    expert: int = 1
    pipeline: int = 1

    @property
    def facts(self) -> dict[str, float]:
        """What rules may ask of them."""
        return {
            "tensor_parallel": self.tensor,
            "data_parallel": self.data,
            "expert_parallel": self.expert,
            "chips": self.tensor * self.data * self.pipeline,
        }

    @property
    def table(self) -> dict[str, int]:
        """Keys of a pool; those of the most usual layout are left out."""
        found = {
            "replicas": self.replicas,
            "tensor_parallel": self.tensor,
            "pipeline_parallel": self.pipeline,
            "data_parallel": self.data,
            "expert_parallel": self.expert,
        }
        return {key: value for key, value in found.items() if value != 1}


def case_facts(case: Case, chip: str) -> dict[str, str | float]:
    """Return what rules may ask of a case, its layout left out.

    Parameters
    ----------
    case
        The case.
    chip
        What its chip is called here.
    """
    facts: dict[str, str | float] = {name: case.texts[name] for name in _TEXT_FACTS if name in case.texts}
    facts |= {"origin": case.origin, "engine": case.engine, "model": case.model, "chip": chip, "mode": case.mode}
    publisher, slash, _ = case.texts.get("model", "").partition("/")
    if slash:
        facts["publisher"] = publisher
    if case.date is not None:
        facts["date"] = case.date
    drafts = re.search(r"_mtp([1-9])", case.texts.get("recipe", ""))
    if drafts:
        facts["drafts"] = float(drafts[1])
    columns = {"isl": "isl_mean", "osl": "osl_mean", "concurrency": "concurrency"}
    return facts | {name: case.numbers[column] for name, column in columns.items() if column in case.numbers}


def case_pools(case: Case, rules: LaunchRules) -> tuple[list[dict[str, Any]], Settings]:
    """Return the ``[[pool]]`` tables of a case, and the settings that all of it was launched with.

    Raises
    ------
    CaseError
        If a rule says that such a case is not replayed, or its layout is not known.
    """
    chip = rules.chip_name(case)
    facts = case_facts(case, chip)
    if case.mode == "agg":
        settings = rules.settings(facts | _colocated(case).facts)
        return [_pool(case, chip, "colocated", _colocated(case), settings)], settings
    pools = []
    settings = rules.settings(facts)
    for stage in ("prefill", "decode"):
        workers = _workers(case, stage)
        own = rules.settings(facts | workers.facts | {"stage": stage} | _batch(case, stage))
        pools.append(_pool(case, chip, stage, workers, own) | {"stages": [stage]})
    return pools, settings


def _pool(case: Case, chip: str, name: str, workers: _Workers, settings: Settings) -> dict[str, Any]:
    options = dict(settings.engine_options)
    for column, option in _PUBLISHED.get(case.engine, {}).items():
        if column in case.numbers:
            value = case.numbers[column]
            options[option] = value if column == "gpu_mem_util" else int(value)
    table: dict[str, Any] = {"name": name, "chip": chip, "engine": _engine(case), **workers.table, **settings.pool}
    if "kv_blocks" in case.numbers:
        table["limits"] = {"kv_blocks": int(case.numbers["kv_blocks"])}
    return table | {"engine_options": options}


def _engine(case: Case) -> str:
    """Return the engine, and the release of vLLM as far as it is told apart."""
    version = re.match(r"0\.(\d+)\b", case.texts.get("engine_version", ""))
    pinned = f"{case.engine}@0.{version[1]}" if version else case.engine
    return pinned if pinned in ENGINES else case.engine


def _colocated(case: Case) -> _Workers:
    """Return the layout of the one instance of a colocated run.

    Tables of published runs give the ranks of attention data parallelism beside a ``tp`` that is either the chips of
    all ranks or, per rank, 1.
    """
    tensor, data, expert, pipeline = (int(_first(case, name)) for name in ("tp", "dp", "ep", "pp"))
    if data == tensor:
        tensor = 1
    return _Workers(1, tensor, data, min(expert, tensor * data), pipeline)


def _first(case: Case, name: str) -> float:
    """Return a number of the layout as corrected, else as published, else 1."""
    return case.numbers.get(f"{name}_true") or case.numbers.get(name) or 1


def _workers(case: Case, stage: str) -> _Workers:
    """Return the workers of a stage, as recovered from the recipe, else as published."""
    numbers = case.numbers
    if f"{stage}_num_workers_recovered" in numbers:
        replicas, chips, expert = (
            int(numbers.get(f"{stage}_{name}_recovered", 1)) for name in ("num_workers", "tp_size", "moe_ep_size")
        )
        ranks = case.texts.get(f"{stage}_attention_dp_size_recovered") == "True"
        return _Workers(replicas, 1 if ranks else chips, chips if ranks else 1, min(expert, chips))
    if f"{stage}_num_workers" not in numbers:
        raise CaseError(f"the number of {stage} workers was neither published nor can it be told from the recipe")
    replicas, tensor, data, expert = (
        int(numbers.get(f"{stage}_{name}") or 1)
        for name in ("num_workers", "tp_size", "attention_dp_size", "moe_ep_size")
    )
    if data == tensor:
        tensor = 1
    return _Workers(replicas, tensor, data, min(expert, tensor * data))


def _batch(case: Case, stage: str) -> dict[str, float]:
    """Return the sequences that a worker of a stage takes at most, where the recipe or the row says it."""
    recipe = re.search(r"batch(\d+)", case.texts.get("recipe", ""))
    if stage == "decode" and recipe:
        return {"batch": float(recipe[1])}
    found = case.numbers.get(f"{stage}_batch_size")
    return {"batch": found} if found else {}
