"""What runs of Vidur itself gave: Llama-2-7B on one A100 each, seed 42, its shipped profiles and a smaller forest.

Forests of 250 trees, depth 32, split from 2 rows on, in place of the grid that Vidur searches. Seconds. All runs have
7,424 KV blocks of 16 tokens, at most 128 requests, 1 % of the blocks kept free, chunks of 512 tokens (sarathi) or 4,096
padded prompt tokens a step (vllm), and no time of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TypeAlias

__all__ = ["ALIKE", "REPLICAS", "ROWS", "Row"]

Four: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One run.

    Attributes
    ----------
    trace
        Where the lengths are from:``conv`` is the conversation trace of Azure, ``replay`` the same at its own times,
        ``arxiv`` article summaries, and ``alike`` has no lengths but two.
    qps
        Rate of its arrivals, which are not quite Poisson (:func:`benchmarks.papers.vidur.arrivals`).
    scheduler
        ``sarathi`` or ``vllm``.
    ttft, tpot
        Mean, P50, P90 and P99. TPOT divides the time after the first token by all tokens, the first included.
    e2e
        P50, P90 and P99.
    tbt
        P50, P90, P99 and P99.9 of the times between tokens.
    tokens_per_s, batches
        Output tokens over the whole run, and steps.
    requests, replicas, router
        How many, to how many instances, chosen how.
    """

    trace: str
    qps: float
    scheduler: str
    ttft: Four
    tpot: Four
    e2e: tuple[float, float, float]
    tbt: Four | None
    tokens_per_s: float
    batches: int
    requests: int = 1000
    replicas: int = 1
    router: str = "round_robin"

    @property
    def label(self) -> str:
        """Its name in tables."""
        more = f", {self.replicas} replicas, {self.router}" if self.replicas > 1 else ""
        return f"{self.trace} {self.qps:g} {self.scheduler}{more}"


