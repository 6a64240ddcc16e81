"""
Labs that earlier releases have made, kept in ``tests/fixtures``: how one is kept, and how it comes
to life again on a throw-away host.

As a program it keeps one more; ``tests/fixtures/make`` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import labs
import packages
from labs import Lab

FIXTURES = harness.REPO / "tests/fixtures"
KEPT = ("/var/lib/qemulab/lab", "/var/log/qemulab", "/etc/systemd/system", "/srv/lab")
"""Where a lab leaves what outlives a reboot, and where this one has its media."""
OTHERS = ("/etc/salt/", "/srv/pillar/", "/var/cache/salt/", "/var/log/salt/", "/run/", "/tmp/")
OTHERS += ("[/dev/qemulab-",)
"""What is the minion's that makes it, or gone at a reboot."""
ETC = {"group", "host.conf", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd"}
ETC |= {"resolv.conf", "services"}
"""Of what a network's machines have as ``/etc``: what QEMU reads there, on any host."""

DECLARED: dict[str, Any] = {
    "networks": {
        "vmlan": {
            "dhcp": {"lease_time": "2h"},
            "dns": {"names": {"gate": "10.0.3.9"}},
            "reservations": {"worker1": {"mac": "00:00:00:22:22:22", "address": "10.0.3.102"}},
            "autostart": True,
        }
    },
    "vms": {
        # The built-in guest behind UEFI: whoever logs in comes by its forward.
        "master": {
            "memory": 192,
            "cpus": 1,
            "disks": [{"size": "1G"}],
            "nics": [
                {"network": "vmlan", "mac": "00:00:00:11:11:11", "address": "10.0.3.101"},
                {"network": "user", "forwards": [{"host_port": 10022}]},
            ],
        },
        "worker1": labs.tiny(
            machine="q35",
            cdrom="/srv/lab/disc.iso",
            display="vnc",
            disks=[{"bus": "virtio", "size": "8M", "backing": "/srv/lab/base.qcow2"}],
            nics=[
                {"network": "vmlan", "mac": "00:00:00:22:22:22", "model": "e1000"},
                {"network": "user", "restrict": True},
            ],
        ),
        "worker2": labs.tiny(
            disks=[{"size": "8M"}, {"name": "data", "bus": "scsi", "size": "4M"}],
            nics=[{"network": "vmlan", "address": "10.0.3.103"}],
            autostart=True,
        ),
    },
}
"""The recipe's lab, each machine with other hardware: what a release builds, in small."""


def kept() -> list[Path]:
    """Return the labs of earlier releases that there are."""
    return sorted(path.parent for path in FIXTURES.glob("*/lab.json"))


def about(fixture: Path) -> dict[str, Any]:
    """Return what is to be known of a kept lab: its pillar, its snapshots, what has made it."""
    found: dict[str, Any] = json.loads((fixture / "lab.json").read_text(encoding="utf-8"))
    return found


def qemu_version(host: harness.Host) -> str:
    """Return the version of a host's QEMU, as far as a machine type goes by it."""
    said = host.run(["qemu-system-x86_64", "--version"]).stdout
    return ".".join(re.findall(r"\d+", said)[:2])


# to life


def take(lab: Lab, fixture: Path) -> None:
    """Give a host what a kept lab has left, and start its processes as that host's boot would."""
    host = lab.host
    host.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "qemulab"])
    host.run(["tar", "-xJf", fixture / f"{host.supervisor}.tar.xz", "-C", "/"])
    vms = [f"vm-{name}" for name in about(fixture)["declared"]["vms"]]
    if host.supervisor == "systemd":
        instances = ["hub@lab:vmlan", "dnsmasq@lab:vmlan"]
        instances += [name.replace("vm-", "vm@lab:", 1) for name in vms]
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "start", *(f"qemulab-{each}.service" for each in instances)])
        return
    host.run(["mkdir", "-p", "/run/qemulab/lab"])
    command = [packages.PYTHON, "-m", "supervisor.supervisord"]
    host.run([*command, "-c", "/var/lib/qemulab/lab/supervisord.conf"])
    socket = host.path("/run/qemulab/lab/supervisord.sock")
    harness.wait_for(socket.exists, 10, "supervisord")
    for program in ("hub-vmlan", "dnsmasq-vmlan", *vms):
        lab.supervisord().startProcess(program)


# kept


