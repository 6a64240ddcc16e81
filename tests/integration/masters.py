"""
A Salt master and its minion on one throw-away host, as their packages and an admin set them up.

The checkout is /srv/qemulab there, and the configuration is what ``conf/`` in it says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import harness
from harness import REPO
from harness import Host

MINION = "labhost"
PATIENT = "--timeout=60"
"""`salt` asks after five seconds whether a minion lives, and gives up on one that is busy."""
PROGRAMS = REPO / ".venv/bin"
ENVIRONMENT = {
    # As ./salt-call does: the virtualenv has no byte code beside its sources.
    "PYTHONPYCACHEPREFIX": os.fspath(REPO / ".venv/var/pycache"),
    "PYTHONWARNINGS": "ignore",
    # Once a test has put something there (have_gitpython).
    "PYTHONPATH": "/opt/gitpython",
}

MAIN = {
    "master": {"interface": "127.0.0.1", "auto_accept": True},
    "minion": {"master": "127.0.0.1", "id": MINION},
}
"""What an admin writes into /etc/salt/master and /etc/salt/minion for any master and minion."""

UNIT = """
[Unit]
Description=The Salt {name}

[Service]
KillMode={kill_mode}
Type=notify
NotifyAccess=all
LimitNOFILE=8192
Environment={environment}
ExecStart=/opt/salt/bin/salt-{name}
"""
"""Salt's own unit, but for where Salt is. Source: pkg/common/salt-minion.service in Salt."""


@dataclass
class Salted:
    """A host with a master and a minion."""

    host: Host
    running: dict[str, harness.Command] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host.run(["ln", "-s", REPO, "/srv/qemulab"])
        self.host.run(["ln", "-s", REPO / ".venv", "/opt/salt"])
        for name, settings in MAIN.items():
            self.write(f"/etc/salt/{name}", settings)
        self.configure("minion", "qemulab")

    def write(self, path: str, content: Any) -> None:
        """Write a file of the host: a text, or anything else as JSON, which is YAML as well."""
        text = content if isinstance(content, str) else json.dumps(content)
        self.host.run(["install", "-D", "/dev/stdin", path], stdin=text)

    def configure(self, name: str, snippet: str, replace: Mapping[str, str] | None = None) -> None:
        """
        Copy a file of ``conf/`` to where it says that it belongs.

        name
            ``master`` or ``minion``.

        snippet
            The file, without its ending.

        replace
            What an admin changes in it.
        """
        text = (REPO / f"conf/{name}.d/{snippet}.conf").read_text(encoding="utf-8")
        for old, new in (replace or {}).items():
            assert old in text
            text = text.replace(old, new)
        self.write(f"/etc/salt/{name}.d/{snippet}.conf", text)

    def declare(self, lab: Any) -> None:
        """Have the master's pillar say what the minion's lab is, and what another's is."""
        self.write("/srv/pillar/top.sls", {"base": {MINION: ["lab"], "otherhost": ["other"]}})
        self.write("/srv/pillar/lab.sls", {"lab": lab})
        self.write("/srv/pillar/other.sls", {"lab": {"name": "not a name"}})

    def have_gitpython(self) -> None:
        """
        Let the master serve from Git, by the distribution's GitPython.

        In the virtualenv it would be a sixth of each ``salt-call``: Salt imports it where it can.
        """
        packages = "/usr/lib/python3/dist-packages"
        links = [f"{packages}/{name}" for name in ("git", "gitdb", "smmap")]
        self.host.run(["mkdir", "/opt/gitpython"])
        self.host.run(["ln", "-s", *links, "/opt/gitpython"])

    # its daemons

    def write_unit(self, name: str, kill_mode: str) -> None:
        """Write a daemon's unit and have systemd know it."""
        environment = " ".join(f'"{key}={value}"' for key, value in ENVIRONMENT.items())
        text = UNIT.format(name=name, kill_mode=kill_mode, environment=environment)
        self.write(f"/etc/systemd/system/salt-{name}.service", text)
        self.host.run(["systemctl", "daemon-reload"])

    def start(self, *names: str) -> None:
        """Start daemons, ``master`` and ``minion``, and wait until the master hears the minion."""
        for name in names:
            if self.host.supervisor == "systemd":
                self.write_unit(name, "process")
                self.host.run(["systemctl", "start", "--no-block", f"salt-{name}"])
            else:
                command = f"exec /opt/salt/bin/salt-{name} >/dev/null 2>&1"
                self.running[name] = self.host.spawn(["sh", "-c", command], env=ENVIRONMENT)
        self.wait()

    def wait(self) -> None:
        """Wait until the master hears the minion."""
        # `salt` itself asks ten seconds for what became of a job that a minion did not take. A
        # minion on a busy host answers within some seconds, and then nobody waits any longer.
        impatient = ["timeout=5", "gather_job_timeout=1"]
        words = [PROGRAMS / "salt-run", "--out=json", "manage.up", *impatient]

        def heard() -> bool:
            said = self.host.run(words, check=False, env=ENVIRONMENT).stdout
            return MINION in said

        try:
            harness.wait_for(heard, 120, "an answer of the minion")
        except harness.HostFailure as err:
            logs = [Path(f"/var/log/salt/{name}") for name in MAIN]
            said = self.host.run(["tail", "-n", "20", *logs], check=False)
            raise harness.HostFailure(["master and minion"], str(err), said.stdout) from None

    def main_pid(self, name: str = "minion") -> int:
        """Return a daemon's PID, as its systemd has it."""
        shown = self.host.run(["systemctl", "show", "-P", "MainPID", f"salt-{name}"])
        return int(shown.stdout)

    def kill(self, name: str) -> None:
        """Kill a daemon that systemd does not know, and all of its process group."""
        process = self.running.pop(name)
        process.kill()
        process.communicate()

    # what an admin types

    def salt(self, *words: str, check: bool = True) -> Any:
        """Return what the minion answers to ``salt labhost …``; check: its exit status is 0."""
        command = [PROGRAMS / "salt", PATIENT, "--out=json", MINION, *words]
        done = self.host.run(command, check=check, env=ENVIRONMENT, timeout=120)
        try:
            return json.loads(done.stdout)[MINION]
        except (ValueError, KeyError):
            ending = f"exit status {done.returncode} and no JSON"
            argv = [os.fspath(word) for word in command]
            raise harness.HostFailure(argv, ending, done.stdout, done.stderr) from None

    def pids(self) -> dict[str, int]:
        """Return the PIDs of the lab's processes by their command lines."""
        # It ends with 1 where there is none.
        shown = self.host.run(["ps", "-u", "qemulab", "-ww", "-o", "pid=,args="], check=False)
        lines = [line.split(None, 1) for line in shown.stdout.splitlines()]
        return {args: int(pid) for pid, args in lines}
