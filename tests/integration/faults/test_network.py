"""
What the network around a host does to a lab, and what of a lab can be reached from there.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import harness
import pytest
from faultlab import DECLARED
from faultlab import dns_answers
from faultlab import healed
from faultlab import hub_carries
from faultlab import pids
from figures import Figures
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "tcpdump", "unshare", "nsenter"),
]

GROUP = "230.0.0.1"


def test_f23_a_lab_needs_no_interface_that_is_up(lab: Lab) -> None:
    """Not even the loopback: from nothing, it is set up; and again where somebody set it down."""
    lab.apply("lab.clean", declared=DECLARED)
    lab.host.run(["ip", "link", "set", "dev", "lo", "down"])
    assert lab.host.run(["ip", "route", "show", "default"]).stdout == ""
    states = lab.apply(declared=DECLARED)
    warned = "multicast: lo is down; the apply sets it up"
    assert warned in states["declared lab-declared"]["warnings"]
    healed(lambda: hub_carries(lab) and dns_answers(lab), "hub and DNS")
    lab.host.run(["ip", "link", "set", "dev", "lo", "down"])
    assert "network_present vmlan" in lab.changes(lab.apply(declared=DECLARED))
    assert f"{GROUP} dev lo scope link" in lab.host.routes()


def stop_dnsmasq(lab: Lab) -> None:
    """Have the lab's supervisor stop the DHCP and DNS server, and leave it so."""
    if lab.host.supervisor == "systemd":
        lab.host.run(["systemctl", "stop", "qemulab-dnsmasq@lab:vmlan"])
        return
    assert lab.supervisord().stopProcess("dnsmasq-vmlan") is True


@contextlib.contextmanager
def spawned(host: harness.Host, argv: list[str]) -> Iterator[None]:
    """Run a command in a host for a ``with`` block."""
    process = host.spawn(argv)
    try:
        yield
    finally:
        process.kill()
        process.communicate()


DHCP = ("--port=0", "--dhcp-range=192.0.2.10,192.0.2.20,255.255.255.0")


@contextlib.contextmanager
def server(host: harness.Host, *words: str, at: str) -> Iterator[None]:
    """Run another dnsmasq for a ``with`` block, which begins when it listens at an address."""
    common = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
    with spawned(host, [*common, "--dhcp-leasefile=/dev/null", *words]):
        harness.wait_for(lambda: any(at in each for each in host.sockets()), 5, "the server")
        yield


@pytest.mark.parametrize(
    ("words", "port", "said"),
    [
        pytest.param(DHCP, 67, "port 67/udp, for DHCP, is taken by dnsmasq (pid ", id="F27-dhcp"),
        pytest.param((), 53, "port 53/tcp, for DNS, is taken by dnsmasq (pid ", id="F27-dns"),
    ],
)
def test_a_server_that_has_the_port_is_named(
    lab: Lab, words: tuple[str, ...], port: int, said: str
) -> None:
    """At once, in a dry run as well; hub and machines run on, and the next apply heals it."""
    stop_dnsmasq(lab)
    before = pids(lab)
    assert before.keys() == {"a", "hub vmlan"}
    with server(lab.host, *words, at=f"0.0.0.0:{port}"):
        for test in (True, False) if port == 67 else (False,):
            states = lab.apply(declared=DECLARED, test=test, check=False)
            assert states["network_present vmlan"]["result"] is False
            assert said in states["network_present vmlan"]["comment"]
            assert "keep to its own interfaces" in states["network_present vmlan"]["comment"]
    assert pids(lab) == before


def test_f27_a_server_that_keeps_to_its_own_interface_is_in_nobodys_way(lab: Lab) -> None:
    """As libvirt's does: the two share the port."""
    stop_dnsmasq(lab)
    lab.host.run(["ip", "link", "add", "virbr0", "type", "bridge"])
    lab.host.run(["ip", "address", "add", "192.168.122.1/24", "dev", "virbr0"])
    lab.host.run(["ip", "link", "set", "virbr0", "up"])
    words = ("--bind-dynamic", "--interface=virbr0", "--except-interface=lo")
    ranges = "--dhcp-range=192.168.122.2,192.168.122.254,255.255.255.0"
    with server(lab.host, *words, ranges, at="192.168.122.1:53"):
        lab.apply(declared=DECLARED)
        healed(lambda: dns_answers(lab), "DNS")
    lab.host.run(["ip", "link", "delete", "virbr0"])


def test_f26_a_port_that_is_taken_is_named_before_anything_starts(lab: Lab) -> None:
    """With its owner, in a dry run as well; the disk of the machine is not even made."""
    forwards = [{"host_port": 10999}]
    wanted = tiny(disks=[{"size": "1M"}], nics=[{"network": "user", "forwards": forwards}])
    declared = {**DECLARED, "vms": {**DECLARED["vms"], "b": wanted}}
    with spawned(lab.host, ["socat", "TCP-LISTEN:10999,bind=127.0.0.1,fork", "-"]):
        listening = "tcp 127.0.0.1:10999"
        harness.wait_for(lambda: listening in lab.host.sockets(), 5, "the port's owner")
        for test in (True, False):
            states = lab.apply(declared=declared, test=test, check=False)
            said = "port 10999/tcp on 127.0.0.1 is already taken by socat (pid "
            assert states["vm_running b"]["result"] is False
            assert said in states["vm_running b"]["comment"]
            assert states["vm_running a"]["result"] is True
    assert lab.host.run(["ls", "/var/lib/qemulab/lab/vms"]).stdout.split() == ["a"]


