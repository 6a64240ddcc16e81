"""Which states start together: those that Salt would run next anyway, and no other."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def rows(repo: Path) -> ModuleType:
    """
    Load the file by its path, and what it imports: a folder of the loader's is no package.

    Salt itself is imported with it, here and not above: it brings an importer that pytest cannot
    collect further files with.
    """
    return loaded(repo, "_qemulab_row")


@pytest.fixture(scope="module")
def state(repo: Path) -> ModuleType:
    """Load the states of networks in the same way."""
    return loaded(repo, "qemulab_network")


def loaded(repo: Path, name: str) -> ModuleType:
    """Return a file of the states', with what it imports."""
    folder = repo / "_states"
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
    return module


def chunk(name: str, fun: str = "vm_running", **keys: Any) -> dict[str, Any]:
    """Return a state in the form of Salt's lowstate; a machine's where nothing else is said."""
    return {
        "state": "qemulab",
        "fun": fun,
        "__id__": f"lab-{name}",
        "__sls__": "lab.vms" if fun == "vm_running" else "lab.network",
        "name": name,
        "lab": "lab",
        "order": 10000,
        "require": [{"qemulab": "lab-present"}],
        **keys,
    }


PRESENT = chunk("present", "present", require=[], __sls_included_from__=["lab.base"])
A, B, C = chunk("a", memory=512), chunk("b", memory=256), chunk("c")
NET = chunk("net", "network_present")
RESERVED = chunk("r", "reservation_present", require=[{"qemulab": "lab-net"}])
GONE = chunk("g", "reservation_absent", require=[{"qemulab": "lab-net"}])
ASIDE = chunk("aside", "network_present")
ON_NET = chunk("a", require=[{"qemulab": "lab-present"}, {"sls": "lab.network"}])


def have_run(*chunks: dict[str, Any], result: bool | None = True) -> dict[str, Any]:
    """Return Salt's ``__running__`` once states have run."""
    tags = ["{state}_|-{__id__}_|-{name}_|-{fun}".format(**each) for each in chunks]
    return dict.fromkeys(tags, {"result": result})


def following(
    rows: ModuleType,
    own: Any,
    lowstate: Any,
    ran: dict[str, Any],
    functions: Container[str] = ("vm_running",),
    **opts: Any,
) -> list[Any]:
    """Return the row of a state, asked for as a state does."""
    dunders = {"low": own, "lowstate": lowstate, "running": ran, "opts": opts}
    found: list[Any] = rows.following(
        {f"__{name}__": value for name, value in dunders.items()}, functions
    )
    return found


@pytest.mark.parametrize(
    ("own", "lowstate", "names"),
    [
        (A, [A, B, C], ["b", "c"]),
        (B, [A, B, C], ["c"]),
        (C, [A, B, C], []),
        (A, [A, chunk("b", "vm_present"), C], []),
        (A, [A, chunk("b", "run", state="cmd"), C], []),
        (A, [A, chunk("b", lab="other"), C], []),
        (A, [A, chunk("b", require=[{"cmd": "x"}]), C], []),
        (A, [A, chunk("b", require=[]), C], ["b", "c"]),
        (A, [A, chunk("b", require=["lab-present"]), C], ["b", "c"]),
        (A, [A, chunk("b", require=[{"qemulab": "lab-a"}]), C], []),
        (A, [A, B, chunk("c", require=[{"qemulab": "lab-b"}])], ["b"]),
        (A, [A, chunk("b", require=[{"sls": "lab.base"}]), C], ["b", "c"]),
        (A, [A, chunk("b", __prereq__=True), C], []),
        (B, [chunk("not-run"), B, C], []),
        (A, [A, chunk("b", require=[{"qemulab": "lab-c"}]), C], []),
        (A, [A, chunk("b", unless="true"), C], []),
        (A, [A, chunk("b", retry=True), C], []),
        (A, [A, chunk("b", watch=[{"cmd": "x"}]), C], []),
        (A, [A, chunk("b", require_in=[{"cmd": "x"}]), C], ["b", "c"]),
        (chunk("a", parallel=True), [chunk("a", parallel=True), B], []),
        (chunk("a", onlyif="true"), [chunk("a", onlyif="true"), B], []),
        (NET, [NET, RESERVED, ON_NET, C], ["r", "a", "c"]),
        (NET, [NET, GONE, RESERVED, ON_NET, C], ["g", "r", "a", "c"]),
        (NET, [NET, GONE, RESERVED, ASIDE, ON_NET], ["g", "r", "aside", "a"]),
        (ASIDE, [NET, GONE, RESERVED, ASIDE, ON_NET], ["a"]),
        (NET, [NET, ON_NET, RESERVED], []),
        (NET, [RESERVED, NET, ON_NET], ["a"]),
        ({}, {}, []),
    ],
)
def test_only_those_are_started_together_that_salt_would_run_next_anyway(
    rows: ModuleType, state: ModuleType, own: Any, lowstate: Any, names: list[str]
) -> None:
    """Neither over another state, nor past a requisite, nor under a condition."""
    before = itertools.takewhile(lambda each: each != own, lowstate)
    ran = have_run(PRESENT, *(each for each in before if each["name"] != "not-run"))
    row = following(rows, own, [PRESENT, *lowstate], ran, state.FOLLOWERS)
    assert [each.name for each in row] == names


