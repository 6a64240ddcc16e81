"""The ports that machines are given: the first free ones, and each for good."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import _qemulab_host_net as host_net
import _qemulab_pillar_spec as spec
import _qemulab_vm_ports as vm_ports
import pytest
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
EXPLICIT = st.fixed_dictionaries(
    {"nics": st.lists(st.integers(10022, 10027), min_size=1, max_size=2, unique=True)}
).map(
    lambda each: {
        "nics": [{"network": "user", "forwards": [{"host_port": p} for p in each["nics"]]}]
    }
)
MACHINES = st.dictionaries(NAMES, st.just({}) | EXPLICIT)
BUSY = st.sets(st.integers(10022, 10027))


def read(declared: dict[str, Any], stored: dict[str, Vm], busy: set[int]) -> dict[str, Vm] | None:
    """Return a lab's machines, ``None`` where two of them are to have one port."""
    ports = spec.Ports(stored, lambda port: port not in busy)
    lab, notes = spec.survey({"vms": declared}, lambda _lab: ports)
    return None if notes.faults or lab is None else dict(lab.vms)


@given(MACHINES, MACHINES, BUSY, BUSY)
def test_a_port_stays_whatever_comes_and_goes_beside_it(
    first: dict[str, Any], then: dict[str, Any], busy: set[int], later: set[int]
) -> None:
    """An apply gives what its dry run said; no two have one; one that is leaving keeps its own."""
    before = read(first, {}, busy)
    if before is None:
        return
    # What they were given is taken by themselves as soon as they run.
    held = {port for vm in before.values() for port in spec.ports_of(vm)}
    assert read(first, before, busy | held | later) == before
    after = read(then, before, later | held)
    if after is None:
        return
    every = [port for vm in after.values() for port in spec.ports_of(vm)]
    assert len(every) == len(set(every))
    declared = {p for name in then if then[name] for p in spec.ports_of(after[name])}
    for name in then.keys() - {name for name in then if then[name]}:
        old = spec.ports_of(before[name]) if name in before else set()
        if name in first and not first[name] and not old & declared:
            assert spec.ports_of(after[name]) == old
        elif name not in before:
            assert not spec.ports_of(after[name]) & (later | held)


def lab_with(tmp_path: Path, lab: str, **ports: int) -> Site:
    """Return a lab below a directory with machines that have a port each."""
    site = Site(lab, str(tmp_path))
    for name, port in ports.items():
        nics = (Nic(network="user", forwards=(Forward(host_port=port),)),)
        site.store.keep_vm(name, Vm(nics=nics), None)
    return site


def test_ports_of_other_labs_and_other_programs_are_left_to_them(tmp_path: Path) -> None:
    """Also those of machines that are off; of a damaged file, its own lab will tell."""
    lab_with(tmp_path, "other", m=10022, n=10023)
    (tmp_path / "var/lib/qemulab/other/vms/n/vm.json").write_text("{", encoding="utf-8")
    site = lab_with(tmp_path, "lab", a=10030)
    found = vm_ports.ports(site)
    assert found.stored.keys() == {"a"}
    assert not found.free(10022)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not found.free(taken.getsockname()[1])


def wanting(**forward: Any) -> Vm:
    """Return a machine with one port forwarded."""
    return Vm(nics=(Nic(network="user", forwards=(Forward(**forward),)),))


def test_a_port_that_qemu_could_not_have_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Root could have it: so it is not tried, but told from the kernel's own bound."""
    site = Site("lab", str(tmp_path))
    bound = int(Path(vm_ports.FIRST_UNPRIVILEGED).read_text(encoding="utf-8"))
    if bound == 0:
        pytest.skip("every port is for everybody here")
    (said,) = vm_ports.taken(site, "a", wanting(host_port=bound - 1))
    assert said == (
        f"lab:vms:a:nics:0:forwards:0:host_port: port {bound - 1} is for privileged processes, and "
        f"QEMU is none: declare one from {bound} on, or open it to all: "
        f"sysctl net.ipv4.ip_unprivileged_port_start={bound - 1}"
    )


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_address_that_the_host_lacks_is_named(tmp_path: Path, protocol: str) -> None:
    """Its key, not the port's: 203.0.113.0/24 is for documentation (RFC 5737)."""
    wanted = wanting(host_port=20022, host_address="203.0.113.7", protocol=protocol)
    (said,) = vm_ports.taken(Site("lab", str(tmp_path)), "a", wanted)
    assert said == (
        "lab:vms:a:nics:0:forwards:0:host_address: the host has no address 203.0.113.7; "
        "ip address shows its own"
    )
    assert host_net.refusal("203.0.113.7", 20022, protocol) == errno.EADDRNOTAVAIL
    running = wanted
    assert list(vm_ports.taken(Site("lab", str(tmp_path)), "a", wanted, running)) == []


def test_a_machines_own_port_may_lead_elsewhere_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another port of it, or from all of the host's addresses; what another has stays taken."""
    site = Site("lab", str(tmp_path))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        running, elsewhere = wanting(host_port=port), wanting(host_port=port, guest_port=80)
        assert list(vm_ports.taken(site, "a", elsewhere, running)) == []
        assert len(list(vm_ports.taken(site, "a", elsewhere))) == 1
        wider = wanting(host_port=port, host_address="0.0.0.0")
        for owner, problems in (("a", 0), ("b", 1)):
            monkeypatch.setattr(vm_ports, "_machine_of", lambda *_, by=owner: ("lab", by))
            assert len(list(vm_ports.taken(site, "a", wider, running))) == problems
