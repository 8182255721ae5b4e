"""The arrows between the packages, read from the source: who may import whom, and no cycle anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("swarm", "peer", "client", "simulator", "specswarm")
FORBIDDEN = {
    "swarm": {"peer", "client", "simulator", "specswarm"},
    "peer": {"client", "simulator", "specswarm"},
    "client": {"peer", "simulator", "specswarm"},
    "simulator": {"specswarm"},
}


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name to file, for every module of these packages under `root`."""
    found = {}
    for file in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(name: str, file: Path, *, type_checking: bool) -> Iterator[str]:
    """Every dotted name that a module's import statements may mean, wherever in the module they stand."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) + 1 - node.level], *base.split()])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not type_checking:
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def graph(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports."""
    modules = modules_of(root)
    edges: dict[str, set[str]] = {}
    for name, file in modules.items():
        # `from a.b import c` means the module a.b.c if there is one, and else a.b
        parents = ((full, full.rpartition(".")[0]) for full in imports_of(name, file, type_checking=False))
        edges[name] = {full if full in modules else parent for full, parent in parents} & modules.keys()
    return edges


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_none_above_or_beside_it(package: str) -> None:
    crossings = [
        f"{name} imports {imported}"
        for name, file in modules_of(ROOT).items()
        if name.partition(".")[0] == package
        for imported in imports_of(name, file, type_checking=True)
        if imported.partition(".")[0] in FORBIDDEN[package]
    ]
    assert not crossings


def test_modules_import_each_other_in_no_cycle() -> None:
    assert len(modules_of(ROOT)) > 40
    assert find_cycle(graph(ROOT)) == []


@pytest.mark.parametrize(
    "statement", ["from client import b", "import client.b", "from . import b", "from .b import x"]
)
def test_cycle_is_found_even_inside_a_function(statement: str, tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(f"def work():\n    {statement}\n")
    (folder / "b.py").write_text("from client.a import work\n")
    assert set(find_cycle(graph(tmp_path))) == {"client.a", "client.b"}
    (folder / "a.py").write_text(f"if TYPE_CHECKING:\n    {statement}\n")
    assert find_cycle(graph(tmp_path)) == []
