"""Write down which flags Dynamo's commands know, and which flags of newer engines those of its release lack.

``python -m benchmarks.record_dynamo WHEEL...`` rewrites its part of ``tests/recorded/engine_flags.json`` from the
sources within ``pip download --no-deps ai-dynamo==1.6.1 vllm==0.31.0 sglang==0.5.21``; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path
from zipfile import ZipFile

from benchmarks.record_flags import FILE

__all__ = ["engine_names", "flags_in", "main"]

#: The engines of the release, of the extras of its wheel.
ENGINES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
#: By command: files of flags, within ``dynamo``.
_GROUPS = "common/configuration/groups"
COMMANDS = {
    "frontend": ("frontend/frontend_args.py", f"{_GROUPS}/router_args.py", f"{_GROUPS}/kv_router_args.py"),
    "vllm": ("vllm/backend_args.py", f"{_GROUPS}/runtime_args.py"),
    "sglang": ("sglang/backend_args.py", f"{_GROUPS}/runtime_args.py"),
    "trtllm": ("trtllm/backend_args.py", f"{_GROUPS}/runtime_args.py"),
}


def flags_in(source: str) -> tuple[set[str], dict[str, list[str]]]:
    """Return the flags that calls in a source add, negative ones too, and the choices that are spelled out."""
    flags: set[str] = set()
    choices: dict[str, list[str]] = {}
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if not name.startswith("add_"):
            continue
        keywords = {word.arg: word.value for word in call.keywords}
        words = [*call.args, *(keywords[key] for key in ("flag_name", "obsolete_flag") if key in keywords)]
        texts = [str(word.value) for word in words if isinstance(word, ast.Constant)]
        found = [text for text in texts if text.startswith("--")]
        flags.update(found)
        if name == "add_negatable_bool_argument":
            flags.update(f"--no-{flag[2:]}" for flag in found)
        values = getattr(keywords.get("choices"), "elts", [])
        if found and values and all(isinstance(value, ast.Constant) for value in values):
            choices[found[0]] = [value.value for value in values]
    return flags, choices


def engine_names(wheel: ZipFile, engine: str) -> set[str]:
    """Return the flags that the sources of an engine spell: of vLLM its calls, of SGLang fields of its arguments."""
    if engine == "vllm":
        return flags_in(wheel.read("vllm/engine/arg_utils.py").decode())[0]
    files = [name for name in wheel.namelist() if name.startswith("sglang/srt/arg_groups/fields/")]
    nodes = [node for name in files for node in ast.walk(ast.parse(wheel.read(name).decode()))]
    fields = [node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {f"--{field.replace('_', '-')}" for field in fields}


def _modes(wheel: ZipFile) -> list[str]:
    tree = ast.parse(wheel.read("dynamo/common/constants.py").decode())
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DisaggregationMode")
    return [str(ast.literal_eval(line.value)) for line in kind.body if isinstance(line, ast.Assign)]


def main(wheels: list[Path]) -> int:
    """Record the wheels; 1 if one of them is missing."""
    by_name = {path.name.partition("-")[0]: ZipFile(path) for path in wheels}
    if set(by_name) != {"ai_dynamo", "vllm", "sglang"}:
        print(f"expected the wheels of ai-dynamo, vllm and sglang, got {sorted(by_name)}", file=sys.stderr)
        return 1
    dynamo = by_name["ai_dynamo"]
    metadata = dynamo.read(next(name for name in dynamo.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    known: dict[str, object] = {"version": re.findall(r"^Version: (.+)$", metadata, re.MULTILINE)[0]}
    pins = re.findall(r"^Requires-Dist: ([a-z-]+)(?:\[.*?\])?==([^;\s]+);.*extra ==", metadata, re.MULTILINE)
    known["engines"] = {ENGINES[name]: pin for name, pin in pins if name in ENGINES}
    known["modes"] = _modes(dynamo)
    for command, files in COMMANDS.items():
        found = [flags_in(dynamo.read(f"dynamo/{file}").decode()) for file in files]
        choices = {flag: values for _, one in found for flag, values in one.items()}
        known[command] = {"flags": sorted({flag for flags, _ in found for flag in flags}), "choices": choices}
    known["lacks"] = {
        engine: sorted(
            {flag for kind in ("value", "switch") for flag in recorded[engine][kind] if not flag.startswith("--no-")}
            - engine_names(by_name[engine], engine)
        )
        for engine in ("vllm", "sglang")
    }
    recorded["ai-dynamo"] = known
    FILE.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    sys.exit(main(parser.parse_args().wheels))
