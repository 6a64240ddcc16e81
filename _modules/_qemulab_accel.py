"""
Decide whether a machine runs on KVM or on QEMU's own translator, TCG.

Pure: takes what the host showed and returns the choice with its reason in words. That
``/dev/kvm`` exists proves nothing: a host whose module is ``kvm_pvm`` has it on a CPU without
vmx and svm, and guests hang there (measured: no output in 40 s of full load, against 3.7 s to
a login with TCG).
"""

from __future__ import annotations

from typing import NamedTuple

WANTED = ("auto", "kvm", "tcg")


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
