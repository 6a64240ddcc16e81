"""
The throw-away hosts themselves: they come up, they are isolated, and they leave nothing behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("unshare", "nsenter", "setpriv", "ip", "ss", "ps"),
]
SYSTEMD = pytest.mark.needs("/lib/systemd/systemd", "systemctl")


def traces() -> dict[str, set[str]]:
    """Return what a host could leave on this machine."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    groups = {path for path, _, _ in os.walk("/sys/fs/cgroup") if harness.GROUP in path}
    return {"mounts": set(mounts), "groups": groups, "links": set(os.listdir("/sys/class/net"))}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail where this machine differs after the test."""
    before = traces()
    yield
    assert traces() == before


@SYSTEMD
def test_host_is_isolated(nothing_left: None, host: harness.Host) -> None:
    """It has a loopback interface, no way out, and its own PID 1."""
    assert host.interfaces() == {"lo"}
    assert host.routes() <= {"::1 dev lo proto kernel metric 256 pref medium"}
    assert (
        host.run(["cat", "/proc/1/comm"]).stdout.strip()
        == {
            "supervisord": "bash",
            "systemd": "systemd",
        }[host.supervisor]
    )
    assert host.leftovers() == {}


@SYSTEMD
def test_what_a_host_writes_does_not_last(host: harness.Host, repo: Path) -> None:
    """The overlay takes it, but for the one directory that is shared."""
    host.run(["touch", "/etc/of-the-host", repo / "of-the-host", host.shared / "shared"])
    assert {"/etc/of-the-host"} <= host.leftovers()["files"]
    assert not Path("/etc/of-the-host").exists()
    assert not (repo / "of-the-host").exists()
    assert (host.shared / "shared").exists()


@SYSTEMD
def test_processes_end_with_their_host(tmp_path: Path) -> None:
    """Even one that left its session."""
    for make in (harness.namespace_host, harness.systemd_host):
        with make(tmp_path) as host:
            host.run(["sh", "-c", "setsid -f sleep 4321 > /dev/null 2>&1"])
            harness.wait_for(lambda host=host: "sleep 4321" in host.processes(), 10, "its exec")
            assert host.leftovers() == {"processes": {"sleep 4321"}}
            namespace = os.readlink(f"/proc/{host.pid1}/ns/pid")
        assert namespace not in pid_namespaces()


def pid_namespaces() -> set[str]:
    """Return the PID namespaces that some process is in."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            found.add(os.readlink(entry))
        except OSError:
            continue
    return found


def test_orphans_are_reaped(namespace_host: harness.Host) -> None:
    """A zombie that nobody waits for would look like a process of the lab that did not end."""
    namespace_host.run(["sh", "-c", "(sleep 0.1 > /dev/null 2>&1 &)"])
    harness.wait_for(lambda: not namespace_host.leftovers(), 5, "the orphan's end")


def test_failures_show_the_output(namespace_host: harness.Host) -> None:
    """A failed command in a log has to explain itself."""
    with pytest.raises(harness.HostFailure, match="exit status 3\n(.|\n)*said\n(.|\n)*warned"):
        namespace_host.run(["sh", "-c", "echo said; echo warned >&2; exit 3"])
    began = time.monotonic()
    with pytest.raises(harness.HostFailure, match="did not end within 0.2 s"):
        namespace_host.run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - began < 10


def test_a_spawned_command_can_be_ended(namespace_host: harness.Host) -> None:
    """A signal to what we see of it from outside reaches the command itself."""
    command = namespace_host.spawn(["sleep", "4321"])
    harness.wait_for(namespace_host.leftovers, 5, "the command")
    command.terminate()
    command.communicate(timeout=5)
    harness.wait_for(lambda: not namespace_host.leftovers(), 5, "the command's end")


def test_salt_call_needs_no_network(namespace_host: harness.Host, tmp_path: Path) -> None:
    """The virtualenv that is there is enough, and the answer is JSON."""
    pillar = tmp_path / "a pillar"
    pillar.write_text("lab: {name: of-this-test}\n", encoding="utf-8")
    template = ["slsutil.renderer", "string='{{ pillar.lab.name }}'", "default_renderer=jinja"]
    assert namespace_host.salt_call(*template, pillar=pillar) == "of-this-test"
    assert namespace_host.leftovers() == {}


@pytest.mark.needs("tcpdump")
def test_uplink_records_what_leaves(nothing_left: None, tmp_path: Path) -> None:
    """And nothing but that."""
    with harness.namespace_host(tmp_path, uplink=True) as host:
        assert host.uplink is not None
        assert host.interfaces() == {"lo", "uplink"}
        assert host.uplink.seen() == []
        host.run(["bash", "-c", "echo leak > /dev/udp/203.0.113.9/53"])
        frames = host.uplink.seen()
        assert len(frames) == 1 and "203.0.113.9.53" in frames[0]
