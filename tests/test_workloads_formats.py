"""What is particular to each trace format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from traces import THREE_REQUESTS, canonical, check_refused, read, written

from hardware.errors import TraceError
from workloads.prefixes import prefixes_of
from workloads.readers import READERS
from workloads.readers.azure import date_ns
from workloads.readers.plain_csv import ALIASES
from workloads.readers.protocol import BadRowError
from workloads.statistics import describe
from workloads.traces import detect_format, read_trace

if TYPE_CHECKING:
    from pathlib import Path


# --- azure


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1970-01-01 00:00:00", 0),
        ("1970-01-02T00:00:01.5", 86_401_500_000_000),
        ("2023-11-16 18:15:46.6805900", 1_700_158_546_680_590_000),
        ("2024-05-10 00:00:00.009930+00:00", 1_715_299_200_009_930_000),
        ("2024-05-10 02:00:00.009930+02:00", 1_715_299_200_009_930_000),
        ("2024-02-29 23:59:59.999999999Z", 1_709_251_199_999_999_999),
    ],
)
def test_azure_dates_are_exact_nanoseconds(text: str, expected_ns: int) -> None:
    assert date_ns(text, "TIMESTAMP") == expected_ns


@pytest.mark.parametrize(
    "text",
    ["", "2023-11-16", "2023-02-30 00:00:00", "2023-11-16 24:00:00", "2023-11-16 18:15:60", "12:00", "١٢"],
)
def test_azure_dates_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(BadRowError, match="expected a date and time"):
        date_ns(text, "TIMESTAMP")


def test_the_azure_trace_of_2025_has_images(tmp_path: Path) -> None:
    rows = "2024-10-15 00:00:00.1+00:00,2,900,120\n2024-10-15 00:00:01.1+00:00,0,30,8\n"
    arrivals = read(tmp_path, "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n" + rows)
    assert arrivals.images.tolist() == [2, 0]
    assert arrivals.prompt_tokens.tolist() == [900, 30]
    assert arrivals.arrival_ns.tolist() == [0, 10**9]
    assert arrivals.image_tokens is None


def test_prompts_of_a_plain_csv_with_the_same_id_are_the_same_text(tmp_path: Path) -> None:
    arrivals = read(tmp_path, "arrival_s,isl,osl,prompt_id\n0,700,1,7\n1,30,1,8\n2,700,1,7\n")
    found = prefixes_of(arrivals)
    assert found.offsets.tolist() == [0, 1, 1, 2]
    assert found.contents[0] == found.contents[1]
    assert found.ends.tolist() == [700, 700]


def test_a_prompt_id_is_a_whole_number(tmp_path: Path) -> None:
    lines = ["arrival_s,isl,osl,prompt_id", "0,700,1,7", "1,30,1,x"]
    with pytest.raises(TraceError, match=r":3: prompt_id is 'x', expected a whole number of at least 0"):
        read(tmp_path, "\n".join(lines))


# --- mooncake


def mooncake_line(time_ms: int, prompt_tokens: int, hash_ids: object) -> str:
    return json.dumps({"timestamp": time_ms, "input_length": prompt_tokens, "output_length": 1, "hash_ids": hash_ids})


def test_mooncake_keeps_its_block_hashes_and_spreads_its_ticks(tmp_path: Path) -> None:
    lines = [mooncake_line(t, 600, [t, t + 1]) for t in (0, 0, 3000, 3000, 3000, 6000)]
    arrivals = read(tmp_path, "\n".join(lines))
    at_s = arrivals.arrival_ns / 1e9
    assert (at_s[0], at_s[-1]) == (0, 6)
    assert 0 < at_s[1] < 3 < at_s[2] < at_s[3] < at_s[4] < 6
    assert arrivals.blocks.of(2).tolist() == [3000, 3001]
    ticked = read(tmp_path, "\n".join(lines), spread=False)
    assert (ticked.arrival_ns / 1e9).tolist() == [0, 0, 3, 3, 3, 6]


@pytest.mark.parametrize("hash_ids", [None, 5, "12", [1.5], ["1"], [None], [2**63], [1, 2, 3], {}])
def test_mooncake_refuses_hashes_that_cannot_be_the_prompts(hash_ids: object, tmp_path: Path) -> None:
    lines = [mooncake_line(0, 600, [1, 2]), mooncake_line(1, 600, hash_ids), mooncake_line(2, 600, [3])]
    check_refused(tmp_path, "mooncake", lines, "bad block hashes", bad_line=2, kept=2)
    kept = read(tmp_path, "\n".join(lines), on_error="skip").blocks
    assert kept.hashes.tolist() == [1, 2, 3]
    assert kept.offsets.tolist() == [0, 2, 3]


def test_mooncake_without_hashes_has_no_blocks(tmp_path: Path) -> None:
    line = '{"timestamp": 0, "input_length": 5, "output_length": 1}\n'
    assert read(tmp_path, line * 2).blocks is None


def test_a_first_row_without_hashes_does_not_lose_the_others(tmp_path: Path) -> None:
    lines = ['{"timestamp": 0, "input_length": 5, "output_length": 1}', mooncake_line(1, 5, [4])]
    check_refused(tmp_path, "mooncake", lines, "missing field", bad_line=1, kept=1)


# --- bailian


def test_bailian_conversations_become_sessions(tmp_path: Path) -> None:
    line = (
        '{{"chat_id": {}, "parent_chat_id": {}, "timestamp": {}, "input_length": 20, "output_length": 2,'
        ' "type": "text", "turn": 1, "hash_ids": [1, 2]}}\n'
    )
    chats = [(10, -1), (11, -1), (12, 10), (13, 12), (14, 99), (15, 14), (16, 99)]
    arrivals = read(tmp_path, "".join(line.format(*chat, t) for t, chat in enumerate(chats)))
    assert arrivals.session.tolist() == [0, 1, 0, 0, 2, 2, 2]
    assert arrivals.blocks.block_tokens == 16
    assert describe(arrivals)["sessions"] == 3


def test_bailian_refuses_a_chat_id_that_is_no_name(tmp_path: Path) -> None:
    lines = READERS["bailian"].example.splitlines()
    lines[1] = lines[1].replace('"chat_id": 8', '"chat_id": [8]')
    check_refused(tmp_path, "bailian", lines, "bad chat id", bad_line=2, kept=2)


# --- burstgpt


def test_burstgpt_sessions_are_numbered_and_api_calls_have_none(tmp_path: Path) -> None:
    assert read(tmp_path, READERS["burstgpt"].example).session.tolist() == [0, 1, -1]


def test_the_first_burstgpt_files_have_no_sessions(tmp_path: Path) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n"
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    arrivals = read(tmp_path, header + rows)
    assert canonical(arrivals) == [[0, 40 * 10**9], [472, 1087], [18, 230]]
    assert arrivals.session is None


# --- servegen


def test_servegen_images_count_towards_the_prompt(tmp_path: Path) -> None:
    arrivals = read(tmp_path, READERS["servegen"].example)
    assert arrivals.images.tolist() == [2, 1, 0]
    assert arrivals.image_tokens.tolist() == [500, 1000, 0]


@pytest.mark.parametrize("header", ["timestamp,input_tokens,output_tokens", None])
def test_servegen_text_with_and_without_reason_ratio(header: str | None, tmp_path: Path) -> None:
    text = f"{header}\n0.5,7,3\n" if header else "timestamp,input_tokens,output_tokens,reason_ratio\n0.5,7,3,0.9\n"
    assert detect_format(written(tmp_path, text)) == "servegen"
    arrivals = read(tmp_path, text)
    assert canonical(arrivals) == [[0], [7], [3]]
    assert arrivals.images is None


@pytest.mark.parametrize("images", ["5;", ";", "x", "0", "-4;9", "2147483647;2147483647"])
def test_servegen_refuses_image_lists_it_cannot_add_up(images: str, tmp_path: Path) -> None:
    lines = READERS["servegen"].example.splitlines()
    lines[2] = f"2.5,100,{images},20"
    check_refused(tmp_path, "servegen", lines, None, bad_line=3, kept=2)


def test_servegen_prompts_may_be_all_image(tmp_path: Path) -> None:
    arrivals = read(tmp_path, "timestamp,text_tokens,image_tokens,output_tokens\n0,0,5;6,1\n")
    assert arrivals.prompt_tokens.tolist() == [11]


# --- csv


@pytest.mark.parametrize("arrival", ALIASES["arrival_s"])
@pytest.mark.parametrize("prompt", [name.upper() for name in ALIASES["prompt_tokens"]])
@pytest.mark.parametrize("output", ALIASES["output_tokens"])
def test_plain_csv_takes_every_alias_in_any_case(arrival: str, prompt: str, output: str, tmp_path: Path) -> None:
    text = f"id,{prompt},{output},{arrival}\na,5,6,0.25\nb,7,8,0.5\n"
    assert canonical(read(tmp_path, text, format="csv")) == [[0, 250_000_000], [5, 7], [6, 8]]
    assert detect_format(written(tmp_path, text)) == "csv"


def test_plain_csv_reads_quotes_and_whole_floats(tmp_path: Path) -> None:
    text = 'name,arrival_s,isl,osl\n"a, b",0,5.0,6\n"c ""d""",1,"7",8e0\n'
    assert canonical(read(tmp_path, text)) == [[0, 10**9], [5, 7], [6, 8]]


