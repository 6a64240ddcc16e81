"""
AppArmor's profile of dnsmasq, which knows libvirt's and LXC's files, and no lab's.
"""

from __future__ import annotations

import re
from pathlib import Path

import _qemulab_host_seam as host
from _qemulab_host_paths import Layout

LOADED = Path("/sys/kernel/security/apparmor/profiles")
"""What is loaded, a line a profile: ``NAME (MODE)``. Source: security/apparmor/apparmorfs.c"""
FOLDER = Path("/etc/apparmor.d")
PROFILE = FOLDER / "usr.sbin.dnsmasq"
LOCAL = FOLDER / "local/usr.sbin.dnsmasq"
"""Where a site adds to the profile, which the distribution may replace. Source: its last lines"""
ABSTRACTION = "abstractions/qemulab-dnsmasq"
"""The same lines, where a package of the formula has put them."""


def lines(layout: Layout) -> list[str]:
    """Return what has to be added to the profile of dnsmasq for the labs of a host."""
    networks = layout.state / "*/networks/*"
    return [
        f'"{networks}/{{dnsmasq.conf,hosts,reservations}}" r,',
        f'"{networks}/dhcp/leases" rw,',
    ]


def is_enforced(loaded: str) -> bool:
    """
    Return whether a profile of dnsmasq is loaded that keeps it from what it does not name.

    loaded
        What the kernel says is loaded. A profile is called by its name (``dnsmasq``), by the path
        of its program where it has none, and ``//`` begins one within it.
    """
    found = re.findall(r"^(.+) \((\w+)\)$", loaded, re.MULTILINE)
    return any(name.endswith("dnsmasq") and mode in ("enforce", "kill") for name, mode in found)


def problem(layout: Layout) -> tuple[str, str] | None:
    """
    Return in words that the labs' dnsmasq would be refused its files, and the command that lets it;
    ``None`` where it would not.
    """
    if not is_enforced(_read(LOADED)):
        return None
    if any("qemulab" in _read(path) for path in (PROFILE, LOCAL)):
        return None
    wanted = lines(layout)
    if "/" == str(layout.root) and (FOLDER / ABSTRACTION).exists():
        wanted = [f"include <{ABSTRACTION}>"]
    says = f"the profile of dnsmasq is enforced, and keeps it from {layout.state}"
    printed = " ".join(f"'{line}'" for line in wanted)
    return says, f"printf '%s\\n' {printed} >> {LOCAL} && apparmor_parser -r {PROFILE}"


def _read(path: Path) -> str:
    """Return a file's text, empty where it is not to be had: who is not root may not look."""
    try:
        return host.read(path) or ""
    except host.HostError:
        return ""
