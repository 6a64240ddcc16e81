"""
Whether guests run on an accelerator: tried with the real QEMU.
"""

from __future__ import annotations

import _qemulab_host_accel as accel
import _qemulab_host_probe as probe
import pytest

pytestmark = pytest.mark.needs("qemu-system-x86_64")


def test_a_guest_takes_its_first_steps() -> None:
    """On TCG, everywhere."""
    assert probe.guest_problem("tcg") == ""


def test_a_guest_that_hangs_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one that only halts."""
    monkeypatch.setattr(accel, "first_steps", lambda: b"\xf4" * 0x10000)
    monkeypatch.setattr(probe, "FIRST_STEPS_TIMEOUT", 0.5)
    assert probe.guest_problem("tcg") == "guests hang"


def test_what_qemu_says_of_an_accelerator_is_told() -> None:
    """In its first line."""
    assert "no-such-accelerator" in probe.guest_problem("no-such-accelerator")
