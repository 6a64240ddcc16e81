"""Every word for how a machine or a process is: in one file, with its meaning, as the pages say."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import _qemulab_plan_status as statuses
import pytest
from _qemulab_plan_changes import words
from _qemulab_plan_lab import plan_lab_started
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network_absent
from _qemulab_plan_status import UNIT
from _qemulab_plan_status import Status

#: Words that mean other things as well: keys of changes and options, how a stop went, what other
#: programs say. Whether one is a machine's status is told by what it is compared with.
COMMON = {"running", "stopped", "failed", "unknown", "unmanaged", "other", "shutdown"}
ASKED = re.compile(r"\b(status|state)\b(?!\()")


def table(repo: Path, page: str, first: str) -> list[list[str]]:
    """Return the rows of the table of a page whose first column has this heading."""
    text = (repo / f"docs/{page}.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in found.splitlines()]


def test_the_page_has_every_word_with_its_meaning(repo: Path) -> None:
    """In the type's own words and order."""
    expected = []
    for status in Status:
        hint = status.hint.format(name="NAME")
        told = f"`{hint}`" if "qemulab" in hint else hint or "–"
        expected.append([f"`{status}`", status.means, status.handling.value, told])
    assert table(repo, "states", "status") == expected


def test_the_design_has_what_supervisors_say(repo: Path) -> None:
    """Four words, not three."""
    expected = [[f"`{word}`", means] for word, means in UNIT.items()]
    assert table(repo, "design", "a supervisor says") == expected
    assert len(UNIT) == 4


def test_the_function_that_shows_it_names_what_is_not_qemus(repo: Path) -> None:
    """``sys.doc`` is read where the page is not at hand."""
    tree = ast.parse((repo / "_modules/qemulab_vm.py").read_text(encoding="utf-8"))
    (shown,) = (
        ast.get_docstring(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "vm_info"
    )
    named = set(re.findall(r"``([a-z-]+)``", shown or ""))
    assert set(list(Status)[: list(Status).index(Status.RUNNING) + 1]) <= named


def literals(node: ast.AST) -> set[str]:
    """Return the status words that stand as literals in a part of a source."""
    texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    return {status.value for status in Status} & texts


def test_no_other_file_has_a_word_of_its_own(repo: Path) -> None:
    """Whoever compares, compares with the type."""
    faults = []
    for path in sorted([*repo.glob("_modules/*.py"), *repo.glob("_states/*.py")]):
        if path.stem == "_qemulab_plan_status":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        faults += [f"{path.name}: {word}" for word in literals(tree) - COMMON]
        for node in ast.walk(tree):
            asks = isinstance(node, ast.Compare) and ASKED.search(ast.unparse(node))
            if (asks or isinstance(node, ast.keyword) and node.arg == "status") and literals(node):
                faults.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    assert not faults


def test_every_word_of_qemus_is_known() -> None:
    """And one of a QEMU that is newer than this list harms nothing."""
    assert Status.of_qemu("io-error") is Status.IO_ERROR
    assert Status.of_qemu("hibernated") is Status.OTHER
    assert not any((Status.OTHER.is_off, Status.OTHER.is_held, Status.OTHER.is_dead))


@pytest.mark.parametrize("status", list(Status))
def test_a_word_is_of_one_group_at_most(status: Status) -> None:
    """What is done about it never contradicts itself."""
    asked = [status.is_off, status.is_held, status.is_dead, status.is_doubtful]
    assert asked.count(True) <= 1
    assert f"{status}" == str(status) == status.value
    # Where a machine cannot be dealt with, there is something that helps.
    assert status.hint or not status.is_doubtful


def test_what_users_are_given_are_plain_texts() -> None:
    """Salt's YAML and msgpack take no other."""
    started = plan_lab_started(["n"], {status.value: status for status in Status})
    gone = plan_network_absent(NetworkFacts(link="up", hub=True, orphans=("dnsmasq",)))
    shown = [*words(started.changes).values(), *words(gone.changes).values()]
    values = [value for each in shown for value in each.values() if value is not None]
    assert {type(value) for value in values} == {str}
    assert json.loads(json.dumps(shown)) == shown


def test_the_words_of_this_file_are_all_there_are() -> None:
    """A start is open as long as it may become anything."""
    assert {status for status in Status if status.is_open} == statuses._OPEN
