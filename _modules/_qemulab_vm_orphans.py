"""
What of a lab's machines runs, whatever is left of their files: by its supervisor, and by the
command lines of the host's processes.
"""

from __future__ import annotations

import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site


def machines(site: Site) -> dict[str, int]:
    """
    Return the machines of a lab that run, each with its PID: those that its supervisor has, and
    those whose QEMU has the machine's name and the UUID that this lab gives to it.
    """
    found = site.running(("vm",))
    for pid, argv in process.command_lines(host.USER).items():
        name = _machine(site, argv)
        if name is not None:
            found[name] = pid
    return found


def _machine(site: Site, argv: list[str]) -> str | None:
    """Return which machine of a lab a command line is; ``None`` where it is none."""
    words = dict(zip(argv, argv[1:], strict=False))
    name = words.get("-name", "").removeprefix("guest=").replace(",,", ",")
    return name if words.get("-uuid") == spec.vm_uuid(site.lab, name) else None


def need_reach(site: Site, name: str) -> None:
    """
    Raise HostError where a machine that is about to be started runs, and nobody reaches it: its
    supervisor has lost it, and its sockets are gone.

    One that has disks could not get them twice; one without would run twice.
    """
    # Looked for only where nobody has seen it end: that is a look at every process of the host.
    if site.store.vm(name)[1] is None:
        return
    pid = site.answers.recent("machines that run", lambda: machines(site)).get(name)
    if pid and not site.status("vm", name, fresh=True).alive and process.exists(pid):
        raise HostError(says_alone(name, pid), hint="end that process yourself, and apply again")


def says_alone(name: str, pid: int) -> str:
    """Return in words that a machine runs that neither supervisor nor socket leads to."""
    return f"{name} runs (process {pid}), and nobody reaches it: its sockets are gone"
