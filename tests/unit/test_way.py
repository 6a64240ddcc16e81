"""The host's own way to a network: which table counts first, before the TAP is there and after."""

from __future__ import annotations

from typing import Any

import _qemulab_host_net as host_net
import _qemulab_lan_routing as way
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_net import Way

NETWORK = spec.network_from("vmlan", {}, "lab")

# As ``ip -N -j rule`` of iproute2 6.1 prints them.
LOCAL = {"priority": 0, "src": "all", "table": "255"}
MAIN = {"priority": 32766, "src": "all", "table": "254"}
KEPT = {"priority": 32764, "src": "all", "table": "254", "suppress_prefixlen": 0}
WIREGUARD = {"priority": 32765, "not": None, "src": "all", "fwmark": "0xca6c", "table": "51820"}


@pytest.mark.parametrize(
    ("rules", "first"),
    [
        ([LOCAL, KEPT, WIREGUARD, MAIN], True),  # wg-quick's
        ([LOCAL, WIREGUARD, MAIN], False),
        ([LOCAL, {**KEPT, "suppress_prefixlen": 24}, WIREGUARD, MAIN], False),
        ([LOCAL, {**KEPT, "src": "10.9.0.2"}, WIREGUARD, MAIN], False),
        ([LOCAL, {**KEPT, "fwmark": "0x1"}, WIREGUARD, MAIN], False),
        ([LOCAL, {**KEPT, "dst": "10.4.0.0", "dstlen": 16}, WIREGUARD, MAIN], False),
        ([LOCAL, {"priority": 9, "src": "all", "table": "254"}, WIREGUARD], True),
        ([], False),
    ],
)
def test_a_vpn_that_leaves_the_main_table_first_is_in_nobodys_way(
    rules: list[dict[str, Any]], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what the TAP's route will have, but only until that is there."""
    assert way.main_is_first(rules, 51820, 24) is first
    monkeypatch.setattr(host_net, "way_to", lambda *_: Way("wg0", 51820))
    monkeypatch.setattr(host_net, "rules", lambda: rules)
    assert (way.shadowed(NETWORK, is_up=False) is None) is first
    # The kernel has decided with that route: the rules are not asked.
    assert way.shadowed(NETWORK, is_up=True) is not None
