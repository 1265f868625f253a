"""Who may import whom, what importing costs, and that the public names are all there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onegen_integrations

ROOT = Path(onegen_integrations.__file__).parent

CORE = {"config", "errors", "generation", "model", "passages"}
# What each part may import besides itself. Imports for type checkers alone do not count.
ARROWS = {
    "errors": set(),
    "config": {"errors"},
    "passages": {"errors"},
    "text": {"config", "errors"},
    "identity": set(),
    "jsonl": {"errors"},
    "files": {"errors", "jsonl", "passages", "text"},
    "engine": {"errors"},
    "structured": {"engine", "errors", "text"},
    "generation": {"engine", "errors", "passages", "structured", "text"},
    "model": {"config", "engine", "errors", "generation", "identity", "passages", "text"},
    "serving": {"config", "errors", "identity", "model"},
    "self_rag": CORE | {"text"},
    "entity_linking": CORE | {"text"},
    "chroma": CORE | {"serving"},
    "langchain": CORE | {"chroma", "serving", "structured", "text"},
    "llama_index": CORE | {"chroma", "serving", "structured", "text"},
    "training": {"config", "engine", "errors", "jsonl", "model", "passages", "text"},
    "evaluation": CORE | {"entity_linking", "files", "jsonl", "self_rag", "text", "training"},
    "cli": CORE | {"chroma", "evaluation", "files", "self_rag", "entity_linking", "training"},
    "__main__": {"cli"},
}
HEAVY = ("torch", "transformers", "chromadb", "langchain", "langchain_core", "llama_index", "numpy")
FRAMEWORKS = {
    "chromadb": {"chroma", "cli"},
    "langchain": {"langchain"},
    "llguidance": {"engine"},
    "langchain_core": {"langchain"},
    "langchain_chroma": {"langchain"},
    "llama_index": {"llama_index"},
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in it; blocks for type checkers left out."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{name.name}" for name in node.names)
        pending += ast.iter_child_nodes(node)


SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    names = [name.split(".") for name in imports(path)]
    own = {name[1] for name in names if name[0] == "onegen_integrations" and len(name) > 1}
    parts = {name for name in own if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()}
    assert parts <= ARROWS[part] | {part}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_frameworks_stay_in_their_adapters_and_torch_out_of_them(path):
    part = part_of(path)
    names = {name.split(".")[0] for name in imports(path)}
    assert not [name for name in names if part not in FRAMEWORKS.get(name, {part})]
    if part in {"chroma", "langchain", "llama_index"}:
        assert names.isdisjoint({"torch", "transformers"})


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import onegen_integrations; dir(onegen_integrations); onegen_integrations.__version__",
        "from onegen_integrations import OneGenConfig, OneGenError, UnsupportedModelError",
        "import onegen_integrations.cli",
    ],
)
def test_importing_the_package_loads_neither_torch_nor_a_framework(statement):
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_passages_need_no_torch():
    assert loaded_by("from onegen_integrations import MemoryPassages, Passage").isdisjoint({"torch", "transformers"})


def typed_names() -> set[str]:
    """What type checkers see of the package."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}


def test_every_public_name_is_listed_typed_and_there():
    listed = onegen_integrations.__all__
    assert len(listed) == len(set(listed))
    assert set(listed) == typed_names() | {"__version__"}
    assert set(dir(onegen_integrations)) == set(listed)
    for name in listed:
        assert getattr(onegen_integrations, name) is not None


def test_every_error_is_public_and_a_onegen_error():
    errors = importlib.import_module("onegen_integrations.errors")
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds <= set(onegen_integrations.__all__)
    assert all(issubclass(getattr(errors, name), onegen_integrations.OneGenError) for name in kinds)


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(AttributeError, match="has no attribute 'OneGenn'"):
        _ = onegen_integrations.OneGenn


ADAPTERS = [name for name in ("chroma", "langchain", "llama_index") if (ROOT / name).is_dir()]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_lists_every_name_that_it_exports(adapter):
    module = importlib.import_module(f"onegen_integrations.{adapter}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    exported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onegen_integrations")
        for name in node.names
    }
    assert set(module.__all__) == exported
    for name in module.__all__:
        assert getattr(module, name).__module__.startswith(f"onegen_integrations.{adapter}")
