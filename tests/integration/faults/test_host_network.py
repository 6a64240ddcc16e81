"""
What a host's own programs and settings do to the network of a lab, and what is said of it.
"""

from __future__ import annotations

import time
from typing import Any

import harness
import pytest
from faultlab import DECLARED
from faultlab import ON_SUPERVISORD
from faultlab import ON_SYSTEMD
from faultlab import healed
from faultlab import hub_carries
from faultlab import pids
from faultlab import qemus
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

STRANGE_MAC = "02:00:00:00:00:99"


def mac(lab: Lab) -> str:
    """Return the MAC address of the TAP."""
    return lab.host.run(["cat", "/sys/class/net/vmlan/address"]).stdout.strip()


def link(states: dict[str, Any]) -> dict[str, Any]:
    """Return what an apply did to the TAP of the network, or would do."""
    found: dict[str, Any] = states["network_present vmlan"]["changes"]
    assert found.keys() == {"link"}
    return found["link"]


# What udev does to an interface that is new: once, and only after whoever has made it.
LATE_UDEV = f"""
    until [ -e /sys/class/net/vmlan ]; do sleep 0.001; done
    read -r new < /sys/class/net/vmlan/address
    until read -r now < /sys/class/net/vmlan/address && [ "$now" != "$new" ]; do sleep 0.001; done
    ip link set dev vmlan address {STRANGE_MAC}"""


@ON_SUPERVISORD
def test_a_changed_mac_address_is_mended(lab: Lab) -> None:
    """As the dry run says; the TAP is still ours, so that ``lab.clean`` takes it away as well."""
    before = mac(lab)
    change = ["ip", "link", "set", "dev", "vmlan", "address", STRANGE_MAC]
    lab.host.run(change)
    mended = {"old": "other MAC", "new": "up", "effect": "live"}
    assert link(lab.apply(declared=DECLARED, test=True)) == mended
    assert link(lab.apply(declared=DECLARED)) == mended
    assert mac(lab) == before
    lab.host.run(change)
    lab.apply("lab.clean", declared=DECLARED)
    assert "vmlan" not in lab.host.interfaces()
    # What comes between the making and the end of the apply is mended by that apply.
    udev = lab.host.spawn(["bash", "-c", LATE_UDEV])
    lab.apply(declared=DECLARED)
    assert udev.wait(timeout=10) == 0
    udev.communicate()
    assert mac(lab) == before


NO_IPV6 = r"""#!/bin/sh
input=$([ "$*" = "${*#*-batch}" ] || cat)
case "$* $input" in
    *addrgenmode*) echo 'RTNETLINK answers: Address family not supported' >&2; exit 2 ;;
esac
[ -z "$input" ] || { printf '%s\n' "$input" | exec /usr/sbin/ip "$@"; exit; }
exec /usr/sbin/ip "$@"
"""
"""An ``ip`` that is answered as a kernel with ``ipv6.disable=1`` does: that is for boot alone."""


@ON_SUPERVISORD
def test_a_lab_needs_no_ipv6(lab: Lab) -> None:
    """Such a kernel has no /proc/sys/net/ipv6, and refuses what only IPv6 has a use for."""
    lab.apply("lab.clean", declared=DECLARED)
    script = lab.host.shared / "ip"
    script.write_text(NO_IPV6, encoding="utf-8")
    lab.host.run(["install", "-m", "755", script, "/usr/local/sbin/ip"])
    lab.host.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net"])
    try:
        refused = lab.host.run(["ip", "link", "set", "lo", "addrgenmode", "none"], check=False)
        assert refused.returncode == 2
        lab.apply(declared=DECLARED)
        healed(lambda: hub_carries(lab), "the hub")
        assert lab.changes(lab.apply(declared=DECLARED)) == {}
    finally:
        lab.host.run(["umount", "/proc/sys/net"])
        lab.host.run(["rm", "/usr/local/sbin/ip"])


NEW_RESOLVER = """
    cp -P /etc/resolv.conf /etc/resolv.conf.old
    echo 'nameserver 192.0.2.99' > /etc/resolv.conf.new
    mv /etc/resolv.conf.new /etc/resolv.conf"""


def seen(lab: Lab, pid: int) -> list[str]:
    """Return the resolver configuration that a process sees, and what else of /etc it can open."""
    look = 'cat /etc/resolv.conf; cd /etc; for each in *; do [ ! -e "$each" ] || echo "$each"; done'
    enter = ["nsenter", "--target", str(pid), "--mount", "--", "sh", "-c", look]
    return lab.host.run(enter).stdout.splitlines()


