"""Write down which flags the engines' own parsers know, so that launch files are checked without any engine installed.

``python -m benchmarks.record_flags PROGRAM`` in an environment with that program rewrites its part of
``tests/recorded/engine_flags.json``: vllm (0.33.0), sglang (0.5.23), vllm-router (0.1.17) or sglang-router (0.3.2).
Dynamo's part is of :mod:`benchmarks.record_dynamo`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["FILE", "PINNED", "flags_of", "vllm_parser"]

FILE = Path(__file__).parents[1] / "tests" / "recorded" / "engine_flags.json"
PINNED = {"vllm": "0.33.0", "sglang": "0.5.23", "vllm-router": "0.1.17", "sglang-router": "0.3.2"}


def flags_of(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the long flags of a parser: those that take a value, and those that take none."""
    actions = {name: action for name, action in parser._option_string_actions.items() if name.startswith("--")}  # noqa: SLF001 - the hidden negatives too
    switches = sorted(name for name, action in actions.items() if action.nargs == 0)
    return {"value": sorted(actions.keys() - set(switches)), "switch": switches}


def vllm_parser() -> argparse.ArgumentParser:
    """Return the parser of an installed vLLM."""
    # Without a device it knows no defaults, and builds no parser.
    type(import_module("vllm.platforms").current_platform).device_type = "cuda"
    parser: argparse.ArgumentParser = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    import_module("vllm.engine.arg_utils").AsyncEngineArgs.add_cli_args(parser)
    return parser


def _vllm() -> dict[str, Any]:
    bench = [_written("vllm.benchmarks.serve"), _written("vllm.benchmarks.datasets.datasets")]
    serve = _declared("vllm.entrypoints.common.cli_args", "FrontendArgs")
    return {**flags_of(vllm_parser()), "serve": serve, "bench": sorted({flag for flags in bench for flag in flags})}


def _source(module: str) -> ast.Module:
    """Return the source of a module, which is not imported."""
    spec = find_spec(module.partition(".")[0])
    root = Path(str(spec.origin)).parent if spec else Path()
    return ast.parse((root.parent / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))


def _declared(module: str, suffix: str) -> list[str]:
    """Return the flags of the fields of classes: the server cannot be imported without a device either."""
    kinds = [node for node in _source(module).body if isinstance(node, ast.ClassDef) and node.name.endswith(suffix)]
    lines = [line.target for kind in kinds for line in kind.body if isinstance(line, ast.AnnAssign)]
    return sorted(f"--{name.id.replace('_', '-')}" for name in lines if isinstance(name, ast.Name))


def _written(module: str) -> list[str]:
    """Return the flags in the source of a module: the client cannot be imported without everything it may call."""
    calls = [node for node in ast.walk(_source(module)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    words = [word.value for call in named for word in call.args if isinstance(word, ast.Constant)]
    return [str(word) for word in words if str(word).startswith("--")]


def _of(module: str, name: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    getattr(import_module(module), name).add_cli_args(parser)
    return flags_of(parser)


def _router(module: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    import_module(module).RouterArgs.add_cli_args(parser, use_router_prefix=False)
    return flags_of(parser)


def main(program: str) -> int:
    """Record one program; 1 if another version of it is installed."""
    found = version(program)
    if found != PINNED[program]:
        print(f"{program} {found} is installed, expected {PINNED[program]}", file=sys.stderr)
        return 1
    makers = {
        "vllm": _vllm,
        "sglang": lambda: _of("sglang.srt.server_args", "ServerArgs"),
        "vllm-router": lambda: _router("vllm_router.router_args"),
        "sglang-router": lambda: _router("sglang_router.router_args"),
    }
    recorded = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    recorded[program] = {"version": found, **makers[program]()}
    FILE.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=sorted(PINNED))
    sys.exit(main(parser.parse_args().program))
