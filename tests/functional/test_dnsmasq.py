"""
What the real dnsmasq makes of the files that it is given: whom it leases an address, by what name.

It runs in a network namespace of its own. A relay asks it, as RFC 1542 has it: one socket speaks
for as many machines as there are reservations.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_pillar_keys import Network
from _qemulab_pillar_kinds import Bad
from _qemulab_pillar_kinds import Notes
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("dnsmasq", "unshare", "ip", "dig")]

TAP = "02:00:00:00:00:01"
RELAY = Path(__file__).with_name("dhcp_relay.py")
WORDS = [
    *(
        "ignore",
        "infinite",
        "30m",
        "45",
        "12h",
        "1w",
        "7d",
        "90s",
        "0",
        "1",
        "m",
        "set",
        "tag",
        "id",
    ),
    *("net", "known", "deprecated", "ignored", "0x1f", "dead", "beef", "00", "a", "on", "null"),
    *(
        "localhost",
        "local",
        "broadcasthost",
        "wpad",
        "a" * 32,
        "123-1",
        "1-2",
        "1h-a",
        "any",
        "log",
    ),
]
"""Words of dhcp-host in dnsmasq(8), what is a time or an octet there; the shortest, the longest."""


def names() -> list[str]:
    """Return names that a pillar may reserve: the words above, and made-up ones."""
    found = dict.fromkeys(WORDS)

    @given(st.from_regex("[a-z0-9][a-z0-9-]{0,5}[a-z0-9]?|[0-9]{1,4}[smhdw]?", fullmatch=True))
    def collect(name: str) -> None:
        found[name] = None

    collect()
    return [name for name in found if accepted(name)]


def accepted(name: str) -> bool:
    """Return whether a pillar may have this name."""
    try:
        return bool(kinds.NAME.parse(name, "", Notes()) == name)
    except Bad:
        return False


def served(directory: Path, network: Network, macs: Mapping[str, str]) -> dict[str, Any]:
    """Serve a network with the files that an apply writes, and return what the relay was told."""
    files = Files(directory)
    files.leases.parent.mkdir(parents=True)
    known = lan_hosts.known("vmlan", network, {})
    names = lan_hosts.names("vmlan", network, {})
    text = dnsmasq.configuration(network, files, TAP, known)
    files.configuration.write_text(text, encoding="utf-8")
    files.reservations.write_text(dnsmasq.reservations_text(known), encoding="utf-8")
    files.hosts.write_text(dnsmasq.hosts_text(names), encoding="utf-8")
    server = ["dnsmasq", f"--conf-file={files.configuration}", "--user=root", "--group=root"]
    asked = {"server": server, "address": network.address, "macs": dict(macs)}
    done = subprocess.run(
        ["unshare", "--net", "--", sys.executable, "-I", str(RELAY), network.interface],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_reserved_name_is_a_name_to_dnsmasq(tmp_path: Path) -> None:
    """Whatever word it is: its machine gets its address, and the name by DHCP and by DNS."""
    wanted = names()
    assert {"ignore", "infinite", "45", "30m"} <= set(wanted) and len(wanted) > 60
    base = ipaddress.IPv4Address("10.9.1.0")
    reservations = {
        name: {
            "mac": f"52:54:00:00:{index >> 8:02x}:{index & 255:02x}",
            "address": str(base + index),
        }
        for index, name in enumerate(wanted)
    }
    declared = {"address": "10.9.0.1/16", "dhcp": {"range": "10.9.200.1-10.9.200.9"}}
    network = spec.network_from("vmlan", {**declared, "reservations": reservations}, "lab")
    macs = {name: item.mac for name, item in network.reservations.items()}
    told = served(tmp_path / "n", network, macs)
    expected = {name: [item.address, name, 3600] for name, item in network.reservations.items()}
    assert told["leased"] == expected
    assert told["resolved"] == {name: address for name, (address, *_) in expected.items()}
    text = (tmp_path / "n/dhcp/leases").read_text(encoding="utf-8")
    leases = dnsmasq.parse_leases(text)
    assert {lease.name: lease.address for lease in leases} == told["resolved"]


@pytest.mark.parametrize(
    ("declared", "seconds"),
    [("120s", 120), ("2147483647", 2**31 - 1), ("3550w", 3550 * 604800), ("infinite", 2**32 - 1)],
)
def test_a_lease_lasts_as_long_as_was_declared(tmp_path: Path, declared: str, seconds: int) -> None:
    """The shortest and the longest that a pillar may have."""
    keys = {"dhcp": {"lease_time": declared}}
    network = spec.network_from("vmlan", keys, "lab")
    told = served(tmp_path / "n", network, {"nobody": "52:54:00:00:00:01"})
    assert told["leased"]["nobody"][2] == seconds
