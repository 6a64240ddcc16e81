"""
The built-in guest's image, which all labs of a host share: built, and removed.
"""

from __future__ import annotations

import contextlib
import os

import _qemulab_guest_image as image
import _qemulab_host_seam as host
import _qemulab_plan_lab as plan_lab
import _qemulab_vm_status as vm_status
from _qemulab_apply_converge import Outcome
from _qemulab_apply_converge import converge
from _qemulab_host_seam import HostError
from _qemulab_plan_changes import Plan
from _qemulab_run_site import Site


def ensure(site: Site, test: bool = False) -> Outcome:
    """
    Build the image where it is missing.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does.
    """
    target = site.layout.guest

    def look() -> tuple[Plan, None]:
        return plan_lab.plan_guest(image.info(target) is not None), None

    def act(_plan: Plan, _seen: None) -> None:
        image.build(target)

    # A build has the image's lock itself, and takes what another one has just finished.
    return converge(site, contextlib.nullcontext, look, act, test)


def ensure_absent(site: Site, test: bool = False) -> Outcome:
    """
    Remove the image.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does. Raises HostError where a machine runs that boots it, of whichever
    lab: its supervisor could not start it again.
    """
    target = site.layout.guest

    def look() -> tuple[Plan, None]:
        built = os.path.lexists(target)
        users = vm_status.guest_users(site) if built else []
        if users:
            problem = f"the built-in guest is in use by {', '.join(users)}"
            raise HostError(problem, hint="stop them first: salt-call qemulab.vm_stop")
        return plan_lab.plan_guest_absent(built), None

    def act(_plan: Plan, _seen: None) -> None:
        host.remove(target)
        host.remove_empty(site.layout.state)

    def lock() -> contextlib.AbstractContextManager[None]:
        # Where something else has its place, nobody builds one.
        ours = target.is_dir() and not target.is_symlink()
        return image.hold(target) if ours else contextlib.nullcontext()

    return converge(site, lock, look, act, test)
