"""
Build the built-in guest from what the distribution ships: a kernel, busybox, dropbear.

What goes into it and why is in ``_qemulab_guest.py``; here the host is read, and written through
the seam alone.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from typing import NamedTuple

import _qemulab_guest as guest
import _qemulab_host as host
import _qemulab_lock as lock
import _qemulab_probe as probe

UNREACHED = re.compile("Could not (resolve|connect)|Temporary failure|unreachable|timed out")
NETWORK_HINT = "the packages' server is not reached: the guest is built once, with a network"
KERNEL_HINT = "run apt-get update, or install a kernel with virtio, or name another kernel package"

COMPRESSION = 6
"""gzip level of the initrd."""

DOWNLOAD_TIMEOUT = 600
"""Seconds that a kernel package may take to arrive."""


class Kernel(NamedTuple):
    """A kernel that was found: its image, its modules' directory, and where both are from."""

    version: str
    image: Path
    modules: Path
    source: str


def info(target: Path) -> dict[str, Any] | None:
    """
    Return what is known of a built image, ``None`` where there is none of this recipe.

    target
        The image's directory, as given to ``build``.
    """
    found = host.read_json(target / "guest.json")
    if not isinstance(found, dict) or found.get("recipe") != guest.RECIPE:
        return None
    if not all((target / name).is_file() for name in ("vmlinuz", "initrd")):
        return None
    return found


def build(target: Path, kernel_package: str, root: Path = Path("/")) -> dict[str, Any]:
    """
    Build the built-in guest and return what ``info`` then says.

    target
        Directory for ``vmlinuz``, ``initrd`` and ``guest.json``; made where it is missing.

    kernel_package
        Debian package (a metapackage will do) that is downloaded and unpacked aside where the
        host has no kernel of its own that fits.

    root
        Where the host's own kernels are looked for. Default ``/``.

    All is done below ``target``, one build at a time; one that another process has just finished
    is taken as it is. An older image stays whole until the new one is made: ``guest.json``, without
    which none counts as built, is removed before the first file is replaced and written last.

    Raises HostError where a kernel or a program is missing.
    """
    work = target.absolute() / ".work"
    before = info(target)
    with lock.hold(target / ".lock", timeout=DOWNLOAD_TIMEOUT):
        now = info(target)
        if before is None and now is not None:
            return now
        try:
            host.remove(work)
            host.make_directory(work)
            facts, files = _ingredients(work, kernel_package, root)
        finally:
            host.remove(work)
        host.remove(target / "guest.json")
        for name, data in files.items():
            host.write(target / name, data)
        host.write_json(target / "guest.json", facts)
    return facts


