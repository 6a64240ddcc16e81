"""
Each form that qemulab is handed on in: built from a clean clone, installed, and a lab made with it.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from pathlib import Path

import harness
import packages
import pytest
from packages import Minion

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter", "git"),
]

STATES = "/usr/share/salt-formulas/states"
EXAMPLE = "/usr/share/salt-formulas/metadata/lab/pillar.example"
APPARMOR = "/etc/apparmor.d/abstractions/qemulab-dnsmasq"
FAULTS = re.compile("warn|deprecat|error", re.IGNORECASE)
"""What no build may say."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone of the checkout as it is; all packages are built in this one."""
    return packages.clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    """Build the source distribution, and from it a wheel, as ``python -m build`` does."""
    said = packages.run([packages.PYTHON, "-m", "build", "--no-isolation", "."], tree)
    assert not FAULTS.findall(said), said
    assert left_in(tree) == ""
    (built,) = tree.glob("dist/*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tree: Path, sdist: Path) -> Path:
    """Build the wheel by pip: it is the one that came out of the source distribution."""
    (first,) = tree.glob("dist/*.whl")
    before = contents(first)
    first.unlink()
    built, said = packages.wheel(tree)
    assert not FAULTS.findall(said), said
    assert left_in(tree) == ""
    assert contents(built) == before
    return built


def left_in(tree: Path) -> str:
    """Return what a build left in a clone that git neither has nor ignores."""
    return packages.git(tree, "status", "--porcelain")


def contents(built: Path) -> dict[str, bytes]:
    """Return a wheel's files."""
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def relative(folder: Path, *patterns: str) -> set[str]:
    """Return the names of the files in a folder that match."""
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return {os.fspath(path.relative_to(folder)) for path in found if path.is_file()}


def test_a_wheel_holds_modules_states_and_sls_files(wheel: Path, tree: Path) -> None:
    """Under the version of the one place, and nothing else but what pip wants to know."""
    assert wheel.name == f"qemulab-{packages.version()}-py3-none-any.whl"
    files = {name for name in contents(wheel) if ".dist-info/" not in name}
    expected = {f"qemulab/modules/{name}" for name in relative(tree / "_modules", "*.py")}
    expected |= {f"qemulab/states/{name}" for name in relative(tree / "_states", "*.py")}
    expected |= {f"qemulab/salt/lab/{name}" for name in relative(tree / "salt/lab", "*")}
    assert files == expected | {"qemulab/pillar.example"}


def test_a_source_distribution_is_the_checkout(sdist: Path, tree: Path, tmp_path: Path) -> None:
    """
    All that git tracks but CI's own, dot files and links; its unit tests pass, in a path that has a
    space, a quote and what shells take for more.
    """
    name = f"qemulab-{packages.version()}"
    assert sdist.name == f"{name}.tar.gz"
    with tarfile.open(sdist) as archive:
        files = {member.name.removeprefix(f"{name}/") for member in archive if member.isfile()}
    place = tmp_path / "a b's $HOME"
    place.mkdir()
    packages.run(["tar", "-xf", sdist], place)
    tracked = packages.git(tree, "ls-files").splitlines()
    kept = {name for name in tracked if name[0] != "." and not (tree / name).is_symlink()}
    made = {name for name in files if name.startswith("qemulab.egg-info/")} | {"PKG-INFO"}
    assert files - made == kept
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"]
    # The linters have seen these very files.
    unit = [packages.PYTHON, *words, "--ignore=tests/unit/test_linters.py"]
    packages.run(unit, place / name)


def test_a_wheel_beside_salt(namespace_host: harness.Host, wheel: Path) -> None:
    """Its modules find each other, and the path that it prints is all that a minion is told."""
    minion = Minion(namespace_host)
    minion.install(wheel)
    root = minion.call("qemulab.file_root")
    assert root == f"{packages.SITE}/qemulab/salt"
    minion.configure({"file_roots": {"base": [root]}})
    minion.lives()


def test_a_formula_by_spm(namespace_host: harness.Host, tree: Path) -> None:
    """Built and installed by Salt's own tool, served by the minion, its modules synced."""
    host = namespace_host
    spm = [packages.PYTHON, harness.REPO / ".venv/bin/spm"]
    host.run(["mkdir", "-p", "/srv/spm/salt", "/srv/spm/pillar", "/srv/formula"])
    packages.run(["git", "archive", "-o", host.shared / "f.tar", "HEAD"], tree)
    host.run(["tar", "-xf", host.shared / "f.tar", "-C", "/srv/formula"])
    said = host.run([*spm, "build", "/srv/formula"], cwd="/srv/formula").stdout
    built = f"/srv/spm_build/lab-{packages.version()}-1.spm"
    assert built in said
    host.run([*spm, "-y", "local", "install", built])
    found = host.run(["find", "/srv/spm", "-type", "f", "-printf", "%P\n"]).stdout.splitlines()
    modules = relative(tree, "_modules/*.py", "_states/*.py")
    sls = {f"lab/{name}" for name in relative(tree / "salt/lab", "*")} | {"lab/README.md"}
    assert set(found) == {f"salt/{name}" for name in modules | sls} | {"pillar/lab.sls.orig"}

    minion = Minion(host)
    minion.configure({"file_client": "local", "file_roots": {"base": ["/srv/spm/salt"]}})
    minion.call("saltutil.sync_all")
    done = minion.call("qemulab.file_root", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "only the modules were synced, to /var/cache/salt/minion/extmods" in done.stderr
    assert "vm_running a" in minion.apply("lab", "test=True")


def brings_apparmors_lines(host: harness.Host) -> None:
    """Look whether a package has put the lines for AppArmor where a profile includes them."""
    lines = (harness.REPO / "conf/apparmor/qemulab-dnsmasq").read_text(encoding="utf-8")
    assert host.run(["cat", APPARMOR]).stdout == lines


def compile_beside(host: harness.Host) -> None:
    """Leave in an installed formula what a minion does that finds the modules by module_dirs."""
    host.run(["test", "-s", EXAMPLE])
    host.run([packages.PYTHON, "-m", "compileall", "-q", STATES])


@pytest.mark.needs("rpmbuild", "rpm")
def test_an_rpm(namespace_host: harness.Host, sdist: Path, tmp_path: Path) -> None:
    """Built from the source distribution by the spec file in it; gone without a trace."""
    host = namespace_host
    packages.run(["rpmbuild", "-ta", f"-D_topdir {tmp_path}", sdist], tmp_path)
    (built,) = tmp_path.glob("RPMS/noarch/*.rpm")
    assert built.name == f"qemulab-formula-{packages.version()}-0.noarch.rpm"
    # Debian's rpm knows nothing of Debian's packages.
    host.run(["rpm", "--install", "--nodeps", "--force-debian", built])
    minion = Minion(host)
    minion.configure({"file_roots": {"base": [STATES]}, "module_dirs": [STATES]})
    assert minion.call("qemulab.file_root") == STATES
    assert "vm_running a" in minion.apply("lab", "test=True")
    brings_apparmors_lines(host)
    compile_beside(host)
    host.run(["rpm", "--erase", "qemulab-formula"])
    for gone in ("/usr/share/salt-formulas", APPARMOR):
        assert host.run(["test", "-e", gone], check=False).returncode != 0


@pytest.mark.needs("dpkg-buildpackage", "dh")
def test_a_debian_package(namespace_host: harness.Host, tree: Path) -> None:
    """Source and binary; installed, set up as its README.Debian says, and gone without a trace."""
    host = namespace_host
    # Without build-essential, which nothing here needs; dpkg-architecture then misses a compiler.
    said = packages.run(["dpkg-buildpackage", "-us", "-uc", "-d"], tree)
    assert not FAULTS.findall(re.sub("dpkg-architecture: .*", "", said)), said
    assert left_in(tree) == ""
    name = f"qemulab_{packages.version()}"
    built = tree.parent / f"{name}_all.deb"
    with tarfile.open(tree.parent / f"{name}.tar.xz") as archive:
        folders = {Path(member.name).parts[1] for member in archive if "/" in member.name}
    assert {"debian", "_modules", "setup.cfg"} <= folders
    assert not folders & {".git", ".venv", "dist", "build", "qemulab.egg-info"}

    (host.shared / built.name).write_bytes(built.read_bytes())
    host.run(["dpkg", "--install", host.shared / built.name])
    minion = Minion(host)
    readme = host.run(["cat", "/usr/share/doc/qemulab/README.Debian"]).stdout
    minion.configure(readme.split("qemulab.conf:\n")[1].split("\nCopy ")[0])
    assert minion.call("qemulab.file_root") == STATES
    minion.lives()
    brings_apparmors_lines(host)
    compile_beside(host)
    host.run(["dpkg", "--purge", "qemulab"])
    for gone in ("/usr/share/salt-formulas", APPARMOR):
        assert host.run(["test", "-e", gone], check=False).returncode != 0


def test_an_upgrade_touches_no_lab(host: harness.Host, wheel: Path) -> None:
    """From the commit before this one, with a lab that runs: no changes, the same processes."""
    old = packages.previous(host.shared / "previous")
    minion = Minion(host)
    minion.salt_pip(packages.wheel(old)[0])
    minion.configure({"file_roots": {"base": [f"{old}/salt"]}})
    assert "vm_running a" in minion.apply("lab")
    pids = minion.whole_lab()

    minion.salt_pip(wheel)
    minion.configure({"file_roots": {"base": [f"{packages.EXTRAS}/qemulab/salt"]}})
    assert minion.apply("lab", "test=True") == {}
    assert minion.apply("lab") == {}
    assert minion.pids() == pids
