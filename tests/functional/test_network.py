"""
A lab that is a network and nothing else, by Salt's own salt-call with the real socat and dnsmasq.

No machine: that is what the integration tests are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import labs
import pytest

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("socat", "dnsmasq", "dig", "ip", "unshare", "nsenter", "setpriv"),
]


class Applied:
    """A host whose pillar is changed and applied."""

    def __init__(self, host: harness.Host) -> None:
        self.host = host
        self.pillar = host.shared / "pillar.sls"

    def apply(self, sls: str, networks: dict[str, Any], *words: str) -> dict[str, Any]:
        """
        Apply an SLS and return what it changed, by state; each must be true, and nothing be said.

        What is said on stderr is a warning of Salt's, or a deprecation of what qemulab uses.
        """
        self.pillar.write_text(json.dumps({"lab": {"networks": networks}}), encoding="utf-8")
        done = self.host.run(
            [harness.REPO / "salt-call", "--out=json", "state.apply", sls, *words],
            env={"QEMULAB_PILLAR": str(self.pillar), "QEMULAB_PROGRESS": ""},
        )
        assert done.stderr == ""
        states = labs.flat(json.loads(done.stdout)["local"])
        assert all(state["result"] is not False for state in states.values())
        assert not any(state.get("warnings") for state in states.values())
        return {name: state["changes"] for name, state in states.items() if state["changes"]}

    def resolved(self, name: str) -> str:
        """Return the address that the lab's DNS server gives for a name."""
        return self.host.run(
            ["dig", "+short", "+time=2", "+tries=2", "@10.0.3.1", "-q", name]
        ).stdout.strip()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    """Give a host with ``lo`` only and no lab yet; the tests of this file run in order on it."""
    with harness.namespace_host(tmp_path_factory.mktemp("network")) as host:
        yield Applied(host)


PLAIN: dict[str, Any] = {"vmlan": {}}
MORE: dict[str, Any] = {
    "vmlan": {
        "dns": {"names": {"host": "10.0.3.1"}},
        "reservations": {"master": {"mac": "52:54:00:11:11:11", "address": "10.0.3.101"}},
    }
}


def test_made(lab: Applied) -> None:
    """As the dry run said; then there is an address, a hub and a DNS server, and nothing to do."""
    said = lab.apply("lab", PLAIN, "test=True")
    assert lab.apply("lab", PLAIN) == said
    assert "network_present vmlan" in said
    assert "vmlan" in lab.host.interfaces()
    programs = {Path(line.split()[0]).name for line in lab.host.processes()}
    assert {"socat", "dnsmasq"} <= programs
    assert lab.apply("lab", PLAIN) == {}


def test_changed(lab: Applied) -> None:
    """Live: the same dnsmasq answers for the new names."""
    before = dnsmasq(lab)
    said = lab.apply("lab", MORE, "test=True")
    assert set(said) == {"network_present vmlan", "reservation_present master"}
    assert lab.apply("lab", MORE) == said
    assert lab.resolved("host") == "10.0.3.1"
    assert lab.resolved("master") == "10.0.3.101"
    assert dnsmasq(lab) == before
    assert lab.apply("lab", MORE) == {}


def dnsmasq(lab: Applied) -> str:
    """Return the number of the lab's dnsmasq."""
    return lab.host.run(["pgrep", "-x", "dnsmasq"]).stdout


def test_removed(lab: Applied) -> None:
    """Processes, interface, route and files."""
    said = lab.apply("lab.purge", MORE, "test=True")
    assert lab.apply("lab.purge", MORE) == said
    left = lab.host.leftovers()
    files = {path for path in left.pop("files", set()) if not path.startswith(labs.STAYS)}
    assert (left, files) == ({}, set())