@pytest.mark.parametrize(
    "ran", [{}, have_run(PRESENT, result=False), have_run(PRESENT, result=None)]
)
def test_none_is_started_whose_requisites_have_not_succeeded(
    rows: ModuleType, ran: dict[str, Any]
) -> None:
    """Whatever this state itself requires."""
    alone = chunk("a", require=[])
    assert following(rows, alone, [PRESENT, alone, B], ran) == []


@pytest.mark.parametrize("test", [False, True])
def test_a_network_that_a_dry_run_would_make_is_as_good_as_made(
    rows: ModuleType, state: ModuleType, test: bool
) -> None:
    """Or the dry run would not say what the next network of the row does with the machines."""
    lowstate = [PRESENT, NET, ASIDE, ON_NET]
    ran = have_run(PRESENT) | have_run(NET, result=None)
    row = following(rows, ASIDE, lowstate, ran, state.FOLLOWERS, test=test)
    assert [each.name for each in row] == (["a"] if test else [])


def test_a_network_is_given_what_is_its_own_of_a_row(rows: ModuleType, state: ModuleType) -> None:
    """With another network behind it, machines are for that one to start and to restart."""

    def given(*lowstate: Any) -> Any:
        row = following(rows, NET, [PRESENT, NET, *lowstate], have_run(PRESENT), state.FOLLOWERS)
        return state._started_with("net", row)

    gone = {**GONE, "network": "net"}
    reserved = {**RESERVED, "network": "net", "mac": "m", "address": "a"}
    reservations = {"g": None, "r": {"mac": "m", "address": "a"}}
    assert given(gone, reserved, ON_NET, C) == {
        "reservations": reservations,
        "vms": {"a": {}},
        "last": True,
    }
    other = {**ASIDE, "name": "aside"}
    assert given(gone, reserved, other, ON_NET) == {
        "reservations": reservations,
        "vms": {},
        "last": False,
    }


def test_none_is_started_where_the_first_failure_ends_the_run(rows: ModuleType) -> None:
    assert following(rows, A, [PRESENT, A, B], have_run(PRESENT), failhard=True) == []


def test_a_state_of_a_row_brings_its_declaration(rows: ModuleType) -> None:
    """Without what is Salt's own, and free of what Salt has made immutable."""
    from salt.utils.immutabletypes import freeze

    nics = [{"network": "user"}]
    lowstate = freeze([PRESENT, A, chunk("b", memory=512, nics=nics)])
    (found,) = following(rows, freeze(A), lowstate, have_run(PRESENT))
    assert (found.function, found.name) == ("vm_running", "b")
    assert found.declaration == {"memory": 512, "nics": nics}
    assert type(found.declaration["nics"][0]) is dict


def test_a_state_of_a_row_says_whether_it_needs_the_first_one(rows: ModuleType) -> None:
    """A machine that would run without the network is not started with it."""
    lowstate = [PRESENT, NET, RESERVED, ON_NET, C]
    functions = ("vm_running", "reservation_present")
    row = following(rows, NET, lowstate, have_run(PRESENT), functions)
    assert [(each.name, each.requires_this) for each in row] == [
        ("r", True),
        ("a", True),
        ("c", False),
    ]
