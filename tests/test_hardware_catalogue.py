"""The catalogue: every file loads and names its sources, borrowing is as documented, mistakes are told."""

from __future__ import annotations

import pickle
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from hardware.catalogue import (
    chip_names,
    default_node,
    load_chip,
    load_node,
    node_names,
    source_of,
)
from hardware.errors import CatalogueError
from hardware.listing import chip_table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(hardware.__file__).parent
LEGEND = tomllib.loads((ROOT / "sources.toml").read_text())
FILES = sorted([*ROOT.glob("chips/*.toml"), *ROOT.glob("nodes/*.toml"), ROOT / "latency.toml", ROOT / "power.toml"])
H200 = (ROOT / "chips" / "h200_sxm.toml").read_text()
HGX = (ROOT / "nodes" / "hgx_h200.toml").read_text()

# name: nvidia-smi MiB, GB/s of memory, bf16, fp8, fp4 TFLOP/s, link GB/s one way, W
GOLDEN = {
    "a100_40_sxm": (40960, 1555, 312, None, None, 300, 400),
    "a100_80_sxm": (81920, 2039, 312, None, None, 300, 400),
    "a100_80_pcie": (81920, 1935, 312, None, None, 300, 300),
    "a40": (46068, 696, 149.7, None, None, 56.25, 300),
    "a10": (23028, 600, 125, None, None, 32, 150),
    "a30": (24576, 933, 165, None, None, 32, 165),
    "l4": (23034, 300, 121, 242, None, 32, 72),
    "l40s": (46068, 864, 362.05, 733, None, 32, 350),
    "h100_sxm": (81559, 3350, 989, 1979, None, 450, 700),
    "h100_pcie": (81559, 2000, 756.5, 1513, None, 300, 350),
    "h800_sxm": (81559, 3350, 989, 1979, None, 200, 700),
    "h20_96": (97871, 4000, 148, 296, None, 450, 400),
    "h200_sxm": (143771, 4800, 989, 1979, None, 450, 700),
    "b200_sxm": (183359, 8000, 2250, 4500, 9000, 900, 1000),
    "b300_sxm": (275040, 8000, 2250, 4500, 13500, 900, 1100),
    "gb200": (189471, 8000, 2500, 5000, 10000, 900, 1200),
    "gb300": (284208, 8000, 2500, 5000, 15000, 900, 1400),
    "rtx_pro_6000_server": (97887, 1792, 467.8, 935.6, 1871.2, 64, 600),
    "rtx_4090": (24564, 1008, 165.2, 330.3, None, 32, 450),
    "ascend_910b1": (65536, 1600, 414, None, None, 196, 400),
    "ascend_910b2": (65536, 1600, 353.9, None, None, 196, 400),
    "ascend_910b3": (65536, 1638, 313, None, None, 196, 400),
    "ascend_910b4": (32768, 800, 280, None, None, 196, 310),
    "ascend_910c": (65536, 1600, 376, None, None, 196, 310),
    "mi300x": (196608, 5300, 1307, 2615, None, 448, 750),
    "mi325x": (262144, 6000, 1307, 2615, None, 448, 1000),
    "mi355x": (294912, 8000, 2516, 5033, 10066, 576, 1400),
}


def numbers(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | list) and not isinstance(value, bool):
            yield prefix + key


