"""The packages stand in the order of the method, and each imports only those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import kvsteer_lab

ROOT = Path(kvsteer_lab.__file__).parent
ORDER = (
    "_util stats tasks models edits vectors methods interventions generation evaluation sweeps behaviours analysis"
    " figures explorer published replication reproduction integrations serving backends cli"
).split()
LAZY = {
    ("models.model", "models.prefill"),  # Model.prefill
    ("models.model", "models.rotary"),  # Model.rotary
    ("vectors.activation", "vectors.foreign"),  # ActivationVectors.from_*
}
"""Modules that may be imported inside a function: each pair is a thin call that leads down its own package."""


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below `kvsteer_lab`."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def targets(module: str, node: ast.ImportFrom) -> list[str]:
    """The package's modules that one import statement names."""
    if node.level == 0:
        name = node.module or ""
        base = name.removeprefix("kvsteer_lab").lstrip(".") if name.split(".")[0] == "kvsteer_lab" else None
    else:
        is_package = (ROOT / module.replace(".", "/") / "__init__.py").is_file()
        above = module.split(".")[: len(module.split(".")) + is_package - node.level] if module else []
        base = ".".join([*above, *([node.module] if node.module else [])])
    if base is None:
        return []
    inside = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
    return [name if name in MODULES else base for name in inside]


def imports(module: str, *, whole: bool) -> Iterator[str]:
    """What a module imports: at its top, or anywhere in it."""
    tree = MODULES[module]
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.ImportFrom):
            yield from targets(module, node)


def place(module: str) -> int:
    return ORDER.index(module.split(".")[0])


def test_every_package_has_its_place() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} == set(ORDER)
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "_version.py"]


def test_no_package_imports_one_that_stands_after_it() -> None:
    arrows = {
        (module, found)
        for module in MODULES
        if module.split(".")[0] in ORDER
        for found in imports(module, whole=True)
        if found.split(".")[0] in ORDER and place(found) > place(module)
    }
    assert not arrows


def test_there_are_no_circles() -> None:
    """Imports at the top of modules form no circle, packages' lazy `__init__` files left out."""
    edges = {m: {f for f in imports(m, whole=False) if f in MODULES and f != m} for m in MODULES}
    state: dict[str, int] = {}
    circles = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        state[module] = 1
        for after in sorted(edges[module]):
            if state.get(after) == 1:
                circles.append((*path[path.index(after) :], after) if after in path else (module, after))
            elif after not in state:
                visit(after, (*path, after))
        state[module] = 2

    for module in sorted(MODULES):
        if module not in state:
            visit(module, (module,))
    assert not circles


def test_imports_inside_functions_are_few_and_known() -> None:
    """Commands import what they run when they run it; elsewhere each such import is one of `LAZY`."""
    inner = {
        (module, found)
        for module, tree in MODULES.items()
        if module and module.split(".")[0] != "cli"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
        for found in targets(module, node)
        if found
    }
    assert inner == LAZY


def test_type_checking_hides_no_import() -> None:
    """Commands start without torch, so they may name types only. Elsewhere `Model.rotary` has the one exception."""
    hidden = [
        (module, found)
        for module, tree in MODULES.items()
        if module.split(".")[0] != "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for found in targets(module, statement)
    ]
    assert hidden == [("models.model", "models.rotary")]