def test_two_columns_of_one_meaning_are_ambiguous(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,timestamp,isl,osl\n0,0,5,6\n")
    with pytest.raises(TraceError, match=r":1: columns arrival_s and timestamp mean the same"):
        read_trace(path)


# --- vllm


@pytest.mark.parametrize("prompt", ["prompt_tokens", "input_len", "prompt_len"])
@pytest.mark.parametrize("output", ["output_tokens", "output_len"])
def test_vllm_lines_without_times_all_arrive_at_once(prompt: str, output: str, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "x", prompt: 5 + k, output: 1 + k}) for k in range(3)]
    arrivals = read(tmp_path, "\n".join(lines))
    assert canonical(arrivals) == [[0, 0, 0], [5, 6, 7], [1, 2, 3]]


RESULT = {
    "date": "20261101-000000",
    "rtfx": float("nan"),
    "input_lens": [600, 30, 1100],
    "output_lens": [10, 30, 20],
    "start_times": [700.5, 705.5, 702.5],
    "generated_texts": ["a", "b", "c"],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_vllm_result_is_read_in_the_order_sent(indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(RESULT, indent=indent)
    assert detect_format(written(tmp_path, text)) == "vllm"
    assert canonical(read(tmp_path, text)) == THREE_REQUESTS


@pytest.mark.parametrize("start", [float("nan"), "x", None, 10**400])
def test_a_vllm_result_names_the_request_that_is_bad(start: object, tmp_path: Path) -> None:
    text = json.dumps({**RESULT, "start_times": [700.5, start, 702.5]})
    with pytest.raises(TraceError, match=":3: "):
        read(tmp_path, text)
    arrivals = read(tmp_path, text, on_error="skip")
    assert arrivals.prompt_tokens.tolist() == [600, 1100]
    assert sum(arrivals.skipped.values()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_lens": [1]}, "3 start_times, 1 input_lens, 3 output_lens"),
        ({"input_lens": 5}, "input_lens is 5, expected a list"),
        ({"start_times": [], "input_lens": [], "output_lens": []}, "no rows follow"),
    ],
)
def test_a_vllm_result_must_be_parallel_lists(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=message):
        read(tmp_path, json.dumps({**RESULT, **changes}))


def test_appended_vllm_results_are_not_one_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not JSON"):
        read(tmp_path, f"{json.dumps(RESULT)}\n{json.dumps(RESULT)}\n")
