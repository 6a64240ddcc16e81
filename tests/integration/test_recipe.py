"""
The recipe's lab, end to end: from nothing to three machines and away again.

On both supervisors, and on the next release of Debian.

The tests of this file run in order on one lab: each stands on what the one before has shown.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import debians
import harness
import labs
import pytest
from labs import RECIPE
from labs import Lab
from labs import is_guest

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "ssh", "unshare", "nsenter"),
]

#: The first test makes the root where it is not made yet, which takes the package index's time.
DEBIAN13 = [pytest.mark.needs("mmdebstrap"), pytest.mark.timeout(900)]

NOOP_BUDGET = 50.0
"""Milliseconds that a second apply may take, by Salt's own count."""


@pytest.fixture(
    scope="module",
    params=[
        "supervisord",
        "systemd",
        pytest.param("debian13", marks=DEBIAN13),
        pytest.param("debian13-systemd", marks=[*DEBIAN13, pytest.mark.full]),
    ],
)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give the recipe's lab, not applied yet, on a host with ``lo`` only."""
    systemd = request.param.endswith("systemd")
    make = harness.systemd_host if systemd else harness.namespace_host
    lower = debians.prepared() if request.param.startswith("debian13") else Path("/")
    with make(tmp_path_factory.mktemp("recipe"), lower=lower) as host:
        yield Lab(host)


def test_apply_makes_what_the_dry_run_said(lab: Lab) -> None:
    """Key by key, for every state, from an empty host."""
    said = lab.apply(test=True)
    assert all(state["result"] is not False for state in said.values())
    assert "files" not in lab.leftovers() or not any(
        "/lab" in path for path in lab.leftovers()["files"]
    )
    done = lab.apply()
    assert all(state["result"] is True for state in done.values())
    assert lab.changes(done) == lab.changes(said)
    for name in RECIPE:
        keys = done[f"vm_running {name}"]["changes"]
        assert keys["running"] == {"old": False, "new": True, "effect": "create"}
        assert keys["uefi_variables"]["new"] == "generated"
        # What was declared is named, even where it is the default; what was not, is not.
        assert ("memory" in keys) == (name == "master") and "machine" not in keys
    memory = {"old": None, "new": 2048, "effect": "create"}
    assert done["vm_running master"]["changes"]["memory"] == memory


def test_comment_has_the_whole_ssh_command(lab: Lab) -> None:
    """A user copies it from there."""
    lab.wait_for_login(*RECIPE)
    states = lab.apply()
    for name in RECIPE:
        comment = states[f"vm_running {name}"]["comment"]
        command = comment[comment.index("ssh ") :]
        assert "StrictHostKeyChecking=yes" in command
        assert lab.host.run(["sh", "-c", f"{command} hostname"]).stdout.strip() == name


def test_second_apply_changes_nothing(lab: Lab) -> None:
    """No change, no package state, the same processes, within the budget."""
    before = lab.pids()
    answer = lab.host.salt_call("state.apply", "lab")
    assert {tag.split("_|-")[0] for tag in answer} == {"qemulab"}
    assert lab.changes(labs.flat(answer)) == {}
    assert all(state["result"] is True for state in answer.values())
    assert lab.pids() == before
    spent = min(
        sum(state["duration"] for state in lab.host.salt_call("state.apply", "lab").values())
        for _ in range(5)
    )
    # Two busy guests share the cores here; bench/ has the figure on a quiet machine.
    assert spent < 3 * NOOP_BUDGET


def test_reserved_addresses_and_names(lab: Lab) -> None:
    """Each machine has its own, by DHCP; everyone reaches everyone."""
    leases = {lease["name"]: lease["address"] for lease in lab.call("lease_list")}
    assert leases == RECIPE
    for name, address in RECIPE.items():
        assert lab.ssh(name, "hostname") == name
        assert f"inet {address}/24" in lab.ssh(name, "ip address show eth0")
        for other, other_address in RECIPE.items():
            lab.ssh(name, f"ping -c 1 -W 5 {other_address}")
            lab.ssh(name, f"ping -c 1 -W 5 {other}")
        lab.ssh(name, "ping -c 1 -W 5 10.0.3.1")
        assert resolved(lab, name) == address


def resolved(lab: Lab, name: str) -> str:
    """Return the address that the lab's DNS server gives the host."""
    answer = lab.host.run(["dig", "+short", "+time=2", "+tries=2", "@10.0.3.1", "-q", name])
    return answer.stdout.strip()


