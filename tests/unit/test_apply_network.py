"""Who is restarted behind a network that has changed: all on it, once, and nobody is forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _qemulab_apply_converge as apply_converge
import _qemulab_apply_network as apply_network
import _qemulab_apply_together as together
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import fact
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import network_after
from _qemulab_run_site import Site
from _qemulab_run_underway import Early

OLD = {"address": "10.0.3.1/24", "on_change": "restart"}
MOVED = {**OLD, "address": "10.0.9.1/24"}
VMS = {"a": {"nics": [{"network": "vmlan", "address": "10.0.9.7"}]}}
SOME = Plan((fact("memory", 1, 2, LIVE),))

Restarted = list[tuple[str, Vm | None]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab with two networks, as they were applied."""
    site = Site("lab", str(tmp_path / "root"))
    for name, keys in (("vmlan", OLD), ("aside", {**OLD, "address": "10.0.4.1/24"})):
        network = spec.network_from(name, keys, "lab")
        host.write_all([site.store.network_as_file(name, network)])
    return site


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch, site: Site) -> Restarted:
    """Return who is restarted as what: ``a`` and ``b`` run on ``vmlan``, as this process."""
    found: Restarted = []

    def find_facts(site: Site, name: str, _declared: Any = None) -> NetworkFacts:
        machines = ("a", "b") if name == "vmlan" else ()
        waiting = apply_network.find_waiting(site, name, machines)
        defined = site.store.network(name)
        return NetworkFacts(defined, "up", True, True, True, machines, waiting)

    def carry_out(site: Site, name: str, declared: Any, plan: Plan, facts: Any, _row: Any) -> None:
        waiting = {vm: apply_network.process_of(site, vm) for vm in apply_network.reopening(plan)}
        network = network_after(facts.defined, declared, plan)
        host.write_all([site.store.network_as_file(name, network, waiting)])

    def restart_as(_site: Site, name: str, declared: Vm | None) -> Plan:
        found.append((name, declared))
        return SOME if declared else Plan()

    monkeypatch.setattr(apply_converge, "need_root", lambda: None)
    monkeypatch.setattr(apply_network, "find_facts", find_facts)
    monkeypatch.setattr(apply_network, "carry_out", carry_out)
    monkeypatch.setattr(apply_network, "says_around", lambda *_: [])
    monkeypatch.setattr(apply_network.networks, "check_start", lambda *_: None)
    monkeypatch.setattr(apply_network.disks, "make_templates", lambda *_: None)
    monkeypatch.setattr(apply_network.vm_status, "find_lost", lambda *_: ())
    monkeypatch.setattr(apply_network.vm_status, "find_status", lambda *_: ("", os.getpid()))
    monkeypatch.setattr(together.apply_power, "restart_as", restart_as)
    return found


def test_machines_are_restarted_as_their_own_states_make_them(
    site: Site, restarted: Restarted
) -> None:
    """One whose state does not follow: as it was last applied."""
    done = apply_network.ensure(site, "vmlan", MOVED, vms=VMS)
    assert done["machines"] == ["a", "b"]
    (first, declared), second = restarted
    assert (first, second) == ("a", ("b", None))
    assert declared is not None and declared.nics[0].address == "10.0.9.7"
    assert site.run.early == {("vm", "a"): Early(SOME)}


@pytest.mark.parametrize("test", [False, True])
def test_machines_are_restarted_behind_the_last_network(
    site: Site, restarted: Restarted, test: bool
) -> None:
    """Once, although that one has not changed; a dry run says of the same what waits no more."""
    apply_network.ensure(site, "vmlan", MOVED, test, last=False)
    assert (restarted, site.run.restarted) == ([], set())
    keys = {**OLD, "address": "10.0.4.1/24"}
    assert apply_network.ensure(site, "aside", keys, test, vms=VMS)["changes"] == {}
    assert [name for name, _ in restarted] == ([] if test else ["a", "b"])
    assert site.run.restarted == ({"a"} if test else set())
    assert site.run.reopening == set()


