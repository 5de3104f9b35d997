"""The contract every cost source keeps, and the chain that asks them in turn."""

from __future__ import annotations

import numpy as np
import pytest

from hardware.catalogue import chip_names, load_chip
from hardware.errors import CostError
from perfdb.estimate import Estimate, Origin
from perfdb.formats import WEIGHT_BYTES
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import AllReduce, Attention, Gemm, step_operators
from perfdb.silicon import SiliconSource
from perfdb.sources import COST_SOURCES, DEFAULT_SOURCES, SourceChain, source_chain
from perfdb.tables import TableChoice

CHIPS = ("h200_sxm", "a100_80_sxm", "b200_sxm", "rtx_4090")
FRAMEWORKS = ("vllm", "sglang", "trtllm")
ROWS = np.array([1, 2, 3, 7, 64, 100, 2048, 8192, 50_000])
BATCH, TOKENS = (a.ravel() for a in np.meshgrid([1, 3, 64, 256, 5000], [1, 5, 1000, 4096, 200_000]))


def every_operator():
    models = [(load_model("Qwen3-32B", weights=weights), Layout(2, 2)) for weights in WEIGHT_BYTES]
    models += [(load_model(name), Layout(1)) for name in ("Qwen2.5-7B", "Phi-2")]
    models += [(load_model("Llama-3.1-8B", kv_cache="fp8"), Layout(8))]
    for model, layout in models:
        step = step_operators(model, layout)
        yield from (*step.per_token, *step.per_sample, *step.context, *step.generation)
    yield AllReduce("odd", 5120, 3)
    yield Attention("generation_attention", 8, 1, 128, "bf16", 4096, 1)
    yield Attention("context_attention", 8, 1, 128, "bf16", 4096, 1)


OPERATORS = tuple(dict.fromkeys(every_operator()))


def price(source, operator):
    if isinstance(operator, Attention):
        return source.attention(operator, BATCH, TOKENS)
    return source.rows(operator, ROWS)


def well_formed(estimate, points):
    assert isinstance(estimate, Estimate)
    assert estimate.ns.shape == estimate.origin.shape == (points,)
    assert estimate.ns.dtype == np.float64
    assert estimate.origin.dtype == np.uint8
    # A source that knows some points only leaves the others open.
    known = ~np.isnan(estimate.ns)
    assert np.isfinite(estimate.ns[known]).all()
    assert (estimate.ns[known] > 0).all()
    assert set(estimate.origin.tolist()) <= {int(origin) for origin in Origin}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", COST_SOURCES)
def test_a_source_answers_with_a_well_formed_estimate_or_not_at_all(name, chip, framework):
    source, again = (COST_SOURCES[name](load_chip(chip), framework, TableChoice()) for _ in range(2))
    for operator in OPERATORS:
        answer, repeated = price(source, operator), price(again, operator)
        if answer is None:
            assert repeated is None
            continue
        well_formed(answer, len(TOKENS) if isinstance(operator, Attention) else len(ROWS))
        assert np.array_equal(answer.ns, repeated.ns, equal_nan=True)
        assert np.array_equal(answer.origin, repeated.origin)


@pytest.mark.parametrize("name", COST_SOURCES)
def test_points_are_priced_each_on_its_own(name):
    source = COST_SOURCES[name](load_chip("h200_sxm"), "vllm", TableChoice())
    for operator in OPERATORS[:12]:
        whole = price(source, operator)
        if whole is None:
            continue
        if isinstance(operator, Attention):
            alone = [source.attention(operator, BATCH[i : i + 1], TOKENS[i : i + 1]) for i in range(len(BATCH))]
        else:
            alone = [source.rows(operator, ROWS[i : i + 1]) for i in range(len(ROWS))]
        assert np.concatenate([part.ns for part in alone]) == pytest.approx(whole.ns, rel=1e-12)
        assert np.array_equal(np.concatenate([part.origin for part in alone]), whole.origin)


@pytest.mark.parametrize("chip", chip_names())
def test_the_default_chain_prices_everything_on_every_chip(chip):
    chain = source_chain(load_chip(chip), "vllm")
    for operator in OPERATORS:
        assert price(chain, operator).complete


def test_the_roofline_prices_everything_and_says_so():
    source = COST_SOURCES["roofline"](load_chip("l4"), "vllm", TableChoice())
    for operator in OPERATORS:
        assert set(price(source, operator).origin.tolist()) == {Origin.ROOFLINE}


def test_a_chip_without_tables_is_not_known_to_silicon_and_falls_through(tmp_path):
    for source in (
        SiliconSource(load_chip("rtx_4090"), "vllm"),
        SiliconSource(load_chip("h200_sxm"), "vllm", tmp_path),
    ):
        assert all(price(source, operator) is None for operator in OPERATORS)
        assert source.files == []
    chain = source_chain(load_chip("rtx_4090"), "vllm")
    assert {int(origin) for operator in OPERATORS for origin in price(chain, operator).origin} == {Origin.ROOFLINE}
    assert chain.files == ()


class Fixed:
    """Prices projections alone, at one nanosecond."""

    def rows(self, operator, rows):
        return Estimate.of(np.ones(len(rows)), Origin.MEASURED) if isinstance(operator, Gemm) else None

    def attention(self, _operator, _batch, _tokens):
        return None


def test_the_first_source_that_knows_an_operator_prices_it():
    roofline = COST_SOURCES["roofline"](load_chip("h200_sxm"), "vllm", TableChoice())
    step = step_operators(load_model("Llama-3.1-8B"), Layout(2))
    for order, ns in (((Fixed(), roofline), 1.0), ((roofline, Fixed()), roofline.rows(step.per_sample[0], ROWS).ns[0])):
        chain = SourceChain(order, "test")
        assert chain.rows(step.per_sample[0], ROWS).ns[0] == ns
        assert price(chain, step.generation[0]).origin[0] == Origin.ROOFLINE


def test_an_operator_nobody_prices_is_one_sentence_with_a_way_out():
    chain = SourceChain([Fixed()], "h200_sxm with vllm")
    with pytest.raises(CostError, match="no source prices generation_attention on h200_sxm with vllm; add 'borrowed'"):
        price(chain, step_operators(load_model("Llama-3.1-8B"), Layout(1)).generation[0])


def test_measured_tables_are_asked_before_the_roofline():
    assert DEFAULT_SOURCES == ("silicon", "borrowed", "roofline")
    assert set(DEFAULT_SOURCES) <= set(COST_SOURCES)
