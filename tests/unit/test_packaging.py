"""What packages are made by agrees with the code: one version, the same files and names."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

import _qemulab_host_distribution as distribution
import _qemulab_host_sls_files as tree
import pytest
import yaml
from _qemulab_version import VERSION

ESSENTIAL = {"mount", "util-linux"}
"""On every Debian host: lintian does not want them named."""


def read(repo: Path, name: str) -> str:
    """Return a file's text."""
    return (repo / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("FORMULA", "^version: (.*)$"),
        ("packaging/qemulab-formula.spec", "^Version: +(.*)$"),
        ("debian/changelog", r"\Aqemulab \((.*)\) "),
    ],
)
def test_every_package_has_the_one_version(repo: Path, name: str, pattern: str) -> None:
    """These cannot ask for it: it is set in them at a release (CONTRIBUTING.md)."""
    assert re.findall(pattern, read(repo, name), re.MULTILINE) == [VERSION]


def test_the_wheel_asks_for_the_version(repo: Path) -> None:
    """Nothing has to be set for it."""
    config = configparser.ConfigParser()
    config.read_string(read(repo, "setup.cfg"))
    assert config["metadata"]["version"] == "attr: _modules._qemulab_version.VERSION"


def test_the_formula_names_files_that_are_there(repo: Path) -> None:
    """And its folder has the name that its states are applied by."""
    formula = yaml.safe_load(read(repo, "FORMULA"))
    assert formula["name"] == formula["top_level_dir"] == "lab"
    files = [name for name in formula["files"] if name != "lab/"]
    assert len(files) < len(formula["files"])
    assert all((repo / name).exists() for name in files)
    # A source distribution has no links.
    assert not (repo / "lab").exists() or os.readlink(repo / "lab") == "salt/lab"


def test_debians_package_suggests_what_a_lab_needs(repo: Path) -> None:
    """But for what is only unpacked aside."""
    needed = {package.name for package in distribution.TABLE["debian"].values()}
    suggested = re.findall(r"^Suggests:\n((?: .*\n)+)", read(repo, "debian/control"), re.MULTILINE)
    assert set(re.findall("[a-z0-9-]+", suggested[0])) == needed - ESSENTIAL


def test_the_sls_files_are_found_beside_the_modules(repo: Path, tmp_path: Path) -> None:
    """In a checkout, in a formula that is installed; not where only modules were synced."""
    assert tree.file_root(repo / "_modules") == repo / "salt"
    (tmp_path / "lab").mkdir()
    assert tree.file_root(tmp_path / "_modules") is None
    (tmp_path / "lab/init.sls").touch()
    assert tree.file_root(tmp_path / "_modules") == tmp_path


def test_packages_that_may_write_to_etc_bring_the_lines_for_apparmor(repo: Path) -> None:
    """The source distribution has them, for the RPM; SPM and the wheel put nothing into /etc."""
    lines = "conf/apparmor/qemulab-dnsmasq"
    assert "graft conf" in read(repo, "MANIFEST.in").splitlines()
    assert f"{lines} etc/apparmor.d/abstractions" in read(repo, "debian/qemulab.install")
    spec = read(repo, "packaging/qemulab-formula.spec")
    assert f"{lines} %{{buildroot}}%{{_sysconfdir}}/apparmor.d/abstractions" in spec
    for without in ("FORMULA", "setup.cfg"):
        assert "apparmor" not in read(repo, without)
    page = read(repo, "docs/packages.md").partition("## AppArmor")[2]
    assert "A wheel and SPM cannot bring the file" in page
