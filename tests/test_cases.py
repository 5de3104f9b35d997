"""Measured cases: what is read of a row, and what is said of a wrong one."""

from __future__ import annotations

import pytest
from pricing import SHARED

from hardware.errors import CaseError
from simulator.cases import read_cases, restricted, unread_columns

HEADER = "case_id,source,model,gpu,engine,mode,date,concurrency,isl_mean,osl_mean,ttft_mean_ms,output_tok_s,clean,note"
ROWS = """\
a,Lab x;more,Org/Model-A,h100_sxm,vllm (nightly),,20260131,4,1024,128,20.5,nan,1,
b,Lab x,Org/Model-B,h200_sxm,sglang,disagg,2026-02-01,,1024,128,,99,0,seen
"""


def written(tmp_path, text, name="cases.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_what_its_columns_say_and_nothing_where_they_are_empty(tmp_path):
    path = written(tmp_path, f"{HEADER}\n{ROWS}")
    first, second = read_cases(path)
    assert (first.case_id, first.where, first.origin) == ("a", f"{path}:2", "Lab")
    assert (first.engine, first.model, first.mode, first.date) == ("vllm", "Model-A", "agg", "2026-01-31")
    assert first.numbers == {"concurrency": 4, "isl_mean": 1024, "osl_mean": 128, "clean": 1}
    assert first.measured == {"ttft_mean": 20.5}
    assert (second.mode, second.measured, second.numbers.get("concurrency")) == ("disagg", {"output_tok_s": 99}, None)
    assert (first.trusted, second.trusted) == (True, False)
    assert unread_columns([first, second]) == ("note",)
    with pytest.raises(CaseError, match=r"cases.csv:3: concurrency is empty, expected a number"):
        second.need("concurrency")


@pytest.mark.parametrize(("name", "stage"), [("run/all", None), ("run/stage12", 12), ("run/stages", None)])
def test_a_part_of_a_run_is_told_from_the_id(tmp_path, name, stage):
    assert read_cases(written(tmp_path, f"case_id,ttft_mean_ms\n{name},1\n"))[0].stage == stage


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ":1: has no column case_id, expected one with a name for each case"),
        ("case_id,isl_mean\na,1\n", ":1: has no measured column, expected one such as ttft_mean_ms"),
        ("case_id,case_id,ttft_mean_ms\na,a,1\n", ":1: column 'case_id' comes twice, expected once"),
        ("case_id,ttft_mean_ms\na,1,2\n", ":2: found 3 values, expected 2, one for each column"),
        ("case_id,ttft_mean_ms\na,1\n,2\n", ":3: case_id is empty, expected a name for the case"),
        ("case_id,ttft_mean_ms\na,fast\n", ":2: ttft_mean_ms is 'fast', expected a number of at least 0, or nothing"),
        ("case_id,ttft_mean_ms\na,-1\n", ":2: ttft_mean_ms is '-1', expected a number of at least 0, or nothing"),
        ("case_id,ttft_mean_ms\na,inf\n", ":2: ttft_mean_ms is 'inf', expected a number of at least 0, or nothing"),
        ('case_id,ttft_mean_ms\n"a,1\n', ": not CSV (unexpected end of data), expected a comma-separated file"),
        ("case_id,ttft_mean_ms\n", ": holds no case, expected rows with a case_id and measured values"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_line(tmp_path, text, sentence):
    path = written(tmp_path, text)
    with pytest.raises(CaseError) as caught:
        read_cases(path)
    assert str(caught.value).startswith(f"{path}{sentence}")


def test_an_id_names_one_case(tmp_path):
    path = written(tmp_path, "case_id,ttft_mean_ms\na,1\nb,1\na,2\n")
    with pytest.raises(CaseError, match=rf"cases.csv:4: case_id 'a' is that of {path}:2 too"):
        read_cases(path)


def test_what_is_not_there_or_not_text_cannot_be_read(tmp_path):
    with pytest.raises(CaseError, match=r"absent.csv: cannot be read \(No such file"):
        read_cases(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"case_id,ttft_mean_ms\n\xff,1\n")
    with pytest.raises(CaseError, match=r"binary.csv: byte \d+ is not UTF-8"):
        read_cases(tmp_path / "binary.csv")


def test_a_folder_is_all_its_files_of_cases(tmp_path):
    written(tmp_path, "case_id,split,ttft_mean_ms\na,dev,1\n", "one.csv")
    written(tmp_path, "case_id,split,ttft_mean_ms\nb,dev,1\n", "two.csv")
    written(tmp_path, "something,else\nc,1\n", "other.csv")
    assert [case.case_id for case in read_cases(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["engine=vllm"], "a"),
        (["engine=VLLM|sglang"], "ab"),
        (["model=model-b"], "b"),
        (["mode=agg"], "a"),
        (["concurrency=4"], "a"),
        (["clean=1", "duplicate=0"], "a"),
        (["duplicate=0"], "ab"),
        (["note=seen"], "b"),
    ],
)
def test_conditions_leave_what_meets_them_all(tmp_path, conditions, left):
    cases = read_cases(written(tmp_path, f"{HEADER}\n{ROWS}"))
    assert "".join(case.case_id for case in restricted(cases, conditions)) == left


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("vllm", "--where 'vllm': no condition on a column; expected COLUMN=VALUE"),
        ("engin=vllm", "--where 'engin=vllm': no condition on a column; did you mean 'engine'?"),
        ("engine=tgi", "--where 'engine=tgi': none of the 2 cases is left; try another value"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(tmp_path, condition, sentence):
    with pytest.raises(CaseError) as caught:
        restricted(read_cases(written(tmp_path, f"{HEADER}\n{ROWS}")), [condition])
    assert str(caught.value) == sentence


def test_every_public_file_of_cases_is_read():
    folder = SHARED / "validation"
    if not folder.is_dir():
        pytest.skip("the shared cases are not at hand")
    cases = read_cases(folder)
    assert len({case.origin for case in cases}) == 5
    assert sum(case.trusted and case.origin in {"InferenceX", "NVIDIA sweep"} for case in cases) == 1337
