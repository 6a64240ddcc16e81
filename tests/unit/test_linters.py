"""
The linters find nothing: run as tests, so that there is one command to run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def lint(repo: Path, *argv: str) -> None:
    """Run one of the virtualenv's linters in the checkout; what it finds is the failure."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", *argv],
        cwd=repo,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}"


@pytest.fixture
def mypy_cache(request: pytest.FixtureRequest) -> str:
    """Return a directory for mypy's cache that lasts and is not in the checkout."""
    return str(request.config.cache.mkdir("mypy"))


def test_ruff(repo: Path) -> None:
    """Style, unused names and likely bugs, in everything that is Python."""
    names = ("_modules", "_states", "libexec", "bench", "tests")
    folders = [name for name in names if (repo / name).is_dir()]
    lint(repo, "ruff", "check", "--no-cache", "--quiet", *folders)


def test_mypy_launchers(repo: Path, mypy_cache: str) -> None:
    """So is what runs Salt and pip."""
    files = [str(path) for path in sorted(repo.glob("libexec/*.py"))]
    assert files
    lint(repo, "mypy", "--strict", "--cache-dir", f"{mypy_cache}-libexec", *files)


@pytest.mark.parametrize("folder", ["_modules", "_states"])
def test_mypy_modules(repo: Path, mypy_cache: str, folder: str) -> None:
    """All that Salt loads is typed throughout; a folder at a time: files have the same names."""
    files = [str(path) for path in sorted(repo.glob(f"{folder}/*.py"))]
    assert files
    lint(repo, "mypy", "--strict", "--cache-dir", f"{mypy_cache}-{folder}", *files)
