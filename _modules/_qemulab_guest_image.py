"""
Build the built-in guest from what the distribution ships: a kernel, busybox, OpenSSH, rsync.

What goes into it and why is in ``_qemulab_guest_contents.py``; here the host is read, and written
through the seam alone.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from typing import NamedTuple

import _qemulab_guest_contents as guest
import _qemulab_guest_elf as elf
import _qemulab_guest_modules as modules
import _qemulab_guest_packages as packages
import _qemulab_host_lock as lock
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
from _qemulab_host_distribution import KERNEL

COMPRESSION = 6
"""gzip level of the initrd."""

HOST = Path("/")


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


def hold(target: Path) -> AbstractContextManager[None]:
    """Hold the image's lock for the length of a ``with`` block, as a build of it does."""
    return lock.hold(target / ".lock", timeout=packages.DOWNLOAD_TIMEOUT)


def build(target: Path, root: Path = HOST) -> dict[str, Any]:
    """
    Build the built-in guest and return what ``info`` then says.

    target
        Directory for ``vmlinuz``, ``initrd`` and ``guest.json``; made where it is missing.

    root
        Where the host's own kernels are looked for. Default ``/``.

    A kernel that fits, OpenSSH's server and rsync are taken from the host where it has them; else
    their packages are downloaded and unpacked aside. All is done below ``target``, one build at a
    time; one that another process has just finished is taken as it is. An older image stays whole
    until the new one is made: ``guest.json``, without which none counts as built, is removed before
    the first file is replaced and written last.

    Raises HostError where a kernel or a program is missing.
    """
    work = target.absolute() / ".work"
    before = info(target)
    with hold(target):
        now = info(target)
        if before is None and now is not None:
            return now
        try:
            host.remove(work)
            host.make_directory(work)
            facts, files = _ingredients(work, root)
        finally:
            host.remove(work)
        host.remove(target / "guest.json")
        for name, data in files.items():
            host.write(target / name, data)
        host.write_json(target / "guest.json", facts)
    return facts


