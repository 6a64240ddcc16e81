"""
``libexec/bootstrap.sh`` and ``packages.sh``: what is said where there is no Python to be had.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SAID = r"""
checkout=$1 lacking=$2 there=$3
. "$checkout/libexec/bootstrap.sh"
find_python() { python_problem=$lacking; return 1; }
package_manager() { [ -n "$there" ] && echo "$there"; }
install_packages() { :; }
ensure_python
"""
BY_HAND = "install it with this distribution's package manager"


@pytest.mark.parametrize(
    ("problem", "manager", "said"),
    [
        ("nothing", "apt-get", "python3 is missing: apt-get install python3 python3-venv"),
        ("no-venv", "apt-get", "python3-venv is missing: apt-get install python3-venv"),
        ("nothing", "zypper", "python3 is missing: zypper install python3"),
        ("nothing", "dnf", "python3 is missing: dnf install python3"),
        ("no-venv", "dnf", "python3-venv is missing: dnf install python3"),
        ("nothing", "", f"python3 is missing: {BY_HAND}"),
    ],
)
def test_python_is_had_by_the_names_of_the_distribution(
    repo: Path, problem: str, manager: str, said: str
) -> None:
    """python3-venv is a package of Debian's alone."""
    words = ["bash", "-uc", SAID, "bash", str(repo), problem, manager]
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (1, f"qemulab: {said}\n")


def test_packages_are_asked_of_the_manager_that_installs_them(repo: Path, tmp_path: Path) -> None:
    """Fedora may have dpkg as well."""
    for name, text in (
        ("rpm", '[ "$4" = bash ]'),
        ("dpkg-query", "echo installed git"),
        ("dnf", ""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    script = (
        '. "$1/libexec/packages.sh"; command() { [ "$2" != apt-get ] && builtin command "$@"; }'
    )
    words = ["bash", "-c", f"{script}; missing_packages bash git", "bash", str(repo)]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.stdout == "git\n"


def test_every_virtualenv_is_filled_by_run_pip(repo: Path) -> None:
    """A user's own settings of pip would stop it: nothing calls pip past ``run_pip.py``."""
    calls = [
        line.strip()
        for path in (repo / "test", repo / "salt-call", *(repo / "libexec").glob("*.sh"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bpip3? install|-m pip\b|run_pip\.py", line) and line.lstrip()[0] != "#"
    ]
    assert calls and all("libexec/run_pip.py" in line for line in calls), calls
