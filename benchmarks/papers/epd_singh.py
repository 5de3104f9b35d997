"""EPD (Singh et al., ICML 2025): time to first token of MiniCPM-V 2.6 on eight A100s, against frames and images."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING, Any

from simulator.candidates import load_candidate
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FRAMES", "IMAGES", "main", "ttft_s"]

SCENARIO = "papers/epd-singh-minicpm-v"
#: Mean TTFT, s, by frames of a video (Video-MME), at 1 request/s.
FRAMES = {
    "vLLM": {8: 0.42, 16: 0.82, 32: 1.59, 64: 3.11},
    "DistServe": {8: 0.42, 16: 0.81, 32: 1.54, 64: 3.08},
    "EPD": {8: 0.24, 16: 0.30, 32: 0.49, 64: 1.00},
}
#: The same of EPD by images of 4032 x 3024, ten slices each: dealt to all encoders, and each request to one.
IMAGES = {True: {2: 0.92, 4: 1.02, 6: 1.14, 8: 1.74}, False: {2: 1.46, 4: 2.47, 6: 3.37, 8: 4.27}}
_SLICES = 10


def ttft_s(name: str, changes: Mapping[str, Any], seeds: int = 1) -> float:
    """Return the mean TTFT of a system, a mean over seeds."""
    runs = (run_scenario(load_candidate(SCENARIO, name, {**changes, "seed": seed})) for seed in range(seeds))
    return mean(run.summary["mean_ttft_ms"] for run in runs) / 1e3


def main(seeds: int, jobs: int) -> None:
    """Print both tables, paper and ours."""
    del jobs
    print("TTFT, s, against frames: paper, ours")
    for name, row in FRAMES.items():
        ours = [ttft_s(name, {"workload.synthetic.images.value": frames}, seeds) for frames in row]
        print(
            f"  {name:10}"
            + "".join(f"{paper:7.2f}{found:7.2f}" for paper, found in zip(row.values(), ours, strict=True))
        )
    print("TTFT, s, of EPD against images of ten slices, dealt to all encoders or one: paper, ours")
    for sharded, row in IMAGES.items():
        keys = {"network.feature_transfer.shard_images": sharded}
        ours = [ttft_s("EPD", {**keys, "workload.synthetic.images.value": _SLICES * images}, seeds) for images in row]
        print(
            f"  {sharded!s:10}"
            + "".join(f"{paper:7.2f}{found:7.2f}" for paper, found in zip(row.values(), ours, strict=True))
        )
