"""
The built-in guest's pure pieces: what is in its image, and in which order its modules load.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import _qemulab_guest as guest
import _qemulab_host as seam
import _qemulab_image as image
import _qemulab_probe as probe
import pytest

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

LDD = """\
\tlinux-vdso.so.1 (0x00007f028cdb7000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f028cc5b000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f028ca3d000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f028cdb9000)
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
    assert guest.module_name(path) == name


def test_load_order() -> None:
    """A module comes after all it needs, once, whatever the table's own order."""
    assert guest.load_order(MODULES_DEP, ["virtio_net", "virtio-rng"]) == [
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/net/core/failover.ko",
        "kernel/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko.xz",
        "kernel/drivers/char/hw_random/virtio-rng.ko",
    ]


def test_load_order_leaves_out_what_the_kernel_has_not() -> None:
    """Built in or not made at all: there is nothing to load."""
    assert guest.load_order(MODULES_DEP, ["ext4", "vfat"]) == [
        "kernel/fs/fat/fat.ko",
        "kernel/fs/fat/vfat.ko",
    ]


def test_load_order_survives_a_circle() -> None:
    """A damaged table ends the search, not the stack."""
    assert guest.load_order("a.ko: b.ko\nb.ko: a.ko\n", ["a"]) == ["b.ko", "a.ko"]


def test_missing_modules() -> None:
    """A required module may also be built in."""
    builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/ext4/ext4.ko\nkernel/evdev.ko\n"
    assert guest.missing_modules(MODULES_DEP, builtin) == ["qemu_fw_cfg", "button", "sd_mod"]


def test_module_tables() -> None:
    """The guest's modprobe knows the carried modules alone, under their uncompressed names."""
    alias = (
        "# Aliases\nalias fs-vfat vfat\nalias pci:v00001AF4d* virtio_net\n"
        "alias virtio:d00000004v* virtio-rng\nalias char-major-116-* snd\n"
    )
    tables = guest.module_tables(MODULES_DEP, alias)
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
    assert guest.module_lists(MODULES_DEP) == {
        "/etc/modules.early": "virtio_net\nvirtio_rng\n",
        "/etc/modules.late": "",
    }


def test_libraries() -> None:
    """The loader counts, the kernel's own vdso does not."""
    assert guest.libraries(LDD) == [
        "/lib/x86_64-linux-gnu/libz.so.1",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
    ]


def test_libraries_of_a_static_program() -> None:
    """There are none, in whatever words ldd says so."""
    assert guest.libraries("\tnot a dynamic executable\n") == []
    assert guest.libraries("\tstatically linked\n") == []


def test_libraries_that_are_missing() -> None:
    """A program that cannot start is not packed."""
    with pytest.raises(ValueError, match=r"libgmp\.so\.10"):
        guest.libraries("\tlibgmp.so.10 => not found\n")


def test_links() -> None:
    """Every applet is a name of busybox; ssh is dropbear's client."""
    links = guest.links(["busybox", "sh", "udhcpc"])
    assert "/bin/busybox" not in links
    assert links["/bin/sh"] == links["/bin/udhcpc"] == "busybox"
    assert links["/bin/ssh"] == "dbclient"
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
    assert files["/etc/shadow"] == (0o600, "root:*:0:0:99999:7:::\n")
    assert "dropbear -R -s" in guest.init_script()


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
    whole = "".join(f"kernel/{name}.ko:\n" for name in guest.REQUIRED_MODULES)
    for version, modules in (("6.9.0-1", whole), ("6.10.0-1", whole), ("6.11.0-1", "a.ko:\n")):
        kernel_tree(tmp_path, version, modules)
    found = image.find_kernel(tmp_path)
    assert found is not None
    assert (found.version, found.source) == ("6.10.0-1", "host")
    assert found.image == tmp_path / "boot/vmlinuz-6.10.0-1"


def test_find_kernel_in_a_container(tmp_path: Path) -> None:
    """There is none, and that is no error."""
    assert image.find_kernel(tmp_path) is None


def answers(monkeypatch: pytest.MonkeyPatch, table: dict[str, str]) -> None:
    """Make apt-cache know these packages' dependencies and no others."""

    def run(argv: list[str], **_: object) -> seam.Result:
        assert argv[:2] == ["apt-cache", "depends"]
        return seam.Result(0, table[argv[2]], "")

    monkeypatch.setattr(seam, "run", run)


def test_kernel_packages_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metapackage names the package that has it all."""
    name = "linux-image-6.1.0-56-cloud-amd64"
    answers(
        monkeypatch,
        {
            "linux-image-cloud-amd64": f"linux-image-cloud-amd64\n  Depends: {name}\n",
            name: f"{name}\n  Depends: kmod\n |Depends: linux-initramfs-tool\n  Breaks: x\n",
        },
    )
    assert image.kernel_packages("linux-image-cloud-amd64") == [name]


def test_kernel_packages_of_ubuntu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules are in a second package; the extra ones stay where they are."""
    name, modules = "linux-image-6.8.0-60-generic", "linux-modules-6.8.0-60-generic"
    extra = "linux-modules-extra-6.8.0-60-generic"
    answers(
        monkeypatch,
        {
            "linux-image-virtual": f"linux-image-virtual\n  Depends: {name}\n",
            name: f"{name}\n  Depends: kmod\n  Depends: {modules}\n  Depends: {extra}\n",
            modules: f"{modules}\n",
        },
    )
    assert image.kernel_packages("linux-image-virtual") == [name, modules]


def test_kernel_packages_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of another kind is refused by name."""
    answers(monkeypatch, {"hello": "hello\n  Depends: libc6\n"})
    with pytest.raises(seam.HostError, match="hello names no kernel package"):
        image.kernel_packages("hello")


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
    [("debian", "apt-get install busybox-static"), ("opensuse-leap", "openSUSE has no dropbear, ")],
)
def test_build_leaves_nothing_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, hint: str
) -> None:
    """No half image, no work directory; and the hint names what to do on this distribution."""
    monkeypatch.setattr(seam, "find_binary", lambda name: None)
    monkeypatch.setattr(probe, "os_release", lambda: f"ID={distribution}\n")
    with pytest.raises(seam.HostError, match=f"^busybox is not installed\n{hint}"):
        image.build(tmp_path / "guest", "linux-image-cloud-amd64")
    assert image.info(tmp_path / "guest") is None
    assert [path.name for path in (tmp_path / "guest").iterdir()] == [".lock"]
