"""
The Salt that a host already has: ``./salt-call`` takes it; ``salt-call --local`` finds the tree.

It is a real Salt in a virtualenv of its own, whose ``salt-call`` is put on the throw-away host's
PATH. The checkout is a copy without ``.venv``, and nothing can be installed there: no host here has
a network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
import labs
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
    # The first test makes the virtualenv where it is not made yet.
    pytest.mark.timeout(900),
]

RELEASE = "3007"
COPY = "/srv/a checkout, of mine"
DECLARED = {"networks": {"n": {}}, "vms": {"a": tiny(nics=[{"network": "n"}])}}

#: A user who has chosen neither Salt nor Python.
NOTHING_SAID = {"QEMULAB_SALT": "", "QEMULAB_PYTHON": ""}

TOO_OLD = "#!/bin/sh\necho 'salt-call 3005.1 (Phosphorus)'\n"

OLD_PYTHON = """#!/bin/sh
case "$*" in
    --version) echo 'salt-call 3006.0 (Sulfur)' ;;
    *) echo 'local: /usr/local/bin/old-python' ;;
esac
"""
OLD_PYTHON_ITSELF = """#!/bin/sh
case "$*" in
    --version) echo 'Python 3.6.15' ;;
    *version_info*) exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def other() -> Path:
    """Make a virtualenv with another Salt, where the package index can be reached; its folder."""
    subprocess.run(
        [harness.REPO / "salt-call", "--out=quiet", "test.ping"],
        env={**os.environ, "QEMULAB_SALT": RELEASE},
        check=True,
        capture_output=True,
    )
    python = os.environ.get("QEMULAB_PYTHON")
    return harness.REPO / f".venv/var/salt-{RELEASE}{f'-on-{Path(python).name}' if python else ''}"


@pytest.fixture(scope="module")
def wheels(other: Path) -> Path:
    """Fetch what the one virtualenv is made of that a host without systemd needs."""
    folder = harness.REPO / ".venv/var/tests/wheels"
    if not list(folder.glob("supervisor-*.whl")):
        subprocess.run(
            [other / "bin/python", "-I", "-m", "pip", "download", "--quiet", "--no-deps"]
            + ["--dest", folder, "-r", harness.REPO / "requirements-supervisord.txt"],
            check=True,
        )
    return folder


def byte_code(other: Path) -> dict[str, str]:
    """Return the variable that lets Salt be found compiled: to do that anew takes 10 seconds."""
    return {"PYTHONPYCACHEPREFIX": str(other / "var/pycache")}


def install(host: harness.Host, target: str, text: str) -> None:
    """Write a program of the host's own."""
    path = host.shared / "program"
    path.write_text(text, encoding="utf-8")
    host.run(["install", "-m", "755", path, target])


def copied(host: harness.Host, other: Path) -> None:
    """Give a host a Salt of its own, and the checkout as somebody else gets it."""
    host.run(["cp", other / "bin/salt-call", "/usr/bin/salt-call"])
    host.run(["mkdir", COPY])
    parts = ["salt-call", "libexec", "salt", "_modules", "_states", "pillar.example"]
    texts = [*parts, "requirements.txt", "requirements-supervisord.txt"]
    host.run(["cp", "-r", *(harness.REPO / name for name in texts), COPY])
    host.run(["mkdir", "-p", f"{COPY}/.venv/var"])
    host.run(["cp", "-r", other / "var/pycache", f"{COPY}/.venv/var/"])


def answer(host: harness.Host, words: list[str], **env: str) -> tuple[Any, str]:
    """Return what the copy's ``./salt-call`` answers as JSON, and what it says beside that."""
    command = [f"{COPY}/salt-call", "--out=json", *words]
    done = host.run(command, env={**NOTHING_SAID, "QEMULAB_PROGRESS": "", **env}, timeout=300)
    return json.loads(done.stdout)["local"], done.stderr


