"""Write down what ``trtllm-serve`` takes in its YAML file: a JSON schema of ``TorchLlmArgs``, read from its source.

``python -m benchmarks.record_trtllm WHEEL`` (or ``llm_args.py`` itself) rewrites
``tests/recorded/trtllm_args.schema.json``. TensorRT-LLM need not be installed, and is not imported, which needs CUDA.
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

__all__ = ["FILE", "main", "schema_of"]

FILE = Path(__file__).parents[1] / "tests" / "recorded" / "trtllm_args.schema.json"
_ROOT = "TorchLlmArgs"
_PLAIN: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "None": {"type": "null"},
    "PositiveInt": {"type": "integer", "exclusiveMinimum": 0},
    "NonNegativeInt": {"type": "integer", "minimum": 0},
    "NonNegativeFloat": {"type": "number", "minimum": 0},
}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


class _Reader:
    """What the classes of a module come to as a schema; those that are asked for, and those they name."""

    def __init__(self, tree: ast.Module) -> None:
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.aliases = {
            node.target.id: node.value
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
        }
        self.found: dict[str, dict[str, Any]] = {}

    def model(self, name: str) -> dict[str, Any]:
        """Return the schema of a model by reference, after its definition is found."""
        if name not in self.found:
            self.found[name] = {}
            fields = self.fields(name)
            self.found[name] = {"type": "object", "properties": fields, "additionalProperties": False}
        return {"$ref": f"#/$defs/{name}"}

    def fields(self, name: str) -> dict[str, Any]:
        """Return the schemas of the fields of a class, its bases first."""
        node = self.classes[name]
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in self.classes]
        found = {field: one for base in reversed(bases) for field, one in self.fields(base).items()}
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id[0] != "_":
                found[line.target.id] = _bounded(self.kind(line.annotation), line.value)
        return found

    def kind(self, node: ast.expr) -> dict[str, Any]:
        """Return the schema of an annotation; the empty one, which takes anything, for what is not understood."""
        match node:
            case ast.Constant(value=None):
                return dict(_PLAIN["None"])
            case ast.Constant(value=str(text)):
                return self.kind(ast.parse(text, mode="eval").body)
            case ast.Name(id=name):
                return self.named(name)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _either([self.kind(left), self.kind(right)])
            case ast.Subscript(value=ast.Name(id=name), slice=inner):
                return self.generic(name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
        return {}

    def named(self, name: str) -> dict[str, Any]:
        """Return the schema of a name: of a type, an alias, an enumeration or a model."""
        if name in _PLAIN:
            return dict(_PLAIN[name])
        if name in self.aliases:
            return self.kind(self.aliases[name])
        if name not in self.classes:
            return {}
        bases = {base.id for base in self.classes[name].bases if isinstance(base, ast.Name)}
        if bases & {"StrEnum", "Enum", "IntEnum"}:
            lines = [line.value for line in self.classes[name].body if isinstance(line, ast.Assign)]
            return {"enum": [line.value for line in lines if isinstance(line, ast.Constant)]}
        return self.model(name)

    def generic(self, name: str, inner: list[ast.expr]) -> dict[str, Any]:
        """Return the schema of a type with arguments."""
        if name == "Literal":
            return {"enum": [ast.literal_eval(one) for one in inner]}
        if name == "Optional":
            return _either([self.kind(inner[0]), dict(_PLAIN["None"])])
        if name == "Union":
            return _either([self.kind(one) for one in inner])
        if name == "Annotated":
            return self.kind(inner[0])
        return {"type": "array", "items": self.kind(inner[0])} if name in {"List", "list"} else {}


def _either(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    return {"anyOf": kinds} if all(kinds) else {}


def _bounded(kind: dict[str, Any], value: ast.expr | None) -> dict[str, Any]:
    """Return a schema with the bounds that a ``Field`` gives it; they hold for numbers alone."""
    words = value.keywords if isinstance(value, ast.Call) else []
    bounds = {word.arg: word.value.value for word in words if isinstance(word.value, ast.Constant) and word.arg}
    return kind | {_BOUNDS[name]: bound for name, bound in bounds.items() if name in _BOUNDS}


def schema_of(source: str, root: str = _ROOT) -> dict[str, Any]:
    """Return the JSON schema of a model in the source of a module.

    Parameters
    ----------
    source
        The source, with every class it needs.
    root
        The model.
    """
    reader = _Reader(ast.parse(source))
    start = reader.model(root)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **start, "$defs": reader.found}


def main(path: Path) -> None:
    """Record a wheel, or a file of it."""
    if path.suffix == ".whl":
        source = ZipFile(path).read("tensorrt_llm/llmapi/llm_args.py").decode()
    else:
        source = path.read_text(encoding="utf-8")
    schema = {"title": f"TorchLlmArgs of {path.name}", **schema_of(source)}
    FILE.write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    main(parser.parse_args().path)
