"""Presets have the sizes their makers publish, and every weight format its bytes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from pricing import SHARED

from hardware.errors import CatalogueError
from perfdb.formats import WEIGHT_BYTES
from perfdb.load_model import load_model, presets
from perfdb.model import FAMILIES

REFERENCE = SHARED / "reference" / "models.yaml"
#: Bits of one weight and of its share of the scales: one 32-bit scale per 128 x 128 block, one 16-bit per 128,
#: one 8-bit per 16 or 32.
BITS = {
    "bf16": Fraction(16),
    "fp8": Fraction(8),
    "fp8_block": 8 + Fraction(32, 128 * 128),
    "int8": Fraction(8),
    "int4": 4 + Fraction(16, 128),
    "int4_group32": 4 + Fraction(16, 32),
    "nvfp4": 4 + Fraction(8, 16),
    "mxfp4": 4 + Fraction(8, 32),
    "mxfp4_mxfp8": 4 + Fraction(8, 32),
}


@pytest.fixture(scope="module")
def reference():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    if not REFERENCE.is_file():
        pytest.skip(f"the shared {REFERENCE.name} is not beside this checkout")
    return yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("name", tuple(presets()))
def test_a_preset_has_the_parameters_its_maker_publishes(name):
    published = presets()[name]["published_parameters"]
    assert load_model(name).parameters == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", [name for name, table in presets().items() if "active_parameters" in table])
def test_a_mixture_has_the_active_parameters_its_maker_publishes(name):
    assert load_model(name).active_parameters == pytest.approx(presets()[name]["active_parameters"], rel=0.005)


@pytest.mark.parametrize("name", tuple(presets()))
def test_a_preset_agrees_with_the_shared_model_list(name, reference):
    known, model = reference.get(presets()[name]["short"]), load_model(name)
    if known is None:
        pytest.skip("the list does not have it")
    assert model.active_parameters == pytest.approx(1e9 * known["computed_active_params_b"], rel=0.001)
    assert model.kv_bytes_per_token == known["kv_bytes_per_token_bf16"]
    assert model.parameters == pytest.approx(1e9 * known["computed_params_b"], rel=0.001)
    assert known["architectures"][0] in FAMILIES


def test_the_shared_list_knows_no_text_model_of_these_families_that_is_missing_here(reference):
    known = {name for name, model in reference.items() if model["architectures"][0] in FAMILIES}
    assert known <= {table["short"] for table in presets().values()}


@pytest.mark.parametrize("spelling", ["Qwen/Qwen3-32B", "qwen/qwen3-32b", "Qwen3-32B", "QWEN3-32b"])
def test_a_preset_is_found_by_full_or_short_name_in_any_case(spelling):
    assert load_model(spelling) == load_model("Qwen/Qwen3-32B")
    assert load_model(spelling).name == "Qwen/Qwen3-32B"


def test_short_names_are_unique():
    shorts = [str(table["short"]).lower() for table in presets().values()]
    assert len(set(shorts)) == len(shorts)


def test_an_unknown_name_suggests_the_nearest_preset():
    with pytest.raises(CatalogueError, match=r"'Qwen3-23B' is neither a preset nor a config\.json; did you mean"):
        load_model("Qwen3-23B")


def test_every_weight_format_is_tested():
    assert set(BITS) == set(WEIGHT_BYTES)


@pytest.mark.parametrize("weights", BITS)
@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen2.5-3B", "OPT-13B"])
def test_projections_are_quantised_and_all_else_has_16_bits(name, weights):
    model = load_model(name, weights=weights)
    wide = model.parameters - model.matrix_parameters
    assert model.weight_bytes == round(model.matrix_parameters * BITS[weights] / 8) + 2 * wide
    assert load_model(name).weight_bytes == 2 * model.parameters


def test_an_fp8_cache_halves_the_kv_bytes():
    assert 2 * load_model("Qwen3-32B", kv_cache="fp8").kv_bytes_per_token == load_model("Qwen3-32B").kv_bytes_per_token


@pytest.mark.parametrize(("key", "value"), [("weights", "fp7"), ("kv_cache", "int3")])
def test_an_unknown_format_is_one_sentence(key, value):
    with pytest.raises(CatalogueError, match=rf"model\.{key} is '{value}'.*(did you mean|expected one of)") as problem:
        load_model("Qwen3-32B", **{key: value})
    assert "\n" not in str(problem.value)
