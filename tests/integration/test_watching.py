"""
A client that stays at a machine's second QMP socket: it hears what becomes of the machine, and
everything else works as if nobody were there.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from faultlab import fresh
from faultlab import healed
from faultlab import kill
from labs import Lab
from labs import blank_disc
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

Declared = dict[str, Any]
SOCKET = "/run/qemulab/lab/vms/a/watch.sock"
VM = "/var/lib/qemulab/lab/vms/a"


@pytest.fixture(params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """Give a lab of one machine that runs."""
    with harness.HOSTS[request.param](tmp_path) as host:
        lab = Lab(host)
        lab.apply(declared=declared())
        yield lab


def declared(**more: Any) -> Declared:
    """Return a network and a machine, with more keys of the machine's."""
    nics = [{"network": "vmlan"}, {"network": "user"}]
    return {"networks": {"vmlan": {}}, "vms": {"a": tiny(nics=nics, **more)}}


class Watcher:
    """A client that stays, for the length of a ``with`` block; what it was told is kept."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r", encoding="utf-8")
        assert "QMP" in json.loads(self.lines.readline())
        self.socket.sendall(b'{"execute": "qmp_capabilities"}\n')
        assert json.loads(self.lines.readline()) == {"return": {}}

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_error: object) -> None:
        self.lines.close()
        self.socket.close()

    def ask(self, command: str) -> Any:
        """Return QEMU's answer; events before it are passed over."""
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        for line in self.lines:
            message = json.loads(line)
            if "return" in message:
                return message["return"]
        raise AssertionError("QEMU has gone")

    def events(self) -> list[str]:
        """Return the names of all events until QEMU is gone."""
        with contextlib.suppress(ConnectionResetError):
            return [json.loads(line).get("event", "") for line in self.lines]
        return []


def test_who_stays_is_in_nobodys_way(lab: Lab) -> None:
    """Looks, applies, live changes, a reset and a stop; and what has happened was told."""
    assert lab.call("vm_info", "a")["watch"] == SOCKET
    disc = blank_disc(lab.host.shared / "disc.iso")
    with Watcher(lab.host.path(SOCKET)) as watcher:
        assert watcher.ask("query-status")["status"] == "running"
        assert lab.call("vm_list") == {"a": "running"}
        assert lab.changes(lab.apply(declared=declared())) == {}
        # Forwards are opened and discs changed over the one socket while the other is held.
        forwards = [{"host_port": 18080, "guest_port": 80}]
        nics = [{"network": "vmlan"}, {"network": "user", "forwards": forwards}]
        change = {"nics": nics, "cdrom": str(disc)}
        want = declared() | {"vms": {"a": declared()["vms"]["a"] | change}}
        done = lab.apply(declared=want)["vm_running a"]
        assert {key: each["effect"] for key, each in done["changes"].items()} == {
            "cdrom": "live",
            "nics:1:forwards": "live",
        }
        assert lab.changes(lab.apply(declared=want)) == {}
        assert lab.call("vm_reset", "a") is True
        assert watcher.ask("query-status")["running"] is True
        assert lab.call("vm_stop", "a")["how"] == "quit"
        assert "SHUTDOWN" in watcher.events()
    assert lab.call("vm_list") == {"a": "stopped"}


def test_a_machine_of_an_earlier_release_gets_it_with_its_next_start(lab: Lab) -> None:
    """It runs on without, and nobody is shown a change."""
    script = lab.host.path(f"{VM}/launch")
    today = script.read_text(encoding="utf-8")
    earlier = re.sub(r" -chardev socket,id=watch,\S+ -mon chardev=watch,\S+", "", today)
    assert len(today) - len(earlier) > len(SOCKET)
    script.write_text(earlier, encoding="utf-8")
    lab.host.path(SOCKET).unlink()
    first = lab.pids()["a"]
    kill(lab, first)
    healed(lambda: fresh(lab, "a", first), "QEMU, by its script")
    script.write_text(today, encoding="utf-8")
    assert not lab.host.path(SOCKET).exists()

    second = lab.pids()["a"]
    for test in (True, False):
        states = lab.apply(declared=declared(), test=test)
        assert lab.changes(states) == {}
        assert not [state for state in states.values() if state.get("pending")]
    assert lab.pids()["a"] == second
    lab.call("vm_restart", "a")
    with Watcher(lab.host.path(SOCKET)) as watcher:
        assert watcher.ask("query-status")["status"] == "running"
