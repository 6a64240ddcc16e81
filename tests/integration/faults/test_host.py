"""
What becomes of a lab on a host that lacks something: KVM, TUN, a capability, a program.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import harness
import pytest
from faultlab import DECLARED
from faultlab import made_whole
from faultlab import qemus
from figures import Figures
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter", "setpriv"),
]


@contextlib.contextmanager
def hidden(host: harness.Host, *paths: str) -> Iterator[None]:
    """Let a host lack files for a ``with`` block, and whatever is there in their place."""
    words = " ".join(paths)
    host.run(["sh", "-c", f"for each in {words}; do [ ! -e $each ] || mv $each $each.hidden; done"])
    try:
        yield
    finally:
        put_back = "rm -f $each; [ ! -e $each.hidden ] || mv $each.hidden $each"
        host.run(["sh", "-c", f"for each in {words}; do {put_back}; done"])


OLD_QEMU = r"""#!/bin/sh
[ "$1" != --version ] || { echo 'QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)'; exit 0; }
echo "qemu-system-x86_64: -device: Parameter 'driver' is missing" >&2
exit 1
"""
"""What stands for an old QEMU, since no distribution that is tested has one."""


def with_vm(**more: Any) -> dict[str, Any]:
    """Return the lab with keys of its machine changed."""
    return {**DECLARED, "vms": {"a": {**DECLARED["vms"]["a"], **more}}}


KVM = {
    "absent": ("true", "/dev/kvm does not exist"),
    "closed": (
        "mknod -m 0600 /dev/kvm c 10 232",
        "the user that QEMU runs as may not open /dev/kvm",
    ),
}
"""What there is of /dev/kvm, and what is said where a machine insists on it."""


def test_f28_a_machine_needs_no_kvm(lab: Lab) -> None:
    """It runs without; only one that insists on it is refused, before anything is made of it."""
    for node, said in KVM.values():
        lab.call("vm_stop", "a", "grace=0")
        with hidden(lab.host, "/dev/kvm"):
            lab.host.run(["sh", "-c", node])
            state = lab.apply(declared=with_vm(accel="kvm"), test=True, check=False)["vm_running a"]
            assert state["result"] is False and said in state["comment"]
            states = lab.apply(declared=DECLARED)
            assert states["vm_running a"]["result"] is True
            warned = [text for text in states["declared lab-declared"]["warnings"] if "tcg" in text]
            assert len(warned) == 1 and warned[0].startswith("accelerator: tcg, the ")


def test_f28_a_kvm_that_is_none_ends_in_an_error(lab: Lab) -> None:
    """It opens, and is no use: with ``accel: kvm`` that is told in QEMU's words."""
    lab.call("vm_stop", "a", "grace=0")
    with hidden(lab.host, "/dev/kvm"):
        lab.host.run(["mknod", "-m", "0666", "/dev/kvm", "c", "1", "3"])
        state = lab.apply(declared=with_vm(accel="kvm"), check=False)["vm_running a"]
        assert state["result"] is False
        assert "a did not start" in state["comment"]
        assert "failed to initialize kvm" in state["comment"].lower()
        assert "declare accel: tcg" in state["comment"]
    assert lab.call("vm_list") == {"a": "stopped"}


def test_f28_a_kvm_on_which_guests_hang_is_not_taken(lab: Lab) -> None:
    """This machine's own, whatever it is: the lab runs by what was found of it."""
    chosen = lab.call("version")["accelerator"]
    (command,) = qemus(lab)
    assert f" -accel {chosen['name']}" in command


def test_f28_whatever_kvm_is_here_a_machine_that_insists_on_it_hangs_nobody(lab: Lab) -> None:
    """It runs, or the apply ends in an error that names the way out; it can be stopped."""
    lab.call("vm_stop", "a", "grace=0")
    lab.host.run(["sh", "-c", "[ ! -e /dev/kvm ] || chmod 666 /dev/kvm"])
    for firmware in ("bios", "uefi"):
        declared = with_vm(accel="kvm", firmware=firmware)
        begin = time.monotonic()
        state = lab.apply(declared=declared, check=False)["vm_running a"]
        assert time.monotonic() - begin < 30
        status = lab.call("vm_list")["a"]
        if state["result"]:
            assert status == "running"
            # Whether its guest gets anywhere is not to be seen: doctor tries.
            said = lab.host.salt_call("qemulab.doctor", pillar=lab.pillar(declared), check=False)
            kvm = re.compile("ok    KVM: guests run on it|fail  KVM: .*; declare accel: tcg")
            assert any(kvm.fullmatch(line) for line in said)
        else:
            assert status == "stopped"
            assert re.search("accel: kvm is not possible|accel: tcg", state["comment"])
        begin = time.monotonic()
        lab.call("vm_stop", "a", "grace=1")
        assert time.monotonic() - begin < 30
        assert qemus(lab) == []


def nothing_is_made(lab: Lab) -> None:
    """Hold that no apply has left anything: no user, no file of the lab, no link, no process."""
    left = lab.leftovers()
    files = {path for path in left.pop("files", set()) if "/qemulab/guest" not in path}
    assert left == {} and files <= {"/var/lib/qemulab"}
    assert lab.host.run(["id", "qemulab"], check=False).returncode != 0


def said_once(done: str, what: str) -> None:
    """Hold that a fault is told once, without a traceback."""
    assert done.count(what) == 1 and "Traceback" not in done, done