def make(commit: str, target: Path) -> None:
    """
    Have the sources of a commit make the lab, and keep what it leaves, of each supervisor.

    commit
        What git calls the release, or the commit.

    target
        Directory for it: in ``tests/fixtures``, named after the release.
    """
    target.mkdir(parents=True, exist_ok=True)
    number = packages.git(harness.REPO, "rev-parse", "--verify", f"{commit}^{{commit}}").strip()
    told = {"commit": number, "declared": DECLARED}
    for supervisor, boot in harness.HOSTS.items():
        with tempfile.TemporaryDirectory() as shared, boot(Path(shared)) as host:
            told |= {"qemu": qemu_version(host), "snapshots": made(Lab(host), number)}
            archive = host.shared / f"{supervisor}.tar.xz"
            host.run(["tar", "-C", "/", "-cJSf", archive, "--no-recursion", *left(Lab(host))])
            shutil.copyfile(archive, target / archive.name)
    text = json.dumps(told, indent=2) + "\n"
    (target / "lab.json").write_text(text, encoding="utf-8")


def made(lab: Lab, commit: str) -> dict[str, dict[str, bool]]:
    """Make the lab with a commit's sources and power it off; return its snapshots' memory."""
    host = lab.host
    sources = host.shared / "sources"
    sources.mkdir()
    archive = host.shared / "sources.tar"
    packages.git(harness.REPO, "archive", "--output", os.fspath(archive), commit)
    packages.run(["tar", "-xf", archive], sources)
    host.run(["mkdir", "/srv/lab"])
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "/srv/lab/base.qcow2", "4M"])
    labs.blank_disc(host.path("/srv/lab/disc.iso"))

    minion = packages.Minion(host)
    minion.write("/srv/pillar/lab.sls", {"lab": DECLARED})
    options = {"file_roots": {"base": [f"{sources}/salt"]}, "module_dirs": [f"{sources}"]}
    minion.configure(options)
    minion.apply("lab")
    for name in ("master", "worker2"):
        minion.call("qemulab.vm_stop", name, "grace=0")
        minion.call("qemulab.vm_snapshot_save", name, "cold")
    minion.apply("lab")
    minion.call("qemulab.vm_snapshot_save", "worker2", "warm")
    assert minion.apply("lab") == {}
    found = {name: minion.call("qemulab.vm_snapshot_list", name) for name in DECLARED["vms"]}
    power_off(lab)
    return {
        name: {tag: shot["memory"] for tag, shot in snapshots.items()}
        for name, snapshots in found.items()
    }


def power_off(lab: Lab) -> None:
    """End a lab's processes as their host does that goes down."""
    if lab.host.supervisor == "systemd":
        lab.host.run(["systemctl", "stop", "qemulab-*.service", "qemulab-*.timer"])
    else:
        lab.supervisord().stopAllProcesses()
        lab.supervisord().shutdown()
    ended = ["pgrep", "qemu|socat|dnsmasq|supervisord"]
    harness.wait_for(lambda: lab.host.run(ended, check=False).returncode, 30, "their end")


def left(lab: Lab) -> Sequence[str]:
    """Return what the lab has left, without its first slash; what nobody expects is an error."""
    found = sorted(path for path in lab.leftovers()["files"] if not labs.is_guest(path))
    ours = [path for path in found if f"{path}/".startswith(tuple(f"{top}/" for top in KEPT))]
    ours = [path for path in ours if not path.startswith("/etc/") or "qemulab" in path]
    strange = [path for path in {*found} - {*ours} if not f"{path}/".startswith(OTHERS)]
    assert not strange, strange
    logs = re.compile("/var/log/qemulab/lab/[^/]+[.]log")  # of whom it was made by
    return [p[1:] for p in ours if in_etc(p) in {"", *ETC} and not logs.fullmatch(p)]


def in_etc(path: str) -> str:
    """Return the name of what a network's machines have in their ``/etc``, empty for all else."""
    found = re.search("/networks/[^/]+/etc/(.+)", path)
    return found[1] if found else ""


def main() -> None:
    """Keep one more lab."""
    parser = argparse.ArgumentParser(description="Keep a lab as a release makes it.")
    parser.add_argument("commit", help="tag or commit of the release")
    parser.add_argument("name", help="what it is to be called, as lab-0.1.0")
    given = parser.parse_args()
    make(given.commit, FIXTURES / given.name)


if __name__ == "__main__":
    main()
