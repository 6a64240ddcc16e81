"""
The one way in which a plan becomes true: plan under the lock, do that, look again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from typing import TypeVar

import _qemulab_host_seam as host
from _qemulab_host_seam import HostError
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import words
from _qemulab_run_site import Site

Seen = TypeVar("Seen")
Outcome = dict[str, Any]
"""A plan as states report it, see ``outcome``."""


def need_root() -> None:
    """Raise HostError unless this process may change the host."""
    if not host.is_root():
        raise HostError("only root can change a lab", hint="run it with sudo, or by a root minion")


def outcome(site: Site, plan: Plan) -> Outcome:
    """
    Return a plan as states report it.

    That is ``changes``, ``pending`` and ``refused`` (each by key with old, new and effect),
    ``notes``, ``machines`` and ``lab``.
    """
    return {
        "changes": words(plan.changes),
        "pending": words(plan.pending),
        "refused": words(plan.refused),
        "notes": list(plan.notes),
        "machines": list(plan.machines),
        "lab": site.lab,
    }


def converge(
    site: Site,
    lock: Callable[[], AbstractContextManager[None]] | None,
    look: Callable[[], tuple[Plan, Seen]],
    act: Callable[[Plan, Seen], None],
    test: bool,
    shown: Callable[[Plan], Plan] = lambda plan: plan,
) -> Outcome:
    """
    Look, and where something is to be done: lock, plan once, do that, and look again.

    site
        The lab that it is done to.

    lock
        Returns the lock of what is changed. ``None`` for several things: ``act`` has each of them
        changed under its own lock, by a plan of its own, and so nothing is planned twice here.

    look
        Returns the plan for what is now, and the facts that it was made from.

    act
        Carries a plan out.

    test
        Only look, and lock nothing.

    shown
        Returns what is shown of a plan, see ``naming``. Default: all.

    Returns what ``outcome`` does, of the plan that was carried out. Raises HostError where
    something is left after acting.
    """
    # Without the lock: an apply that changes nothing waits for nobody, and writes nothing.
    plan, seen = look()
    if test or not to_do(plan):
        return outcome(site, shown(plan))
    need_root()
    with lock() if lock else contextlib.nullcontext():
        if lock:
            # Whoever had the lock may have done some of it. What is planned now is what is done.
            plan, seen = look()
        if to_do(plan):
            act(plan, seen)
            site.answers.forget()
            left, _ = look()
            if left.changes:
                keys = ", ".join(change.key for change in left.changes)
                raise HostError(f"this did not take effect: {keys}")
    return outcome(site, shown(plan))


def to_do(plan: Plan) -> bool:
    """Return whether a plan is to be carried out: of one that is refused, nothing is."""
    return bool(plan.changes) and not plan.refused
