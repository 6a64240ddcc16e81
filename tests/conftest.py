"""
What every test may use: the checkout, throw-away hosts, and the rules about skips.

A test that cannot run is skipped with the reason; where ``CI=true`` each of those fails the run.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import hypothesis
import hypothesis.configuration
import pytest
from figures import SUPERVISORS
from figures import Collected
from figures import Figures
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

REPO = Path(__file__).resolve().parent.parent

FULL_TIMEOUT = 3600
"""Seconds that a test may take with ``--full``; without, what pyproject.toml says."""

MARKERS = {
    "needs_root": "skipped where the tests do not run as root",
    "needs(*binaries)": "skipped where the host lacks one of these programs",
    "smoke": "the few that --smoke runs",
    "full": "takes long: runs only with --full",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags that choose how much is run, and where its figures go."""
    group = parser.getgroup("qemulab")
    group.addoption("--smoke", action="store_true", help="run the tests marked smoke, nothing else")
    group.addoption("--full", action="store_true", help="run the tests marked full as well")
    group.addoption("--figures", type=Path, help="write what the tests measured to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and the figures, keep hypothesis' examples out of the checkout."""
    config.pluginmanager.register(Collected(config.getoption("--figures")), "qemulab-figures")
    for marker, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    if getattr(config, "cache", None) is not None:
        hypothesis.configuration.set_hypothesis_home_dir(config.cache.mkdir("hypothesis"))
    # How many made-up values each property is held against; a busy machine is no failure.
    for name, examples in (("short", 150), ("full", 10_000)):
        hypothesis.settings.register_profile(name, max_examples=examples, deadline=None)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Leave out what the flags leave out.

    Left out, not skipped: a skip is a test that should have run and could not.
    """
    if config.getoption("--smoke"):
        chosen = [item for item in items if item.get_closest_marker("smoke")]
    elif config.getoption("--full"):
        chosen = list(items)
        for item in items:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT))
    else:
        chosen = [item for item in items if not item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


class ByHost(LoadScopeScheduling):
    """
    What each of several processes gets (``-n 3``): the tests of a file that share a host.

    pytest-xdist's own ``--dist loadgroup`` would have them stay together by a marker, but does not
    with pytest 9.2, which has another idea of a test's name.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return what stays together: a file's tests, by the host that is their first parameter."""
        file, _, test = nodeid.partition("::")
        first = test.partition("[")[2]
        return f"{file} {next((name for name in SUPERVISORS if first.startswith(name)), '')}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByHost:
    """Give pytest-xdist the way in which it shares out the tests."""
    return ByHost(config, log)


def pytest_report_header() -> str:
    """Say what the tests run with: ``--salt`` and ``--python`` choose it."""
    # Not by import: Salt's import hook is one that pytest's own cannot live with.
    return f"Salt {importlib.metadata.version('salt')}, Python {platform.python_version()}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End a run of ``--smoke`` with what a bug report has to say of the machine."""
    if not config.getoption("--smoke"):
        return
    command = [REPO / "salt-call", "--out=yaml", "qemulab.version"]
    done = subprocess.run(
        command, env={**os.environ, **harness.OUR_SALT}, capture_output=True, text=True
    )
    terminalreporter.section("this machine, for a bug report")
    terminalreporter.write_line((done.stdout or done.stderr).strip())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that this host cannot run, and say why."""
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root")
    for marker in item.iter_markers("needs"):
        missing = [name for name in marker.args if shutil.which(name, path=SEARCH_PATH) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}")


# A user's PATH lacks the directories of half the programs that the tests look for.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin:/usr/sbin:/sbin"])


SKIPPED = "qemulab/skipped"
"""Where in pytest's cache the skips of a run stand."""


class NoSkips:
    """Where CI runs: turns a run with a skipped test into a failed one, and lists those tests."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a skipped test; one that is expected to fail, and does, is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that is skipped as a whole."""
        if report.skipped:
            self.note(report)

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Keep what is skipped, and the reason."""
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would have passed, and have ``.ci/run`` know that it was for a skip."""
        if not self.skipped:
            return
        if session.config.cache is not None:
            session.config.cache.set(SKIPPED, self.skipped)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what should have run."""
        if self.skipped:
            terminalreporter.section("skipped, which CI does not allow")
            for line in self.skipped:
                terminalreporter.line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Allow no skips where CI runs."""
    if os.environ.get("CI") == "true":
        session.config.pluginmanager.register(NoSkips(), "no-skips")


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Give the place where a test notes what it measures."""
    return Figures(request.node)


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the checkout's directory."""
    return REPO


@pytest.fixture
def namespace_host(tmp_path: Path) -> Iterator[harness.Host]:
    """Give a throw-away host in namespaces of its own, without systemd and without an uplink."""
    with harness.namespace_host(tmp_path) as host:
        yield host


@pytest.fixture
def systemd_host(tmp_path: Path) -> Iterator[harness.Host]:
    """Give a throw-away host whose PID 1 is systemd."""
    with harness.systemd_host(tmp_path) as host:
        yield host


@pytest.fixture(params=harness.HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[harness.Host]:
    """Give each kind of throw-away host in turn, by the supervisor that runs a lab there."""
    with harness.HOSTS[request.param](tmp_path) as made:
        yield made
