"""The doctor, on a host that is well and on one that is not."""

from __future__ import annotations

import json

import harness
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter", "nft"),
]

FORWARD = {"network": "user", "forwards": [{"host_port": 10022}]}
DECLARED = {"networks": {"vmlan": {}}, "vms": {"a": tiny(nics=[{"network": "vmlan"}, FORWARD])}}


def findings(lab: Lab, well: bool) -> list[str]:
    """Return the doctor's lines; the exit status says whether the host is well."""
    pillar = lab.pillar(DECLARED)
    command = [str(harness.REPO / "salt-call"), "--out=json", "qemulab.doctor"]
    env = {"QEMULAB_PILLAR": str(pillar), **harness.OUR_SALT}
    done = lab.host.run(command, check=False, env=env)
    assert (done.returncode == 0) is well, done.stdout
    lines: list[str] = json.loads(done.stdout)["local"]
    assert lines == sorted(lines, key=lambda line: ["fail", "warn", "ok"].index(line.split()[0]))
    return lines


def test_a_host_that_is_well(host: harness.Host) -> None:
    """Nothing fails, before its lab is there and with it: its own processes are in nobody's way."""
    lab = Lab(host)
    for _ in range(2):
        lines = findings(lab, well=True)
        assert not [line for line in lines if line.startswith("fail")]
        for what in ("packages", "supervisor", "/dev/net/tun", "multicast of vmlan", "ports"):
            assert [line for line in lines if line.startswith(f"ok    {what}: ")], what
        lab.apply(declared=DECLARED)


def test_a_host_that_is_not(namespace_host: harness.Host) -> None:
    """What is in the way has a name, and a line says what to do about it."""
    lab = Lab(namespace_host)
    block = (
        "add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }"
    )
    namespace_host.run(["nft", block])
    namespace_host.run(["nft", "add rule inet f in iif lo accept"])
    namespace_host.run(["ip", "tuntap", "add", "lan", "mode", "tap"])
    namespace_host.run(["ip", "address", "add", "10.0.3.77/16", "dev", "lan"])
    namespace_host.run(["ip", "link", "set", "lan", "up"])
    servers = [
        ["socat", "TCP-LISTEN:10022,bind=127.0.0.1,fork", "-"],
        ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--dhcp-range=10.0.3.1,10.0.3.9"],
    ]
    running = [namespace_host.spawn(argv) for argv in servers]
    listening = {"tcp 127.0.0.1:10022", "udp 0.0.0.0:67"}
    harness.wait_for(lambda: listening <= namespace_host.sockets(), 10, "both servers")
    text = "\n".join(findings(lab, well=False))
    for said in (
        "fail  port: lab:vms:a:nics:1:forwards:0:host_port: port 10022/tcp on 127.0.0.1 is "
        "already taken by socat",
        "fail  other server: lab:networks:vmlan: port 53/tcp, for DNS, is taken by dnsmasq",
        "fail  firewall: DHCP on vmlan is dropped by chain inet f in policy drop; nft ",
        "fail  lab:networks:vmlan:address: 10.0.3.0/24 overlaps the host's route 10.0.0.0/16",
    ):
        assert said in text, text
    for process in running:
        process.kill()
        process.communicate()
