"""
The doctor: looks at a host with a lab's declaration in hand, and says what to do first.

Each check returns findings; nothing is changed, and no check takes longer than a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import NamedTuple

import _qemulab_check as check
import _qemulab_host as host
import _qemulab_hostnet as hostnet
import _qemulab_hub as hub
import _qemulab_kinds as kinds
import _qemulab_probe as probe
import _qemulab_routes as routes
from _qemulab_host import HostError
from _qemulab_keys import Lab
from _qemulab_site import Site

FAIL, WARN, OK = "fail", "warn", "ok"
ORDER = (FAIL, WARN, OK)

DENIALS = re.compile(r'apparmor="DENIED"|avc:  ?denied')
OUR_PROGRAMS = re.compile(r'(comm|name)="?[^"]*(qemu|dnsmasq|socat)')


class Finding(NamedTuple):
    """
    What a check has found.

    result
        ``ok``, ``warn`` (a lab runs, but hardly as meant) or ``fail``.

    what
        The thing that was looked at.

    says
        How it is.

    do
        What to do about it; empty where nothing has to be done.
    """

    result: str
    what: str
    says: str
    do: str = ""

    def __str__(self) -> str:
        line = f"{self.result:4}  {self.what}: {self.says}"
        return f"{line}; {self.do}" if self.do else line


def examine(lab: Lab, site: Site) -> list[Finding]:
    """
    Return what all checks have found, what has to be done first at the top.

    lab
        What is declared.

    site
        The lab on this host: what of it runs already is in nobody's way.
    """
    findings: list[Finding] = []
    for look in CHECKS:
        name = look.__name__.replace("_", " ")
        try:
            findings += look(lab, site)
        except HostError as err:
            problem, _, do = str(err).partition("\n")
            findings.append(Finding(FAIL, name, problem, do.replace("\n", "; ")))
    return sorted(findings, key=lambda finding: ORDER.index(finding.result))


def packages(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for the programs and the firmware."""
    missing = probe.missing_packages(probe.needed(lab))
    if missing:
        do = "salt-call state.apply lab.packages"
        yield Finding(FAIL, "packages", f"{', '.join(missing)} are missing", do)
    else:
        yield Finding(OK, "packages", "all are there")


