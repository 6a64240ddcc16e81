"""
Whether a lab's processes get at the lab's directories, and can be given files that lie elsewhere.

What keeps them from it is said before anything is made: a unit would end in "No such file" for a
file that is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import _qemulab_host_mounts as mounts
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What ProtectHome= and PrivateTmp= hide from a unit. Source: systemd.exec(5)"""
ELSEWHERE = "qemulab.root, or what a link leads to, has to lie elsewhere, as below /srv"


def directories(site: Site, vms: Iterable[str] = (), networks: Iterable[str] = ()) -> list[Path]:
    """Return the directories that processes of a lab work in, there or not."""
    layout = site.layout
    found = [layout.guest, layout.consoles, layout.lab_runtime / "vms"]
    found += [layout.disks(name) for name in vms]
    return found + [layout.leases(name).parent for name in networks]


def hidden(path: Path) -> str:
    """Return which directory that systemd hides from its units one lies in; empty where in none."""
    real = Path(os.path.realpath(path))
    for name in HIDDEN:
        if real.is_relative_to(name) or real.is_relative_to(os.path.realpath(name)):
            return name
    return ""


def closed(path: Path) -> str:
    """Return the first directory above one that our user does not get through; empty for none."""
    for each in reversed(Path(os.path.realpath(path)).parents):
        if each.is_dir() and not probe.accessible(str(each), 0o1) and not has_acl(each):
            return str(each)
    return ""


def has_acl(path: Path) -> bool:
    """Return whether a list of users says who gets in, which the mode does not. Source: acl(5)"""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError:
        return False


def problem(
    site: Site, vms: Iterable[str] = (), networks: Iterable[str] = ()
) -> tuple[str, str] | None:
    """
    Return in words what keeps a lab's processes from its directories, and what to do; or ``None``.

    vms, networks
        Names of those that are to be started.
    """
    systemd = site.supervisor.name == "systemd"
    for path in directories(site, vms, networks):
        where = hidden(path) if systemd else ""
        if where:
            why = "ProtectHome=" if where in HIDDEN[:3] else "PrivateTmp="
            return f"{path} lies below {where}, which systemd hides from units ({why})", ELSEWHERE
        shut = closed(path)
        if shut:
            do = f"chmod o+x {shut}, or take another qemulab.root"
            return f"{path} is out of reach: {shut} is closed to the user {host.USER}", do
    if vms and not systemd and not mounts.has_root():
        says = "/ is no mount point (a plain chroot), and no process gets mounts of its own there"
        do = "outside, mount --rbind DIRECTORY DIRECTORY before chroot DIRECTORY"
        return says, do
    return None


def check(site: Site, vms: Iterable[str] = (), networks: Iterable[str] = ()) -> None:
    """Raise HostError where ``problem`` has found one."""
    found = problem(site, tuple(vms), tuple(networks))
    if found is not None:
        raise HostError(found[0], hint=found[1])