def test_master_resolves_whatever_becomes_of_the_hosts_resolvers(lab: Lab) -> None:
    """Their file is renamed over, as DHCP clients do it: 10.0.2.3 answers as before."""
    new = "cp -P /etc/resolv.conf /run/old; echo 'nameserver 192.0.2.99' > /etc/new"
    lab.host.run(["sh", "-c", f"{new}; mv /etc/new /etc/resolv.conf"])
    time.sleep(1.5)  # QEMU looks at the file once a second. Source: libslirp, get_dns_addr_cached
    try:
        said = lab.ssh("worker1", "nslookup -type=a master 10.0.2.3")
        assert "10.0.3.101" in said
    finally:
        lab.host.run(["mv", "/run/old", "/etc/resolv.conf"])


@pytest.mark.parametrize("server", ["10.0.3.1", "10.0.2.3"])
def test_master_resolves_whichever_server_is_asked(lab: Lab, server: str) -> None:
    """The lab's own, and the one of QEMU's user network."""
    for name in RECIPE:
        said = lab.ssh(name, f"nslookup -type=a master {server}")
        assert "Address: 10.0.3.101" in said
        assert "NXDOMAIN" not in lab.ssh(name, f"nslookup -type=aaaa master {server}", check=False)


def test_host_reaches_guests(lab: Lab) -> None:
    """By address, over the TAP and not by forwarded ports."""
    key = ["-i", "/var/lib/qemulab/lab/ssh/id_ed25519"]
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    for name, address in RECIPE.items():
        said = lab.host.run(["ssh", *key, *options, f"root@{address}", "hostname"])
        assert said.stdout.strip() == name


def test_disk_is_sda(lab: Lab) -> None:
    """50G of it, in all three; and the host has spent next to nothing."""
    for name in RECIPE:
        assert re.search(r"^ *8 +0 +52428800 sda$", lab.ssh(name, "cat /proc/partitions"), re.M)
    used = lab.host.run(["du", "-sm", "/var/lib/qemulab/lab/vms"]).stdout.split()[0]
    assert int(used) < 10


def test_info_names_the_processes(lab: Lab) -> None:
    """What the functions say of each process is what its supervisor says."""
    told = {name: lab.call("vm_info", name)["pid"] for name in lab.call("vm_list")}
    for name in lab.call("network_list"):
        info = lab.call("network_info", name)
        told |= {f"{kind} {name}": info[kind]["pid"] for kind in ("hub", "dnsmasq")}
    assert told == lab.pids() and len(told) == len(RECIPE) + 2


def test_processes_are_not_root(lab: Lab) -> None:
    """Each runs as the user qemulab, with the capabilities it needs and no more."""
    wanted = {"qemu-system-x86": 0, "socat": 1 << 12, "dnsmasq": 1 << 12 | 1 << 13 | 1 << 10}
    uid = lab.host.run(["id", "-u", "qemulab"]).stdout.strip()
    for pid in lab.pids().values():
        text = lab.host.run(["cat", f"/proc/{pid}/status"]).stdout
        status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert set(status["Uid"].split()) == {uid}
        assert int(status["CapEff"], 16) == wanted[status["Name"]]
        assert int(status["CapBnd"], 16) == wanted[status["Name"]]
        assert status["NoNewPrivs"] == "1"


def test_nothing_listens_on_other_addresses(lab: Lab) -> None:
    """Loopback and the lab's own network, no more."""
    lines = lab.host.run(["ss", "-H", "-l", "-n", "-t", "-u", "-p"]).stdout.splitlines()
    # What a guest asks the world by UDP leaves QEMU's user network by a socket without an address.
    outward = re.compile(r"^udp .* 0\.0\.0\.0:\d+ .*qemu-system-x86")
    lines = [line for line in lines if not outward.search(line)]
    allowed = (
        r"127\.0\.0\.1:1002[234]|10\.0\.3\.1:53|0\.0\.0\.0%(vmlan:67|lo:1234)|230\.0\.0\.1:1234"
    )
    addresses = {line.split()[4] for line in lines}
    assert {address for address in addresses if not re.fullmatch(allowed, address)} == set()


def test_qemu_and_socat_have_nothing_to_say(lab: Lab) -> None:
    """No option of theirs is deprecated in this distribution's version."""
    if lab.host.supervisor == "systemd":
        words = ["journalctl", "-q", "-o", "cat", "_COMM=qemu-system-x86", "+", "_COMM=socat"]
    else:
        words = ["sh", "-c", "cat /var/log/qemulab/lab/vm-*.log /var/log/qemulab/lab/hub-*.log"]
    assert lab.host.run(words).stdout == ""


