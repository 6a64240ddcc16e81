"""What is said of the source in general, held against the whole of it."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import _qemulab_pillar_keys as keys

Name = tuple[str, str]
"""A name at the top of a file, with that file's own."""

FOLDERS = ("_modules", "_states", "libexec", "docs", "bench")
WORDS = {
    ("_qemulab_pillar_keys", "TAKERS"),
    ("_qemulab_plan_changes", "EFFECTS"),
    ("_qemulab_plan_status", "UNIT"),
}
"""Words with their meanings: tests hold the source and the pages against them."""


def trees(repo: Path, *folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield every source with its syntax tree."""
    for folder in folders:
        for path in sorted((repo / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def made(path: Path, tree: ast.Module) -> Iterator[Name]:
    """Yield the names that a file makes for others, or for itself; not what Salt's loader takes."""
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            published = isinstance(node, ast.FunctionDef) and not path.stem.startswith("_")
            if node.name.startswith("_") or not published:
                names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from ((path.stem, name) for name in names if not name.startswith("__"))


def read(path: Path, tree: ast.Module) -> Iterator[Name]:
    """Yield the names that a file reads: its own, and other files'."""
    files: dict[str, str] = {}
    single: dict[str, Name] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            files |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            single |= {each.asname or each.name: (node.module, each.name) for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield single.get(node.id, (path.stem, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield files.get(node.value.id, ""), node.attr


def test_what_nobody_reads_is_not_there(repo: Path) -> None:
    """No constant, no function, no class; a test alone is no reader."""
    there = {name for each in trees(repo, "_modules", "_states") for name in made(*each)}
    used = {name for each in trees(repo, *FOLDERS) for name in read(*each)}
    assert len(there) > 500
    assert sorted(there - used) == sorted(WORDS)


def test_the_picture_of_the_house_has_every_file(repo: Path) -> None:
    """And none that is not there. Those of a room share their first word."""
    page = (repo / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = page.split("```")[1]
    shown = re.findall(r"(?<![\w/])_(?:qemulab_)?([a-z]\w*)", picture)
    files = [path.stem.removeprefix("_qemulab_") for path in repo.glob("_modules/_qemulab_*.py")]
    folders = {"modules", "states"}
    assert sorted(set(files) - set(shown)) == []
    assert sorted(set(shown) - set(files) - folders) == []


#: Who writes to the host's files: the seam and its parts.
SEAM = {
    "_qemulab_host_symlinks",
    "_qemulab_host_lock",
    "_qemulab_host_new_files",
    "_qemulab_host_probe",
    "_qemulab_host_seam",
}
WRITING = {
    **dict.fromkeys(("chmod", "chown", "link", "mkdir", "makedirs", "mknod", "remove"), {"os"}),
    **dict.fromkeys(("rename", "replace", "rmdir", "symlink", "truncate", "unlink"), {"os"}),
    **dict.fromkeys(("copyfile", "copyfileobj", "copytree", "move", "rmtree"), {"shutil"}),
    **dict.fromkeys(("mkstemp", "mkdtemp", "NamedTemporaryFile"), {"tempfile"}),
    **dict.fromkeys(("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"), None),
}


def writes(tree: ast.Module) -> Iterator[str]:
    """Yield the calls that write to a file system, as they stand in a source."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, text = node.func, ast.unparse(node)
        if isinstance(called, ast.Attribute) and called.attr in WRITING:
            owners = WRITING[called.attr]
            if owners is None or ast.unparse(called.value) in owners:
                yield text
        opens = isinstance(called, ast.Name) and called.id == "open"
        if opens and any(
            isinstance(each, ast.Constant) and each.value in MODES for each in node.args
        ):
            yield text
        if "O_WRONLY" in text or "O_RDWR" in text or "O_CREAT" in text:
            yield text


MODES = {f"{how}{kind}" for how in "wxa" for kind in ("", "b", "t")}


def test_only_the_seam_writes_files(repo: Path) -> None:
    """Whatever is made, given, moved or removed on the host goes through it."""
    found: dict[str, list[str]] = {}
    for path, tree in trees(repo, "_modules", "_states"):
        found[path.stem] = list(writes(tree))
    faults = {stem: texts for stem, texts in found.items() if texts and stem not in SEAM}
    assert faults == {}
    # What is looked for is found where it is.
    assert all(found[stem] for stem in SEAM)


def test_every_key_says_what_takes_it_up() -> None:
    """In a word that is explained; a key of the lab as a whole has nobody that would."""
    kinds = [each for each in vars(keys).values() if dataclasses.is_dataclass(each)]
    said = {
        f"{kind.__name__}.{item.name}": item.metadata.get("takes")
        for kind in kinds
        for item in dataclasses.fields(kind)
        if item.metadata.get("effect") and kind is not keys.Lab
    }
    assert said
    assert {name: word for name, word in said.items() if word not in keys.TAKERS} == {}
