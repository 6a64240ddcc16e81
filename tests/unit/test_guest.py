"""
The built-in guest's pure pieces: what is in its image, and in which order its modules load.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import _qemulab_guest_contents as guest
import _qemulab_guest_elf as elf
import _qemulab_guest_image as image
import _qemulab_guest_modules as modules
import _qemulab_guest_packages as packages
import _qemulab_guest_scripts as scripts
import _qemulab_host_probe as probe
import _qemulab_host_seam as seam
import pytest
from hypothesis import given
from hypothesis import strategies as st

MODULES_DEP = """\
kernel/net/core/failover.ko:
kernel/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/virtio/virtio.ko kernel/net/net_failover.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko
kernel/fs/fat/fat.ko:
kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko
kernel/sound/snd.ko:
"""


@pytest.mark.parametrize(("accel", "counter"), [("tcg", "unstable"), ("kvm", "reliable")])
def test_kernel_arguments(accel: str, counter: str) -> None:
    """The serial console is last: /dev/console, where the guest reports, is that one."""
    assert guest.kernel_arguments(accel) == (
        "console=tty0 console=ttyS0,115200 loglevel=4 mitigations=off cryptomgr.notests=1 "
        f"audit=0 apparmor=0 tsc={counter} no_timer_check"
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/drivers/net/virtio_net.ko", "virtio_net"),
        ("kernel/drivers/char/hw_random/virtio-rng.ko.zst", "virtio_rng"),
        ("virtio-rng", "virtio_rng"),
    ],
)
def test_module_name(path: str, name: str) -> None:
    """The kernel writes - and _ as it pleases, in files and in names."""
    assert modules.module_name(path) == name


def test_load_order() -> None:
    """A module comes after all it needs, once, whatever the table's own order."""
    assert modules.load_order(MODULES_DEP, ["virtio_net", "virtio-rng"]) == [
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/net/core/failover.ko",
        "kernel/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko.xz",
        "kernel/drivers/char/hw_random/virtio-rng.ko",
    ]


def test_load_order_leaves_out_what_the_kernel_has_not() -> None:
    """Built in or not made at all: there is nothing to load."""
    assert modules.load_order(MODULES_DEP, ["ext4", "vfat"]) == [
        "kernel/fs/fat/fat.ko",
        "kernel/fs/fat/vfat.ko",
    ]


def test_load_order_survives_a_circle() -> None:
    """A damaged table ends the search, not the stack."""
    assert modules.load_order("a.ko: b.ko\nb.ko: a.ko\n", ["a"]) == ["b.ko", "a.ko"]


def test_missing_modules() -> None:
    """A required module may also be built in."""
    builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/ext4/ext4.ko\nkernel/evdev.ko\n"
    assert modules.missing_modules(MODULES_DEP, builtin) == ["qemu_fw_cfg", "button", "sd_mod"]


def test_module_tables() -> None:
    """The guest's modprobe knows the carried modules alone, under their uncompressed names."""
    alias = (
        "# Aliases\nalias fs-vfat vfat\nalias pci:v00001AF4d* virtio_net\n"
        "alias virtio:d00000004v* virtio-rng\nalias char-major-116-* snd\n"
    )
    tables = modules.module_tables(MODULES_DEP, alias)
    assert tables["modules.alias"] == "alias fs-vfat vfat\n"
    assert tables["modules.dep"].splitlines() == [
        "kernel/drivers/virtio/virtio_ring.ko:",
        "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko",
        "kernel/net/core/failover.ko:",
        "kernel/net/net_failover.ko: kernel/net/core/failover.ko",
        "kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio.ko "
        "kernel/net/net_failover.ko",
        "kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko",
        "kernel/fs/fat/fat.ko:",
        "kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko",
    ]


def test_module_lists() -> None:
    """What is loaded at boot is what the image has."""
    assert modules.module_lists(MODULES_DEP) == {
        "/etc/modules.early": "virtio_net\nvirtio_rng\n",
        "/etc/modules.late": "",
    }


