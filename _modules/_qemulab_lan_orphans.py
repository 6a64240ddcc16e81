"""
What of a lab's networks runs, whatever is left of their files: by its supervisor, by the command
lines of the host's processes, and by its links.
"""

from __future__ import annotations

import re

import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_lan_by_hub as hub
import _qemulab_lan_link as link
import _qemulab_pillar_spec as spec
from _qemulab_pillar_keys import Network
from _qemulab_run_site import Site


def networks(site: Site) -> dict[str, int]:
    """Return the networks of a lab of which a hub or a dnsmasq runs, each with its PID."""
    found = site.running(("hub", "dnsmasq"))
    ours = re.compile(rf"--conf-file={re.escape(str(site.layout.networks))}/([^/]+)/.*")
    for pid, argv in process.command_lines(host.USER).items():
        for match in filter(None, map(ours.fullmatch, argv)):
            found[match[1]] = pid
    return found


def network(site: Site, name: str) -> Network | None:
    """
    Return a network as its hub runs it, by that one's command line, or as its TAP alone tells.

    ``None`` where neither is there. Its address is nobody's: it is told by no process.
    """
    pid = site.status("hub", name).pid
    argv = process.command_lines(host.USER).get(pid, []) if pid else []
    group, interface = hub.read_argv(argv)
    mac = link.tap_mac(site.lab, name)
    for each in site.interfaces():
        if not interface and each.get("address") == mac:
            interface = str(each["ifname"])
    if not interface and not site.status("dnsmasq", name).alive:
        return None
    multicast = group or spec.default_group(site.lab, name)
    return Network(interface=interface or name, multicast=multicast)
