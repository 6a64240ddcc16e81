"""Which accelerator a machine gets, and why."""

from __future__ import annotations

import _qemulab_host_accel as accel
import pytest

INTEL = "processor\t: 0\nflags\t\t: fpu vme vmx sse2\nvmx flags\t: vnmi svm_like\n"
AMD = "processor\t: 0\nflags\t\t: fpu vme svm sse2\n"
NEITHER = "processor\t: 0\nflags\t\t: fpu vme svme vmxoff hypervisor\nvmx flags\t: vmx\n"
KVM_INTEL = frozenset({"kvm", "kvm_intel"})
KVM_PVM = frozenset({"kvm", "kvm_pvm"})


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [(INTEL, "vmx"), (AMD, "svm"), (NEITHER, None), ("", None)],
)
def test_the_cpus_virtualization(cpuinfo: str, expected: str | None) -> None:
    assert accel.virtualization_flag(cpuinfo) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "modules", "exists", "accessible", "expected"),
    [
        (INTEL, KVM_INTEL, True, True, ("kvm", "the CPU offers vmx")),
        (AMD, frozenset(), True, True, ("kvm", "the CPU offers svm")),
        (NEITHER, KVM_PVM, True, True, ("tcg", "the CPU offers no vmx or svm")),
        (INTEL, KVM_PVM, True, True, ("tcg", "the host's KVM is kvm_pvm, on which guests hang")),
        (INTEL, KVM_INTEL, False, False, ("tcg", "/dev/kvm does not exist")),
        (
            INTEL,
            KVM_INTEL,
            True,
            False,
            ("tcg", "the user that QEMU runs as may not open /dev/kvm"),
        ),
    ],
)
def test_auto(
    cpuinfo: str,
    modules: frozenset[str],
    exists: bool,
    accessible: bool,
    expected: tuple[str, str],
) -> None:
    assert accel.choose("auto", cpuinfo, modules, exists, accessible) == accel.Accel(*expected)


@pytest.mark.parametrize(
    ("said", "blamed"),
    [
        ("qemu-system-x86_64: -accel kvm: failed to initialize kvm: Inappropriate ioctl", True),
        ("Could not access KVM kernel module: Permission denied", True),
        ("kvm version too old", True),
        (
            "qemu: ../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion `ret == n' failed.",
            True,
        ),
        ("qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69", True),
        ("error: kvm run failed Bad address", True),
        ("KVM internal error. Suberror: 1", True),
        ('Failed to get "write" lock on /var/lib/qemulab/lab/vms/kvm/disks/hda.qcow2', False),
        ("qemu-system-x86_64: unable to find CPU model 'kvm65'", False),
    ],
)
def test_qemu_blames_kvm(said: str, blamed: bool) -> None:
    """By its own words, not by a path or a model that has these letters in it."""
    assert accel.blames_kvm(said) is blamed


def test_kvm_is_taken_at_its_word() -> None:
    found = accel.choose("kvm", NEITHER, KVM_PVM, True, True)
    assert found == accel.Accel("kvm", "asked for")


@pytest.mark.parametrize(
    ("exists", "reason"),
    [
        (False, "accel: kvm is not possible: /dev/kvm does not exist"),
        (True, "accel: kvm is not possible: the user that QEMU runs as may not open /dev/kvm"),
    ],
)
def test_kvm_that_cannot_be(exists: bool, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        accel.choose("kvm", INTEL, KVM_INTEL, exists, False)
    assert str(raised.value) == reason


def test_tcg_needs_nothing() -> None:
    assert accel.choose("tcg", INTEL, KVM_INTEL, True, True) == accel.Accel("tcg", "asked for")


def test_anything_else_is_refused() -> None:
    with pytest.raises(ValueError) as raised:
        accel.choose("hvf", INTEL, KVM_INTEL, True, True)
    assert str(raised.value) == "accel: hvf is none of auto, kvm, tcg"
