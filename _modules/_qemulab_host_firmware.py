"""
Choose the UEFI firmware that a machine boots from.

Pure: takes the text of QEMU's firmware descriptors and a question "does this file exist?", and
returns the pair of files. A distribution without descriptors is met by a list of known pairs.

Source: QEMU docs/interop/firmware.json (the schema, the directories and their order).
"""

from __future__ import annotations

import json
import os.path
from collections.abc import Callable
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any
from typing import NamedTuple

#: Where descriptors lie, from general to specific: a name in a later one hides it in an earlier.
DIRECTORIES = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")

#: What a descriptor's features must not name: the first would need SMM on the command line, the
#: second refuses every boot loader that its enrolled keys have not signed.
REFUSED = frozenset({"requires-smm", "enrolled-keys"})

FORMATS = frozenset({"raw", "qcow2"})


class Firmware(NamedTuple):
    """
    A firmware's code, the template of its variables, and where the choice came from.

    code, vars
        Absolute paths. The code is opened read-only by every machine; the variables are copied
        for each.

    code_format, vars_format
        ``raw`` or ``qcow2``.

    source
        The descriptor's path, or ``known path``.
    """

    code: str
    code_format: str
    vars: str
    vars_format: str
    source: str


class Pair(NamedTuple):
    """Code and variables that belong together, and whose distribution puts them there."""

    code: str
    vars: str
    format: str
    distribution: str


#: Code and variables by path, where no descriptor tells: the larger flash before the smaller, no
#: Secure Boot build. A pair is taken whole or not at all: code of 4 MiB does not run on variables
#: of 2 MiB. Source: the distributions' own file lists (Debian ovmf, Fedora edk2.spec, openSUSE
#: ovmf-descriptors, Arch edk2-ovmf); the last two are older releases' names.
KNOWN_PAIRS = (
    Pair(
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
        "raw",
        "Debian 11 to 13, Ubuntu 22.04 and later",
    ),
    Pair(
        "/usr/share/edk2/ovmf/OVMF_CODE_4M.qcow2",
        "/usr/share/edk2/ovmf/OVMF_VARS_4M.qcow2",
        "qcow2",
        "Fedora 39 and later",
    ),
    Pair(
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
        "raw",
        "Fedora",
    ),
    Pair(
        "/usr/share/qemu/ovmf-x86_64-4m-code.bin",
        "/usr/share/qemu/ovmf-x86_64-4m-vars.bin",
        "raw",
        "openSUSE",
    ),
    Pair(
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/qemu/ovmf-x86_64-vars.bin",
        "raw",
        "openSUSE",
    ),
    Pair(
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
        "raw",
        "Arch",
    ),
    Pair(
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
        "raw",
        "Debian up to 12, Ubuntu up to 22.04",
    ),
    Pair(
        "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
        "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd",
        "raw",
        "Arch up to 2023",
    ),
)

#: What the known pairs run on, as a descriptor would say it.
KNOWN_TARGETS = ({"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]},)


def in_order(paths: Mapping[str, str]) -> list[str]:
    """
    Return the descriptors that count, in the order in which they are tried.

    paths
        Descriptors by absolute path: their text.

    The order is by file name, whatever the directory. A name that stands in a more specific
    directory hides the same name in a more general one; an empty file hides and offers nothing.

    Source: QEMU docs/interop/firmware.json, "Firmware".
    """

    def rank(path: str) -> int:
        directory = os.path.dirname(path)
        return DIRECTORIES.index(directory) if directory in DIRECTORIES else len(DIRECTORIES)

    effective: dict[str, str] = {}
    for path in sorted(paths, key=lambda each: (rank(each), each)):
        effective[os.path.basename(path)] = path
    kept = (effective[name] for name in sorted(effective) if name.endswith(".json"))
    return [path for path in kept if paths[path].strip()]


def machine_types(machine: str) -> tuple[str, ...]:
    """
    Return what descriptors may call a machine type.

    machine
        As on QEMU's command line: ``pc``, ``q35``, ``pc-i440fx-7.2``, ``pc-q35-9.0``. Properties
        behind a comma are left out.

    Descriptors name concrete types, not aliases, so an alias stands for any version of its type.
    """
    name = machine.split(",", 1)[0].strip()
    concrete = {"pc": "pc-i440fx-0", "q35": "pc-q35-0"}.get(name)
    return (name,) if concrete is None else (name, concrete)


def _fits_machine(targets: Any, machine: str) -> bool:
    """Return whether one of a descriptor's targets is this machine type of x86_64."""
    names = machine_types(machine)
    return any(
        fnmatchcase(name, str(pattern))
        for target in targets
        if target["architecture"] == "x86_64"
        for pattern in target["machines"]
        for name in names
    )


def read(text: str, machine: str, source: str) -> Firmware | None:
    """
    Return what one descriptor offers a machine.

    text
        The descriptor.

    machine
        Machine type, see ``machine_types``.

    source
        The descriptor's path, for the answer.

    Returns ``None`` where the descriptor is damaged, is for something else, needs what a lab's
    machine does not give (SMM), enforces keys, or is not a pair of flash files.
    """
    try:
        found = json.loads(text)
        features = frozenset(found["features"])
        mapping = found["mapping"]
        if "uefi" not in found["interface-types"] or features & REFUSED:
            return None
        # Without a mode it is "split": the field came with QEMU 7.0. Firmware for encrypted guests
        # alone (SEV, TDX) is "stateless" or mapped into memory, and falls out here.
        if mapping["device"] != "flash" or mapping.get("mode", "split") != "split":
            return None
        if not _fits_machine(found["targets"], machine):
            return None
        code = mapping["executable"]
        variables = mapping["nvram-template"]
        firmware = Firmware(
            code=str(code["filename"]),
            code_format=str(code["format"]),
            vars=str(variables["filename"]),
            vars_format=str(variables["format"]),
            source=source,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return firmware if {firmware.code_format, firmware.vars_format} <= FORMATS else None


def choose(
    descriptors: Mapping[str, str],
    machine: str,
    exists: Callable[[str], bool],
) -> Firmware | None:
    """
    Return the first firmware that the host's descriptors offer a machine type.

    descriptors
        The text of each descriptor by its absolute path, of all ``DIRECTORIES``.

    machine
        Machine type: ``pc``, ``q35`` or a versioned one.

    exists
        Says whether the host has a file.

    Returns ``None`` where no descriptor fits; damaged ones are passed over, and so is one whose
    files are not both there.
    """
    for path in in_order(descriptors):
        firmware = read(descriptors[path], machine, path)
        if firmware is not None and exists(firmware.code) and exists(firmware.vars):
            return firmware
    return None


def from_known_paths(exists: Callable[[str], bool]) -> Firmware | None:
    """
    Return the first of ``KNOWN_PAIRS`` that the host has whole.

    exists
        Says whether the host has a file.
    """
    for pair in KNOWN_PAIRS:
        if exists(pair.code) and exists(pair.vars):
            return Firmware(pair.code, pair.format, pair.vars, pair.format, "known path")
    return None


def find(
    descriptors: Mapping[str, str],
    machine: str,
    exists: Callable[[str], bool],
) -> Firmware | None:
    """
    Return the firmware for a machine type: by descriptor, else by known path.

    descriptors, machine, exists
        As for ``choose``.

    Returns ``None`` where the host has neither; the package that brings it is the distribution's
    ``firmware`` package.
    """
    found = choose(descriptors, machine, exists)
    if found is None and _fits_machine(KNOWN_TARGETS, machine):
        return from_known_paths(exists)
    return found
