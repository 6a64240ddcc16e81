"""How long a machine that starts is waited for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _qemulab_pillar_spec as spec
import _qemulab_vm_power as power
import pytest
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_site import Site


class Clock:
    """A clock that only a wait moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def wait_for(self, question: Any, timeout: float, **_: float) -> Any:
        """Ask once, and let the time go by where the answer is none."""
        answer = question()
        self.now += 0 if answer else timeout
        return answer


@pytest.mark.parametrize(
    ("moves_for", "runs_after", "ends"),
    [(10_000, 9_000, Status.RUNNING), (10_000, 10_015, Status.RUNNING), (100, 9_000, None)],
)
def test_a_start_is_waited_for_as_long_as_it_gets_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moves_for: float,
    runs_after: float,
    ends: Status | None,
) -> None:
    """For hours if need be; one that stands still is given up 20 s after its last sign of life."""
    clock = Clock()
    monkeypatch.setattr(power, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(power.host, "wait_for", clock.wait_for)
    monkeypatch.setattr(power, "signs_of_life", lambda *_: (int(min(clock.now, moves_for)), 0))
    running = Status.RUNNING
    monkeypatch.setattr(
        power, "clear_status", lambda *_: running if clock.now >= runs_after else None
    )
    assert power.wait_until_clear(Site("lab", str(tmp_path)), "a") is ends
    assert clock.now == (runs_after if ends else moves_for + power.START_TIMEOUT)


@pytest.mark.parametrize(("told", "timeout"), [((), None), (("lan",), 0)])
def test_what_no_server_has_heard_of_is_not_started_nor_stored_as_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: tuple[str, ...], timeout: float | None
) -> None:
    """What is stored is as before. Who holds a network's lock waits for no other network's."""
    site = Site("lab", str(tmp_path))
    old = spec.vm_from("a", {"nics": [], "memory": 512}, "lab", {})
    new = spec.vm_from("a", {"nics": [], "memory": 1024}, "lab", {})
    site.store.keep_vm("a", old, None)
    monkeypatch.setattr(power.host, "USER", None)
    monkeypatch.setattr(power, "check_start", lambda *_: None)
    monkeypatch.setattr(power, "disks", SimpleNamespace(make_images=lambda *_: None))
    nothing = {"write_authorized_keys": lambda *_: None, "make_host_keys": lambda *_: None}
    monkeypatch.setattr(power, "access", SimpleNamespace(**nothing))
    monkeypatch.setattr(power.launch, "scripts", lambda *_: [])

    def refuses(_site: Site, but: Any, **given: Any) -> None:
        assert site.store.vm("a") == (new, new) and site.store.vm("b") == (new, new)
        assert (but, given) == (told, {"timeout": timeout})
        raise HostError("it does not come up")

    monkeypatch.setattr(power.lan, "refresh", refuses)
    with pytest.raises(HostError, match="it does not come up"):
        power.start_all(site, {"a": new, "b": new}, told)
    assert site.store.vm("a") == (old, None)
    assert site.store.vms() == ["a"]
