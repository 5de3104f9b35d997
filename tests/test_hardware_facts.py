"""No figure of the catalogue was mistyped: all of them against the shared facts file, where it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hardware.catalogue import load_chip, load_node, source_of

FACTS = Path(__file__).parents[1].parent / "shared" / "reference" / "hardware_facts.yaml"
OURS_ALONE = {"rtx_4090"}
FABRICS = {
    "nvswitch_any_to_any": "nvswitch",
    "nvlink_pairs_else_pcie": "nvlink_pairs",
    "full_mesh": "full_mesh",
    "pcie": "pcie",
}
KEYS = {
    "sm": "sm",
    "mem_bytes": "memory_bytes",
    "mem_bw": "memory_bytes_per_s",
    "nic_bw": "nic_bytes_per_s",
    "tdp_w": "tdp_w",
    "pcie.gen": "pcie.generation",
    "pcie.bw_dir": "pcie.bytes_per_s",
    "nvlink.gen": "scale_up.generation",
    "nvlink.links": "scale_up.links",
    "nvlink.bw_dir": "scale_up.bytes_per_s",
    "nvlink.domain": "scale_up.domain",
    "nvlink.bridge_pair_only": "scale_up.bridge_pair_only",
    "nvlink.measured_dir": "scale_up.measured_bytes_per_s",
    "nvlink.ucx_measured_dir": "scale_up.ucx_measured_bytes_per_s",
    "p2p_measured.uni": "scale_up.measured_bytes_per_s",
    **{dtype: f"flops_per_s.{dtype}" for dtype in ("bf16", "fp8", "fp4", "int8")},
}
TAGS = {"Mooncake": "MOON"}
IN_A_NOTE = {"vendor", "p2p_measured.bidir_total"}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    if not FACTS.is_file():
        pytest.skip(f"the shared facts file is not beside this checkout ({FACTS.name})")
    loaded: dict[str, Any] = yaml.safe_load(FACTS.read_text())
    return loaded


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def figure(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = None if value is None else getattr(value, part)
    return value


def nvidia(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    chips = facts["accelerators"].items()
    return {name: flat(table) for name, table in chips if table["vendor"] == "nvidia"}


def test_every_figure_of_every_chip(facts: dict[str, Any]) -> None:
    compared = 0
    for name, table in nvidia(facts).items():
        chip = load_chip(name)
        for key, value in table.items():
            if key in IN_A_NOTE:
                continue
            ours = chip.scale_up if key == "nvlink" else figure(chip, KEYS[key])
            assert ours == (None if value is None else pytest.approx(value)), (name, key)
            compared += 1
    assert compared > 200


OTHERS = {
    "ascend_910c_die": "ascend_910c",
    **{name: name for name in ("ascend_910b1", "ascend_910b2", "ascend_910b3", "ascend_910b4")},
    **{name: name for name in ("mi300x", "mi325x", "mi355x")},
}
OTHER_KEYS = KEYS | {
    "scaleup.bw_dir": "scale_up.bytes_per_s",
    "scaleup.links": "scale_up.links",
    "ub_bw_dir": "scale_up.bytes_per_s",
    "rdma_bw_dir": "nic_bytes_per_s",
}


def test_figures_of_other_makers(facts: dict[str, Any]) -> None:
    compared = 0
    for theirs, ours in OTHERS.items():
        chip = load_chip(ours)
        for key, value in flat(facts["accelerators"][theirs]).items():
            if key in OTHER_KEYS:
                found = figure(chip, OTHER_KEYS[key])
                assert found == (None if value is None else pytest.approx(value)), (ours, key)
                compared += 1
    assert compared > 45


def test_measured_operators_of_an_ascend(facts: dict[str, Any]) -> None:
    measured, efficiency = facts["achieved"]["ascend_910c_die"], load_chip("ascend_910c").efficiency
    assert (efficiency.mla_compute, efficiency.mla_memory_bytes_per_s) == (
        measured["mla_compute_eff"],
        measured["mla_mem_bw"],
    )
    for kind, rows in (("ep_dispatch", efficiency.expert_dispatch), ("ep_combine", efficiency.expert_combine)):
        found = {row.ranks: {"lat": row.latency_s, "bw": row.bytes_per_s} for row in rows}
        assert found == {ranks: pytest.approx(cost) for ranks, cost in measured[kind].items()}


def test_units_the_facts_do_not_list_are_absent_or_have_a_source(facts: dict[str, Any]) -> None:
    for name, table in nvidia(facts).items():
        chip = load_chip(name)
        for dtype in ("fp8", "fp4"):
            assert (chip.peak_flops(dtype) is None) == (dtype not in table), (name, dtype)


def test_first_source_of_every_chip_figure(facts: dict[str, Any]) -> None:
    compared = 0
    for name in nvidia(facts):
        block = FACTS.read_text().split(f"\n  {name}:\n", 1)[1]
        sources = load_chip(name).sources
        for line in block.splitlines():
            if not line.startswith("    "):
                break
            matched = re.match(r"    (\w+): .*#\s*([A-Z][A-Z0-9a-z]*)\b", line)
            if not matched or matched[1] == "vendor" or matched[1] not in ("nvlink", "pcie", *KEYS):
                continue
            key = "scale_up" if matched[1] == "nvlink" else KEYS.get(matched[1], matched[1])
            text = source_of(key, sources)
            assert text is not None, (name, key)
            tag = TAGS.get(matched[2], matched[2])
            assert tag in text.split(":")[0].split(", "), (name, key, text)
            compared += 1
    assert compared > 120


def test_all_reduce(facts: dict[str, Any]) -> None:
    for name, groups in facts["achieved"]["nccl_allreduce"].items():
        rows = {f"n{row.chips}": row for row in load_chip(name).efficiency.all_reduce}
        for size, cost in groups.items():
            found = (rows[size].alpha_s, rows[size].bus_bytes_per_s)
            assert found == pytest.approx((cost["alpha"], cost["bus"])), (name, size)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("gemm_eff_bf16", "gemm_bf16"),
        ("gemm_eff_fp8", "gemm_fp8"),
        ("gemm_min_latency_s", "gemm_floor_s"),
        ("hbm_eff_decode_attention", "hbm_decode_attention"),
        ("prefill_attention_eff_bf16", "prefill_attention_bf16"),
        ("vit_attention_eff_bf16", "vit_attention_bf16"),
    ],
)
def test_measured_efficiency(facts: dict[str, Any], table: str, key: str) -> None:
    for name, value in facts["achieved"][table].items():
        efficiency = load_chip(name).efficiency
        ours = getattr(efficiency, key)
        if key.startswith("gemm_bf16") or key == "gemm_fp8":
            ours = [ours.median, ours.best]
        elif key.endswith("attention_bf16"):
            first = 1024 if key.startswith("prefill") else 256
            assert [tokens for tokens, _ in ours] == [first * 4**i for i in range(len(value))]
            ours = [fraction for _, fraction in ours]
        assert ours == pytest.approx(value), name
        assert key not in dict(efficiency.borrowed), name


def test_expert_parallel_figures_of_h800(facts: dict[str, Any]) -> None:
    known, efficiency = facts["achieved"]["h800_sxm"], load_chip("h800_sxm").efficiency
    assert efficiency.mla_compute == known["mla_compute_eff"]
    assert efficiency.mla_memory_bytes_per_s == known["mla_mem_bw"]
    for rows, table in (
        (efficiency.expert_dispatch, known["ep_dispatch"]),
        (efficiency.expert_combine, known["ep_combine"]),
    ):
        assert {row.ranks: {"lat": row.latency_s, "bw": row.bytes_per_s} for row in rows} == table


def test_every_node(facts: dict[str, Any]) -> None:
    ours = {name: table for name, table in facts["nodes"].items() if table.get("accel") in nvidia(facts)}
    assert len(ours) == 9
    for name, table in ours.items():
        node = load_node(name)
        assert (node.chip, node.chips) == (table["accel"], table["n"]), name
        assert node.fabric == FABRICS[table["fabric"]], name
        for key, known in (
            ("nics", "nics"),
            ("nic_bytes_per_s", "nic_bw"),
            ("rails", "rails"),
            ("nodes_per_pod", "servers_per_rail_pod"),
            ("trays", "trays"),
        ):
            if known in table:
                assert getattr(node, key) == table[known], (name, key)
        if "gpus_per_tray" in table:
            assert node.chips // node.trays == table["gpus_per_tray"]


def test_nics_of_a_node_add_up_to_the_chips_share(facts: dict[str, Any]) -> None:
    for name, table in nvidia(facts).items():
        if table.get("nic_bw"):
            chip = load_chip(name)
            assert chip.node is not None
            node = load_node(chip.node)
            assert node.nic_bytes_per_s is not None
            assert node.nics * node.nic_bytes_per_s / node.chips == pytest.approx(table["nic_bw"]), name
