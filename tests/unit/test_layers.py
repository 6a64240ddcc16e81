"""
The order of the rooms: a file imports from its own room and from those below it, and no other.

The list here is the one place of that order; docs/design.md is held against it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOMS = (
    "version",
    "pillar",
    "plan",
    "host",
    "run",
    "lan",
    "guest",
    "vm",
    "check",
    "apply",
    "face",
)
"""Lowest first. What Salt publishes, ``qemulab*.py``, stands above all of them."""
PUBLIC = len(ROOMS)


def level(module: str) -> int:
    """Return how high the room of a file lies; raises ValueError for one that is in none."""
    if not module.startswith("_"):
        return PUBLIC
    return ROOMS.index(module.removeprefix("_qemulab_").partition("_")[0])


def imported(path: Path) -> Iterator[str]:
    """Yield each file of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (name for name in names if name.lstrip("_").startswith("qemulab"))


def upward(modules: Path) -> list[str]:
    """Return every import of a directory that leads from a room to one above it."""
    return [
        f"{path.name} imports {name}"
        for path in sorted(modules.glob("*.py"))
        for name in imported(path)
        if level(name) > level(path.stem) or level(name) == PUBLIC
    ]


def test_every_file_is_in_a_room(repo: Path) -> None:
    """So that a listing shows the house, and no room is empty."""
    stems = [path.stem for path in (repo / "_modules").glob("_qemulab_*.py")]
    assert {ROOMS[level(stem)] for stem in stems} == set(ROOMS)


def test_imports_lead_downwards(repo: Path) -> None:
    """No file knows of a room above its own, and none imports what Salt publishes."""
    assert not upward(repo / "_modules")


def test_no_execution_function_is_called_through_salt(repo: Path) -> None:
    """A face that needs what another one does calls the room below both."""
    faults = [
        f"{path.name}:{node.lineno}"
        for path in (repo / "_modules").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "__salt__"
    ]
    assert not faults


def test_states_import_nothing_of_the_rooms(repo: Path) -> None:
    """They reach all of it through Salt: the two folders are loaded apart."""
    siblings = {path.stem for path in (repo / "_states").glob("_qemulab_*.py")}
    for path in (repo / "_states").glob("*.py"):
        assert set(imported(path)) <= siblings, path.name


def test_the_design_tells_the_same_order(repo: Path) -> None:
    """The design has a table of the rooms, lowest first."""
    rooms = [f"`{room}`" for room in ROOMS]
    design = (repo / "docs/design.md").read_text(encoding="utf-8")
    section = design.partition("### The rooms")[2].partition("\n## ")[0]
    found = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert found == rooms


def test_a_step_upwards_is_seen(tmp_path: Path) -> None:
    """The test can fail: one file of a low room that imports from a high one."""
    (tmp_path / "_qemulab_plan_vm.py").write_text("from _qemulab_vm_power import stop\n")
    (tmp_path / "_qemulab_vm_power.py").write_text("import _qemulab_plan_vm\n")
    assert upward(tmp_path) == ["_qemulab_plan_vm.py imports _qemulab_vm_power"]