def program(needed: tuple[str, ...], loader: str = "/lib64/ld.so") -> bytes:
    """Return a file that is linked: the headers, the loader's path, the names, in this order."""
    strings, places = b"\0", []
    for name in needed:
        places.append(len(strings))
        strings += name.encode() + b"\0"
    path = loader.encode() + b"\0"
    begin, base = 64 + 3 * 56, 0x400000
    dynamic = begin + len(path) + len(strings)
    tags = [(1, place) for place in places] + [(5, base + begin + len(path)), (0, 0)]
    size = dynamic + 16 * len(tags)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    parts = [(1, 0, size), (2, dynamic, 16 * len(tags)), (3, begin, len(path))]
    for kind, offset, length in parts:
        head += struct.pack("<IIQQQQQQ", kind, 4, offset, base + offset, 0, length, length, 8)
    return head + path + strings + b"".join(struct.pack("<qQ", *tag) for tag in tags)


def test_linked() -> None:
    """What a program needs stands in its file, the loader first."""
    found = elf.linked(program(("libz.so.1", "libc.so.6")))
    assert found == elf.Linked("/lib64/ld.so", ("libz.so.1", "libc.so.6"))


def test_linked_reads_this_python_as_ldd_does() -> None:
    """A real program, held against what its own loader says."""
    path = Path(sys.executable).resolve()
    found = elf.linked(path.read_bytes())
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    assert found.needed
    assert all(name in said for name in (found.loader, *found.needed))


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60)])
def test_linked_refuses_what_is_no_program(data: bytes) -> None:
    """A script, or a program of 32 bits, is not packed in place of one for x86_64."""
    with pytest.raises(ValueError, match="no program for x86_64"):
        elf.linked(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_linked_survives_any_damage(place: int, byte: int) -> None:
    """One byte that is wrong: an answer or a ValueError, nothing else."""
    data = bytearray(program(("libz.so.1", "libc.so.6")))
    data[place % len(data)] = byte
    with contextlib.suppress(ValueError):
        elf.linked(bytes(data))


def tree(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a directory."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_libraries_come_from_aside_first(tmp_path: Path) -> None:
    """What was unpacked belongs together; the rest, and theirs, is the host's."""
    aside = tree(tmp_path / "aside", {"usr/lib64/libnew.so.1": program(("libc.so.6",), "")})
    # A loader lies where its programs say, whatever link brings the host there.
    there = {"usr/lib64/libnew.so.1": b"old", "lib64/libc.so.6": program(("ld.so",), "")}
    host = tree(tmp_path / "host", {**there, "usr/lib64/ld.so": program((), "")})
    files = {"/bin/sshd": (0o755, program(("libnew.so.1",)))}
    found = image._libraries(files, [aside, host])
    assert {path: data for path, (_, data) in found.items()} == {
        "/lib64/ld.so": program((), ""),
        "/lib64/libc.so.6": program(("ld.so",), ""),
        "/usr/lib64/libnew.so.1": program(("libc.so.6",), ""),
    }


def test_libraries_that_are_missing(tmp_path: Path) -> None:
    """A program that cannot start is not packed."""
    with pytest.raises(seam.HostError, match=r"/bin/x needs libgmp\.so\.10, which is missing"):
        image._libraries({"/bin/x": (0o755, program(("libgmp.so.10",), ""))}, [tmp_path])


@pytest.mark.parametrize("place", guest.LIBEXEC)
def test_sshd_in_parts(tmp_path: Path, place: str) -> None:
    """From OpenSSH 9.8 on it runs one program for each connection, from 10.0 on another."""
    session = f"/{place}/sshd-auth\0".encode()
    tree(tmp_path, {f"{place}/sshd-session": session, f"{place}/sshd-auth": b"auth"})
    assert image._sshd_parts(b"whole", tmp_path) == {}
    assert image._sshd_parts(f"/{place}/sshd-session\0".encode(), tmp_path) == {
        f"/{place}/sshd-session": (0o755, session),
        f"/{place}/sshd-auth": (0o755, b"auth"),
    }
    (tmp_path / place / "sshd-auth").unlink()
    with pytest.raises(seam.HostError, match="sshd needs sshd-auth, which is missing"):
        image._sshd_parts(f"/{place}/sshd-session\0".encode(), tmp_path)


def test_links() -> None:
    """Every applet is a name of busybox, but for what the image has of its own."""
    links = guest.links(["busybox", "sh", "udhcpc", "reboot"])
    assert "/bin/busybox" not in links
    assert links["/bin/sh"] == links["/bin/udhcpc"] == "busybox"
    assert "/bin/reboot" not in links
    assert links["/etc/resolv.conf"] == "/run/resolv.conf"


@pytest.mark.parametrize(
    "path", [path for path, (_, text) in guest.text_files().items() if text.startswith("#!")]
)
def test_scripts_are_executable_and_parse(path: str) -> None:
    """The host's shell reads them as the guest's would."""
    mode, text = guest.text_files()[path]
    assert mode == 0o755
    shell = ["busybox", "sh"] if shutil.which("busybox") else ["sh"]
    done = subprocess.run([*shell, "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_key_and_no_password() -> None:
    """An image lets nobody in: keys come from QEMU, passwords are off."""
    files = guest.text_files()
    assert not [path for path in files if "authorized_keys" in path]
    assert "root:*:" in files["/etc/shadow"][1]
    assert "AuthenticationMethods publickey\n" in scripts.SSHD_CONFIG


def test_entries() -> None:
    """Every directory is there, before what lies in it, with the mode it must have."""
    made = image.entries({"/a/b/file": (0o644, b"x")}, {"/a/link": "b/file"})
    paths = [entry.path for entry in made]
    assert paths == sorted(paths)
    modes = {entry.path: entry.mode for entry in made}
    assert modes["/a"] == modes["/a/b"] == 0o040755
    assert modes["/a/b/file"] == 0o100644
    assert modes["/a/link"] == 0o120777
    assert modes["/root/.ssh"] == 0o040700
    assert modes["/tmp"] == 0o041777


def test_cpio() -> None:
    """The bytes that the kernel wants, and nothing of the builder's in them."""
    assert image.cpio([image.Entry("/f", 0o100644, b"hello")]) == (
        b"070701" b"00000001" b"000081A4" b"00000000" b"00000000" b"00000001" b"00000000"
        b"00000005" b"00000000" b"00000000" b"00000000" b"00000000" b"00000002" b"00000000"
        b"f\0" b"hello\0\0\0"
        b"070701" b"00000002" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000"
        b"TRAILER!!!\0\0\0\0"
    )  # fmt: skip


# Finding a kernel


def kernel_tree(root: Path, version: str, modules: str) -> None:
    """Make the files of an installed kernel."""
    folder = root / "lib/modules" / version
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text(modules, encoding="utf-8")
    (folder / "modules.builtin").write_text("", encoding="utf-8")
    (root / "boot").mkdir(exist_ok=True)
    (root / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel")


def test_find_kernel_takes_the_newest_that_fits(tmp_path: Path) -> None:
    """Versions are numbers: 6.10 is newer than 6.9; one without virtio is of no use."""
    whole = "".join(f"kernel/{name}.ko:\n" for name in modules.REQUIRED_MODULES)
    for version, table in (("6.9.0-1", whole), ("6.10.0-1", whole), ("6.11.0-1", "a.ko:\n")):
        kernel_tree(tmp_path, version, table)
    found = image.find_kernel(tmp_path)
    assert found is not None
    assert (found.version, found.source) == ("6.10.0-1", "host")
    assert found.image == tmp_path / "boot/vmlinuz-6.10.0-1"


def test_find_kernel_in_a_container(tmp_path: Path) -> None:
    """There is none, and that is no error."""
    assert image.find_kernel(tmp_path) is None


def test_a_kernel_as_fedora_and_opensuse_ship_it(tmp_path: Path) -> None:
    """Its image lies beside its modules, and those below /usr, compressed in two ways."""
    folder = tmp_path / "usr/lib/modules/6.12.0-1-default"
    ending = {"virtio_net": ".ko.zst", "ext4": ".ko.xz"}
    files = [f"kernel/{name}{ending.get(name, '.ko')}" for name in modules.REQUIRED_MODULES]
    table = "".join(f"{name}:\n" for name in files)
    tree(folder, {"modules.dep": table.encode(), "vmlinuz": b"kernel"})
    found = image.find_kernel(tmp_path)
    assert found is not None
    assert (found.version, found.image) == (folder.name, folder / "vmlinuz")
    assert modules.load_order(table, ["virtio_net"]) == ["kernel/virtio_net.ko.zst"]


@pytest.mark.needs("zstd", "xz", "gzip")
@pytest.mark.parametrize("program", ["zstd", "xz", "gzip"])
def test_compressed_modules_are_carried_plain(tmp_path: Path, program: str) -> None:
    """busybox's insmod takes no compressed ones; whichever way a distribution compresses."""
    plain = tmp_path / "x.ko"
    plain.write_bytes(bytes(range(256)) * 40)
    suffix = {"zstd": ".zst", "xz": ".xz", "gzip": ".gz"}[program]
    subprocess.run([program, "-q", "-k", plain], check=True)
    packed = plain.with_name(f"x.ko{suffix}")
    assert packed.read_bytes() != plain.read_bytes()
    assert image._uncompressed(packed, tmp_path, None) == plain.read_bytes()


# Packages


@pytest.mark.parametrize(
    ("family", "command"),
    [
        (
            "debian",
            "apt-get -o Dir::Cache::archives=/w -o DPkg::Lock::Timeout=120"
            " -o APT::Sandbox::User=root -q -y --download-only --no-install-recommends"
            " install a b",
        ),
        (
            "suse",
            "zypper --non-interactive --pkg-cache-dir /w install --download-only"
            " --no-recommends a b",
        ),
        (
            "fedora",
            "dnf -y --setopt=destdir=/w --setopt=install_weak_deps=False install"
            " --downloadonly a b",
        ),
    ],
)
def test_download_command(family: str, command: str) -> None:
    """Nothing is installed, on any distribution."""
    assert packages.download_command(family, ["a", "b"], Path("/w")) == command.split()


@pytest.mark.needs("rpmbuild", "rpm2cpio", "busybox")
def test_unpack_an_rpm(tmp_path: Path) -> None:
    """Its files come to lie below the directory, and no script of it is run."""
    ran = tmp_path / "ran"
    spec = tmp_path / "x.spec"
    spec.write_text(
        "Name: x\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n"
        "%description\nx\n%install\nmkdir -p %{buildroot}/usr/lib/x\n"
        "echo text > %{buildroot}/usr/lib/x/file\nln -s file %{buildroot}/usr/lib/x/link\n"
        f"%files\n/usr/lib/x\n%post\ntouch {ran}\n",
        encoding="utf-8",
    )
    top = ["--define", f"_topdir {tmp_path}/top"]
    subprocess.run(["rpmbuild", "-bb", "--quiet", *top, spec], check=True, capture_output=True)
    (package,) = (tmp_path / "top").rglob("*.rpm")
    (tmp_path / "root").mkdir()
    packages.unpack(package, tmp_path / "root")
    assert (tmp_path / "root/usr/lib/x/link").read_text(encoding="utf-8") == "text\n"
    assert os.readlink(tmp_path / "root/usr/lib/x/link") == "file"
    assert not ran.exists()
    assert not list(tmp_path.rglob("*.cpio"))


# What was built


def test_info(tmp_path: Path) -> None:
    """Only a whole image of this recipe counts."""
    assert image.info(tmp_path) is None
    (tmp_path / "guest.json").write_text(f'{{"recipe": "{guest.RECIPE}"}}', encoding="utf-8")
    assert image.info(tmp_path) is None
    for name in ("vmlinuz", "initrd"):
        (tmp_path / name).write_bytes(b"")
    assert image.info(tmp_path) == {"recipe": guest.RECIPE}
    (tmp_path / "guest.json").write_text('{"recipe": "0"}', encoding="utf-8")
    assert image.info(tmp_path) is None


@pytest.mark.parametrize(
    ("distribution", "hint"),
    [("debian", "apt-get install busybox-static"), ("opensuse-leap", "zypper install busybox")],
)
def test_build_leaves_nothing_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, hint: str
) -> None:
    """No half image, no work directory; and the hint names what to do on this distribution."""
    monkeypatch.setattr(seam, "find_binary", lambda name: None)
    monkeypatch.setattr(probe, "os_release", lambda: f"ID={distribution}\n")
    with pytest.raises(seam.HostError, match=f"^busybox is not installed\n{hint}"):
        image.build(tmp_path / "guest")
    assert image.info(tmp_path / "guest") is None
    assert [path.name for path in (tmp_path / "guest").iterdir()] == [".lock"]
