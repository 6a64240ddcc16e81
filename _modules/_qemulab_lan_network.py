"""
A network's link and processes on the host: its files written, started, stopped.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from pathlib import Path

import _qemulab_host_generated as written
import _qemulab_host_net as host_net
import _qemulab_host_probe as probe
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_lan_by_hub as hub
import _qemulab_lan_dhcp as lan
import _qemulab_lan_link as link
import _qemulab_lan_resolver as etc
import _qemulab_run_reach as places
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Vm
from _qemulab_plan_network import NetworkFacts
from _qemulab_run_site import Site
from _qemulab_run_units import Unit
from _qemulab_run_units import script

END_TIMEOUT = 2.0
PROCESSES = ("hub", "dnsmasq")
"""A network's processes, in the order in which they start."""
UNITS = "units"
"""The word for what the supervisor has of both."""


def orphans(site: Site, name: str, network: Network) -> dict[str, tuple[int, str]]:
    """
    Return which of a network's processes run without their supervisor, as one leaves them that was
    killed: each with its PID and the word of its command line that no other process has.
    """
    words = {
        "hub": hub.hub_argv(network, tun_device(site.lab, name))[-1],
        "dnsmasq": lan.configuration_option(site, name),
    }
    found = {}
    for kind, word in words.items():
        own = site.status(kind, name).pid
        for pid in process.find(word, host.USER):
            if pid != own:
                found[kind] = pid, word
    return found


def end_orphans(site: Site, name: str, network: Network) -> None:
    """
    End what runs of a network without its supervisor, so that it can be started anew.

    Nothing is lost with them: the TAP stays, and the leases are in a file. A supervisor that runs
    and that nobody reaches is ended first: it would have them back at once, beside the next one's.
    """
    if not orphans(site, name, network):
        return
    site.supervisor.end_lost()
    # Asked again: one that has come back in time has them as its own.
    for pid, word in orphans(site, name, network).values():
        process.end(pid, word, END_TIMEOUT)


def tun_device(lab: str, name: str) -> str:
    """
    Return the device that the hub opens: the host's where anyone may, else a copy for our user.

    Opening it gives no right but to attach to a TAP that one owns. Source: the kernel's
    Documentation/networking/tuntap.rst. Containers have it for root alone.
    """
    if host.mode("/dev/net/tun") & 0o006 == 0o006:
        return "/dev/net/tun"
    return f"/dev/qemulab-{lab}.{name}"  # no name has a dot in it


def units(site: Site, name: str, network: Network) -> tuple[Unit, Unit]:
    """Return the units of a network's hub and of its DHCP and DNS server."""
    directory = site.layout.network(name)
    return (
        Unit(
            kind="hub",
            lab=site.lab,
            name=name,
            user=host.USER,
            always=True,
            launch=directory / "hub",
            prepare=directory / "link",
            capabilities=("net_admin",),
            devices=("/dev/net/tun",),
            autostart=network.autostart,
        ),
        lan.unit(site, name, network),
    )


def check_start(site: Site, name: str, declared: Network, before: NetworkFacts) -> None:
    """
    Raise HostError where the host stands in the way of a start: an interface that is not ours, a
    directory that is closed to our user, no TAP, a port that is taken.
    """
    if link.state(site, name, declared) == "other":
        problem = link.foreign(site, name, declared)
        raise HostError(problem, hint=f"name another: lab:networks:{name}:interface")
    if not (before.hub and before.dnsmasq):
        places.check(site, networks=[name])
    if not before.hub or before.link == "absent":
        missing = probe.no_tap()
        if missing is not None:
            what, says, do = missing
            raise HostError(f"{what}: {says}", hint=do)
    if not before.dnsmasq:
        taken = probe.taken_server_port(name, declared)
        # Ours may be on its way back, or run without its supervisor.
        if taken is not None and not process.find(lan.configuration_option(site, name), host.USER):
            problem, do = taken
            raise HostError(problem, hint=do)


