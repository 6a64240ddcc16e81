"""
Packages that are unpacked aside for the built-in guest, and never installed on the host.

A kernel would change what the host boots, and OpenSSH's server would begin to listen. So the
package manager downloads what an installation would take, with what that needs and the host lacks,
and what it has downloaded is unpacked in a directory of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import _qemulab_host_probe as probe
import _qemulab_host_seam as host

UNREACHED = re.compile(
    "[Cc]ould(n.t| not) (resolve|connect)|Temporary failure|unreachable|[Tt]imed out"
)
NETWORK_HINT = "the packages' server is not reached: the guest is built once, with a network"
HINTS = {
    "apt-get": "run apt-get update",
    "zypper": "run zypper refresh",
    "dnf": "run dnf makecache",
}

DOWNLOAD_TIMEOUT = 900
"""Seconds that packages may take to arrive."""

LOCK_TIMEOUT = 120
"""Seconds to wait for another run of the package manager."""


def download_command(family: str, packages: Sequence[str], into: Path) -> list[str]:
    """
    Return the command that downloads packages with what they need, and installs nothing.

    family
        The family of the distribution.

    packages
        Their names.

    into
        The directory that the files come to lie in, or below.

    Raises ValueError for a family whose package manager is not known.
    """
    if family in ("debian", "ubuntu"):
        options = [f"Dir::Cache::archives={into}", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}"]
        # The directory is root's alone: apt's own user could not write there.
        options.append("APT::Sandbox::User=root")
        flags = [word for option in options for word in ("-o", option)]
        flags += ["-q", "-y", "--download-only", "--no-install-recommends"]
        return ["apt-get", *flags, "install", *packages]
    if family == "suse":
        flags = ["--non-interactive", "--pkg-cache-dir", str(into)]
        return ["zypper", *flags, "install", "--download-only", "--no-recommends", *packages]
    if family == "fedora":
        # An option of the configuration: dnf 4 and 5 have different ones of their own for it.
        settings = [f"--setopt=destdir={into}", "--setopt=install_weak_deps=False"]
        return ["dnf", "-y", *settings, "install", "--downloadonly", *packages]
    raise ValueError(f"how {family} downloads packages is not known")


def fetch(work: Path, packages: Sequence[str]) -> Path:
    """
    Download packages, unpack them below a work directory, and return where.

    work
        The work directory.

    packages
        Their names.

    Raises HostError where they are not to be had.
    """
    archives, root = work / "archives", work / "root"
    host.make_directory(archives / "partial")
    host.make_directory(root)
    command = download_command(probe.family(), packages, archives)
    host.progress(f"downloading {' '.join(packages)}, to be unpacked aside")
    try:
        host.run(command, cwd=work, timeout=DOWNLOAD_TIMEOUT, hint=HINTS.get(command[0], ""))
    except host.HostError as err:
        if UNREACHED.search(str(err)):
            raise host.HostError(err.problem, err.output, NETWORK_HINT) from err
        raise
    found = sorted(
        Path(directory) / name
        for directory, _, names in os.walk(archives)
        for name in names
        if name.endswith((".deb", ".rpm"))
    )
    for archive in found:
        unpack(archive, root)
    return root


def unpack(archive: Path, root: Path) -> None:
    """
    Unpack a package's files below a directory; nothing of it is run.

    archive
        A ``.deb`` or ``.rpm``.

    root
        The directory.
    """
    if archive.suffix == ".deb":
        host.run(["dpkg-deb", "-x", str(archive), str(root)], timeout=300)
        return
    # Two steps: a pipe would hide that the first has failed.
    script = 'rpm2cpio "$1" >"$1.cpio" && "$2" cpio -idmu <"$1.cpio" && rm "$1.cpio"'
    busybox = probe.binary("busybox")
    host.run(["sh", "-c", script, "sh", str(archive), busybox], cwd=root, timeout=300)