ROWS = (
    Row(
        "conv",
        0.5,
        "sarathi",
        (0.1336, 0.1107, 0.3854, 0.4522),
        (0.01107, 0.01083, 0.01251, 0.01558),
        (1.655, 5.065, 7.136),
        (0.0106, 0.0115, 0.0498, 0.0572),
        111.6,
        128252,
    ),
    Row(
        "conv",
        0.5,
        "vllm",
        (0.1234, 0.1056, 0.3442, 0.4063),
        (0.01123, 0.01092, 0.01288, 0.01757),
        (1.655, 5.131, 7.259),
        (0.0106, 0.0115, 0.0132, 0.1746),
        111.6,
        127281,
    ),
    Row(
        "conv",
        1,
        "sarathi",
        (0.1468, 0.1181, 0.431, 0.5637),
        (0.01238, 0.01189, 0.01469, 0.02099),
        (1.855, 5.705, 7.987),
        (0.0112, 0.013, 0.0533, 0.0593),
        223,
        76674,
    ),
    Row(
        "conv",
        1,
        "vllm",
        (0.1324, 0.1073, 0.3907, 0.4725),
        (0.0127, 0.01213, 0.01535, 0.02288),
        (1.874, 5.889, 8.218),
        (0.0112, 0.0129, 0.0371, 0.4021),
        223,
        75760,
    ),
    Row(
        "conv",
        2,
        "sarathi",
        (0.1803, 0.1312, 0.4561, 0.8209),
        (0.01638, 0.01576, 0.02067, 0.03306),
        (2.391, 7.724, 11.113),
        (0.0133, 0.0171, 0.0596, 0.0632),
        444.8,
        31492,
    ),
    Row(
        "conv",
        2,
        "vllm",
        (0.1491, 0.1099, 0.3983, 0.644),
        (0.01745, 0.01673, 0.02233, 0.03684),
        (2.551, 8.249, 11.846),
        (0.0133, 0.0162, 0.1263, 0.5174),
        444.7,
        30722,
    ),
    Row(
        "conv",
        3,
        "sarathi",
        (0.2522, 0.1673, 0.573, 1.2159),
        (0.02373, 0.02305, 0.03158, 0.0475),
        (3.514, 11.624, 16.757),
        (0.0171, 0.0579, 0.0656, 0.0686),
        662.5,
        15052,
    ),
    Row(
        "conv",
        3,
        "vllm",
        (0.1771, 0.1156, 0.4052, 0.7756),
        (0.0269, 0.02611, 0.03713, 0.06199),
        (3.889, 13.052, 19.038),
        (0.0172, 0.0233, 0.2783, 1.007),
        662.3,
        14445,
    ),
    Row(
        "conv",
        4,
        "sarathi",
        (0.4769, 0.3246, 1.1101, 1.9229),
        (0.04355, 0.04384, 0.05949, 0.06994),
        (6.684, 21.859, 30.935),
        (0.0316, 0.072, 0.078, 0.082),
        875.4,
        6520,
    ),
    Row(
        "conv",
        4,
        "vllm",
        (0.2176, 0.1355, 0.4686, 0.9249),
        (0.05474, 0.05489, 0.07615, 0.10232),
        (7.98, 26.813, 38.314),
        (0.0296, 0.0636, 0.646, 1.846),
        874.2,
        6219,
    ),
    Row(
        "conv",
        5,
        "sarathi",
        (11.73, 13.56, 20.54, 21.45),
        (0.07603, 0.07994, 0.0821, 0.0831),
        (25.91, 49.35, 60.29),
        (0.0805, 0.0852, 0.0892, 0.0912),
        969.5,
        3378,
    ),
    Row(
        "conv",
        5,
        "vllm",
        (11.26, 12.68, 20.25, 21.42),
        (0.08949, 0.09212, 0.10389, 0.1228),
        (27.49, 53.72, 65.18),
        (0.0468, 0.1888, 0.6512, 0.9465),
        964.9,
        3550,
    ),
    Row(
        "conv",
        6,
        "sarathi",
        (26.85, 29.35, 46.45, 52.6),
        (0.07685, 0.08, 0.08221, 0.08326),
        (45.89, 72.28, 80.38),
        (0.0807, 0.0854, 0.089, 0.0912),
        973.2,
        3276,
    ),
    Row(
        "conv",
        6,
        "vllm",
        (25.87, 28.11, 46.66, 51.87),
        (0.0916, 0.09293, 0.10358, 0.14166),
        (47.4, 75.56, 84.32),
        (0.0468, 0.2062, 0.5845, 0.9185),
        970.3,
        3432,
    ),
    Row(
        "arxiv",
        0.5,
        "sarathi",
        (0.3084, 0.3126, 0.4432, 0.6773),
        (0.01385, 0.01318, 0.01751, 0.02267),
        (2.683, 5.804, 42.12),
        (0.0119, 0.0141, 0.0568, 0.0604),
        150.1,
        134262,
    ),
    Row(
        "arxiv",
        0.5,
        "vllm",
        (0.2755, 0.282, 0.384, 0.5742),
        (0.01429, 0.01346, 0.01847, 0.02502),
        (2.733, 5.897, 42.94),
        (0.0119, 0.0139, 0.0173, 0.3864),
        150.1,
        131939,
    ),
    Row(
        "arxiv",
        1,
        "sarathi",
        (0.3791, 0.3572, 0.6088, 0.9882),
        (0.01991, 0.01855, 0.02728, 0.04386),
        (3.668, 8.785, 60.09),
        (0.0147, 0.0435, 0.064, 0.0707),
        294.3,
        57314,
    ),
    Row(
        "arxiv",
        1,
        "vllm",
        (0.3052, 0.3005, 0.4635, 0.7794),
        (0.02148, 0.01985, 0.03017, 0.05364),
        (3.801, 9.391, 64.07),
        (0.0148, 0.0192, 0.2679, 0.7196),
        294.2,
        54908,
    ),
    Row(
        "arxiv",
        2,
        "sarathi",
        (8.453, 8.367, 17.72, 22.17),
        (0.07136, 0.07455, 0.08245, 0.08419),
        (22.39, 40.72, 216.9),
        (0.0822, 0.0876, 0.0908, 0.0919),
        534.3,
        10257,
    ),
    Row(
        "arxiv",
        2,
        "vllm",
        (11.45, 10.9, 27.75, 31.13),
        (0.08049, 0.08222, 0.09366, 0.10855),
        (27.2, 49.62, 254.5),
        (0.0447, 0.0462, 0.6047, 1.476),
        523.3,
        10374,
    ),
    Row(
        "arxiv",
        3,
        "sarathi",
        (81.16, 76.82, 160.3, 171.7),
        (0.07748, 0.07934, 0.08355, 0.08488),
        (95.25, 179.3, 294.1),
        (0.084, 0.088, 0.0908, 0.0921),
        541.4,
        9419,
    ),
    Row(
        "arxiv",
        3,
        "vllm",
        (85.15, 79.62, 169.7, 182.9),
        (0.08572, 0.08469, 0.09809, 0.1211),
        (99.19, 190.6, 314.7),
        (0.0452, 0.2554, 0.5718, 0.8462),
        529.7,
        9776,
    ),
)

#: Requests that are all alike, 2,048 and 512 tokens; of TTFT only P99 is known.
ALIKE = Row(
    "alike",
    0.5,
    "sarathi",
    (nan, nan, nan, 0.449),
    (0.01466, 0.01426, 0.01827, 0.0205),
    (7.56, 9.65, 10.82),
    (0.0130, 0.0169, 0.0568, 0.0605),
    272,
    17377,
    128,
)

#: Several instances; ``fewest_waiting`` counts requests in the queue alone, and of equals takes the first.
REPLICAS = (
    Row(
        "conv",
        12,
        "sarathi",
        (0.305, 0.229, 0.672, 1.030),
        (0.0466, 0.0478, 0.0737, 0.0775),
        (6.475, 27.87, 36.84),
        None,
        2582,
        50895,
        4000,
        4,
        "fewest_waiting",
    ),
    Row(
        "conv",
        12,
        "sarathi",
        (0.186, 0.138, 0.494, 0.684),
        (0.0224, 0.0219, 0.0290, 0.0382),
        (3.157, 10.43, 14.51),
        None,
        2619,
        59269,
        4000,
        4,
        "round_robin",
    ),
    Row(
        "replay",
        0,
        "sarathi",
        (0.224, 0.173, 0.519, 0.847),
        (0.0297, 0.0306, 0.0454, 0.0570),
        (4.159, 16.12, 23.39),
        None,
        1166,
        432874,
        19366,
        4,
        "fewest_waiting",
    ),
)
