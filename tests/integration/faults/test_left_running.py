"""A lab that runs on although its files are gone: it is found by what runs, and taken away."""

from __future__ import annotations

from collections.abc import Iterator

import harness
import pytest
from faultlab import DECLARED
from faultlab import ON_SUPERVISORD
from faultlab import pids
from faultlab import qemus
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host; each test makes its lab and takes it away."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("left")) as host:
        yield Lab(host)


@pytest.fixture(autouse=True)
def ends_whole() -> None:
    """Leave nothing: each test says itself what it takes away."""


@pytest.mark.parametrize("sls", ["lab.clean", "lab.purge"])
def test_a_lab_whose_state_was_removed_is_taken_away_by_what_runs(lab: Lab, sls: str) -> None:
    """The dry run names what runs; afterwards nothing does, and the next apply makes it all."""
    lab.apply(declared=DECLARED)
    assert len(pids(lab)) == 3
    lab.host.run(["rm", "-rf", "/var/lib/qemulab"])
    said = lab.apply(sls, declared=DECLARED, test=True)
    assert said["vm_absent a"]["changes"]["running"] == {
        "old": True,
        "new": False,
        "effect": "stop",
    }
    assert {"hub", "dnsmasq", "link", "route"} == set(said["network_absent vmlan"]["changes"])
    done = lab.apply(sls, declared=DECLARED)
    assert lab.changes(done) == lab.changes(said)
    assert pids(lab) == {}
    left = lab.leftovers()
    assert set(left) <= {"files"}
    kept = ("/var/log/",) if sls == "lab.clean" else ()
    ours = [path for path in left.get("files", ()) if "qemulab" in path]
    assert not [path for path in ours if "/qemulab/guest" not in path and not path.startswith(kept)]
    assert lab.changes(lab.apply(sls, declared=DECLARED)) == {}


def test_a_lab_whose_state_was_removed_is_stopped_by_what_runs(lab: Lab) -> None:
    """Whoever asks for all machines off is not told that none runs."""
    lab.apply(declared=DECLARED)
    lab.host.run(["rm", "-rf", "/var/lib/qemulab"])
    for answer in (lab.call("lab_stop", "test=True"), lab.call("lab_stop")):
        assert answer["changes"] == {
            "vms:a": {"old": "running", "new": "stopped", "effect": "stop"}
        }
    assert answer["how"]["a"] in ("acpi", "quit")
    assert set(pids(lab)) == {"hub vmlan", "dnsmasq vmlan"}
    assert lab.call("lab_stop")["changes"] == {}
    lab.apply("lab.purge", declared=DECLARED)
    assert pids(lab) == {}


@ON_SUPERVISORD
def test_a_lab_that_nobody_can_reach_is_never_called_removed(lab: Lab) -> None:
    """Its sockets gone as well, what runs is named with its process; nothing of it is signalled."""
    lab.apply(declared=DECLARED)
    before = pids(lab)
    lab.host.run(["rm", "-rf", "/var/lib/qemulab", "/run/qemulab"])
    answer = lab.apply("lab.purge", declared=DECLARED, check=False)
    comment = answer["absent lab-absent"]["comment"]
    assert answer["absent lab-absent"]["result"] is False
    assert f"a (process {before['a']})" in comment or len(qemus(lab)) == 0
