"""
The doctor: looks at a host with a lab's declaration in hand, and says what to do first.

Each check returns findings; nothing is changed. Most take no time; that of KVM has a guest make its
first steps, and waits some seconds for one that hangs. An apply that is about to start something
makes the cheap ones, by ``before_start``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import _qemulab_check_host as check
import _qemulab_host_apparmor as apparmor
import _qemulab_host_conflicts as routes
import _qemulab_host_net as host_net
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
import _qemulab_lan_by_hub as hub
import _qemulab_lan_managers as managers
import _qemulab_pillar_kinds as kinds
import _qemulab_run_reach as places
import _qemulab_vm_disks as disks
import _qemulab_vm_ports as vm_ports
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Lab
from _qemulab_run_site import Site

FAIL, WARN, OK = "fail", "warn", "ok"
ORDER = (FAIL, WARN, OK)

DENIALS = re.compile(r'apparmor="DENIED"|avc:  ?denied')
PANIC = re.compile(r"---\[ end Kernel panic - not syncing: ([ -~]{0,200}?)( \]---)?\s*\Z")
"""The last words of a Linux that has crashed (kernel/panic.c); older ones close no bracket."""
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

    @property
    def text(self) -> str:
        """It in one line: how the thing is, and what to do."""
        return f"{self.what}: {self.says}; {self.do}" if self.do else f"{self.what}: {self.says}"

    def __str__(self) -> str:
        return f"{self.result:4}  {self.text}"


Check = Callable[[Lab, Site], Iterable[Finding]]


def examine(lab: Lab, site: Site, checks: Sequence[Check] | None = None) -> list[Finding]:
    """
    Return what checks have found, what has to be done first at the top.

    lab
        What is declared.

    site
        The lab on this host: what of it runs already is in nobody's way.

    checks
        Which. Default: all.
    """
    findings: list[Finding] = []
    for look in CHECKS if checks is None else checks:
        name = look.__name__.replace("_", " ")
        try:
            findings += look(lab, site)
        except HostError as err:
            problem, _, do = str(err).partition("\n")
            findings.append(Finding(FAIL, name, problem, do.replace("\n", "; ")))
    return sorted(findings, key=lambda finding: ORDER.index(finding.result))


def before_start(lab: Lab, site: Site) -> tuple[list[Finding], list[Finding]]:
    """
    Return what an apply has to know of the host before it starts anything of a lab.

    lab, site
        As for ``examine``. Where all that is declared runs, nothing is looked at.

    Returns what keeps the whole lab from starting, and what is worth a warning. A thing that is
    in the way of one machine or network alone (a port, a medium) is found when that is started.
    """
    off = that_is_off(lab, site)
    if not (off.vms or off.networks):
        return [], []
    faults = in_the_way(off, site)
    if faults:
        return faults, []
    # What runs counts where it shares: a group, the room that a disk may still grow by.
    shared = (multicast, memory, disk_space, network_managers, confinement)
    found = examine(off, site, (accelerator, uefi_variables)) + examine(lab, site, shared)
    return [], [each for each in found if each.result != OK]


def that_is_off(lab: Lab, site: Site) -> Lab:
    """Return the part of a lab that does not run."""
    return replace(
        lab,
        vms={name: vm for name, vm in lab.vms.items() if not site.status("vm", name).alive},
        networks={
            name: network
            for name, network in lab.networks.items()
            if not all(site.status(kind, name).alive for kind in ("hub", "dnsmasq"))
        },
    )


def in_the_way(off: Lab, site: Site) -> list[Finding]:
    """Return what keeps that part of a lab from starting as a whole; nothing where all runs."""
    if not (off.vms or off.networks):
        return []
    whole = examine(off, site, (supervisor, directories, tun))
    return [each for each in whole if each.result == FAIL]


def packages(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for the programs and the firmware."""
    missing = probe.missing_packages(probe.needed(lab))
    if missing:
        do = "salt-call state.apply lab.packages"
        yield Finding(FAIL, "packages", f"{', '.join(missing)} are missing", do)
        return
    too_old = probe.old_qemu() if lab.vms else ""
    if too_old:
        yield Finding(FAIL, "packages", too_old)
    else:
        yield Finding(OK, "packages", "all are there")