def test_who_has_yet_to_reopen_a_network_is_known_to_the_next_run(
    site: Site, restarted: Restarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run may end before it has restarted them."""
    apply_network.ensure(site, "vmlan", MOVED, last=False)
    later = Site("lab", str(site.layout.root))
    (first, second) = apply_network.ensure(later, "vmlan", MOVED, test=True)["changes"]
    assert (first, second) == ("machines:a", "machines:b")
    reported = apply_network.ensure(later, "vmlan", {**MOVED, "on_change": "report"}, test=True)
    assert list(reported["pending"]) == ["machines:a", "machines:b"]
    # One that was started since has the network as it is.
    monkeypatch.setattr(
        apply_network.vm_status,
        "find_status",
        lambda _site, vm: ("", os.getpid() if vm == "b" else os.getppid()),
    )
    done = apply_network.ensure(Site("lab", str(site.layout.root)), "vmlan", MOVED)
    assert (list(done["changes"]), done["machines"]) == (["machines:b"], ["b"])
    assert [name for name, _ in restarted] == ["b"]


def test_a_network_that_fails_restarts_nobody(
    site: Site, restarted: Restarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its address is what is stored of it, not what was planned."""

    def carry_out(*_: Any) -> None:
        raise HostError("no hub")

    monkeypatch.setattr(apply_network, "carry_out", carry_out)
    with pytest.raises(HostError, match="no hub"):
        apply_network.ensure(site, "vmlan", MOVED, vms=VMS)
    assert restarted == []
    assert (site.run.reopening, site.run.moves) == (set(), {})


def test_all_restarts_are_tried_and_all_failures_told(
    site: Site, restarted: Restarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been restarted runs on: no plan of it is kept to be stopped by."""

    def restart_as(_site: Site, name: str, _declared: Any) -> Plan:
        restarted.append((name, None))
        if name == "b":
            return SOME
        raise HostError(f"{name} does not start")

    monkeypatch.setattr(together.apply_power, "restart_as", restart_as)
    site.run.reopening.update("abc")
    with pytest.raises(HostError) as caught:
        together.restart_behind(site, {})
    assert str(caught.value).splitlines() == [
        "a was not restarted: a does not start",
        "c was not restarted: c does not start",
    ]
    assert [name for name, _ in restarted] == ["a", "b", "c"]
    assert site.run.early == {}


def test_a_plan_without_a_change_is_not_kept(site: Site, restarted: Restarted) -> None:
    """Nobody would ask for it."""
    site.run.reopening.add("b")
    together.restart_behind(site, VMS)
    assert [name for name, _ in restarted] == ["b"]
    assert site.run.early == {}


def test_what_is_stored_of_a_network_keeps_who_waits_for_it(site: Site) -> None:
    """What an older version stored has nobody, and a reservation more changes nothing of that."""
    network = site.store.network("vmlan")
    assert network is not None
    assert site.store.network_waiting("vmlan") == {}
    assert "waiting" not in site.store.network_as_file("vmlan", network).text
    host.write_all([site.store.network_as_file("vmlan", network, {"a": "1 2"})])
    host.write_all([site.store.network_as_file("vmlan", network)])
    assert site.store.network("vmlan") == network
    assert site.store.network_waiting("vmlan") == {"a": "1 2"}
    host.write_all([site.store.network_as_file("vmlan", network, {})])
    assert site.store.network_waiting("vmlan") == {}


def test_a_process_is_not_taken_for_a_later_one() -> None:
    """PIDs are used again; no two processes share PID and start."""
    own = process.identity(os.getpid())
    assert own.startswith(f"{os.getpid()} ")
    assert own == process.identity(os.getpid()) != process.identity(os.getppid())
    assert process.identity(0) == ""


def test_what_is_about_to_be_started_has_its_address_first() -> None:
    """As declared, whatever was applied of it."""
    known = {"a": Vm(memory=1), "b": Vm(memory=2)}
    found = apply_network.about_to_start_first({"b": Vm(memory=3)}, known)
    assert list(found.items()) == [("b", Vm(memory=3)), ("a", Vm(memory=1))]


@pytest.mark.parametrize(
    "declared", [Reservation("00:00:00:11:11:11", "10.0.3.9"), None], ids=["present", "absent"]
)
def test_a_reservation_of_a_row_is_reported_by_its_own_state(
    site: Site, monkeypatch: pytest.MonkeyPatch, declared: Reservation | None
) -> None:
    """Also one that goes."""
    monkeypatch.setattr(apply_converge, "need_root", lambda: None)
    site.run.early["reservation vmlan", "r"] = Early(SOME)
    done: Callable[..., Any] = apply_network.ensure_reservation
    assert list(done(site, "vmlan", "r", declared)["changes"]) == ["memory"]
    assert site.run.early == {}


def test_a_row_has_reservations_that_come_and_that_go(site: Site) -> None:
    network = spec.network_from("vmlan", OLD, "lab")
    comes = {"mac": "00:00:00:11:11:11", "address": "10.0.3.9"}
    row = together.read_row(site, "vmlan", network, {"new": comes, "old": None}, {})
    assert row.reservations == {"new": Reservation(**comes), "old": None}
