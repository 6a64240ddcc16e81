"""
What of a user's pip settings fills our virtualenv, and what would keep it from being filled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import run_pip
from hypothesis import given
from hypothesis import strategies as st

#: Each of them alone keeps `pip install` in a virtualenv from doing what it is to do.
HARMFUL = {
    "user": "true",
    "target": "/nowhere/target",
    "prefix": "/nowhere/prefix",
    "root": "/nowhere/root",
    "python": "/nowhere/python",
    "no-binary": ":all:",
    "only-binary": ":none:",
    "platform": "win32",
    "python-version": "2.7",
    "require-hashes": "true",
    "require-virtualenv": "true",
    "dry-run": "true",
    "no-deps": "true",
    "no-index-of-ours": "x",
    "requirement": "/nowhere/requirements.txt",
    "editable": "/nowhere/project",
    "isolated": "true",
    "global": "true",
    "site": "true",
    "log": "/nowhere/log",
}

NAME = "qemulab-test-tiny"
"""A package that no index has."""

NAMES = st.sampled_from(sorted(HARMFUL) + sorted(run_pip.KEPT))
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_only_what_reaches_the_index_counts(
    configured: dict[str, str], given_: dict[str, str]
) -> None:
    """Of files and of the environment, which has the last word."""
    lines = [f"global.{name}={value!r}" for name, value in configured.items()]
    variables = {run_pip.variable(name): value for name, value in given_.items()}
    found = run_pip.environment({"HOME": "/root", **variables}, lines)
    for name in HARMFUL:
        assert run_pip.variable(name) not in found
    for name in run_pip.KEPT - {"retries"}:
        wanted = given_.get(name, configured.get(name))
        assert found.get(run_pip.variable(name)) == wanted
    assert found["HOME"] == "/root"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("install.index-url='https://a'", "https://a"),
        ("global.index-url='https://b'", "https://b"),
        ("download.index-url='https://c'", None),
    ],
)
def test_sections_of_a_configuration(line: str, wanted: str | None) -> None:
    """Of all commands, and of `pip install`, which counts before."""
    assert run_pip.configured([line]).get("index-url") == wanted
    both = ["install.index-url='https://a'", "global.index-url='https://b'"]
    assert run_pip.configured(both)["index-url"] == "https://a"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a virtualenv, and return its Python."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-I", "-m", "venv", folder], check=True)
    return folder / "bin/python"


def wheel(folder: Path) -> None:
    """Write the smallest package there is."""
    info = "qemulab_test_tiny-1.dist-info/"
    with zipfile.ZipFile(folder / "qemulab_test_tiny-1-py3-none-any.whl", "w") as archive:
        archive.writestr("qemulab_test_tiny.py", "")
        archive.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")


@pytest.mark.parametrize("by", ["file", "environment"])
def test_pip_fills_a_virtualenv_whatever_a_user_has_told_it(
    python: Path, tmp_path: Path, by: str
) -> None:
    """The real pip, in a real virtualenv: user, target, prefix and the others are passed over."""
    wheel(tmp_path)
    told = {"no-index": "true", "find-links": str(tmp_path), **HARMFUL}
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in told.items()))
    variables = {run_pip.variable(key): value for key, value in told.items()}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    env = {**clean, **({"PIP_CONFIG_FILE": str(settings)} if by == "file" else variables)}
    install = ["install", "--quiet", "--force-reinstall", NAME]
    program = [python, "-I", Path(run_pip.__file__), *install]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run([python, "-I", "-c", "import qemulab_test_tiny"], check=True)
