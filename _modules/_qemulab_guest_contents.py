"""
What the built-in guest is made of: pure text and lists.

The built-in guest is the small Linux that a machine boots when the pillar gives it nothing else:
a kernel and its virtio modules, busybox and OpenSSH, as the host's distribution ships them. Its
kernel modules are in ``_qemulab_guest_modules.py``, what it runs in ``_qemulab_guest_scripts.py``;
the file that reads the host and writes the image is ``_qemulab_guest_image.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import _qemulab_guest_scripts as scripts
from _qemulab_guest_modules import WANTED_MODULES

FORMAT = "2"
"""How the parts are put together: to be changed with the builder."""

HANDED = "opt/qemulab"
"""
Where the guest looks for QEMU's ``-fw_cfg`` items: ``authorized_keys`` (public keys that may log in
as root); ``ssh_host_ed25519_key`` (the private key by which it is known) and ``hostname`` (until
DHCP gives one), which may be missing.
"""

REQUIRED_APPLETS = (
    "awk",
    "dd",
    "grep",
    "ip",
    "modprobe",
    "mount",
    "poweroff",
    "reboot",
    "setsid",
    "sh",
    "stty",
    "udhcpc",
    "umount",
    "usleep",
)
"""What busybox must be able to do; smaller builds of it lack one or the other."""

PROGRAMS = ("busybox", "sshd", "ssh", "scp", "ssh-keygen", "rsync")
"""The image's programs, by the names that they have in its ``/bin``."""

SSHD_PARTS = ("sshd-session", "sshd-auth")
"""What a newer sshd runs for each connection: a program beside it, under a path built into it."""

LIBEXEC = ("usr/lib/openssh", "usr/libexec/openssh", "usr/libexec/ssh", "usr/lib/ssh")
"""Where distributions keep those: Debian, Fedora, openSUSE Tumbleweed, Leap."""


def kernel_arguments(accel: str) -> str:
    """
    Return the kernel's command line for ``-append``.

    accel
        ``kvm`` or ``tcg``.

    Kernel messages from *error* upwards go to the serial console and, where there is one, to the
    screen; the guest's own reports go to the serial console.
    """
    return " ".join(
        [
            "console=tty0",
            "console=ttyS0,115200",
            "loglevel=4",
            # A lab's guest trusts what runs in it, and under TCG each of these costs boot time.
            "mitigations=off",
            "cryptomgr.notests=1",
            "audit=0",
            "apparmor=0",
            # Without KVM, Linux measures how fast the time stamp counter runs. A host that is busy
            # at that moment spoils it (measured: 69, 153 and 398 MHz for 2596), and then the clock
            # runs as much too fast. QEMU's HPET needs no measuring, and costs a boot nothing
            # (measured: 2.9 s of CPU time with either). KVM says how fast the counter runs.
            "tsc=reliable" if accel == "kvm" else "tsc=unstable",
            # Linux waits some 60 ms, four times, for five ticks of QEMU's timer, then panics: what
            # a busy host does to it (measured: 19 of 20 boots with 4 % of a core). On KVM, Linux
            # leaves the check out by itself.
            "no_timer_check",
        ]
    )


def text_files() -> dict[str, tuple[int, str]]:
    """Return the image's own text files: absolute path to (mode, text)."""
    return {
        "/init": (0o755, scripts.INIT),
        "/etc/console": (0o755, scripts.CONSOLE),
        "/etc/udhcpc/default.script": (0o755, scripts.UDHCPC),
        **{f"/bin/{name}": (0o755, scripts.POWER) for name in ("poweroff", "halt", "reboot")},
        # What mount tries where nobody says the type; the kernel then asks for the module.
        "/etc/filesystems": (0o644, "ext4\niso9660\nvfat\nsquashfs\n"),
        # sshd looks after a connection as a user of its own until it knows who is there.
        "/etc/passwd": (
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:22:22:sshd:/run/sshd:/bin/false\n",
        ),
        "/etc/shadow": (0o600, "root:*:0:0:99999:7:::\nsshd:!:0:0:99999:7:::\n"),
        "/etc/group": (0o644, "root:x:0:\ntty:x:5:\nsshd:x:22:\n"),
        "/etc/shells": (0o644, "/bin/sh\n"),
        "/etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        "/etc/nsswitch.conf": (0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
        "/etc/profile": (0o644, scripts.PROFILE),
        "/etc/ssh/sshd_config": (0o600, scripts.SSHD_CONFIG),
        "/etc/os-release": (0o644, f'NAME="qemulab guest"\nID=qemulab\nVERSION_ID="{RECIPE}"\n'),
    }


def links(applets: Iterable[str]) -> dict[str, str]:
    """
    Return the image's symbolic links: absolute path to target.

    applets
        What ``busybox --list`` prints.
    """
    own = {"busybox", *(path.removeprefix("/bin/") for path in text_files())}
    table = {f"/bin/{name}": "busybox" for name in applets if name not in own}
    table["/sbin"] = "bin"
    table["/usr/bin"] = "../bin"
    table["/usr/sbin"] = "../bin"
    table["/var/run"] = "/run"
    table["/var/log"] = "/tmp"
    table["/etc/resolv.conf"] = "/run/resolv.conf"
    table["/etc/mtab"] = "/proc/mounts"
    return table


#: Directories that hold nothing in the image: mount points and what programs expect.
DIRECTORIES = {
    "/dev": 0o755,
    "/etc/ssh": 0o755,
    "/mnt": 0o755,
    "/proc": 0o755,
    "/root": 0o700,
    "/root/.ssh": 0o700,
    "/run": 0o755,
    "/sys": 0o755,
    "/tmp": 0o1777,
    # Where sshd shuts itself in, by distribution; Debian's is /run/sshd.
    "/usr/share/empty.sshd": 0o755,
    "/var/empty/sshd": 0o755,
    "/var/lib/empty": 0o755,
}

RECIPE = hashlib.sha256(
    "\0".join(
        (
            FORMAT,
            scripts.INIT,
            scripts.CONSOLE,
            scripts.UDHCPC,
            scripts.POWER,
            scripts.PROFILE,
            scripts.SSHD_CONFIG,
            *PROGRAMS,
            *WANTED_MODULES,
        )
    ).encode()
).hexdigest()[:12]
"""What an image was built by: a built image of another recipe is built again."""
