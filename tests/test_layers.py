"""Imports point down, and everything below the engine runs where neither Ray nor Prefect is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Top to bottom. A module imports from its own folder and from rows below its own; nothing else.
LAYERS = (
    ("flows",),
    ("segtasks.cli",),
    ("segtasks.stages",),
    ("segtasks.engines",),
    ("segtasks.inference", "segtasks.export", "segtasks.reporting", "segtasks.sample", "segtasks.testing"),
    ("segtasks.training",),
    ("segtasks.models", "segtasks.losses", "segtasks.metrics", "segtasks.checks"),
    ("segtasks.writers",),
    ("segtasks.readers", "segtasks.shards"),
    ("segtasks.storage",),
    ("segtasks.transforms",),
    ("segtasks.codecs",),
    ("segtasks.plugins", "segtasks.refs", "segtasks.spec"),
    ("segtasks.config",),
    ("segtasks.errors", "segtasks.redact", "segtasks.signals"),
)
ROW = {package: number for number, row in enumerate(LAYERS) for package in row}
EXCEPTIONS = {("segtasks.cli", "flows"): "`segtasks run` is a flow; imported inside the function"}
OWNER = {"ray": "segtasks.engines.ray", "prefect": "flows"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("segtasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def layer_of(module: str) -> str | None:
    """The longest entry of LAYERS that the module lies in."""
    return max((name for name in ROW if (module + ".").startswith(name + ".")), key=len, default=None)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Names that are imported anywhere in the file, and whether that happens while it is imported. Types do not count."""
    tree = ast.parse(path.read_text())
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            child.parent = parent  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        above = list(ancestors(node))
        if any(isinstance(item, ast.If) and "TYPE_CHECKING" in ast.unparse(item.test) for item in above):
            continue
        lazy = any(isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) for item in above)
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", lazy) for alias in node.names)


def ancestors(node: ast.AST) -> Iterator[ast.AST]:
    while hasattr(node, "parent"):
        node = node.parent
        yield node


@pytest.mark.parametrize(("module", "path"), [pytest.param(*item, id=item[0]) for item in modules() if item[0] != "segtasks"])
def test_a_module_imports_only_from_below(module: str, path: Path) -> None:
    own = layer_of(module)
    assert own, f"{module} is in no layer: add it to LAYERS"
    for name, lazy in imports(path):
        other = layer_of(name)
        if other is None or other == own or ROW[other] > ROW[own]:
            continue
        assert (own, other) in EXCEPTIONS, f"{module} imports {name}, which lies beside or above it"
        assert lazy, f"{module} imports {name} at its top"


@pytest.mark.parametrize("library", OWNER)
def test_a_framework_is_imported_in_its_own_folder_only(library: str) -> None:
    outside = [
        module
        for module, path in modules()
        if not (module + ".").startswith(OWNER[library] + ".") and any(name.split(".")[0] == library for name, _ in imports(path))
    ]
    assert outside == []


def test_everything_outside_its_folders_imports_without_ray_and_prefect() -> None:
    names = [name for name, _ in modules() if not (name + ".").startswith(("flows.", "segtasks.engines.ray."))]
    assert len(names) > 20
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(OWNER)!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import importlib
for name in {names!r}:
    importlib.import_module(name)
assert not {set(OWNER)!r} & set(sys.modules)
print(len({names!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(len(names))