def test_lab_names_survive_a_new_resolv_conf(lab: Lab) -> None:
    """It is renamed over the old one; a machine that runs sees all else of /etc as before."""
    pid = pids(lab)["a"]
    before = seen(lab, pid)
    assert before[0] == "nameserver 10.0.3.1"
    host_own = seen(lab, 1)
    assert [line for line in host_own if not line.startswith("nameserver")] == before[1:]
    try:
        lab.host.run(["sh", "-c", NEW_RESOLVER])
        assert seen(lab, 1)[0] == "nameserver 192.0.2.99"
        assert seen(lab, pid)[0] == "nameserver 10.0.3.1"
        assert lab.changes(lab.apply(declared=DECLARED)) == {}
        # One that has lost it all the same is named, by the apply and by the doctor.
        lab.host.run(["nsenter", "--target", str(pid), "--mount", "umount", "/etc"])
        told = "lab:vms:a: its 10.0.2.3 answers by the host's /etc/resolv.conf, and knows no name"
        warnings = lab.apply(declared=DECLARED)["declared lab-declared"]["warnings"]
        assert any(text.startswith(told) for text in warnings)
        lines = lab.host.salt_call("qemulab.doctor", pillar=lab.pillar(DECLARED), check=False)
        assert any(line.startswith(f"warn  {told}") for line in lines)
        lab.call("vm_restart", "a")
        assert not lab.apply(declared=DECLARED)["declared lab-declared"].get("warnings")
    finally:
        lab.host.run(["mv", "/etc/resolv.conf.old", "/etc/resolv.conf"])


RULES = {
    "all that goes there": ("to 10.0.3.0/24", "10.0.3.100 leave by lan0 (table 52)"),
    "answers alone": ("from 10.0.3.1", "10.0.3.100 leave by lan0 (table 52)"),
}


@ON_SUPERVISORD
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_leads_past_the_network_is_named(lab: Lab, rule: str) -> None:
    """As VPNs have them: with the command that mends it, before the TAP is there and after."""
    words, said = RULES[rule]
    told = f"the host's own packets to {said}, not by vmlan; ip rule add to 10.0.3.0/24 lookup main"
    make = "ip link add lan0 type veth peer name lan1; ip link set lan0 up; ip link set lan1 up"
    host = lab.host
    host.run(["sh", "-c", f"{make}; ip route add default dev lan0 table 52"])
    host.run(["sh", "-c", f"ip rule add {words} lookup 52"])
    try:
        warnings = lab.apply(declared=DECLARED)["declared lab-declared"]["warnings"]
        assert f"lab:networks:vmlan:address: {told}" in warnings
        lines = lab.host.salt_call("qemulab.doctor", pillar=lab.pillar(DECLARED), check=False)
        assert f"fail  lab:networks:vmlan:address: {told}" in lines
        if words.startswith("to"):
            lab.apply("lab.clean", declared=DECLARED)
            states = lab.apply(declared=DECLARED)
            assert f"lab:networks:vmlan:address: {told}" in "".join(
                states["declared lab-declared"]["warnings"]
            )
            assert told in states["network_present vmlan"]["warnings"]
        host.run(["sh", "-c", told.rpartition("; ")[2]])
        assert not lab.apply(declared=DECLARED)["declared lab-declared"].get("warnings")
        host.run(["sh", "-c", "ip rule del to 10.0.3.0/24 lookup main"])
    finally:
        host.run(["sh", "-c", f"ip rule del {words} lookup 52; ip link delete lan0"])


CATCH_ALL = """
    cd /etc/systemd
    mkdir -p network system/systemd-networkd.service.d
    printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' > network/80-all.network
    # It waits for udev, which no throw-away host has, unless nothing is written to /sys.
    printf '[Service]\\nReadOnlyPaths=/sys\\n' > system/systemd-networkd.service.d/sys.conf
    systemctl daemon-reload
    systemctl restart systemd-networkd"""


