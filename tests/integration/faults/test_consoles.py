"""A guest that floods its serial console: the host's disk is none the fuller, the end is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import _qemulab_run_log_cutter as consoles
import harness
import pytest
import writer
from figures import Figures
from labs import Lab
from writer import Console

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "fallocate", "unshare", "nsenter"),
]

DECLARED: dict[str, Any] = {"networks": {}, "vms": {writer.NAME: writer.DECLARED}}
PRINTED = 2**19
"""Bytes that the guest prints: it makes 80 kB a second under TCG."""
EARLIER = "head -c 6M /dev/zero | tr '\\0' h"
"""What stands for the minutes of printing before."""
FLOOD = (
    "echo begun-$((40 + 2)); sleep 2; "
    f"yes $(head -c 900 /dev/zero | tr '\\0' x) | head -c {PRINTED}; echo the-last-$((40 + 2))-line"
)
LOG = f"/var/log/qemulab/lab/consoles/{writer.NAME}.log"


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("consoles")) as host:
        yield Lab(host)


@pytest.fixture(autouse=True)
def ends_whole() -> None:
    """Leave nothing: the test takes its lab away."""


def used(lab: Lab) -> int:
    """Return how much of the disk the log takes."""
    return int(lab.host.run(["stat", "-c", "%b", LOG]).stdout) * 512


def test_a_guest_that_floods_its_console_does_not_fill_the_host(lab: Lab, figures: Figures) -> None:
    """
    Its log stays small while it prints; guest and QEMU live on, and what it said last is there.
    """
    lab.apply(declared=DECLARED)
    pid = lab.pids()[writer.NAME]
    console = Console(lab)
    console.send(FLOOD)
    harness.wait_for(lambda: console.listen(0.1) and "begun-42" in console.said, 30, "the guest")
    console.close()
    lab.host.run(["sh", "-c", f"{EARLIER} >> {LOG}"])
    begin = time.monotonic()
    while "the-last-42-line" not in lab.call("vm_console", writer.NAME):
        assert time.monotonic() < begin + 120
    took = time.monotonic() - begin
    what = f"a guest prints {PRINTED >> 10} KiB on its console"
    figures.seconds(what, took, lab.host.supervisor)
    few = 2 * consoles.KEPT + PRINTED
    harness.wait_for(lambda: used(lab) <= few, 2 * consoles.INTERVAL + 5, "the cut")
    assert "the-last-42-line" in lab.call("vm_console", writer.NAME)
    assert Console(lab).said
    assert lab.pids()[writer.NAME] == pid
    if lab.host.supervisor == "systemd":
        # That it was looked after every few seconds is in nobody's journal.
        journal = ["journalctl", "-q", "-u", consoles.service_name("lab")]
        assert lab.host.run(journal, check=False).stdout == ""
    lab.apply("lab.purge", declared=DECLARED)
    left = lab.leftovers().get("files", set())
    assert not [path for path in left if "consoles" in path or "/log/" in path]
