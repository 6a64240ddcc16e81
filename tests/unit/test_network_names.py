"""What a network has by its name on the host, whatever other networks and labs are called."""

from __future__ import annotations

import _qemulab_host_seam as host
import _qemulab_lan_network as networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

NAME = st.from_regex("[a-c]([a-c-]{0,3}[a-c])?", fullmatch=True)


@given(st.sets(st.tuples(NAME, NAME), min_size=2))
def test_no_two_networks_share_a_device(both: set[tuple[str, str]]) -> None:
    """The hub's copy of /dev/net/tun, on a host where the original is root's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "mode", lambda _path: 0o600)
        assert len({networks.tun_device(lab, name) for lab, name in both}) == len(both)
