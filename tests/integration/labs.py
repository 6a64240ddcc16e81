"""
A lab on a throw-away host, as a user handles it: apply, log in, ask, take away.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _qemulab_run_units as units
import harness
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError
from supervisor.xmlrpc import SupervisorTransport

GUEST_ROOT = harness.REPO / ".venv/var/tests/guest"
"""Where the guest is built once for all tests: that needs a network, which no host here has."""

RECIPE = {"master": "10.0.3.101", "worker1": "10.0.3.102", "worker2": "10.0.3.103"}
PORTS = {"master": 10022, "worker1": 10023, "worker2": 10024}
LOGIN_TIMEOUT = 120.0
"""Seconds until a guest must answer SSH; three at once take about 15 on two idle cores."""

STAYS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/sub", "/etc/.pwd.lock")
"""What making the user qemulab writes; the user is to stay."""


@functools.cache
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
            found[f"{function} {name}"] = with_each_warning(state)
    return found


def with_each_warning(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with its warnings one by one: several are lines of its comment."""
    texts = [text.rstrip("\n") for text in state.get("warnings", ())]
    if any("more than one warning" in text for text in texts):
        texts = state["comment"].splitlines()[1:]
    return {**state, "warnings": texts} if texts else state


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
        """Wait until machines of the recipe let us in; a failure says where the machine hangs."""
        for name in names:
            try:
                harness.wait_for(
                    lambda name=name: self.ssh(name, "echo in", check=False) == "in",
                    LOGIN_TIMEOUT,
                    f"SSH on {name}",
                )
            except harness.HostFailure as err:
                said = [self.console(name)[-3000:], self._where_it_is(name)]
                raise harness.HostFailure(["a login"], str(err), *said) from None

    def _where_it_is(self, name: str) -> str:
        """Return where a machine's CPUs are, or why they cannot be asked."""
        order = {"command-line": "info registers -a"}
        try:
            with self.qmp(name) as qmp:
                shown = str(qmp.execute("human-monitor-command", order))
        except QmpError as err:
            return str(err)
        return " ".join(re.findall(r"RIP=\w+|HLT=\d", shown))

    def pids(self) -> dict[str, int]:
        """
        Return the PIDs of the lab's processes by name, as their supervisor knows them.

        It is asked itself: each ``salt-call`` is most of a second in which a core is busy.
        """
        if self.host.supervisor == "systemd":
            found = self._services()
        else:
            programs = self.supervisord().getAllProcessInfo()
            found = {item["name"].partition("-")[::2]: item["pid"] for item in programs}
        return {
            name if kind == "vm" else f"{kind} {name}": pid
            for (kind, name), pid in found.items()
            if pid and kind in units.KINDS
        }

    def _services(self) -> dict[tuple[str, ...], int]:
        """Return the main processes of systemd's units of the lab, by kind and name."""
        show = ["systemctl", "show", "--property=Id,MainPID", "qemulab-*@lab:*.service"]
        found = {}
        for block in self.host.run(show).stdout.split("\n\n"):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            kind, _, name = units.parse_service(values.get("Id", "")) or ("", "", "")
            found[kind, name] = int(values.get("MainPID", 0))
        return found

    def supervisord(self) -> Any:
        """Return the lab's supervisord as an object with its XML-RPC methods."""
        socket = self.host.path("/run/qemulab/lab/supervisord.sock")
        transport = SupervisorTransport(serverurl=f"unix://{socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport).supervisor

    def console(self, name: str) -> str:
        """Return all that a machine has said on its serial console; empty before its start."""
        log = self.host.path(f"/var/log/qemulab/lab/consoles/{name}.log")
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def qmp(self, name: str) -> Qmp:
        """Return a connection to a machine's QEMU."""
        return Qmp(self.host.path(f"/run/qemulab/lab/vms/{name}/qmp.sock"))

    def leftovers(self) -> dict[str, set[str]]:
        """Return what is there and was not when the host came up, but for the user qemulab."""
        found = self.host.leftovers()
        files = {path for path in found.pop("files", set()) if not path.startswith(STAYS)}
        return {**found, **({"files": files} if files else {})}


def is_guest(path: str) -> bool:
    """Return whether a path is the built-in guest's, which a purge leaves, or leads to it."""
    return path == "/var/lib/qemulab" or f"{path}/".startswith("/var/lib/qemulab/guest/")


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
