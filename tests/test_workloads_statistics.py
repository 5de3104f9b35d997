from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.statistics import describe, prefix_hit_tokens
from workloads.table import Arrivals, BlockHashes
from workloads.traces import detect_format, read_trace

TRACES = Path(__file__).parents[1].parent / "shared" / "data" / "traces"

# Reference: conventions.md B2, computed on the files themselves.
PUBLISHED = {
    "azure2023_conv.csv": {
        "format": "azure",
        "rows": 19366,
        "span_s": 3502,
        "rate_per_s": 5.53,
        "interarrival_cv": 1.09,
        "count_dispersion": 1.4,
        "peak_per_s": 16,
        "prompt_tokens": (1155, 1020, 4142, 14050),
        "output_tokens": (211, 129, 601, 1000),
    },
    "mooncake_conversation_trace.jsonl": {
        "format": "mooncake",
        "rows": 12031,
        "span_s": 3537,
        "rate_per_s": 3.40,
        "interarrival_cv": 3.03,
        "count_dispersion": 7.9,
        "peak_per_s": 28,
        "prompt_tokens": (12035, 6909, 85400, 126195),
        "output_tokens": (343, 350, 1119, 2000),
        "prefix_hit_ratio": 0.374,
    },
    "servegen_mm-image_1h.csv.gz": {
        "format": "servegen",
        "rows": 45971,
        "span_s": 3600,
        "rate_per_s": 12.8,
        "interarrival_cv": 1.37,
        "mean_images": 1.4,
        "p99_images": 7,
        "max_images": 49,
        "image_tokens": (805, 768, 3251, 21603),
        "output_tokens": (125, 99, 525, 2000),
    },
    "servegen_deepseek-r1_1h.csv.gz": {
        "format": "servegen",
        "rows": 132522,
        "span_s": 3600,
        "rate_per_s": 36.8,
        "interarrival_cv": 1.21,
        "prompt_tokens": (681, 275, 12426, 54997),
        "output_tokens": (824, 530, 5027, 30236),
    },
}


def shared_trace(name: str) -> Path:
    if not (TRACES / name).is_file():
        pytest.skip(f"the shared trace {name} is not beside this checkout")
    return TRACES / name


def digits(value: float) -> int:
    return len(str(value).partition(".")[2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_traces_at_hand_have_their_published_statistics(name: str) -> None:
    expected = dict(PUBLISHED[name])
    path = shared_trace(name)
    assert detect_format(path) == expected.pop("format")
    found = describe(read_trace(path, spread=False))
    for key, value in expected.items():
        if isinstance(value, tuple):
            # Published percentiles are rounded to whole tokens, a half either way.
            columns = [found[f"{statistic}_{key}"] for statistic in ("mean", "p50", "p99", "max")]
            assert columns == pytest.approx(value, abs=0.5), key
        else:
            assert round(found[key], digits(value)) == value, key
    assert found["skipped_rows"] == 0


def test_azure_times_are_exact_to_the_last_digit() -> None:
    arrivals = read_trace(shared_trace("azure2023_conv.csv"), limit=4)
    # 18:15:46.6805900, 50.9951690, 51.2224670, 51.3910170
    assert arrivals.arrival_ns.tolist() == [0, 4_314_579_000, 4_541_877_000, 4_710_427_000]
    assert arrivals.prompt_tokens.tolist() == [374, 396, 879, 91]


def test_spreading_takes_the_ticks_out_of_the_mooncake_trace_and_keeps_its_rate() -> None:
    path = shared_trace("mooncake_conversation_trace.jsonl")
    ticked, spread = (read_trace(path, spread=spread) for spread in (False, True))
    assert np.unique(ticked.arrival_ns).size == 1180
    assert np.unique(spread.arrival_ns).size == 12031
    found = describe(spread)
    assert found["interarrival_cv"] == pytest.approx(1, abs=0.1)
    assert found["rate_per_s"] == pytest.approx(3.40, abs=0.01)
    assert (spread.arrival_ns - ticked.arrival_ns < 3.003e9).all()
    assert spread.blocks.block_tokens == 512
    assert len(spread.blocks) == 12031
    assert np.unique(spread.blocks.hashes).size == pytest.approx(182.8e3, abs=50)
    assert spread.blocks.hashes.size == pytest.approx(288.5e3, abs=50)


def arrivals_of(times_ns: list[int], **columns: object) -> Arrivals:
    ones = np.ones(len(times_ns), dtype=np.int64)
    return Arrivals(
        **{
            "arrival_ns": np.array(times_ns, dtype=np.int64),
            "prompt_tokens": ones,
            "output_tokens": ones,
            "source": "test",
            **columns,
        }
    )


def test_a_burst_has_no_rate() -> None:
    found = describe(arrivals_of([0, 0, 0]))
    assert found["span_s"] == 0
    assert "rate_per_s" not in found
    assert "interarrival_cv" not in found


def test_constant_arrivals_have_no_variation() -> None:
    found = describe(arrivals_of([500_000_000 * k for k in range(1, 11)]))
    assert found["rate_per_s"] == pytest.approx(2.0)
    assert found["interarrival_cv"] == 0
    assert found["count_dispersion"] == 0
    assert found["peak_per_s"] == 2
    assert "burstiness" not in found


def test_a_silence_of_a_century_costs_no_memory_to_describe() -> None:
    found = describe(arrivals_of([0, 0, 4 * 10**18]))
    assert found["peak_per_s"] == 2


def test_skipped_rows_and_sessions_are_counted() -> None:
    found = describe(arrivals_of([0, 1, 2], session=np.array([0, -1, 1]), skipped={"a": 2, "b": 1}))
    assert (found["skipped_rows"], found["sessions"]) == (3, 2)


@pytest.mark.parametrize(
    ("prompts", "lengths", "hits"),
    [
        ([[1, 2], [1, 2], [1, 3, 2]], [1024, 1024, 1536], [0, 1024, 512]),
        ([[1, 2], [1, 2]], [600, 600], [0, 600]),
        ([[7, 7, 7]], [1500], [0]),
        ([[], [1], []], [5, 5, 5], [0, 0, 0]),
    ],
)
def test_prefix_hits_by_example(prompts: list[list[int]], lengths: list[int], hits: list[int]) -> None:
    assert prefix_hit_tokens(ragged(prompts, 512), np.array(lengths)).tolist() == hits


def ragged(prompts: list[list[int]], block_tokens: int) -> BlockHashes:
    offsets = np.cumsum([0, *map(len, prompts)])
    return BlockHashes(offsets, np.array([*chain.from_iterable(prompts)], dtype=np.int64), block_tokens)


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=12))
def test_prefix_hits_equal_a_cache_kept_as_a_set(prompts: list[list[int]]) -> None:
    seen: set[int] = set()
    expected = []
    for prompt in prompts:
        hit = next((place for place, block in enumerate(prompt) if block not in seen), len(prompt))
        expected.append(16 * hit)
        seen.update(prompt)
    lengths = np.array([max(1, 16 * len(prompt)) for prompt in prompts])
    assert prefix_hit_tokens(ragged(prompts, 16), lengths).tolist() == expected
