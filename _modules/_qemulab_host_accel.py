"""
Decide whether a machine runs on KVM or on QEMU's own translator, TCG.

Pure: takes what the host showed and returns the choice with its reason in words. That
``/dev/kvm`` exists proves nothing: a host whose module is ``kvm_pvm`` has it on a CPU without
vmx and svm, and guests hang there (measured: no output in 40 s of full load, against 3.7 s to
a login with TCG).
"""

from __future__ import annotations

import re
from typing import NamedTuple

WANTED = ("auto", "kvm", "tcg")


FIRST_STEPS_DONE = 33
"""How QEMU ends whose guest was ``first_steps``: 2 n + 1 for the n written to isa-debug-exit."""


def first_steps() -> bytes:
    """
    Return a firmware that switches the processor to its 32-bit mode and ends QEMU by that.

    It is the whole guest: 64 KB below 4 GB, where a processor begins. On a host whose KVM is no use
    guests hang, or fail, at this switch. Source: Intel's manual, volume 3, 10.9.1; QEMU's
    hw/misc/debugexit.c
    """
    code = {
        0xFFF0: "e9 0d ff",  # jmp 0xff00
        # cli; lgdt cs:[0xff40]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:0xffffff20
        0xFF00: "fa 2e 66 0f 01 16 40 ff 0f 20 c0 0c 01 0f 22 c0 66 ea 20 ff ff ff 08 00",
        # mov ax, 16; mov ds, ax; mov al, 16; out 0xf4, al
        0xFF20: "66 b8 10 00 8e d8 b0 10 e6 f4",
        0xFF40: "17 00 50 ff ff ff",  # three descriptors: none, code, data
        0xFF50: "00 00 00 00 00 00 00 00 ff ff 00 00 00 9a cf 00 ff ff 00 00 00 92 cf 00",
    }
    rom = bytearray(b"\xf4" * 0x10000)  # hlt
    for place, text in code.items():
        part = bytes.fromhex(text)
        rom[place : place + len(part)] = part
    return bytes(rom)


BLAME = re.compile(
    r"(initialize|access) kvm|kvm( internal error|: entry| run failed| version|/kvm\.c:)|set MSR ",
    re.IGNORECASE,
)


def blames_kvm(said: str) -> bool:
    """Return whether QEMU says that it has ended for its KVM. Source: QEMU's accel/kvm, target."""
    return BLAME.search(said) is not None


class Accel(NamedTuple):
    """
    An accelerator and why it was taken.

    name
        ``kvm`` or ``tcg``, as in ``-accel``.

    reason
        One clause, for the user: ``the CPU offers no vmx or svm``.
    """

    name: str
    reason: str


def virtualization_flag(cpuinfo: str) -> str | None:
    """
    Return which virtualization the CPU has: ``vmx`` (Intel), ``svm`` (AMD), or ``None``.

    cpuinfo
        The text of ``/proc/cpuinfo``.

    Only the line ``flags`` counts: ``vmx flags``, beside it, lists details of vmx.
    """
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() != "flags":
            continue
        flags = value.split()
        for flag in ("vmx", "svm"):
            if flag in flags:
                return flag
    return None


def choose(
    wanted: str,
    cpuinfo: str,
    kvm_module_names: frozenset[str],
    kvm_exists: bool,
    kvm_accessible: bool,
) -> Accel:
    """
    Return the accelerator for a machine.

    wanted
        ``auto`` takes KVM only where it will work; ``kvm`` and ``tcg`` are taken at their word.

    cpuinfo
        The text of ``/proc/cpuinfo``.

    kvm_module_names
        The loaded kernel modules whose name begins with ``kvm``.

    kvm_exists
        Whether there is a ``/dev/kvm``.

    kvm_accessible
        Whether the user that QEMU runs as may open it for reading and writing.

    Raises ValueError, in words, for an unknown ``wanted`` and where ``kvm`` is demanded but
    ``/dev/kvm`` is missing or closed to the user.
    """
    if wanted not in WANTED:
        raise ValueError(f"accel: {wanted} is none of {', '.join(WANTED)}")
    if wanted == "tcg":
        return Accel("tcg", "asked for")
    closed = None
    if not kvm_exists:
        closed = "/dev/kvm does not exist"
    elif not kvm_accessible:
        closed = "the user that QEMU runs as may not open /dev/kvm"
    if wanted == "kvm":
        if closed is not None:
            raise ValueError(f"accel: kvm is not possible: {closed}")
        return Accel("kvm", "asked for")
    flag = virtualization_flag(cpuinfo)
    if flag is None:
        return Accel("tcg", "the CPU offers no vmx or svm")
    if "kvm_pvm" in kvm_module_names:
        return Accel("tcg", "the host's KVM is kvm_pvm, on which guests hang")
    if closed is not None:
        return Accel("tcg", closed)
    return Accel("kvm", f"the CPU offers {flag}")
