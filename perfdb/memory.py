"""How many KV blocks an engine finds room for on each chip.

The budget is a share of what the driver shows of the chip; from it go the weights, the activations of the
largest step, communication buffers, the CUDA context and the captured graphs. What is left is KV blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hardware.errors import CapacityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hardware.catalogue import Chip
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec

__all__ = ["MemoryBudget", "MemoryPlan", "plan_memory"]

#: Memory the driver reports but a process never sees (nvidia-smi total minus the CUDA runtime's total):
#: 0.4 to 0.8 GB on A100, H100, H200 and RTX 4090; recalled from both tools' outputs.
DRIVER_RESERVE_BYTES = 600_000_000
#: CUDA context and libraries of one process, beyond the reserve; chosen so that the KV blocks vLLM 0.15
#: reports for three dense models on H100 come out within 1 % (tests/test_perfdb_memory.py).
CONTEXT_BYTES = 250_000_000
#: Buffers of collectives: NCCL 342 MB over 2 chips and 392 MB over more (aiconfigurator-core 0.12,
#: ``misc.nccl_mem``), plus 64 MB for the engine's own all-reduce workspace.
_COLLECTIVE_BYTES = {1: 0, 2: 342 * 2**20 + 64 * 2**20}
_WIDE_COLLECTIVE_BYTES = 392 * 2**20 + 64 * 2**20
#: One captured graph costs about this much per layer: chosen so that the KV blocks vLLM 0.19 reports for
#: Llama-3.1-8B on an RTX 4090 (67 graphs of 32 layers) come out within 1 % (same tests).
GRAPH_BYTES_PER_LAYER = 200_000


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What the engine is told about memory.

    Attributes
    ----------
    utilization
        Share of the chip's memory it may use (``gpu_memory_utilization``), 0 to 1.
    step_tokens, step_sequences
        Largest step (``max_num_batched_tokens``, ``max_num_seqs``).
    block_tokens
        Tokens of one KV block.
    graphs
        CUDA graphs captured.
    static
        The share is of what is free before the model is loaded, and for weights and KV alone
        (``mem_fraction_static``): activations and graphs have the rest.
    of_free
        ``utilization`` is the share of what weights and activations leave that KV blocks take; graphs are captured
        in the rest.
    """

    utilization: float
    step_tokens: int
    step_sequences: int
    block_tokens: int
    graphs: int
    static: bool = False
    of_free: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the memory of one chip goes, bytes; the fullest pipeline stage counts.

    Attributes
    ----------
    budget
        Share of the chip the engine may use.
    weights, activations, collectives, context, graphs
        What is taken before the KV cache.
    block
        Bytes of one KV block on this chip.
    blocks
        KV blocks that fit; each holds its tokens for all layers of the stage.
    """

    budget: int
    weights: int
    activations: int
    collectives: int
    context: int
    graphs: int
    block: int
    blocks: int


def plan_memory(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget) -> MemoryPlan:
    """Return how the memory of each chip is divided.

    Raises
    ------
    CapacityError
        If not a single KV block fits beside the weights; the message names the least tensor parallelism
        that does fit, if there is one.
    """
    plan = _divide(model, layout, chip, budget)
    if plan.blocks < 1:
        raise CapacityError(_does_not_fit(model, layout, chip, budget, plan))
    return plan


def _divide(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget) -> MemoryPlan:
    """Return the plan; its ``blocks`` are below one where nothing is left for the KV cache."""
    layers = -(-model.layers // layout.pipeline)
    seen = chip.visible_memory_bytes - DRIVER_RESERVE_BYTES
    weights = _stage_weight_bytes(model, layout, layers)
    activations = _activation_bytes(model, layout, budget)
    collectives = _COLLECTIVE_BYTES.get(layout.tensor, _WIDE_COLLECTIVE_BYTES)
    graphs = budget.graphs * layers * GRAPH_BYTES_PER_LAYER
    block = model.kv_bytes_on_chip(layout.tensor) * layers // model.layers * budget.block_tokens
    if budget.static:
        # Measured when the process and its communicators are there already.
        allowed = int((seen - CONTEXT_BYTES - collectives) * budget.utilization)
        return MemoryPlan(allowed, weights, 0, 0, 0, 0, block, (allowed - weights) // block)
    taken = weights + activations + collectives + CONTEXT_BYTES + graphs
    allowed = int(seen * budget.utilization)
    if budget.of_free:
        allowed = taken + int((seen - taken) * budget.utilization)
    left = allowed - taken
    return MemoryPlan(allowed, weights, activations, collectives, CONTEXT_BYTES, graphs, block, left // block)


def _stage_weight_bytes(model: ModelSpec, layout: Layout, layers: int) -> int:
    embeddings = 2 * model.embedding_parameters
    projections = model.weight_bytes - embeddings
    # The first stage holds the input embedding, the last the output one: at least one of them, split over
    # the tensor ranks.
    held = embeddings if layout.pipeline == 1 or model.tied else embeddings // 2
    return (projections * layers // model.layers + held) // layout.tensor


def _activation_bytes(model: ModelSpec, layout: Layout, budget: MemoryBudget) -> int:
    """Return the peak of the profiling pass: the MLP of the largest step, or the logits of a full batch.

    MLP: residual and input rows whole, MLP input and product split over the chips, 16 bits each. Logits: the
    16-bit result, its 32-bit copy and the sampler's two 32-bit work copies over the whole vocabulary.
    """
    widest = max(group.feed_forward.activated for group in model.stack)
    mlp = 2 * model.hidden + widest // layout.tensor
    logits = budget.step_sequences * model.vocab * (2 + 3 * 4)
    return max(2 * mlp * budget.step_tokens, logits)


def _does_not_fit(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget, plan: MemoryPlan) -> str:
    fitting = next((t for t in _wider(model, layout) if _divide(model, t, chip, budget).blocks >= 1), None)
    advice = f"tensor_parallel = {fitting.tensor}, " if fitting else ""
    rest = plan.activations + plan.collectives + plan.context + plan.graphs
    if plan.activations > plan.weights:
        return (
            f"{plan.activations / 1e9:.1f} GB of activations leave no room for KV cache on {chip.name}, where the "
            f"engine may use {plan.budget / 1e9:.1f} GB; lower "
            f"max_num_batched_tokens ({budget.step_tokens}) or max_num_seqs ({budget.step_sequences})"
        )
    return (
        f"{model.name} needs {plan.weights / 1e9:.1f} GB of weights and {rest / 1e9:.1f} GB beside them per chip at "
        f"tensor_parallel = {layout.tensor}, but {chip.name} leaves the engine {plan.budget / 1e9:.1f} GB, which "
        f"has no room for KV cache; use {advice}a larger chip, or narrower weights"
    )


def _wider(model: ModelSpec, layout: Layout) -> Iterator[Layout]:
    """Yield the layouts of two, four, eight, ... times the tensor parallelism that still divide the model."""
    tensor = 2 * layout.tensor
    while model.indivisible(tensor) is None:
        yield replace(layout, tensor=tensor)
        tensor *= 2
