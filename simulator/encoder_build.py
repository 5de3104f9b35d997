"""From the names of a scenario to encoders: those that are pools of their own, and those inside engines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hardware.catalogue import host_w_per_chip, load_chip
from hardware.errors import ScenarioError
from perfdb.communication import communication
from perfdb.encoder_operators import encoder_operators
from perfdb.encoder_prices import compile_encoder
from perfdb.media_tokens import seen_of_tokens
from perfdb.memory import plan_memory
from perfdb.tables import sha256
from simulator.built_pool import BuiltEncoder, calibration_of, cost_chain, in_database, layout_of
from simulator.encode_instance import EncodeParts
from simulator.engines import ENGINES

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from perfdb.compile import HostTime
    from perfdb.encoder import EncoderSpec
    from perfdb.encoder_operators import EncoderOperators
    from perfdb.encoder_prices import EncoderCosts
    from perfdb.layout import Layout
    from perfdb.memory import MemoryBudget
    from perfdb.model import ModelSpec
    from simulator.engine_options import EnginePlan
    from simulator.pool_table import Pool

__all__ = ["build_encode_pool", "encoder_budget", "fused_encoder", "kept_tokens"]

#: vLLM's plugin for Ascend pads the heads of vision towers to so many elements.
_ASCEND_HEADS = 128


def build_encode_pool(pool: Pool, name: str, model: ModelSpec, topology: str | None) -> BuiltEncoder:
    """Return a pool whose instances encode and do nothing else.

    Raises
    ------
    UserError
        If the model has no encoder, or it does not fit.
    """
    if model.encoder is None:
        raise ScenarioError(
            f"pool.{name}.stages is ['encode'], but {model.name} has no encoder; expected a multimodal "
            "model, or no such pool"
        )
    if pool.step_profile is not None or pool.pipeline_parallel > 1 or pool.expert_parallel > 1:
        raise ScenarioError(
            f"pool.{name} encodes alone, where step_profile, pipeline_parallel and expert_parallel mean nothing; "
            "expected tensor_parallel or data_parallel"
        )
    chip, engine, layout = load_chip(pool.chip), ENGINES[pool.engine], layout_of(pool)
    options = engine.filled(pool.engine_options, chip, model.max_tokens, name, layout)
    plan = options.plan(prefills=True)
    budget = replace(engine.memory_budget(plan), language=False)
    memory = plan_memory(model, layout, chip, encoder_budget(budget, model, layout, encodes=True))
    operators = _operators(model.encoder, chip, layout.tensor, layout.data)
    found = calibration_of(pool)
    host = found.encoder_time(found.host_time(engine.host_on(chip, layout.tensor, ahead=False)))
    chain = cost_chain(pool, name, chip)
    costs = compile_encoder(operators, chain, host)
    parts = EncodeParts(
        costs=costs,
        replicas=pool.replicas,
        most_tokens=plan.limits.max_tokens,
        most_items=plan.limits.max_sequences,
        blocks=memory.blocks,
        kept_tokens=kept_tokens(plan, model.encoder, alone=True),
    )
    return BuiltEncoder(
        name,
        model,
        chip,
        layout,
        options,
        memory,
        costs,
        parts,
        {in_database(path): sha256(path) for path in chain.files},
        {in_database(path): counts for path, counts in chain.set_aside.items()},
        operators,
        pool.power_cap,
        host_w_per_chip(topology or chip.node),
        shares=pool.shares,
        exchange=communication(chain, operators.per_patch, operators.per_token) if pool.shares else None,
    )


def encoder_budget(budget: MemoryBudget, model: ModelSpec, layout: Layout, *, encodes: bool) -> MemoryBudget:
    """Return what an engine assumes about memory, with the encoder it holds, or does not.

    Parameters
    ----------
    budget
        Of the engine, its language model included or not.
    model, layout
        What it serves on which chips.
    encodes
        Its instances encode.
    """
    encoder = model.encoder
    if encoder is None or not encodes:
        return replace(budget, encoder=False)
    patches = seen_of_tokens(encoder, budget.step_tokens).patches
    return replace(budget, encoder_tensor=_tensor(encoder, layout.tensor), encoder_patches=patches)


def kept_tokens(plan: EnginePlan, encoder: EncoderSpec, *, alone: bool) -> int:
    """Return how many tokens' features an engine keeps for equal images once nobody needs them.

    vLLM's encoder cache is as large as the budget of a step (``encoder_cache_size`` is ``max_num_batched_tokens``),
    SGLang's has a size in bytes; of TensorRT-LLM none is known.

    Parameters
    ----------
    plan
        What its options come to.
    encoder
        The model's.
    alone
        It computes no prompts.
    """
    if plan.encoder_tokens is not None:
        return plan.encoder_tokens
    return plan.kept_features[alone] // encoder.feature_bytes(1)


def fused_encoder(  # noqa: PLR0913, PLR0917 - what decides a price
    pool: Pool, name: str, model: ModelSpec, chip: Chip, layout: Layout, host: HostTime
) -> EncoderCosts | None:
    """Return the prices of an encoder that runs in the steps of its engine; None where the model has none.

    The host's time of a step is that of the step; what the encoder launches comes on top.
    """
    if model.encoder is None or pool.step_profile is not None:
        return None
    operators = _operators(model.encoder, chip, layout.tensor, 1)
    more = calibration_of(pool).encoder_time(replace(host, step_ns=0, sequence_ns=0))
    return compile_encoder(operators, cost_chain(pool, name, chip), more)


def _tensor(encoder: EncoderSpec, chips: int) -> int:
    """Return over how many chips an encoder is cut: all, or, where they do not divide it, none but each its own."""
    return chips if encoder.indivisible(chips) is None else 1


def _operators(encoder: EncoderSpec, chip: Chip, tensor: int, ranks: int) -> EncoderOperators:
    multiple = _ASCEND_HEADS if chip.name.startswith("ascend") else 1
    return encoder_operators(encoder, _tensor(encoder, tensor), ranks, multiple)
