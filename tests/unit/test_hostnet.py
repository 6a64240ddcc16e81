"""The host's network, on the real host: interfaces, routes, ports."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import _qemulab_host_net as host_net
import pytest


@pytest.mark.parametrize(
    ("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)]
)
def test_a_port_is_free_until_somebody_has_it(protocol: str, kind: socket.SocketKind) -> None:
    """On its address, or on all."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        assert not host_net.port_is_free("127.0.0.1", port, protocol)
        assert not host_net.port_is_free("0.0.0.0", port, protocol)
        assert host_net.port_is_free("127.0.0.2", port, protocol)
    assert host_net.port_is_free("127.0.0.1", port, protocol)


def test_a_port_that_answers_is_told_from_one_that_does_not() -> None:
    """At an address of the host's own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not host_net.tcp_answers("127.0.0.1", port)
        listener.listen()
        assert host_net.tcp_answers("127.0.0.1", port)


@pytest.mark.needs("ip")
def test_links_and_routes_are_lists_whatever_there_is() -> None:
    """Of the namespace that asks."""
    links, routes = host_net.survey()
    assert "lo" in [link["ifname"] for link in links]
    assert all({"dst", "dev"} <= route.keys() for route in routes if route.get("type") == "unicast")


@pytest.mark.needs("ip")
def test_rules_name_their_tables_by_number() -> None:
    """The one that counts first comes first: every kernel has that of the table local there."""
    tables = [rule.get("table") for rule in host_net.rules()]
    assert tables[0] == "255" and "254" in tables


@pytest.mark.needs_root
@pytest.mark.needs("ip", "unshare")
def test_a_carrier_is_there_once_an_interface_is_up() -> None:
    """A TAP that no process holds has none; nor has an interface that is not there."""
    code = "import _qemulab_host_net as n; print(n.has_carrier('lo'), n.has_carrier('t0'))"
    say = shlex.join([sys.executable, "-c", code])
    script = f"{say}; ip link set lo up; ip tuntap add t0 mode tap; ip link set t0 up; {say}"
    folder = str(Path(host_net.__file__).parent)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False", "True", "False"]