def facts_of(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    table = tomllib.loads(path.read_text())
    return table, table.pop("sources", {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_has_a_source(path: Path) -> None:
    table, sources = facts_of(path)
    missing = [key for key in numbers(table) if source_of(key, tuple(sources.items())) is None]
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_source_is_in_the_legend_and_covers_something(path: Path) -> None:
    table, sources = facts_of(path)
    keys = [*numbers(table), *(f"efficiency.{key}" for key in table.get("efficiency", {}))]
    for key, text in sources.items():
        assert re.fullmatch(r"[A-Za-z0-9]+(, [A-Za-z0-9]+)*(: .+)?", text), (key, text)
        assert set(text.split(":")[0].split(", ")) <= set(LEGEND), (key, text)
        assert any(known == key or known.startswith(f"{key}.") for known in keys), key


def test_every_tag_of_the_legend_is_used() -> None:
    texts = [text for path in FILES for text in facts_of(path)[1].values()]
    used = {tag for text in texts for tag in text.split(":")[0].split(", ")}
    assert used == set(LEGEND)


def test_golden_covers_the_catalogue() -> None:
    assert set(GOLDEN) == set(chip_names())


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_key_figures(name: str) -> None:
    mib, memory, bf16, fp8, fp4, link, watts = GOLDEN[name]
    chip = load_chip(name)
    tera = [None if rate is None else rate * 1e12 for rate in (bf16, fp8, fp4)]
    assert chip.visible_memory_bytes == mib * 2**20
    assert chip.memory_bytes_per_s == pytest.approx(memory * 1e9)
    assert [chip.peak_flops(dtype) for dtype in ("bf16", "fp8", "fp4")] == pytest.approx(tera)
    assert chip.peak_flops("fp16") == chip.peak_flops("bf16")
    assert chip.link_bytes_per_s == pytest.approx(link * 1e9)
    assert chip.tdp_w == watts


@pytest.mark.parametrize("name", chip_names())
def test_chip_is_plausible_frozen_and_hashable(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == name
    assert 0.9 < chip.visible_memory_bytes / chip.memory_bytes < 1.1
    assert chip.efficiency.gemm_bf16.median <= chip.efficiency.gemm_bf16.best
    assert (chip.efficiency.gemm_fp8 is None) == (chip.peak_flops("fp8") is None)
    assert [row.chips for row in chip.efficiency.all_reduce] == [2, 4, 8]
    assert pickle.loads(pickle.dumps(chip)) == chip  # noqa: S301  (our own bytes)
    assert len({chip, load_chip(name)}) == 1
    with pytest.raises(ValueError, match="frozen"):
        chip.sm = 1


@pytest.mark.parametrize("name", chip_names())
def test_default_node_holds_the_chip(name: str) -> None:
    node = default_node(name)
    assert node.chip == name
    assert node == load_node(node.name)


def test_every_node_is_the_default_of_a_chip_an_alias_or_a_variant() -> None:
    defaults = {default_node(name).name for name in chip_names()}
    assert set(node_names()) - defaults == {"hgx_h100", "hgx_h800_200g"}
    alias, original = load_node("hgx_h100"), load_node("dgx_h100")
    assert alias.model_copy(update={"name": "dgx_h100"}) == original


def test_fractions_are_borrowed_as_they_are() -> None:
    a10, a100 = load_chip("a10").efficiency, load_chip("a100_80_sxm").efficiency
    assert a10.gemm_bf16 == a100.gemm_bf16
    assert a10.prefill_attention_bf16 == a100.prefill_attention_bf16
    assert dict(a10.borrowed)["gemm_bf16"] == "a100_80_sxm"


def test_borrowed_names_the_chip_that_was_measured() -> None:
    borrowed = dict(load_chip("a10").efficiency.borrowed)
    assert borrowed["vit_attention_bf16"] == "l40s"
    assert dict(load_chip("gb300").efficiency.borrowed)["all_reduce.8"] == "b200_sxm"
    assert load_chip("h200_sxm").efficiency.borrowed == ()


@pytest.mark.parametrize(
    ("name", "chips", "alpha_s", "bus_bytes_per_s"),
    [
        ("h800_sxm", 8, 15.6e-6, 445.0e9 * 200 / 450),  # NVLink of H100, scaled
        ("a40", 2, 10.0e-6, 193.0e9 * 56.25 / 300),  # a bridged pair
        ("a40", 4, 12.9e-6, 25.0e9 * 32 / 64),  # beyond the pair: PCIe
        ("l4", 2, 6.2e-6, 38.6e9 * 32 / 64),
        ("gb200", 8, 25.1e-6, 704.0e9),
        ("l40s", 4, 11.9e-6, 5.1e9),  # measured, however bad
    ],
)
def test_of_an_all_reduce_alpha_is_borrowed_and_the_bus_scaled(
    name: str, chips: int, alpha_s: float, bus_bytes_per_s: float
) -> None:
    cost = load_chip(name).efficiency.all_reduce_among(chips)
    assert cost is not None
    assert (cost.alpha_s, cost.bus_bytes_per_s) == pytest.approx((alpha_s, bus_bytes_per_s))


def test_all_reduce_between_and_beyond_measured_groups() -> None:
    efficiency = load_chip("h200_sxm").efficiency
    six, large = efficiency.all_reduce_among(6), efficiency.all_reduce_among(16)
    assert six is not None
    assert large is not None
    assert (six.alpha_s, six.bus_bytes_per_s) == pytest.approx((12.7e-6, 404.45e9))
    assert (large.alpha_s, large.bus_bytes_per_s) == pytest.approx((29.2e-6, 460.5e9))
    assert efficiency.all_reduce_among(1) is None


@settings(deadline=None)
@given(name=st.sampled_from(chip_names()), chips=st.integers(2, 100))
def test_a_larger_group_never_has_a_smaller_alpha(name: str, chips: int) -> None:
    efficiency = load_chip(name).efficiency
    small, large = efficiency.all_reduce_among(chips), efficiency.all_reduce_among(chips + 1)
    assert small is not None
    assert large is not None
    assert small.alpha_s <= large.alpha_s


def test_groups_beyond_a_bridge_ride_on_pcie() -> None:
    a40 = load_chip("a40")
    assert a40.group_link_bytes_per_s(2) == 56.25e9
    assert a40.group_link_bytes_per_s(3) == 32e9
    assert load_chip("gb200").group_link_bytes_per_s(72) == 900e9


def test_unknown_compute_type_is_an_error() -> None:
    with pytest.raises(CatalogueError, match="unknown compute type 'fp9'; did you mean 'fp8'"):
        load_chip("h200_sxm").peak_flops("fp9")


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("memory_bytes =", "memroy_bytes =", "unknown key 'memroy_bytes'; did you mean 'memory_bytes'"),
        ("bf16 = 989e12", "bf15 = 989e12", "unknown key 'flops_per_s.bf15'; did you mean 'bf16'"),
        ("median = 0.77", "meddian = 0.77", "unknown key 'efficiency.gemm_bf16.meddian'; did you mean"),
        ("gemm_floor_s", "gemm_flor_s", "unknown key 'efficiency.gemm_flor_s'; did you mean 'gemm_floor_s'"),
        ("tdp_w = 700\n", "", "key 'tdp_w' is missing"),
        ("tdp_w = 700", "tdp_w = inf", "key 'tdp_w' is inf: expected a finite number"),
        ("sm = 90", "sm = 'x'", "key 'sm' is 'x': expected a valid integer"),
        ("sm = 90", "sm = ", "not valid TOML: Invalid value .at line 4, column"),
        ("median = 0.77", "median = 1.77", "key 'efficiency.gemm_bf16.median' is 1.77: expected less than"),
        ("gemm_floor_s = 2.5e-6\n", "", "key 'efficiency.gemm_floor_s' is missing: give it, or name a chip"),
        ("gemm_floor_s = 2.5e-6", "like = 'mine.toml'", "'efficiency.like' is 'mine.toml', which leads back"),
        ("gemm_floor_s = 2.5e-6", "like = 'h100'", "'efficiency.like': unknown chip 'h100'.*'h100_sxm'"),
        (
            "gemm_floor_s = 2.5e-6",
            "like = 3",
            "'efficiency.like' is 3; expected the name of one of the chips",
        ),
        ("2 = { alpha", "two = { alpha", "'efficiency.all_reduce': expected a table by number of chips"),
        ("[pcie]", "[[pcie]]", "key 'pcie' is .*: expected a table"),
        ("domain = 8", "domain = 8\nbridge_pair_only = true", "'scale_up': domain is 8 with bridge_pair_only"),
        ('"nvidia"', '"nvidea"', "key 'vendor' is 'nvidea': expected 'nvidia'"),
        ("vendor", "efficiency = 3\n[other]\nvendor", "key 'efficiency' is 3; expected a table"),
    ],
)
def test_a_wrong_chip_file_is_one_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    text = edited(H200.split("[efficiency]")[0] if "[other]" in new else H200, old, new)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=sentence) as caught:
        load_chip(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rails = 8", "rails = 9", "key 'rails' is 9; expected 1 to 8"),
        ("nics = 8", "nics = 3", "key 'nics' is 3, which does not divide chips = 8 evenly"),
        ("nics = 8", "nics = 0", "'nics' and 'nic_bytes_per_s' must both be given"),
        ("pcie_switches = 4", "pcie_switches = 3", "'pcie_switches' is 3, which does not divide chips = 8"),
        (
            '"nvswitch"',
            '"nvswich"',
            "key 'fabric' is 'nvswich': expected 'nvswitch', 'switch', 'nvlink_pairs', 'full_mesh' or 'pcie'",
        ),
        ("chips = 8", "chips = 16", "'nvswitch' joins 16 chips but nvlink of h200_sxm joins at most 8"),
        ('"h200_sxm"', '"l4"', "fabric is 'nvswitch' but l4 has no scale-up ports; use 'pcie'"),
        ('"h200_sxm"', '"a100_80_pcie"', "joins 8 chips but nvlink of a100_80_pcie joins at most 2"),
        ('"h200_sxm"', '"h200"', "key 'chip': unknown chip 'h200'.*did you mean 'h200_sxm'"),
        ('"h200_sxm"', "3", "key 'chip' is 3: expected a valid string"),
        ('chip = "h200_sxm"', 'like = "mine.toml"', "key 'like' is 'mine.toml', which leads back"),
        ('chip = "h200_sxm"', 'like = "hgx"', "key 'like': unknown node 'hgx'"),
        ('chip = "h200_sxm"', "latency_ns = 3", "key 'latency_ns' is 3; expected a table"),
        (
            "[sources]",
            "[latency_ns]\nnicc = 5\n[sources]",
            "unknown key 'latency_ns.nicc'; did you mean 'nic'",
        ),
    ],
)
def test_a_wrong_node_file_is_one_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(edited(HGX, old, new))
    with pytest.raises(CatalogueError, match=sentence) as caught:
        load_node(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(CatalogueError, match=r"unknown chip 'h200':.*did you mean 'h200_sxm'\?"):
        load_chip("h200")
    with pytest.raises(CatalogueError, match=r"unknown node 'tpu_pod':.*expected one of a100_pcie_pairs, "):
        load_node("tpu_pod")
    with pytest.raises(CatalogueError, match=r"nowhere\.toml: there is no such node file"):
        load_node("nowhere.toml")


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"sm = \xff")
    with pytest.raises(CatalogueError, match="byte 5 is not UTF-8"):
        load_chip(path)


def test_own_chip_and_node_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(edited(H200, 'node = "hgx_h200"\n', ""))
    node = tmp_path / "box.toml"
    node.write_text('like = "hgx_h200"\nchip = "mine.toml"\nnics = 4\nrails = 4\n[latency_ns]\nnic = 700\n')
    box = load_node(node)
    assert load_chip(box.chip).name == "mine"
    assert (box.name, box.chips, box.nics, box.latency_ns.nic) == ("box", 8, 4, 700)
    assert box.latency_ns.leaf == load_node("hgx_h200").latency_ns.leaf
    with pytest.raises(CatalogueError, match=r"chip 'mine' names no node.*node = 'hgx_h200'"):
        default_node(tmp_path / "mine.toml")


def test_a_file_of_the_user_is_read_again_after_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(H200)
    before = load_chip(path)
    path.write_text(edited(H200, "tdp_w = 700", "tdp_w = 600"))
    assert (before.tdp_w, load_chip(path).tdp_w) == (700, 600)


def test_the_document_has_the_table_of_today() -> None:
    document = Path(__file__).parents[1] / "docs" / "hardware.md"
    assert chip_table() in document.read_text(encoding="utf-8")
