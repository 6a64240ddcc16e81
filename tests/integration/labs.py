"""
A lab on a throw-away host, as a user handles it: apply, log in, ask, take away.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

GUEST_ROOT = harness.REPO / ".venv/var/tests/guest"
"""Where the guest is built once for all tests: that needs a network, which no host here has."""

RECIPE = {"master": "10.0.3.101", "worker1": "10.0.3.102", "worker2": "10.0.3.103"}
PORTS = {"master": 10022, "worker1": 10023, "worker2": 10024}
LOGIN_TIMEOUT = 120.0
"""Seconds until a guest must answer SSH; three at once take about 15 on two idle cores."""

STAYS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/sub", "/etc/.pwd.lock")
"""What making the user qemulab writes; the user is to stay."""


def built_guest() -> Path:
    """Build the built-in guest where it is not built yet, and return its directory."""
    built = subprocess.run(
        [harness.REPO / "salt-call", "qemulab.guest_ensure"],
        env={**os.environ, "QEMULAB_ROOT": os.fspath(GUEST_ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return GUEST_ROOT / "var/lib/qemulab/guest"


def flat(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the states of an apply by ``function name``, those of qemulab only."""
    assert isinstance(answer, dict), answer
    found = {}
    for tag, state in answer.items():
        module, _, name, function = tag.split("_|-")
        if module == "qemulab":
            found[f"{function} {name}"] = state
    return found


@dataclass
class Lab:
    """A lab on a throw-away host."""

    host: harness.Host

    def __post_init__(self) -> None:
        guest = built_guest()
        self.host.run(["mkdir", "-p", "/var/lib/qemulab"])
        self.host.run(["cp", "-rT", guest, "/var/lib/qemulab/guest"])

    def pillar(self, declared: Any) -> Path:
        """Write a pillar for the host and return its path."""
        path = self.host.shared / "pillar.sls"
        path.write_text(json.dumps({"lab": declared}), encoding="utf-8")
        return path

    def apply(
        self, sls: str = "lab", declared: Any = None, test: bool = False, check: bool = True
    ) -> dict[str, Any]:
        """
        Apply an SLS and return its states by ``function name``.

        declared
            What stands under ``lab`` in the pillar; default the example's.
        """
        words = ["state.apply", sls, *(["test=True"] if test else [])]
        pillar = None if declared is None else self.pillar(declared)
        return flat(self.host.salt_call(*words, pillar=pillar, check=check))

    def changes(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return what an apply changed: by state, then by key; nothing for what it left alone."""
        return {name: state["changes"] for name, state in states.items() if state["changes"]}

    def call(self, function: str, *words: str, declared: Any = None) -> Any:
        """Call an execution function of qemulab."""
        pillar = None if declared is None else self.pillar(declared)
        return self.host.salt_call(f"qemulab.{function}", *words, pillar=pillar)

    def ssh_argv(self, name: str) -> list[str]:
        """Return the words that log in to a machine of the recipe."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["BatchMode=yes", "ConnectTimeout=5"]
        flags = [word for option in options for word in ("-o", option)]
        key = "/var/lib/qemulab/lab/ssh/id_ed25519"
        return ["ssh", "-i", key, "-p", str(PORTS[name]), *flags, "root@127.0.0.1"]

    def ssh(self, name: str, command: str, check: bool = True) -> str:
        """Run a command in a guest and return what it printed."""
        return self.host.run(
            [*self.ssh_argv(name), command], check=check, timeout=60
        ).stdout.strip()

    def wait_for_login(self, *names: str) -> None:
        """Wait until machines of the recipe let us in."""
        for name in names:
            harness.wait_for(
                lambda name=name: self.ssh(name, "echo in", check=False) == "in",
                LOGIN_TIMEOUT,
                f"SSH on {name}",
            )

    def pids(self) -> dict[str, int]:
        """Return the PIDs of the lab's processes, as their supervisor knows them."""
        found = {name: self.call("vm_info", name)["pid"] for name in self.call("vm_list")}
        for name in self.call("network_list"):
            info = self.call("network_info", name)
            found |= {f"{kind} {name}": info[kind]["pid"] for kind in ("hub", "dnsmasq")}
        return found

    def leftovers(self) -> dict[str, set[str]]:
        """Return what is there and was not when the host came up, but for the user qemulab."""
        found = self.host.leftovers()
        files = {path for path in found.pop("files", set()) if not path.startswith(STAYS)}
        return {**found, **({"files": files} if files else {})}


def blank_disc(path: Path) -> Path:
    """Write an image that says of itself that it is a CD, with nothing on it."""
    path.write_bytes(bytes(16 * 2048) + b"\1CD001" + bytes(2**20))
    return path


def tiny(**more: Any) -> dict[str, Any]:
    """
    Return the declaration of a machine that starts and stops at once: it has no firmware of 4 MB,
    and nothing in it that would ever hear its power button.
    """
    small = {"memory": 32, "cpus": 1, "firmware": "bios", "boot": "disk", "stop_grace": 0}
    return {**small, **more}