def supervisor(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for who watches the processes."""
    site.supervisor.check()
    yield Finding(OK, "supervisor", site.supervisor.name)


def accelerator(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether the CPU's virtualization is there and works."""
    for wanted in sorted({vm.accel for vm in lab.vms.values()} or {"auto"}):
        chosen = probe.accel(wanted)
        slow = chosen.name == "tcg" and wanted == "auto"
        do = "machines run, some ten times slower than with KVM" if slow else ""
        says = f"{chosen.name}, {chosen.reason}"
        yield Finding(WARN if slow else OK, "accelerator", says, do)


def tun(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether a TAP can be made."""
    if not lab.networks:
        return
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        do = "modprobe tun; in a container, hand the device over"
        yield Finding(FAIL, "/dev/net/tun", err.strerror or str(err), do)
        return
    yield Finding(OK, "/dev/net/tun", "it opens")


def multicast(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether a datagram to a network's group comes back on the loopback interface."""
    if lab.networks and not hostnet.has_carrier("lo"):
        yield Finding(WARN, "multicast", "lo is down", "the apply sets it up")
        return
    for name, network in lab.networks.items():
        what = f"multicast of {name}"
        if hostnet.multicast_returns(hub.group_address(network)):
            yield Finding(OK, what, f"{hub.group_address(network)} works on lo")
        else:
            do = "see that no rule of the firewall drops it"
            yield Finding(FAIL, what, f"{hub.group_address(network)} does not come back on lo", do)


def memory(lab: Lab, site: Site) -> Iterator[Finding]:
    """Hold the memory of the machines that do not run against what the host has left."""
    wanted = sum(vm.memory for name, vm in lab.vms.items() if not site.status("vm", name).alive)
    found = re.search(r"^MemAvailable: +(\d+) kB", host.read("/proc/meminfo") or "", re.M)
    free = int(found[1]) // 1024 if found else 0
    says = f"{wanted} MB are wanted, {free} MB are free"
    short = wanted > free
    do = "declare less, or stop something else" if short else ""
    yield Finding(WARN if short else OK, "memory", says, do)


def disk_space(lab: Lab, site: Site) -> Iterator[Finding]:
    """Hold what the disks may grow to against what the file system has left."""
    directory = site.layout.state
    while not directory.exists():
        directory = directory.parent
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    wanted = 0
    for name, vm in lab.vms.items():
        for disk in vm.disks:
            path = site.layout.disk(name, disk.name)
            used = path.stat().st_blocks * 512 if path.exists() else 0
            wanted += max(0, kinds.size_bytes(disk.size) - used)
    gigabytes = [f"{value / 2**30:.1f}G" for value in (wanted, free)]
    says = f"the disks may grow by {gigabytes[0]}, {directory} has {gigabytes[1]} left"
    if free < 2**28:
        yield Finding(FAIL, "disk space", says, "make room")
    elif wanted > free:
        yield Finding(WARN, "disk space", says, "a machine is stopped (io-error) when it is full")
    else:
        yield Finding(OK, "disk space", says)


def addresses(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for routes and interfaces of the host that are in the networks' way."""
    notes = kinds.Notes()
    check.check_networks(lab, site, notes)
    for fault in notes.faults:
        yield Finding(FAIL, fault.path, fault.problem, "declare another")
    if lab.networks and not notes.faults:
        yield Finding(OK, "addresses", "no route of the host overlaps")


def ports(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for ports of the machines that somebody else has."""
    taken = False
    for name, vm in lab.vms.items():
        if not site.status("vm", name).alive:
            for problem in probe.taken_ports(name, vm):
                taken = True
                yield Finding(FAIL, "port", problem, "stop that, or declare another")
    if not taken:
        yield Finding(OK, "ports", "none that is to be forwarded is taken")


def other_servers(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for a DHCP or DNS server on all interfaces: ours could not have the port."""
    if not lab.networks or host.find_binary("ss") is None:
        return
    listed = host.run(["ss", "-H", "-lnptu"], check=False).stdout
    everywhere = "\n".join(
        line for line in listed.splitlines() if re.search(r" (0\.0\.0\.0|\*|\[::\]):\d+ ", line)
    )
    found = False
    for port, what in ((67, "DHCP"), (53, "DNS")):
        owner = routes.port_owner(everywhere, port)
        if owner:
            found = True
            do = "have it listen on its own interfaces only (dnsmasq: bind-interfaces)"
            yield Finding(WARN, f"{what} server", f"{owner} listens on all interfaces", do)
    if not found:
        yield Finding(OK, "other servers", "none has DHCP or DNS on all interfaces")


def firewall(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for rules that drop what the machines ask for."""
    blocked = False
    for network in lab.networks.values():
        for each in probe.blocked(network):
            blocked = True
            says = f"{each.what} on {network.interface} is dropped by {each.rule}"
            yield Finding(FAIL, "firewall", says, each.lasting or each.command)
    if lab.networks and not blocked:
        yield Finding(OK, "firewall", "DHCP and DNS come through")


def denials(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for what AppArmor or SELinux has kept our programs from."""
    said = host.run(["dmesg"], check=False).stdout if host.find_binary("dmesg") else ""
    found = [line for line in said.splitlines() if DENIALS.search(line)]
    ours = [line for line in found if OUR_PROGRAMS.search(line)]
    if ours:
        do = "see the kernel's log; allow it, or report it"
        yield Finding(WARN, "AppArmor, SELinux", f"{len(ours)} denials: {ours[-1].strip()}", do)
    else:
        yield Finding(OK, "AppArmor, SELinux", "no denial of a program of a lab")


CHECKS: tuple[Callable[[Lab, Site], Iterable[Finding]], ...] = (
    packages,
    supervisor,
    accelerator,
    tun,
    multicast,
    memory,
    disk_space,
    addresses,
    ports,
    other_servers,
    firewall,
    denials,
)
