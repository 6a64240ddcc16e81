"""Programs that manage a host's interfaces: which of them has taken a TAP for one of theirs."""

from __future__ import annotations

import _qemulab_host_seam as host
import _qemulab_lan_managers as managers
import pytest
from _qemulab_host_seam import Result

# /run/systemd/netif/links/N of systemd 252, cut to what counts.
NETWORKD = """\
# This is private data. Do not parse.
ADMIN_STATE={}
OPER_STATE=routable
NETWORK_FILE=/etc/systemd/network/80-all.network
"""


@pytest.mark.parametrize("state", ["configuring", "configured", "failed"])
def test_networkd_is_named_with_its_profile(state: str) -> None:
    """Whatever has become of it."""
    profile = "/etc/systemd/network/80-all.network"
    assert managers.networkd_profile(NETWORKD.format(state)) == profile


@pytest.mark.parametrize(
    "text",
    [
        "",
        NETWORKD.format("unmanaged"),
        NETWORKD.format("linger"),
        "ADMIN_STATE=unmanaged\nOPER_STATE=routable\n",
        "ADMIN_STATE=pending\nOPER_STATE=routable\n",  # it has no profile for it
    ],
)
def test_networkd_that_leaves_an_interface_alone_is_not_named(text: str) -> None:
    """Nor one that does not run."""
    assert managers.networkd_profile(text) == ""


@pytest.mark.parametrize(
    ("state", "has"),
    [
        ("connected", True),
        ("connecting (getting IP configuration)", True),
        ("connected (externally)", False),
        ("unmanaged", False),
        ("disconnected", False),
        ("unavailable", False),
    ],
)
def test_networkmanager_is_named_where_it_has_a_profile_on_the_interface(
    state: str, has: bool
) -> None:
    """``nmcli --terse --fields DEVICE,STATE device``; what others have set up it only shows."""
    listed = f"eth0:connected\nvmlan:{state}\nlo:unmanaged\n"
    assert managers.network_manager_has(listed, "vmlan") is has
    assert not managers.network_manager_has(listed, "vmlan2")


def test_networkmanager_is_kept_off_each_interface_by_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two lines with the same key in one file the last would count alone."""
    monkeypatch.setattr(host, "find_binary", lambda _name: "/usr/bin/nmcli")
    monkeypatch.setattr(host, "run", lambda *_, **__: Result(0, "a:connected\nb:connected\n", ""))
    files = set()
    for name in ("a", "b"):
        manager = managers.network_manager(name)
        assert manager is not None and f"interface-name:{name}\\n" in manager.do
        files.add(manager.do.partition(" > ")[2].partition(" && ")[0])
    assert files == {f"/etc/NetworkManager/conf.d/qemulab-{name}.conf" for name in ("a", "b")}
