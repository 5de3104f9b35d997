"""How many KV blocks an engine finds room for on each chip.

The budget is a share of what the driver shows of the chip; from it go the weights, the activations of the
largest step, communication buffers, the CUDA context and the captured graphs. What is left is KV blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hardware.errors import CapacityError
from perfdb.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hardware.catalogue import Chip
    from perfdb.model import ModelSpec

__all__ = ["MemoryBudget", "MemoryPlan", "plan_memory"]

#: Memory the driver reports but a process never sees (nvidia-smi total minus the CUDA runtime's): 0.44 to 0.56 GiB
#: on H100 (79.10 to 79.22 of 79.65 GiB), 0.60 on H200 (139.81), 0.7 on B200 (178.35), in start-up logs of engines.
DRIVER_RESERVE_BYTES = 600_000_000
#: CUDA context of a process, gone before an engine looks at what is free: vLLM logs 78.66 of 79.19 GiB free on an
#: H100 and 139.21 of 139.81 on an H200. A share of the total leaves it out, a share of what is free does not.
PROCESS_BYTES = 570_000_000
#: Code and workspaces of libraries, loaded while the model is profiled ("non-torch memory"): vLLM logs 0.05 to
#: 0.16 GiB on one chip.
LIBRARY_BYTES = 130_000_000
#: Buffers of collectives that come with the first of them: 342 MB over 2 chips and 392 MB over more
#: (aiconfigurator-core 0.12, ``misc.nccl_mem``), plus 64 MB for the engine's own all-reduce workspace.
_COLLECTIVE_BYTES = {1: 0, 2: 342 * 2**20 + 64 * 2**20}
_WIDE_COLLECTIVE_BYTES = 392 * 2**20 + 64 * 2**20
#: Communicators, made before weights are loaded. vLLM: 1.38 GiB of non-torch memory over 2 H200s (0.10.2), of which
#: the above is not theirs. SGLang logs 0.09 GiB on one chip and 0.39 over 4 without NVLink; where NCCL reduces in the
#: NVLink switches (Hopper and later, more than 2 chips), 2.0 over 8 H200s and 2.2 over 4 B200s.
_COMMUNICATOR_BYTES = 800_000_000
_LONE_GROUP_BYTES, _GROUP_BYTES, _SWITCHED_GROUP_BYTES = 97_000_000, 419_000_000, 2_150_000_000
_SWITCHES_REDUCE_SINCE_SM = 90
#: One captured graph, per layer: between what vLLM estimates for a 0.6B model (0.27 GiB) and a 7B model (0.53 GiB),
#: 86 graphs of 28 layers each.
GRAPH_BYTES_PER_LAYER = 200_000


#: Most of the room beside the weights that states of sequences take: 0.9 for each 1 of KV (``mamba_full_memory_ratio``
#: of SGLang's ``server_args.py``).
STATE_SHARE = 0.9 / 1.9


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
        CUDA graphs whose memory is taken off.
    logit_bytes
        Bytes a sampler holds per logit of a full batch, copies included.
    communicators
        The budget pays for the communicators too, and not only for what their first use takes.
    static
        The share is of what is free before the model is loaded, and for weights and KV alone
        (``mem_fraction_static``): activations and graphs have the rest.
    of_free
        ``utilization`` is the share that KV blocks take of what a trial run leaves: full of prompts, after its
        graphs were captured.
    language, encoder
        The instance holds the language model, and the encoder if the model has one. Where it holds an encoder alone,
        a block is the features of as many tokens.
    encoder_tensor
        Chips over which the encoder is cut; on the others it stands whole.
    encoder_patches
        Patches of the largest run of the encoder.
    """

    utilization: float
    step_tokens: int
    step_sequences: int
    block_tokens: int
    graphs: int
    logit_bytes: int = 14
    communicators: bool = False
    static: bool = False
    of_free: bool = False
    language: bool = True
    encoder: bool = True
    encoder_tensor: int = 1
    encoder_patches: int = 0


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
    states, sequences
        What sequences keep that does not grow with them, taken before the blocks, and how many that is for: as many
        as a step may hold, if they leave enough to KV. 0 where there is no such thing.
    """

    budget: int
    weights: int
    activations: int
    collectives: int
    context: int
    graphs: int
    block: int
    blocks: int
    states: int = 0
    sequences: int = 0


def plan_memory(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget) -> MemoryPlan:
    """Return how the memory of each chip is divided.

    Raises
    ------
    CapacityError
        If not a single KV block fits beside the weights; the message names the least tensor parallelism
        that does fit, if there is one. Or if an encoder is all that is wanted of a model that has none.
    """
    if not budget.language:
        return _encoder_alone(model, chip, budget)
    plan = _with_states(_divide(model, layout, chip, budget), model, layout, budget)
    if plan.blocks < 1:
        raise CapacityError(_does_not_fit(model, layout, chip, budget, plan))
    return plan


def _encoder_alone(model: ModelSpec, chip: Chip, budget: MemoryBudget) -> MemoryPlan:
    """Return the plan of an instance without a language model: no KV cache, no logits, no graphs."""
    if model.encoder is None:
        raise CapacityError(f"{model.name} has no encoder; expected a multimodal model for the stage encode")
    allowed = int((chip.visible_memory_bytes - DRIVER_RESERVE_BYTES) * budget.utilization)
    weights, activations = _encoder_bytes(model, budget)
    block = model.encoder.feature_bytes(budget.block_tokens)
    context = LIBRARY_BYTES + PROCESS_BYTES
    plan = MemoryPlan(allowed, weights, activations, 0, context, 0, block, 0)
    room = allowed - weights - activations - context
    if room < block:
        raise CapacityError(
            f"the encoder of {model.name} needs {weights / 1e9:.1f} GB of weights and "
            f"{activations / 1e9:.1f} GB for {budget.encoder_patches:,} patches, but {chip.name} leaves the engine "
            f"{allowed / 1e9:.1f} GB; use a larger chip, or encode less at once"
        )
    return replace(plan, blocks=room // block)


def _encoder_bytes(model: ModelSpec, budget: MemoryBudget) -> tuple[int, int]:
    """Return the bytes of the encoder's weights on one chip, and of its largest run: the widest rows, in 16 bits."""
    spec = model.encoder
    if spec is None or not budget.encoder:
        return 0, 0
    widest = max(group.feed_forward.working(spec.hidden, Layout(budget.encoder_tensor)) for group in spec.stack)
    return spec.weight_bytes // budget.encoder_tensor, 2 * (2 * spec.hidden + widest) * budget.encoder_patches