def test_salt_of_the_host_runs_a_lab(
    namespace_host: harness.Host, other: Path, wheels: Path
) -> None:
    """No virtualenv with Salt is made, and supervisord comes from a small one; up, and away."""
    lab = Lab(namespace_host)
    copied(namespace_host, other)
    namespace_host.run(["sh", "-c", 'rm -r "$0"/lib/python*/site-packages/supervisor*', other])
    no_network = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), **byte_code(other)}
    pillar = {"QEMULAB_PILLAR": str(lab.pillar(DECLARED))}

    version, said = answer(namespace_host, ["grains.get", "saltversion"], **no_network)
    assert version.startswith(RELEASE)
    assert said.splitlines()[0] == (
        f"qemulab: using the host's own Salt {RELEASE}, /usr/bin/salt-call"
    )
    assert "installing supervisord" in said

    # From now on nothing is looked for, and nothing said.
    for sls, changed in (("lab", True), ("lab", False), ("lab.purge", True)):
        states, said = answer(namespace_host, ["state.apply", sls], **pillar)
        assert all(state["result"] is True for state in states.values())
        assert bool(lab.changes(labs.flat(states))) is changed
        assert said == ""
        running = namespace_host.run(["pgrep", "-a", "-f", "supervisord"], check=False).stdout
        assert f"{COPY}/.venv/var/supervisord/bin/" in running or sls == "lab.purge"
    assert namespace_host.run(["ls", f"{COPY}/.venv"]).stdout.split() == ["var"]

    # The host's Salt is replaced, as by an upgrade: looked at anew.
    namespace_host.run(["cp", "--remove-destination", other / "bin/salt-call", "/usr/bin/"])
    said = answer(namespace_host, ["test.ping"], **byte_code(other))[1]
    assert "using the host's own Salt" in said


def test_salt_that_will_not_do_is_passed_over(namespace_host: harness.Host, other: Path) -> None:
    """Each with its reason, once, on stderr; the first on PATH that will do is taken."""
    copied(namespace_host, other)
    install(namespace_host, "/usr/local/sbin/salt-call", TOO_OLD)
    install(namespace_host, "/usr/local/bin/salt-call", "#!/bin/sh\nexit 1\n")
    install(namespace_host, "/usr/sbin/salt-call", OLD_PYTHON)
    install(namespace_host, "/usr/local/bin/old-python", OLD_PYTHON_ITSELF)
    version, said = answer(namespace_host, ["grains.get", "saltversion"], **byte_code(other))
    assert version.startswith(RELEASE)
    assert said.splitlines() == [
        "qemulab: /usr/local/sbin/salt-call is Salt 3005, older than 3006: passed over",
        "qemulab: /usr/local/bin/salt-call does not run: passed over",
        "qemulab: /usr/sbin/salt-call runs on Python 3.6.15, older than 3.10: passed over",
        f"qemulab: using the host's own Salt {RELEASE}, /usr/bin/salt-call",
    ]
    assert answer(namespace_host, ["grains.get", "saltversion"]) == (version, "")


def test_virtualenv_can_be_insisted_on(namespace_host: harness.Host, other: Path) -> None:
    """Whatever the host has; and it is made where no Salt of the host will do."""
    copied(namespace_host, other)
    ours = namespace_host.salt_call("grains.get", "pythonexecutable")
    assert Path(ours).parents[1] == Path(sys.prefix)
    install(namespace_host, "/usr/bin/salt-call", TOO_OLD)
    done = namespace_host.run(
        [f"{COPY}/salt-call", "test.ping"],
        env={**NOTHING_SAID, "PIP_NO_INDEX": "1"},
        check=False,
    )
    assert done.returncode != 0 and done.stdout == ""
    assert "passed over\n" in done.stderr and "making a virtualenv" in done.stderr


def test_salt_call_local_finds_the_tree_anywhere(namespace_host: harness.Host, other: Path) -> None:
    """By ``module_dirs``, in a path with spaces: no copy, no sync, no ./salt-call."""
    copied(namespace_host, other)
    config = namespace_host.shared / "minion"
    config.write_text(
        json.dumps(
            {
                "id": "labhost",
                "file_client": "local",
                "file_roots": {"base": [f"{COPY}/salt"]},
                "module_dirs": [COPY],
                "enable_fqdns_grains": False,
            }
        )
    )
    namespace_host.run(["install", "-D", "-m", "644", config, "/etc/salt/minion"])
    for sls, changed in (("lab", True), ("lab", False), ("lab.purge", True)):
        words = ["state.apply", sls, f"pillar={json.dumps({'lab': DECLARED})}"]
        done = namespace_host.run(
            ["salt-call", "--local", "--out=json", "--retcode-passthrough", *words],
            env=byte_code(other),
        )
        states = labs.flat(json.loads(done.stdout)["local"])
        assert states and all(state["result"] is True for state in states.values())
        assert any(state["changes"] for state in states.values()) is changed
        assert "qemulab" not in done.stderr