def _ingredients(
    work: Path, kernel_package: str, root: Path
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the facts about a new image and its files (name to contents)."""
    programs, versions = _programs()
    kernel = find_kernel(root) or _unpacked_kernel(work, kernel_package)
    host.progress(f"building the built-in guest with Linux {kernel.version}")
    files = {path: (mode, text.encode()) for path, (mode, text) in guest.text_files().items()}
    files.update(programs)
    files.update(_module_files(kernel, work))
    applets = host.run(["busybox", "--list"]).stdout.split()
    archive = cpio(entries(files, guest.links(applets)))
    initrd = gzip.compress(archive, COMPRESSION, mtime=0)
    image = kernel.image.read_bytes()
    facts = {
        "recipe": guest.RECIPE,
        "kernel": kernel.version,
        "kernel_source": kernel.source,
        **versions,
        "size": len(image) + len(initrd),
    }
    return facts, {"vmlinuz": image, "initrd": initrd}


# Kernel


def find_kernel(root: Path) -> Kernel | None:
    """
    Return the newest of the host's own kernels that can be the guest's, ``None`` without one.

    root
        Directory that holds ``boot`` and ``lib/modules``.
    """
    versions = host.list_directory(root / "lib/modules")
    for version in sorted(versions, key=_version_key, reverse=True):
        modules = root / "lib/modules" / version
        for image in (root / "boot" / f"vmlinuz-{version}", modules / "vmlinuz"):
            if _readable(image) and not _missing(modules):
                return Kernel(version, image, modules, "host")
    return None


def _version_key(version: str) -> list[int]:
    """Return what sorts kernel versions as numbers."""
    return [int(number) for number in re.findall(r"\d+", version)]


def _readable(path: Path) -> bool:
    """Return whether this process can read a file; Ubuntu keeps its kernels from users."""
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _missing(modules: Path) -> list[str]:
    """Return what a kernel lacks of the required modules."""
    dep = host.read(modules / "modules.dep") or ""
    return guest.missing_modules(dep, host.read(modules / "modules.builtin") or "")


def _unpacked_kernel(work: Path, package: str) -> Kernel:
    """Download a kernel package, unpack it in the work directory and return its kernel."""
    if host.find_binary("apt-get") is None or host.find_binary("dpkg-deb") is None:
        raise host.HostError(
            "this host has no kernel that the built-in guest could use, and no apt-get",
            hint="install a kernel package with virtio modules, readable under /boot",
        )
    names = kernel_packages(package)
    host.progress(f"downloading the kernel package {' '.join(names)}")
    command = ["apt-get", "download", *names]
    try:
        host.run(command, cwd=work, timeout=DOWNLOAD_TIMEOUT, hint=KERNEL_HINT)
    except host.HostError as err:
        if UNREACHED.search(str(err)):
            raise host.HostError(err.problem, err.output, NETWORK_HINT) from err
        raise
    root = work / "root"
    for archive in sorted(work.glob("*.deb")):
        host.run(["dpkg-deb", "-x", str(archive), str(root)], timeout=300)
    for image in sorted(root.glob("boot/vmlinuz-*")):
        version = image.name.partition("-")[2]
        for modules in (root / "lib/modules" / version, root / "usr/lib/modules" / version):
            if modules.is_dir():
                _depmod(modules)
                missing = _missing(modules)
                if missing:
                    problem = f"the kernel of {package} has no {', '.join(missing)}"
                    raise host.HostError(problem, hint=KERNEL_HINT)
                return Kernel(version, image, modules, names[0])
    raise host.HostError(f"there is no kernel in {' '.join(names)}", hint=KERNEL_HINT)


def kernel_packages(package: str) -> list[str]:
    """
    Return the packages that hold a kernel and its modules, the kernel first.

    package
        Such a package, or a metapackage that depends on one (``linux-image-cloud-amd64``).

    Raises HostError where apt does not know it.
    """
    found: list[str] = []
    ask = [package]
    while ask:
        name = ask.pop(0)
        if re.search(r"-\d+\.\d+", name):
            found.append(name)
        depends = host.run(["apt-cache", "depends", name], hint=KERNEL_HINT).stdout
        # Ubuntu has the modules in a package of their own; the extra ones are of no use here.
        wanted = re.findall(r"^  Depends: (linux-(?:image|modules)-\d?\S+)$", depends, re.M)
        ask += [item for item in wanted if "-extra-" not in item and item not in found]
    if not found:
        raise host.HostError(f"{package} names no kernel package", hint=KERNEL_HINT)
    return found


def _depmod(modules: Path) -> None:
    """Make an unpacked kernel's ``modules.dep``, which packages leave to their installation."""
    argv = ["depmod"] if host.find_binary("depmod") else ["busybox", "depmod"]
    # …/lib/modules/VERSION: depmod looks for lib/modules itself.
    base = modules.parent.parent.parent
    host.run([*argv, "-b", str(base), modules.name], hint="install the package kmod")


def _module_files(kernel: Kernel, work: Path) -> dict[str, tuple[int, bytes]]:
    """Return the image's module files and tables, by their path in the image."""
    dep = host.read(kernel.modules / "modules.dep") or ""
    alias = host.read(kernel.modules / "modules.alias") or ""
    base = f"/lib/modules/{kernel.version}"
    texts = {f"{base}/{name}": text for name, text in guest.module_tables(dep, alias).items()}
    texts.update(guest.module_lists(dep))
    files = {path: (0o644, text.encode()) for path, text in texts.items()}
    for path in guest.load_order(dep, guest.WANTED_MODULES):
        data = _uncompressed(kernel.modules / path, work)
        files[f"{base}/{guest.plain_path(path)}"] = (0o644, data)
    return files


def _uncompressed(path: Path, work: Path) -> bytes:
    """Return a module's bytes; busybox's insmod takes no compressed ones."""
    if path.suffix == ".zst":
        plain = work / "module"
        argv = ["zstd", "-q", "-d", "-f", "-o", str(plain), str(path)]
        host.run(argv, hint="install the package zstd")
        return plain.read_bytes()
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data


# Programs


def _programs() -> tuple[dict[str, tuple[int, bytes]], dict[str, str]]:
    """
    Return the image's programs with their libraries, and the versions of busybox and dropbear.

    Raises HostError where one is missing or busybox cannot do what the guest needs.
    """
    busybox = probe.binary("busybox")
    applets = host.run([busybox, "--list"]).stdout.split()
    lacking = [name for name in guest.REQUIRED_APPLETS if name not in applets]
    if lacking:
        hint = probe.install_hint("busybox")
        raise host.HostError(f"{busybox} has no {', '.join(lacking)}", hint=hint)
    dropbear = probe.binary("dropbear")
    programs = {"busybox": busybox, "dropbear": dropbear}
    # Only for whoever works inside the guest: missing ones are no fault.
    for name in ("dbclient", "dropbearkey"):
        found = host.find_binary(name)
        if found:
            programs[name] = found
    files: dict[str, tuple[int, bytes]] = {}
    for name, path in programs.items():
        files[f"/bin/{name}"] = (0o755, Path(path).read_bytes())
        files.update({library: (0o755, Path(library).read_bytes()) for library in _linked(path)})
    versions = {
        "busybox": _version(host.run([busybox, "--help"], check=False)),
        "dropbear": _version(host.run([dropbear, "-V"], check=False)),
    }
    return files, versions


def _version(result: host.Result) -> str:
    """Return the first thing that looks like a version in what a program says of itself."""
    match = re.search(r"v(\d+\.\d[\w.]*)", result.stdout + result.stderr)
    return match.group(1) if match else "unknown"


def _linked(program: str) -> list[str]:
    """Return the libraries that a program needs at run time; none for a static one."""
    result = host.run(["ldd", program], check=False)
    try:
        found = guest.libraries(result.stdout)
    except ValueError as err:
        raise host.HostError(f"{program} needs {err}, which is missing") from err
    # Before glibc 2.34 users and names were looked up by libraries that ldd does not know of.
    for libc in [path for path in found if path.endswith("/libc.so.6")]:
        extra = [Path(libc).with_name(f"libnss_{name}.so.2") for name in ("files", "dns")]
        extra.append(Path(libc).with_name("libresolv.so.2"))
        found += [str(path) for path in extra if path.is_file()]
    return found


# The archive


class Entry(NamedTuple):
    """One name in the image: file (or link) contents with the type and permission bits."""

    path: str
    mode: int
    data: bytes = b""


FILE = 0o100000
DIRECTORY = 0o040000
LINK = 0o120000


def entries(files: dict[str, tuple[int, bytes]], symlinks: dict[str, str]) -> list[Entry]:
    """
    Return the archive's entries in order, every directory before what lies in it.

    files
        Absolute path to (permission bits, contents).

    symlinks
        Absolute path to target.
    """
    table = {path: Entry(path, FILE | mode, data) for path, (mode, data) in files.items()}
    for path, target in symlinks.items():
        table[path] = Entry(path, LINK | 0o777, target.encode())
    directories = {path: Entry(path, DIRECTORY | mode) for path, mode in guest.DIRECTORIES.items()}
    for path in table:
        while path := path.rpartition("/")[0]:
            directories.setdefault(path, Entry(path, DIRECTORY | 0o755))
    return [entry for _, entry in sorted({**table, **directories}.items())]


def cpio(items: Iterable[Entry]) -> bytes:
    """
    Return a cpio archive (``newc``, the kernel's own format), equal for equal entries.

    Owner root, no time stamps: made here because the result must not depend on who builds it.
    """
    parts: list[bytes] = []
    trailer = Entry("/TRAILER!!!", 0)
    for number, entry in enumerate([*items, trailer], start=1):
        name = entry.path.lstrip("/").encode() + b"\0"
        fields = [number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        for part in (head, entry.data):
            parts.append(part + b"\0" * (-len(part) % 4))
    return b"".join(parts)
