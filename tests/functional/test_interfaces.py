"""
What a pillar accepts as an interface's name, and what the kernel does.
"""

from __future__ import annotations

import subprocess

import _qemulab_pillar_kinds as kinds
import pytest
from _qemulab_pillar_kinds import Bad
from _qemulab_pillar_kinds import Notes
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("unshare", "ip")]

WORDS = [
    *(
        "all",
        "default",
        "lo",
        "bonding_masters",
        "none",
        "any",
        "dev",
        "up",
        "type",
        "group",
        "name",
    ),
    *(
        "tap",
        "tun0",
        "tunl0",
        "sit0",
        "ip6tnl0",
        "gre0",
        "erspan0",
        "dummy0",
        "eth0",
        "wlan0",
        "br-0",
    ),
    *("a" * 15, "a" * 16, "master", "vrf", "link", "veth", "if4", "i", "a-", "a_", "a--b", "on"),
]
"""Names that mean something to the kernel or to ip, and the shortest and longest."""


def accepted(name: str) -> bool:
    """Return whether a pillar may have this interface name."""
    try:
        return bool(kinds.INTERFACE.parse(name, "", Notes()) == name)
    except Bad:
        return False


def test_every_interface_name_that_is_accepted_makes_a_tap() -> None:
    """By the words of the link script, in a network namespace without an interface."""
    names: set[str] = set()

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(WORDS) | st.from_regex("[a-z][a-z0-9_-]{0,14}", fullmatch=True))
    def collect(name: str) -> None:
        names.update([name] if accepted(name) else [])

    collect()
    names.update(filter(accepted, WORDS))
    script = [
        f"ip tuntap add dev {name} mode tap && ip link set dev {name} up "
        f"&& ip link delete dev {name} || echo {name} >&2"
        for name in sorted(names)
    ]
    done = subprocess.run(
        ["unshare", "--net", "sh"], input="\n".join(script), capture_output=True, text=True
    )
    assert len(names) > 40
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["all", "default", "lo"])
def test_an_interface_name_that_is_refused_would_have_failed(name: str) -> None:
    """The kernel takes these for itself."""
    command = ["unshare", "--net", "ip", "tuntap", "add", "dev", name, "mode", "tap"]
    assert not accepted(name)
    assert subprocess.run(command, capture_output=True).returncode != 0
