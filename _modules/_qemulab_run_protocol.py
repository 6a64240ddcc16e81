"""
The supervisors a host may have: what they have in common.

systemd where it is PID 1, else a supervisord of the lab's own. Nothing of qemulab stays resident:
they watch and restart the processes, an apply only talks to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from typing import Protocol

from _qemulab_plan_status import Status
from _qemulab_run_units import Unit


class UnitStatus(NamedTuple):
    """How a unit is, in one of the four words of ``_qemulab_plan_status.UNIT``; its PID, or 0."""

    status: Status
    pid: int = 0

    @property
    def alive(self) -> bool:
        """Return whether a process runs."""
        return self.status is Status.RUNNING


STOPPED = UnitStatus(Status.STOPPED)


def last_lines(text: str, count: int) -> str:
    """
    Return the last lines of what a unit has said, each of them once.

    A supervisor tries again what has failed, and the same is said again.
    """
    found: dict[str, None] = {}
    for line in text.splitlines():
        found.pop(line, None)
        found[line] = None
    return "\n".join(list(found)[-count:])


class Supervisor(Protocol):
    """What both supervisors can do."""

    name: str

    def check(self) -> None:
        """Raise HostError where this supervisor cannot be had on this host."""

    def open(self) -> None:
        """Begin to come up, for a lab that is about to have units; does not wait."""

    def end_lost(self) -> None:
        """End a supervisor that nobody can reach any more: it starts again what has ended."""

    def status(self) -> dict[tuple[str, str], UnitStatus]:
        """Return every unit of the lab that the supervisor knows, by kind and name."""

    def start(self, wanted: Sequence[Unit]) -> None:
        """
        Define units and start those that do not run, all at once.

        Raises HostError for the first that could not be started; the others are none the worse.
        """

    def update(self, unit: Unit) -> None:
        """Define a unit anew without starting or stopping it."""

    def mend(self) -> None:
        """Write those files anew that belong to no single unit, and that somebody has been at."""

    def has(self, kind: str, name: str) -> bool:
        """Return whether a unit's definition is there, which its process needs to come back."""

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit and wait for its end; ``hard`` sends SIGKILL at once."""

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote, since this run has started it if it has."""

    def forget(self, kind: str, name: str) -> None:
        """Remove a stopped unit's definition."""

    def remains(self) -> bool:
        """Return whether there is something of it that ``close`` would take away."""

    def close(self) -> None:
        """Remove what the supervisor needed for a lab that has no unit left."""