# A host with an uplink, and somebody on the other end


@pytest.fixture(scope="module", params=harness.HOSTS)
def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """Give a lab on a host with a LAN: its machine has ports forwarded, and a screen."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("lan"), uplink=True) as host:
        yield Lab(host)


FORWARDED = {
    "networks": {"vmlan": {}},
    "vms": {
        "a": tiny(
            disks=[{"size": "1M"}],
            nics=[{"network": "vmlan"}, {"network": "user", "forwards": [{"host_port": 10022}]}],
            display="vnc",
            vnc_port=5907,
        )
    },
}


def peer(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the other end of the uplink."""
    assert lab.host.uplink is not None
    enter = ["nsenter", "--target", str(lab.host.uplink.router), "--net", "--"]
    return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=60)


SCAN = """
import socket, sys
for address in sys.argv[1:]:
    for port in range(1, 65536):
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex((address, port)) == 0:
                print(address, port, flush=True)
"""


class TestWithALan:
    """What the other end sees of a lab, and what it can do to one."""

    @pytest.fixture(autouse=True)
    def ends_whole(self, beside: Lab) -> Iterator[None]:
        """Nothing of the lab has left the host."""
        beside.apply(declared=FORWARDED)
        yield
        assert beside.changes(beside.apply(declared=FORWARDED)) == {}

    def test_f26_nothing_listens_off_the_loopback(self, beside: Lab) -> None:
        """A scan of every port from the LAN finds none; the lab's DNS does not answer it."""
        peer(beside, "ip", "route", "replace", "10.0.3.0/24", "via", harness.ADDRESS)
        open_ports = peer(beside, "python3", "-c", SCAN, harness.ADDRESS).stdout
        assert open_ports == ""
        asked = peer(beside, "dig", "+short", "+time=1", "+tries=1", "@10.0.3.1", "-q", "a")
        assert asked.stdout.strip() in ("", ";; communications error") or asked.returncode != 0

    def test_f25_what_the_lan_sends_to_the_group(self, beside: Lab, figures: Figures) -> None:
        """
        The hub takes nothing from there, whoever has joined the group on that interface.

        QEMU's socket cannot be bound to an interface: where another process of the host has
        joined the group on the uplink, a frame from there reaches the machines. That is told.
        """
        assert received(beside) == (False, False)
        join = f"UDP4-RECV:9999,ip-add-membership={GROUP}:{harness.ADDRESS}"
        with spawned(beside.host, ["socat", "-u", join, "-"]):
            shown = ["ip", "maddress", "show", "dev", "uplink"]
            harness.wait_for(lambda: GROUP in beside.host.run(shown).stdout, 5, "the member")
            hub, qemu = received(beside)
            on = beside.host.supervisor
            figures.count("frames of a LAN host that the hub took", hub, 1, on)
            assert (hub, qemu) == (False, True)
            beside.call("vm_stop", "a")
            states = beside.apply(declared=FORWARDED)
            told = f"multicast of vmlan: {GROUP} is joined on uplink as well, by another process"
            warnings = states["declared lab-declared"]["warnings"]
            assert any(text.startswith(told) for text in warnings), warnings
        with figures.healing(on):
            assert beside.changes(beside.apply(declared=FORWARDED)) == {}


def queued(lab: Lab) -> tuple[int, int]:
    """Return how many bytes wait for the hub, and for QEMU, on the group's port."""
    lines = lab.host.run(["ss", "-H", "-u", "-a", "-n", "sport = :1234"]).stdout.splitlines()
    found = {line.split()[3]: int(line.split()[1]) for line in lines}
    return found["0.0.0.0%lo:1234"], found[f"{GROUP}:1234"]


def send(lab: Lab, source: str) -> list[str]:
    """Return the words that send a frame to the group from one of a host's addresses."""
    text = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    text += f"s.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton('{source}')); "
    return ["python3", "-c", f"{text}s.sendto(bytes(60), ('{GROUP}', 1234))"]


def received(lab: Lab) -> tuple[bool, bool]:
    """
    Send a frame to the group from the LAN; return whether the hub and QEMU would read it.

    All is stopped for as long: what the kernel has taken for them then waits in their queues.
    """
    stopped = [str(pid) for pid in pids(lab).values()]
    lab.host.run(["kill", "-STOP", *stopped])
    try:
        before = queued(lab)
        assert peer(lab, *send(lab, harness.GATEWAY)).returncode == 0
        assert lab.host.uplink is not None
        lab.host.uplink.seen()  # what was on the wire before it has arrived
        time.sleep(0.2)
        after = queued(lab)
        # One by the loopback, as a machine sends it, does arrive.
        lab.host.run(send(lab, "127.0.0.1"))
        own = queued(lab)
        assert own[0] > after[0] and own[1] > after[1]
    finally:
        lab.host.run(["kill", "-CONT", *stopped])
    return after[0] > before[0], after[1] > before[1]