class TestF29:
    """Nothing is half-made on a host that cannot have a network."""

    @pytest.fixture(autouse=True)
    def ends_whole(self) -> None:
        """There is no lab in the end."""

    def test_f29_without_tun_or_the_right_to_it(self, host: harness.Host, figures: Figures) -> None:
        """One clear error, the same in a dry run; and nothing is made."""
        lab = Lab(host)
        pillar = lab.pillar(DECLARED)
        call = [str(harness.REPO / "salt-call"), "state.apply", "lab"]
        env = {"QEMULAB_PILLAR": str(pillar)}
        without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        with hidden(host, "/dev/net/tun"):
            for dry in ([], ["test=True"]):
                done = host.run([*call, *dry], check=False, env=env)
                assert done.returncode != 0
                said_once(done.stdout, "/dev/net/tun: No such file or directory; modprobe tun")
        done = host.run([*without, *call], check=False, env=env)
        assert done.returncode != 0
        said_once(done.stdout, "CAP_NET_ADMIN: root lacks it here, and can make no interface")
        nothing_is_made(lab)
        made_whole(lab, figures)

    def test_f29_not_root(self, namespace_host: harness.Host) -> None:
        """A dry run is anybody's; an apply ends at its first change."""
        host = namespace_host
        lab = Lab(host)
        config = host.shared / "config"
        config.mkdir()
        lines = ["file_client: local", f"root_dir: {config}", f"module_dirs: [{harness.REPO}]"]
        lines += [
            f"file_roots: {{base: [{harness.REPO}/salt]}}",
            f"pillar_roots: {{base: [{config}]}}",
        ]
        (config / "minion").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (config / "top.sls").write_text("base: {'*': [qemulab]}\n", encoding="utf-8")
        lab.pillar(DECLARED).rename(config / "qemulab.sls")
        host.run(["chmod", "-R", "a+rwX", host.shared])
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        call = [*nobody, f"{harness.REPO}/.venv/bin/salt-call", f"--config-dir={config}"]
        apply = [*call, "--retcode-passthrough", "state.apply", "lab"]
        done = host.run(apply, check=False)
        assert done.returncode != 0
        said_once(done.stdout, "only root can change a lab")
        done = host.run([*apply, "test=True"])
        assert "a would be made to run as declared" in done.stdout
        nothing_is_made(lab)


MISSING = {
    "qemu-system-x86_64": ("/usr/bin", "qemu-system-x86", "vm_ensure a"),
    "qemu-img": ("/usr/bin", "qemu-utils", "vm_ensure a"),
    "socat": ("/usr/bin", "socat", "network_ensure n"),
    "dnsmasq": ("/usr/sbin", "dnsmasq-base", "network_ensure n"),
}
"""Directory and package of a program, and the function that needs it."""


class TestF30:
    """What is missing is named with its package, before anything is made."""

    @pytest.fixture(autouse=True)
    def ends_whole(self) -> None:
        """There is no lab in the end."""

    def test_f30_what_is_missing_has_its_package_named(
        self, host: harness.Host, figures: Figures
    ) -> None:
        """Programs, firmware and an ISO image; nothing of the machine or the network is there."""
        lab = Lab(host)
        lab.host.salt_call("qemulab.lab_ensure")
        call = str(harness.REPO / "salt-call")
        declared = {
            "vm_ensure a": ['{"nics": [], "firmware": "bios", "boot": "disk"}', "power=running"],
            "network_ensure n": [],
        }

        def told(words: list[str]) -> str:
            done = lab.host.run([call, *words], check=False)
            assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
            return done.stdout + done.stderr

        for program, (directory, package, function) in MISSING.items():
            words = f"qemulab.{function}".split() + declared[function]
            with hidden(lab.host, f"{directory}/{program}"):
                said = told(words)
            assert f"{program} is not installed\napt-get install {package}" in said
        with hidden(lab.host, "/usr/share/OVMF"):
            words = ["qemulab.vm_ensure", "a", '{"nics": [], "boot": "disk"}', "power=running"]
            said = told(words)
            assert "no UEFI firmware for machine type pc is installed\napt-get install ovmf" in said
        words[2] = '{"nics": [], "firmware": "bios", "cdrom": "/srv/none.iso"}'
        assert "/srv/none.iso cannot be used: No such file or directory" in told(words)
        left = lab.host.run(
            ["find", "/var/lib/qemulab/lab", "-path", "*/vms*", "-o", "-path", "*/n*"]
        )
        assert left.stdout == ""
        made_whole(lab, figures)

    def test_f30_an_old_qemu_is_told_with_the_version_that_it_lacks(
        self, host: harness.Host
    ) -> None:
        """It does not know our options; that is said in its words, and what to install."""
        lab = Lab(host)
        script = host.shared / "old-qemu"
        script.write_text(OLD_QEMU, encoding="utf-8")
        host.run(["install", script, "/usr/bin/qemu-system-x86_64"])
        declared = {"vms": {"a": tiny(nics=[])}}
        state = lab.apply(declared=declared, check=False)["vm_running a"]
        wanted = "QEMU 5.2.0 is too old, 7.2 or newer is needed: apt-get install qemu-system-x86"
        assert state["result"] is False and wanted in state["comment"]
        assert "Parameter 'driver' is missing" in state["comment"]
        pillar = lab.pillar(declared)
        lines = lab.host.salt_call("qemulab.doctor", pillar=pillar, check=False)
        assert f"fail  packages: {wanted}" in lines
