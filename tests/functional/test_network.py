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

    def said(self, text: str) -> dict[str, Any]:
        """Apply the lab with a pillar as somebody wrote it, and return its states."""
        self.pillar.write_text(text, encoding="utf-8")
        states = self.host.salt_call("state.apply", "lab", pillar=self.pillar, check=False)
        return labs.flat(states)

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
        "reservations": {"master": {"mac": "52:54:00:11:11:11", "address": "10.0.3.110"}},
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
    assert lab.resolved("master") == "10.0.3.110"
    assert dnsmasq(lab) == before
    assert lab.apply("lab", MORE) == {}


def dnsmasq(lab: Applied) -> str:
    """Return the number of the lab's dnsmasq."""
    return lab.host.run(["pgrep", "-x", "dnsmasq"]).stdout


RUNS_ON = "this runs on in the lab lab: networks vmlan"


@pytest.mark.parametrize("text", ["labs: {vms: {}}", "lab: {prune: stop, vms: }"])
def test_an_empty_pillar_stops_nothing_and_names_what_runs(lab: Applied, text: str) -> None:
    """One that is mistyped as well; its key is asked about."""
    ((name, state),) = lab.said(text).items()
    assert (name, state["result"], state["changes"]) == ("declared lab-declared", True, {})
    nothing = "the pillar declares no network and no machine: nothing is done"
    assert state["comment"] == f"{nothing}\n{RUNS_ON}"
    asked = ["the pillar has the key labs and no lab: is lab meant?"] if "labs" in text else []
    assert state.get("warnings", []) == asked


def test_a_name_without_quotes_is_a_fault_that_stops_nothing(lab: Applied) -> None:
    """YAML makes a number or a word of it: told by its path, with what runs on."""
    ((name, state),) = lab.said("lab: {prune: stop, vms: {123: {}, on: {}, null: {}}}").items()
    assert (name, state["result"]) == ("declared lab-declared", False)
    name = "a name has 1 to 32 letters a-z, digits and inner hyphens"
    assert state["comment"].splitlines() == [
        f"lab:vms:123: 123 is not text; put it in quotes; {name}",
        f"lab:vms:True: True is not text; put it in quotes; {name}",
        f"lab:vms:None: None is not text; {name}",
        RUNS_ON,
    ]


@pytest.mark.parametrize("form", ["terse", "mixed"])
def test_the_warning_of_an_apply_is_a_line_of_its_own(lab: Applied, form: str) -> None:
    """No state's name sticks to it. Several at once: ``test_output.py``, by a dry run."""
    lab.pillar.write_text("lab: {vms: {}}", encoding="utf-8")
    command = [harness.REPO / "salt-call", "--no-color", f"--state-output={form}"]
    env = {"QEMULAB_PILLAR": str(lab.pillar)}
    text = lab.host.run([*command, "state.apply", "lab"], env=env).stdout
    lines = [line.strip() for line in text.splitlines()]
    after = lines[lines.index("networks no longer declared: vmlan") + 1]
    assert after.startswith("Name: lab-pruned"), text


def test_an_explicit_empty_list_of_machines_is_a_declaration(lab: Applied) -> None:
    """What is left over is told, and with ``prune: stop`` stopped."""
    states = lab.said("lab: {vms: {}}")
    assert states["pruned lab-pruned"]["warnings"] == ["networks no longer declared: vmlan"]
    changes = lab.said("lab: {prune: stop, vms: {}}")["pruned lab-pruned"]["changes"]
    assert changes == {"networks:vmlan": {"old": "present", "new": None, "effect": "stop"}}
    assert "vmlan" not in lab.host.interfaces()
    assert lab.apply("lab", MORE)


def test_removed(lab: Applied) -> None:
    """Processes, interface, route and files."""
    said = lab.apply("lab.purge", MORE, "test=True")
    assert lab.apply("lab.purge", MORE) == said
    left = lab.host.leftovers()
    files = {path for path in left.pop("files", set()) if not path.startswith(labs.STAYS)}
    assert (left, files) == ({}, set())
