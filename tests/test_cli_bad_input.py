"""Bad input of every kind: exit code 2, one sentence that says where, what was found and what is expected."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from bad_changes import BAD_CHANGES, LOOP
from command import SCENARIO, error_sentence, servesim, servesim_process, tree

from simulator.ownership import check_ownership, foreign_package


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with nothing but a good scenario."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def refused(*arguments: str) -> str:
    """Run a command that must refuse its input and write nothing; return its sentence."""
    before = tree(Path())
    result = servesim(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert tree(Path()) == before
    return error_sentence(result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(("change", "fragments"), BAD_CHANGES)
def test_a_bad_change_is_refused(change: str, fragments: tuple[str, ...]) -> None:
    sentence = refused("run", "s.toml", "--set", change)
    for fragment in fragments:
        assert fragment in sentence


# --- scenario files ----------------------------------------------------------------------------------

FILES = [
    pytest.param(b"seed = 1\nmodel = \n", "s.toml: not valid TOML", "line 2", id="not TOML"),
    pytest.param(b"seed = 1\nseed = 2\n", "s.toml: not valid TOML", "line 2", id="a key twice"),
    pytest.param(b"name = '\xff'\n", "s.toml: byte 8", "UTF-8", id="not UTF-8"),
    pytest.param(b"", "'model' is missing", "s.toml", id="empty"),
    pytest.param(SCENARIO.partition("[[pool]]")[0].encode(), "'pool' is missing", "s.toml", id="no pool"),
    pytest.param(SCENARIO.replace('chip = "h100_sxm"\n', "").encode(), "'pool.0.chip'", "missing", id="no chip"),
    pytest.param(b"x = " + b"[" * 5000, "s.toml", "less nesting", id="nested too deep"),
    pytest.param(b"seed = " + b"1" * 5000, "s.toml", "shorter numbers", id="a number of 5000 digits"),
]


@pytest.mark.parametrize(("content", "where", "expected"), FILES)
def test_a_bad_scenario_file_is_refused(folder: Path, content: bytes, where: str, expected: str) -> None:
    (folder / "s.toml").write_bytes(content)
    sentence = refused("run", "s.toml")
    assert where in sentence
    assert expected in sentence


@pytest.mark.parametrize(
    ("scenario", "found", "expected"),
    [
        pytest.param("nope.toml", "'nope.toml' is neither a file", "quickstart", id="missing"),
        pytest.param("quickstar", "'quickstar' is neither", "did you mean 'quickstart'?", id="misspelt"),
        pytest.param("../s", "'../s' is neither", "expected one of", id="no way into the shipped folder"),
        pytest.param(".", "'.' is a folder", "expected one of", id="folder"),
        pytest.param("", "'' is neither", "expected one of", id="empty name"),
        pytest.param("a" * 300, "is neither a file", "expected one of", id="impossible name"),
        pytest.param("two\nlines", "is neither a file", "expected one of", id="name of two lines"),
    ],
)
def test_a_scenario_that_is_not_there_is_refused(scenario: str, found: str, expected: str) -> None:
    sentence = refused("run", scenario)
    assert found in sentence
    assert expected in sentence


def test_a_pool_without_a_name_does_not_take_that_of_another(folder: Path) -> None:
    text = SCENARIO.replace('name = "left"', 'name = "pool1"').replace('name = "right"\n', "")
    (folder / "s.toml").write_text(text)
    assert "two pools are named 'pool1'" in refused("run", "s.toml")


# --- models ------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


@pytest.mark.parametrize(
    ("config", "found", "expected"),
    [
        pytest.param({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM'", "one of Bloom", id="architecture"),
        pytest.param({"hidden_size": -1}, "hidden_size is -1", "a positive integer", id="negative shape"),
        pytest.param({"vocab_size": None}, "vocab_size is None", "a positive integer", id="missing shape"),
        pytest.param({"quantization_config": {"quant_method": "fp9"}}, "fp9", "set model.weights", id="quantisation"),
        pytest.param([], "found list", "expected a JSON object", id="a list"),
    ],
)
def test_a_bad_model_configuration_is_refused(folder: Path, config: object, found: str, expected: str) -> None:
    content = {**CONFIG, **config} if isinstance(config, dict) else config
    (folder / "config.json").write_text(json.dumps(content))
    sentence = refused("run", "s.toml", "--set", "model.name='config.json'")
    for fragment in ("config.json", found, expected):
        assert fragment in sentence


def test_a_model_configuration_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json: not a readable JSON configuration" in refused("run", "s.toml", "--set", "model.name='.'")


# --- traces ------------------------------------------------------------------------------------------

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
GOOD = HEADER + "".join(f"{second},{10 + second * 7919 % 91},5\n" for second in range(2000))

TRACES = [
    pytest.param(b"", "t.csv:1:", "empty", "expected a trace", id="empty"),
    pytest.param(HEADER.encode(), "t.csv:1:", "no rows", "at least one good row", id="header only"),
    pytest.param(f"{HEADER}0,1,2\n1,x,2\n".encode(), "t.csv:3:", "'x'", "a whole number", id="text for a number"),
    pytest.param(f"{HEADER}0,1,2\n1,0,2\n".encode(), "t.csv:3:", "prompt_tokens is 0", "from 1 to", id="no token"),
    pytest.param(f"{HEADER}0,1,2\n1,2\n".encode(), "t.csv:3:", "2 columns", "expected 3", id="short row"),
    pytest.param(f"{HEADER}0,1,2\nnan,1,2\n".encode(), "t.csv:3:", "nan", "a time of at least 0", id="NaN"),
    pytest.param(f"{HEADER}5,1,2\n4,1,2\n".encode(), "t.csv:3:", "back by 1 s", "order of arrival", id="backwards"),
    pytest.param(b"when,what\n1,2\n", "t.csv:1:", "'when, what'", "azure, bailian, burstgpt", id="unknown columns"),
    pytest.param(bytes(range(256)) * 9, "t.csv:1:", "columns", "one of the formats", id="binary"),
    pytest.param(b"\x89PNG\r\n\x1a\n", "t.csv:1:", "not UTF-8", "expected text", id="picture"),
    pytest.param(gzip.compress(GOOD.encode())[:-2000], "t.csv:", "stops early", "a whole file", id="truncated gzip"),
    pytest.param(b"\x1f\x8b" + b"junk" * 9, "t.csv:1:", "fails", "expected a sound file", id="broken gzip"),
    pytest.param(b'{"timestamp": 0,\n', "t.csv:1:", "not JSON", "one object per line", id="broken JSON"),
    pytest.param(b'[{"conversations": []}]', "t.csv:1:", "a JSON list", "one object per line", id="ShareGPT"),
]


@pytest.mark.parametrize("command", ["run", "describe", "convert"])
@pytest.mark.parametrize(("content", "where", "found", "expected"), TRACES)
def test_a_bad_trace_is_refused(
    folder: Path, content: bytes, where: str, found: str, expected: str, command: str
) -> None:
    (folder / "t.csv").write_bytes(content)
    sentence = refused(
        *{
            "run": ("run", "s.toml", "--set", "workload.trace='t.csv'"),
            "describe": ("trace", "describe", "t.csv"),
            "convert": ("trace", "convert", "t.csv", "-o", "new.csv"),
        }[command]
    )
    for fragment in (where, found, expected):
        assert fragment in sentence


def test_a_trace_of_another_format_than_said_is_refused(folder: Path) -> None:
    (folder / "t.csv").write_text(GOOD)
    changes = ("--set", "workload.trace='t.csv'", "--set", "workload.format='azure'")
    assert "expected the columns TIMESTAMP" in refused("run", "s.toml", *changes)


# --- targets -----------------------------------------------------------------------------------------


def put_nothing(_folder: Path) -> None:
    pass


def put_file(folder: Path) -> None:
    (folder / "out").write_text("mine")


def put_notes(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("mine")


def put_web_app(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text('{"name": "a web app has one too"}')


def put_result_with_notes(folder: Path) -> None:
    assert servesim("run", "s.toml", "--quiet", "--out", str(folder / "out")).exit_code == 0
    (folder / "out" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("prepare", "target", "found", "expected"),
    [
        pytest.param(put_file, "out", "is a file", "a folder that servesim may create", id="file"),
        pytest.param(put_file, "out/sub", "out is a file", "expected a folder", id="below a file"),
        pytest.param(put_notes, "out", "holds 'notes.txt'", "an empty or a new folder", id="foreign folder"),
        pytest.param(put_web_app, "out", "holds 'manifest.json'", "an empty or a new folder", id="foreign manifest"),
        pytest.param(put_result_with_notes, "out", "holds 'notes.txt'", "an empty or a new", id="notes in a result"),
        pytest.param(put_nothing, ".", "holds 's.toml'", "an empty or a new folder", id="where we stand"),
        pytest.param(put_nothing, "", "holds 's.toml'", "an empty or a new folder", id="empty name"),
        pytest.param(put_nothing, "a" * 300, "cannot be written", "name another folder", id="impossible name"),
        pytest.param(put_nothing, "/", "mount point", "name a folder inside it", id="mount point"),
    ],
)
def test_a_result_is_not_written_where_it_must_not(
    folder: Path, prepare: object, target: str, found: str, expected: str
) -> None:
    prepare(folder)  # type: ignore[operator]
    sentence = refused("run", "s.toml", "--out", target)
    for fragment in ("--out", found, expected):
        assert fragment in sentence


def test_a_folder_that_may_not_be_written_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by its mode: the tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is not writable" in refused("run", "s.toml", "--out", "new/deep")


@pytest.mark.parametrize(
    ("target", "found", "expected"),
    [
        pytest.param("new.txt", "-o new.txt", "ends in .csv", id="ending"),
        pytest.param("new.jsonl", "found none in t.csv", "a file that ends in .csv", id="no hashes"),
        pytest.param("t.csv", "the file that is read", "expected another one", id="itself"),
        pytest.param("nowhere/new.csv", "cannot be written", "name another file", id="no folder"),
    ],
)
def test_a_trace_is_not_written_where_it_must_not(folder: Path, target: str, found: str, expected: str) -> None:
    (folder / "t.csv").write_text(GOOD)
    sentence = refused("trace", "convert", "t.csv", "-o", target)
    assert found in sentence
    assert expected in sentence


def test_hashes_of_other_blocks_are_not_passed_off_as_mooncakes(folder: Path) -> None:
    row = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 20, "output_length": 3}
    (folder / "t.jsonl").write_text(json.dumps({**row, "type": "text", "turn": 1, "hash_ids": [1, 2]}) + "\n")
    sentence = refused("trace", "convert", "t.jsonl", "-o", "new.jsonl")
    assert "found those of 16-token blocks" in sentence


@pytest.mark.parametrize(
    ("scenario", "found"),
    [("{trace='t.csv'}", "is a trace"), (f"{{closed_loop={LOOP}}}", "is a closed_loop")],
    ids=["trace", "closed loop"],
)
def test_only_a_synthetic_workload_is_synthesised(scenario: str, found: str) -> None:
    sentence = refused("trace", "synth", "s.toml", "-o", "new.csv", "--set", f"workload={scenario}")
    assert found in sentence
    assert "expected one with workload.synthetic" in sentence


# --- results shown again -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "found", "expected"),
    [
        pytest.param(None, "there is no such folder", "the folder of a servesim result", id="missing"),
        pytest.param({}, "has no summary.json", "the folder of a servesim result", id="empty"),
        pytest.param({"summary.json": "{}"}, "has no manifest.json", "folder of a servesim result", id="half"),
        pytest.param({"summary.json": "{"}, "summary.json: not JSON", "a file of a servesim", id="not JSON"),
        pytest.param({"summary.json": "[]"}, "holds a list", "a JSON object", id="list"),
        pytest.param({"summary.json": "{}", "manifest.json": "{}"}, "no scenario", "of a servesim run", id="manifest"),
    ],
)
def test_a_folder_that_is_no_result_is_not_shown(
    folder: Path, files: dict[str, str] | None, found: str, expected: str
) -> None:
    if files is not None:
        (folder / "out").mkdir()
        for name, content in files.items():
            (folder / "out" / name).write_text(content)
    sentence = refused("show", "out")
    for fragment in ("out", found, expected):
        assert fragment in sentence


@pytest.mark.parametrize("damage", ["pools", "p99_ttft_ms"])
def test_a_result_of_another_version_is_not_shown(folder: Path, damage: str) -> None:
    servesim("run", "s.toml", "--quiet", "--out", "out")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    (folder / "out" / "summary.json").write_text(json.dumps({**summary, damage: "x"}))
    assert "run the scenario again" in refused("show", "out")


def test_a_file_is_not_shown() -> None:
    assert "s.toml: is a file, expected the folder" in refused("show", "s.toml")


# --- usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "s.toml", "more"),
        ("run", "s.toml", "--nope"),
        ("run", "s.toml", "--seed", "-1"),
        ("run", "s.toml", "--seed", "x"),
        ("run", "s.toml", "--set"),
        ("rum", "s.toml"),
        ("trace", "nope"),
        ("trace", "convert", "s.toml"),
        ("trace", "describe", "s.toml", "--on-error", "ignore"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2_without_a_traceback(folder: Path, arguments: tuple[str, ...]) -> None:
    before = tree(folder)
    result = servesim(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert tree(folder) == before


# --- in a process of its own -------------------------------------------------------------------------


def put_package(folder: Path, name: str, text: str = "") -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder / name / "__init__.py"


@pytest.mark.parametrize("name", ["hardware", "workloads", "perfdb"])
@pytest.mark.parametrize("way", ["PYTHONPATH", "cwd"])
def test_a_foreign_package_of_our_name_is_named(tmp_path: Path, name: str, way: str) -> None:
    foreign = put_package(tmp_path / "theirs", name, "raise RuntimeError('not to be imported')\n")
    here = tmp_path / "here"
    here.mkdir()
    cwd, env = (here, {"PYTHONPATH": str(foreign.parents[1])}) if way == "PYTHONPATH" else (foreign.parents[1], {})
    done = servesim_process("run", "quickstart", cwd=cwd, **env)
    sentence = error_sentence(done.returncode, done.stdout, done.stderr)
    for fragment in (f"package {name!r}", str(foreign), "not from servesim", "remove or rename it"):
        assert fragment in sentence
    assert not (cwd / "results").exists()


def test_a_foreign_module_beside_our_packages_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    ours = Path(check_ownership.__code__.co_filename).resolve().parents[1]
    inside = ours / "simulator" / "hardware.py"
    theirs = ModuleSpec("hardware", None, origin=str(inside))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: theirs if name == "hardware" else real(name))
    assert foreign_package() == ("hardware", str(inside))
    theirs.origin = "/hardware.py"
    assert foreign_package() == ("hardware", "/hardware.py")


def test_a_folder_without_init_in_the_place_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    namespace = ModuleSpec("workloads", None, is_package=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: namespace if name == "workloads" else real(name))
    sentence = refused("run", "s.toml")
    assert "package 'workloads' comes from a folder without __init__.py" in sentence


def test_a_folder_without_init_where_we_stand_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "workloads").mkdir()
    done = servesim_process("run", "nope.toml", cwd=tmp_path)
    assert "scenario 'nope.toml' is neither a file" in error_sentence(done.returncode, done.stdout, done.stderr)


def test_bad_toml_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seed = 1\nmodel = \n")
    done = servesim_process("run", "s.toml", cwd=tmp_path)
    assert "line 2" in error_sentence(done.returncode, done.stdout, done.stderr)
    assert tree(tmp_path) == ["s.toml"]