def supervisor(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for who watches the processes."""
    site.supervisor.check()
    yield Finding(OK, "supervisor", site.supervisor.name)


def directories(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether the processes get at the lab's directories."""
    problem = places.problem(site, lab.vms, lab.networks)
    if problem is not None:
        yield Finding(FAIL, "directories", *problem)
    else:
        yield Finding(OK, "directories", f"open to the user {host.USER}")


def accelerator(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether the CPU's virtualization is there."""
    for wanted in sorted({vm.accel for vm in lab.vms.values()}):
        chosen = probe.accel(wanted)
        slow = chosen.name == "tcg" and wanted == "auto"
        do = "machines run, some ten times slower than with KVM" if slow else ""
        says = f"{chosen.name}, {chosen.reason}"
        yield Finding(WARN if slow else OK, "accelerator", says, do)


def uefi_variables(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for machines whose UEFI variables another firmware has made."""
    own = {name: vm for name, vm in lab.vms.items() if site.layout.uefi_variables(name).exists()}
    found = False
    for name, vm in own.items():
        problem = disks.variables_problem(site, name, vm)
        if problem:
            found = True
            do = f"with it off, move {site.layout.uefi_variables(name)} away and apply"
            yield Finding(WARN, f"firmware of {name}", problem, do)
    if own and not found:
        yield Finding(OK, "UEFI variables", "made for the firmware that is here")


def virtualization(lab: Lab, site: Site) -> Iterator[Finding]:
    """Try whether guests run on KVM, where a machine is to have it."""
    with contextlib.suppress(HostError):  # has been told of the accelerator, or the packages
        if any(probe.accel(vm.accel).name == "kvm" for vm in lab.vms.values()):
            problem = probe.guest_problem("kvm")
            if problem:
                yield Finding(FAIL, "KVM", problem, "declare accel: tcg")
            else:
                yield Finding(OK, "KVM", "guests run on it")


def tun(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether a TAP can be made."""
    if not lab.networks:
        return
    problem = probe.no_tap()
    if problem is not None:
        yield Finding(FAIL, *problem)
    else:
        yield Finding(OK, "/dev/net/tun", "it opens")


def multicast(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether a datagram to a network's group comes back on the loopback interface."""
    if lab.networks and not host_net.has_carrier("lo"):
        yield Finding(WARN, "multicast", "lo is down", "the apply sets it up")
        return
    joined = host.read("/proc/self/net/igmp") or ""
    for name, network in lab.networks.items():
        what = f"multicast of {name}"
        group = hub.group_address(network)
        elsewhere = [each for each in routes.members(joined, group) if each != "lo"]
        if not host_net.multicast_returns(group):
            do = "see that no rule of the firewall drops it"
            yield Finding(FAIL, what, f"{group} does not come back on lo", do)
        elif elsewhere:
            says = f"{group} is joined on {', '.join(elsewhere)} as well, by another process"
            do = "what is sent to it there reaches the machines; declare another"
            yield Finding(WARN, what, says, do)
        else:
            yield Finding(OK, what, f"{group} works on lo")


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


def ways(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether the host's own packets to the networks leave by their TAPs."""
    notes = kinds.Notes()
    check.check_ways(lab, site, notes)
    for each in notes.warnings:
        yield Finding(FAIL, each.path, each.problem)
    if lab.networks and not notes.warnings:
        yield Finding(OK, "routing", "no rule of the host leads past a network")


def resolvers(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether machines that run still get the lab's names from their user network."""
    notes = kinds.Notes()
    check.check_resolvers(lab, site, notes)
    for each in notes.warnings:
        yield Finding(WARN, each.path, each.problem)
    if lab.vms and not notes.warnings:
        yield Finding(OK, "resolvers", "no machine that runs has lost the lab's names")


def network_managers(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for a program of the host that takes a TAP for an interface of its own."""
    found = False
    for network in lab.networks.values():
        for each in managers.managers(site, network.interface):
            found = True
            yield Finding(WARN, each.name, each.says, f"keep it off: {each.do}")
    if lab.networks and not found:
        yield Finding(OK, "network managers", "none has taken a network's interface")


def ports(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for ports of the machines that somebody else has."""
    taken = False
    for name, vm in lab.vms.items():
        if not site.status("vm", name).alive:
            for problem in vm_ports.taken(site, name, vm):
                taken = True
                yield Finding(FAIL, "port", problem, "stop that, or declare another")
    if not taken:
        yield Finding(OK, "ports", "none that is to be forwarded is taken")


def other_servers(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for a DHCP or DNS server whose port a network's own would need."""
    found = False
    for name, network in lab.networks.items():
        if not site.status("dnsmasq", name).alive:
            taken = probe.taken_server_port(name, network)
            if taken is not None:
                found = True
                yield Finding(FAIL, "other server", *taken)
    if lab.networks and not found:
        yield Finding(OK, "other servers", "none has the ports of DHCP and DNS")


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


def confinement(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look whether AppArmor lets the networks' dnsmasq at its files."""
    problem = apparmor.problem(site.layout) if lab.networks else None
    if problem is not None:
        yield Finding(FAIL, "AppArmor", *problem)


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


def _said(site: Site, name: str) -> str:
    """Return the end of what a machine has said on its serial console since QEMU was started."""
    console, socket = site.layout.console(name), site.layout.qmp(name)
    with contextlib.suppress(OSError):
        if console.stat().st_mtime < socket.stat().st_mtime:
            return ""
    return host.read(console, limit=2000) or ""


def guests(lab: Lab, site: Site) -> Iterator[Finding]:
    """Look for machines that run and whose Linux has crashed: QEMU itself is well."""
    alive = [name for name in lab.vms if site.status("vm", name).alive]
    crashed = False
    for name in alive:
        panic = PANIC.search(_said(site, name))
        if panic is not None:
            crashed = True
            says = f"its kernel panicked: {' '.join(panic[1].split())}"
            yield Finding(WARN, name, says, f"qemulab.vm_console {name}, qemulab.vm_reset {name}")
    if alive and not crashed:
        yield Finding(OK, "guests", "no serial console ends with a kernel panic")


CHECKS: tuple[Check, ...] = (
    packages,
    supervisor,
    directories,
    accelerator,
    uefi_variables,
    virtualization,
    tun,
    multicast,
    memory,
    disk_space,
    addresses,
    ways,
    resolvers,
    network_managers,
    ports,
    other_servers,
    firewall,
    confinement,
    denials,
    guests,
)
