"""The house rules: lint, types, layers, sizes, the wheel, and documents that say what is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hardware import errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("simulator", "workloads", "hardware", "perfdb")
SOURCES = sorted(path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py"))


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_ruff_finds_nothing():
    run(tool("ruff"), "check", ".")


def test_ruff_would_format_nothing():
    run(tool("ruff"), "format", "--check", ".")


def test_mypy_strict_finds_nothing():
    run(sys.executable, "-m", "mypy")


def test_import_layers_are_kept_and_every_module_is_placed():
    assert "0 broken" in run(tool("lint-imports"), "--no-cache")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


def test_half_of_all_function_bodies_have_at_most_eight_lines():
    lengths = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lengths.append(body[-1].end_lineno - body[0].lineno + 1)
    assert sorted(lengths)[len(lengths) // 2] <= 8


def test_no_module_has_a_name_that_says_nothing():
    empty = {"utils", "util", "helpers", "common", "misc", "manager", "handler", "data", "info"}
    assert not [path for path in SOURCES if path.stem in empty]


def test_the_error_tree_in_the_docstring_is_the_real_one():
    drawn = set(re.findall(r"(\w+Error)\b", errors.__doc__ or "")) - {"ForeignPackageError"}
    real = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert drawn == real


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert "simulator/scenarios/quickstart.toml" in names
    assert "simulator/scenarios/papers/distserve-opt-13b.toml" in names
    assert "perfdb/profiles/distserve-a100.toml" in names
    assert "hardware/chips/h200_sxm.toml" in names
    assert "perfdb/presets/dense.toml" in names
    assert not [name for name in names if name.endswith((".parquet", ".csv", ".jsonl", ".gz"))]


def readme_lines() -> list[str]:
    return (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_ci_runs_exactly_the_test_line_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    command = [line for line in script if line and not line.startswith(("#", "set "))]
    assert len(command) == 1
    assert command[0] in readme_lines()


def test_every_law_names_a_test_that_exists():
    text = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    for file, function in named:
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, function)


PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_documents_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
            assert not anchor or anchor in anchors(page.parent / target if target else page), anchor


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_documents_run_exist(page):
    for module in re.findall(r"python -m ((?:benchmarks|hardware)[\w.]*)", page.read_text(encoding="utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_nothing_of_the_shared_data_is_shipped():
    tracked = run("git", "ls-files").split()
    assert not [name for name in tracked if name.endswith((".parquet", ".csv", ".jsonl", ".gz"))]


def test_no_compiled_module_lies_beside_its_source():
    """It would be used instead of the source, however old it is."""
    packages = ("simulator", "workloads", "hardware", "perfdb")
    assert not [path for name in packages for path in (ROOT / name).rglob("*.so")]


def compiling():
    """Return what the project says of an optional build that compiles modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]


def test_what_is_compiled_is_there():
    """The list of modules that an optional build compiles names none that has gone."""
    hook = compiling()
    assert not [path for path in hook["include"] if not (ROOT / path[1:]).is_file()]
    assert hook["enable-by-default"] is False


def test_what_derives_from_compiled_classes_is_compiled_too():
    """The first instance of an interpreted class that inherits from a compiled one is an error."""
    compiled = {path.lstrip("/").removesuffix(".py").replace("/", ".") for path in compiling()["include"]}
    for path in sorted(path for name in ("simulator", "perfdb") for path in (ROOT / name).rglob("*.py")):
        if ".".join(path.relative_to(ROOT).with_suffix("").parts) in compiled:
            continue
        tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imports = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module in compiled]
        names = {alias.asname or alias.name for node in imports for alias in node.names}
        bases = [base for node in tree if isinstance(node, ast.ClassDef) for base in node.bases]
        derived = names & {base.id for base in bases if isinstance(base, ast.Name)}
        assert not derived, f"{path.name} derives from {derived}: list it in pyproject.toml beside these"
