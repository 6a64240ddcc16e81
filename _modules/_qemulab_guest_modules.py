"""
The built-in guest's kernel modules: which it carries, in which order they load. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Loaded before anything else: the NICs, entropy for SSH, the keys' way in, the power button.
EARLY_MODULES = (
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "qemu_fw_cfg",
    "button",
    "evdev",
)

#: Loaded while DHCP is under way: other NICs and every disk that QEMU can offer.
LATE_MODULES = (
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",
    "ata_piix",
    "ahci",
    "nvme",
    "e1000",
    "e1000e",
    "virtio_console",
    "virtio_balloon",
    "loop",
)

#: Only carried: the kernel asks modprobe for them when somebody mounts what needs them.
LAZY_MODULES = (
    "ext4",
    "crc32c_generic",
    "vfat",
    "isofs",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "squashfs",
    "overlay",
    "9p",
    "9pnet_virtio",
)

WANTED_MODULES = EARLY_MODULES + LATE_MODULES + LAZY_MODULES
"""Every module that the image carries where the kernel has it."""

REQUIRED_MODULES = (
    "virtio_pci",
    "virtio_net",
    "qemu_fw_cfg",
    "button",
    "evdev",
    "sd_mod",
    "ext4",
)
"""A kernel without these (built in or as modules) cannot be the built-in guest's."""


def module_name(path: str) -> str:
    """Return a module's name from its file's: ``a/virtio-rng.ko.xz`` is ``virtio_rng``."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def built_in(modules_builtin: str) -> set[str]:
    """Return the names of the modules that a kernel has built in, from ``modules.builtin``."""
    return {module_name(line) for line in modules_builtin.split()}


def _dependencies(modules_dep: str) -> dict[str, tuple[str, list[str]]]:
    """Return each module's path and the names it needs, by name."""
    table: dict[str, tuple[str, list[str]]] = {}
    for line in modules_dep.splitlines():
        path, colon, needs = line.partition(":")
        if colon:
            table[module_name(path)] = (path, [module_name(need) for need in needs.split()])
    return table


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """
    Return the files of the wanted modules and of all they need, each after what it needs.

    modules_dep
        The text of ``modules.dep``.

    wanted
        Module names; ``-`` and ``_`` are the same. One that the kernel does not have as a module
        (it is built in, or not made) is left out.
    """
    table = _dependencies(modules_dep)
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in table:
            return
        seen.add(name)
        path, needs = table[name]
        for need in needs:
            visit(need)
        order.append(path)

    for name in wanted:
        visit(module_name(name))
    return order


def missing_modules(modules_dep: str, modules_builtin: str) -> list[str]:
    """Return the required modules that a kernel has neither as modules nor built in."""
    have = set(_dependencies(modules_dep)) | built_in(modules_builtin)
    return [name for name in REQUIRED_MODULES if name not in have]


def plain_path(path: str) -> str:
    """Return a module's path as it is in the image: never compressed."""
    head, dot, _ = path.partition(".ko")
    return head + dot


def module_tables(modules_dep: str, modules_alias: str) -> dict[str, str]:
    """
    Return the carried modules' ``modules.*`` files (name to text), for the guest's modprobe.

    modules_dep, modules_alias
        The kernel's whole tables, as depmod writes them.
    """
    table = _dependencies(modules_dep)
    carried = load_order(modules_dep, WANTED_MODULES)
    names = {module_name(path) for path in carried}
    dep = []
    for path in carried:
        needs = [plain_path(table[need][0]) for need in table[module_name(path)][1]]
        dep.append(" ".join([f"{plain_path(path)}:", *needs]))
    # Only what the kernel asks for by name (fs-vfat, crypto-crc32c): a colon is in hardware's.
    aliases = [
        line
        for line in modules_alias.splitlines()
        if line.startswith("alias ") and ":" not in line and module_name(line.split()[-1]) in names
    ]
    return {
        "modules.dep": "\n".join(dep) + "\n",
        "modules.alias": "\n".join(aliases) + "\n",
    }


def module_lists(modules_dep: str) -> dict[str, str]:
    """Return ``/etc/modules.early`` and ``.late``: the names to load, those that the image has."""
    have = _dependencies(modules_dep)
    lists = {"/etc/modules.early": EARLY_MODULES, "/etc/modules.late": LATE_MODULES}
    return {
        path: "".join(f"{name}\n" for name in names if name in have)
        for path, names in lists.items()
    }
