"""
Debian 13 as a throw-away host's file system: made once by mmdebstrap, kept with the tests' caches.

What a lab needs gets into it as on a user's machine: by ``./salt-call``, with a virtualenv of that
system's own Python, and by ``lab.packages``. That asks package indexes, so it is done outside the
namespaces that the tests run in, and without starting anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import harness

HOME = harness.REPO / ".venv/var/tests/debian13"
ROOT = HOME / "root"

#: What ./salt-call wants to find, and what the tests ask of a host.
PACKAGES = (
    "bind9-dnsutils",
    "ca-certificates",
    "dbus",
    "iproute2",
    "mount",
    "openssh-client",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
)

#: Runs a command in the root, with the checkout at its own path and the root's own ``.venv`` in it.
#: Which certificates this machine trusts holds for the package index as well.
ENTER = r"""
set -e
root=$1 checkout=$2
shift 2
mount --make-rprivate /
mount -t tmpfs tmp "$root/tmp"                  # first: the checkout may lie in there
mkdir -p "$root/venv" "$root$checkout"
mount --bind "$checkout" "$root$checkout"
mount --bind "$root/venv" "$root$checkout/.venv"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs archives "$root/var/cache/apt"   # what is installed need not be kept twice
if [ -d /etc/ssl ]; then mount --bind /etc/ssl "$root/etc/ssl"; fi
cat /etc/resolv.conf > "$root/etc/resolv.conf"
exec chroot "$root" "$@"
"""


def prepared() -> Path:
    """
    Return the root with all that a lab needs; what is missing is made, in two minutes at most.

    Where nothing is missing, that costs two starts of Salt.
    """
    if not ROOT.is_dir():
        unfinished = HOME / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        HOME.mkdir(parents=True, exist_ok=True)
        include = f"--include={','.join(PACKAGES)}"
        # Nothing in it has to outlive a power cut: dpkg waits for no disk, here and later in there.
        flags = ["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", include]
        called(["mmdebstrap", *flags, "trixie", unfinished])
        unfinished.rename(ROOT)
    in_root("state.apply", "lab.packages")
    # Where labs.py looks for it: in there that is the root's own .venv.
    in_root("qemulab.guest_ensure", QEMULAB_ROOT=f"{harness.REPO}/.venv/var/tests/guest")
    return ROOT


def in_root(*words: str, **env: str) -> None:
    """Run ``./salt-call`` in the root, with this machine's network and nothing else of it."""
    kept = [f"{k}={v}" for k, v in os.environ.items() if k.lower().startswith(("pip_", "http"))]
    variables = {"PATH": harness.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **harness.OUR_SALT}
    variables |= {"PIP_NO_CACHE_DIR": "1", "QEMULAB_PILLAR": f"{harness.REPO}/pillar.example"}
    kept += [f"{key}={value}" for key, value in {**variables, **env}.items()]
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "enter"]
    program = ["env", "-i", *kept, harness.REPO / "salt-call", "--out=json", *words]
    called([*enter, ROOT, harness.REPO, *program])


def called(command: list[str | os.PathLike[str]]) -> None:
    """Run a command; what it says is the failure."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