@ON_SYSTEMD
@pytest.mark.needs("networkctl")
def test_a_network_manager_gets_no_address_from_the_lab(lab: Lab) -> None:
    """The real systemd-networkd asks in vain; the doctor has the file that keeps it off."""
    host = lab.host
    host.run(["bash", "-c", CATCH_ALL])

    def setup() -> str:
        return host.run(["networkctl", "--no-legend", "list", "vmlan"]).stdout.split()[-1]

    try:
        harness.wait_for(lambda: setup() == "configuring", 10, "systemd-networkd")
        time.sleep(3)  # it asks at once, and a lease of dnsmasq is there after as many seconds
        assert setup() == "configuring"
        assert all(lease["address"] == "10.0.3.11" for lease in lab.call("lease_list"))
        assert not any(route.startswith("default") for route in host.routes())
        assert hub_carries(lab)
        lines = host.salt_call("qemulab.doctor", pillar=lab.pillar(DECLARED), check=False)
        begin = "warn  systemd-networkd: it manages vmlan, by /etc/systemd/network/80-all.network; "
        (line,) = (each for each in lines if "networkd" in each)
        assert line.startswith(f"{begin}keep it off: ")
        host.run(["sh", "-c", line.partition("keep it off: ")[2]])
        harness.wait_for(lambda: setup() == "unmanaged", 10, "systemd-networkd")
        assert lab.changes(lab.apply(declared=DECLARED)) == {}
    finally:
        host.run(["sh", "-c", "systemctl stop systemd-networkd.socket systemd-networkd"])
        host.run(["sh", "-c", "rm /etc/systemd/network/*; rm -r /etc/systemd/system/systemd-net*"])


LATE = "192.0.2.7"
LATE_SERVICE = "qemulab-vm@lab:late.service"


def with_late(**more: Any) -> dict[str, Any]:
    """Return the lab with a machine more, whose port is on an address that comes and goes."""
    forward = {"host_port": 10999, "host_address": LATE}
    late = tiny(nics=[{"network": "user", "forwards": [forward]}], **more)
    return {**DECLARED, "vms": {**DECLARED["vms"], "late": late}}


def late_address(lab: Lab, change: str) -> None:
    """Have the host get (``add``) or lose (``del``) the address."""
    lab.host.run(["ip", "address", change, f"{LATE}/32", "dev", "lo"])


def test_an_address_that_comes_late_is_waited_for(lab: Lab) -> None:
    """It is named before the start; a machine that has run is tried until the address is back."""
    for test in (True, False):
        states = lab.apply(declared=with_late(), test=test, check=False)
        said = f"host_address: the host has no address {LATE}; ip address shows its own"
        assert said in states["vm_running late"]["comment"]
        assert states["vm_running a"]["result"] is True
    late_address(lab, "add")
    lab.apply(declared=with_late(autostart=True))
    late_address(lab, "del")
    lab.host.run(["kill", "-KILL", str(lab.pids()["late"])])
    harness.wait_for(lambda: tries(lab) >= 2, 20, "a second try")
    late_address(lab, "add")
    harness.wait_for(lambda: len(qemus(lab)) == 2, 10, "the machine")
    lab.call("vm_remove", "late", "purge=True")
    late_address(lab, "del")


def tries(lab: Lab) -> int:
    """Return how often the supervisor has started the machine again."""
    if lab.host.supervisor == "systemd":
        return int(lab.host.run(["systemctl", "show", "-P", "NRestarts", LATE_SERVICE]).stdout)
    log = lab.host.path("/var/log/qemulab/lab/vm-late.log").read_text(encoding="utf-8")
    return log.count(f"'tcp:{LATE}:10999-:22'")


@ON_SYSTEMD
def test_a_start_with_the_host_waits_for_an_address(lab: Lab) -> None:
    """The host boots, and the address comes later than systemd would try the machine."""
    late_address(lab, "add")
    lab.apply(declared=with_late(autostart=True))
    limit = ["systemctl", "show", "-P", "StartLimitIntervalUSec", LATE_SERVICE]
    assert lab.host.run(limit).stdout.strip() == "0"
    late_address(lab, "del")
    lab.host.run(["systemctl", "stop", LATE_SERVICE])
    # As the target of a boot starts it.
    lab.host.run(["systemctl", "start", "--no-block", LATE_SERVICE])
    harness.wait_for(lambda: tries(lab) >= 1, 20, "a second try")
    late_address(lab, "add")
    harness.wait_for(lambda: len(qemus(lab)) == 2, 10, "the machine")
    lab.call("vm_remove", "late", "purge=True")
    late_address(lab, "del")


@ON_SUPERVISORD
def test_a_privileged_port_is_refused(lab: Lab) -> None:
    """In the dry run as well, with what to do; nothing of the machine is made."""
    nics = [{"network": "user", "forwards": [{"host_port": 80}]}]
    declared = {**DECLARED, "vms": {**DECLARED["vms"], "b": tiny(nics=nics)}}
    for test in (True, False):
        state = lab.apply(declared=declared, test=test, check=False)["vm_running b"]
        assert state["result"] is False
        assert "port 80 is for privileged processes, and QEMU is none" in state["comment"]
    assert lab.host.run(["ls", "/var/lib/qemulab/lab/vms"]).stdout.split() == ["a"]
    lab.host.run(["sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=80"])
    lab.apply(declared=declared)
    lab.call("vm_remove", "b", "purge=True")
    lab.host.run(["sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024"])
