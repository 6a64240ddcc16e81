"""
Packages made of this checkout, and a host with a minion of its own that has one of them.

Everything is built from a copy, without a network, as a clean clone would have it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import labs

PYTHON = harness.REPO / ".venv/bin/python"
SALT_CALL = harness.REPO / ".venv/bin/salt-call"
BYTE_CODE = {"PYTHONPYCACHEPREFIX": os.fspath(harness.REPO / ".venv/var/pycache")}
"""Where ./salt-call has Salt's: compiling it takes longer than most of what is tested."""
VENV = Path("/opt/salt")
"""Where a host gets a virtualenv of its own."""
EXTRAS = VENV / "extras"
"""Where ``salt-pip`` installs, in a Salt that has its Python with it."""
SITE = VENV / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

LAB = {
    "networks": {"vmlan": {}},
    "vms": {name: labs.tiny(nics=[{"network": "vmlan"}]) for name in "ab"},
}
"""A network and two machines that start at once, and never react to a power button."""


def run(argv: Sequence[str | os.PathLike[str]], cwd: Path, **more: str) -> str:
    """
    Run a command without a network and return all that it said; where it fails, that is raised.

    more
        Variables beside PATH, HOME and LC_ALL.
    """
    words = [os.fspath(word) for word in argv]
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    done = subprocess.run(
        [*alone, *words],
        cwd=cwd,
        env={"PATH": harness.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **BYTE_CODE, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise harness.HostFailure(words, f"exit status {done.returncode}", done.stdout)
    return done.stdout


def git(cwd: Path, *words: str) -> str:
    """Return what git says, also of a checkout that is another user's."""
    return run(["git", "-c", "safe.directory=*", *words], cwd)


def clone(target: Path) -> Path:
    """Give what a clone of the checkout would hold if all in it were committed."""
    files = git(harness.REPO, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, files.split("\0")):
        source = harness.REPO / name
        if source.is_symlink() or source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    git(target, "init", "--quiet")
    git(target, "add", "--all")
    git(target, *who, "commit", "--quiet", "--message=test")
    return target


def previous(target: Path) -> Path:
    """
    Give the sources that came before these: the parent commit's.

    A clone without history has none: then these sources again, under another version.
    """
    target.mkdir()
    try:
        git(harness.REPO, "rev-parse", "--verify", "--quiet", "HEAD^")
    except harness.HostFailure:
        clone(target)
        version = target / "_modules/_qemulab_version.py"
        version.write_text(re.sub('"[0-9.]+"', '"0.0.1"', version.read_text()))
        return target
    archive = target.parent / "previous.tar"
    git(harness.REPO, "archive", "--output", os.fspath(archive), "HEAD^")
    run(["tar", "-xf", archive], target)
    return target


def wheel(tree: Path) -> tuple[Path, str]:
    """Build the wheel of some sources by pip; return it with what pip said."""
    words = ["-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    said = run([PYTHON, *words, "--wheel-dir", "dist", "."], tree)
    (built,) = tree.glob("dist/*.whl")
    return built, said


def version() -> str:
    """Return the version, from its one place."""
    text = (harness.REPO / "_modules/_qemulab_version.py").read_text(encoding="utf-8")
    return re.findall('^VERSION = "(.*)"$', text, re.MULTILINE)[0]


@dataclass
class Minion:
    """A host's own minion without a master, with the configuration that a user would give it."""

    host: harness.Host
    python: Path = PYTHON

    def __post_init__(self) -> None:
        self.write("/srv/pillar/top.sls", {"base": {"*": ["lab"]}})
        self.write("/srv/pillar/lab.sls", {"lab": LAB})
        self.configure({})

    def write(self, path: str, value: Any) -> None:
        """Write a file of the host's: text, or what is not text as YAML."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.host.run(["mkdir", "-p", os.path.dirname(path)])
        self.host.run(["tee", path], stdin=text)

    def configure(self, options: dict[str, Any] | str) -> None:
        """Write the minion's configuration: options, or the text of a file."""
        # Nothing of it is qemulab's; without it, Salt asks a DNS server for the host's name.
        self.write("/etc/salt/minion", {"id": "labhost", "enable_fqdns_grains": False})
        self.write("/etc/salt/minion.d/qemulab.conf", options)

    def install(self, built: Path, *options: str | os.PathLike[str]) -> None:
        """Install a wheel into a virtualenv of the host's own, which sees Salt and nothing else."""
        if self.host.run(["test", "-e", VENV], check=False).returncode:
            self.host.run([PYTHON, "-m", "venv", "--without-pip", VENV])
            self.write(str(SITE / "salt.pth"), f"{SITE_OF_SALT}\n{EXTRAS}\n")
            self.host.run(["mkdir", EXTRAS])
            self.python = VENV / "bin/python"
        shutil.copy(built, self.host.shared)
        pip = [PYTHON, "-m", "pip", "--python", self.python, "install", "--no-index"]
        self.host.run([*pip, *options, self.host.shared / built.name], env=BYTE_CODE)

    def salt_pip(self, built: Path) -> None:
        """Install a wheel as ``salt-pip install --no-deps --upgrade`` does."""
        self.install(built, "--no-deps", "--upgrade", "--target", EXTRAS)

    def call(self, *words: str, check: bool = True) -> Any:
        """Return what ``salt-call --local`` answers."""
        command = [self.python, SALT_CALL, "--local", "--out=json", "--retcode-passthrough", *words]
        done = self.host.run(command, check=check, env=BYTE_CODE)
        return json.loads(done.stdout)["local"] if check else done

    def apply(self, sls: str, *words: str) -> dict[str, Any]:
        """Apply an SLS and return the changes of its states of qemulab, all of which went well."""
        states = labs.flat(self.call("state.apply", sls, *words))
        wanted = (True, None) if words else (True,)
        assert states and all(state["result"] in wanted for state in states.values()), states
        return {name: state["changes"] for name, state in states.items() if state["changes"]}

    def pids(self) -> dict[str, str]:
        """Return the lab's processes: their PIDs with what they are."""
        told = self.host.run(["pgrep", "-l", "qemu|socat|dnsmasq|supervisord"], check=False).stdout
        return dict(line.split(None, 1) for line in told.splitlines())

    def whole_lab(self) -> dict[str, str]:
        """Return the processes of the lab, all of which run."""
        pids = self.pids()
        names = list(pids.values())
        assert sum("qemu" in name for name in names) == 2 and {"socat", "dnsmasq"} <= set(names)
        return pids

    def lives(self) -> None:
        """Show a lab from nothing to nothing: what is said beforehand is done, once."""
        said = self.apply("lab", "test=True")
        assert {"network_present vmlan", "vm_running a", "vm_running b"} <= set(said)
        assert self.pids() == {}
        assert self.apply("lab") == said
        self.whole_lab()
        assert self.apply("lab") == {}
        self.apply("lab.clean")
        assert self.pids() == {}


SITE_OF_SALT = harness.REPO / ".venv" / SITE.relative_to(VENV)
"""Where the tests' own Salt is installed."""