def test_hand_typed_qemu_joins(lab: Lab) -> None:
    """With the recipe's own -netdev: it gets an address from the range."""
    guest = "/var/lib/qemulab/guest"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display", "none"]
    command += ["-netdev", "socket,id=vmlan,mcast=230.0.0.1:1234"]
    command += ["-device", "virtio-net-pci,netdev=vmlan,mac=52:54:00:aa:bb:cc"]
    command += ["-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd"]
    command += ["-append", "console=ttyS0 no_timer_check", "-serial", "none", "-monitor", "none"]
    command += ["-daemonize", "-pidfile", "/tmp/stranger.pid"]
    lab.host.run(command)

    def joined() -> bool:
        leases = "/var/lib/qemulab/lab/networks/vmlan/dhcp/leases"
        grep = ["grep", "-q", "52:54:00:aa:bb:cc", leases]
        return lab.host.run(grep, check=False).returncode == 0

    try:
        harness.wait_for(joined, 90, "a lease for the stranger")
    finally:
        lab.host.run(["sh", "-c", "kill $(cat /tmp/stranger.pid); rm -f /tmp/stranger.pid"])
    leases = {lease["mac"]: lease["address"] for lease in lab.call("lease_list")}
    assert 100 <= int(leases["52:54:00:aa:bb:cc"].split(".")[-1]) <= 200
    lab.host.run(["dhcp_release", "vmlan", leases["52:54:00:aa:bb:cc"], "52:54:00:aa:bb:cc"])


def test_reset_and_stop_by_the_power_button(lab: Lab) -> None:
    """A guest hears both; one that was stopped stays so until a state wants it, with its key."""
    keys = ["cat", "/var/lib/qemulab/lab/ssh/known_hosts"]
    known = lab.host.run(keys).stdout
    assert "worker2 ssh-ed25519 " in known
    pid = lab.pids()["worker2"]
    boot = lab.ssh("worker2", "cat /proc/sys/kernel/random/boot_id")
    assert lab.call("vm_reset", "worker2") is True
    harness.wait_for(
        lambda: (
            lab.ssh("worker2", "cat /proc/sys/kernel/random/boot_id", check=False) not in ("", boot)
        ),
        labs.LOGIN_TIMEOUT,
        "the guest's next boot",
    )
    assert lab.call("vm_info", "worker2")["pid"] == pid
    assert lab.call("vm_stop", "worker2") == {"how": "acpi"}
    assert lab.call("vm_list") == {"master": "running", "worker1": "running", "worker2": "stopped"}
    assert "qemulab: booted" in lab.call("vm_console", "worker2", "lines=200")
    done = lab.apply()
    assert lab.changes(done) == {
        "vm_running worker2": {"running": {"old": False, "new": True, "effect": "live"}}
    }
    # The next test's ssh takes no other.
    assert lab.host.run(keys).stdout == known


def test_ssh_config_is_one_that_ssh_takes(lab: Lab) -> None:
    """Written to a file, it lets a user log in by name; also to one that was stopped meanwhile."""
    path = lab.host.shared / "ssh_config"
    path.write_text(lab.call("ssh_config"), encoding="utf-8")
    assert path.read_text(encoding="utf-8").count("StrictHostKeyChecking yes") == len(RECIPE)
    lab.host.run(["chown", "root:root", path])
    lab.wait_for_login(*RECIPE)
    for name in RECIPE:
        assert lab.host.run(["ssh", "-F", path, name, "hostname"]).stdout.strip() == name
    # Another machine in its place is noticed.
    known = lab.host.path("/var/lib/qemulab/lab/ssh/known_hosts")
    lines = known.read_text(encoding="utf-8")
    keys = [line.split()[2] for line in lines.splitlines()]
    known.write_text(lines.replace(keys[0], keys[1]), encoding="utf-8")
    said = lab.host.run(["ssh", "-F", path, "master", "hostname"], check=False)
    assert "Host key verification failed" in said.stderr
    known.write_text(lines, encoding="utf-8")


def test_ssh_config_is_for_the_user_whose_key_is_let_in(lab: Lab) -> None:
    """By a key of their own, whatever it is called; not a word of the lab's, which is root's."""
    home = "/tmp/visitor"
    lab.host.run(["useradd", "-m", "-d", home, "visitor"])
    try:
        as_visitor = ["setpriv", "--reuid=visitor", "--regid=visitor", "--clear-groups"]
        make = f"mkdir -m 700 {home}/.ssh && ssh-keygen -q -t ed25519 -N '' -f {home}/.ssh/work"
        lab.host.run([*as_visitor, "sh", "-c", make])
        public = lab.host.run(["cat", f"{home}/.ssh/work.pub"]).stdout.strip()
        lab.ssh("worker1", f"echo '{public}' >> /root/.ssh/authorized_keys")
        ask = [harness.REPO / "salt-call", "--out=json", "qemulab.ssh_config"]
        said = json.loads(lab.host.run(["env", "SUDO_USER=visitor", *ask]).stdout)["local"]
        path = f"{home}/lab.ssh"
        lab.host.run(["sh", "-c", f"cat > {path}"], stdin=said)
        done = lab.host.run([*as_visitor, "ssh", "-F", path, "worker1", "hostname"])
        assert (done.stdout.strip(), done.stderr) == ("worker1", "")
        assert lab.host.run(["ssh", "-F", path, "master", "hostname"]).stdout.strip() == "master"
    finally:
        lab.host.run(["userdel", "-r", "visitor"], check=False)


