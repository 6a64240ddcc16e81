"""Whose the interface is that a network is to have, whatever it has had until now."""

from __future__ import annotations

from pathlib import Path

import _qemulab_apply_network as apply_network
import _qemulab_host_seam as host
import _qemulab_lan_network as networks
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_seam import HostError
from _qemulab_plan_network import NetworkFacts
from _qemulab_run_site import Site


def test_it_is_the_declared_interface_that_has_to_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is the way out where the old one was taken, and never somebody else's."""
    site = Site("lab", str(tmp_path))
    monkeypatch.setattr(site, "interfaces", lambda: [{"ifname": "vmlan"}, {"ifname": "eth0"}])
    stored = spec.network_from("vmlan", {}, "lab")
    host.write_all([site.store.network_as_file("vmlan", stored)])
    before = NetworkFacts(stored, "other", True, True, True)
    networks.check_start(
        site, "vmlan", spec.network_from("vmlan", {"interface": "lab0"}, "lab"), before
    )
    for interface in ("vmlan", "eth0"):
        declared = spec.network_from("vmlan", {"interface": interface}, "lab")
        with pytest.raises(HostError, match=f"the host has an interface {interface} that is not"):
            networks.check_start(site, "vmlan", declared, before._replace(link="up"))


def test_a_link_that_its_hub_makes_at_this_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look asks the host anew: an answer of half a second ago would hide that it is ours."""
    site = Site("lab", str(tmp_path))
    declared = spec.network_from("vmlan", {}, "lab")
    found = iter(["other", "other", "up"])

    def state(*_: object) -> str:
        return site.answers.recent("network", lambda: next(found))

    monkeypatch.setattr(apply_network.link, "state", state)
    monkeypatch.setattr(apply_network, "LINK_TIMEOUT", 0.3)
    assert state() == "other"
    apply_network.wait_for_link(site, "vmlan", declared)
    assert state() == "up"
