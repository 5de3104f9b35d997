from __future__ import annotations

import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import TraceError
from workloads.limits import LAST_ARRIVAL_NS
from workloads.media import Item, media_of
from workloads.spreading import spread_ticks
from workloads.streams import stream
from workloads.table import Arrivals, BlockHashes

TIMES = st.lists(st.integers(0, 10**12), min_size=1, max_size=40).map(sorted)


def table(times_ns: list[int], **columns: object) -> Arrivals:
    ones = np.ones(len(times_ns), dtype=np.int64)
    given_columns = {"prompt_tokens": ones, "output_tokens": ones, "source": "test", **columns}
    return Arrivals(arrival_ns=np.array(times_ns, dtype=np.int64), **given_columns)


def blocks() -> BlockHashes:
    return BlockHashes(np.array([0, 2, 2, 5]), np.array([1, 2, 1, 2, 3]), 16)


def test_columns_are_read_only_and_the_callers_array_is_not() -> None:
    prompts = np.array([4, 5], dtype=np.int64)
    arrivals = table([0, 3], prompt_tokens=prompts)
    with pytest.raises(ValueError, match="read-only"):
        arrivals.prompt_tokens[0] = 9
    prompts[0] = 7
    assert len(arrivals) == 2


def test_other_integer_types_become_64_bit() -> None:
    assert table([0], prompt_tokens=np.array([7], dtype=np.int32)).prompt_tokens.dtype == np.int64


def test_a_table_survives_pickling() -> None:
    arrivals = table([0, 1, 2], blocks=blocks(), skipped={"not a number": 2})
    copy = pickle.loads(pickle.dumps(arrivals))  # noqa: S301 - our own bytes
    assert copy.blocks.hashes.tolist() == [1, 2, 1, 2, 3]
    assert copy.skipped == {"not a number": 2}


@pytest.mark.parametrize(
    ("times_ns", "columns", "message"),
    [
        ([], {}, "no request"),
        ([0, 5, 4], {}, "never decrease"),
        ([-1, 5], {}, "from 0"),
        ([0, LAST_ARRIVAL_NS + 1], {}, "2\\*\\*62"),
        ([0, 1], {"prompt_tokens": np.array([1])}, "1 prompt_tokens for 2 arrivals"),
        ([0, 1], {"prompt_tokens": np.array([1, 0])}, "prompt_tokens is 0, expected at least 1"),
        ([0, 1], {"output_tokens": np.array([-3, 1])}, "output_tokens is -3"),
        ([0], {"session": np.array([-2])}, "session is -2, expected at least -1"),
        ([0], {"session": np.array([0, 0])}, "2 session for 1"),
        ([0], {"blocks": blocks()}, "3 block rows for 1 arrivals"),
    ],
)
def test_a_table_that_breaks_a_law_is_refused(times_ns: list[int], columns: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        table(times_ns, **columns)


@pytest.mark.parametrize(
    ("offsets", "hashes", "block_tokens", "message"),
    [
        ([], [], 16, "do not rise"),
        ([1, 2], [5, 6], 16, "do not rise"),
        ([0, 1], [5, 6], 16, "do not rise"),
        ([0, 2, 1, 2], [5, 6], 16, "do not rise"),
        ([0, 2], [5, 6], 0, "block_tokens is 0"),
    ],
)
def test_block_offsets_must_cut_the_hashes(
    offsets: list[int], hashes: list[int], block_tokens: int, message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        BlockHashes(np.array(offsets, dtype=np.int64), np.array(hashes), block_tokens)


ITEMS = ([Item(width=8)], [], [Item(width=9), Item(width=7)])


def test_some_requests_keep_their_images() -> None:
    some = table([0, 3, 9], media=media_of(ITEMS)).taken(np.array([0, 2]))
    assert some.images.tolist() == [1, 2]
    assert [item.width for item in some.media.contents()] == [8, 9, 7]


def test_head_takes_the_first_rows_of_every_column() -> None:
    arrivals = table([0, 3, 9], blocks=blocks(), session=np.array([0, -1, 0]), media=media_of(ITEMS))
    first = arrivals.head(2)
    assert first.arrival_ns.tolist() == [0, 3]
    assert first.session.tolist() == [0, -1]
    assert first.images.tolist() == [1, 0]
    assert first.image_tokens is None
    assert [first.blocks.of(row).tolist() for row in range(len(first.blocks))] == [[1, 2], []]
    assert arrivals.head(99) is arrivals
    with pytest.raises(TraceError, match="limit is 0"):
        arrivals.head(0)


@given(times_ns=TIMES, scale=st.floats(0.01, 100))
def test_rescaling_divides_every_time_and_keeps_the_order(times_ns: list[int], scale: float) -> None:
    scaled = table(times_ns).rescaled(scale)
    assert np.abs(scaled.arrival_ns - np.array(times_ns) / scale).max() <= 0.51
    assert table(times_ns).rescaled(1.0).arrival_ns.tolist() == times_ns


def test_replaying_twice_as_fast_halves_the_times() -> None:
    assert table([0, 10, 31]).rescaled(2.0).arrival_ns.tolist() == [0, 5, 16]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(TraceError, match="rate_scale"):
        table([0, 10]).rescaled(scale)


def test_a_rate_scale_cannot_push_arrivals_beyond_the_clock() -> None:
    with pytest.raises(TraceError, match="146 years"):
        table([0, 10**15]).rescaled(1e-9)


def test_streams_depend_on_seed_and_name_only() -> None:
    assert stream(5, "arrivals").random(3).tolist() == stream(5, "arrivals").random(3).tolist()
    expected = np.random.default_rng([5, zlib.crc32(b"arrivals")]).random(3)
    assert stream(5, "arrivals").random(3).tolist() == expected.tolist()
    draws = {stream(seed, name).random() for seed in (0, 1) for name in ("a", "b")}
    assert len(draws) == 4


@given(
    stamps=st.lists(st.integers(0, 50), min_size=1, max_size=60).map(sorted),
    unit=st.integers(1, 3000),
    seed=st.integers(0, 99),
)
def test_spreading_keeps_order_and_stays_before_the_next_stamp(stamps: list[int], unit: int, seed: int) -> None:
    times_ns = np.array(stamps) * unit
    spread = spread_ticks(times_ns, stream(seed, "spread"))
    assert (np.diff(spread) >= 0).all()
    assert (spread >= times_ns).all()
    assert spread[0] == times_ns[0]
    for stamp in np.unique(times_ns):
        inside = spread[times_ns == stamp]
        later = times_ns[times_ns > stamp]
        assert inside.size > 1 or inside[0] == stamp
        assert not later.size or inside[-1] < later[0]


def test_spreading_makes_a_tick_look_like_poisson_arrivals_and_a_silence_a_silence() -> None:
    times_ns = np.repeat(np.arange(400), 25) * 1_000_000
    gaps = np.diff(spread_ticks(times_ns, stream(0, "spread")))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    silent = spread_ticks(np.array([0, 0, 30, 30, 9000, 9000, 9030]), stream(0, "spread"))
    assert silent[3] < 60


def test_spreading_depends_on_the_seed_alone() -> None:
    times_ns = np.repeat(np.arange(9), 5) * 1000
    found = [spread_ticks(times_ns, stream(seed, "spread")).tolist() for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert spread_ticks(np.array([5, 5, 5]), stream(0, "spread")).tolist() == [5, 5, 5]
