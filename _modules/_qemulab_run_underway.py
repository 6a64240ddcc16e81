"""
What one run has under way: done or said by one of its states for others that come later.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from typing import NamedTuple

from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import Plan


class Early(NamedTuple):
    """
    What was started or made with something else: the plan that its own state reports, and what
    the supervisor complained of.
    """

    plan: Plan
    said: str = ""


class Pressed(NamedTuple):
    """
    A machine whose power button was pressed together with others': the plan that its own state
    reports, the process, and since when that has had its grace (``time.monotonic``).
    """

    plan: Plan
    pid: int
    since: float


class Move(NamedTuple):
    """
    The host's address on a network in this run: when the network's state has been, and as declared.
    Where the two differ, the network waits for the machines that run on it.
    """

    now: str
    declared: str


@dataclass
class Underway:
    """
    It lives as long as its ``Site``, which is one run's: see ``site`` in ``_qemulab_face``. What a
    dry run has said is nothing to a real one: that has a ``Site`` of its own.
    """

    early: dict[tuple[str, str], Early] = field(default_factory=dict)
    """What was started or made with something else, until its own state asks: by kind and name."""
    pressed: dict[str, Pressed] = field(default_factory=dict)
    """Machines that are on their way off, until their own state asks: by name."""
    promised: dict[str, Vm] = field(default_factory=dict)
    """Machines that a dry run has said it would make: their ports are theirs. By name."""
    moves: dict[str, Move] = field(default_factory=dict)
    """Networks whose states have been: their addresses. By name."""
    restarted: set[str] = field(default_factory=set)
    """Machines that a network's change restarts, as declared: nothing of theirs waits. By name."""
    reopening: set[str] = field(default_factory=set)
    """Machines that networks' changes restart, until the last of those networks has changed."""
    leaving: set[str] = field(default_factory=set)
    """Machines that a dry run has said it would stop: what they hold is free by then."""
