"""
Where a lab's files lie: on a file system of their own, beside other people's, closed by an umask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import harness
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

DECLARED: dict[str, Any] = {
    "vms": {"a": tiny(disks=[{"size": "1M"}], nics=[{"network": "vmlan"}])},
}


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host; each test has a root of its own."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("directories")) as host:
        yield Lab(host)


@pytest.fixture(autouse=True)
def ends_whole() -> None:
    """Leave nothing: each test says itself what it takes away."""


def apply(lab: Lab, root: str, sls: str, umask: str = "022", check: bool = True) -> str:
    """Apply an SLS below a root, with a umask; return what was said."""
    pillar = lab.pillar(DECLARED)
    command = f'umask {umask}; exec "$0" state.apply {sls}'
    env = {"QEMULAB_ROOT": root, "QEMULAB_PILLAR": str(pillar)}
    done = lab.host.run(["sh", "-c", command, harness.REPO / "salt-call"], env=env, check=check)
    return done.stdout


def found(lab: Lab, root: str) -> list[str]:
    """Return every file below a root."""
    shown = lab.host.run(["find", root, "-type", "f", "-printf", "%P\\n"]).stdout
    return sorted(shown.splitlines())


def test_a_lab_on_file_systems_of_its_own_that_a_umask_closes(lab: Lab) -> None:
    """
    It runs, although whoever applies it has a umask of 077, and a purge leaves what others have put
    beside it, hidden or not, and what is mounted.
    """
    root = "/srv/deep/er"
    state = f"{root}/var/lib/qemulab"
    disks = f"{state}/lab/vms/a/disks"
    lab.host.run(["mkdir", "-p", state])
    lab.host.run(["mount", "-t", "tmpfs", "tmpfs", state])
    lab.host.run(["mkdir", "-p", f"{state}/lost+found", f"{state}/.snapshots", disks])
    lab.host.run(["mount", "-t", "tmpfs", "tmpfs", disks])
    foreign = [f"{state}/.snapshots/1", f"{state}/lost+found/2", f"{disks}/lost+found/3"]
    lab.host.run(["mkdir", "-p", f"{disks}/lost+found"])
    lab.host.run(["touch", *foreign])
    apply(lab, root, "lab", umask="077")
    assert (
        "running"
        in lab.host.run(
            [f"{harness.REPO}/salt-call", "qemulab.vm_list"], env={"QEMULAB_ROOT": root}
        ).stdout
    )
    assert "Succeeded: 0" not in apply(lab, root, "lab", umask="077")
    apply(lab, root, "lab.purge")
    assert found(lab, root) == sorted(path.removeprefix(f"{root}/") for path in foreign)
    mounts = lab.host.run(["cat", "/proc/mounts"]).stdout
    assert f" {state} " in mounts and f" {disks} " in mounts
    lab.host.run(["umount", disks])
    lab.host.run(["umount", state])


@pytest.mark.parametrize("lab", ["systemd"], indirect=True)
@pytest.mark.parametrize("root", ["/root/lab", "/home/u/lab", "/tmp/lab", "/srv/led"])
def test_a_root_that_systemd_hides_is_refused_at_once(lab: Lab, root: str) -> None:
    """By the dry run as by the apply, before anything is made; a link that leads there as well."""
    lab.host.run(["mkdir", "-p", "/home/u/elsewhere"])
    lab.host.run(["ln", "-sfn", "/home/u/elsewhere", "/srv/led"])
    for sls in ("lab test=True", "lab"):
        said = apply(lab, root, sls, check=False)
        assert "which systemd hides from units" in said and "as below /srv" in said
    where = f"{root}/var/lib/qemulab/lab"
    assert lab.host.run(["test", "-e", where], check=False).returncode != 0


PLAIN = "/srv/plain"
MAKE_PLAIN = f"""
    mkdir -p {PLAIN}
    for each in /*; do
        [ "$each" != /srv ] || continue
        if [ -L "$each" ]; then cp -a "$each" {PLAIN}
        elif [ -d "$each" ]; then mkdir {PLAIN}$each; mount --rbind "$each" {PLAIN}$each
        fi
    done
"""


@pytest.mark.parametrize("lab", ["supervisord"], indirect=True)
def test_a_plain_chroot_is_told_of_and_one_that_is_mounted_has_a_lab(lab: Lab) -> None:
    """The dry run and the doctor say it first, with the way out; that works."""
    pillar = lab.pillar(DECLARED)
    lab.host.run(["bash", "-c", MAKE_PLAIN])

    def call(*words: str, check: bool = True) -> str:
        command = ["chroot", PLAIN, str(harness.REPO / "salt-call"), *words]
        return lab.host.run(command, env={"QEMULAB_PILLAR": str(pillar)}, check=check).stdout

    for words in (("state.apply", "lab", "test=True"), ("qemulab.doctor",)):
        said = call(*words, check=False)
        assert "/ is no mount point (a plain chroot)" in said
        assert "mount --rbind DIRECTORY DIRECTORY" in said
    lab.host.run(["mount", "--rbind", PLAIN, PLAIN])
    call("state.apply", "lab")
    assert "running" in call("qemulab.vm_list")
    call("state.apply", "lab.purge")
