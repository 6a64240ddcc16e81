"""How a plan becomes true: one look where nothing is to be done, else lock, plan, act, look."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import _qemulab_apply_converge as apply_converge
import _qemulab_host_seam as host
import pytest
from _qemulab_host_seam import HostError
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import fact
from _qemulab_run_site import Site

CHANGE = fact("running", False, True, LIVE)


class Thing:
    """Something that is changed, and what happens to it, in order."""

    def __init__(self, changes: int) -> None:
        self.left = changes
        self.done: list[str] = []

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock it."""
        self.done.append("lock")
        yield
        self.done.append("free")

    def look(self) -> tuple[Plan, int]:
        """Look at it."""
        self.done.append("look")
        return Plan((CHANGE,) if self.left else ()), self.left

    def act(self, _plan: Plan, seen: int) -> None:
        """Change it, once."""
        assert seen == self.left
        self.done.append("act")
        self.left -= 1


@pytest.mark.parametrize(
    ("changes", "locked", "done"),
    [
        (0, True, ["look"]),
        (1, True, ["look", "lock", "look", "act", "look", "free"]),
        (0, False, ["look"]),
        (1, False, ["look", "act", "look"]),
    ],
)
def test_what_is_planned_is_done_and_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int, locked: bool, done: list[str]
) -> None:
    """Several things, each with a lock and a plan of its own, are planned once here."""
    monkeypatch.setattr(host, "is_root", lambda: True)
    site, thing = Site("lab", str(tmp_path)), Thing(changes)
    lock = thing.lock if locked else None
    found = apply_converge.converge(site, lock, thing.look, thing.act, test=False)
    assert thing.done == done
    assert list(found["changes"]) == ["running"] * changes


@pytest.mark.parametrize("locked", [True, False])
def test_what_did_not_take_effect_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """Under a lock or not."""
    monkeypatch.setattr(host, "is_root", lambda: True)
    site, thing = Site("lab", str(tmp_path)), Thing(2)
    with pytest.raises(HostError, match="this did not take effect: running"):
        apply_converge.converge(
            site, thing.lock if locked else None, thing.look, thing.act, test=False
        )
