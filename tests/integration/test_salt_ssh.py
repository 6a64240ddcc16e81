"""
salt-ssh, over a real sshd, to a host that has no minion and no Salt of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deb_packages
import harness
import labs
import pytest
from harness import REPO
from labs import tiny
from masters import ENVIRONMENT
from masters import MINION
from masters import PROGRAMS
from masters import Salted

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "unshare", "nsenter", "ssh-keygen"),
]

ASIDE = REPO / ".venv/var/tests/openssh-server"

LOGIN = """
    set -e
    # A bare target: not what this machine has beside Python's own library, nor a developer's home,
    # which may be full of what decides which Python is found.
    mount -t tmpfs none /usr/lib/python3/dist-packages
    mkdir -p -m 700 /srv/root /srv/root/.ssh /run/sshd
    sed -i 's,:/root:,:/srv/root:,' /etc/passwd
    install "$1" /usr/sbin/sshd
    id sshd >/dev/null 2>&1 || useradd --system --home-dir /run/sshd sshd
    ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/of-the-host
    ssh-keygen -q -t ed25519 -N '' -f /srv/root/.ssh/id_ed25519
    cp /srv/root/.ssh/id_ed25519.pub /srv/root/.ssh/authorized_keys
    printf '%s\\n' 'ListenAddress 127.0.0.1' 'HostKey /etc/ssh/of-the-host' 'UsePAM no' \
        'Subsystem sftp /usr/lib/openssh/sftp-server' > /etc/ssh/sshd_config
    /usr/sbin/sshd
"""


def sshd() -> Path:
    """
    Return OpenSSH's server, unpacked aside where this machine has none.

    Installed, it would be started, and be a way into the machine of whoever runs the tests.
    """
    for place in (Path("/usr/sbin/sshd"), ASIDE / "usr/sbin/sshd"):
        if place.exists():
            return place
    if shutil.which("apt-get") is None:
        pytest.skip("needs sshd, or apt-get to fetch it")
    deb_packages.unpack("openssh-server", ASIDE)
    return ASIDE / "usr/sbin/sshd"


@pytest.fixture
def salted(tmp_path: Path) -> Iterator[Salted]:
    """Give a host that has a master's configuration, an sshd and no daemon of Salt's."""
    program = sshd()
    with harness.namespace_host(tmp_path) as host:
        host.run(["bash", "-c", LOGIN, "login", program])
        salted = Salted(host)
        salted.configure("master", "qemulab")
        # Where the target has no supervisord: salt-ssh brings the master's.
        salted.write("/etc/salt/master.d/thin.conf", {"thin_extra_mods": "supervisor"})
        target = {"host": "127.0.0.1", "user": "root", "priv": "/srv/root/.ssh/id_ed25519"}
        salted.write("/etc/salt/roster", {MINION: target})
        salted.declare({"vms": {"a": tiny(nics=[], disks=[{"size": "1M"}])}})
        yield salted


def ssh(salted: Salted, *words: str) -> Any:
    """Return what the host answers to ``salt-ssh labhost …``."""
    command = [PROGRAMS / "salt-ssh", "--ignore-host-keys", "--out=json", MINION, *words]
    done = salted.host.run(command, env=ENVIRONMENT)
    try:
        return json.loads(done.stdout)[MINION]
    except (ValueError, KeyError):
        argv = [os.fspath(word) for word in command]
        raise harness.HostFailure(argv, "no JSON", done.stdout, done.stderr) from None


def changes(states: Any) -> dict[str, Any]:
    """Return what an apply changed, or would change; every state of it must be good."""
    flat = labs.flat(states)
    assert flat and all(state["result"] is not False for state in flat.values()), flat
    return {name: state["changes"] for name, state in flat.items() if state["changes"]}


def test_salt_ssh(salted: Salted) -> None:
    """Modules, what they share, states and supervisord all arrive; the lab outlives the session."""
    said = changes(ssh(salted, "state.apply", "lab", "test=True"))
    assert set(said) == {"present lab-present", "vm_running a"}
    assert salted.host.run(["id", "qemulab"], check=False).returncode != 0
    assert changes(ssh(salted, "state.apply", "lab")) == said
    running = salted.pids()
    assert len(running) == 2  # the machine, and what cuts its console's log
    assert changes(ssh(salted, "state.apply", "lab")) == {}
    assert salted.pids() == running
    # What the session brought may go: the lab does not need it.
    salted.host.run(["sh", "-c", "rm -r /var/tmp/.root_*_salt"])
    gone = changes(ssh(salted, "state.apply", "lab.clean"))
    assert set(gone) == {"vm_absent a", "absent lab-absent"}
    assert salted.pids() == {}
