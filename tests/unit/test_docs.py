"""``docs/pillar.md`` and the declaration's own keys say the same, row by row."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _qemulab_pillar_keys import Lab
from _qemulab_plan_changes import EFFECTS

NOTHING = ("", "-", "–", "—")

Row = dict[str, str]


def walk(cls: type[Any], prefix: str = "lab") -> Iterator[tuple[str, Row]]:
    """Yield every key with what its row has to say; names are NAME there, positions N."""
    for item in dataclasses.fields(cls):
        path = f"{prefix}:{item.name}"
        meta = item.metadata
        yield (
            path,
            {
                "type": meta["kind"].name,
                "unit": meta["unit"],
                "default": meta["default_text"] or shown(item.default),
                "effect": meta["effect"],
            },
        )
        if meta["of"] is not None:
            kind = meta["kind"].name
            here = {"list": f"{path}:N", "mapping of": f"{path}:NAME"}
            yield from walk(meta["of"], next((here[w] for w in here if kind.startswith(w)), path))


def shown(default: Any) -> str:
    """Return a default as YAML has it."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def bare(cell: str) -> str:
    """Return a cell without the marks that only set its type, and without a dash for nothing."""
    text = cell.replace("\\|", "|").replace("`", "").strip()
    return "" if text in NOTHING else text


def rows(text: str) -> list[tuple[str, Row]]:
    """Return the rows of every table that has a column for keys."""
    found = []
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not header:
            header = [bare(cell).lower() for cell in cells]
        elif header[0] == "key" and not re.fullmatch(r"[-: ]+", cells[0]):
            row = {name: bare(cell) for name, cell in zip(header, cells, strict=True)}
            found.append((row["key"], row))
    return found


def reference(repo: Path) -> str:
    """Return the pillar's reference."""
    return (repo / "docs/pillar.md").read_text(encoding="utf-8")


def test_every_key_has_one_row_and_every_row_a_key(repo: Path) -> None:
    """Neither may be changed without the other."""
    assert sorted(key for key, _ in rows(reference(repo))) == sorted(key for key, _ in walk(Lab))


def test_every_row_says_what_the_declaration_does(repo: Path) -> None:
    """Type, unit, default and effect."""
    found = dict(rows(reference(repo)))
    faults = [
        f"{key} {column}: {found[key].get(column)!r}, but it is {bare(value)!r}"
        for key, expected in walk(Lab)
        if key in found
        for column, value in expected.items()
        if found[key].get(column) != bare(value)
    ]
    assert found
    assert not faults


def test_every_effect_is_explained(repo: Path) -> None:
    """In the words that states show."""
    text = reference(repo)
    effects = {row["effect"] for _, row in walk(Lab) if row["effect"]}
    assert effects == {"live", "boot", "restart", "recreate"}
    assert all(re.search(rf"`{effect}`", text) for effect in effects)


@pytest.mark.parametrize(
    ("page", "elsewhere"),
    [
        ("design", set()),
        ("states", {"recreate"}),  # always refused, so never in changes
        ("pillar", {"create", "stop", "destroy"}),  # no key has them
    ],
)
def test_every_page_has_a_row_for_each_effect(repo: Path, page: str, elsewhere: set[str]) -> None:
    """And none for what is no effect."""
    text = (repo / f"docs/{page}.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| effect \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    rows = set(re.findall("^[|] `([a-z]+)` [|]", table, re.M))
    assert rows == set(EFFECTS) - elsewhere


def test_the_readme_is_read_in_one_go(repo: Path) -> None:
    """What is looked up has pages of its own."""
    assert len((repo / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_test_that_reliability_names_is_there(repo: Path) -> None:
    """Under its very name, and each fault of a real host, guest or user has one."""
    text = (repo / "docs/reliability.md").read_text(encoding="utf-8")
    files = {path: path.read_text(encoding="utf-8") for path in (repo / "tests").rglob("test_*.py")}
    tests = {name for each in files.values() for name in re.findall(r"^def (test_\w+)", each, re.M)}
    paths = [f"/{path.relative_to(repo)}" for path in files]
    named = re.findall(r"`([\w/]*test_\w+(?:\.py)?)`", text)
    missing = [
        name
        for name in named
        if name not in tests and not any(path.endswith(f"/{name}") for path in paths)
    ]
    assert not missing
    (table,) = re.findall(r"^\| what happens \|.*\| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    without = [row for row in table.splitlines() if "`test_" not in row.rsplit("|", 2)[1]]
    assert table and not without


def test_reliability_tells_what_runs_by_full_alone(repo: Path) -> None:
    """A test that CI leaves out is marked, and no other is."""
    text = (repo / "docs/reliability.md").read_text(encoding="utf-8")
    whole = r"^@pytest\.mark\.full\n(?:@.*\n)*def (test_\w+)"
    full = {
        name
        for path in (repo / "tests").rglob("test_*.py")
        for name in re.findall(whole, path.read_text(encoding="utf-8"), re.M)
    }
    marked = set(re.findall(r"`(test_\w+)` \(--full\)", text))
    bare = set(re.findall(r"`(test_\w+)`(?! \(--full\))", text))
    assert full and not full & bare
    assert marked <= full


def test_every_key_has_a_sentence() -> None:
    """For the reference, and for whoever reads the declaration."""

    def silent(cls: type[Any]) -> Iterator[str]:
        for item in dataclasses.fields(cls):
            if not item.metadata["doc"]:
                yield f"{cls.__name__}.{item.name}"
            if item.metadata["of"] is not None:
                yield from silent(item.metadata["of"])

    assert not list(silent(Lab))