def _with_states(plan: MemoryPlan, model: ModelSpec, layout: Layout, budget: MemoryBudget) -> MemoryPlan:
    """Return a plan that keeps room for the states of sequences beside their KV."""
    of_one = model.state_bytes_on_chip(layout.tensor) * -(-model.layers // layout.pipeline) // model.layers
    if not of_one:
        return plan
    room = plan.blocks * plan.block
    sequences = max(1, min(budget.step_sequences, int(room * STATE_SHARE) // of_one))
    states = sequences * of_one
    return replace(plan, blocks=(room - states) // plan.block, states=states, sequences=sequences)


def _divide(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget) -> MemoryPlan:
    """Return the plan; its ``blocks`` are below one where nothing is left for the KV cache."""
    layers = -(-model.layers // layout.pipeline)
    seen = chip.visible_memory_bytes - DRIVER_RESERVE_BYTES
    encoder_weights, encoder_activations = _encoder_bytes(model, budget)
    weights = _stage_weight_bytes(model, layout, layers) + encoder_weights
    block = model.kv_bytes_on_chip(layout.tensor) * layers // model.layers * budget.block_tokens
    if budget.static:
        allowed = int((seen - PROCESS_BYTES - _group_bytes(layout, chip)) * budget.utilization)
        return MemoryPlan(allowed, weights, 0, 0, 0, 0, block, (allowed - weights) // block)
    activations = max(_prompt_bytes(model, layout, budget), encoder_activations)
    graphs = budget.graphs * layers * GRAPH_BYTES_PER_LAYER
    context = LIBRARY_BYTES
    if budget.of_free:
        context += PROCESS_BYTES
        graphs += _captured_logit_bytes(model, budget)
    else:
        activations = max(activations, budget.step_sequences * model.vocab * budget.logit_bytes)
    collectives = _COLLECTIVE_BYTES.get(layout.sharing, _WIDE_COLLECTIVE_BYTES)
    collectives += _COMMUNICATOR_BYTES if budget.communicators and layout.sharing > 1 else 0
    taken = weights + activations + collectives + context + graphs
    allowed = int(seen * budget.utilization)
    if budget.of_free:
        allowed = taken + int((seen - taken) * budget.utilization)
    return MemoryPlan(allowed, weights, activations, collectives, context, graphs, block, (allowed - taken) // block)


def _group_bytes(layout: Layout, chip: Chip) -> int:
    """Return what the communicators of a group hold on each chip before weights are loaded."""
    if layout.sharing == 1:
        return _LONE_GROUP_BYTES
    pair = 2
    switched = chip.scale_up is not None and chip.scale_up.domain > pair
    reduces = switched and (chip.sm or 0) >= _SWITCHES_REDUCE_SINCE_SM
    return _SWITCHED_GROUP_BYTES if reduces and layout.sharing > pair else _GROUP_BYTES


def _stage_weight_bytes(model: ModelSpec, layout: Layout, layers: int) -> int:
    embeddings = 2 * model.embedding_parameters
    experts, whole = round(model.expert_bytes), round(model.whole_bytes)
    projections = model.weight_bytes - embeddings - experts - whole
    experts = round(experts * model.expert_copies(layout.redundant))
    # The first stage holds the input embedding, the last the output one: at least one of them, split over
    # the tensor ranks.
    held = embeddings if layout.pipeline == 1 or model.tied else embeddings // 2
    cut = (projections * layers // model.layers + held) // layout.tensor
    # Experts are spread over the chips of all ranks; what picks them, and projections into latents, stand on each.
    return cut + (experts // layout.sharing + whole) * layers // model.layers


def _prompt_bytes(model: ModelSpec, layout: Layout, budget: MemoryBudget) -> int:
    """Return what a full step of prompts holds at its widest, around the MLP.

    The residual and the input rows whole, the input of the MLP and its product split over the chips, 16 bits each.
    """
    widest = max(group.feed_forward.working(model.hidden, layout) for group in model.stack)
    return 2 * (2 * model.hidden + widest) * budget.step_tokens


def _captured_logit_bytes(model: ModelSpec, budget: MemoryBudget) -> int:
    """Return the 16-bit logits that the graph of the largest decode step keeps, if there is one."""
    return 2 * budget.step_sequences * model.vocab if budget.graphs else 0


def _does_not_fit(model: ModelSpec, layout: Layout, chip: Chip, budget: MemoryBudget, plan: MemoryPlan) -> str:
    fitting = next((t for t in _wider(model, layout) if _divide(model, t, chip, budget).blocks >= 1), None)
    advice = f"tensor_parallel = {fitting.tensor}, " if fitting else ""
    rest = plan.activations + plan.collectives + plan.context + plan.graphs
    # A share of what is left says nothing where nothing is left.
    allowed = min(plan.budget, chip.visible_memory_bytes - DRIVER_RESERVE_BYTES)
    if plan.activations > plan.weights:
        return (
            f"{plan.activations / 1e9:.1f} GB of activations leave no room for KV cache on {chip.name}, where the "
            f"engine may use {allowed / 1e9:.1f} GB; lower "
            f"max_num_batched_tokens ({budget.step_tokens}) or max_num_seqs ({budget.step_sequences})"
        )
    return (
        f"{model.name} needs {plan.weights / 1e9:.1f} GB of weights and {rest / 1e9:.1f} GB beside them per chip at "
        f"tensor_parallel = {layout.tensor}, but {chip.name} leaves the engine {allowed / 1e9:.1f} GB, which "
        f"has no room for KV cache; use {advice}a larger chip, or narrower weights"
    )


def _wider(model: ModelSpec, layout: Layout) -> Iterator[Layout]:
    """Yield the layouts of two, four, eight, ... times the tensor parallelism that still divide the model."""
    wider = replace(layout, tensor=2 * layout.tensor)
    while model.indivisible(wider.tensor) is None and model.cuts_experts(
        wider.expert_tensor, wider.expert, wider.redundant
    ):
        yield wider
        wider = replace(wider, tensor=2 * wider.tensor)
