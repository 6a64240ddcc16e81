"""
The host goes down without a warning and comes up again: what is on its disk is all that is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from faultlab import digest
from faultlab import dns_answers
from faultlab import hub_carries
from faultlab import qemu_answers
from faultlab import qemus
from figures import Figures
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

DECLARED = {
    "networks": {
        "vmlan": {
            "autostart": True,
            "reservations": {"a": {"mac": "52:54:00:00:00:01", "address": "10.0.3.11"}},
        }
    },
    "vms": {
        "a": tiny(disks=[{"size": "1M"}], nics=[{"network": "vmlan"}], autostart=True),
        "b": tiny(nics=[{"network": "vmlan"}]),
    },
}
LEASES = "/var/lib/qemulab/lab/networks/vmlan/dhcp/leases"
LEASE = {"network": "vmlan", "mac": "52:54:00:00:00:77", "address": "10.0.3.150", "name": "guest"}

#: A throw-away host boots to nested.target: it wants of the usual target what is the lab's.
AT_BOOT = """
    cd /etc/systemd/system && mkdir nested.target.wants
    shopt -s nullglob
    for unit in multi-user.target.wants/qemulab*; do cp -P "$unit" nested.target.wants/; done"""


@pytest.fixture(autouse=True)
def ends_whole() -> Iterator[None]:
    """Leave the lab of the other files alone: here each test has hosts of its own."""
    yield


def lease(lab: Lab) -> None:
    """Have a guest's lease in the DHCP server's file, as that writes it, and have it read anew."""
    line = f"{int(time.time()) + 3600} {LEASE['mac']} {LEASE['address']} {LEASE['name']} *"
    lab.host.run(["sh", "-c", f"echo '{line}' >> {LEASES}"])
    lab.host.run(["pkill", "-KILL", "-x", "dnsmasq"])
    assert LEASE in leases(lab)


def leases(lab: Lab) -> list[dict[str, str]]:
    """Return what is leased, without the time that is left."""
    harness.wait_for(lambda: dns_answers(lab), 5, "DNS")
    return [{k: v for k, v in item.items() if k != "expires_in"} for item in lab.call("lease_list")]


@pytest.mark.parametrize("supervisor", harness.HOSTS)
def test_f21_a_reboot(tmp_path: Path, figures: Figures, supervisor: str) -> None:
    """systemd starts what is to start with the host, once; the apply the rest; leases stay."""
    with harness.HOSTS[supervisor](tmp_path) as host:
        lab = Lab(host)
        lab.apply(declared=DECLARED)
        lease(lab)
        before = digest(lab)
        host.run(["bash", "-c", AT_BOOT])
        disk = host.save_disk()
    begin = time.monotonic()
    with harness.HOSTS[supervisor](tmp_path, disk=disk) as host:
        lab = Lab(host)
        if supervisor == "systemd":
            harness.wait_for(lambda: qemu_answers(lab) and hub_carries(lab), 10, "the machine")
            figures.seconds("F21 reboot: the lab is up", time.monotonic() - begin, supervisor)
            assert LEASE in leases(lab)
            assert lab.call("vm_list") == {"a": "running", "b": "stopped"}
            up = lab.pids()["a"]
            with figures.healing(supervisor):
                assert lab.changes(lab.apply(declared=DECLARED)).keys() == {"vm_running b"}
            assert lab.pids()["a"] == up
        else:
            assert lab.call("vm_list") == {"a": "stopped", "b": "stopped"}
            with figures.healing(supervisor):
                lab.apply(declared=DECLARED)
            figures.seconds("F21 reboot: the lab is up", time.monotonic() - begin, supervisor)
        assert lab.call("vm_list") == {"a": "running", "b": "running"}
        assert lab.changes(lab.apply(declared=DECLARED)) == {}
        assert len(qemus(lab)) == 2
        assert LEASE in leases(lab)
        assert digest(lab) == before
