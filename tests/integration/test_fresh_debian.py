"""
A fresh, minimal Debian: the two commands of the README install all that they need themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import debians
import harness
import pytest

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("mmdebstrap", "unshare"),
    # A first test makes the root, which takes the package index's time.
    pytest.mark.timeout(900),
]

PYTHON = "qemulab: installing packages: python3 python3-venv"


def test_first_run_installs_python_and_says_so() -> None:
    """On Debian 13, whose root the other tests use from there: it had no Python at all."""
    debians.prepared()
    said = debians.FIRST_RUN.read_text(encoding="utf-8").splitlines()
    # Another virtualenv of the same checkout may be under way meanwhile, on this machine.
    assert [line for line in said if "waiting for another run" not in line] == [
        PYTHON,
        f"qemulab: making a virtualenv in {harness.REPO / '.venv'}",
        "qemulab: installing Salt (some minutes at most)",
    ]


@pytest.fixture
def debian12() -> Iterator[Path]:
    """Make a Debian 12 with git, which brings no Python, and nothing else."""
    root = debians.CACHE / "debian12"
    debians.make("bookworm", root, ("git",))
    assert not list(root.glob("usr/bin/python*"))
    yield root
    shutil.rmtree(root)


@pytest.mark.full
def test_both_commands_do_all_the_set_up(debian12: Path) -> None:
    """A dry run of the lab, its packages, and the unit tests, in this order; then all is there."""
    said = debians.in_root(debian12, "salt-call", "--out=json", "state.apply", "lab", "test=True")
    assert said.splitlines()[0] == PYTHON
    debians.in_root(debian12, "salt-call", "--out=json", "state.apply", "lab.packages")
    said = debians.in_root(debian12, "test", "tests/unit", "-q")
    assert "installing pytest" in said and "mmdebstrap" in said
    assert debians.in_root(debian12, "test", "tests/unit", "-q", "-k", "test_run_pip") == ""


@pytest.mark.full
def test_the_first_run_installs_venv_where_python_is_there() -> None:
    """As on the Debian 12 on which both commands once stopped: it goes on to its end."""
    root = debians.CACHE / "debian12-python"
    debians.make("bookworm", root, ("git", "python3"))
    try:
        assert list(root.glob("usr/bin/python3")) and not list(
            root.glob("usr/lib/python3*/ensurepip")
        )
        said = debians.in_root(root, "salt-call", "--out=txt", "test.ping").splitlines()
        assert said[0] == "qemulab: installing packages: python3-venv"
        assert list(root.glob("usr/lib/python3*/ensurepip"))
        assert debians.in_root(root, "salt-call", "--out=txt", "test.ping") == ""
    finally:
        shutil.rmtree(root)


COPY = "/srv/checkout"
NO_VENV = "qemulab: python3-venv is missing: "
BY_HAND = "install it with this distribution's package manager"


def copied(host: harness.Host) -> None:
    """Give a host a checkout that anybody may write to, and take Python's venv away from it."""
    parts = ("salt-call", "test", "libexec", "requirements.txt", "requirements-test.txt")
    host.run(["mkdir", COPY])
    host.run(["cp", "-r", *(harness.REPO / name for name in (*parts, "pillar.example")), COPY])
    host.run(["chown", "-R", "nobody", COPY])
    host.run(["sh", "-c", "mv /usr/lib/python3.*/ensurepip /srv/; rm -f /usr/local/bin/python3*"])


def test_without_root_or_package_manager_it_is_one_line(namespace_host: harness.Host) -> None:
    """What is missing, and how it is had; nothing is installed, nor tried."""
    host = namespace_host
    copied(host)

    def said(*command: str) -> str:
        done = host.run(command, check=False, env={"QEMULAB_PYTHON": ""})
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr.strip()

    user = ("setpriv", "--reuid", "nobody", "--clear-groups", "--")
    assert said(*user, f"{COPY}/test") == f"{NO_VENV}apt-get install python3-venv"
    host.run(["sh", "-c", "rm /usr/bin/apt-get"])
    assert said(*user, f"{COPY}/test") == f"{NO_VENV}{BY_HAND}"
    assert said(f"{COPY}/salt-call", "test.ping") == f"{NO_VENV}{BY_HAND}"
    assert said(f"{COPY}/test") == f"{NO_VENV}{BY_HAND}"
    host.run(["sh", "-c", "rm /usr/bin/python3*"])
    assert said(f"{COPY}/salt-call", "test.ping") == f"qemulab: python3 is missing: {BY_HAND}"


#: Stands in for a package manager that is not here: notes how it was called, and brings venv back.
MANAGER = """#!/bin/sh
echo "$(basename "$0") $*" >> /srv/asked
mv /srv/ensurepip /usr/lib/python3.[0-9]*/
"""


@pytest.mark.needs("rpm")
@pytest.mark.parametrize(
    "asked",
    [
        "zypper --non-interactive install --no-recommends python3",
        "dnf --assumeyes --setopt=install_weak_deps=False install python3",
    ],
)
def test_zypper_and_dnf_are_asked_where_they_are(namespace_host: harness.Host, asked: str) -> None:
    """For what this distribution's packages are called; then the virtualenv is begun."""
    host = namespace_host
    copied(host)
    manager = host.shared / "manager"
    manager.write_text(MANAGER, encoding="utf-8")
    host.run(["install", "-m", "755", manager, f"/usr/bin/{asked.split()[0]}"])
    host.run(["rm", "/usr/bin/apt-get"])
    env = {"QEMULAB_PYTHON": "", "PIP_NO_INDEX": "1"}
    done = host.run([f"{COPY}/salt-call", "test.ping"], check=False, env=env)
    assert done.stderr.splitlines()[:2] == [
        "qemulab: installing packages: python3",
        f"qemulab: making a virtualenv in {COPY}/.venv",
    ]
    assert host.run(["cat", "/srv/asked"]).stdout.splitlines() == [asked]
