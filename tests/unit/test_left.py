"""What of a lab runs, whatever is left of its files: by the command lines of real processes."""

from __future__ import annotations

import getpass
import subprocess
import sys
from pathlib import Path

import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import _qemulab_vm_orphans as left
import pytest
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site

VM = spec.vm_from("a", {"nics": []}, "lab", {})
SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_machine_that_nobody_reaches_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known by its name and UUID; another lab's is another's, and who has ended is nobody."""
    monkeypatch.setattr(host, "USER", getpass.getuser())
    site = Site("lab", str(tmp_path))
    words = ["-name", "guest=a", "-uuid", spec.vm_uuid("lab", "a")]
    with subprocess.Popen([*SLEEPS, *words]) as sleeper:
        try:
            site.store.keep_vm("a", VM, None)
            left.need_reach(site, "a")
            site.store.keep_vm("a", VM, VM)
            with pytest.raises(HostError, match=rf"a runs \(process {sleeper.pid}\)"):
                left.need_reach(site, "a")
            other = Site("other", str(tmp_path))
            other.store.keep_vm("a", VM, VM)
            left.need_reach(other, "a")
        finally:
            sleeper.kill()
    left.need_reach(site, "a")
