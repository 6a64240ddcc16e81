"""The one shape of all states: three tenses, what waits, what is refused, what went wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

OUTCOME: dict[str, Any] = {
    "lab": "lab",
    "changes": {},
    "pending": {},
    "refused": {},
    "notes": [],
    "machines": [],
}
MEMORY = {"memory": {"old": 2048, "new": 1024, "effect": "restart"}}
CDROM = {"cdrom": {"old": None, "new": "/a.iso", "effect": "live"}}
SIZE = {"disks:hda:size": {"old": "50G", "new": "40G", "effect": "recreate"}}


@pytest.fixture(scope="module")
def state(repo: Path) -> ModuleType:
    """
    Load the file by its path: a folder of the loader's is no package.

    Salt itself is imported with it, here and not above: it brings an importer that pytest cannot
    collect further files with.
    """
    path = repo / "_states/_qemulab_state.py"
    spec = importlib.util.spec_from_file_location("qemulab_state_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conclude(state: ModuleType) -> Callable[..., dict[str, Any]]:
    """Return a function that concludes a state of ``master`` with an outcome."""

    def call(test: bool = False, **outcome: Any) -> dict[str, Any]:
        ret: dict[str, Any] = state.conclude(
            state.Run({}, {"test": test, "file_client": "local"}, "vm:master"),
            "master",
            lambda: {**OUTCOME, **outcome},
            "master is already running",
            "master would be started",
            "master has been started",
        )
        return ret

    return call


Conclude = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("test", [False, True])
def test_nothing_to_do_is_true_and_silent(conclude: Conclude, test: bool) -> None:
    """In a dry run as well."""
    assert conclude(test) == {
        "name": "master",
        "result": True,
        "changes": {},
        "comment": "master is already running",
    }


def test_a_dry_run_says_what_would_be(conclude: Conclude) -> None:
    """With the changes that the apply then has."""
    assert conclude(True, changes=CDROM) == {
        "name": "master",
        "result": None,
        "changes": CDROM,
        "comment": "master would be started",
    }


def test_an_apply_says_what_has_been(conclude: Conclude) -> None:
    """With old value, new value and effect."""
    assert conclude(False, changes=CDROM) == {
        "name": "master",
        "result": True,
        "changes": CDROM,
        "comment": "master has been started",
    }


@pytest.mark.parametrize("test", [False, True])
def test_what_waits_is_no_change_but_a_warning(conclude: Conclude, test: bool) -> None:
    """The state stays true, in either run alike."""
    assert conclude(test, pending=MEMORY) == {
        "name": "master",
        "result": True,
        "changes": {},
        "comment": "master is already running",
        "pending": MEMORY,
        "warnings": [
            "these wait for a restart (qemulab.vm_restart, or on_change: restart): memory 2048 "
            "-> 1024\n"
        ],
    }


def test_what_waits_for_machines_names_them(conclude: Conclude) -> None:
    """A network cannot be restarted by itself."""
    pending = {"address": {"old": "10.0.3.1/24", "new": "10.0.9.1/24", "effect": "restart"}}
    assert conclude(False, pending=pending, machines=["a", "b"])["warnings"] == [
        "these wait for a restart of a, b (on_change: restart of the network, or stop them and "
        "apply again): address 10.0.3.1/24 -> 10.0.9.1/24\n"
    ]


def test_what_waits_for_its_network_is_told_apart(conclude: Conclude) -> None:
    """No restart of the machine does it."""
    address = {"nics:0:address": {"old": "10.0.3.7", "new": "10.0.9.7", "effect": "live"}}
    waits = "these wait for the new address of their network: nics:0:address 10.0.3.7 -> 10.0.9.7"
    assert conclude(False, pending=address)["warnings"] == [f"{waits}\n"]
    lines = conclude(False, pending={**MEMORY, **address})["comment"].splitlines()
    assert lines[-1] == waits
    assert "memory" in lines[-2] and "10.0.9.7" not in lines[-2]


@pytest.mark.parametrize("test", [False, True])
def test_what_would_lose_data_is_refused(conclude: Conclude, test: bool) -> None:
    """All of it: nothing has been done, nothing would be."""
    assert conclude(test, refused=SIZE, changes=CDROM, pending=MEMORY) == {
        "name": "master",
        "result": False,
        "changes": {},
        "comment": "master is left as it is, since data on a disk would be lost by "
        "disks:hda:size 50G -> 40G; remove the disk yourself first",
    }


@pytest.mark.parametrize("error", ["CommandExecutionError", "SaltInvocationError"])
@pytest.mark.parametrize("test", [False, True])
def test_an_error_is_a_result_and_no_traceback(state: ModuleType, error: str, test: bool) -> None:
    """Its text is the comment."""

    def act() -> dict[str, Any]:
        raise getattr(state, error)("lab:vms:a:memory: is bad")

    run = state.Run({}, {"test": test}, "vm:master")
    assert state.conclude(run, "master", act, "already", "would", "has") == {
        "name": "master",
        "result": False,
        "changes": {},
        "comment": "lab:vms:a:memory: is bad",
    }


def test_warnings_and_notes_are_all_said(conclude: Conclude) -> None:
    """Those of the declaration first, then those of the plan, then what waits."""
    ret = conclude(False, warnings=["quote it"], notes=["it moves"], pending=MEMORY)
    assert [line.partition(" (")[0] for line in ret["comment"].splitlines()] == [
        "master is already running",
        "quote it",
        "it moves",
        "these wait for a restart",
    ]


LINES = st.lists(st.text("ab .\n", min_size=1).filter(str.strip), min_size=1, max_size=4)


@given(LINES, LINES)
def test_warnings_neither_run_together_nor_stick_to_the_next_line(
    state: ModuleType, first: list[str], second: list[str]
) -> None:
    """One is one line and ends it; several, or one of several lines, are lines of the comment."""
    for added in ([first], [first, second]):
        ret: dict[str, Any] = {"comment": "all is well"}
        for texts in added:
            state.warn(ret, texts)
        every = [text for texts in added for text in texts]
        (warning,) = ret["warnings"]
        assert warning.endswith("\n") and "\n" not in warning[:-1]
        if len(every) == 1 and "\n" not in every[0]:
            assert (warning, ret["comment"]) == (f"{every[0]}\n", "all is well")
        else:
            assert warning == state.SEVERAL
            assert ret["comment"] == "\n".join(["all is well", *every])


def test_a_comment_ends_in_how_to_log_in_and_how_it_stopped(conclude: Conclude) -> None:
    """Only where there is something to say."""
    ssh = conclude(False, changes=CDROM, ssh="ssh -p 10022 root@127.0.0.1")
    assert ssh["comment"] == "master has been started; ssh -p 10022 root@127.0.0.1"
    for how in ("quit", "kill"):
        comment = conclude(False, changes=CDROM, how=how)["comment"]
        assert comment == f"master has been started; it ignored its power button ({how})"
    for how in ("powerdown", None):
        assert conclude(False, changes=CDROM, how=how)["comment"] == "master has been started"


def test_a_declaration_is_what_is_left_of_a_states_arguments(state: ModuleType) -> None:
    """Without what Salt itself puts there or reads from there."""
    given = {
        "memory": 1024,
        "nics": [{"network": "user"}],
        "require": [{"qemulab": "lab"}],
        "onlyif": "true",
        "order": 10000,
        "__id__": "master",
        "__sls__": "lab.vms",
        "__pub_fun": "state.apply",
    }
    assert state.declaration(given) == {"memory": 1024, "nics": [{"network": "user"}]}


# Events


@pytest.mark.parametrize(
    ("opts", "sent"),
    [
        ({"test": False, "file_client": "remote"}, ["create", "live"]),
        ({"test": False}, ["create", "live"]),
        ({"test": True, "file_client": "remote"}, []),
        ({"test": False, "file_client": "local"}, []),
    ],
)
def test_each_change_is_in_one_event(
    state: ModuleType, opts: dict[str, Any], sent: list[str]
) -> None:
    """One for each effect; none in a dry run, none where there is no master to hear it."""
    disk = {"disks:hda:size": {"old": None, "new": "50G", "effect": "create"}}
    events: list[tuple[str, Any]] = []
    run = state.Run({"event.send": lambda *event: events.append(event)}, opts, "vm:master")
    outcome = {**OUTCOME, "changes": {**CDROM, **disk}}
    state.conclude(run, "master", lambda: outcome, "already", "would", "has")
    data = {"create": disk, "live": CDROM}
    assert events == [
        (
            f"salt/qemulab/lab/vm:master/{effect}",
            {"name": "master", "lab": "lab", "changes": data[effect]},
        )
        for effect in sent
    ]
