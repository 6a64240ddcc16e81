"""
Which hardware a machine has: a number, chosen when the machine is made and kept beside its disks.

What was installed on them has seen that hardware. So the number stays as long as they do, whatever
release is installed later; a machine that is made gets the newest.
"""

from __future__ import annotations

from collections.abc import Mapping

import _qemulab_host_owned as own
import _qemulab_host_seam as host
import _qemulab_vm_command as command
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site

BEFORE = 1
"""What a machine has that was made before numbers were kept."""


def find(site: Site, name: str) -> int:
    """Return the number of a machine's hardware; of one that is not made yet, the newest."""
    path = site.layout.hardware_file(name)
    text = host.read(path)
    if text is None:
        return BEFORE if own.machine(site.layout, name) else max(command.HARDWARE)
    try:
        return int(text)
    except ValueError as err:
        hint = f"write the number that it had into it, as vm_info said it; the first is {BEFORE}"
        raise HostError(f"{path} is damaged: it holds no number", hint=hint) from err


def find_known(site: Site, name: str) -> int:
    """Return what ``find`` does. Raises HostError where this release cannot build it."""
    number = find(site, name)
    if number not in command.HARDWARE:
        problem = f"a newer qemulab has made {name}: its hardware is number {number}"
        hint = f"this release knows none above {max(command.HARDWARE)}: install the newer one again"
        raise HostError(problem, hint=hint)
    return number


def keep(site: Site, numbers: Mapping[str, int]) -> None:
    """Keep the numbers of some machines' hardware, by name, for good."""
    files = [(site.layout.hardware_file(name), number) for name, number in numbers.items()]
    host.write_all([File(path, f"{number}\n") for path, number in files])


def forget(site: Site, name: str) -> None:
    """Forget the number of a machine of which nothing else is left."""
    path = site.layout.hardware_file(name)
    if own.machine(site.layout, name) == [path]:
        host.remove(path)
