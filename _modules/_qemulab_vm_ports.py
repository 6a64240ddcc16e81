"""
Ports of the host: those that machines are given, and whether a machine could have one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
from collections.abc import Iterator

import _qemulab_host_net as host_net
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_spec import Ports
from _qemulab_run_site import Site

FIRST_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
"""Source: the kernel's Documentation/networking/ip-sysctl.rst"""


def ports(site: Site) -> Ports:
    """
    Return what the ports of a lab's machines are chosen by: what they have, and what is free.

    Where every machine has its port already, nobody else is asked.
    """

    @functools.cache
    def elsewhere() -> set[int]:
        others = [vm for lab in site.other_labs() for vm in _machines(site.beside(lab)).values()]
        return {port for vm in others for port in spec.ports_of(vm)}

    def free(port: int) -> bool:
        return port not in elsewhere() and host_net.port_is_free("127.0.0.1", port)

    return Ports({**site.run.promised, **_machines(site)}, free)


def _machines(site: Site) -> dict[str, Vm]:
    """Return a lab's machines as applied; of one that is damaged, its own state will tell."""
    found = {}
    for name in site.store.vms():
        with contextlib.suppress(HostError, SpecError):
            found[name] = site.store.vm(name)[0]
    return {name: vm for name, vm in found.items() if vm is not None}


def taken(
    site: Site, name: str, vm: Vm, running: Vm | None = None, anew: bool = False
) -> Iterator[str]:
    """
    Yield in words each port of the host that a machine is to have and could not have.

    running
        What it runs as: the ports of that are its own, wherever in it they lead. Default: it does
        not run.

    anew
        Whether it is powered off and started anew: what it listens on from its start only counts as
        well. Default ``False``.
    """
    nics = running.nics if running else ()
    own = {_place(forward) for nic in nics for forward in nic.forwards or ()}
    wanted = [
        (f"nics:{index}:forwards:{place}:", forward)
        for index, nic in enumerate(vm.nics)
        for place, forward in enumerate(nic.forwards or ())
        if _place(forward) not in own
    ]
    if vm.vnc_port and (running is None or (anew and vm.vnc_port != running.vnc_port)):
        wanted.append(("vnc_port", Forward(vm.vnc_port)))
    for key, forward in wanted:
        problem = _problem(site, f"lab:vms:{name}:{key}", forward, name if running else "")
        if problem:
            yield problem


def check(site: Site, name: str, vm: Vm, running: Vm | None = None, anew: bool = False) -> None:
    """Raise HostError for the first of ``taken``."""
    for problem in taken(site, name, vm, running, anew):
        raise HostError(problem)


def _place(forward: Forward) -> tuple[str, int, str]:
    """Return where a forward listens on the host."""
    return forward.host_address, forward.host_port, forward.protocol


def _problem(site: Site, path: str, wanted: Forward, itself: str) -> str:
    """
    Return in words why a machine could not listen on a port; empty where it could.

    path
        Where the pillar has it, less the key of a forward.

    itself
        The machine, where it runs: what it listens on it can close first. Empty where it does not.
    """
    address, port, protocol = _place(wanted)
    key = path + "host_port" if path.endswith(":") else path
    first = int(host.read(FIRST_UNPRIVILEGED) or 1024)
    if port < first:
        return (
            f"{key}: port {port} is for privileged processes, and QEMU is none: declare one from "
            f"{first} on, or open it to all: sysctl net.ipv4.ip_unprivileged_port_start={port}"
        )
    refusal = host_net.refusal(address, port, protocol)
    if refusal == errno.EADDRNOTAVAIL:
        return f"{path}host_address: the host has no address {address}; ip address shows its own"
    if refusal == errno.EADDRINUSE:
        listener = probe.port_owner(port, protocol)
        lab, name = _machine_of(site, listener)
        if lab == site.lab and name and (name in site.run.leaving or name == itself):
            return ""
        owner = f"the machine {name} of the lab {lab}" if name else listener
        return f"{key}: port {port}/{protocol} on {address} is already taken by {owner}"
    return ""


def _machine_of(site: Site, listener: str) -> tuple[str, str]:
    """Return lab and name of the machine whose process listens; both empty where it is none."""
    found = re.search(r"\(pid (\d+)\)$", listener)
    pid = int(found[1]) if found else 0
    for lab in (site.lab, *site.other_labs()) if pid else ():
        there = site if lab == site.lab else site.beside(lab)
        with contextlib.suppress(HostError):
            for name in there.store.vms():
                if there.status("vm", name).pid == pid:
                    return lab, name
    return "", ""