def _ingredients(work: Path, root: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the facts about a new image and its files (name to contents)."""
    busybox, applets = _busybox()
    kernel = find_kernel(root)
    away = [
        package
        for what, package in probe.aside_packages().items()
        if (kernel is None if what == KERNEL else host.find_binary(what) is None)
    ]
    aside = packages.fetch(work, away) if away else None
    if kernel is None:
        kernel = _unpacked_kernel(aside or work)
    host.progress(f"building the built-in guest with Linux {kernel.version}")
    files = {path: (mode, text.encode()) for path, (mode, text) in guest.text_files().items()}
    programs, openssh = _programs(aside)
    files.update(programs)
    files.update(_module_files(kernel, work, aside))
    archive = cpio(entries(files, guest.links(applets)))
    initrd = gzip.compress(archive, COMPRESSION, mtime=0)
    image = kernel.image.read_bytes()
    facts = {
        "recipe": guest.RECIPE,
        "kernel": kernel.version,
        "kernel_source": kernel.source,
        "busybox": busybox,
        "openssh": openssh,
        "size": len(image) + len(initrd),
    }
    return facts, {"vmlinuz": image, "initrd": initrd}


# Kernel


def find_kernel(root: Path, source: str = "host") -> Kernel | None:
    """
    Return the newest kernel that can be the guest's, ``None`` without one.

    root
        Directory that holds ``boot`` and ``lib/modules`` (or ``usr/lib/modules``).

    source
        Where it is from, for the facts. Default ``host``.
    """
    found = [
        directory / version
        for directory in (root / "lib/modules", root / "usr/lib/modules")
        for version in host.list_directory(directory)
    ]
    for each in sorted(found, key=lambda path: _version_key(path.name), reverse=True):
        for image in (root / "boot" / f"vmlinuz-{each.name}", each / "vmlinuz"):
            if _readable(image) and not _missing(each):
                return Kernel(each.name, image, each, source)
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


def _missing(directory: Path) -> list[str]:
    """Return what a kernel lacks of the required modules."""
    dep = host.read(directory / "modules.dep") or ""
    return modules.missing_modules(dep, host.read(directory / "modules.builtin") or "")


def _unpacked_kernel(aside: Path) -> Kernel:
    """Return the kernel that was unpacked aside. Raises HostError where there is none of use."""
    for lib in (aside / "lib", aside / "usr/lib"):
        for version in host.list_directory(lib / "modules"):
            if not (lib / "modules" / version / "modules.dep").exists():
                _depmod(lib.parent, version)
    found = find_kernel(aside, probe.aside_packages().get(KERNEL, ""))
    if found is None:
        hint = "install a kernel with virtio modules, readable under /boot"
        raise host.HostError("this host has no kernel that the built-in guest could use", hint=hint)
    return found


def _depmod(base: Path, version: str) -> None:
    """Make an unpacked kernel's ``modules.dep``, which packages leave to their installation."""
    argv = ["depmod"] if host.find_binary("depmod") else ["busybox", "depmod"]
    host.run([*argv, "-b", str(base), version], hint="install the package kmod")


def _module_files(kernel: Kernel, work: Path, aside: Path | None) -> dict[str, tuple[int, bytes]]:
    """Return the image's module files and tables, by their path in the image."""
    dep = host.read(kernel.modules / "modules.dep") or ""
    alias = host.read(kernel.modules / "modules.alias") or ""
    base = f"/lib/modules/{kernel.version}"
    texts = {f"{base}/{name}": text for name, text in modules.module_tables(dep, alias).items()}
    texts.update(modules.module_lists(dep))
    files = {path: (0o644, text.encode()) for path, text in texts.items()}
    for path in modules.load_order(dep, modules.WANTED_MODULES):
        data = _uncompressed(kernel.modules / path, work, aside)
        files[f"{base}/{modules.plain_path(path)}"] = (0o644, data)
    return files


def _uncompressed(path: Path, work: Path, aside: Path | None) -> bytes:
    """Return a module's bytes; busybox's insmod takes no compressed ones."""
    if path.suffix == ".zst":
        plain = work / "module"
        zstd = str(_program("zstd", aside))
        host.run([zstd, "-q", "-d", "-f", "-o", str(plain), str(path)])
        return plain.read_bytes()
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data


# Programs


def _busybox() -> tuple[str, list[str]]:
    """
    Return the version of the host's busybox and all that it can do.

    Raises HostError where it is missing or cannot do what the guest needs.
    """
    busybox = probe.binary("busybox")
    applets = host.run([busybox, "--list"]).stdout.split()
    lacking = [name for name in guest.REQUIRED_APPLETS if name not in applets]
    if lacking:
        hint = probe.install_hint("busybox")
        raise host.HostError(f"{busybox} has no {', '.join(lacking)}", hint=hint)
    said = host.run([busybox, "--help"], check=False)
    version = re.search(r"v(\d+\.\d[\w.]*)", said.stdout + said.stderr)
    return version.group(1) if version else "unknown", applets


def _programs(aside: Path | None) -> tuple[dict[str, tuple[int, bytes]], str]:
    """
    Return the image's programs with their libraries, and the version of OpenSSH.

    aside
        Where packages were unpacked; ``None`` where the host has it all.

    Raises HostError where a program or a library is missing.
    """
    files: dict[str, tuple[int, bytes]] = {}
    version = "unknown"
    for name in guest.PROGRAMS:
        path = _program(name, aside)
        data = path.read_bytes()
        files[f"/bin/{name}"] = (0o755, data)
        if name == "sshd":
            root = aside if aside is not None and aside in path.parents else HOST
            files.update(_sshd_parts(data, root))
            said = re.search(rb"OpenSSH_(\d+\.\d+p\d+)", data)
            version = said.group(1).decode() if said else version
    return {**_libraries(files, [aside or HOST, HOST]), **files}, version


def _program(name: str, aside: Path | None) -> Path:
    """Return where a program is: on the host, or else unpacked aside."""
    if aside is not None and host.find_binary(name) is None:
        for directory in ("usr/sbin", "usr/bin", "sbin", "bin"):
            if (aside / directory / name).is_file():
                return aside / directory / name
    return Path(probe.binary(name))


def _sshd_parts(sshd: bytes, root: Path) -> dict[str, tuple[int, bytes]]:
    """
    Return the programs that an sshd runs for each connection, under the paths built into it.

    sshd
        Its file. Before OpenSSH 9.8 it did all by itself.

    root
        Where it is from.
    """
    parts: dict[str, tuple[int, bytes]] = {}
    texts = [sshd]
    for name in guest.SSHD_PARTS:
        places = [f"{place}/{name}" for place in guest.LIBEXEC]
        for place in [each for each in places if (root / each).is_file()]:
            if any(f"/{place}".encode() in text for text in texts):
                texts.append((root / place).read_bytes())
                parts[f"/{place}"] = (0o755, texts[-1])
        wanted = any(f"/{name}\0".encode() in text for text in texts)
        if wanted and not any(path.endswith(f"/{name}") for path in parts):
            raise host.HostError(f"sshd needs {name}, which is missing")
    return parts


def _libraries(
    files: dict[str, tuple[int, bytes]], roots: Iterable[Path]
) -> dict[str, tuple[int, bytes]]:
    """
    Return the libraries and loaders that programs need, by their path in the image.

    files
        The programs, by the same.

    roots
        Where to look, the first one first.

    Raises HostError where one is missing.
    """
    found: dict[str, tuple[int, bytes]] = {}
    names: set[str] = set()
    ask = list(files.items())
    while ask:
        program, (_, data) = ask.pop()
        try:
            needs = elf.linked(data)
        except ValueError as err:
            raise host.HostError(f"{program} cannot be used: {err}") from err
        for wanted in (needs.loader, *needs.needed):
            name = wanted.rpartition("/")[2]
            if not name or name in names:
                continue
            names.add(name)
            # Before glibc 2.34, libraries that nothing is linked with looked up users and names.
            more = ("libnss_files.so.2", "libnss_dns.so.2") if name == "libc.so.6" else ()
            path = _library(wanted, roots)
            if path is None:
                raise host.HostError(f"{program} needs {wanted}, which is missing")
            for image_path, source in (path, *filter(None, (_library(m, roots) for m in more))):
                found[image_path] = (0o755, source.read_bytes())
                ask.append((image_path, found[image_path]))
    return found


def _library(name: str, roots: Iterable[Path]) -> tuple[str, Path] | None:
    """
    Return where a library comes to lie in the image and where it is now, ``None`` without one.

    name
        Its name, or a loader's absolute path: that one is built into the programs.
    """
    for root in roots:
        for directory in ("", "usr") if name.startswith("/") else elf.DIRECTORIES:
            path = root / directory / name.lstrip("/")
            if path.is_file():
                return (name if name.startswith("/") else f"/{directory}/{name}"), path
    return None


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
