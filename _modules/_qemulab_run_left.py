"""
What of a lab runs, whatever is left of its files: by its supervisor, and by the command lines of
the host's processes.
"""

from __future__ import annotations

import re

import _qemulab_host as host
import _qemulab_hub as hub
import _qemulab_process as process
import _qemulab_spec as spec
from _qemulab_host import HostError
from _qemulab_keys import Network
from _qemulab_site import Site


def machines(site: Site) -> dict[str, int]:
    """
    Return the machines of a lab that run, each with its PID: those that its supervisor has, and
    those whose QEMU has the machine's name and the UUID that this lab gives to it.
    """
    found = _supervised(site, ("vm",))
    for pid, argv in process.command_lines(host.USER).items():
        name = _machine(site, argv)
        if name is not None:
            found[name] = pid
    return found


def _machine(site: Site, argv: list[str]) -> str | None:
    """Return which machine of a lab a command line is; ``None`` where it is none."""
    words = dict(zip(argv, argv[1:], strict=False))
    name = words.get("-name", "").removeprefix("guest=").replace(",,", ",")
    return name if words.get("-uuid") == spec.vm_uuid(site.lab, name) else None


def need_reach(site: Site, name: str) -> None:
    """
    Raise HostError where a machine that is about to be started runs, and nobody reaches it: its
    supervisor has lost it, and its sockets are gone.

    One that has disks could not get them twice; one without would run twice.
    """
    # Looked for only where nobody has seen it end: that is a look at every process of the host.
    if site.store.vm(name)[1] is None:
        return
    pid = site.answers.recent("machines that run", lambda: machines(site)).get(name)
    if pid and not site.status("vm", name, fresh=True).alive and process.exists(pid):
        problem = f"{name} runs (process {pid}), and nobody reaches it: its sockets are gone"
        raise HostError(problem, hint="end that process yourself, and apply again")


def networks(site: Site) -> dict[str, int]:
    """Return the networks of a lab of which a hub or a dnsmasq runs, each with its PID."""
    found = _supervised(site, ("hub", "dnsmasq"))
    ours = re.compile(rf"--conf-file={re.escape(str(site.layout.networks))}/([^/]+)/.*")
    for pid, argv in process.command_lines(host.USER).items():
        for match in filter(None, map(ours.fullmatch, argv)):
            found[match[1]] = pid
    return found


def _supervised(site: Site, kinds: tuple[str, ...]) -> dict[str, int]:
    """Return the names of the units of some kinds that run, each with its PID."""
    found = site.units().items()
    return {name: each.pid for (kind, name), each in found if kind in kinds and each.alive}


def network(site: Site, name: str) -> Network | None:
    """
    Return a network as its hub runs it, by that one's command line, or as its TAP alone tells.

    ``None`` where neither is there. Its address is nobody's: it is told by no process.
    """
    pid = site.status("hub", name).pid
    argv = process.command_lines(host.USER).get(pid, []) if pid else []
    group, interface = hub.read_argv(argv)
    mac = hub.tap_mac(site.lab, name)
    for link in site.links():
        if not interface and link.get("address") == mac:
            interface = str(link["ifname"])
    if not interface and not site.status("dnsmasq", name).alive:
        return None
    multicast = group or spec.default_group(site.lab, name)
    return Network(interface=interface or name, multicast=multicast)


def made(site: Site) -> dict[str, list[str]]:
    """Return the networks and machines of which a file or a process is left."""
    return {
        "networks": sorted({*site.store.networks(), *networks(site)}),
        "vms": sorted({*site.store.vm_directories(), *machines(site)}),
    }


def need_none(site: Site, purge: bool) -> None:
    """Raise HostError where something of a lab is still there that is to be gone before it."""
    left = site.store.networks() + (site.store.vm_directories() if purge else site.store.vms())
    if left:
        raise HostError(f"the lab {site.lab} still has {', '.join(left)}")
    running = {**machines(site), **networks(site)}
    if running:
        shown = ", ".join(f"{name} (process {pid})" for name, pid in sorted(running.items()))
        hint = "salt-call state.apply lab.clean; what it does not end, end yourself"
        raise HostError(f"of the lab {site.lab} there still runs {shown}", hint=hint)
