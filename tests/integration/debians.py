"""
Other releases of Debian: made by mmdebstrap, without Python, as a minimal installation is.

What a lab and its tests need gets into one as on a user's machine: by ``./salt-call`` and
``./test``, with packages of that system's own, a virtualenv of its own Python, and
``lab.packages``. That asks package indexes, so it is done outside the namespaces that the tests run
in, and without starting anything.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import harness

CACHE = harness.REPO / ".venv/var/tests"
HOME = CACHE / "debian13"
ROOT = HOME / "root"
FIRST_RUN = HOME / "first-run"
"""What the first ``./salt-call`` in there has said on standard error."""

#: What the tests ask of a host, and no package of a lab brings.
PACKAGES = ("bind9-dnsutils", "dbus", "iproute2", "mount", "openssh-client", "procps", "systemd")

#: Runs a command in a root, with a checkout at its own path and the root's own ``.venv`` in it.
#: Which certificates this machine trusts holds for the package index as well: they are copied, for
#: Debian's package of certificates writes where they lie.
ENTER = r"""
set -e
root=$1 checkout=$2
shift 2
mount --make-rprivate /
mount --rbind "$root" "$root"                   # a mount point, as a host's own root is
mount -t tmpfs tmp "$root/tmp"                  # first: the checkout may lie in there
mkdir -p "$root/venv" "$root$checkout"
mount --bind "$checkout" "$root$checkout"
mount --bind "$root/venv" "$root$checkout/.venv"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs archives "$root/var/cache/apt"   # what is installed need not be kept twice
cat /etc/resolv.conf > "$root/etc/resolv.conf"
trusted=/etc/ssl/certs/ca-certificates.crt
if [ -e $trusted ]; then
    cp $trusted "$root/run/trusted.crt"
    export PIP_CERT=/run/trusted.crt
fi
exec chroot "$root" "$@"
"""


def prepared() -> Path:
    """
    Return the root of Debian 13 with all that a lab needs; what is missing is made, in two minutes.

    Where nothing is missing, that costs two starts of Salt.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes want it as well
        if not ROOT.is_dir():
            unfinished = HOME / "unfinished"
            make("trixie", unfinished, PACKAGES)
            said = in_root(unfinished, "salt-call", "--out=json", "test.ping")
            FIRST_RUN.write_text(said, encoding="utf-8")
            unfinished.rename(ROOT)
        in_root(ROOT, "salt-call", "--out=json", "state.apply", "lab.packages")
        # Where labs.py looks for it: in there that is the root's own .venv.
        guest = f"QEMULAB_ROOT={CACHE}/guest"
        in_root(ROOT, "salt-call", "--out=json", "qemulab.guest_ensure", variables=(guest,))
    return ROOT


def make(release: str, root: Path, packages: tuple[str, ...] = ()) -> None:
    """Make a minimal Debian in a directory, which is emptied."""
    shutil.rmtree(root, ignore_errors=True)
    include = [f"--include={','.join(packages)}"] if packages else []
    # Nothing in it has to outlive a power cut: dpkg waits for no disk, here and later in there.
    flags = ["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", *include]
    called(["mmdebstrap", *flags, release, root])


def in_root(root: Path, program: str, *words: str, variables: tuple[str, ...] = ()) -> str:
    """
    Run one of the checkout's programs in a root, with this machine's network and nothing else.

    Returns what it has said on standard error.
    """
    kept = [f"{k}={v}" for k, v in os.environ.items() if k.lower().startswith(("pip_", "http"))]
    ours = {"PATH": harness.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **harness.OUR_SALT}
    ours |= {"PIP_NO_CACHE_DIR": "1", "QEMULAB_PILLAR": f"{harness.REPO}/pillar.example"}
    kept += [f"{key}={value}" for key, value in ours.items()]
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "enter"]
    # The certificates' variable is ENTER's own, where it has set one.
    command = ["sh", "-c", 'exec env -i ${PIP_CERT:+PIP_CERT="$PIP_CERT"} "$@"', "sh"]
    kept = [word for word in kept if not word.startswith("PIP_CERT=")]
    command += [*kept, *variables, os.fspath(harness.REPO / program), *words]
    return called([*enter, root, harness.REPO, *command])


def called(command: list[str | os.PathLike[str]]) -> str:
    """Run a command and return what it has said on standard error; that is the failure as well."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stderr