def test_host_keys_are_nobody_elses(lab: Lab) -> None:
    """Root's file, read by QEMU's group alone; not a line of it is anywhere else."""
    key = "/var/lib/qemulab/lab/vms/master/ssh_host_ed25519_key"
    assert lab.host.run(["stat", "-c", "%U:%G %a", key]).stdout.strip() == "root:qemulab 640"
    secret = lab.host.run(["sed", "-n", "3p", key]).stdout.strip()
    assert len(secret) > 60
    trees = ["/var/lib/qemulab", "/var/log/qemulab", "/run/qemulab", "/etc/systemd/system"]
    found = lab.host.run(["grep", "-rlsF", secret, *trees], check=False).stdout.split()
    assert found == [key]
    assert secret not in lab.host.run(["ps", "-ewwo", "args"]).stdout
    assert secret not in json.dumps(lab.apply(test=True)) + json.dumps(
        lab.call("vm_info", "master")
    )


def test_machine_that_was_started_before_there_were_host_keys_goes_on(lab: Lab) -> None:
    """Nothing is changed or told; ssh takes it as it did then, until its next start."""
    vms = lab.host.path("/var/lib/qemulab/lab/vms")
    key, kept = vms / "worker1/ssh_host_ed25519_key", vms / "worker1/kept"
    known = lab.host.path("/var/lib/qemulab/lab/ssh/known_hosts")
    lines = known.read_text(encoding="utf-8")
    key.rename(kept)
    known.write_text("".join(x for x in lines.splitlines(True) if "worker1" not in x), "utf-8")
    # Nor had that version any mark of what it had written.
    lab.host.run(["rm", "/var/lib/qemulab/lab/written.json"])
    before = lab.pids()
    states = lab.apply()
    assert lab.changes(states) == {}
    assert lab.pids() == before
    comment = states["vm_running worker1"]["comment"]
    command = comment[comment.index("ssh ") :]
    assert "StrictHostKeyChecking=no" in command
    assert lab.host.run(["sh", "-c", f"{command} hostname"]).stdout.strip() == "worker1"
    assert not key.exists()
    kept.rename(key)
    known.write_text(lines, encoding="utf-8")


def test_the_guest_is_not_removed_under_its_machines(lab: Lab) -> None:
    """They could not be started again; the machines are named."""
    with pytest.raises(harness.HostFailure, match="is in use by .*lab:worker1"):
        lab.call("guest_remove")


def test_clean_keeps_disks_and_nothing_else(lab: Lab) -> None:
    """The dry run says the same; a second clean has nothing to do."""
    said = lab.apply("lab.clean", test=True)
    done = lab.apply("lab.clean")
    assert all(state["result"] is True for state in done.values())
    assert lab.changes(done) == lab.changes(said)
    left = lab.leftovers()
    assert set(left) == {"files"}
    kept = r"/var/lib/qemulab/(guest/.*|\.guest\.lock|lab/ssh/.*)"
    kept += r"|/var/lib/qemulab/lab/vms/[a-z0-9]+/(disks/.*|ssh_host_.*|hardware)"
    kept += r"|/var/log/qemulab/lab/.*"
    files = {path for path in left["files"] if re.fullmatch(kept, path)}
    directories = {str(parent) for path in files for parent in Path(path).parents}
    assert left["files"] - files - directories == set()
    disks = {path for path in left["files"] if path.endswith("/hda.qcow2")}
    assert disks == {f"/var/lib/qemulab/lab/vms/{name}/disks/hda.qcow2" for name in RECIPE}
    assert lab.changes(lab.apply("lab.clean")) == {}


def test_purge_leaves_no_file_but_the_guest(lab: Lab) -> None:
    """And the dry run says the same again; the guest goes when it is told to."""
    said = lab.apply("lab.purge", test=True)
    done = lab.apply("lab.purge")
    assert all(state["result"] is True for state in done.values())
    assert lab.changes(done) == lab.changes(said)
    assert lab.changes(done)["vm_absent master"]["disks:hda"] == {
        "old": "50G",
        "new": None,
        "effect": "destroy",
    }
    left = lab.leftovers()
    assert set(left) == {"files"}
    assert {path for path in left["files"] if not is_guest(path)} == set()
    assert lab.changes(lab.apply("lab.purge")) == {}
    gone = {"guest": {"old": "built", "new": None, "effect": "destroy"}}
    would = lab.host.salt_call("state.single", "qemulab.guest_absent", "gone", "test=True")
    assert labs.flat(would)["guest_absent gone"]["changes"] == gone
    assert lab.call("guest_remove")["changes"] == gone
    assert lab.leftovers() == {}
    assert lab.call("guest_remove")["changes"] == {}