def write_files(
    site: Site, name: str, network: Network, vms: Mapping[str, Vm], waiting: Mapping[str, str]
) -> set[Path]:
    """
    Write what was applied of a network and all that its processes read.

    vms
        The lab's machines, those that are about to be started first.

    waiting
        Who has yet to reopen it, as ``network_waiting`` of the store: known from here on, whatever
        becomes of this apply.

    Returns which had to be written.
    """
    files = Files(site.layout.network(name))
    device = tun_device(site.lab, name)
    mac = link.tap_mac(site.lab, name)
    host.make_directory(files.leases.parent, mode=0o700, owner=host.USER)
    scripts = {"link": link.link_script(network, mac, host.USER, device)}
    for file, argv in (
        ("hub", hub.hub_argv(network, device)),
        ("dnsmasq", ["dnsmasq", lan.configuration_option(site, name)]),
    ):
        command = shlex.join([probe.binary(argv[0]), *argv[1:]])
        scripts[file] = script(f"The {file} of network {name}.", [f"exec {command}"])
    etc.make(site, name, network)
    generated = [
        *(File(files.directory / file, text, 0o755) for file, text in scripts.items()),
        *lan.all_files(site, name, network, vms),
    ]
    stored = site.store.network_as_file(name, network, waiting)
    return written.write(site.layout.network_written(name), generated, [stored])


def edited_files(site: Site, name: str) -> dict[str, str]:
    """Return a network's generated files that somebody else has been at, by name."""
    return written.names(site.layout.network_written(name), UNITS)


def outdated(before: NetworkFacts) -> set[str]:
    """Return the processes that may have been started by a file that somebody has edited."""
    edited = {name for name, how in before.files.items() if how == written.EDITED}
    return set(PROCESSES) if UNITS in edited else edited & set(PROCESSES)


def start(site: Site, name: str, network: Network, moved: bool, anew: Collection[str]) -> None:
    """
    Start those of a network's processes that do not run.

    moved
        Whether it has another address, and leases may not belong to it any more.

    anew
        The processes that have read other files, and are started again where they run.
    """
    # Before dnsmasq starts: it binds its DHCP socket to an interface that is there by then, and to
    # none otherwise.
    link.make(site, name)
    if moved:
        drop_foreign_leases(site, name, network)
    for kind in anew:
        if site.status(kind, name).alive:
            site.supervisor.stop(kind, name)
    site.supervisor.start(units(site, name, network))


def drop_foreign_leases(site: Site, name: str, network: Network) -> None:
    """Forget leases outside a network that has just moved; its DHCP server does not run."""
    subnet = ipaddress.IPv4Interface(network.address).network
    foreign = [
        lease
        for lease in lan.leases(site, name)
        if ipaddress.IPv4Address(lease.address) not in subnet
    ]
    lan.drop_leases(site, name, foreign)


def wait_until_ready(site: Site, name: str, network: Network) -> None:
    """Wait until the hub holds the TAP and the DNS server answers; raises HostError if not."""
    questions: list[tuple[str, Callable[[], bool]]] = [
        ("hub", lambda: host_net.has_carrier(network.interface)),
        ("dnsmasq", lambda: lan.serves(site, name, network)),
    ]
    for kind, question in questions:
        # A process that fails, as on a port that is taken, may have been there for a moment.
        if (
            not host.wait_for(question, lan.READY_TIMEOUT)
            or not site.status(kind, name, True).alive
        ):
            log = site.supervisor.log(kind, name)
            raise HostError(f"the {kind} of network {name} does not come up", log)


def take_down(site: Site, name: str, network: Network) -> None:
    """Stop a network's processes and remove its TAP and route."""
    for kind in reversed(PROCESSES):
        site.supervisor.stop(kind, name)
    end_orphans(site, name, network)
    link.remove(site, name, network)
